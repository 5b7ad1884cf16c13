//! Packets for a service that has no backend of their family: answered, dropped, or left to the stack.

use equipoise_common::verdict::Verdict;

use crate::answers::{empty, unreachable};
use crate::bench::Transport;
use crate::talk::{Side, bounced, talks};
use crate::world::{World, services};

use Side::Client;

#[test]
fn reset_refuses_connections_and_says_that_no_port_listens_for_datagrams() {
    let world = World::new(&empty("on-empty = 'reset'"));
    for talk in talks(7000) {
        for transport in [Transport::Syn, Transport::Ack, Transport::Fin, Transport::LoneFin] {
            talk.is_reset(&world, Client, talk.packet(Client, transport), Verdict::ResetNoBackend);
        }
        let packet = talk.packet(Client, Transport::Udp);
        let (_, frame) = talk.frame(&world, Client, packet);
        let (verdict, output) = talk.send(&world, Client, packet);
        let answered = (Verdict::UnreachableNoBackend, bounced(talk.hook));
        assert_eq!((verdict, output.action), answered);
        assert_eq!(output.frame, unreachable(&world, &talk, &frame));
    }
    assert_eq!(world.counts(), (0, 0));
    assert_eq!(world.traffic().new_flows, 0);
}

#[test]
fn reset_is_what_a_service_does_that_does_not_say() {
    let world = World::new(&empty(""));
    for talk in talks(7100) {
        let packet = talk.packet(Client, Transport::Syn);
        talk.is_reset(&world, Client, packet, Verdict::ResetNoBackend);
    }
}

#[test]
fn drop_drops_everything() {
    let world = World::new(&empty("on-empty = 'drop'"));
    for talk in talks(7200) {
        for transport in [Transport::Syn, Transport::Ack, Transport::Reset, Transport::Udp] {
            talk.is_dropped(&world, Client, talk.packet(Client, transport), Verdict::NoBackend);
        }
    }
    assert_eq!(world.counts(), (0, 0));
}

#[test]
fn pass_leaves_everything_to_the_stack_as_it_came() {
    let world = World::new(&empty("on-empty = 'pass'"));
    for talk in talks(7300) {
        for transport in [Transport::Syn, Transport::Ack, Transport::Reset, Transport::Udp] {
            let packet = talk.packet(Client, transport);
            talk.is_passed(&world, Client, packet, Verdict::NoBackendPassed);
        }
    }
    assert_eq!(world.counts(), (0, 0));
}

#[test]
fn a_reset_for_nobody_is_never_answered() {
    let world = World::new(&empty("on-empty = 'reset'"));
    for talk in talks(7400) {
        for transport in [Transport::Reset, Transport::Refusal] {
            talk.is_dropped(&world, Client, talk.packet(Client, transport), Verdict::Unanswerable);
        }
    }
}

#[test]
fn a_service_that_becomes_empty_keeps_its_flows_and_one_that_is_filled_takes_new_ones() {
    let mut world = World::new(&services("", 1));
    let mut talks = talks(7500);
    for talk in &mut talks {
        talk.connect(&world);
    }
    world.reconfigure(&empty(""));
    for talk in &mut talks {
        talk.say(&world, Client, Transport::Ack);
        talk.say(&world, Side::Backend, Transport::Ack);
    }
    let mut others = crate::talk::talks(7510);
    for talk in &others {
        let packet = talk.packet(Client, Transport::Syn);
        talk.is_reset(&world, Client, packet, Verdict::ResetNoBackend);
    }
    world.reconfigure(&services("", 1));
    for talk in &mut others {
        talk.connect(&world);
    }
    assert_eq!(world.counts(), (8, 8));
}
