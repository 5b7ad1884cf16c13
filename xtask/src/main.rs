//! Building, checking, testing and showing Equipoise: `cargo xtask`.
//!
//! Each task is a file. What a task needs of the machine is in [`install`]: on Debian as root it is
//! installed, elsewhere it is said exactly and the task stops.

mod bench;
mod book;
mod check;
mod demo;
mod dist;
#[path = "../../crates/equipoise/build/ebpf.rs"]
mod ebpf;
mod install;
mod kernels;
mod leak;
mod step;
mod suite;
mod targets;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::{Parser, Subcommand};

use crate::install::Need;
use crate::step::Steps;
use crate::suite::{Kernel, Size, Suite};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "Building, checking, testing and showing Equipoise")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Clone, Subcommand)]
enum Task {
    /// Balance real connections between namespaces on this machine, and show how they are shared out
    Demo {
        /// How long, such as 10s; until Ctrl-C unless given
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
        time: Option<Duration>,
    },
    /// Check and build, run every test, and look for what was left behind
    Test {
        /// Without colours, progress or exceptions
        #[arg(long, conflicts_with = "no_kernel")]
        ci: bool,
        /// Be content with the tests that need neither root nor the running kernel
        #[arg(long)]
        no_kernel: bool,
    },
    /// Run the same tests with full numbers, on a release build
    Soak,
    /// Run chosen kernel tests on Debian's other kernels, in an emulated machine
    TestKernels {
        /// One alone
        #[arg(long, value_enum)]
        kernel: Option<kernels::Version>,
    },
    /// Look for faults without running anything: format, lints, docs, dependencies, licences
    Check,
    /// Build the documents as a book, and follow every link in it
    Book,
    /// Build the kernel programs, and say with what
    Ebpf,
    /// Make the archive and the Debian package of a release
    Dist {
        /// Install, upgrade, remove and purge it where nothing is left of that
        #[arg(long)]
        check: bool,
    },
    /// Measure
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
}

#[derive(Clone, Subcommand)]
enum Bench {
    /// What a packet costs in the kernel programs, and the flow tables in user space; writes docs/benchmarks.md
    Programs(bench::Wanted),
}

fn main() -> ExitCode {
    let task = Arguments::parse().task;
    match carry_out(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(task: Task) -> Result<()> {
    match task {
        Task::Demo { time } => demo::run(time),
        Task::Test { ci, no_kernel } => {
            let kernel = if no_kernel { Kernel::LeftOut } else { Kernel::Wanted };
            if ci {
                step::be_plain();
            }
            suite::run(Suite { kernel, size: Size::Small })
        }
        Task::Soak => suite::run(Suite { kernel: Kernel::Wanted, size: Size::Full }),
        Task::TestKernels { kernel } => kernels::run(kernel),
        Task::Check => {
            install::ensure(&[Need::Toolchain, Need::Lints, Need::Book])?;
            let mut steps = Steps::default();
            check::run(&mut steps, Kernel::Wanted);
            steps.finish()
        }
        Task::Book => {
            install::ensure(&[Need::Book])?;
            let pages = book::build()?;
            println!("{}", pages.join("index.html").display());
            Ok(())
        }
        Task::Ebpf => {
            let mut objects = ebpf::Object::PRODUCT.iter();
            objects.try_for_each(|object| build_kernel_programs(object).map(drop))
        }
        Task::Dist { check: false } => dist::run(),
        Task::Dist { check: true } => dist::check(),
        Task::Bench { what: Bench::Programs(wanted) } => bench::programs(&wanted),
    }
}

/// Builds kernel programs, and gives the object's place.
fn build_kernel_programs(object: &ebpf::Object) -> Result<PathBuf> {
    install::ensure(&[Need::Toolchain])?;
    let toolchain = ebpf::find().map_err(|missing| anyhow!(missing))?;
    println!("toolchain: {}", toolchain.description);
    let place = ebpf::build(root(), &toolchain, object).map_err(|error| anyhow!(error))?;
    println!("object:    {}", place.display());
    Ok(place)
}

/// Where the repository is.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask is a directory of the repository")
}

/// Where cargo builds the workspace.
fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every task that a document names is there, with its flags.
    #[test]
    fn tasks_in_documents_are_there() {
        let mut named = 0;
        let docs = std::fs::read_dir(root().join("docs")).unwrap();
        let docs = docs.map(|entry| entry.unwrap().path());
        let top = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"].map(|name| root().join(name));
        for path in docs.chain(top).filter(|path| path.extension().is_some_and(|e| e == "md")) {
            let text = std::fs::read_to_string(&path).unwrap();
            for after in text.split("cargo xtask ").skip(1) {
                let line = after.lines().next().unwrap_or_default();
                // Of two values one will do.
                let line = line.replace("\\|6.12", "");
                let command = line.split(['`', '#', ',', ';', '|']).next().unwrap_or_default();
                let command = command.replace(['[', ']'], "");
                // Words that stand for a value.
                let value = |word| if word == "N" { "1" } else { word };
                let words: Vec<_> = command.split_whitespace().map(value).collect();
                if let Err(error) = Arguments::try_parse_from(["xtask"].iter().chain(&words)) {
                    assert!(!error.use_stderr(), "{}: cargo xtask {line}\n{error}", path.display());
                }
                named += 1;
            }
        }
        assert!(named > 10, "{named}");
    }
}
