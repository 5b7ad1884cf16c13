//! Programs of others that tests run, had without being installed: below the target directory.
//!
//! Gives each by the variable of the environment that tests look for it in. What cannot be had is said, and then the test that needs it
//! fails and says what it misses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::step::succeed;
use crate::{kernels, root, target_directory};

/// The programs that are not in the search path, each with the variable that leads to it.
pub(crate) fn variables() -> Vec<(&'static str, PathBuf)> {
    let all = [
        ("promtool", "EQUIPOISE_PROMTOOL", promtool as fn() -> Result<PathBuf>),
        ("schemathesis", "EQUIPOISE_SCHEMATHESIS", schemathesis),
    ];
    let mut found = Vec::new();
    for (program, variable, fetch) in all {
        if Command::new(program).arg("--version").output().is_ok() {
            continue;
        }
        match fetch() {
            Ok(path) => found.push((variable, path)),
            Err(error) => println!("{program}: {error:#}"),
        }
    }
    found
}

/// Whether Python can make an environment for packages.
pub(crate) fn has_environments() -> bool {
    let output = python().args(["-c", "import ensurepip, venv"]).output();
    output.is_ok_and(|output| output.status.success())
}

/// What checks metrics and alerts, out of Debian's package, which is not installed: it would start a server.
fn promtool() -> Result<PathBuf> {
    let directory = target_directory().join("tools").join("prometheus");
    let contents = kernels::package::contents("prometheus", &directory)?;
    Ok(contents.join("usr/bin/promtool"))
}

/// What holds an API against its description, out of Python's packages, in an environment of its own.
fn schemathesis() -> Result<PathBuf> {
    let directory = target_directory().join("tools").join("schemathesis");
    let wanted = fs::read(root().join(REQUIREMENTS))?;
    // Written last, so that what is there is whole and of these versions.
    let installed = directory.join("installed.txt");
    let program = directory.join("bin").join("schemathesis");
    if fs::read(&installed).is_ok_and(|there| there == wanted) {
        return Ok(program);
    }
    succeed(python().args(["-m", "venv", "--clear"]).arg(&directory))?;
    let mut install = Command::new(directory.join("bin").join("python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    succeed(install.arg("--requirement").arg(root().join(REQUIREMENTS)))?;
    fs::write(installed, wanted)?;
    Ok(program)
}

/// All versions, those of what it needs itself too.
const REQUIREMENTS: &str = "xtask/schemathesis.txt";

/// That of the system, whose package for environments is installed, and not one that stands before it in the search path.
fn python() -> Command {
    let system = Path::new("/usr/bin/python3");
    Command::new(if system.is_file() { system } else { Path::new("python3") })
}
