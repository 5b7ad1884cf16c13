//! Several CPUs open flows: one flow, one name, the last place under a limit.

use std::sync::Arc;

use equipoise_common::flow::count::Refused;
use equipoise_common::flow::end::end;
use equipoise_common::flow::entry::{Meta, Reason, facts, traffic};
use equipoise_common::flow::open::{Limits, Opened};
use equipoise_common::flow::set::Set;
use equipoise_common::flow::state::State;
use equipoise_common::flow::track::Segment;
use equipoise_common::flow::word::Word;
use loom::thread;

use crate::table::{ANSWER, CPU, NO_LIMITS, NOW, Name, Sender, Table, Tracked};
use crate::{explore, on_another_cpu, plain};

const BUSY: u32 = Refused::Busy as u32;
const TAKEN: u32 = Refused::Taken as u32;
const CROWDED: u32 = Refused::Crowded as u32;

#[test]
fn first_packets_of_one_flow_open_it_once() {
    let name = plain();
    explore(None, move || {
        let table = Arc::new(Table::new(2, [2, 2]));
        let other = on_another_cpu(&table, move |table| open_and_recall(table, name));
        let both = [open_and_recall(&table, name), other.join().unwrap()];
        assert_opened_once(&table, name, &both);
    });
}

#[test]
fn first_packets_on_three_cpus_open_a_flow_once() {
    let name = plain();
    explore(Some(5), move || {
        let table = Arc::new(Table::new(3, [2, 2]));
        let others =
            [(); 2].map(|()| on_another_cpu(&table, move |table| open_and_recall(table, name)));
        let [second, third] = others.map(|other| other.join().unwrap());
        assert_opened_once(&table, name, &[open_and_recall(&table, name), second, third]);
    });
}

#[test]
fn flow_that_has_to_go_to_its_second_set_is_opened_once() {
    let name = Name::leading_to([0, 1], [2, 2], 3);
    explore(None, move || {
        let table = Arc::new(Table::new(2, [0, 2, 2]));
        let other = on_another_cpu(&table, move |table| open_and_recall(table, name));
        let both = [open_and_recall(&table, name), other.join().unwrap()];
        assert_opened_once(&table, name, &both);
        assert_eq!(table.look_up(&name.request()) >> 4, 1);
    });
}

#[test]
fn flows_that_spill_into_one_set_take_different_rows() {
    let one = Name::leading_to([0, 2], [3, 3], 5);
    let two = Name::leading_to([1, 2], [4, 4], 5);
    explore(None, move || {
        let table = Arc::new(Table::new(2, [0, 0, 2, 1, 1]));
        let other = on_another_cpu(&table, move |table| table.open(two, NOW));
        let both = [table.open(one, NOW), other.join().unwrap()];
        let refused = both.map(|opened| opened.refused);
        assert!(refused.iter().all(|refused| [0, CROWDED].contains(refused)), "{refused:?}");
        assert_eq!(table.check(), refused.iter().filter(|refused| **refused == 0).count() as u64);
    });
}

#[test]
fn name_at_the_backend_goes_to_one_of_two_flows() {
    let other_vip = |name: Name| Name { vip: 2, ..name };
    let name = Name::all()
        .find(|name| {
            name.leads_to([0, 0], [2, 2], 3) && other_vip(*name).leads_to([1, 1], [2, 2], 3)
        })
        .unwrap();
    explore(None, move || {
        let table = Arc::new(Table::new(2, [1, 1, 2]));
        let other = on_another_cpu(&table, move |table| table.open(other_vip(name), NOW));
        let both = [table.open(name, NOW), other.join().unwrap()];
        assert_eq!(table.check(), 1);
        for opened in both {
            assert!([0, TAKEN, BUSY].contains(&opened.refused), "{opened:?}");
        }
    });
}

#[test]
fn last_place_under_a_limit_goes_to_one_flow() {
    let mut names = Name::all().filter(|name| name.leads_to([0, 0], [1, 1], 2));
    let [one, two] = [names.next().unwrap(), names.next().unwrap()];
    for limits in [Limits { service: 1, ..NO_LIMITS }, Limits { backend: 1, ..NO_LIMITS }] {
        explore(None, move || {
            let table = Arc::new(Table::new(2, [2, 2]));
            let other = on_another_cpu(&table, move |table| table.open_within(two, &limits, NOW));
            let both = [table.open_within(one, &limits, NOW), other.join().unwrap()];
            assert_eq!(
                table.check(),
                both.iter().filter(|opened| opened.refused == 0).count() as u64
            );
            assert!(table.check() == 1);
        });
    }
}

/// One flow gives way to two new ones at once: the place that one CPU has made may be taken by the other.
#[test]
fn full_table_is_never_exceeded() {
    let mut names = Name::all().filter(|name| name.leads_to([0, 0], [1, 1], 2));
    let [old, one, two] = [(); 3].map(|()| names.next().unwrap());
    let limits = Limits { table: 1, ..NO_LIMITS };
    explore(Some(2), move || {
        let table = Arc::new(Table::new(2, [3, 3]));
        table.must_open(old);
        let other = on_another_cpu(&table, move |table| table.open_within(two, &limits, NOW));
        table.open_within(one, &limits, NOW);
        other.join().unwrap();
        assert!(table.check() <= 1);
    });
}

#[test]
fn flow_that_user_space_ends_is_opened_anew_or_found() {
    let name = plain();
    explore(Some(3), move || {
        let table = Arc::new(Table::new(2, [2, 2]));
        let here = table.must_open(name);
        let user_space = on_another_cpu(&table, move |table| end(table, here, Reason::Idle, NOW));
        let segment = Segment::default();
        let opened = match table.packet(name, Sender::Client, &segment) {
            Some(facts) => {
                assert!(facts.to == name.to(Sender::Client));
                Opened { at: here, found: true, ..Opened::NOTHING }
            }
            None => table.open(name, NOW),
        };
        assert!(user_space.join().unwrap());
        let is_new = opened.refused == 0 && !opened.found;
        assert_eq!(table.check(), u64::from(is_new));
        assert!([0, TAKEN, BUSY].contains(&opened.refused), "{opened:?}");
        assert_eq!(table.ended(), [(State::Opening, Reason::Idle)]);
    });
}

#[test]
fn reader_of_a_flow_that_is_being_opened_sees_all_of_it() {
    let name = plain();
    for from in [Sender::Client, Sender::Backend] {
        explore(None, move || {
            let table = Arc::new(Table::new(2, [1, 1]));
            let other = on_another_cpu(&table, move |table| {
                let facts = table.packet(name, from, &ANSWER)?;
                assert!(facts.to == name.to(from), "half a flow");
                assert!((facts.service, facts.backend) == (name.vip, 1));
                Some(())
            });
            let here = table.must_open(name);
            let seen = other.join().unwrap().is_some();
            assert_eq!(table.check(), 1);
            let there = table.meta(here).other();
            let counted = [here, there].map(|at| traffic(table.slot(at)).0);
            let expected = if from == Sender::Client {
                [1 + u64::from(seen), 0]
            } else {
                [1, u64::from(seen)]
            };
            assert_eq!(counted, expected, "packets are counted once");
        });
    }
}

#[test]
fn tags_of_one_word_do_not_disturb_each_other() {
    explore(Some(3), || {
        let word = |row, word| match (row, word) {
            (0, 2) => Tracked::shared(3),
            _ => Tracked::Fixed(0),
        };
        let set = Arc::new(Set::<Tracked, 8>::new(std::array::from_fn(|row| {
            std::array::from_fn(|at| word(row, at))
        })));
        set.set_tag(1, 0xffff);
        let others = [(2, 1), (3, 0x8000)].map(|(row, tag)| {
            let set = Arc::clone(&set);
            thread::spawn(move || {
                CPU.with(|cpu| cpu.set(row as usize - 1));
                set.set_tag(row, tag);
                assert_eq!(set.tag(row), tag);
                if row == 3 {
                    set.clear_tag(row);
                }
            })
        });
        set.clear_tag(1);
        assert_eq!(set.tag(1), 0);
        set.set_tag(1, 0x7fff);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!([0, 1, 2, 3].map(|row| set.tag(row)), [0, 0x7fff, 1, 0]);
        assert_eq!(set.used(), 2);
    });
}

/// Opens a flow as the first packet of it does; what another CPU has decided is read at once.
fn open_and_recall(table: &Table, name: Name) -> Opened {
    let opened = table.open(name, NOW);
    if opened.found {
        let slot = table.slot(opened.at);
        let facts = facts(slot, Meta(slot[0].load()));
        assert!(facts.to == name.to(Sender::Client) && facts.service == name.vip);
    }
    opened
}

fn assert_opened_once(table: &Table, name: Name, all: &[Opened]) {
    assert_eq!(table.check(), 1);
    let here = table.look_up(&name.request());
    assert_eq!(all.iter().filter(|opened| opened.refused == 0 && !opened.found).count(), 1);
    for opened in all {
        assert!(opened.at == here || opened.refused == BUSY, "{opened:?}");
    }
}
