//! Files that are to be run, written by a process of their own.
//!
//! What this process has open, a child that another thread starts meanwhile has open too, until it is another program. A file that
//! somebody has open for writing cannot be run (`ETXTBSY` of execve(2)): tests that run beside others would fail now and then.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Copies a program; folders that are missing are made.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    finished(install().arg(from).arg(to).output(), to)
}

/// Writes a script that can be run; folders that are missing are made.
pub fn script(path: &Path, text: &str) -> Result<()> {
    finished(fed(install().arg("/dev/stdin").arg(path), text), path)
}

/// Runs a command to its end with this on its standard input; its end, and what it says of errors.
pub(crate) fn fed(command: &mut Command, text: &str) -> io::Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().expect("stdin was asked for");
    let written = stdin.write_all(text.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    // A command that fails closes its input early; its own message says more than EPIPE.
    if output.status.success() {
        written?;
    }
    Ok(output)
}

fn install() -> Command {
    let mut install = Command::new("install");
    install.args(["-D", "--mode=755"]);
    install
}

fn finished(output: io::Result<Output>, path: &Path) -> Result<()> {
    let output = output.context("`install` cannot be run (package coreutils)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} cannot be written: {}", path.display(), said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_run() {
        let folder = std::env::temp_dir().join(format!("equipoise-program-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.join(name));
        script(&one, "#!/bin/sh\necho \"$0\"\n").unwrap();
        copy(&one, &other).unwrap();
        for path in [&one, &other] {
            let said = Command::new(path).output().unwrap().stdout;
            assert_eq!(String::from_utf8(said).unwrap().trim(), path.to_str().unwrap());
        }
        assert!(copy(&folder.join("none"), &other).is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
