//! Looking for faults without running anything.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Result, anyhow};

use crate::ebpf::{self, Kind, Toolchain};
use crate::root;
use crate::step::{Steps, cargo, succeed};
use crate::suite::Kernel;

/// Debian's clippy, which knows the compiler that builds the kernel programs there.
pub(crate) const DEBIAN_CLIPPY: &str = "/usr/bin/clippy-driver";

/// The tests of the kernel tiers are looked at like all others.
pub(crate) const KERNEL_TESTS: &str = "equipoise/kernel-tests,equipoise-lab/kernel-tests";

const EBPF_MANIFEST: &str = "crates/equipoise-ebpf/Cargo.toml";
const ARM: &str = "aarch64-unknown-linux-gnu";

/// Takes all steps; without kernel programs only where they are left out.
pub(crate) fn run(steps: &mut Steps, kernel: Kernel) {
    steps.command("format", &mut cargo(&["fmt", "--all", "--check"]));
    steps.command(
        "format of the kernel programs",
        &mut cargo(&["fmt", "--manifest-path", EBPF_MANIFEST, "--check"]),
    );
    steps.command("lints", &mut clippy());
    match (ebpf::find(), kernel) {
        (Ok(toolchain), _) => {
            steps.take("lints of the kernel programs", || lint_kernel_programs(&toolchain));
        }
        (Err(missing), Kernel::LeftOut) => {
            steps.leave_out("lints of the kernel programs", &missing);
        }
        (Err(missing), Kernel::Wanted) => {
            steps.take("lints of the kernel programs", || Err(anyhow!(missing)));
        }
    }
    steps.command(
        "docs",
        cargo(&["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings"),
    );
    steps.take("the book", || crate::book::build().map(drop));
    // Under `cargo run` it takes its own name for a folder, unless it is called directly.
    let mut machete = Command::new("cargo-machete");
    steps.command("unused dependencies", machete.arg("--skip-target-dir").current_dir(root()));
    // Not its advisories: they need a database from the network.
    let what = ["check", "bans", "licenses", "sources"];
    let deny = ["deny", "--locked", "--config", "deny.toml"];
    steps.command("dependencies and licences", cargo(&deny).args(what));
    steps.command(
        "dependencies and licences of the kernel programs",
        cargo(&deny).args(["--manifest-path", EBPF_MANIFEST]).args(what),
    );
    if has_target(ARM) {
        let arguments = ["check", "--workspace", "--all-targets", "--locked", "--target", ARM];
        steps.command("types on aarch64", cargo(&arguments).args(["--features", KERNEL_TESTS]));
    } else {
        steps.leave_out("types on aarch64", &format!("the target {ARM} is not installed"));
    }
}

fn clippy() -> Command {
    let mut command = cargo(&["clippy", "--workspace", "--all-targets", "--locked"]);
    command.args(["--features", KERNEL_TESTS, "--", "-D", "warnings"]);
    command
}

/// On their real target, by the clippy of the compiler that builds them.
fn lint_kernel_programs(toolchain: &Toolchain) -> Result<()> {
    let target_directory = root().join("target/ebpf-check");
    let mut command = match toolchain.kind {
        Kind::Debian => {
            // What `cargo clippy` does, which Debian ships apart from its driver.
            let mut command = toolchain.cargo(root(), "check");
            command.env("RUSTC_WORKSPACE_WRAPPER", DEBIAN_CLIPPY);
            command.env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
            command.arg("--target-dir").arg(target_directory);
            command
        }
        Kind::Nightly => {
            let mut command = toolchain.cargo(root(), "clippy");
            command.arg("--target-dir").arg(target_directory).args(["--", "-D", "warnings"]);
            command
        }
    };
    // The settings lie at the top of the repository, above this crate's own workspace.
    succeed(command.env("CLIPPY_CONF_DIR", root()))
}

fn has_target(target: &str) -> bool {
    let mut question = Command::new("rustc");
    question.args(["--print", "target-libdir", "--target", target]).current_dir(root());
    let Ok(output) = question.stdin(Stdio::null()).output() else { return false };
    let directory = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    output.status.success() && directory.is_dir()
}
