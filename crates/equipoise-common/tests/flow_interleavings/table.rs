//! A flow table whose words are the model checker's, with only as many of them as a scenario can write.
//!
//! [`Tracked`] has the memory orders that `equipoise_common::flow` asks for and no stronger ones. Rows that a
//! scenario does not give to its flows rest for ever, and a write to one of them is an error.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use equipoise_common::flow::count::Live;
use equipoise_common::flow::entry::{Facts, Meta, Reason, count, facts, flag, key};
use equipoise_common::flow::find::find;
use equipoise_common::flow::open::{Limits, New, Opened, open};
use equipoise_common::flow::set::{End, Position, Set, Storage, Way, at, position};
use equipoise_common::flow::state::State;
use equipoise_common::flow::track::{Segment, note, tcp, turn};
use equipoise_common::flow::word::Word;
use equipoise_common::key::{Be16, FiveTuple, TCP, V4};
use loom::sync::atomic::{AtomicU64, Ordering, fence};

/// When everything happens, unless a scenario says otherwise.
pub(crate) const NOW: u32 = 1_000;

/// Words of a row of an IPv4 table.
const SLOT: usize = 8;

pub(crate) const NO_LIMITS: Limits = Limits { table: 0, service: 0, backend: 0 };

loom::thread_local! {
    /// The CPU that a thread is.
    pub(crate) static CPU: Cell<usize> = Cell::new(0);
}

/// A word.
pub(crate) enum Tracked {
    /// Written by nobody in this scenario.
    Fixed(u64),
    /// One of the model checker's.
    Shared(Box<Shared>),
}

/// A word of the model checker's, and one for each CPU's loads of it.
///
/// The checker (0.7) remembers the last access to a word alone, to know which order of accesses to try the other way
/// round. A CPU that loads a word and then changes it hides by its own load that another has loaded it before,
/// and what comes of the change before that load is never tried. So each load is also a store to a word that
/// only this CPU's loads and the others' changes go to; nobody reads it, so it orders nothing.
pub(crate) struct Shared {
    word: AtomicU64,
    loads: Vec<AtomicU64>,
}

impl Tracked {
    /// One that so many CPUs share.
    pub(crate) fn shared(cpus: usize) -> Self {
        let zero = |_| AtomicU64::new(0);
        Self::Shared(Box::new(Shared { word: zero(0), loads: (0..cpus).map(zero).collect() }))
    }

    /// The word, to be changed.
    fn change(&self) -> &AtomicU64 {
        let Self::Shared(shared) = self else {
            panic!("a word is written that the scenario takes for constant");
        };
        let cpu = CPU.with(Cell::get);
        for (other, loads) in shared.loads.iter().enumerate() {
            if other != cpu {
                loads.store(0, Ordering::Relaxed);
            }
        }
        &shared.word
    }
}

impl Word for Tracked {
    fn load(&self) -> u64 {
        match self {
            Self::Fixed(value) => *value,
            Self::Shared(shared) => {
                shared.loads[CPU.with(Cell::get)].store(0, Ordering::Relaxed);
                shared.word.load(Ordering::Relaxed)
            }
        }
    }

    fn store(&self, value: u64) {
        self.change().store(value, Ordering::Relaxed);
    }

    fn store_low(&self, value: u32) {
        let word = self.change();
        let mut was = 0;
        loop {
            let new = was >> 32 << 32 | u64::from(value);
            match word.compare_exchange(was, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(is) => was = is,
            }
        }
    }

    /// The model checker takes sequential consistency of one access for acquire and release; fences are what the
    /// kernel promises. An exchange that fails orders nothing that comes after it.
    fn exchange(&self, current: u64, new: u64) -> u64 {
        let word = self.change();
        fence(Ordering::SeqCst);
        match word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(was) => {
                fence(Ordering::SeqCst);
                was
            }
            Err(was) => was,
        }
    }

    fn add(&self, by: u64) -> u64 {
        let word = self.change();
        fence(Ordering::SeqCst);
        let was = word.fetch_add(by, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        was
    }
}

/// A flow of a scenario, told from others by its client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Name {
    pub(crate) client: u32,
    pub(crate) vip: u32,
    pub(crate) protocol: u32,
}

impl Name {
    /// The first one whose request and reply have these sets to go to, first and second choice, of so many.
    pub(crate) fn leading_to(request: [u32; 2], reply: [u32; 2], sets: u32) -> Self {
        Self::all().find(|name| name.leads_to(request, reply, sets)).unwrap()
    }

    /// Any, through the first VIP.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (1..).map(|client| Self { client, vip: 1, protocol: TCP })
    }

    /// Whether it has these sets to go to, and prefers no row that a scenario uses.
    pub(crate) fn leads_to(self, request: [u32; 2], reply: [u32; 2], sets: u32) -> bool {
        [(self.request(), request), (self.reply(), reply)].iter().all(|(key, to)| {
            let way = Way::of(key, SEED, sets);
            [way.first, way.second] == *to && way.row > MOST_ROWS
        })
    }

    pub(crate) fn request(self) -> FiveTuple<V4> {
        FiveTuple {
            source: V4(self.client),
            destination: V4(0xcb00_7100 + self.vip),
            source_port: Be16::new(40_000),
            destination_port: Be16::new(443),
            protocol: self.protocol,
        }
    }

    /// The same for all VIPs.
    pub(crate) fn reply(self) -> FiveTuple<V4> {
        FiveTuple {
            source: V4(0x0a00_0001),
            destination: V4(self.client),
            source_port: Be16::new(8_443),
            destination_port: Be16::new(40_000),
            protocol: self.protocol,
        }
    }

    pub(crate) fn key(self, from: Sender) -> FiveTuple<V4> {
        match from {
            Sender::Client => self.request(),
            Sender::Backend => self.reply(),
        }
    }

    /// What the entry of this direction makes of its packets.
    pub(crate) fn to(self, from: Sender) -> FiveTuple<V4> {
        match from {
            Sender::Client => self.reply().reversed(),
            Sender::Backend => self.request().reversed(),
        }
    }
}

/// Who sends a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sender {
    Client,
    Backend,
}

const SEED: u64 = 0x5eed_0f7e_57ed_7ab1;

/// Rows of a set that a scenario may give to flows at most: those whose tags are in one word.
const MOST_ROWS: u32 = 3;

/// The table.
pub(crate) struct Table {
    sets: Vec<Set<Tracked, SLOT>>,
    table: Tracked,
    confirmed: Tracked,
    service: Tracked,
    backend: Tracked,
    closing: Tracked,
    ended: Mutex<Vec<(State, Reason)>>,
    cpus: AtomicUsize,
}

impl Storage<SLOT> for Table {
    type Word = Tracked;
    type Address = V4;

    fn sets(&self) -> u32 {
        self.sets.len() as u32
    }

    fn seed(&self) -> u64 {
        SEED
    }

    fn set(&self, index: u32) -> Option<&Set<Tracked, SLOT>> {
        self.sets.get(index as usize)
    }

    fn live(&self, of: Live) -> Option<&Tracked> {
        match of {
            Live::Table => Some(&self.table),
            Live::Confirmed => Some(&self.confirmed),
            Live::Service(_) => Some(&self.service),
            Live::Backend(_) => Some(&self.backend),
            Live::Closing(_) => Some(&self.closing),
        }
    }

    fn timeout(&self, _service: u32, _state: u32) -> u32 {
        100_000
    }

    fn ended(&self, end: &End<'_, Tracked, SLOT>) {
        self.ended.lock().unwrap().push((end.was.state(), end.why));
    }
}

impl Table {
    /// For so many CPUs, with so many rows for flows, set by set.
    pub(crate) fn new<const SETS: usize>(cpus: usize, rows: [u32; SETS]) -> Self {
        let shared = || Tracked::shared(cpus);
        // Ahead of every clock here.
        let resting = Meta::resting(NOW + 1_000_000).0;
        let word = |rows: u32, row: u32, word: usize| match (row, word) {
            // The lock, and the tags of rows 0 to 3.
            (0, 0 | 2) => shared(),
            // What spills is what finds no row.
            (0, 1) if rows == 0 => shared(),
            (0, _) => Tracked::Fixed(0),
            _ if row <= rows => shared(),
            (_, 0) => Tracked::Fixed(resting),
            _ => Tracked::Fixed(0),
        };
        let set = |rows: &u32| {
            Set::new(std::array::from_fn(|row| {
                std::array::from_fn(|at| word(*rows, row as u32, at))
            }))
        };
        assert!(rows.iter().all(|&rows| rows <= MOST_ROWS));
        Self {
            sets: rows.iter().map(set).collect(),
            table: shared(),
            confirmed: shared(),
            service: shared(),
            backend: shared(),
            closing: shared(),
            ended: Mutex::default(),
            cpus: AtomicUsize::new(0),
        }
    }

    /// The number of one more CPU; the one that runs the scenario is 0.
    pub(crate) fn next_cpu(&self) -> usize {
        self.cpus.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn open(&self, name: Name, now: u32) -> Opened {
        self.open_within(name, &NO_LIMITS, now)
    }

    pub(crate) fn open_within(&self, name: Name, limits: &Limits, now: u32) -> Opened {
        let new = New {
            request: name.request(),
            reply: name.reply(),
            service: name.vip,
            backend: 1,
            generation: 0,
            is_one_sided: false,
            sent: 1,
            acknowledged: 0,
            packets: 1,
            bytes: 60,
            now,
            begun: now << 10,
        };
        let mut opened = Opened::NOTHING;
        open(self, &new, limits, &mut opened);
        opened
    }

    pub(crate) fn must_open(&self, name: Name) -> Position {
        let opened = self.open(name, NOW);
        assert!(opened.refused == 0 && !opened.found);
        opened.at
    }

    /// Opens a flow up to the backend's answer.
    pub(crate) fn must_answer(&self, name: Name) -> Position {
        let here = self.must_open(name);
        assert!(self.packet(name, Sender::Backend, &ANSWER).is_some());
        here
    }

    pub(crate) fn must_confirm(&self, name: Name) -> Position {
        let here = self.must_answer(name);
        assert!(self.packet(name, Sender::Client, &CONFIRMATION).is_some());
        assert!(self.meta(here).state().is_confirmed());
        here
    }

    /// The way of a packet as the packet programs go it: what its flow makes of it, if it has one.
    pub(crate) fn packet(&self, name: Name, from: Sender, segment: &Segment) -> Option<Facts<V4>> {
        let key = name.key(from);
        let here = find(self, &key, &Way::of(&key, SEED, self.sets()));
        if here == 0 {
            return None;
        }
        let slot = at(self, here)?;
        let meta = Meta(slot[0].load());
        count(slot, 1, 100);
        let after = Meta(slot[0].load());
        if after.other() != meta.other() || !after.is_live() {
            return None;
        }
        let facts = facts(slot, meta);
        if note(slot, meta, segment, NOW) {
            turn(self, here, segment);
        }
        Some(facts)
    }

    pub(crate) fn look_up(&self, key: &FiveTuple<V4>) -> Position {
        find(self, key, &Way::of(key, SEED, self.sets()))
    }

    pub(crate) fn slot(&self, here: Position) -> &[Tracked; SLOT] {
        at(self, here).unwrap()
    }

    pub(crate) fn meta(&self, here: Position) -> Meta {
        Meta(self.slot(here)[0].load())
    }

    /// The states that flows were in when they ended, and why they did.
    pub(crate) fn ended(&self) -> Vec<(State, Reason)> {
        self.ended.lock().unwrap().clone()
    }

    /// Asserts, once all threads are done, that headers, links and counts say what the slots say.
    /// Answers with the number of flows.
    pub(crate) fn check(&self) -> u64 {
        let rows = (0..self.sets()).flat_map(|set| (1..16).map(move |row| position(set, row)));
        let live: Vec<Position> = rows.filter(|&here| self.meta(here).is_live()).collect();
        let (mut counts, mut spilled) = ([0; 5], vec![0; self.sets.len()]);
        for &here in &live {
            let meta = self.meta(here);
            let other = self.meta(meta.other());
            assert!(other.is_live() && other.other() == here, "an entry without its other");
            assert_eq!(
                meta.flags() & flag::SHARED,
                other.flags() & flag::SHARED,
                "entries disagree"
            );
            let found: FiveTuple<V4> = key(self.slot(here), meta);
            assert_eq!(self.look_up(&found), here, "an entry that is not found, or doubled");
            if meta.has(flag::SPILLED) {
                spilled[Way::of(&found, SEED, self.sets()).first as usize] += 1;
            }
            if !meta.has(flag::REPLY) {
                counts = counts.map(|count| count + 1);
                counts[1] -= u64::from(!meta.state().is_confirmed());
                counts[4] -= u64::from(meta.state() != State::Closing);
            }
        }
        let says = [&self.table, &self.confirmed, &self.service, &self.backend, &self.closing];
        assert_eq!(says.map(Word::load), counts, "table, confirmed, service, backend, closing");
        let used: u32 = self.sets.iter().map(Set::used).sum();
        assert_eq!(used as usize, live.len(), "tags of rows that are not in use");
        let says: Vec<u64> = self.sets.iter().map(Set::spilled).collect();
        assert_eq!(says, spilled, "entries that are not in their first sets");
        assert!(self.sets.iter().all(|set| set.row(0)[0].load() == 0), "a lock is left behind");
        counts[0]
    }
}

/// The backend's answer to the SYN that opens each flow here.
pub(crate) const ANSWER: Segment =
    Segment { flags: tcp::SYN | tcp::ACK, sequence: 8_000, acknowledgement: 1, length: 1 };

/// What the client says to that.
pub(crate) const CONFIRMATION: Segment =
    Segment { flags: tcp::ACK, sequence: 1, acknowledgement: 8_001, length: 0 };
