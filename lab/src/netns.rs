//! A network namespace that vanishes with this process.
//!
//! It has no name under `/run/netns`: only an open file of this process holds it, so it goes even
//! after `kill -9`, and with it its links, addresses and attached programs. Threads and commands
//! enter the network namespace alone; mounts stay, so `/sys/fs/bpf` is the same inside.
//! `/sys/class/net` therefore shows the host's devices everywhere: ask `ip` or `/proc/thread-self`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Once};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::program::fed;

/// A network namespace held by an open file; clones are the same namespace.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<OwnedFd>,
}

impl Netns {
    /// A new, empty namespace with `lo` up and IPv6 addresses usable at once.
    pub fn new() -> Result<Self> {
        raise_file_limit();
        let made = on_thread(|| {
            // SAFETY: unshare takes flags alone; only this short-lived thread changes namespace.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            File::open("/proc/thread-self/ns/net")
        });
        let file = made.context("a network namespace cannot be made (root is needed)")?;
        let netns = Self { file: Arc::new(file.into()) };
        for (key, value) in SYSCTLS {
            netns.sysctl(key, value)?;
        }
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The namespace that this thread is in.
    pub fn current() -> Result<Self> {
        let file = File::open("/proc/thread-self/ns/net").context("/proc/thread-self/ns/net")?;
        Ok(Self { file: Arc::new(file.into()) })
    }

    /// Runs a closure in the namespace, on a thread of its own.
    ///
    /// Sockets made and threads started there stay in the namespace. A panic goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_thread(|| {
            enter(&self.file).expect("a namespace that is held open can be entered");
            work()
        })
    }

    /// A command that will run in the namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let file = Arc::clone(&self.file);
        let mut command = Command::new(program);
        // SAFETY: between fork and exec the closure makes one system call and no allocation.
        unsafe { command.pre_exec(move || enter(&file)) };
        command
    }

    /// Where the namespace can be opened while this process lives, as by `nsenter --net=PATH`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// Runs `ip` commands, one a line, written without the word `ip`; the first that fails ends it.
    pub fn ip(&self, script: &str) -> Result<()> {
        let mut ip = Command::new("ip");
        let output = self.run(|| fed(ip.args(["-batch", "-"]), &format!("{script}\n")));
        let output = output.context("`ip` cannot be run (package iproute2)")?;
        if !output.status.success() {
            bail!("`ip` failed: {}\n{script}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Runs a command in the namespace to its end and gives its output; an error when it fails.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        let output = self.output_of(command.args(arguments));
        let output = output.with_context(|| format!("`{program}` cannot be run"))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("`{program} {}` failed: {}", arguments.join(" "), stderr.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command in the namespace to its end, without input; its output.
    ///
    /// By a thread that is there: to have the child go there itself, as that of [`Netns::command`] does, takes a fork, which copies the page
    /// tables of a test with hundreds of megabytes. The thread waits for it, too: a SIGCHLD for one that is just starting another child, with all
    /// signals blocked, would interrupt what a third one waits for.
    pub fn output_of(&self, command: &mut Command) -> io::Result<Output> {
        self.run(|| command.stdin(Stdio::null()).output())
    }

    /// Sets a value under `/proc/sys`, its key written as a path (`net/ipv4/ip_forward`).
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{key}");
        self.run(|| fs::write(&path, value)).with_context(|| format!("{path} = {value}"))
    }

    /// Reads a value under `/proc/sys`.
    pub fn read_sysctl(&self, key: &str) -> Result<String> {
        let path = format!("/proc/sys/{key}");
        let text = self.run(|| fs::read_to_string(&path)).with_context(|| path.clone())?;
        Ok(text.trim().to_owned())
    }
}

/// What every namespace starts with; devices made later inherit the `default` ones.
const SYSCTLS: [(&str, &str); 9] = [
    // No duplicate address detection: addresses are usable as soon as they are set.
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    // At 1 timestamps start at random per peer, and a port used again within TIME_WAIT is refused.
    ("net/ipv4/tcp_timestamps", "2"),
    ("net/ipv4/tcp_tw_reuse", "1"),
    ("net/ipv4/ip_local_port_range", "10000 65000"),
];

/// Puts the calling thread into the namespace.
fn enter(file: &OwnedFd) -> io::Result<()> {
    // SAFETY: setns takes a descriptor, which the borrow keeps open, and a flag.
    if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Runs a closure on a thread of its own, whose namespace is nobody else's.
fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let joined = thread::scope(|scope| scope.spawn(work).join());
    joined.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Lets this process open as many files as it ever may: hundreds of connections have two ends here.
fn raise_file_limit() {
    static RAISED: Once = Once::new();
    RAISED.call_once(|| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the structure is ours and of the type that the call fills.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
            return;
        }
        limit.rlim_cur = limit.rlim_max;
        // A refusal shows later, as an error of whoever runs out of files.
        // SAFETY: the structure is ours and only read.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    });
}
