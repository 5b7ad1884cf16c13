//! The whole suite: what is missing is installed, then check, build, the tests that need nothing, the
//! kernel tiers, a quick bench, the demo, and a look for anything left behind.
//!
//! Ends with a line `N passed, N failed` over all test binaries. A kernel tier that cannot be run is
//! a failure, unless it was left out on purpose.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::bench;
use crate::check::{self, KERNEL_TESTS};
use crate::install::{self, Need};
use crate::leak::Traces;
use crate::step::{Steps, cargo, show};
use crate::targets::Targets;
use crate::{demo, dist, tools};

/// How long the demo runs as a test.
const DEMO: Duration = Duration::from_secs(5);

/// Whether the tests that need root and the running kernel are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// They are, and fail where they cannot be.
    Wanted,
    /// They are not.
    LeftOut,
}

/// How much the tests do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// What is fit for every change.
    Small,
    /// Full numbers, on a release build.
    Full,
}

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suite {
    pub(crate) kernel: Kernel,
    pub(crate) size: Size,
}

/// Runs it; an error unless all is well.
pub(crate) fn run(suite: Suite) -> Result<()> {
    match suite.kernel {
        Kernel::Wanted => {
            install::ensure(&[Need::Toolchain, Need::Lints, Need::Book, Need::Bench])?;
        }
        Kernel::LeftOut => install::ensure(&[Need::Lints, Need::Book])?,
    }
    let mut steps = Steps::default();
    let mut count = Count::default();
    check::run(&mut steps, suite.kernel);
    steps.command(
        "build",
        &mut cargo(&["build", "--release", "--locked", "--package", "equipoise"]),
    );
    let mut targets = Targets::default();
    steps.take("the tests there are", || Targets::read().map(|found| targets = found));
    let plain = suite.plain_tests(&targets.plain);
    steps.take("tests that need nothing", || count.add(plain));
    let examples = suite.test(&["--doc"]);
    steps.take("tests of what the docs say", || count.add(examples));
    match (suite.kernel, install::is_root()) {
        (Kernel::Wanted, true) => {
            run_kernel_tiers(suite, &targets.kernel, &mut steps, &mut count);
        }
        (Kernel::Wanted, false) => steps.take("kernel tiers", || {
            bail!("not run: they need root (`--no-kernel` is content without them)")
        }),
        (Kernel::LeftOut, _) => steps.leave_out("kernel tiers", "asked to be"),
    }
    let outcome = steps.finish();
    for name in &count.alone {
        println!("\n{name} failed beside others, and has passed by itself");
    }
    println!("\n{} passed, {} failed", count.passed, count.failed);
    outcome
}

/// Real namespaces and real programs: nothing of it may be left on the machine afterwards.
fn run_kernel_tiers(suite: Suite, names: &[String], steps: &mut Steps, count: &mut Count) {
    let before = match Traces::take() {
        Ok(before) => before,
        Err(error) => return steps.take("traces before the kernel tiers", || Err(error)),
    };
    for name in names {
        steps.take(&format!("kernel tests: {name}"), || suite.add_kernel_test(name, count));
    }
    steps.take("bench of programs, quickly", || bench::programs(&bench::Wanted::QUICK));
    steps.take("demo", || demo::run(Some(DEMO)));
    steps.take("the package, installed and taken away again", dist::check);
    steps.take("nothing is left behind", || before.compare());
}

impl Suite {
    /// Always of the whole workspace with the same features, so that all is built once.
    fn test(self, selection: &[&str]) -> Command {
        let mut command = cargo(&["test", "--locked", "--no-fail-fast", "--workspace"]);
        command.args(["--features", KERNEL_TESTS]).args(selection);
        match self.size {
            Size::Small => &mut command,
            Size::Full => command.arg("--release").env("EQUIPOISE_SOAK", "1"),
        };
        command
    }

    /// All of what needs nothing, but for the examples in docs, which Cargo runs alone.
    fn plain_tests(self, names: &[String]) -> Command {
        let mut command = self.test(&["--lib", "--bins", "--examples"]);
        for name in names {
            command.args(["--test", name]);
        }
        command
    }

    /// These of the kernel tests in a file, alone; or all, beside each other where they may be.
    fn kernel_test(self, name: &str, these: &[String]) -> Command {
        let threads = if these.is_empty() { threads(name) } else { 1 };
        let threads = format!("--test-threads={threads}");
        let mut command = self.test(&["--test", name, "--", &threads]);
        if !these.is_empty() {
            command.arg("--exact").args(these);
        }
        command.envs(tools::variables());
        command
    }

    fn add_kernel_test(self, name: &str, count: &mut Count) -> Result<()> {
        if self.size == Size::Full || threads(name) == 1 {
            return count.add(self.kernel_test(name, &[]));
        }
        count.add_beside_others(|these| self.kernel_test(name, these))
    }
}

/// So many tests that fail beside others are run again: more are no matter of chance.
const AGAIN: usize = 5;

/// Tests with traffic wait most of their time, in namespaces of their own; others have the kernel verify programs most of theirs. The
/// rest measures, or counts what is there once for the whole machine.
fn threads(kernel_test: &str) -> u32 {
    match kernel_test {
        "kernel_traffic" => 3,
        "kernel_flows" | "kernel_packets" | "kernel_doctor" | "kernel_listen" | "kernel_decap" => 2,
        _ => 1,
    }
}

/// Tests so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// The names of those that have failed in the last run.
    names: Vec<String>,
    /// Of those that have passed by themselves alone.
    alone: Vec<String>,
}

impl Count {
    /// Tests that were run.
    pub(crate) fn all(&self) -> u64 {
        self.passed + self.failed
    }

    /// Runs `cargo test`, shows its output, and counts what it says.
    fn add(&mut self, mut command: Command) -> Result<()> {
        let shown = show(&command);
        println!("$ {shown}");
        let mut child = command.stdout(Stdio::piped()).spawn().context("cargo cannot be run")?;
        let stdout = child.stdout.take().expect("stdout was asked for");
        let (before, failed) = (self.all(), self.failed);
        self.names.clear();
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("reading what the tests say")?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            self.read(&line);
        }
        let status = child.wait()?;
        if !status.success() && self.failed == failed {
            // It did not build, or died before it could say which test failed.
            self.failed += 1;
        }
        ensure!(status.success(), "`{shown}`: {status}");
        ensure!(self.all() != before, "`{shown}` ran no test");
        Ok(())
    }

    /// As [`Count::add`], of tests that share few CPUs with others: what one waits for may come late by that alone. A few that fail so
    /// are run again by themselves, and that decides.
    fn add_beside_others(&mut self, of: impl Fn(&[String]) -> Command) -> Result<()> {
        let failed = self.failed;
        let beside = self.add(of(&[]));
        let these = std::mem::take(&mut self.names);
        let are_told = self.failed - failed == these.len() as u64;
        if beside.is_ok() || these.is_empty() || !are_told || these.len() > AGAIN {
            return beside;
        }
        self.failed = failed;
        self.add(of(&these))?;
        self.alone.extend(these);
        Ok(())
    }

    /// Takes in a line such as `test result: ok. 5 passed; 0 failed; 1 ignored; ...`, or `test some::name ... FAILED`.
    pub(crate) fn read(&mut self, line: &str) {
        let name = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED"));
        self.names.extend(name.map(str::to_owned));
        // Tests that print without a newline stand before it.
        let Some((_, result)) = line.split_once("test result: ") else { return };
        let number = |what: &str| {
            let part = result.split([';', '.']).find_map(|part| part.trim().strip_suffix(what))?;
            part.trim().parse::<u64>().ok()
        };
        self.passed += number("passed").unwrap_or(0);
        self.failed += number("failed").unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed_and_others_are_not() {
        let mut count = Count::default();
        for line in [
            "running 3 tests",
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.11s",
            "test some_name ... ok",
            "test another::name ... FAILED",
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.11s",
            "12 passed, 0 failed",
        ] {
            count.read(line);
        }
        let names = vec!["another::name".to_owned()];
        assert_eq!(count, Count { passed: 7, failed: 3, names, ..Count::default() });
    }

    #[test]
    fn a_run_that_fails_without_a_result_counts_as_one_failure() {
        let mut count = Count::default();
        assert!(count.add(Command::new("false")).is_err());
        assert_eq!(count, Count { failed: 1, ..Count::default() });
    }

    fn say(words: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", words]);
        command
    }

    #[test]
    fn what_fails_beside_others_is_decided_by_itself() {
        let beside = "echo 'test a ... FAILED\ntest result: FAILED. 3 passed; 1 failed;'; exit 1";
        for (again, passed, failed) in [
            ("echo 'test result: ok. 1 passed; 0 failed;'", 4, 0),
            ("echo 'test result: FAILED. 0 passed; 1 failed;'; exit 1", 3, 1),
        ] {
            let mut count = Count::default();
            let outcome = count.add_beside_others(|these| match these {
                [] => say(beside),
                [one] if one == "a" => say(again),
                _ => panic!("{these:?}"),
            });
            assert_eq!(outcome.is_ok(), failed == 0);
            assert_eq!(
                (count.passed, count.failed, count.alone.len()),
                (passed, failed, 1 - failed as usize)
            );
        }
        // Some of them are not told, or there are too many.
        for (told, failed) in [(1, 2), (AGAIN + 1, AGAIN + 1)] {
            let names = "echo 'test a ... FAILED';".repeat(told);
            let words =
                format!("{names} echo 'test result: FAILED. 0 passed; {failed} failed;'; exit 1");
            let mut count = Count::default();
            let outcome = count.add_beside_others(|these| {
                assert!(these.is_empty());
                say(&words)
            });
            assert!(outcome.is_err());
            assert_eq!(count.failed, failed as u64);
        }
    }

    #[test]
    fn a_run_without_any_test_is_an_error() {
        assert!(Count::default().add(Command::new("true")).is_err());
    }
}
