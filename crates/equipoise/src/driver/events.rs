//! Flow events: taken up by one task, out of the kernel's ring buffer and from the sweeps, and counted.
//!
//! The task runs beside the loop, so that a burst of events waits for nobody. It keeps numbers alone; what the
//! kernel had to throw away is counted there (`events_lost`).

use std::collections::BTreeMap;
use std::io;

use equipoise_common::event::Event;
use equipoise_common::flow::{Reason, State};
use equipoise_common::key::TCP;
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
    /// Connections that ended well and badly, by backend id, since these were last asked for.
    outcomes: BTreeMap<u32, (u64, u64)>,
}

/// Whether a flow that has closed says something of its backend: that it serves, or that it does not.
///
/// A connection that came about and was ended by either side, or by a RST of the client, is a good one. Bad ones are a RST to a SYN, a RST
/// in mid-flow, and a SYN that was sent again and never answered: where replies do not come by us, that is all that tells. One
/// SYN alone may have been anybody's.
fn outcome(event: &Event) -> Option<bool> {
    if event.protocol != TCP || event.what & Event::CLOSED == 0 {
        return None;
    }
    let is_opening = event.state == State::Opening as u32;
    match Reason::from_number(event.why) {
        Reason::BackendReset => Some(false),
        Reason::Idle if is_opening && event.packets_out == 0 && event.packets_in >= 2 => {
            Some(false)
        }
        Reason::ClientFin | Reason::BackendFin => Some(true),
        Reason::ClientReset if !is_opening => Some(true),
        _ => None,
    }
}

impl Tally {
    fn merge(&mut self, batch: &Self) {
        self.opened += batch.opened;
        for (why, count) in &batch.closed {
            *self.closed.entry(why).or_default() += count;
        }
        for (backend, (good, bad)) in &batch.outcomes {
            let sum = self.outcomes.entry(*backend).or_default();
            *sum = (sum.0 + good, sum.1 + bad);
        }
    }

    fn add(&mut self, event: &Event) {
        if event.what & Event::OPENED != 0 {
            self.opened += 1;
        } else {
            *self.closed.entry(Reason::from_number(event.why).name()).or_default() += 1;
        }
        if let Some(is_good) = outcome(event) {
            let sum = self.outcomes.entry(event.backend).or_default();
            *(if is_good { &mut sum.0 } else { &mut sum.1 }) += 1;
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

    /// Reads no events any more; those of sweeps until [`EventTask::resume`] are lost, and counted so.
    pub(super) fn stop_reading(&mut self) {
        self.task.abort();
    }

    /// Reads them again.
    ///
    /// # Errors
    ///
    /// When the source cannot be waited for.
    pub(super) fn resume(&mut self, source: Option<Events>) -> io::Result<()> {
        let (sender, receiver) = mpsc::channel(BATCHES);
        let source = source.map(Events::listen).transpose()?;
        self.task = tokio::spawn(run(source, receiver, self.tally.clone()));
        self.sender = sender;
        Ok(())
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

    /// Connections that ended well and badly, by backend id, since this was asked last.
    pub(super) fn take_outcomes(&self) -> BTreeMap<u32, (u64, u64)> {
        let mut outcomes = BTreeMap::new();
        self.tally.send_if_modified(|tally| {
            outcomes = std::mem::take(&mut tally.outcomes);
            false
        });
        outcomes
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_connections_says_whether_their_backend_serves() {
        let closed = |state: State, why: Reason, [packets_in, packets_out]: [u64; 2]| {
            outcome(&Event {
                what: Event::CLOSED,
                protocol: TCP,
                state: state as u32,
                why: why as u32,
                packets_in,
                packets_out,
                ..Event::default()
            })
        };
        let (opening, established) = (State::Opening, State::Established);
        assert_eq!(closed(opening, Reason::BackendReset, [1, 1]), Some(false), "refused");
        assert_eq!(closed(established, Reason::BackendReset, [9, 9]), Some(false));
        assert_eq!(closed(opening, Reason::Idle, [3, 0]), Some(false), "silent");
        assert_eq!(closed(opening, Reason::Idle, [1, 0]), None, "may have been anybody");
        assert_eq!(closed(opening, Reason::Idle, [3, 3]), None, "the client is silent");
        assert_eq!(closed(established, Reason::ClientFin, [9, 9]), Some(true));
        assert_eq!(
            closed(established, Reason::BackendFin, [9, 0]),
            Some(true),
            "seen from one side"
        );
        assert_eq!(closed(established, Reason::ClientReset, [9, 9]), Some(true));
        assert_eq!(closed(opening, Reason::ClientReset, [2, 1]), None);
        for why in [Reason::Idle, Reason::Evicted, Reason::Denied, Reason::BackendGone] {
            assert_eq!(closed(established, why, [9, 9]), None, "{why:?}");
        }
        let datagrams = Event { what: Event::CLOSED, protocol: 17, ..Event::default() };
        assert_eq!(outcome(&datagrams), None);
    }
}
