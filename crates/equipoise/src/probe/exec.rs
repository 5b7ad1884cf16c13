//! The check of type `exec`: a command of this host, and the code that it ends with.
//!
//! It is told what it is about by `EQUIPOISE_ADDRESS` and `EQUIPOISE_PORT`, and is in a process group of its own, which ends
//! when its time is out: what a shell waits for does not outlive the check.

use std::net::SocketAddr;
use std::process::Stdio;

use equipoise_core::config::health::Exec;
use equipoise_core::health::{Failure, FailureKind};
use tokio::process::Command;

/// Good when the command ends with 0.
pub(super) async fn check(address: SocketAddr, exec: &Exec) -> Result<(), Failure> {
    let Some((program, arguments)) = exec.command.split_first() else {
        return Err(Failure::new(FailureKind::Io, "there is no command"));
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env("EQUIPOISE_ADDRESS", address.ip().to_string())
        .env("EQUIPOISE_PORT", address.port().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Failure::new(FailureKind::Io, format!("{program}: {error}")))?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()));
    let ended = child.wait().await;
    group.0 = None;
    let status = ended.map_err(|error| Failure::new(FailureKind::Io, error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(FailureKind::ExitCode, format!("{program}: {status}")))
}

/// A process group that is ended when this is dropped, unless its first process has ended before.
struct Group(Option<i32>);

impl Drop for Group {
    fn drop(&mut self) {
        let Some(group) = self.0 else { return };
        // SAFETY: no memory is involved. The first process has not been waited for, so the number is still this group's.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}
