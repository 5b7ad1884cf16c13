//! The kernel tests on other kernels: Debian's kernel packages, booted in an emulated machine.
//!
//! The emulated machine has no disk and no network: programs, libraries and kernel modules are in its
//! initramfs, and what the tests say is read off its serial port. Emulation is slow, so tests are chosen.

mod boot;
mod guest;
pub(crate) mod package;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::check::KERNEL_TESTS;
use crate::install::{self, Need};
use crate::step::{Steps, cargo, show};
use crate::suite::Count;

/// A kernel that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Version {
    /// The oldest that is supported.
    #[value(name = "6.1")]
    Oldest,
    /// The long-term kernel after it that has other ways to attach.
    #[value(name = "6.12")]
    Newer,
}

/// What is run: a test binary, with arguments that choose among its tests.
#[derive(Clone, Copy, Debug)]
struct Chosen {
    binary: &'static str,
    arguments: &'static [&'static str],
}

// Verification takes a minute or more there, and nearly every test loads all programs: few are run.
const CHOSEN: [Chosen; 3] = [
    Chosen { binary: "kernel_verifier", arguments: &["every_program_is_loaded", "--nocapture"] },
    Chosen {
        binary: "kernel_packets",
        arguments: &["a_client_port_used_through_two_vips_is_two_names_at_the_backend"],
    },
    Chosen { binary: "kernel_traffic", arguments: &["interfaces::"] },
];

/// How long one kernel may take from its start to its end.
const LIMIT: Duration = Duration::from_secs(2400);

/// Runs the chosen tests on one kernel, or on all.
pub(crate) fn run(version: Option<Version>) -> Result<()> {
    install::ensure(&[Need::Toolchain, Need::Emulator, Need::Bench])?;
    let programs = build()?;
    let mut steps = Steps::default();
    let mut count = Count::default();
    let asked = version.as_ref().map_or(Version::value_variants(), std::slice::from_ref);
    for version in asked {
        let name = format!("tests on {}", version.package());
        steps.take(&name, || test(*version, &programs, &mut count));
    }
    let outcome = steps.finish();
    println!("\n{} passed, {} failed", count.passed, count.failed);
    outcome
}

fn test(version: Version, programs: &[Program], count: &mut Count) -> Result<()> {
    let kernel = package::unpack(version.package())?;
    let initramfs = guest::pack(&kernel, programs, &CHOSEN)?;
    let before = count.all();
    let mut missing: Vec<&str> = CHOSEN.iter().map(|chosen| chosen.binary).collect();
    boot::run(&kernel.image, &initramfs, LIMIT, |line| {
        println!("{line}");
        count.read(line);
        if let Some(name) = line.strip_prefix(guest::WELL) {
            missing.retain(|binary| *binary != name);
        }
    })?;
    ensure!(missing.is_empty(), "failed, or not run to the end: {}", missing.join(", "));
    ensure!(count.all() != before, "no test was run");
    Ok(())
}

/// A program of ours that goes into the machine: at its place here, where tests look for it, or as a test.
#[derive(Clone, Debug)]
struct Program {
    name: String,
    place: PathBuf,
}

/// Builds `equipoise` and the test binaries, and gives their places.
fn build() -> Result<Vec<Program>> {
    // The same packages and features as all tests, so that it is built once.
    let mut command = cargo(&["test", "--locked", "--no-run", "--workspace"]);
    command.args(["--features", KERNEL_TESTS, "--message-format=json-render-diagnostics"]);
    command.args(CHOSEN.iter().flat_map(|chosen| ["--test", chosen.binary]));
    let shown = show(&command);
    println!("$ {shown}");
    let output = command.stderr(Stdio::inherit()).output().context("cargo cannot be run")?;
    ensure!(output.status.success(), "`{shown}`: {}", output.status);
    let messages = String::from_utf8(output.stdout).context("what cargo says")?;
    let programs: Vec<Program> = messages.lines().filter_map(built).collect();
    for name in CHOSEN.iter().map(|chosen| chosen.binary).chain(["equipoise"]) {
        if !programs.iter().any(|program| program.name == name) {
            bail!("`{shown}` built no {name}");
        }
    }
    Ok(programs)
}

/// The program that a message of cargo tells of.
fn built(message: &str) -> Option<Program> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let name = message["target"]["name"].as_str()?.to_owned();
    Some(Program { name, place: message["executable"].as_str()?.into() })
}

impl Version {
    /// The package that stands for the newest build of this kernel on Debian 12.
    fn package(self) -> &'static str {
        match self {
            Self::Oldest => "linux-image-cloud-amd64",
            Self::Newer => "linux-image-6.12-cloud-amd64",
        }
    }
}
