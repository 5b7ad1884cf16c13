//! A flow table in plain memory, and what the tests do with it.
//!
//! [`Name`] makes five-tuples of numbers, for both families. [`Table::packet`] is the way of one packet as
//! the packet programs go it: found, counted, noted, and its state turned if need be.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::flow::count::Live;
use crate::flow::entry::{Facts, Meta, Reason, count, facts, flag, key, traffic};
use crate::flow::find::find;
use crate::flow::open::{Limits, New, Opened, open};
use crate::flow::set::{End, Position, Set, Storage, WAYS, Way, at, position};
use crate::flow::state::State;
use crate::flow::track::{Segment, note, tcp, turn};
use crate::key::{Address, Be16, FiveTuple, TCP, UDP, V4, V6};

/// Ids of services and of backends are below this.
pub(super) const OWNERS: usize = 8;

/// No limits.
pub(super) const NO_LIMITS: Limits = Limits::NONE;

/// Ticks that a flow lives without a packet, by the number of its state.
pub(super) const TIMEOUTS: [u32; 7] = [0, 0, 1_000, 100_000, 500, 800, 20_000];

/// An address that a number stands for.
pub(super) trait Numbered: Address + std::fmt::Debug {
    fn numbered(number: u32) -> Self;
}

impl Numbered for V4 {
    fn numbered(number: u32) -> Self {
        Self(number)
    }
}

impl Numbered for V6 {
    fn numbered(number: u32) -> Self {
        Self([0x0db8_0120, u64::from(number) << 32])
    }
}

/// What tells flows of the tests apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Name {
    pub(super) client: u32,
    pub(super) port: u16,
    pub(super) vip: u32,
    pub(super) backend: u32,
    pub(super) protocol: u32,
}

impl Name {
    pub(super) const fn tcp(client: u32) -> Self {
        Self { client, port: 40_000, vip: 1, backend: 1, protocol: TCP }
    }

    pub(super) const fn udp(client: u32) -> Self {
        Self { protocol: UDP, ..Self::tcp(client) }
    }

    pub(super) fn request<A: Numbered>(self) -> FiveTuple<A> {
        FiveTuple {
            source: A::numbered(self.client),
            destination: A::numbered(0xcb00_7100 + self.vip),
            source_port: Be16::new(self.port),
            destination_port: Be16::new(443),
            protocol: self.protocol,
        }
    }

    pub(super) fn reply<A: Numbered>(self) -> FiveTuple<A> {
        FiveTuple {
            source: A::numbered(0x0a00_0000 + self.backend),
            destination: A::numbered(self.client),
            source_port: Be16::new(8_443),
            destination_port: Be16::new(self.port),
            protocol: self.protocol,
        }
    }

    /// As its first packet opens it: a SYN with number 0, 60 bytes long.
    pub(super) fn opening<A: Numbered>(self, now: u32) -> New<A> {
        New {
            request: self.request(),
            reply: self.reply(),
            service: self.vip,
            backend: self.backend,
            generation: 7,
            is_one_sided: false,
            sent: 1,
            acknowledged: 0,
            packets: 1,
            bytes: 60,
            now,
            begun: now << 10,
        }
    }

    /// The backend's first packet: a SYN with number 8 000 where there is one.
    pub(super) const fn answer(self) -> Segment {
        let flags = tcp::SYN | tcp::ACK;
        self.segment(Segment { flags, sequence: 8_000, acknowledgement: 1, length: 1 })
    }

    /// What the client says to that.
    pub(super) const fn confirmation(self) -> Segment {
        self.segment(Segment { flags: tcp::ACK, sequence: 1, acknowledgement: 8_001, length: 0 })
    }

    const fn segment(self, tcp: Segment) -> Segment {
        if self.protocol == TCP {
            return tcp;
        }
        Segment { flags: 0, sequence: 0, acknowledgement: 0, length: 0 }
    }
}

/// Who sends a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sender {
    Client,
    Backend,
}

/// What a table has told of the end of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ended<A> {
    pub(super) request: FiveTuple<A>,
    pub(super) was: State,
    pub(super) why: Reason,
}

/// The table.
pub(super) struct Table<A, const SLOT: usize> {
    seed: u64,
    sets: Vec<Set<AtomicU64, SLOT>>,
    table: AtomicU64,
    confirmed: AtomicU64,
    services: [AtomicU64; OWNERS],
    backends: [AtomicU64; OWNERS],
    closing: [AtomicU64; OWNERS],
    answered: RefCell<Vec<(u32, u32)>>,
    ended: RefCell<Vec<Ended<A>>>,
    address: PhantomData<A>,
}

impl<A: Numbered, const SLOT: usize> Storage<SLOT> for Table<A, SLOT> {
    type Word = AtomicU64;
    type Address = A;

    fn sets(&self) -> u32 {
        self.sets.len() as u32
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn set(&self, index: u32) -> Option<&Set<AtomicU64, SLOT>> {
        self.sets.get(index as usize)
    }

    fn live(&self, of: Live) -> Option<&AtomicU64> {
        match of {
            Live::Table => Some(&self.table),
            Live::Confirmed => Some(&self.confirmed),
            Live::Service(id) => self.services.get(id as usize),
            Live::Backend(id) => self.backends.get(id as usize),
            Live::Closing(id) => self.closing.get(id as usize),
        }
    }

    fn timeout(&self, _service: u32, state: u32) -> u32 {
        TIMEOUTS[state as usize]
    }

    fn confirmed(&self, begun: u32) -> u32 {
        begun + 1_000
    }

    fn answered(&self, backend: u32, begun: u32) {
        self.answered.borrow_mut().push((backend, begun));
    }

    fn ended(&self, end: &End<'_, AtomicU64, SLOT>) {
        self.ended.borrow_mut().push(Ended {
            request: key(end.request, end.was),
            was: end.was.state(),
            why: end.why,
        });
    }
}

impl<A: Numbered, const SLOT: usize> Table<A, SLOT> {
    /// Backends that have answered SYNs, and when these came, in moments.
    pub(super) fn answers(&self) -> Vec<(u32, u32)> {
        self.answered.borrow().clone()
    }

    pub(super) fn new(sets: u32) -> Self {
        Self::seeded(sets, 0x5eed_0f7e_57ed_7ab1)
    }

    /// With a secret of its own.
    pub(super) fn seeded(sets: u32, seed: u64) -> Self {
        let set = |_| Set::new(std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))));
        Self {
            seed,
            sets: (0..sets).map(set).collect(),
            table: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            services: Default::default(),
            backends: Default::default(),
            closing: Default::default(),
            answered: RefCell::default(),
            ended: RefCell::default(),
            address: PhantomData,
        }
    }

    pub(super) fn open(&self, new: &New<A>, limits: &Limits) -> Opened {
        let mut opened = Opened::NOTHING;
        open(self, new, limits, &mut opened);
        opened
    }

    /// Opens a flow that nothing is in the way of.
    pub(super) fn must_open(&self, name: Name, now: u32) -> Position {
        let opened = self.open(&name.opening(now), &NO_LIMITS);
        assert!(opened.refused == 0 && !opened.found, "{name:?}: {opened:?}");
        opened.at
    }

    /// Opens a flow that comes to be confirmed.
    pub(super) fn must_confirm(&self, name: Name, now: u32) -> Position {
        let here = self.must_open(name, now);
        self.confirm(name, now);
        here
    }

    /// The two packets that confirm a flow that has just been opened.
    pub(super) fn confirm(&self, name: Name, now: u32) {
        self.packet(name, Sender::Backend, &name.answer(), now);
        self.packet(name, Sender::Client, &name.confirmation(), now);
        assert!(self.meta(self.look_up(&name.request())).state().is_confirmed());
    }

    pub(super) fn look_up(&self, key: &FiveTuple<A>) -> Position {
        find(self, key, &Way::of(key, self.seed(), self.sets()))
    }

    pub(super) fn slot(&self, here: Position) -> &[AtomicU64; SLOT] {
        at(self, here).unwrap()
    }

    pub(super) fn meta(&self, here: Position) -> Meta {
        Meta(self.slot(here)[0].load(Ordering::Relaxed))
    }

    pub(super) fn facts(&self, here: Position) -> Facts<A> {
        facts(self.slot(here), self.meta(here))
    }

    /// Packets and bytes.
    pub(super) fn traffic(&self, here: Position) -> (u64, u64) {
        traffic(self.slot(here))
    }

    /// A packet of 100 bytes; false if it belongs to no flow.
    pub(super) fn packet(&self, name: Name, from: Sender, segment: &Segment, now: u32) -> bool {
        let here = match from {
            Sender::Client => self.look_up(&name.request()),
            Sender::Backend => self.look_up(&name.reply()),
        };
        if here == 0 {
            return false;
        }
        let slot = self.slot(here);
        count(slot, 1, 100);
        if note(slot, self.meta(here), segment, now) {
            turn(self, here, segment);
        }
        true
    }

    pub(super) fn live_flows(&self, of: Live) -> u64 {
        self.live(of).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// What has been told since this was last asked.
    pub(super) fn take_ended(&self) -> Vec<Ended<A>> {
        self.ended.take()
    }

    /// The positions of all live entries.
    pub(super) fn entries(&self) -> Vec<Position> {
        let rows = (0..self.sets()).flat_map(|set| (1..=WAYS).map(move |row| position(set, row)));
        rows.filter(|&here| self.meta(here).is_live()).collect()
    }

    /// Asserts what must hold whatever has happened: headers, links and counts say what the slots say.
    pub(super) fn check(&self) {
        let entries = self.entries();
        let mut spilled = vec![0; self.sets.len()];
        for &here in &entries {
            let meta = self.meta(here);
            let other = self.meta(meta.other());
            assert!(other.is_live() && other.other() == here, "entry {here} is of no pair");
            assert_ne!(meta.has(flag::REPLY), other.has(flag::REPLY));
            assert_eq!(meta.flags() & flag::SHARED, other.flags() & flag::SHARED);
            let key = key(self.slot(here), meta);
            assert_eq!(self.look_up(&key), here, "{key:?} is found elsewhere");
            let way = Way::of(&key, self.seed(), self.sets());
            assert_eq!(self.sets[(here >> 4) as usize].tag(here & 15), way.tag);
            assert_eq!(meta.has(flag::SPILLED), here >> 4 != way.first);
            if here >> 4 != way.first {
                spilled[way.first as usize] += 1;
            }
        }
        for (set, spilled) in self.sets.iter().zip(spilled) {
            assert_eq!(set.spilled(), spilled);
            assert_eq!(set.row(0)[0].load(Ordering::Relaxed), 0, "a lock was left behind");
        }
        let used: u32 = self.sets.iter().map(Set::used).sum();
        assert_eq!(used as usize, entries.len());
        self.check_counts(&entries);
    }

    fn check_counts(&self, entries: &[Position]) {
        let (mut table, mut confirmed) = (0, 0);
        let (mut services, mut backends, mut closing) = ([0; OWNERS], [0; OWNERS], [0; OWNERS]);
        for &here in entries.iter().filter(|&&here| !self.meta(here).has(flag::REPLY)) {
            let facts = self.facts(here);
            table += 1;
            confirmed += u64::from(self.meta(here).state().is_confirmed());
            services[facts.service as usize] += 1;
            backends[facts.backend as usize] += 1;
            closing[facts.backend as usize] += u64::from(self.meta(here).state() == State::Closing);
        }
        assert_eq!(self.live_flows(Live::Table), table);
        assert_eq!(self.live_flows(Live::Confirmed), confirmed);
        for id in 0..OWNERS {
            assert_eq!(self.live_flows(Live::Service(id as u32)), services[id]);
            assert_eq!(self.live_flows(Live::Backend(id as u32)), backends[id]);
            assert_eq!(self.live_flows(Live::Closing(id as u32)), closing[id]);
        }
    }
}
