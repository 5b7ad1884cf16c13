//! Flow events: taken up by one task, out of the kernel's ring buffer and from the sweeps, and counted.
//!
//! The task runs beside the loop, so that a burst of events waits for nobody. It keeps numbers alone; what the
//! kernel had to throw away is counted there (`events_lost`).

use std::collections::BTreeMap;
use std::io;

use equipoise_common::event::Event;
use equipoise_common::flow::Reason;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::dataplane::kernel::{Arrivals, Events};

/// Batches of events from sweeps that wait at most; a sweep never waits for room.
const BATCHES: usize = 1024;

/// Events so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Flows that have opened.
    pub(super) opened: u64,
    /// Flows that have closed, by reason.
    pub(super) closed: BTreeMap<&'static str, u64>,
    /// Events of sweeps for which there was no room.
    pub(super) lost: u64,
}

impl Tally {
    fn merge(&mut self, batch: &Self) {
        self.opened += batch.opened;
        for (why, count) in &batch.closed {
            *self.closed.entry(why).or_default() += count;
        }
    }

    fn add(&mut self, event: &Event) {
        if event.what & Event::OPENED != 0 {
            self.opened += 1;
        } else {
            *self.closed.entry(Reason::from_number(event.why).name()).or_default() += 1;
        }
    }
}

/// The task, and what it is given.
#[derive(Debug)]
pub(super) struct EventTask {
    sender: mpsc::Sender<Vec<Event>>,
    tally: watch::Sender<Tally>,
    task: JoinHandle<()>,
}

impl EventTask {
    /// Takes up events from now on; of a data plane without a source, those of sweeps alone.
    ///
    /// # Errors
    ///
    /// When the source cannot be waited for.
    pub(super) fn start(source: Option<Events>) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(BATCHES);
        let (tally, _) = watch::channel(Tally::default());
        let source = source.map(Events::listen).transpose()?;
        let task = tokio::spawn(run(source, receiver, tally.clone()));
        Ok(Self { sender, tally, task })
    }

    /// Hands over what a sweep has found.
    pub(super) fn tell(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        if let Err(refused) = self.sender.try_send(events) {
            let lost = refused.into_inner().len() as u64;
            self.tally.send_modify(|tally| tally.lost += lost);
        }
    }

    /// Events so far.
    pub(super) fn tally(&self) -> Tally {
        self.tally.borrow().clone()
    }
}

impl Drop for EventTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    mut source: Option<Arrivals>,
    mut sweeps: mpsc::Receiver<Vec<Event>>,
    tally: watch::Sender<Tally>,
) {
    loop {
        tokio::select! {
            batch = sweeps.recv() => {
                let Some(batch) = batch else { return };
                tally.send_modify(|tally| batch.iter().for_each(|event| tally.add(event)));
            }
            () = drained(&mut source, &tally) => {}
        }
    }
}

/// Waits until there are events in the ring buffer, and reads them all.
async fn drained(source: &mut Option<Arrivals>, tally: &watch::Sender<Tally>) {
    let Some(arrivals) = source else { return std::future::pending().await };
    let mut batch = Tally::default();
    if let Err(error) = arrivals.drain(|event| batch.add(event)).await {
        tracing::error!(%error, "flow events are not read any more");
        *source = None;
    }
    tally.send_modify(|tally| tally.merge(&batch));
}
