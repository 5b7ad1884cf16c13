//! `equipoise decap`: takes packets out of their encapsulation on a backend until it is told to stop, or puts back
//! what a process left that was killed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::args::{Decap, Global, RUN_DIRECTORY};
use super::{Exit, Failure, print, print_json, table};
use crate::admin::lock::{InstanceLock, LockError};
use crate::decap::{DecapError, Decapsulator, OnLoopback, Options, Report, State, Tell, clean};
use crate::host::requirements;

pub(super) async fn decap(global: &Global, asked: &Decap) -> Result<(), Failure> {
    requirements::check().map_err(|missing| Failure::new(Exit::Failed, missing))?;
    // No instance's name holds a dot: these files are never those of a balancer.
    let name = format!("{}.decap", global.instance);
    let ledger: PathBuf = Path::new(RUN_DIRECTORY).join(format!("{name}.json"));
    let lock = InstanceLock::take(Path::new(RUN_DIRECTORY), &name).map_err(is_running)?;
    if asked.clean {
        let found = clean(&global.instance, &ledger).await?;
        return print(if found { "put back\n" } else { "nothing was left\n" });
    }
    let running = Decapsulator::start(options(global, asked), lock, &ledger).await?;
    show(global, &running.report(State::Running)?)?;
    let tell = if global.verbose > 0 { Tell::Often } else { Tell::WhenAsked };
    let each = &mut |report: &Report| {
        if let Err(Failure { message: Some(message), .. }) = show(global, report) {
            tracing::warn!("counters cannot be told: {message}");
        }
    };
    let last = running.run(tell, each).await?;
    show(global, &last)
}

fn options(global: &Global, asked: &Decap) -> Options {
    let mut interfaces = asked.interface.clone();
    interfaces.sort();
    interfaces.dedup();
    Options {
        name: global.instance.clone(),
        interfaces,
        addresses: asked.address.iter().copied().collect(),
        loopback: if asked.lo { OnLoopback::Managed } else { OnLoopback::Untouched },
        from: asked.from.clone(),
        port: asked.port,
        mss: asked.mss_clamp,
        attach: asked.attach,
    }
}

fn is_running(error: LockError) -> Failure {
    match error {
        LockError::Held { pid, .. } => {
            let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            Failure::new(
                Exit::Failed,
                format!("equipoise decap runs already{pid}; --instance NAME tells several apart"),
            )
        }
        error @ LockError::File { .. } => Failure::failed(error),
    }
}

impl From<DecapError> for Failure {
    fn from(error: DecapError) -> Self {
        let exit = match &error {
            DecapError::Unfit(_) => Exit::Usage,
            DecapError::Host(_)
            | DecapError::Kernel(_)
            | DecapError::Ledger(_)
            | DecapError::Signals(_) => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

fn show(global: &Global, report: &Report) -> Result<(), Failure> {
    if global.json {
        return print_json(report);
    }
    let mut text = String::new();
    // Writing to a string does not fail.
    let _: std::fmt::Result = write(&mut text, report);
    print(&text)
}

fn write(text: &mut String, report: &Report) -> std::fmt::Result {
    let Report { state, instance, pid, interfaces, hooks, .. } = report;
    let state = match state {
        State::Running => "decapsulating",
        State::Ended => "ended",
    };
    writeln!(text, "{state}: instance {instance}, pid {pid}")?;
    let mut places = table(&["INTERFACE", "HOOK", "MODE", "WHY"]);
    for interface in interfaces {
        places.add_row([&interface.name, &interface.hook, &interface.mode, &interface.reason]);
    }
    writeln!(text, "{places}")?;
    if hooks.values().all(std::collections::BTreeMap::is_empty) {
        return Ok(());
    }
    let mut counters = table(&["HOOK", "VERDICT", "PACKETS"]);
    for (hook, counts) in hooks {
        for (verdict, count) in counts {
            counters.add_row([(*hook).to_owned(), (*verdict).to_owned(), count.to_string()]);
        }
    }
    writeln!(text, "{counters}")
}
