//! ICMP errors that are made here: so many of a kind in a second, and each kind for itself.

use equipoise_common::bucket::ERRORS;
use equipoise_common::verdict::Verdict;

use crate::answers::empty;
use crate::bench::{Packet, Transport};
use crate::rates::next;
use crate::talk::{Side::Client, Talk, bounced, talks};
use crate::world::{World, seconds, services};

/// The same packet of a new flow, which gets an answer.
fn is_answered(world: &World, talk: &Talk, packet: Packet, expected: Verdict) {
    let (verdict, output) = talk.send(world, Client, packet);
    assert_eq!((verdict, output.action), (expected, bounced(talk.hook)), "{talk:?}");
}

fn on_last_hop(talk: &Talk) -> Packet {
    talk.packet(Client, Transport::Udp).hops(1)
}

#[test]
fn so_many_errors_of_a_kind_are_made_in_a_second_and_no_more() {
    let mut world = World::new(&services("", 1));
    for talk in talks(9_990) {
        // Full again, whichever talk was before.
        world.wait(seconds(2));
        for _ in 0..ERRORS.burst {
            is_answered(&world, &talk, on_last_hop(&talk), Verdict::RequestHopLimit);
        }
        for _ in 0..3 {
            talk.is_dropped(&world, Client, on_last_hop(&talk), Verdict::AnswerLimit);
        }
        // A tick is a little more than the thousandth of a second in which the next one comes.
        world.wait(1);
        is_answered(&world, &talk, on_last_hop(&talk), Verdict::RequestHopLimit);
        talk.is_dropped(&world, Client, on_last_hop(&talk), Verdict::AnswerLimit);
    }
}

#[test]
fn errors_of_a_kind_take_nothing_from_other_kinds() {
    const LARGE: &[u8] = &[7; 1_400];
    let full = services("", 1);
    let mut world = World::new(&full);
    for talk in talks(9_994) {
        world.wait(seconds(2));
        for _ in 0..=ERRORS.burst {
            talk.send(&world, Client, on_last_hop(&talk));
        }
        let route = format!("{} dev back", talk.ends.backend.ip());
        world.netns.ip(&format!("route add {route} mtu lock 1300")).unwrap();
        let packet = Packet { payload: LARGE, ..talk.packet(Client, Transport::Udp) };
        is_answered(&world, &talk, packet, Verdict::RequestTooBig);
        world.netns.ip(&format!("route del {route}")).unwrap();
        talk.is_dropped(&world, Client, on_last_hop(&talk), Verdict::AnswerLimit);
        world.reconfigure(&empty("on-empty = 'reset'"));
        world.sweep();
        let packet = next(talk, 1_000).packet(Client, Transport::Udp);
        is_answered(&world, &talk, packet, Verdict::UnreachableNoBackend);
        world.reconfigure(&full);
    }
}
