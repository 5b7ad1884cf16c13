//! `equipoise upgrade`: another binary in place of the one that runs.
//!
//! How far that has come is told by the events of the one that runs, for as long as it runs.
//! Where its maps have another layout, flows are carried over once it runs; that is waited for, so that whoever goes on after this finds
//! all done.

use std::pin::pin;
use std::time::{Duration, Instant};

use super::args::{Global, Upgrade};
use super::progress::{Progress, Stage};
use super::{Exit, Failure, print, print_json};
use crate::admin::client::{Client, ClientError, EventStream, Told, Wanted};
use crate::driver::upgrade::{MAKES_READY, TAKES_OVER};
use crate::events::{Event, Kind};
use crate::status::{UpgradeAnswer, UpgradeRequest};

pub(super) async fn upgrade(global: &Global, asked: &Upgrade) -> Result<(), Failure> {
    // The instance may be in another directory.
    let binary = std::fs::canonicalize(&asked.binary).map_err(|error| {
        Failure::new(Exit::Usage, format!("{}: {error}", asked.binary.display()))
    })?;
    let mut progress = Progress::new(global);
    let answer = watched(global, &UpgradeRequest { binary }, &mut progress).await?;
    let left = match answer.to_be_carried {
        0 => 0,
        flows => carried_over(global, flows, &mut progress).await?,
    };
    drop(progress);
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

/// Waits until another process runs, and shows meanwhile how far that has come.
async fn watched(
    global: &Global,
    request: &UpgradeRequest,
    progress: &mut Progress,
) -> Result<UpgradeAnswer, ClientError> {
    let client = global.patient_client();
    let mut news = news(&client).await?;
    let mut ended = pin!(client.upgrade(request));
    loop {
        tokio::select! {
            answer = &mut ended => return answer,
            // Whether it runs is known by the answer that is waited for.
            Ok(Some(told)) = news.next() => {
                if let Told::Event(event) = told && let Some(stage) = stage(&event) {
                    progress.show(stage);
                }
            }
        }
    }
}

/// The events from now on.
async fn news(client: &Client) -> Result<EventStream, ClientError> {
    let mut kept = client.events(Wanted { follows: false, after: 0 }).await?;
    let mut after = 0;
    while let Some(told) = kept.next().await? {
        if let Told::Event(event) = told {
            after = event.sequence;
        }
    }
    client.events(Wanted { follows: true, after }).await
}

/// How far it has come by an event; nothing where that is about something else.
fn stage(event: &Event) -> Option<Stage> {
    if event.kind != Kind::Upgrade {
        return None;
    }
    let why = event.why.as_deref().unwrap_or_default();
    let (what, words, done) = match event.to.as_deref()? {
        MAKES_READY => ("makes ready", format!("{why} makes ready"), 0),
        TAKES_OVER => ("takes over", why.to_owned(), 1),
        _ => return None,
    };
    Some(Stage { what, words, done, all: 2, left: None })
}

/// Waits until flows have been carried over; gives those that still are to be, where it takes too long.
async fn carried_over(global: &Global, all: u64, progress: &mut Progress) -> Result<u64, Failure> {
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
        let left = table.to_be_carried.min(all);
        progress.show(Stage {
            what: "carries over",
            words: format!("{left} of {all} flows are to be carried over"),
            done: all - left,
            all,
            left: None,
        });
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_an_upgrade_are_its_stages_and_others_are_none() {
        let event = |to: &str| Event::new(Kind::Upgrade).to(to).because("/bin/e, pid 7");
        let stages = [MAKES_READY, TAKES_OVER, "failed"].map(|to| stage(&event(to)));
        let told = stages.map(|stage| stage.map(|stage| (stage.words, stage.done, stage.all)));
        let ready = Some(("/bin/e, pid 7 makes ready".to_owned(), 0, 2));
        assert_eq!(told, [ready, Some(("/bin/e, pid 7".to_owned(), 1, 2)), None]);
        assert_eq!(stage(&Event::new(Kind::Healed).to(MAKES_READY)), None);
    }
}
