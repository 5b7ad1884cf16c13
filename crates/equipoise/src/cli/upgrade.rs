//! `equipoise upgrade`: another binary in place of the one that runs.

use super::args::{Global, Upgrade};
use super::{Exit, Failure, print, print_json};
use crate::status::UpgradeRequest;

pub(super) async fn upgrade(global: &Global, asked: &Upgrade) -> Result<(), Failure> {
    // The instance may be in another directory.
    let binary = std::fs::canonicalize(&asked.binary).map_err(|error| {
        Failure::new(Exit::Usage, format!("{}: {error}", asked.binary.display()))
    })?;
    let answer = global.client().upgrade(&UpgradeRequest { binary }).await?;
    if global.json {
        return print_json(&answer);
    }
    let pid = answer.pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
    print(&format!(
        "instance {} runs version {}{pid}, after {}; {} ms, and packets flowed all the time\n",
        global.instance, answer.version, answer.previous_version, answer.took_ms
    ))
}
