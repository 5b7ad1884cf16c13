//! `equipoise stop`: ends the running instance, or clears away what a dead one has left.

use std::path::Path;

use super::args::{Global, RUN_DIRECTORY};
use super::{Exit, Failure, print, print_json};
use crate::admin::client::ClientError;
use crate::admin::lock::InstanceLock;
use crate::dataplane::kernel::Kernel;
use crate::driver::{release_left, state_file};
use crate::host::Netlink;
use crate::status::StopAnswer;
use crate::stream::stop_left;

pub(super) async fn stop(global: &Global) -> Result<(), Failure> {
    match global.client().stop().await {
        Ok(answer) => said(global, &answer, "stopped"),
        Err(ClientError::NoInstance(_)) => clear(global).await,
        Err(error) => Err(error.into()),
    }
}

/// With the lock in hand, so that no instance starts while its name's leftovers go.
async fn clear(global: &Global) -> Result<(), Failure> {
    let lock =
        InstanceLock::take(Path::new(RUN_DIRECTORY), &global.instance).map_err(Failure::failed)?;
    // A socket without its process is a leftover as well.
    let socket = std::fs::remove_file(global.socket()).is_ok();
    let streams = stop_left(&global.socket()).await;
    let pins = Kernel::remove_left(&global.instance).map_err(Failure::failed)?;
    let state_file = state_file(&global.instance);
    let mut machine = Netlink::open().map_err(Failure::failed)?;
    let changes = release_left(&mut machine, &state_file).await;
    drop(lock);
    // It stays when another instance is in it.
    let _: std::io::Result<()> = std::fs::remove_dir(RUN_DIRECTORY);
    if !socket && !streams && !pins && !changes {
        let message =
            format!("no instance {:?} is running, and nothing of one is left", global.instance);
        return Err(Failure::new(Exit::NoInstance, message));
    }
    let answer = StopAnswer { pid: None, stopped: true, instance: global.instance.clone() };
    said(global, &answer, "was not running; what it had left is removed")
}

fn said(global: &Global, answer: &StopAnswer, what: &str) -> Result<(), Failure> {
    if global.json {
        return print_json(answer);
    }
    print(&format!("instance {} {what}\n", answer.instance))
}
