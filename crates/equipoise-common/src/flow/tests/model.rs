//! Long random sequences of everything that happens to a table, against a plain map that knows no slots.
//!
//! The map holds each flow as the table must hold it: state, owners, times and traffic. After every step each
//! flow of the map is found from both ends and says the same, nothing else is found, and all counts are
//! what the slots add up to. A flow that the map did not end must have been told of, and must not have been confirmed.

use std::collections::BTreeMap;

use equipoise_lab::scale;
use proptest::prelude::*;

use super::table::{Name, Numbered, OWNERS, Sender, TIMEOUTS, Table};
use crate::flow::count::{Live, Refused};
use crate::flow::end::{Evicted, end, evict};
use crate::flow::entry::{Meta, Reason, last_seen};
use crate::flow::find::is_expired;
use crate::flow::open::{Limits, Opened};
use crate::flow::set::{GRACE, Storage, position};
use crate::flow::state::State;
use crate::flow::track::{Segment, close, tcp};
use crate::key::{UDP, V4, V6};

/// Names of flows that a sequence uses.
const NAMES: u32 = 40;

#[derive(Clone, Copy, Debug)]
enum Step {
    Open(Name),
    Packet(Name, Packet),
    End(Name),
    Close(Name),
    Pass(u32),
    /// What user space does: ends all that is past its time.
    Sweep,
    Evict(u32),
}

#[derive(Clone, Copy, Debug)]
enum Packet {
    Answer,
    Data,
    Confirm,
    ConfirmWrongly,
    ClientReset,
    ResetWrongly,
}

/// A flow as the map has it.
#[derive(Clone, Copy, Debug)]
struct Flow {
    name: Name,
    state: State,
    is_answered: bool,
    last: [u32; 2],
    packets: [u64; 2],
    bytes: [u64; 2],
}

impl Flow {
    fn new(name: Name, now: u32) -> Self {
        Self {
            name,
            state: if name.protocol == UDP { State::OneWay } else { State::Opening },
            is_answered: false,
            last: [now; 2],
            packets: [1, 0],
            bytes: [60, 0],
        }
    }

    fn is_expired(&self, now: u32) -> bool {
        let timeout = TIMEOUTS[self.state as usize];
        self.last.iter().all(|last| now.wrapping_sub(*last) > timeout)
    }

    /// What a packet makes of it.
    fn after(mut self, packet: Packet, now: u32) -> Self {
        let (from, _) = packet.sent();
        let direction = from as usize;
        self.last[direction] = now;
        self.packets[direction] += 1;
        self.bytes[direction] += 100;
        let is_open = matches!(self.state, State::Opening | State::OneWay);
        let is_udp = self.name.protocol == UDP;
        match (from, packet) {
            (Sender::Backend, _) => self.is_answered = true,
            (_, Packet::Confirm) if is_open && self.is_answered => {
                self.state = if is_udp { State::TwoWay } else { State::Established };
            }
            (_, _) if is_udp => {
                if is_open && self.is_answered {
                    self.state = State::TwoWay;
                }
            }
            (_, Packet::ClientReset) => self.state = State::Closing,
            (_, _) => {}
        }
        self
    }
}

impl Packet {
    fn sent(self) -> (Sender, Segment) {
        let name = Name::tcp(0);
        let client = |flags, sequence, acknowledgement| {
            (Sender::Client, Segment { flags, sequence, acknowledgement, length: 0 })
        };
        match self {
            Self::Answer => (Sender::Backend, name.answer()),
            Self::Data => {
                let segment =
                    Segment { flags: tcp::ACK, sequence: 8_001, acknowledgement: 1, length: 0 };
                (Sender::Backend, segment)
            }
            Self::Confirm => (Sender::Client, name.confirmation()),
            Self::ConfirmWrongly => client(tcp::ACK, 1, 4_000),
            Self::ClientReset => client(tcp::RST, 1, 0),
            Self::ResetWrongly => client(tcp::RST, 77, 0),
        }
    }
}

/// A table and the map that it is compared with.
struct Both<A, const SLOT: usize> {
    table: Table<A, SLOT>,
    map: BTreeMap<Name, Flow>,
    limits: Limits,
    now: u32,
}

impl<A: Numbered, const SLOT: usize> Both<A, SLOT> {
    fn step(&mut self, step: Step) {
        match step {
            Step::Open(name) => self.open(name),
            Step::Packet(name, packet) => self.packet(name, packet),
            Step::End(name) => {
                let here = self.table.look_up(&name.request());
                assert_eq!(here != 0, self.map.remove(&name).is_some());
                assert_eq!(here != 0, end(&self.table, here, Reason::Replaced, self.now));
            }
            Step::Close(name) => {
                let here = self.table.look_up(&name.reply());
                close(&self.table, here, Reason::BackendGone);
                // The reply's name may be that of another flow.
                for flow in
                    self.map.values_mut().filter(|flow| flow.name.reply::<A>() == name.reply())
                {
                    flow.state = State::Closing;
                }
            }
            Step::Pass(ticks) => self.now = self.now.wrapping_add(ticks),
            Step::Sweep => self.sweep(),
            Step::Evict(set) => {
                let before = self.map.len();
                let evicted = evict(&self.table, set % self.table.sets(), self.now);
                self.follow_ended();
                assert_eq!(before - self.map.len(), usize::from(evicted != Evicted::Nothing));
            }
        }
        self.follow_ended();
        self.compare();
    }

    fn open(&mut self, name: Name) {
        let before = self.map.len() as u64;
        let count = |of| self.table.live_flows(of);
        let is_over = |count: u64, most: u32| most != 0 && count >= u64::from(most);
        let over_service = is_over(count(Live::Service(name.vip)), self.limits.service);
        let over_backend = is_over(count(Live::Backend(name.backend)), self.limits.backend);
        let over_table = is_over(before, self.limits.table);
        let opened = self.table.open(&name.opening(self.now), &self.limits);
        self.follow_ended();
        let evicted = before - self.map.len() as u64;
        assert_eq!(evicted, u64::from(opened.evicted != 0));
        let is_taken = self.map.values().any(|flow| flow.name.reply::<A>() == name.reply());
        let found = self.map.contains_key(&name);
        let refused = |refused: Refused| {
            assert_eq!(
                opened,
                Opened { refused: refused as u32, evicted: opened.evicted, ..Opened::NOTHING }
            );
        };
        if over_service {
            refused(Refused::Service);
        } else if over_backend {
            refused(Refused::Backend);
        } else if over_table && evicted == 0 {
            refused(Refused::Full);
        } else if found {
            assert!(opened.found && opened.at == self.table.look_up(&name.request()));
        } else if is_taken {
            refused(Refused::Taken);
        } else if opened.refused != 0 {
            // Whether its sets have room is beyond the map, but in a table that is hardly used they must.
            refused(Refused::Crowded);
            assert!(2 * before + self.recently_ended() >= 14);
        } else {
            assert!(!opened.found);
            self.map.insert(name, Flow::new(name, self.now));
        }
    }

    /// Slots within their grace.
    fn recently_ended(&self) -> u64 {
        let rows =
            (0..self.table.sets()).flat_map(|set| (1..16).map(move |row| position(set, row)));
        let resting = rows.map(|here| self.table.meta(here));
        let is_fresh = |meta: &Meta| {
            meta.state() == State::Resting && self.now.wrapping_sub(meta.other()) <= GRACE
        };
        resting.filter(is_fresh).count() as u64
    }

    /// As the packet programs treat a packet: what is past its time is ended by it.
    fn packet(&mut self, name: Name, packet: Packet) {
        let (from, segment) = packet.sent();
        let key = if from == Sender::Client { name.request() } else { name.reply() };
        let here = self.table.look_up(&key);
        let is_of = |flow: &&mut Flow| match from {
            Sender::Client => flow.name == name,
            Sender::Backend => flow.name.reply::<A>() == name.reply(),
        };
        let Some(flow) = self.map.values_mut().find(is_of) else {
            assert_eq!(here, 0, "found what has ended");
            return;
        };
        let name = flow.name;
        assert_ne!(here, 0, "{name:?} is lost");
        let timeout = TIMEOUTS[self.table.meta(here).state() as usize];
        let expired = is_expired(&self.table, here, self.table.slot(here), timeout, self.now);
        assert_eq!(expired, flow.is_expired(self.now));
        if expired {
            self.map.remove(&name);
            assert!(end(&self.table, here, Reason::Idle, self.now));
            return;
        }
        let is_udp = name.protocol == UDP;
        *flow = flow.after(packet, self.now);
        let segment = if is_udp { Segment::default() } else { segment };
        assert!(self.table.packet(name, from, &segment, self.now));
    }

    fn sweep(&mut self) {
        for here in self.table.entries() {
            let meta = self.table.meta(here);
            let timeout = TIMEOUTS[meta.state() as usize];
            if meta.is_live()
                && is_expired(&self.table, here, self.table.slot(here), timeout, self.now)
            {
                end(&self.table, here, Reason::Idle, self.now);
            }
        }
        let now = self.now;
        self.map.retain(|_, flow| !flow.is_expired(now));
    }

    /// Takes out of the map what the table says that it has ended by itself.
    fn follow_ended(&mut self) {
        for ended in self.table.take_ended() {
            let name = self.map.keys().find(|name| name.request::<A>() == ended.request).copied();
            let Some(flow) = name.and_then(|name| self.map.get(&name)).copied() else { continue };
            match ended.why {
                Reason::Evicted => assert!(!flow.state.is_confirmed(), "{flow:?} gave way"),
                Reason::Idle => assert!(flow.is_expired(self.now), "{flow:?} was too young"),
                // Told of as closed, and still there.
                _ => continue,
            }
            self.map.remove(&flow.name);
        }
    }

    fn compare(&self) {
        self.table.check();
        assert_eq!(self.table.entries().len(), 2 * self.map.len());
        for flow in self.map.values() {
            let here = self.table.look_up(&flow.name.request());
            assert_ne!(here, 0, "{flow:?} is lost");
            let there = self.table.look_up(&flow.name.reply());
            assert_eq!(self.table.meta(here).other(), there);
            assert_eq!(self.table.meta(here).state(), flow.state, "{flow:?}");
            let facts = self.table.facts(here);
            assert_eq!(facts.to, flow.name.reply::<A>().reversed());
            assert_eq!((facts.service, facts.backend), (flow.name.vip, flow.name.backend));
            assert_eq!(self.table.facts(there).to, flow.name.request::<A>().reversed());
            for (direction, here) in [here, there].into_iter().enumerate() {
                let traffic = (flow.packets[direction], flow.bytes[direction]);
                assert_eq!(self.table.traffic(here), traffic);
                assert_eq!(last_seen(self.table.slot(here)), flow.last[direction]);
            }
        }
    }
}

/// Each client has two flows that would have the same name at the backend.
fn names() -> impl Strategy<Value = Name> {
    (0..NAMES).prop_map(|number| {
        let client = number / 2;
        let name = if client % 3 == 0 { Name::udp(client) } else { Name::tcp(client) };
        Name { vip: number % 2 + client % 2, backend: client % (OWNERS as u32), ..name }
    })
}

fn steps() -> impl Strategy<Value = Step> {
    let packets = prop_oneof![
        4 => Just(Packet::Answer),
        2 => Just(Packet::Data),
        4 => Just(Packet::Confirm),
        1 => Just(Packet::ConfirmWrongly),
        1 => Just(Packet::ClientReset),
        1 => Just(Packet::ResetWrongly),
    ];
    prop_oneof![
        8 => names().prop_map(Step::Open),
        10 => (names(), packets).prop_map(|(name, packet)| Step::Packet(name, packet)),
        2 => names().prop_map(Step::End),
        1 => names().prop_map(Step::Close),
        3 => prop_oneof![0..GRACE * 2, 0..1_200_u32, 0..110_000_u32].prop_map(Step::Pass),
        1 => Just(Step::Sweep),
        1 => any::<u32>().prop_map(Step::Evict),
    ]
}

/// Of the table, a service and a backend.
fn limits() -> impl Strategy<Value = [u32; 3]> {
    [12_u32, 8, 4].map(|most| prop_oneof![Just(0), 1..most])
}

fn run<A: Numbered, const SLOT: usize>(
    sets: u32,
    [table, service, backend]: [u32; 3],
    now: u32,
    steps: &[Step],
) {
    let limits = Limits { table, service, backend };
    let (table, map) = (Table::new(sets), BTreeMap::new());
    let mut both = Both::<A, SLOT> { table, map, limits, now };
    for step in steps {
        both.step(*step);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(scale(200, 20_000)))]

    #[test]
    fn table_of_ipv4_does_what_a_map_would(
        sets in 1..5_u32,
        limits in limits(),
        now in prop_oneof![Just(0), Just(u32::MAX - 500), any::<u32>()],
        steps in prop::collection::vec(steps(), 1..200),
    ) {
        run::<V4, 8>(sets, limits, now, &steps);
    }

    #[test]
    fn table_of_ipv6_does_what_a_map_would(
        sets in 1..5_u32,
        limits in limits(),
        now in prop_oneof![Just(0), Just(u32::MAX - 500), any::<u32>()],
        steps in prop::collection::vec(steps(), 1..200),
    ) {
        run::<V6, 16>(sets, limits, now, &steps);
    }
}
