//! What the control plane knows of connections that workers have: those that are open, and what has gone through backends.
//!
//! Told by the workers as it comes about, so that all that asks, asks here and waits for nobody. Of a worker that is gone what it has
//! moved stays counted, and goes to the next process with the other counters.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use equipoise_common::event::Event;
use equipoise_common::flow::State as FlowState;
use equipoise_common::flow::state::MOMENTS_BITS;
use equipoise_common::key::{Be16, TCP};
use equipoise_common::value::Traffic;
use serde::{Deserialize, Serialize};

use super::wire::{Closed, Moved, News, Opened, Refused, Total};
use crate::dataplane::kernel::FlowRow;

/// Events that wait at most to be taken.
const EVENTS: usize = 1 << 16;

/// What is known of all workers; a handle to it.
#[derive(Clone, Debug, Default)]
pub struct Mirror(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    workers: BTreeMap<u32, Worker>,
    /// Of workers that are gone.
    gone: Totals,
    /// So, what they have refused.
    gone_refused: RefusedBy,
    events: Vec<Event>,
    /// Events for which there was no room.
    lost: u64,
}

/// By backend, and who holds its id.
type Totals = BTreeMap<(u32, u64), Total>;

/// Connections that came to no backend: by service and who holds its id, and by reason.
pub type RefusedBy = BTreeMap<(u32, u64), BTreeMap<String, u64>>;

#[derive(Debug, Default)]
struct Worker {
    live: BTreeMap<u64, Live>,
    /// How many of them each backend has.
    counts: BTreeMap<u32, u64>,
    totals: Totals,
    refused: RefusedBy,
}

#[derive(Clone, Debug)]
struct Live {
    opened: Opened,
    begun: Instant,
    moved: Moved,
    /// When it had last moved anything.
    last: Instant,
}

/// A connection of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// The worker.
    pub worker: u32,
    /// The connection.
    pub connection: u64,
}

/// A connection, and what its backend's generation was when it was opened.
#[derive(Clone, Debug)]
pub struct Row {
    /// As flows are listed.
    pub flow: FlowRow,
    /// The generation.
    pub generation: u16,
}

/// What is kept of what workers have moved, for the next process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// The worker; none for those that are gone.
    worker: Option<u32>,
    totals: Vec<Total>,
    /// A version before this one keeps none.
    #[serde(default)]
    refused: Vec<Refused>,
}

impl Mirror {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker begins to tell, of all that there is: what is over, and `open`, which is what it has of connections. Whoever asks
    /// meanwhile is told of all of it or of none, as counters are not to fall.
    pub(super) fn begin(
        &self,
        worker: u32,
        (totals, refused): (Vec<Total>, Vec<Refused>),
        open: Vec<News>,
    ) {
        let totals = totals.into_iter().map(|total| ((total.backend, total.holder), total));
        let refused = refused_by(&refused);
        let of_it = Worker { totals: totals.collect(), refused, ..Worker::default() };
        let mut state = self.state();
        state.workers.insert(worker, of_it);
        state.take(worker, open);
    }

    /// A worker has told this.
    pub(super) fn take(&self, worker: u32, news: Vec<News>) {
        self.state().take(worker, news);
    }

    /// A worker is gone, and its connections with it.
    pub(super) fn end(&self, worker: u32) {
        let mut state = self.state();
        let Some(of_it) = state.workers.remove(&worker) else { return };
        for (whose, total) in of_it.sums() {
            add(&mut state.gone, whose, total);
        }
        add_refused(&mut state.gone_refused, &of_it.refused);
    }

    /// Nothing of workers that run is known any more; they will tell another process.
    pub(super) fn let_go(&self) {
        self.state().workers.clear();
    }

    /// Events since they were last taken, and how many found no room.
    pub fn take_events(&self) -> (Vec<Event>, u64) {
        let mut state = self.state();
        (std::mem::take(&mut state.events), std::mem::take(&mut state.lost))
    }

    /// Connections to a backend, by id.
    pub fn live(&self, backend: u32) -> u64 {
        let state = self.state();
        state.workers.values().filter_map(|worker| worker.counts.get(&backend)).sum()
    }

    /// What has gone through services and backends, by their ids and who holds these.
    pub fn traffic(&self) -> [BTreeMap<(u32, u64), Traffic>; 2] {
        let state = self.state();
        let mut sums = state.gone.clone();
        for (whose, total) in state.workers.values().flat_map(Worker::sums) {
            add(&mut sums, whose, total);
        }
        let mut traffic: [BTreeMap<(u32, u64), Traffic>; 2] = Default::default();
        for total in sums.values() {
            let [services, backends] = &mut traffic;
            let service = services.entry((total.service, total.service_holder)).or_default();
            *service += through(total);
            *backends.entry((total.backend, total.holder)).or_default() += through(total);
        }
        traffic
    }

    /// Connections that were taken up and came to no backend.
    pub fn refused(&self) -> RefusedBy {
        let state = self.state();
        let mut sums = state.gone_refused.clone();
        state.workers.values().for_each(|worker| add_refused(&mut sums, &worker.refused));
        sums
    }

    /// Calls `each` for every connection, until it answers false; says whether it never has.
    pub fn each(&self, mut each: impl FnMut(Number, Row) -> bool) -> bool {
        let state = self.state();
        let now = Instant::now();
        state.workers.iter().all(|(&worker, of_it)| {
            of_it
                .live
                .iter()
                .all(|(&connection, live)| each(Number { worker, connection }, live.row(now)))
        })
    }

    /// What is to be kept of it all.
    pub fn kept(&self) -> Vec<Kept> {
        let state = self.state();
        let totals = state.gone.values().copied().collect();
        let gone = Kept { worker: None, totals, refused: refused_of(&state.gone_refused) };
        let of_worker = |(&worker, of_it): (&u32, &Worker)| {
            let mut sums = Totals::new();
            of_it.sums().for_each(|(whose, total)| add(&mut sums, whose, total));
            let (totals, refused) = (sums.into_values().collect(), refused_of(&of_it.refused));
            Kept { worker: Some(worker), totals, refused }
        };
        let all = std::iter::once(gone).chain(state.workers.iter().map(of_worker));
        all.filter(|kept| !kept.totals.is_empty() || !kept.refused.is_empty()).collect()
    }

    /// Counts on from there: what workers that tell it themselves have moved is theirs to tell.
    pub fn restore(&self, kept: &[Kept]) {
        let mut state = self.state();
        for kept in kept {
            if kept.worker.is_some_and(|worker| state.workers.contains_key(&worker)) {
                continue;
            }
            for total in &kept.totals {
                add(&mut state.gone, (total.backend, total.holder), *total);
            }
            add_refused(&mut state.gone_refused, &refused_by(&kept.refused));
        }
    }
}

impl State {
    fn take(&mut self, worker: u32, news: Vec<News>) {
        let of_it = self.workers.entry(worker).or_default();
        for news in news {
            let Some(event) = of_it.take(news) else { continue };
            if self.events.len() < EVENTS {
                self.events.push(event);
            } else {
                self.lost += 1;
            }
        }
    }
}

fn add(sums: &mut Totals, whose: (u32, u64), total: Total) {
    let sum =
        sums.entry(whose).or_insert(Total { connections: 0, moved: Moved::default(), ..total });
    sum.connections += total.connections;
    sum.moved += total.moved;
}

fn add_refused(sums: &mut RefusedBy, more: &RefusedBy) {
    for (&whose, reasons) in more {
        let of_service = sums.entry(whose).or_default();
        for (why, count) in reasons {
            *of_service.entry(why.clone()).or_default() += count;
        }
    }
}

fn refused_by(told: &[Refused]) -> RefusedBy {
    let mut by = RefusedBy::new();
    for Refused { service, holder, why, count } in told {
        by.entry((*service, *holder)).or_default().insert(why.clone(), *count);
    }
    by
}

fn refused_of(by: &RefusedBy) -> Vec<Refused> {
    let of_service = |(&(service, holder), reasons): (&(u32, u64), &BTreeMap<String, u64>)| {
        let told = reasons.iter().map(move |(why, &count)| {
            let why = why.clone();
            Refused { service, holder, why, count }
        });
        told.collect::<Vec<_>>()
    };
    by.iter().flat_map(of_service).collect()
}

fn through(total: &Total) -> Traffic {
    let Moved { packets_in, bytes_in, packets_out, bytes_out } = total.moved;
    let new_flows = total.connections;
    Traffic { new_flows, packets_in, bytes_in, packets_out, bytes_out, ports_changed: 0 }
}

impl Worker {
    /// What there is to tell of it.
    fn take(&mut self, news: News) -> Option<Event> {
        let now = Instant::now();
        match news {
            News::Opened(opened) => {
                let event = (!opened.again).then(|| event(&opened, Event::OPENED));
                let age = Duration::from_millis(opened.age_ms);
                let begun = now.checked_sub(age).unwrap_or(now);
                let (id, moved) = (opened.id, Moved::default());
                *self.counts.entry(opened.backend).or_default() += 1;
                // What has moved nothing is not told to have moved.
                self.live.insert(id, Live { opened, begun, moved, last: begun });
                event
            }
            News::Moves { id, moved, idle_ms, refused } => {
                if !refused.is_empty() {
                    self.refused = refused_by(&refused);
                }
                let live = self.live.get_mut(&id)?;
                live.moved = moved;
                live.last = now.checked_sub(Duration::from_millis(idle_ms)).unwrap_or(now);
                None
            }
            News::Closed(closed) => {
                let live = self.live.remove(&closed.id)?;
                if let Some(count) = self.counts.get_mut(&live.opened.backend) {
                    *count -= 1;
                }
                let total = Total { connections: 1, moved: closed.moved, ..live.total() };
                add(&mut self.totals, (total.backend, total.holder), total);
                Some(closed_event(&live.opened, &closed))
            }
            News::Trouble(trouble) => {
                tracing::warn!(trouble, "who takes up connections has trouble");
                None
            }
        }
    }

    /// What it has moved, also in connections that are open.
    fn sums(&self) -> impl Iterator<Item = ((u32, u64), Total)> {
        let live = self.live.values().map(Live::total);
        self.totals
            .values()
            .copied()
            .chain(live)
            .map(|total| ((total.backend, total.holder), total))
    }
}

impl Live {
    fn total(&self) -> Total {
        let Opened { backend, holder, service, service_holder, .. } = self.opened;
        Total { backend, holder, service, service_holder, connections: 1, moved: self.moved }
    }

    fn row(&self, now: Instant) -> Row {
        let Moved { packets_in, bytes_in, packets_out, bytes_out } = self.moved;
        let Opened { client, vip, place, service, backend, generation, .. } = self.opened;
        let flow = FlowRow {
            protocol: TCP,
            client,
            vip,
            backend_address: place,
            service,
            backend,
            state: "established",
            age: now.saturating_duration_since(self.begun),
            idle: now.saturating_duration_since(self.last),
            traffic: [packets_in, bytes_in, packets_out, bytes_out],
        };
        Row { flow, generation }
    }
}

fn event(opened: &Opened, what: u16) -> Event {
    let family = |address: SocketAddr, flag: u16| if address.is_ipv6() { flag } else { 0 };
    let what =
        what | family(opened.client, Event::IPV6) | family(opened.place, Event::BACKEND_IPV6);
    let packed = |address: SocketAddr| IpAddr::into(address.ip());
    let port = |address: SocketAddr| Be16::new(address.port());
    Event {
        client: packed(opened.client),
        vip: packed(opened.vip),
        backend_address: packed(opened.place),
        client_port: port(opened.client),
        vip_port: port(opened.vip),
        backend_port: port(opened.place),
        what,
        protocol: TCP,
        service: opened.service,
        backend: opened.backend,
        ..Event::default()
    }
}

fn closed_event(opened: &Opened, closed: &Closed) -> Event {
    let state = if closed.established { FlowState::Established } else { FlowState::Opening };
    // What no backend has answered, though the kernel has sent its SYN again.
    let again = if closed.established { 0 } else { Event::SENT_AGAIN };
    let Moved { packets_in, bytes_in, packets_out, bytes_out } = closed.moved;
    Event {
        why: closed.why,
        duration: ((closed.lasted_ms * 1_000_000) >> 20) as u32,
        state: state as u32,
        handshake: (closed.handshake >> (20 - MOMENTS_BITS)).max(u64::from(closed.established)),
        packets_in,
        bytes_in,
        packets_out,
        bytes_out,
        ..event(opened, Event::CLOSED | again)
    }
}

#[cfg(test)]
mod tests {
    use equipoise_common::flow::Reason;

    use super::*;

    fn opened(id: u64, backend: u32) -> Opened {
        Opened {
            id,
            client: "198.51.100.7:4242".parse().unwrap(),
            vip: "203.0.113.10:443".parse().unwrap(),
            place: "10.0.0.1:8443".parse().unwrap(),
            backend,
            holder: 100 + u64::from(backend),
            generation: 0,
            service: 3,
            service_holder: 33,
            age_ms: 0,
            again: false,
        }
    }

    fn moved(bytes_in: u64) -> Moved {
        Moved { packets_in: 1, bytes_in, packets_out: 2, bytes_out: 20 }
    }

    fn moves(id: u64, moved: Moved, refused: Vec<Refused>) -> News {
        News::Moves { id, moved, idle_ms: 0, refused }
    }

    fn closed(id: u64, why: Reason, established: bool) -> News {
        let handshake = if established { 1_000_000 } else { 0 };
        let (why, moved) = (why as u32, moved(10));
        News::Closed(Closed { id, why, established, moved, lasted_ms: 2_000, handshake })
    }

    fn new_flows(mirror: &Mirror) -> (u64, u64) {
        let [services, backends] = mirror.traffic();
        let backend = backends.get(&(7, 107)).copied().unwrap_or_default();
        (services.values().map(|service| service.new_flows).sum(), backend.bytes_in)
    }

    #[test]
    fn what_workers_tell_is_counted_once_whatever_becomes_of_them() {
        let mirror = Mirror::default();
        mirror.begin(1, (Vec::new(), Vec::new()), Vec::new());
        mirror.take(1, vec![News::Opened(opened(1, 7)), News::Opened(opened(2, 8))]);
        mirror.take(1, vec![moves(1, moved(4), Vec::new())]);
        assert_eq!((mirror.live(7), new_flows(&mirror)), (1, (2, 4)));
        mirror.take(1, vec![closed(1, Reason::ClientFin, true)]);
        assert_eq!((mirror.live(7), new_flows(&mirror)), (0, (2, 10)));
        // It tells everything anew.
        let kept = mirror.kept();
        let totals = kept[0].totals.iter().copied().filter(|total| total.backend == 7).collect();
        mirror.begin(
            1,
            (totals, Vec::new()),
            vec![News::Opened(Opened { again: true, ..opened(2, 8) })],
        );
        assert_eq!(new_flows(&mirror), (2, 10));
        // It is gone, and with it what was open.
        let kept = mirror.kept();
        mirror.end(1);
        assert_eq!((mirror.live(8), new_flows(&mirror)), (0, (2, 10)));
        // So for a process that comes later, whether the worker is there or not.
        let later = Mirror::default();
        later.restore(&kept);
        assert_eq!(new_flows(&later), (2, 10));
        let beside = Mirror::default();
        beside.begin(1, (Vec::new(), Vec::new()), Vec::new());
        beside.restore(&kept);
        assert_eq!(new_flows(&beside), (0, 0));
    }

    #[test]
    fn what_is_refused_stays_counted_whatever_becomes_of_workers() {
        let refused = |count| {
            let why = "flow_limit".to_owned();
            vec![Refused { service: 3, holder: 33, why, count }]
        };
        let counted = |mirror: &Mirror| {
            mirror.refused().get(&(3, 33)).and_then(|by| by.get("flow_limit").copied())
        };
        let mirror = Mirror::default();
        mirror.begin(1, (Vec::new(), refused(2)), Vec::new());
        mirror.take(1, vec![moves(0, Moved::default(), refused(5))]);
        // One that takes up nothing else says nothing of it.
        mirror.take(1, vec![News::Opened(opened(1, 7)), moves(1, moved(4), Vec::new())]);
        assert_eq!(counted(&mirror), Some(5));
        let kept = mirror.kept();
        mirror.end(1);
        mirror.begin(2, (Vec::new(), refused(1)), Vec::new());
        assert_eq!(counted(&mirror), Some(6));
        let later = Mirror::default();
        later.begin(1, (Vec::new(), refused(7)), Vec::new());
        later.restore(&kept);
        assert_eq!(counted(&later), Some(7), "the worker is there, and tells it itself");
        let alone = Mirror::default();
        alone.restore(&kept);
        assert_eq!(counted(&alone), Some(5));
    }

    #[test]
    fn events_are_what_the_packet_programs_would_tell() {
        let mirror = Mirror::default();
        mirror.begin(1, (Vec::new(), Vec::new()), Vec::new());
        mirror.take(1, vec![News::Opened(Opened { again: true, ..opened(1, 7) })]);
        assert_eq!(mirror.take_events().0, [], "it was told before");
        mirror.take(1, vec![closed(1, Reason::BackendFin, true), News::Opened(opened(2, 7))]);
        mirror.take(1, vec![closed(2, Reason::Idle, false)]);
        let (events, lost) = mirror.take_events();
        assert_eq!((events.len(), lost), (3, 0));
        assert_eq!((events[0].what, events[0].why), (Event::CLOSED, Reason::BackendFin as u32));
        assert_eq!(events[0].duration, 1_907);
        assert_eq!(events[0].state, FlowState::Established as u32);
        assert_eq!((events[1].what, events[1].bytes_in), (Event::OPENED, 0));
        assert_eq!(events[2].what, Event::CLOSED | Event::SENT_AGAIN);
        assert_eq!((events[2].state, events[2].handshake), (FlowState::Opening as u32, 0));
    }
}
