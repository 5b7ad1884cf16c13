//! Several CPUs, or one and user space, end flows: each once, and no slot is taken from under a reader.

use std::sync::Arc;

use equipoise_common::flow::count::Refused;
use equipoise_common::flow::end::{Evicted, end, evict};
use equipoise_common::flow::entry::{Reason, traffic};
use equipoise_common::flow::set::GRACE;
use equipoise_common::flow::state::State;
use equipoise_common::flow::track::{Segment, tcp};
use loom::sync::atomic::{AtomicBool, Ordering};

use crate::table::{CONFIRMATION, NOW, Name, Sender, Table};
use crate::{explore, on_another_cpu, plain};

const CROWDED: u32 = Refused::Crowded as u32;

/// Time passes as it does for the reader: the grace is over only when it is done.
#[test]
fn reader_never_takes_a_slots_next_flow_for_its_own() {
    let mut names = Name::all().filter(|name| name.leads_to([0, 0], [1, 1], 2));
    let [old, next] = [names.next().unwrap(), names.next().unwrap()];
    for from in [Sender::Client, Sender::Backend] {
        explore(Some(4), move || {
            let table = Arc::new(Table::new(2, [1, 1]));
            let here = table.must_open(old);
            let is_read = Arc::new(AtomicBool::new(false));
            let done = Arc::clone(&is_read);
            let reader = on_another_cpu(&table, move |table| {
                let segment = Segment { flags: tcp::ACK, sequence: 1, ..Segment::default() };
                let facts = table.packet(old, from, &segment);
                assert!(facts.is_none_or(|facts| facts.to == old.to(from)), "another flow's facts");
                done.store(true, Ordering::Relaxed);
            });
            assert!(end(&*table, here, Reason::Idle, NOW));
            let after_grace = NOW + GRACE + u32::from(is_read.load(Ordering::Relaxed));
            let opened = table.open(next, after_grace);
            assert!(opened.refused == 0 || opened.refused == CROWDED, "{opened:?}");
            reader.join().unwrap();
            assert_eq!(table.check(), u64::from(opened.refused == 0));
            if opened.refused == 0 {
                assert_eq!(traffic(table.slot(opened.at)), (1, 60), "counted for another flow");
            }
        });
    }
}

#[test]
fn third_cpu_takes_a_slot_only_after_its_grace() {
    let mut names = Name::all().filter(|name| name.leads_to([0, 0], [1, 1], 2));
    let [old, next] = [names.next().unwrap(), names.next().unwrap()];
    explore(Some(2), move || {
        let table = Arc::new(Table::new(3, [1, 1]));
        let here = table.must_confirm(old);
        let is_read = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&is_read);
        let reader = on_another_cpu(&table, move |table| {
            let facts = table.packet(old, Sender::Client, &CONFIRMATION);
            assert!(facts.is_none_or(|facts| facts.to == old.to(Sender::Client)));
            done.store(true, Ordering::Relaxed);
        });
        let user_space = on_another_cpu(&table, move |table| end(table, here, Reason::Idle, NOW));
        let after_grace = NOW + GRACE + u32::from(is_read.load(Ordering::Relaxed));
        let opened = table.open(next, after_grace);
        reader.join().unwrap();
        assert!(user_space.join().unwrap());
        assert_eq!(table.check(), u64::from(opened.refused == 0));
        if opened.refused == 0 {
            assert_eq!(traffic(table.slot(opened.at)), (1, 60), "counted for another flow");
        }
    });
}

#[test]
fn flow_that_is_confirmed_never_gives_way() {
    let name = plain();
    // Judged by its request's entry, and by its reply's.
    for set in [0, 1] {
        explore(Some(5), move || {
            let table = Arc::new(Table::new(2, [1, 1]));
            let here = table.must_answer(name);
            let pressure = on_another_cpu(&table, move |table| evict(table, set, NOW));
            let packet = table.packet(name, Sender::Client, &CONFIRMATION);
            let evicted = pressure.join().unwrap();
            let flows = table.check();
            if evicted == Evicted::Nothing {
                assert!(flows == 1 && packet.is_some() && table.meta(here).state().is_confirmed());
            } else {
                assert_eq!(flows, 0);
                assert_eq!(table.ended(), [(State::Opening, Reason::Evicted)]);
            }
        });
    }
}

#[test]
fn flow_ends_once_whoever_ends_it() {
    let name = plain();
    explore(None, move || {
        let table = Arc::new(Table::new(2, [1, 1]));
        let here = table.must_confirm(name);
        let there = table.meta(here).other();
        let other = on_another_cpu(&table, move |table| end(table, there, Reason::Idle, NOW));
        let ours = end(&*table, here, Reason::Replaced, NOW);
        assert!(ours != other.join().unwrap());
        assert_eq!(table.check(), 0);
        assert_eq!(table.ended().len(), 1);
    });
}

#[test]
fn spilled_flow_ends_once_whoever_ends_it() {
    let name = Name::leading_to([0, 1], [2, 2], 3);
    explore(None, move || {
        let table = Arc::new(Table::new(2, [0, 1, 1]));
        let here = table.must_open(name);
        let there = table.meta(here).other();
        let other = on_another_cpu(&table, move |table| end(table, there, Reason::Idle, NOW));
        let ours = end(&*table, here, Reason::Replaced, NOW);
        assert!(ours != other.join().unwrap());
        assert_eq!(table.check(), 0);
    });
}

#[test]
fn two_cpus_under_pressure_end_each_flow_once() {
    let mut names = Name::all().filter(|name| name.leads_to([0, 0], [1, 1], 2));
    let [one, two] = [names.next().unwrap(), names.next().unwrap()];
    explore(Some(4), move || {
        let table = Arc::new(Table::new(2, [2, 2]));
        table.must_open(one);
        table.must_open(two);
        let other = on_another_cpu(&table, |table| evict(table, 0, NOW));
        let both = [evict(&*table, 0, NOW), other.join().unwrap()];
        let evicted = both.iter().filter(|evicted| **evicted != Evicted::Nothing).count();
        assert_eq!(table.ended().len(), evicted);
        assert_eq!(table.check(), 2 - evicted as u64);
    });
}
