//! What tasks need of the machine, and how it is come by.
//!
//! On Debian as root it is installed, by apt and cargo alone. Elsewhere the whole list is said, with
//! the commands, and the task stops.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::step::{cargo, succeed};
use crate::{ebpf, tools};

/// Something that tasks need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A compiler and a linker for the kernel programs.
    Toolchain,
    /// What `check` asks beyond a Rust toolchain.
    Lints,
    /// What makes a book of the documents.
    Book,
    /// What makes and shapes namespaces.
    Bench,
    /// What boots other kernels.
    Emulator,
    /// What makes the Debian package, and tries it.
    Package,
}

/// Packages of Debian with a compiler for the kernel target, and the LLVM that bpf-linker is built on.
const COMPILER: [&str; 6] = [
    "rustc-web",
    "libstd-rust-web-dev-bpf",
    "llvm-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
];
/// The lints of that same compiler.
const CLIPPY: &str = "rust-web-clippy";
const BENCH: [&str; 10] = [
    "iproute2",
    "ethtool",
    "nftables",
    "curl",
    "util-linux",
    "traceroute",
    "procps",
    "keepalived",
    "tmux",
    "tshark",
];
/// The programs of these packages, for where there is no dpkg to be asked.
const BENCH_PROGRAMS: [&str; 10] = [
    "ip",
    "ethtool",
    "nft",
    "curl",
    "nsenter",
    "traceroute",
    "sysctl",
    "keepalived",
    "tmux",
    "tshark",
];
/// What makes environments for Python's packages; it has no program of its own.
const ENVIRONMENTS: &str = "python3-venv";
const EMULATOR: [&str; 5] = ["qemu-system-x86", "busybox-static", "cpio", "xz-utils", "binutils"];
/// The programs of these packages.
const EMULATOR_PROGRAMS: [&str; 5] = ["qemu-system-x86_64", "busybox", "cpio", "xz", "strip"];

const PACKAGE: [&str; 4] = ["dpkg-dev", "adduser", "systemd", "util-linux"];
/// The programs of these packages.
const PACKAGE_PROGRAMS: [&str; 4] = ["dpkg-shlibdeps", "adduser", "systemd-analyze", "setpriv"];

/// A program that cargo installs.
struct Tool {
    program: &'static str,
    /// What `--version` must contain.
    version: &'static str,
    arguments: &'static [&'static str],
    variables: &'static [(&'static str, &'static str)],
}

const LINKER: Tool = Tool {
    program: "bpf-linker",
    version: "0.13.",
    arguments: &["bpf-linker@0.13.0", "--no-default-features", "--features", "llvm-22"],
    variables: &[("LLVM_PREFIX", "/usr/lib/llvm-22")],
};
const MACHETE: Tool = Tool {
    program: "cargo-machete",
    version: "0.9.",
    arguments: &["cargo-machete@0.9.2"],
    variables: &[],
};
const DENY: Tool = Tool {
    program: "cargo-deny",
    version: "0.20.",
    arguments: &["cargo-deny@0.20.2"],
    variables: &[],
};

/// Without its server, and not optimized: it is built for longer than it ever runs.
const MDBOOK: Tool = Tool {
    program: "mdbook",
    version: "v0.5.",
    arguments: &["mdbook@0.5.4", "--no-default-features", "--debug"],
    variables: &[],
};

/// Sees to it that all needs are met, or says exactly what is missing.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing = Missing::of(needs);
    if missing.is_empty() {
        return Ok(());
    }
    if !is_debian() || !is_root() {
        bail!(
            "something is missing on this machine; install it, and try again:\n{}",
            missing.advice()
        );
    }
    missing.install()
}

/// Whether this process may do everything.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, changes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Whether a program is found where the shell looks.
pub(crate) fn has_program(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    // Root's programs are not in everybody's path.
    let more = ["/usr/sbin", "/sbin"].map(Into::into);
    env::split_paths(&path).chain(more).any(|directory| directory.join(program).is_file())
}

/// The packages whose program is not there.
fn absent(
    packages: &'static [&'static str],
    programs: &'static [&'static str],
) -> impl Iterator<Item = &'static str> {
    let pairs = packages.iter().zip(programs);
    pairs.filter(|(_, program)| !has_program(program)).map(|(package, _)| *package)
}

struct Missing {
    packages: Vec<&'static str>,
    tools: Vec<&'static Tool>,
    /// Whether it is a compiler that is missing: there is more than one way to come by it.
    toolchain: Option<String>,
}

impl Missing {
    fn of(needs: &[Need]) -> Self {
        let mut missing = Self { packages: Vec::new(), tools: Vec::new(), toolchain: None };
        let toolchain = ebpf::find();
        for need in needs {
            match need {
                Need::Toolchain => {
                    let Err(reason) = &toolchain else { continue };
                    missing.toolchain = Some(reason.clone());
                    missing
                        .packages
                        .extend(COMPILER.iter().filter(|package| !has_package(package)));
                    missing.tools.extend([&LINKER].into_iter().filter(|tool| !has_tool(tool)));
                }
                Need::Lints => {
                    // Elsewhere the lints come with the nightly toolchain.
                    let debian = match &toolchain {
                        Ok(found) => found.kind == ebpf::Kind::Debian,
                        Err(_) => needs.contains(&Need::Toolchain) && is_debian(),
                    };
                    if debian && !Path::new(crate::check::DEBIAN_CLIPPY).is_file() {
                        missing.packages.push(CLIPPY);
                    }
                    missing
                        .tools
                        .extend([&MACHETE, &DENY].into_iter().filter(|tool| !has_tool(tool)));
                }
                Need::Book => {
                    missing.tools.extend([&MDBOOK].into_iter().filter(|tool| !has_tool(tool)));
                }
                Need::Bench => {
                    missing.packages.extend(absent(&BENCH, &BENCH_PROGRAMS));
                    if !tools::has_environments() {
                        missing.packages.push(ENVIRONMENTS);
                    }
                }
                Need::Emulator => missing.packages.extend(absent(&EMULATOR, &EMULATOR_PROGRAMS)),
                Need::Package => missing.packages.extend(absent(&PACKAGE, &PACKAGE_PROGRAMS)),
            }
        }
        missing
    }

    fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.tools.is_empty() && self.toolchain.is_none()
    }

    fn install(&self) -> Result<()> {
        if !self.packages.is_empty() {
            succeed(apt().arg("update"))?;
            let options = ["install", "--yes", "--no-install-recommends", "--no-remove"];
            succeed(apt().args(options).args(&self.packages))?;
        }
        for tool in &self.tools {
            succeed(&mut tool.install())?;
        }
        if self.toolchain.is_some()
            && let Err(reason) = ebpf::find()
        {
            bail!("all is installed, and still {reason}");
        }
        Ok(())
    }

    fn advice(&self) -> String {
        let mut lines = Vec::new();
        if let Some(reason) = &self.toolchain {
            lines.push(format!("  ({reason})"));
        }
        if !self.packages.is_empty() && is_debian() {
            let packages = self.packages.join(" ");
            lines.push(format!("  apt-get install --no-install-recommends {packages}"));
        }
        if self.toolchain.is_some() && !is_debian() {
            lines.push(
                "  rustup toolchain install nightly --component rust-src --component clippy"
                    .to_owned(),
            );
            lines.push(
                "  bpf-linker 0.13, of your distribution or from its releases, in the search path"
                    .to_owned(),
            );
        }
        let plain = |package: &&&str| {
            [&BENCH[..], &EMULATOR, &PACKAGE, &[ENVIRONMENTS]]
                .iter()
                .any(|list| list.contains(*package))
        };
        let others = self.packages.iter().filter(plain);
        if !is_debian() {
            lines.extend(others.map(|package| format!("  {package}, from your distribution")));
        }
        for tool in &self.tools {
            if tool.program == LINKER.program && !is_debian() {
                continue;
            }
            let variables = tool.variables.iter().map(|(name, value)| format!("{name}={value} "));
            let variables: String = variables.collect();
            lines.push(format!("  {variables}cargo install --locked {}", tool.arguments.join(" ")));
        }
        lines.join("\n")
    }
}

impl Tool {
    fn install(&self) -> Command {
        let mut command = cargo(&["install", "--locked"]);
        command.args(self.arguments).envs(self.variables.iter().copied());
        command
    }
}

fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && has_program("apt-get")
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("--quiet").env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command
}

fn has_package(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    let output = query.args(["--show", "--showformat=${db:Status-Status}", package]).output();
    output.is_ok_and(|output| output.stdout == b"installed")
}

fn has_tool(tool: &Tool) -> bool {
    // As a subcommand of cargo it is also found where cargo installs, outside the search path.
    let mut question = match tool.program.strip_prefix("cargo-") {
        Some(subcommand) => cargo(&[subcommand]),
        None => Command::new(tool.program),
    };
    let output = question.arg("--version").stderr(Stdio::null()).output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(tool.version))
}
