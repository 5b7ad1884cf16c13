//! What is released: an archive and a Debian package, both of one release build.
//!
//! Manual pages and completions are what the binary itself says; units, scripts and the first configuration are in `packaging/`.
//! The package is made by dpkg's own tools ([`package`]), which every Debian has. [`check`] installs, upgrades, removes and
//! purges it where nothing else sees that.

mod licences;
mod package;
mod trial;
mod unit;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::install::{self, Need};
use crate::step::{cargo, show, succeed};
use crate::{root, target_directory};

/// The package's own version, after that of the program.
const REVISION: &str = "1";

/// Shells, and what their completions are called where they are looked for.
const SHELLS: [(&str, &str); 3] =
    [("bash", "equipoise"), ("zsh", "_equipoise"), ("fish", "equipoise.fish")];

/// What goes into the archive as it is, and where to.
const AS_THEY_ARE: [(&str, &str); 13] = [
    ("LICENSE", "."),
    ("LICENSE-APACHE", "."),
    ("LICENSE-MIT", "."),
    ("README.md", "."),
    ("ARCHITECTURE.md", "."),
    ("CHANGELOG.md", "."),
    ("CONTRIBUTING.md", "."),
    ("docs", "."),
    ("examples", "."),
    ("packaging/systemd", "."),
    ("packaging/prepare", "lib"),
    ("packaging/grafana", "packaging"),
    ("packaging/prometheus", "packaging"),
];

/// Builds both, and says where they are.
pub(crate) fn run() -> Result<()> {
    install::ensure(&[Need::Toolchain, Need::Package])?;
    make()?;
    let directory = directory();
    let archive = archive()?;
    let package = package::make(REVISION)?;
    let mut sums = Command::new("sha256sum");
    sums.args([&archive, &package].map(|path| path.file_name().unwrap_or_default()));
    let sums = said(sums.current_dir(&directory))?;
    fs::write(directory.join("SHA256SUMS"), &sums)?;
    println!("\n{}:\n{sums}", directory.display());
    Ok(())
}

/// Builds both and tries them, in a root of its own with packets of its own.
pub(crate) fn check() -> Result<()> {
    install::ensure(&[Need::Toolchain, Need::Package, Need::Bench])?;
    make()?;
    trial::archive(&archive()?)?;
    let [old, new] = ["1~trial1", "1~trial2"].map(package::make);
    trial::package(&old?, &new?)
}

/// Where it all goes.
fn directory() -> PathBuf {
    target_directory().join("dist")
}

/// What is made for both.
fn made() -> PathBuf {
    directory().join("made")
}

/// The binary, and what it says of itself.
fn make() -> Result<()> {
    succeed(&mut cargo(&["build", "--release", "--locked", "--package", "equipoise"]))?;
    let made = made();
    let _ = fs::remove_dir_all(&made);
    fs::create_dir_all(made.join("completions"))?;
    let mut man = Command::new(binary());
    succeed(man.args(["man", "--dir"]).arg(made.join("man")))?;
    for (shell, name) in SHELLS {
        let mut command = Command::new(binary());
        let folder = made.join("completions").join(shell);
        fs::create_dir(&folder)?;
        fs::write(folder.join(name), said(command.args(["completions", shell]))?)?;
    }
    fs::write(made.join("THIRD-PARTY-LICENSES"), licences::gather()?)?;
    Ok(())
}

fn binary() -> PathBuf {
    target_directory().join("release/equipoise")
}

/// The archive: one folder, the same bytes for the same commit and build.
fn archive() -> Result<PathBuf> {
    let target = said(Command::new("rustc").args(["--print", "host-tuple"]).current_dir(root()))?;
    let name = format!("equipoise-{}-{}", env!("CARGO_PKG_VERSION"), target.trim());
    let folder = directory().join(&name);
    let _ = fs::remove_dir_all(&folder);
    for inside in ["", "etc", "lib", "packaging", "sbin"] {
        fs::create_dir_all(folder.join(inside))?;
    }
    let copy = |from: &Path, to: PathBuf| {
        succeed(Command::new("cp").args(["--recursive", "--preserve=mode"]).arg(from).arg(to))
    };
    for (from, to) in AS_THEY_ARE {
        copy(&root().join(from), folder.join(to))?;
    }
    copy(&binary(), folder.join("sbin"))?;
    copy(&root().join("packaging/etc/equipoise.toml"), folder.join("etc"))?;
    for from in ["man", "completions", "THIRD-PARTY-LICENSES"] {
        copy(&made().join(from), folder.join("."))?;
    }
    let archive = directory().join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args(["--create", "--gzip", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    tar.arg(format!("--mtime=@{}", commit_time()));
    tar.arg("--file").arg(&archive).arg("--directory").arg(directory()).arg(&name);
    // The time of packing is not to be in it.
    succeed(tar.env("GZIP", "-n"))?;
    fs::remove_dir_all(&folder)?;
    Ok(archive)
}

/// Seconds since 1970 of what is checked out; outside a repository, of nothing.
fn commit_time() -> u64 {
    let mut git = Command::new("git");
    let time = said(git.args(["log", "-1", "--format=%ct"]).current_dir(root()));
    time.ok().and_then(|time| time.trim().parse().ok()).unwrap_or(0)
}

/// What a command says; an error when it fails.
fn said(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("`{shown}` cannot be run"))?;
    ensure!(output.status.success(), "`{shown}`: {}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("what `{shown}` says"))
}
