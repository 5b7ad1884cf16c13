//! Copying flows into tables of other sizes: all that a flow is comes along, and nothing else changes anywhere.
//!
//! A [`Life`] is a flow and what happens to it, so that tables can be filled with flows in every state.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use equipoise_lab::scale;
use proptest::prelude::*;

use super::conversation::{ACK, FIN, RST};
use super::table::{NO_LIMITS, Name, Numbered, OWNERS, Sender, Table};
use crate::flow::copy::{Copied, carry, copy};
use crate::flow::count::{Live, Refused};
use crate::flow::end::end;
use crate::flow::entry::{Meta, Reason, count, flag, key};
use crate::flow::open::New;
use crate::flow::set::{End, GRACE, Position, Set, Storage, sets_for};
use crate::flow::state::State;
use crate::flow::track::{Segment, close};
use crate::key::{FiveTuple, TCP, UDP, V4, V6};

use Sender::{Backend, Client};

/// A flow and what happens to it.
#[derive(Clone, Copy, Debug)]
struct Life {
    name: Name,
    generation: u16,
    /// How far it gets in the conversation of [`Life::lines`].
    spoken: usize,
    /// Who finishes first.
    finishes: Sender,
    then: Then,
    /// Ticks between packets.
    pace: u32,
    /// How often so many packets and bytes of both directions are counted besides.
    bulk: (u64, [u64; 2]),
}

/// What happens at last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    Nothing,
    ClientReset,
    BackendGone,
    /// It is in no table any more.
    Ended,
}

impl Life {
    /// After the first packet: an answer, a confirmation, and both ends' FINs with what is said to them.
    fn lines(&self) -> Vec<(Sender, Segment)> {
        let mut lines = vec![(Backend, self.name.answer()), (Client, self.name.confirmation())];
        if self.name.protocol == TCP {
            let say = |from, flags, own: u32, other: u32| {
                let (sequence, acknowledgement) = if from == Client {
                    (1 + own, 8_001 + other)
                } else {
                    (8_001 + own, 1 + other)
                };
                let length = u32::from(flags == FIN);
                (from, Segment { flags, sequence, acknowledgement, length })
            };
            let first = self.finishes;
            let second = if first == Client { Backend } else { Client };
            lines.extend([say(first, FIN, 0, 0), say(second, ACK, 0, 1)]);
            lines.extend([say(second, FIN, 0, 1), say(first, ACK, 1, 1)]);
        }
        lines
    }

    /// Opens the flow and lets it live. In a table of few sets one in some hundred thousand finds none with room.
    fn live<A: Numbered, const SLOT: usize>(&self, table: &Table<A, SLOT>, start: u32) {
        let new = New { generation: self.generation, ..self.name.opening(start) };
        let opened = table.open(&new, &NO_LIMITS);
        let here = opened.at;
        if here == 0 {
            assert_eq!(opened.refused, Refused::Crowded as u32);
            return;
        }
        let mut now = start;
        for (from, segment) in self.lines().iter().take(self.spoken) {
            now = now.wrapping_add(self.pace);
            table.packet(self.name, *from, segment, now);
        }
        let there = table.meta(here).other();
        let (times, [packets, bytes]) = self.bulk;
        for (here, times) in [(here, times), (there, times / 2)] {
            for _ in 0..times {
                count(table.slot(here), packets, bytes);
            }
        }
        match self.then {
            Then::Nothing => {}
            Then::ClientReset => {
                let sequence = if self.spoken > 2 && self.finishes == Client { 2 } else { 1 };
                let flags = if self.name.protocol == TCP { RST } else { 0 };
                let segment = Segment { flags, sequence, ..Segment::default() };
                table.packet(self.name, Client, &segment, now);
            }
            Then::BackendGone => assert!(close(table, here, Reason::BackendGone)),
            Then::Ended => assert!(end(table, here, Reason::Idle, now)),
        }
    }
}

/// What a table holds, to the word: every row of every set, and all counts.
fn contents<A: Numbered, const SLOT: usize>(table: &Table<A, SLOT>) -> Vec<u64> {
    let rows = (0..table.sets()).flat_map(|set| (0..16).map(move |row| set << 4 | row));
    let mut words: Vec<u64> = rows.flat_map(|row| words(table, row)).collect();
    words.extend([Live::Table, Live::Confirmed].map(|of| table.live_flows(of)));
    for id in 0..OWNERS as u32 {
        words.extend([Live::Service(id), Live::Backend(id)].map(|of| table.live_flows(of)));
    }
    words
}

fn words<A: Numbered, const SLOT: usize>(table: &Table<A, SLOT>, here: Position) -> Vec<u64> {
    table.slot(here).iter().map(|word| word.load(Ordering::Relaxed)).collect()
}

/// The positions of all requests' entries.
fn requests<A: Numbered, const SLOT: usize>(table: &Table<A, SLOT>) -> Vec<Position> {
    let mut entries = table.entries();
    entries.retain(|&here| !table.meta(here).has(flag::REPLY));
    entries
}

/// Asserts that both tables have the flow of this request and reply, with all that there is to it, and that it is
/// found from both ends.
fn assert_same<A: Numbered, const SLOT: usize>(
    [from, to]: [&Table<A, SLOT>; 2],
    names: [FiveTuple<A>; 2],
) {
    let [request, reply] = names;
    for (key, other) in [(request, reply), (reply, request)] {
        let (here, there) = (from.look_up(&key), to.look_up(&key));
        assert!(here != 0 && there != 0, "{key:?} is lost");
        let (was, is) = (from.meta(here), to.meta(there));
        assert_eq!(is.flags() & !flag::SPILLED, was.flags() & !flag::SPILLED, "{key:?}");
        assert_eq!(is.generation(), was.generation());
        assert_eq!(is.other(), to.look_up(&other));
        assert_eq!(to.facts(there), from.facts(here));
        assert_eq!(to.traffic(there), from.traffic(here));
        // Names, times, numbers and traffic: all but the meta word.
        assert_eq!(words(to, there)[1..], words(from, here)[1..], "{key:?}");
    }
}

/// Copies a table with these flows into another, twice; answers with how many there are, and how many have found room
/// there.
fn copy_all<A: Numbered, const SLOT: usize>(
    lives: &[Life],
    [sets, other_sets]: [u32; 2],
    [seed, other_seed]: [u64; 2],
    start: u32,
) -> (usize, usize) {
    let from = Table::<A, SLOT>::seeded(sets, seed);
    let to = Table::<A, SLOT>::seeded(other_sets, other_seed);
    for life in lives {
        life.live(&from, start);
    }
    from.check();
    from.take_ended();
    let before = contents(&from);
    let now = start.wrapping_add(10_000);
    let mut found_room = 0;
    let mut outcomes = Vec::new();
    for here in requests(&from) {
        let copied = copy(&from, here, &to, now);
        to.check();
        let names =
            [here, from.meta(here).other()].map(|here| key(from.slot(here), from.meta(here)));
        if copied == Copied::Done {
            found_room += 1;
        } else {
            assert_eq!(copied, Copied::Refused(Refused::Crowded));
            assert_eq!(names.map(|name| to.look_up(&name)), [0; 2], "half of it is there");
        }
        assert_eq!(to.entries().len(), 2 * found_room);
        outcomes.push((here, names, copied));
    }
    let copies = contents(&to);
    for (here, names, copied) in outcomes {
        let again = copy(&from, here, &to, now);
        if copied == Copied::Done {
            assert_eq!(again, Copied::Found);
            assert_same([&from, &to], names);
        } else {
            assert_eq!(again, copied);
        }
    }
    assert!(contents(&to) == copies, "the second time has changed something");
    assert!(contents(&from) == before, "where it was copied from is not as it was");
    assert!(from.take_ended().is_empty() && to.take_ended().is_empty(), "told of an end");
    (requests(&from).len(), found_room)
}

/// A flow in every state that there is, with every flag and reason.
fn one_of_each() -> Vec<Life> {
    let mut lives = Vec::new();
    for name in [Name::tcp(0), Name::udp(0)] {
        for spoken in 0..7 {
            for finishes in [Client, Backend] {
                for then in [Then::Nothing, Then::ClientReset, Then::BackendGone] {
                    let client = lives.len() as u32;
                    let name = Name { client, vip: client % 3, backend: client % 8, ..name };
                    let generation = u16::MAX - client as u16;
                    let bulk = (7, [1 << 26, 1 << 34]);
                    lives.push(Life { name, generation, spoken, finishes, then, pace: 3, bulk });
                }
            }
        }
    }
    lives
}

#[test]
fn every_state_flag_and_reason_is_among_them() {
    let table = Table::<V4, 8>::new(20);
    for life in one_of_each() {
        life.live(&table, 5);
    }
    let metas: Vec<Meta> = requests(&table).into_iter().map(|here| table.meta(here)).collect();
    for state in State::LIVE {
        assert!(metas.iter().any(|meta| meta.state() == state), "{state:?}");
    }
    for why in [Reason::ClientFin, Reason::BackendFin, Reason::ClientReset, Reason::BackendGone] {
        assert!(metas.iter().any(|meta| meta.reason() == why), "{why:?}");
    }
    let flags = metas.iter().fold(0, |flags, meta| flags | meta.flags());
    assert_eq!((flags | flag::WHY) & flag::SHARED, flag::SHARED);
}

#[test]
fn flow_in_every_state_is_the_same_in_a_table_of_another_size() {
    let lives = one_of_each();
    let count = lives.len();
    for sets in [[20, 400], [400, 20], [20, 20]] {
        let seeds = [0x5eed, 0x0007_5eed];
        assert_eq!(copy_all::<V4, 8>(&lives, sets, seeds, 5).1, count);
        assert_eq!(copy_all::<V6, 16>(&lives, sets, seeds, u32::MAX - 9).1, count);
    }
}

#[test]
fn what_is_no_request_of_a_live_flow_is_not_copied() {
    let [from, to] = [1, 2].map(|seed| Table::<V4, 8>::seeded(4, seed));
    let ended = from.must_open(Name::tcp(2), 0);
    assert!(end(&from, ended, Reason::Idle, 0));
    let here = from.must_confirm(Name::tcp(1), 0);
    let rows = (0..80).filter(|&row| row != here);
    for row in rows.chain([u32::MAX]) {
        assert_eq!(copy(&from, row, &to, 0), Copied::Nothing, "row {row}");
    }
    assert!(to.entries().is_empty());
    to.check();
    assert_eq!(copy(&from, here, &to, 0), Copied::Done);
}

#[test]
fn flow_that_is_there_already_stays_as_it_is() {
    let [from, to] = [1, 2].map(|seed| Table::<V4, 8>::seeded(4, seed));
    let here = from.must_confirm(Name::tcp(1), 0);
    let elsewhere = Name { backend: 2, ..Name::tcp(1) };
    let there = to.must_open(elsewhere, 7);
    let before = contents(&to);
    assert_eq!(copy(&from, here, &to, 9), Copied::Found);
    assert!(contents(&to) == before);

    assert!(end(&to, there, Reason::Idle, 9));
    to.must_open(Name { vip: 2, ..Name::tcp(1) }, 9);
    let before = contents(&to);
    assert_eq!(copy(&from, here, &to, 9), Copied::Refused(Refused::Taken));
    assert!(contents(&to) == before);
    to.check();
}

#[test]
fn every_reason_to_refuse_is_known_by_its_number() {
    use Refused::{Backend, Busy, Crowded, Full, Reset, Service, Taken, Unnamed};
    for refused in [Full, Crowded, Busy, Service, Backend, Taken, Reset, Unnamed] {
        assert_eq!(Refused::from_number(refused as u32), Some(refused));
    }
    assert_eq!([0, 9].map(Refused::from_number), [None; 2]);
}

/// One set has room for seven flows.
#[test]
fn nothing_gives_way_to_a_copy() {
    let (from, to) = (Table::<V4, 8>::new(4), Table::<V4, 8>::new(1));
    let here = from.must_confirm(Name::tcp(8), 0);
    for n in 1..=7 {
        to.must_open(Name::tcp(n), 0);
    }
    let before = contents(&to);
    // Long after all of them are past their time.
    assert_eq!(copy(&from, here, &to, 1 << 20), Copied::Refused(Refused::Crowded));
    assert!(contents(&to) == before);
    assert!(to.take_ended().is_empty());
}

#[test]
fn copy_keeps_to_the_grace_of_the_table_that_it_goes_to() {
    for now in [0, 1_000, u32::MAX, u32::MAX - GRACE] {
        let (from, to) = (Table::<V4, 8>::new(4), Table::<V4, 8>::new(1));
        let here = from.must_confirm(Name::tcp(8), now.wrapping_sub(5_000));
        for n in 1..=7 {
            to.must_open(Name::tcp(n), now);
        }
        for here in requests(&to) {
            assert!(end(&to, here, Reason::Idle, now));
        }
        // An entry of 15 was never used.
        let crowded = Copied::Refused(Refused::Crowded);
        assert_eq!(copy(&from, here, &to, now.wrapping_add(GRACE)), crowded);
        to.check();
        assert_eq!(copy(&from, here, &to, now.wrapping_add(GRACE + 1)), Copied::Done);
        assert_same([&from, &to], [Name::tcp(8).request(), Name::tcp(8).reply()]);
        to.check();
    }
}

/// A table in which something happens just before it is looked at for a certain time.
struct Restless<'a, F> {
    table: &'a Table<V4, 8>,
    looks: Cell<u32>,
    /// Before this look at it.
    at: u32,
    happens: F,
}

impl<F: Fn()> Storage<8> for Restless<'_, F> {
    type Word = AtomicU64;
    type Address = V4;

    fn sets(&self) -> u32 {
        self.table.sets()
    }

    fn seed(&self) -> u64 {
        self.table.seed()
    }

    fn set(&self, index: u32) -> Option<&Set<AtomicU64, 8>> {
        self.looks.set(self.looks.get() + 1);
        if self.looks.get() == self.at {
            (self.happens)();
        }
        self.table.set(index)
    }

    fn live(&self, of: Live) -> Option<&AtomicU64> {
        self.table.live(of)
    }

    fn timeout(&self, service: u32, state: u32) -> u32 {
        self.table.timeout(service, state)
    }

    fn ended(&self, end: &End<'_, AtomicU64, 8>) {
        self.table.ended(end);
    }
}

#[test]
fn flow_that_ends_while_it_is_read_is_not_copied() {
    let name = Name::tcp(1);
    for is_followed in [false, true] {
        let [from, to] = [1, 2].map(|seed| Table::<V4, 8>::seeded(4, seed));
        let here = from.must_confirm(name, 0);
        let happens = || {
            assert!(end(&from, here, Reason::Idle, 0));
            if is_followed {
                // In the same two slots.
                let next = New { generation: 8, ..name.opening(GRACE + 1) };
                assert_eq!(from.open(&next, &NO_LIMITS).at, here);
            }
        };
        let restless = Restless { table: &from, looks: Cell::new(0), at: 2, happens };
        assert_eq!(copy(&restless, here, &to, GRACE + 1), Copied::Nothing);
        assert_eq!(restless.looks.get(), 2);
        assert!(to.entries().is_empty());
        to.check();
    }
}

#[test]
fn flow_in_every_state_is_carried_over_as_it_is() {
    let lives = one_of_each();
    for sets in [[20, 400], [400, 20], [20, 20]] {
        let from = Table::<V4, 8>::seeded(sets[0], 0x5eed);
        let like = Table::<V4, 8>::seeded(sets[0], 0x5eed);
        let to = Table::<V4, 8>::seeded(sets[1], 0x0007_5eed);
        for life in &lives {
            life.live(&from, 5);
            life.live(&like, 5);
        }
        from.take_ended();
        like.take_ended();
        for (number, here) in requests(&from).into_iter().enumerate() {
            let names =
                [here, from.meta(here).other()].map(|here| key(from.slot(here), from.meta(here)));
            assert_eq!(carry(&from, here, &to, 9_000), Copied::Done);
            assert_same([&like, &to], names);
            assert_eq!(names.map(|name| from.look_up(&name)), [0; 2]);
            from.check();
            to.check();
            assert_eq!(to.entries().len(), 2 * (number + 1));
            assert_eq!(carry(&from, here, &to, 9_000), Copied::Nothing);
        }
        assert_eq!((from.entries().len(), requests(&to).len()), (0, lives.len()));
        assert!(from.take_ended().is_empty() && to.take_ended().is_empty(), "told of an end");
    }
}

#[test]
fn flow_that_lives_on_while_it_is_carried_over_loses_nothing() {
    let name = Name::tcp(1);
    // Read by the first two looks; left by the third.
    let ways: [fn(&Table<V4, 8>, Position); 2] = [
        |from, here| assert!(close(from, here, Reason::BackendGone)),
        |from, _| {
            from.packet(Name::tcp(1), Client, &Name::tcp(1).confirmation(), 77);
        },
    ];
    for happens in ways {
        let [from, like, to] = [1, 1, 2].map(|seed| Table::<V4, 8>::seeded(4, seed));
        let [here, there] = [&from, &like].map(|table| table.must_confirm(name, 0));
        happens(&like, there);
        let restless =
            Restless { table: &from, looks: Cell::new(0), at: 3, happens: || happens(&from, here) };
        assert_eq!(carry(&restless, here, &to, 99), Copied::Done);
        assert!(restless.looks.get() > 3);
        assert_same([&like, &to], [name.opening(0).request, name.opening(0).reply]);
        assert!(from.entries().is_empty());
        from.check();
        to.check();
    }
}

#[test]
fn flow_that_is_in_the_other_table_ends_where_it_is() {
    let [from, to] = [1, 2].map(|seed| Table::<V4, 8>::seeded(4, seed));
    let here = from.must_confirm(Name::tcp(1), 0);
    to.must_open(Name { backend: 2, ..Name::tcp(1) }, 7);
    let before = contents(&to);
    from.take_ended();
    assert_eq!(carry(&from, here, &to, 9), Copied::Found);
    assert!(contents(&to) == before);
    assert_eq!((from.entries().len(), from.take_ended().len()), (0, 1));
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let then = prop_oneof![
        5 => Just(Then::Nothing),
        1 => Just(Then::ClientReset),
        1 => Just(Then::BackendGone),
        2 => Just(Then::Ended),
    ];
    let name = (any::<bool>(), any::<u16>(), 0..OWNERS as u32, 0..OWNERS as u32);
    let side = prop_oneof![Just(Client), Just(Backend)];
    let bulk = (0..9_u64, [0..=1_u64 << 26, 0..=1_u64 << 34]);
    let life = (name, any::<u16>(), 0..7_usize, side, then, 0..1_000_u32, bulk);
    prop::collection::vec(life, 0..90).prop_map(|lives| {
        let numbered = (0..).zip(lives);
        let life =
            numbered.map(|(client, (name, generation, spoken, finishes, then, pace, bulk))| {
                let (is_udp, port, vip, backend) = name;
                let protocol = if is_udp { UDP } else { TCP };
                let name = Name { client, port, vip, backend, protocol };
                Life { name, generation, spoken, finishes, then, pace, bulk }
            });
        life.collect()
    })
}

fn copies_are_the_same<A: Numbered, const SLOT: usize>(
    lives: &[Life],
    other_sets: u32,
    seeds: [u64; 2],
    start: u32,
) {
    let sets = sets_for(lives.len() as u32);
    let (living, found_room) = copy_all::<A, SLOT>(lives, [sets, other_sets], seeds, start);
    // In a table of few sets one may find none with room, as in the first.
    assert!(found_room + 1 >= living || other_sets < sets_for(living as u32));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(scale(200, 20_000)))]

    #[test]
    fn copies_of_ipv4_are_the_same_flows(
        lives in lives(),
        other_sets in prop_oneof![1..14_u32, 14..60_u32],
        seeds in any::<[u64; 2]>(),
        start in prop_oneof![Just(0), Just(u32::MAX - 500), any::<u32>()],
    ) {
        copies_are_the_same::<V4, 8>(&lives, other_sets, seeds, start);
    }

    #[test]
    fn copies_of_ipv6_are_the_same_flows(
        lives in lives(),
        other_sets in prop_oneof![1..14_u32, 14..60_u32],
        seeds in any::<[u64; 2]>(),
        start in prop_oneof![Just(0), Just(u32::MAX - 500), any::<u32>()],
    ) {
        copies_are_the_same::<V6, 16>(&lives, other_sets, seeds, start);
    }
}
