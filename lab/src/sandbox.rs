//! This machine's system as a root of its own: what is written there goes to memory, and nobody else sees it.
//!
//! An overlay over `/` in namespaces of mounts, processes and network, with its own `/run`, `/sys` and BPF file system. It goes with its
//! first process, and that goes with this one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::{Daemon, Netns};
use anyhow::{Context, Result, ensure};

/// What makes it, before its first process only waits.
const SCRIPT: &str = r#"
set -eu
mount -t tmpfs -o mode=0755 sandbox "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
mount -t tmpfs -o mode=0755 run run
exec chroot . sh -c 'echo made; exec sleep infinity'
"#;

const PATIENCE: Duration = Duration::from_secs(20);

/// A root that is made, and its first process.
#[derive(Debug)]
pub struct Sandbox {
    first: Daemon,
    folder: PathBuf,
}

impl Sandbox {
    /// Makes it, in a network namespace.
    pub fn make(netns: &Netns) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("equipoise-sandbox-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let mut command = netns.command("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", SCRIPT, "sh"]);
        command.arg(&folder);
        let started = Daemon::start(command);
        let mut sandbox = match started {
            Ok(first) => Self { first, folder },
            Err(error) => {
                fs::remove_dir(&folder)?;
                return Err(error);
            }
        };
        sandbox.first.wait_for_log("made", PATIENCE)?;
        Ok(sandbox)
    }

    /// Its first process, as it is known out here: the only child of the one that has made it.
    fn pid(&self) -> Result<String> {
        let maker = self.first.pid();
        let children = fs::read_to_string(format!("/proc/{maker}/task/{maker}/children"))?;
        let child = children.split_whitespace().next();
        child.map(str::to_owned).context("the sandbox has ended")
    }

    /// A path of it, from out here.
    pub fn path(&self, path: &str) -> Result<PathBuf> {
        Ok(Path::new("/proc").join(self.pid()?).join("root").join(path.trim_start_matches('/')))
    }

    /// A command in it, which is still to be named by its arguments.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid()?, "--mount", "--pid", "--net", "--root", "--wd"]);
        command.arg("--").stdin(Stdio::null()).env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs([("HOME", "/root"), ("LC_ALL", "C"), ("DEBIAN_FRONTEND", "noninteractive")]);
        Ok(command)
    }

    /// Runs a script of the shell in it; what it says, or an error when it fails.
    pub fn run(&self, script: &str) -> Result<String> {
        let mut command = self.command()?;
        command.args(["sh", "-euc", script]);
        let output = command.output().context("`nsenter` cannot be run (package util-linux)")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{script}`: {}\n{said}", output.status);
        Ok(said)
    }

    /// What has been written in it below `/`, and is there, by a pattern of names: a path a line.
    pub fn written(&self, pattern: &str) -> Result<String> {
        let maker = Path::new("/proc").join(self.first.pid().to_string()).join("root");
        let upper = self.folder.join("upper");
        let upper = maker.join(upper.strip_prefix("/").unwrap_or(&upper));
        // A device stands for what is no longer there of the machine's own.
        let mut find = Command::new("find");
        find.arg(".").args(["-iname", pattern, "-not", "-type", "c"]).current_dir(upper);
        let output = find.output().context("`find` cannot be run")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Its mounts are of a namespace that goes with it; only the empty folder is left.
        if let Err(error) = fs::remove_dir(&self.folder) {
            eprintln!("{}: {error}", self.folder.display());
        }
    }
}
