//! Steps of a task: each is a command, shown with its time; all are run, and the failed ones listed.

use std::env;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::root;

static PLAIN: AtomicBool = AtomicBool::new(false);

/// From now on commands show no colours and no progress.
pub(crate) fn be_plain() {
    PLAIN.store(true, Ordering::Relaxed);
}

/// What has been done so far, and what of it failed.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    failed: Vec<String>,
}

impl Steps {
    /// Takes a step, and goes on whatever becomes of it.
    pub(crate) fn take(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        println!("\n== {name}");
        let begun = Instant::now();
        let outcome = step();
        let seconds = begun.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => println!("== {name}: ok, {seconds:.1} s"),
            Err(error) => {
                println!("== {name}: FAILED, {seconds:.1} s: {error:#}");
                self.failed.push(format!("{name}: {error:#}"));
            }
        }
    }

    /// Takes a step that is a command.
    pub(crate) fn command(&mut self, name: &str, command: &mut Command) {
        self.take(name, || succeed(command));
    }

    /// Says that a step is left out, and why.
    pub(crate) fn leave_out(&mut self, name: &str, why: &str) {
        println!("\n== {name}: left out: {why}");
    }

    /// Whether every step so far was taken well.
    pub(crate) fn all_well(&self) -> bool {
        self.failed.is_empty()
    }

    /// Lists what failed; an error if anything did.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.all_well() {
            return Ok(());
        }
        println!("\nFailed:");
        for failed in &self.failed {
            println!("  {failed}");
        }
        bail!("{} of the steps failed", self.failed.len())
    }
}

/// A cargo command on the repository, by the cargo that runs this.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let binary = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = equipoise_lab::cargo::cargo(binary);
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    if PLAIN.load(Ordering::Relaxed) {
        command.env("CARGO_TERM_COLOR", "never").env("CARGO_TERM_PROGRESS_WHEN", "never");
    }
    command
}

/// Runs a command to its end; an error when it fails.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let shown = show(command);
    println!("$ {shown}");
    let status = command.status().with_context(|| format!("`{shown}` cannot be run"))?;
    ensure!(status.success(), "`{shown}`: {status}");
    Ok(())
}

/// A command as a person would write it.
pub(crate) fn show(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let program = program.file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
