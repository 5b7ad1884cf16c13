//! Flow events: taken up by one task, out of the kernel's ring buffer and from the sweeps, and counted.
//!
//! The task runs beside the loop, so that a burst of events waits for nobody. It keeps numbers alone, and hands what has closed to the
//! log of flows; what the kernel had to throw away is counted there (`events_lost`).

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use equipoise_common::event::Event;
use equipoise_common::flow::state::MOMENTS_BITS;
use equipoise_common::flow::{Reason, State};
use equipoise_common::key::{Address as _, TCP, V4};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::access_log::Recorder;
use crate::dataplane::kernel::{Arrivals, Events};
use crate::metrics::FlowHistograms;
use crate::talkers::{Recent, Source, Talker};

/// Batches of events from sweeps that wait at most; a sweep never waits for room.
const BATCHES: usize = 1024;
/// Sources of flows that are counted at a time.
const SOURCES: usize = 4096;
/// How long the end waits for what is left to be taken up.
const LAST: Duration = Duration::from_secs(1);

/// Events so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tally {
    /// Flows that have opened.
    pub(super) opened: u64,
    /// Flows that have closed, by reason.
    pub(super) closed: BTreeMap<&'static str, u64>,
    /// Flows that have closed to which their backend had answered, and others.
    pub(super) answered: [u64; 2],
    /// Events of sweeps for which there was no room.
    pub(super) lost: u64,
    /// What has become of connections, by backend id, since that was last asked for.
    ended: BTreeMap<u32, Ended>,
}

/// What a flow that has closed says of its backend: that it serves, or in which way it does not.
///
/// A connection that came about and was ended by either side, or by a RST of the client, is a good one. Bad ones are a RST to a SYN, a RST
/// in mid-flow, and a SYN that was sent again and never answered: where replies do not come by us, that is all that tells. One
/// SYN alone may have been anybody's.
fn outcome(event: &Event) -> Option<Outcome> {
    if event.protocol != TCP || event.what & Event::CLOSED == 0 {
        return None;
    }
    let is_opening = event.state == State::Opening as u32;
    let is_silent = event.packets_out == 0 && event.what & Event::SENT_AGAIN != 0;
    match Reason::from_number(event.why) {
        Reason::BackendReset if is_opening => Some(Outcome::Refused),
        Reason::BackendReset => Some(Outcome::Reset),
        Reason::Idle if is_opening && is_silent => Some(Outcome::Unanswered),
        Reason::ClientFin | Reason::BackendFin => Some(Outcome::Good),
        Reason::ClientReset if !is_opening => Some(Outcome::Good),
        _ => None,
    }
}

/// Seconds of nanoseconds.
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Good,
    Refused,
    Unanswered,
    Reset,
}

/// What has become of a backend's connections.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ended {
    /// In a way that says that it serves.
    pub(super) good: u64,
    /// With a RST to the SYN.
    pub(super) refused: u64,
    /// Without an answer to a SYN that was sent again.
    pub(super) unanswered: u64,
    /// With a RST of the backend in mid-flow.
    pub(super) reset: u64,
    /// What all flows that have closed were like.
    pub(super) flows: FlowHistograms,
}

impl Ended {
    /// Those that say that it serves, and those that say that it does not.
    pub(super) fn outcomes(&self) -> (u64, u64) {
        (self.good, self.refused + self.unanswered + self.reset)
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.good += other.good;
        self.refused += other.refused;
        self.unanswered += other.unanswered;
        self.reset += other.reset;
        self.flows.add(&other.flows);
    }

    /// What a flow was like.
    fn observe(&mut self, event: &Event) {
        let flows = &mut self.flows;
        flows.lifetime.observe(seconds(u64::from(event.duration) << 20));
        if event.handshake > 0 {
            flows.handshake.observe(seconds(event.handshake << (20 - MOMENTS_BITS)));
        }
        flows.bytes_in.observe(event.bytes_in as f64);
        flows.bytes_out.observe(event.bytes_out as f64);
    }

    fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Good => &mut self.good,
            Outcome::Refused => &mut self.refused,
            Outcome::Unanswered => &mut self.unanswered,
            Outcome::Reset => &mut self.reset,
        } += 1;
    }
}

impl Tally {
    /// As an earlier process has left it: flows opened, events lost, and flows closed by reason.
    pub(super) fn of<'a>(
        (opened, lost): (u64, u64),
        closed: impl Iterator<Item = (&'a str, u64)>,
    ) -> Self {
        let known = |(why, count)| {
            let reason = Reason::ALL.iter().find(|reason| reason.name() == why)?;
            Some((reason.name(), count))
        };
        Self { opened, lost, closed: closed.filter_map(known).collect(), ..Self::default() }
    }

    fn merge(&mut self, batch: &Self) {
        self.opened += batch.opened;
        for (sum, count) in self.answered.iter_mut().zip(batch.answered) {
            *sum += count;
        }
        for (why, count) in &batch.closed {
            *self.closed.entry(why).or_default() += count;
        }
        for (backend, ended) in &batch.ended {
            self.ended.entry(*backend).or_default().add(ended);
        }
    }

    fn add(&mut self, event: &Event) {
        if event.what & Event::OPENED != 0 {
            self.opened += 1;
        } else {
            *self.closed.entry(Reason::from_number(event.why).name()).or_default() += 1;
            self.answered[usize::from(event.packets_out == 0)] += 1;
            self.ended.entry(event.backend).or_default().observe(event);
        }
        if let Some(outcome) = outcome(event) {
            self.ended.entry(event.backend).or_default().count(outcome);
        }
    }
}

/// Whose flow has opened, if this is told.
fn opened(event: &Event) -> Option<(u32, Source)> {
    let is_v4 = event.what & Event::IPV6 == 0;
    let client: IpAddr = if is_v4 { V4::unpack(event.client).into() } else { event.client.into() };
    (event.what & Event::OPENED != 0).then(|| (event.service, client.into()))
}

/// What the task counts.
#[derive(Clone, Debug)]
struct Counted {
    begun: Instant,
    tally: watch::Sender<Tally>,
    sources: watch::Sender<Recent>,
}

impl Counted {
    fn take(&self, batch: &Tally) {
        self.tally.send_modify(|tally| tally.merge(batch));
    }

    fn take_sources(&self, opened: &mut Vec<(u32, Source)>) {
        let now = self.begun.elapsed();
        self.sources.send_modify(|sources| sources.add(now, opened.drain(..)));
    }
}

/// The task, and what it is given.
#[derive(Debug)]
pub(super) struct EventTask {
    sender: mpsc::Sender<Vec<Event>>,
    counted: Counted,
    task: JoinHandle<()>,
}

impl EventTask {
    /// Takes up events from now on; of a data plane without a source, those of sweeps alone.
    ///
    /// # Errors
    ///
    /// When the source cannot be waited for.
    pub(super) fn start(source: Option<Events>, recorder: Recorder) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(BATCHES);
        let counted = Counted {
            begun: Instant::now(),
            tally: watch::Sender::default(),
            sources: watch::Sender::default(),
        };
        let source = source.map(Events::listen).transpose()?;
        let task = tokio::spawn(run(source, receiver, (counted.clone(), recorder)));
        Ok(Self { sender, counted, task })
    }

    /// Reads no events any more; those of sweeps until [`EventTask::resume`] are lost, and counted so.
    pub(super) fn stop_reading(&mut self) {
        self.task.abort();
    }

    /// Takes up what has been handed over, and what there is to be read, and nothing after that.
    pub(super) async fn end(mut self) {
        let (nobody, _) = mpsc::channel(1);
        // Without a sender it comes to its end.
        drop(std::mem::replace(&mut self.sender, nobody));
        let _: Result<_, _> = tokio::time::timeout(LAST, &mut self.task).await;
    }

    /// Reads them again.
    ///
    /// # Errors
    ///
    /// When the source cannot be waited for.
    pub(super) fn resume(&mut self, source: Option<Events>, recorder: Recorder) -> io::Result<()> {
        let (sender, receiver) = mpsc::channel(BATCHES);
        let source = source.map(Events::listen).transpose()?;
        self.task = tokio::spawn(run(source, receiver, (self.counted.clone(), recorder)));
        self.sender = sender;
        Ok(())
    }

    /// Hands over what a sweep has found.
    pub(super) fn tell(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        if let Err(refused) = self.sender.try_send(events) {
            self.lose(refused.into_inner().len() as u64);
        }
    }

    /// So many events have been lost before they came here.
    pub(super) fn lose(&self, lost: u64) {
        if lost > 0 {
            self.counted.tally.send_modify(|tally| tally.lost += lost);
        }
    }

    /// What has become of connections, by backend id, since this was asked last.
    pub(super) fn take_ended(&self) -> BTreeMap<u32, Ended> {
        let mut ended = BTreeMap::new();
        self.counted.tally.send_if_modified(|tally| {
            ended = std::mem::take(&mut tally.ended);
            false
        });
        ended
    }

    /// Counts on from there.
    pub(super) fn restore(&self, before: &Tally) {
        self.counted.tally.send_modify(|tally| {
            tally.lost += before.lost;
            tally.merge(before);
        });
    }

    /// Events so far.
    pub(super) fn tally(&self) -> Tally {
        self.counted.tally.borrow().clone()
    }

    /// Whose flows have opened lately, by service id, and over how long that is.
    pub(super) fn sources(&self) -> (Duration, BTreeMap<u32, (u64, Vec<Talker>)>) {
        let mut told = (Duration::ZERO, BTreeMap::new());
        self.counted.sources.send_if_modified(|sources| {
            told = sources.told(self.counted.begun.elapsed());
            false
        });
        told
    }
}

impl Drop for EventTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    mut source: Option<Arrivals<Event>>,
    mut sweeps: mpsc::Receiver<Vec<Event>>,
    (counted, mut recorder): (Counted, Recorder),
) {
    loop {
        tokio::select! {
            batch = sweeps.recv() => {
                let Some(events) = batch else { return };
                let mut batch = Tally::default();
                for event in &events {
                    recorder.record(event);
                    batch.add(event);
                }
                counted.take(&batch);
                counted.take_sources(&mut events.iter().filter_map(opened).collect());
            }
            () = drained(&mut source, &counted, &mut recorder) => {}
        }
        // In a flood there are always more.
        tokio::task::yield_now().await;
    }
}

/// Waits until there are events in the ring buffer, and reads them all.
async fn drained(source: &mut Option<Arrivals<Event>>, counted: &Counted, recorder: &mut Recorder) {
    let Some(arrivals) = source else { return std::future::pending().await };
    let mut batch = Tally::default();
    let mut sources = Vec::new();
    let take = |event: &Event| {
        batch.add(event);
        sources.extend(opened(event));
        if sources.len() == SOURCES {
            counted.take_sources(&mut sources);
        }
        recorder.record(event);
    };
    if let Err(error) = arrivals.drain(take).await {
        tracing::error!(%error, "flow events are not read any more");
        *source = None;
    }
    counted.take(&batch);
    counted.take_sources(&mut sources);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_connections_says_whether_their_backend_serves() {
        let closed = |state: State, why: Reason, [again, packets_out]: [u64; 2]| {
            let again = if again > 0 { Event::SENT_AGAIN } else { 0 };
            outcome(&Event {
                what: Event::CLOSED | again,
                protocol: TCP,
                state: state as u32,
                why: why as u32,
                packets_out,
                ..Event::default()
            })
        };
        let (opening, established) = (State::Opening, State::Established);
        let good = Some(Outcome::Good);
        assert_eq!(closed(opening, Reason::BackendReset, [0, 1]), Some(Outcome::Refused));
        assert_eq!(closed(established, Reason::BackendReset, [0, 9]), Some(Outcome::Reset));
        assert_eq!(closed(opening, Reason::Idle, [1, 0]), Some(Outcome::Unanswered));
        assert_eq!(closed(opening, Reason::Idle, [0, 0]), None, "may have been anybody");
        assert_eq!(closed(opening, Reason::Idle, [1, 3]), None, "the client is silent");
        assert_eq!(closed(established, Reason::ClientFin, [0, 9]), good);
        assert_eq!(closed(established, Reason::BackendFin, [0, 0]), good, "seen from one side");
        assert_eq!(closed(established, Reason::ClientReset, [0, 9]), good);
        assert_eq!(closed(opening, Reason::ClientReset, [0, 1]), None);
        for why in [Reason::Idle, Reason::Evicted, Reason::Denied, Reason::BackendGone] {
            assert_eq!(closed(established, why, [0, 9]), None, "{why:?}");
        }
        let datagrams = Event { what: Event::CLOSED, protocol: 17, ..Event::default() };
        assert_eq!(outcome(&datagrams), None);
    }
}
