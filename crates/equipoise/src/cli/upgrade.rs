//! `equipoise upgrade`: another binary in place of the one that runs.
//!
//! Where its maps have another layout, flows are carried over once it runs; that is waited for, so that whoever goes on after this finds
//! all done.

use std::time::{Duration, Instant};

use super::args::{Global, Upgrade};
use super::{Exit, Failure, print, print_json};
use crate::status::UpgradeRequest;

pub(super) async fn upgrade(global: &Global, asked: &Upgrade) -> Result<(), Failure> {
    // The instance may be in another directory.
    let binary = std::fs::canonicalize(&asked.binary).map_err(|error| {
        Failure::new(Exit::Usage, format!("{}: {error}", asked.binary.display()))
    })?;
    let answer = global.client().upgrade(&UpgradeRequest { binary }).await?;
    let left = match answer.to_be_carried {
        0 => 0,
        _ => carried_over(global).await?,
    };
    if global.json {
        return print_json(&answer);
    }
    let pid = answer.pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
    let carried = match (answer.to_be_carried, left) {
        (0, _) => String::new(),
        (flows, 0) => format!("; {flows} flows have been carried over to its maps"),
        (_, left) => format!("; {left} flows are still to be carried over to its maps"),
    };
    print(&format!(
        "instance {} runs version {}{pid}, after {}; {} ms, and packets flowed all the time{carried}\n",
        global.instance, answer.version, answer.previous_version, answer.took_ms
    ))
}

/// Waits until flows have been carried over; gives those that still are to be, where it takes too long.
async fn carried_over(global: &Global) -> Result<u64, Failure> {
    const LOOK: Duration = Duration::from_millis(100);
    const PATIENCE: Duration = Duration::from_secs(60);
    let began = Instant::now();
    loop {
        let table = global.client().status().await?.flow_table;
        if !table.carrying {
            return Ok(0);
        }
        if began.elapsed() >= PATIENCE {
            return Ok(table.to_be_carried.max(1));
        }
        tokio::time::sleep(LOOK).await;
    }
}
