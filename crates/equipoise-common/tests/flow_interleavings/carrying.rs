//! User space carries a flow over to another table while packets of it come: each finds it in one of the two, and it is in one of
//! them at last.

use std::sync::Arc;

use equipoise_common::flow::copy::{Copied, carry};
use equipoise_common::flow::count::Refused;
use equipoise_common::flow::end::end;
use equipoise_common::flow::entry::{Reason, traffic};
use equipoise_common::flow::state::State;
use equipoise_common::flow::track::{Segment, tcp};

use loom::sync::atomic::{Ordering, fence};

use crate::table::{CONFIRMATION, NOW, Name, Sender, Table};
use crate::{explore, on_another_cpu, plain};

/// As the programs look for it: in the new table if the old one does not have it any more. That it has left there is seen before
/// it is looked for here.
fn packet([old, new]: [&Table; 2], name: Name, from: Sender, segment: &Segment) -> bool {
    let elsewhere = || {
        fence(Ordering::SeqCst);
        new.packet(name, from, segment)
    };
    old.packet(name, from, segment).or_else(elsewhere).is_some()
}

fn tables() -> [Arc<Table>; 2] {
    [(); 2].map(|()| Arc::new(Table::new(2, [1, 1])))
}

#[test]
fn packet_finds_its_flow_in_one_of_both_and_is_counted() {
    let name = plain();
    for from in [Sender::Client, Sender::Backend] {
        explore(Some(3), move || {
            let [old, new] = tables();
            let here = old.must_confirm(name);
            let there = Arc::clone(&new);
            let other = on_another_cpu(&old, move |old| {
                let segment = Segment { flags: tcp::ACK, sequence: 1, ..Segment::default() };
                assert!(packet([old, &there], name, from, &segment), "a packet without a flow");
            });
            assert_eq!(carry(&*old, here, &*new, NOW), Copied::Done);
            other.join().unwrap();
            assert_eq!((old.check(), new.check()), (0, 1));
            assert!(old.ended().is_empty() && new.ended().is_empty());
            let there = new.look_up(&name.key(from));
            assert!(new.meta(there).state() == State::Established);
            // Of its opening, and this one. One that meets the flow just as it leaves may be counted twice.
            let before = if from == Sender::Client { 2 } else { 1 };
            let (packets, _) = traffic(new.slot(there));
            assert!((before + 1..=before + 2).contains(&packets), "{packets} packets");
        });
    }
}

#[test]
fn flow_that_is_confirmed_meanwhile_is_carried_whole() {
    let name = plain();
    explore(Some(2), move || {
        let [old, new] = tables();
        let here = old.must_answer(name);
        let there = Arc::clone(&new);
        let other = on_another_cpu(&old, move |old| {
            assert!(packet([old, &there], name, Sender::Client, &CONFIRMATION));
        });
        let carried = carry(&*old, here, &*new, NOW);
        other.join().unwrap();
        // The one row that is there rests when the flow is to be carried anew, since it has changed: it stays.
        let is_there = carried == Copied::Done;
        assert!(is_there || carried == Copied::Refused(Refused::Crowded), "{carried:?}");
        let flows = (old.check(), new.check());
        assert_eq!(flows, if is_there { (0, 1) } else { (1, 0) });
        // A packet that has found it in the old table just before it left, and changes its state just after, is like one that got
        // lost: the next one does that.
        assert!(packet([&old, &new], name, Sender::Client, &CONFIRMATION));
        let place = if is_there { &new } else { &old };
        assert!(place.meta(place.look_up(&name.request())).state() == State::Established);
        assert_eq!(place.check(), 1);
    });
}

#[test]
fn flow_that_ends_meanwhile_ends_once() {
    let name = plain();
    explore(Some(3), move || {
        let [old, new] = tables();
        let here = old.must_confirm(name);
        let other = on_another_cpu(&old, move |old| end(old, here, Reason::Idle, NOW));
        let carried = carry(&*old, here, &*new, NOW);
        let has_ended = other.join().unwrap();
        let flows = (old.check(), new.check());
        assert_eq!(flows, if has_ended { (0, 0) } else { (0, 1) });
        assert_eq!(carried, if has_ended { Copied::Nothing } else { Copied::Done });
        assert_eq!(old.ended().len() + new.ended().len(), usize::from(has_ended));
    });
}
