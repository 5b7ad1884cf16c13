//! Opening, finding and ending: the round trip, the limits, and what is in the way.

use super::table::{NO_LIMITS, Name, Numbered, Table};
use crate::flow::count::{Live, Refused};
use crate::flow::end::{Evicted, end};
use crate::flow::entry::{Reason, flag};
use crate::flow::open::{Limits, Opened};
use crate::flow::set::{GRACE, Storage};
use crate::flow::state::State;
use crate::key::{UDP, V4, V6};

#[test]
fn flow_is_found_from_both_ends_until_it_ends() {
    fn test<A: Numbered, const SLOT: usize>(name: Name) {
        let table = Table::<A, SLOT>::new(8);
        assert_eq!(table.look_up(&name.request()), 0);
        let here = table.must_open(name, 5);
        table.check();

        assert_eq!(table.look_up(&name.request()), here);
        let there = table.look_up(&name.reply());
        assert_eq!(table.meta(here).other(), there);
        let (request, reply) = (table.facts(here), table.facts(there));
        assert_eq!(request.to, name.reply::<A>().reversed());
        assert_eq!(reply.to, name.request::<A>().reversed());
        for facts in [request, reply] {
            assert_eq!((facts.service, facts.backend), (name.vip, name.backend));
        }
        assert_eq!(table.meta(here).generation(), 7);
        assert_eq!(table.traffic(here), (1, 60));
        assert_eq!(table.traffic(there), (0, 0));

        assert!(end(&table, there, Reason::Idle, 9));
        assert!(!end(&table, here, Reason::Idle, 9), "it has ended already");
        assert_eq!(table.look_up(&name.request()), 0);
        assert_eq!(table.look_up(&name.reply()), 0);
        let ended = table.take_ended();
        assert_eq!(ended.len(), 1);
        assert_eq!((ended[0].request, ended[0].why), (name.request(), Reason::Idle));
        assert_eq!(table.live_flows(Live::Table), 0);
        table.check();
    }
    for name in [Name::tcp(1), Name::udp(1), Name { vip: 3, backend: 5, ..Name::tcp(u32::MAX) }] {
        test::<V4, 8>(name);
        test::<V6, 16>(name);
    }
}

#[test]
fn tcp_and_udp_of_the_same_ports_are_two_flows() {
    let table = Table::<V4, 8>::new(8);
    let tcp = table.must_open(Name::tcp(1), 0);
    let udp = table.must_open(Name::udp(1), 0);
    assert_eq!(table.look_up(&Name::tcp(1).request()), tcp);
    assert_eq!(table.look_up(&Name::udp(1).request()), udp);
    assert_eq!(table.meta(tcp).state(), State::Opening);
    assert_eq!(table.meta(udp).state(), State::OneWay);
    assert_eq!(table.facts(udp).to.protocol, UDP);
    table.check();
}

#[test]
fn second_opening_finds_the_first() {
    let table = Table::<V4, 8>::new(8);
    let here = table.must_open(Name::tcp(1), 0);
    let elsewhere = Name { backend: 2, ..Name::tcp(1) };
    let again = table.open(&elsewhere.opening(0), &NO_LIMITS);
    assert_eq!(again, Opened { at: here, found: true, refused: 0, evicted: 0 });
    assert_eq!(table.facts(here).backend, 1);
    table.check();
}

#[test]
fn name_at_the_backend_is_taken_once() {
    fn test<A: Numbered, const SLOT: usize>() {
        let table = Table::<A, SLOT>::new(8);
        table.must_open(Name::tcp(1), 0);
        let through_other_vip = Name { vip: 2, ..Name::tcp(1) };
        let opened = table.open(&through_other_vip.opening(0), &NO_LIMITS);
        assert_eq!(opened, Opened { refused: Refused::Taken as u32, ..Opened::NOTHING });
        table.check();
        table.must_open(Name { port: 40_001, ..through_other_vip }, 0);
        table.check();
    }
    test::<V4, 8>();
    test::<V6, 16>();
}

#[test]
fn limits_are_kept_to_the_flow() {
    type Case = (Limits, fn(u32) -> Name, Refused);
    let cases: [Case; 3] = [
        (
            Limits { service: 5, ..NO_LIMITS },
            |n| Name { backend: n % 3, ..Name::tcp(n) },
            Refused::Service,
        ),
        (
            Limits { backend: 5, ..NO_LIMITS },
            |n| Name { vip: n % 3, ..Name::tcp(n) },
            Refused::Backend,
        ),
        (Limits { table: 5, ..NO_LIMITS }, Name::tcp, Refused::Full),
    ];
    for (limits, name, refused) in cases {
        let table = Table::<V4, 8>::new(8);
        for n in 1..=5 {
            assert_eq!(table.open(&name(n).opening(0), &limits).refused, 0);
            table.confirm(name(n), 0);
        }
        let opened = table.open(&name(6).opening(0), &limits);
        assert_eq!(opened, Opened { refused: refused as u32, ..Opened::NOTHING });
        table.check();

        assert!(end(&table, table.look_up(&name(1).request()), Reason::Idle, 0));
        assert_eq!(table.open(&name(6).opening(0), &limits).refused, 0);
        table.check();
    }
}

#[test]
fn limit_of_one_owner_leaves_the_others_alone() {
    let table = Table::<V4, 8>::new(8);
    let limits = Limits { service: 1, backend: 1, ..NO_LIMITS };
    for owner in 1..4 {
        let name = Name { vip: owner, backend: owner, ..Name::tcp(owner) };
        assert_eq!(table.open(&name.opening(0), &limits).refused, 0);
    }
    table.check();
}

/// One set has room for seven flows.
#[test]
fn crowded_sets_refuse_and_make_room_for_later() {
    let table = Table::<V4, 8>::new(1);
    for n in 1..=7 {
        table.must_open(Name::tcp(n), n);
    }
    let opened = table.open(&Name::tcp(8).opening(10), &NO_LIMITS);
    assert_eq!(opened.refused, Refused::Crowded as u32);
    assert_eq!(opened.evicted, Evicted::Unconfirmed as u32);
    table.check();
    assert_eq!(table.look_up(&Name::tcp(1).request()), 0, "the oldest has made room");
    table.must_open(Name::tcp(8), 11 + GRACE);
    table.check();
}

#[test]
fn crowded_sets_of_confirmed_flows_stay_as_they_are() {
    let table = Table::<V4, 8>::new(1);
    for n in 1..=7 {
        table.must_confirm(Name::tcp(n), n);
    }
    let opened = table.open(&Name::tcp(8).opening(10), &NO_LIMITS);
    assert_eq!(opened, Opened { refused: Refused::Crowded as u32, ..Opened::NOTHING });
    assert_eq!(table.live_flows(Live::Table), 7);
    table.check();
}

#[test]
fn locked_set_is_not_waited_for() {
    let table = Table::<V4, 8>::new(1);
    assert!(table.set(0).unwrap().try_lock(1));
    let opened = table.open(&Name::tcp(1).opening(0), &NO_LIMITS);
    assert_eq!(opened, Opened { refused: Refused::Busy as u32, ..Opened::NOTHING });
    table.set(0).unwrap().unlock(1);
    table.must_open(Name::tcp(1), 0);
    table.check();
}

#[test]
fn spilled_entries_are_found_and_counted_until_they_end() {
    fn test<A: Numbered, const SLOT: usize>() {
        let table = Table::<A, SLOT>::new(64);
        // 15 ways in 16 used: many first choices are full.
        let mut names: Vec<Name> = (0..450).map(Name::tcp).collect();
        for name in &names {
            table.open(&name.opening(0), &NO_LIMITS);
        }
        names.retain(|name| table.look_up(&name.request()) != 0);
        assert!(names.len() > 400, "{} opened", names.len());
        let entries = table.entries();
        let is_spilled = |here: &&u32| table.meta(**here).has(flag::SPILLED);
        assert!(entries.iter().filter(is_spilled).count() > 20);
        table.check();
        for name in names {
            assert!(end(&table, table.look_up(&name.request()), Reason::Idle, 0));
        }
        assert!(table.entries().is_empty());
        table.check();
    }
    test::<V4, 8>();
    test::<V6, 16>();
}

#[test]
fn slot_is_not_used_again_within_its_grace() {
    for start in [0, 1_000, u32::MAX - 200, u32::MAX - GRACE, u32::MAX] {
        let table = Table::<V4, 8>::new(1);
        for n in 1..=7 {
            table.must_confirm(Name::tcp(n), start);
        }
        let given_up = table.look_up(&Name::tcp(3).request());
        assert!(end(&table, given_up, Reason::Idle, start));
        for later in [0, 1, GRACE] {
            let now = start.wrapping_add(later);
            let opened = table.open(&Name::tcp(8).opening(now), &NO_LIMITS);
            assert_eq!(opened.refused, Refused::Crowded as u32, "{later} ticks later");
        }
        // One whose clock is a little behind.
        let opened = table.open(&Name::tcp(8).opening(start.wrapping_sub(2)), &NO_LIMITS);
        assert_eq!(opened.refused, Refused::Crowded as u32);
        table.must_open(Name::tcp(8), start.wrapping_add(GRACE + 1));
        table.check();
    }
}

#[test]
fn slot_that_rested_for_weeks_is_used_again() {
    const DAY: u32 = 86_400_000;
    for days in [1, 20, 25, 30, 40, 48] {
        let table = Table::<V4, 8>::new(1);
        for n in 1..=7 {
            assert!(end(&table, table.must_open(Name::tcp(n), 0), Reason::Idle, 0));
        }
        for n in 1..=7 {
            table.must_open(Name::tcp(n), days * (DAY / 100 * 95));
        }
    }
}
