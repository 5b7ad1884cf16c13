//! TCP packets from the middle of a stream that are of no flow: sent on by their hash, reset or dropped.

use equipoise_common::verdict::Verdict;

use crate::bench::Transport;
use crate::talk::{Side, Talk, ends_of, redirect, talks};
use crate::world::{World, services};

use Side::{Backend, Client};

const MIDDLE: [Transport; 5] =
    [Transport::Bare, Transport::Ack, Transport::Fin, Transport::LoneFin, Transport::SynAck];

/// Where a client's packet goes.
fn chosen(world: &World, talk: &Talk, transport: Transport) -> std::net::SocketAddr {
    let (verdict, output) = talk.send(world, Client, talk.packet(Client, transport));
    let sent = (verdict, output.action);
    assert_eq!(sent, (Verdict::ForwardedRequest, redirect(talk.hook)), "{talk:?} {transport:?}");
    let [from, to] = ends_of(&output.frame);
    assert_eq!(from, talk.ends.client);
    to
}

#[test]
fn by_their_hash_they_go_where_a_peer_has_sent_the_first_packet() {
    let peer = World::new(&services("on-unknown = 'hash'", 8));
    // Where new flows go at random, what is old goes by its hash all the same.
    for keys in ["on-unknown = 'hash'", "algorithm = 'random'"] {
        let world = World::new(&services(keys, 8));
        let mut used = std::collections::BTreeSet::new();
        let mut talks = (0..30).flat_map(|number| talks(5000 + number * 2));
        for (number, talk) in (1..).zip(talks.by_ref()) {
            let first = chosen(&peer, &talk, Transport::Syn);
            let transport = MIDDLE[number as usize % MIDDLE.len()];
            assert_eq!(chosen(&world, &talk, transport), first, "{keys} {talk:?}");
            // It is a flow of its own from then on, and not confirmed.
            assert_eq!(talk.state(&world), Some("opening"));
            assert_eq!(world.traffic().new_flows, number);
            used.insert(first);
        }
        assert_eq!(used.len(), 16);
    }
}

#[test]
fn reset_answers_them_as_a_host_does_that_knows_no_such_connection() {
    let world = World::new(&services("on-unknown = 'reset'", 2));
    for talk in talks(5100) {
        for transport in MIDDLE {
            talk.is_reset(&world, Client, talk.packet(Client, transport), Verdict::ResetUnknown);
        }
    }
    assert_eq!(world.counts(), (0, 0));
    assert_eq!(world.traffic().new_flows, 0);
}

#[test]
fn drop_drops_them() {
    let world = World::new(&services("on-unknown = 'drop'", 2));
    for talk in talks(5200) {
        for transport in MIDDLE {
            talk.is_dropped(&world, Client, talk.packet(Client, transport), Verdict::UnknownFlow);
        }
    }
    assert_eq!(world.counts(), (0, 0));
    assert_eq!(world.traffic().new_flows, 0);
}

#[test]
fn first_packets_and_datagrams_open_flows_whatever_becomes_of_the_others() {
    for unknown in ["hash", "reset", "drop"] {
        let world = World::new(&services(&format!("on-unknown = '{unknown}'"), 1));
        for mut talk in talks(5300) {
            talk.connect(&world);
            talk.say(&world, Client, Transport::Ack);
        }
        for mut talk in talks(5310) {
            talk.exchange(&world);
        }
        assert_eq!(world.counts(), (8, 8));
    }
}

#[test]
fn a_reset_of_no_flow_is_never_answered_and_never_remembered() {
    for unknown in ["hash", "reset", "drop"] {
        let world = World::new(&services(&format!("on-unknown = '{unknown}'"), 1));
        for talk in talks(5400) {
            for transport in [Transport::Reset, Transport::Refusal] {
                let packet = talk.packet(Client, transport);
                if unknown == "hash" {
                    talk.pass(&world, Client, packet);
                } else {
                    talk.is_dropped(&world, Client, packet, Verdict::UnknownFlow);
                }
            }
        }
        assert_eq!(world.counts(), (0, 0));
        assert_eq!(world.traffic().new_flows, 0);
    }
}

#[test]
fn a_backends_packets_of_no_flow_are_none_of_ours() {
    let world = World::new(&services("on-unknown = 'reset'", 1));
    for talk in talks(5500) {
        for transport in MIDDLE {
            let packet = talk.packet(Backend, transport);
            talk.is_passed(&world, Backend, packet, Verdict::NoService);
        }
    }
}
