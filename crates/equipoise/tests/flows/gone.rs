//! Flows of a backend that has left the configuration: kept, reset, or decided anew; and its id, which rests.

use std::collections::BTreeSet;

use equipoise::dataplane::DataPlane as _;
use equipoise_common::flow::Reason;
use equipoise_common::flow::count::Pressure;
use equipoise_common::verdict::Verdict;

use crate::bench::{BACKEND, BACKEND6, Transport};
use crate::talk::{Side, Talk, talks};
use crate::world::{TIMEOUTS, World, numbered, seconds, with_backends};

use Side::{Backend, Client};

const RESET: &str = "on-backend-removed = 'reset'";

fn keys(more: &str) -> String {
    format!("{TIMEOUTS}\n{more}")
}

/// The same talk, with the backend of this number.
fn with(mut talk: Talk, number: u16) -> Talk {
    let first = if talk.ends.client.is_ipv4() { BACKEND } else { BACKEND6 };
    talk.ends.backend = numbered(first, number);
    talk
}

/// A balancer whose first backend has been replaced by its second, and what was connected before.
fn replaced(more: &str, port: u16) -> (World, Vec<Talk>) {
    let mut world = World::new(&with_backends(&keys(more), &[0]));
    let mut talks = talks(port);
    for talk in &mut talks {
        talk.connect(&world);
    }
    world.told();
    world.reconfigure(&with_backends(&keys(more), &[1]));
    (world, talks)
}

#[test]
fn kept_flows_go_on_to_their_end_and_new_ones_go_elsewhere() {
    let (mut world, mut kept) = replaced("on-backend-removed = 'keep'", 8000);
    for talk in &mut kept {
        talk.all(&world, &[(Client, Transport::Ack), (Backend, Transport::Ack)]);
        talk.all(&world, &[(Client, Transport::Fin), (Backend, Transport::Fin)]);
        talk.say(&world, Client, Transport::Bare);
        assert_eq!(talk.state(&world), Some("closing"));
    }
    for talk in talks(8010) {
        with(talk, 1).connect(&world);
    }
    assert_eq!(world.sweep().closed, 0);
    assert!(world.pressures().is_empty());
    // A SYN where all is over is a new flow, and goes to who is there.
    for talk in kept {
        let mut talk = with(talk, 1);
        talk.next = [1, 2];
        talk.connect(&world);
    }
}

#[test]
fn reset_answers_the_next_packet_of_either_end_and_all_that_follow() {
    for first in Side::BOTH {
        let (mut world, talks) = replaced(RESET, 8100 + first as u16 * 10);
        for (number, talk) in (1..).zip(&talks) {
            for _ in 0..2 {
                for side in [first, first.other()] {
                    for transport in [Transport::Ack, Transport::Bare, Transport::Fin] {
                        let packet = talk.packet(side, transport);
                        talk.is_reset(&world, side, packet, Verdict::ResetFlow);
                    }
                }
            }
            assert_eq!(talk.state(&world), Some("closing"));
            assert_eq!(world.pressure(Pressure::ResetGone), number);
            let told = world.told();
            let [one] = &told[..] else { panic!("one event, not {told:?}") };
            let heard = (one.closed, one.client, one.why);
            assert_eq!(heard, (true, talk.ends.client, Reason::BackendGone));
            assert_eq!(world.counts(), (4, 4 - number), "it has closed, and waits for its end");
            // A RST needs no answer; it tells the other end.
            for side in Side::BOTH {
                talk.pass(&world, side, talk.packet(side, Transport::Reset));
            }
        }
        assert_eq!(world.sweep().closed, 0);
        world.wait(seconds(2) + 1);
        assert_eq!(world.sweep().ended, 4);
        assert_eq!(world.counts(), (0, 0));
    }
}

#[test]
fn a_sweep_closes_the_flows_that_say_nothing_and_tells_both_ends() {
    let (mut world, talks) = replaced(RESET, 8200);
    let swept = world.sweep();
    assert_eq!((swept.ended, swept.closed, swept.resets.len()), (0, 4, 4));
    let reasons: Vec<_> = swept.events.iter().map(|event| event.why).collect();
    assert_eq!(reasons, [Reason::BackendGone as u32; 4]);
    for talk in &talks {
        let ties = swept.resets.iter().find(|ties| ties.client == talk.ends.client).unwrap();
        assert_eq!([ties.client_sent, ties.backend_sent], talk.next);
        assert_eq!(talk.state(&world), Some("closing"));
        // The answer to a challenge is exact.
        for side in Side::BOTH {
            let packet = talk.packet(side, Transport::Bare);
            talk.is_reset(&world, side, packet, Verdict::ResetFlow);
        }
    }
    assert!(world.told().is_empty(), "the sweep has told already");
    let again = world.sweep();
    assert_eq!((again.ended, again.closed, again.resets.len()), (0, 0, 0));
}

#[test]
fn a_syn_of_a_flow_to_be_reset_opens_a_connection_elsewhere() {
    let (mut world, talks) = replaced(RESET, 8300);
    for (number, talk) in (0..).zip(talks) {
        let mut next = with(talk, 1);
        next.next = [4_000_000_000, 9];
        if number % 2 == 0 {
            // Also of one that has been reset.
            let packet = talk.packet(Client, Transport::Ack);
            talk.is_reset(&world, Client, packet, Verdict::ResetFlow);
        }
        next.connect(&world);
        let told: Vec<_> = world.told().iter().map(|told| (told.closed, told.why)).collect();
        let why = if number % 2 == 0 { Reason::BackendGone } else { Reason::Reselected };
        assert_eq!(told, [(true, why), (false, Reason::None)]);
    }
    assert_eq!(world.counts(), (4, 4));
}

#[test]
fn datagrams_choose_anew_whatever_their_service_says_of_connections() {
    for more in [RESET, "on-backend-removed = 'keep'"] {
        let mut world = World::new(&with_backends(&keys(more), &[0]));
        let mut talks = talks(8400);
        for talk in &mut talks {
            talk.exchange(&world);
        }
        world.reconfigure(&with_backends(&keys(more), &[1]));
        world.told();
        for (number, talk) in (1..).zip(&mut talks) {
            // What the old backend still has to say gets through.
            talk.say(&world, Backend, Transport::Udp);
            assert_eq!(world.pressure(Pressure::Reselected), number - 1);
            let mut next = with(*talk, 1);
            next.exchange(&world);
            assert_eq!(world.pressure(Pressure::Reselected), number);
            let told: Vec<_> = world.told().iter().map(|told| (told.closed, told.why)).collect();
            assert_eq!(told, [(true, Reason::Reselected), (false, Reason::None)]);
            // And not any more.
            let packet = talk.packet(Backend, Transport::Udp);
            talk.is_passed(&world, Backend, packet, Verdict::NoService);
        }
        assert_eq!(world.counts(), (4, 4));
    }
}

#[test]
fn old_flows_of_a_backend_that_comes_back_are_reset_and_new_ones_live() {
    let (mut world, old) = replaced(RESET, 8500);
    world.reconfigure(&with_backends(&keys(RESET), &[0]));
    let mut new = talks(8510);
    for talk in &mut new {
        talk.connect(&world);
    }
    let (known, unknown) = old.split_at(2);
    for talk in known {
        let packet = talk.packet(Client, Transport::Ack);
        talk.is_reset(&world, Client, packet, Verdict::ResetFlow);
    }
    assert_eq!(world.sweep().closed, unknown.len() as u64);
    for talk in &mut new {
        talk.all(&world, &[(Client, Transport::Ack), (Backend, Transport::Ack)]);
        assert_eq!(talk.state(&world), Some("established"));
    }
    // Gone and back once more: the same holds of what was new.
    world.reconfigure(&with_backends(&keys(RESET), &[1]));
    world.reconfigure(&with_backends(&keys(RESET), &[0]));
    for talk in &new {
        let packet = talk.packet(Backend, Transport::Ack);
        talk.is_reset(&world, Backend, packet, Verdict::ResetFlow);
    }
}

#[test]
fn a_backend_that_is_kept_and_comes_back_has_its_flows_still() {
    let (mut world, mut old) = replaced("on-backend-removed = 'keep'", 8600);
    world.reconfigure(&with_backends(&keys("on-backend-removed = 'keep'"), &[0]));
    for talk in &mut old {
        talk.all(&world, &[(Client, Transport::Ack), (Backend, Transport::Ack)]);
    }
    assert_eq!(world.sweep().closed, 0);
    assert_eq!(world.counts(), (4, 4));
}

#[test]
fn the_id_of_a_backend_that_has_gone_rests_until_no_flow_names_it() {
    let (mut world, mut talks) = replaced("on-backend-removed = 'keep'", 8700);
    // What flows name: the one backend of each family that was there.
    let gone: BTreeSet<u32> = world.rows().iter().map(|row| row.backend).collect();
    assert_eq!(gone.len(), 2);
    let rest = |world: &mut World| {
        let named = world.kernel.named();
        let mark = world.state.resting().unwrap();
        world.state.handle_named(mark, &named);
        world.converge();
        named.backends
    };
    // Those of one family first.
    talks.sort_by_key(|talk| talk.ends.client.is_ipv6());
    for (ended, talk) in (0..).zip(&mut talks) {
        assert_eq!(gone.iter().map(|&id| world.kernel.live_flows(id)).sum::<u64>(), 4 - ended);
        let named = rest(&mut world);
        let planned = &world.state.planned().backends;
        for &id in &gone {
            let is_named = world.kernel.live_flows(id) > 0;
            assert_eq!(named.contains(&id), is_named);
            assert_eq!(
                planned.get(&id).is_some_and(equipoise_core::plan::BackendPlan::is_gone),
                is_named
            );
        }
        talk.say(&world, Client, Transport::Reset);
        assert_eq!(rest(&mut world), named, "it has closed, and is there");
        world.wait(seconds(2) + 1);
        assert_eq!(world.sweep().ended, 1);
    }
    assert!(rest(&mut world).is_disjoint(&gone));
    assert!(gone.iter().all(|id| !world.state.planned().backends.contains_key(id)));
    assert_eq!(gone.iter().map(|&id| world.kernel.live_flows(id)).sum::<u64>(), 0);
}
