//! Which flow gives way, and when none does.

use super::table::{NO_LIMITS, Name, Sender, TIMEOUTS, Table};
use crate::flow::count::{Live, Refused};
use crate::flow::end::{Evicted, end, evict};
use crate::flow::entry::Reason;
use crate::flow::find::is_expired;
use crate::flow::open::Limits;
use crate::flow::state::State;
use crate::flow::track::close;
use crate::key::V4;

const OPENING: u32 = TIMEOUTS[State::Opening as usize];

#[test]
fn expired_flows_give_way_first_then_closing_ones_then_unconfirmed_ones() {
    // Also where the finer times of replies' entries go round.
    let around = (0..400).map(|tens| (1 << 21) + 10 * tens);
    for start in [0, u32::MAX - 700, u32::MAX].into_iter().chain(around) {
        let at = |ticks: u32| start.wrapping_add(ticks);
        let table = Table::<V4, 8>::new(1);
        table.must_open(Name::tcp(1), at(0));
        table.must_confirm(Name::tcp(2), at(650));
        table.must_confirm(Name::tcp(3), at(640));
        table.must_open(Name::udp(4), at(620));
        table.must_open(Name::tcp(5), at(610));
        table.must_confirm(Name::tcp(6), at(300));
        table.must_confirm(Name::udp(7), at(300));
        for n in [2, 3] {
            assert!(close(&table, table.look_up(&Name::tcp(n).request()), Reason::ClientReset));
        }
        table.take_ended();

        let now = at(OPENING + 1);
        let expected = [
            (Name::tcp(1), Evicted::Expired, Reason::Idle),
            (Name::tcp(3), Evicted::Closing, Reason::Evicted),
            (Name::tcp(2), Evicted::Closing, Reason::Evicted),
            (Name::tcp(5), Evicted::Unconfirmed, Reason::Evicted),
            (Name::udp(4), Evicted::Unconfirmed, Reason::Evicted),
        ];
        for (name, evicted, why) in expected {
            assert_eq!(evict(&table, 0, now), evicted);
            let ended = table.take_ended();
            assert_eq!((ended[0].request, ended[0].why), (name.request(), why));
            table.check();
        }
        assert_eq!(evict(&table, 0, now), Evicted::Nothing);
        assert_eq!(table.live_flows(Live::Confirmed), 2);
        table.check();
    }
}

#[test]
fn full_table_takes_a_new_flow_for_one_that_is_not_confirmed() {
    let table = Table::<V4, 8>::new(1);
    let limits = Limits { table: 4, ..NO_LIMITS };
    for n in 1..=3 {
        table.must_confirm(Name::tcp(n), 0);
    }
    for n in 4..=6 {
        let opened = table.open(&Name::tcp(n).opening(1), &limits);
        let evicted = if n == 4 { Evicted::Nothing } else { Evicted::Unconfirmed };
        assert_eq!((opened.refused, opened.evicted), (0, evicted as u32));
        assert_eq!(table.live_flows(Live::Table), 4);
        table.check();
    }
    table.confirm(Name::tcp(6), 1);
    assert_eq!(table.open(&Name::tcp(7).opening(1), &limits).refused, Refused::Full as u32);
    table.check();
}

#[test]
fn confirmed_flow_past_its_time_gives_way() {
    let table = Table::<V4, 8>::new(1);
    table.must_confirm(Name::tcp(1), 0);
    let timeout = TIMEOUTS[State::Established as usize];
    assert_eq!(evict(&table, 0, timeout), Evicted::Nothing);
    assert_eq!(evict(&table, 0, timeout + 1), Evicted::Expired);
    table.check();
}

#[test]
fn flow_is_expired_when_both_directions_have_been_idle() {
    for start in [0, u32::MAX, u32::MAX - OPENING, u32::MAX / 2] {
        let at = |ticks: u32| start.wrapping_add(ticks);
        let table = Table::<V4, 8>::new(4);
        let here = table.must_open(Name::tcp(1), at(0));
        let there = table.meta(here).other();
        let is_expired = |ticks: u32| {
            [here, there].map(|here| is_expired(&table, here, table.slot(here), OPENING, at(ticks)))
        };
        assert_eq!(is_expired(OPENING), [false; 2]);
        assert_eq!(is_expired(OPENING + 1), [true; 2]);
        table.packet(Name::tcp(1), Sender::Backend, &Name::tcp(1).answer(), at(700));
        assert_eq!(is_expired(OPENING + 700), [false; 2]);
        assert_eq!(is_expired(OPENING + 701), [true; 2]);
        assert_eq!(is_expired(u32::MAX), [false; 2], "a clock that is a little behind");
    }
}

#[test]
fn flow_forgotten_for_a_month_is_still_past_its_time() {
    let table = Table::<V4, 8>::new(1);
    table.must_confirm(Name::tcp(1), 0);
    for days in [2, 20, 30, 45] {
        let here = table.look_up(&Name::tcp(1).request());
        let timeout = TIMEOUTS[State::Established as usize];
        assert!(is_expired(&table, here, table.slot(here), timeout, days * 82_000_000));
    }
}

#[test]
fn clock_behind_that_of_the_opening_makes_a_flow_young() {
    let table = Table::<V4, 8>::new(1);
    table.must_open(Name::tcp(1), 10);
    table.must_open(Name::tcp(2), 8);
    assert_eq!(evict(&table, 0, 9), Evicted::Unconfirmed);
    let left = [1, 2].map(|name| table.look_up(&Name::tcp(name).request()));
    let left: Vec<_> = left.into_iter().filter(|&here| here != 0).collect();
    assert_eq!(left.len(), 1, "both count as just opened, and one of them gives way");
    assert!(end(&table, left[0], Reason::Idle, 9));
    table.check();
}
