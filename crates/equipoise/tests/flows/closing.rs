//! How connections end: by FINs from both ends, by a RST that its receiver would take, and by nothing else.
//!
//! And what becomes of the same client port afterwards.

use equipoise_common::flow::Reason;

use crate::bench::{Packet, Transport};
use crate::talk::{FIRST, Side, Talk, ends_of, talks};
use crate::world::{TIMEOUTS, World, seconds, services};

use Side::{Backend, Client};

/// Connections of every kind.
fn connected(world: &World, port: u16) -> Vec<Talk> {
    let mut talks = talks(port);
    for talk in &mut talks {
        talk.connect(world);
        talk.all(world, &[(Client, Transport::Ack), (Backend, Transport::Ack)]);
    }
    talks
}

/// Checks that the flow has closed, and is told to have, for this reason.
fn has_closed(world: &mut World, talk: &Talk, why: Reason) {
    assert_eq!(talk.state(world), Some("closing"), "{talk:?}");
    let told: Vec<_> = world.told().into_iter().filter(|told| told.closed).collect();
    let [one] = &told[..] else { panic!("one event, not {told:?}") };
    assert_eq!((one.client, one.why), (talk.ends.client, why), "{talk:?}");
}

#[test]
fn a_connection_closes_when_both_ends_have_finished_whoever_is_first() {
    let mut world = World::new(&services(TIMEOUTS, 1));
    let firsts = [(Client, Reason::ClientFin), (Backend, Reason::BackendFin)];
    for (number, (first, why)) in (0..).zip(firsts) {
        for mut talk in connected(&world, 4000 + number * 10) {
            let second = first.other();
            talk.say(&world, first, Transport::Fin);
            assert_eq!(talk.state(&world), Some("established"));
            talk.say(&world, second, Transport::Bare);
            // Half-closed: the other end goes on for as long as it likes.
            for _ in 0..5 {
                talk.all(&world, &[(second, Transport::Ack), (first, Transport::Bare)]);
                assert_eq!(talk.state(&world), Some("established"));
            }
            talk.say(&world, second, Transport::Fin);
            assert_eq!(talk.state(&world), Some("established"));
            talk.say(&world, first, Transport::Bare);
            has_closed(&mut world, &talk, why);
        }
    }
    assert_eq!(world.counts(), (8, 0));
}

#[test]
fn ends_that_finish_at_once_close_with_the_second_acknowledgement() {
    let mut world = World::new(&services(TIMEOUTS, 1));
    for mut talk in connected(&world, 4100) {
        let mut crossing = talk.packet(Backend, Transport::Fin);
        talk.say(&world, Client, Transport::Fin);
        crossing.numbers[1] = talk.next[0].wrapping_sub(1);
        talk.pass(&world, Backend, crossing);
        talk.next[1] = talk.next[1].wrapping_add(1);
        assert_eq!(talk.state(&world), Some("established"));
        talk.say(&world, Client, Transport::Bare);
        assert_eq!(talk.state(&world), Some("established"));
        talk.say(&world, Backend, Transport::Bare);
        has_closed(&mut world, &talk, Reason::ClientFin);
    }
}

#[test]
fn a_fin_that_nobody_acknowledges_closes_nothing() {
    let world = World::new(&services(TIMEOUTS, 1));
    for side in Side::BOTH {
        for mut talk in connected(&world, 4200 + side as u16 * 10) {
            // Beyond anything in flight, and so of another connection.
            let mut stray = talk.packet(side, Transport::Fin);
            stray.numbers[0] = stray.numbers[0].wrapping_add(1 << 30);
            talk.pass(&world, side, stray);
            stray.numbers[0] = talk.next[side as usize].wrapping_sub(1 << 30);
            talk.pass(&world, side, stray);
            // After a gap: its receiver waits for what is between, and acknowledges what it has.
            stray.numbers[0] = talk.next[side as usize].wrapping_add(1000);
            talk.pass(&world, side, stray);
            // Even if the other end does finish.
            talk.say(&world, side.other(), Transport::Fin);
            for _ in 0..3 {
                talk.say(&world, side, Transport::Bare);
                talk.say(&world, side.other(), Transport::Bare);
                assert_eq!(talk.state(&world), Some("established"), "{side:?} {talk:?}");
            }
        }
    }
    assert_eq!(world.counts(), (8, 8));
}

#[test]
fn a_reset_closes_a_connection_only_where_its_receiver_would_take_it() {
    let mut world = World::new(&services(TIMEOUTS, 1));
    let reasons = [(Client, Reason::ClientReset), (Backend, Reason::BackendReset)];
    for (number, (side, why)) in (0..).zip(reasons) {
        for talk in connected(&world, 4300 + number * 10) {
            world.told();
            let right = talk.next[side as usize];
            let off = [1, 2, 1000, 60_000, 1 << 24, 1 << 31, 0_u32.wrapping_sub(11), !0];
            for off in off {
                for transport in [Transport::Reset, Transport::Refusal] {
                    let packet = talk.packet(side, transport);
                    let numbers = [right.wrapping_add(off), packet.numbers[1]];
                    talk.pass(&world, side, Packet { numbers, ..packet });
                    assert_eq!(talk.state(&world), Some("established"), "{side:?} {off}");
                }
            }
            assert!(world.told().is_empty());
            let transport = if number == 0 { Transport::Reset } else { Transport::Refusal };
            talk.pass(&world, side, talk.packet(side, transport));
            has_closed(&mut world, &talk, why);
            // It is on its way: what follows goes along, and is told no more.
            talk.pass(&world, side, talk.packet(side, Transport::Reset));
            talk.pass(&world, side.other(), talk.packet(side.other(), Transport::Reset));
            assert!(world.told().is_empty());
        }
    }
    assert_eq!(world.counts(), (8, 0));
}

#[test]
fn a_reset_is_taken_at_what_its_receiver_has_acknowledged() {
    let mut world = World::new(&services(TIMEOUTS, 1));
    for side in Side::BOTH {
        for mut talk in connected(&world, 4400 + side as u16 * 10) {
            talk.say(&world, side.other(), Transport::Bare);
            let acknowledged = talk.next[side as usize];
            // Three packets that have got lost on their way: the receiver still expects the first.
            for _ in 0..3 {
                talk.say(&world, side, Transport::Ack);
            }
            world.told();
            let packet = talk.packet(side, Transport::Reset);
            talk.pass(&world, side, Packet { numbers: [acknowledged, 0], ..packet });
            let why = if side == Client { Reason::ClientReset } else { Reason::BackendReset };
            has_closed(&mut world, &talk, why);
        }
    }
}

#[test]
fn a_backend_refuses_a_connection_by_acknowledging_its_syn() {
    let mut world = World::new(&services(TIMEOUTS, 1));
    for mut talk in talks(4500) {
        talk.say(&world, Client, Transport::Syn);
        let refusal =
            Packet { numbers: [0, talk.next[0]], ..talk.packet(Backend, Transport::Refusal) };
        let wrong = [0, 1, FIRST[0], talk.next[0].wrapping_add(1), talk.next[0] ^ 0x4000_0000];
        for number in wrong {
            talk.pass(&world, Backend, Packet { numbers: [7, number], ..refusal });
            assert_eq!(talk.state(&world), Some("opening"), "{number}");
        }
        world.told();
        talk.pass(&world, Backend, refusal);
        has_closed(&mut world, &talk, Reason::BackendReset);
    }
    assert_eq!(world.counts(), (4, 0));
}

#[test]
fn a_syn_on_a_connection_that_is_over_opens_another_at_once() {
    let mut world = World::new(&services(TIMEOUTS, 1));
    for (number, mut talk) in (0..).zip(connected(&world, 4600)) {
        talk.say(&world, Client, Transport::Reset);
        world.wait(seconds(1));
        assert_eq!(talk.state(&world), Some("closing"));
        world.told();
        talk.next = [3_000_000_000, 17];
        talk.connect(&world);
        let row = world.row(talk.ends.client).unwrap();
        assert_eq!((row.age.as_secs(), row.traffic[0], row.traffic[2]), (0, 2, 1));
        assert_eq!(world.traffic().new_flows, 4 + number + 1);
        let told: Vec<_> = world.told().iter().map(|told| (told.closed, told.why)).collect();
        assert_eq!(told, [(false, Reason::None)], "the end of the first has been told");
        // The old one's RST once more is not the new one's.
        let old = Packet {
            numbers: [FIRST[0].wrapping_add(11), 0],
            ..talk.packet(Client, Transport::Reset)
        };
        talk.pass(&world, Client, old);
        assert_eq!(talk.state(&world), Some("established"));
    }
    assert!(world.pressures().is_empty());
}

#[test]
fn a_syn_on_a_connection_that_lives_changes_nothing() {
    let mut world = World::new(&services(TIMEOUTS, 1));
    for mut talk in connected(&world, 4700) {
        world.told();
        let syn = talk.packet(Client, Transport::Syn);
        for number in [FIRST[0], 5, 0x8000_0000, talk.next[0].wrapping_add(1 << 25)] {
            talk.pass(&world, Client, Packet { numbers: [number, 0], ..syn });
            assert_eq!(talk.state(&world), Some("established"));
        }
        assert!(world.told().is_empty());
        // The talk goes on, and ends by its own numbers.
        talk.all(&world, &[(Client, Transport::Ack), (Backend, Transport::Ack)]);
        talk.say(&world, Client, Transport::Reset);
        has_closed(&mut world, &talk, Reason::ClientReset);
    }
    assert_eq!(world.traffic().new_flows, 4);
}

#[test]
fn packets_of_a_flow_stay_with_its_backend_whatever_the_algorithm() {
    let world = World::new(&services("algorithm = 'random'", 8));
    let mut used = std::collections::BTreeSet::new();
    for talk in (0..20).flat_map(|number| talks(4800 + number * 2)) {
        for transport in [Transport::Syn, Transport::Udp] {
            let (_, output) = talk.send(&world, Client, talk.packet(Client, transport));
            let [_, chosen] = ends_of(&output.frame);
            used.insert(chosen);
            for _ in 0..10 {
                let (_, output) = talk.send(&world, Client, talk.packet(Client, transport));
                assert_eq!(ends_of(&output.frame), [talk.ends.client, chosen]);
            }
        }
    }
    assert_eq!(used.len(), 16, "80 flows for eight backends of each family: all are chosen");
    assert_eq!(world.traffic().new_flows, 160);
}
