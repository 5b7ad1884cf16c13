//! Who has shown that it hears its backend: what confirms a flow, and what does not.
//!
//! Confirmed flows alone are kept from giving way to others, so nothing may confirm one that somebody can send
//! who does not receive the backend's packets.

use equipoise_common::verdict::Verdict;

use crate::bench::{Packet, Transport};
use crate::talk::{FIRST, Side, talks};
use crate::world::{TIMEOUTS, World, services};

use Side::{Backend, Client};

#[test]
fn only_the_acknowledgement_of_the_backends_syn_confirms_a_connection() {
    let world = World::new(&services(TIMEOUTS, 1));
    let mut confirmed = 0;
    for mut talk in talks(3000) {
        talk.say(&world, Client, Transport::Syn);
        let right = FIRST[1].wrapping_add(1);
        let guesses = [-1, 1, 1000, i32::MIN, i32::MAX].map(|off| right.wrapping_add_signed(off));
        let acknowledge = |number, transport| {
            let packet = talk.packet(Client, transport);
            Packet { numbers: [packet.numbers[0], number], ..packet }
        };
        // Before there is an answer, no number is right, not even what the answer will make so.
        for number in guesses.into_iter().chain([right]) {
            talk.pass(&world, Client, acknowledge(number, Transport::Bare));
            assert_eq!((talk.state(&world), world.counts().1), (Some("opening"), confirmed));
        }
        talk.pass(&world, Backend, talk.packet(Backend, Transport::SynAck));
        for number in guesses {
            for transport in [Transport::Bare, Transport::Ack, Transport::Fin] {
                talk.pass(&world, Client, acknowledge(number, transport));
                let now = (talk.state(&world), world.counts().1);
                assert_eq!(now, (Some("opening"), confirmed), "{number} {transport:?}");
            }
        }
        // What the backend sends says nothing of the client.
        talk.pass(&world, Backend, talk.packet(Backend, Transport::SynAck));
        assert_eq!(talk.state(&world), Some("opening"));
        talk.pass(&world, Client, acknowledge(right, Transport::Bare));
        confirmed += 1;
        assert_eq!(
            (talk.state(&world), world.counts()),
            (Some("established"), (confirmed, confirmed))
        );
    }
}

#[test]
fn data_and_a_fin_confirm_as_an_empty_acknowledgement_does() {
    let world = World::new(&services(TIMEOUTS, 1));
    for (number, transport) in (0..).zip([Transport::Ack, Transport::Fin]) {
        for mut talk in talks(3100 + number * 10) {
            talk.say(&world, Client, Transport::Syn);
            talk.say(&world, Backend, Transport::SynAck);
            talk.say(&world, Client, transport);
            assert_eq!(talk.state(&world), Some("established"));
        }
    }
    assert_eq!(world.counts(), (8, 8));
}

#[test]
fn datagrams_confirm_only_when_the_client_sends_after_an_answer() {
    let mut world = World::new(&services(TIMEOUTS, 1));
    let mut confirmed = 0;
    for mut talk in talks(3200) {
        let mut heard = |side, state, confirmed| {
            talk.say(&world, side, Transport::Udp);
            let now = (talk.state(&world), world.counts().1);
            assert_eq!(now, (Some(state), confirmed));
        };
        for _ in 0..3 {
            heard(Client, "one-way", confirmed);
        }
        for _ in 0..3 {
            heard(Backend, "one-way", confirmed);
        }
        confirmed += 1;
        heard(Client, "two-way", confirmed);
        heard(Backend, "two-way", confirmed);
    }
    world.wait(crate::world::seconds(6));
    assert_eq!(world.sweep().ended, 4);
    assert_eq!(world.counts(), (0, 0));
}

#[test]
fn a_connection_taken_up_in_the_middle_is_confirmed_by_its_next_exchange() {
    let world = World::new(&services(TIMEOUTS, 1));
    for mut talk in talks(3300) {
        talk.say(&world, Client, Transport::Ack);
        assert_eq!(talk.state(&world), Some("opening"));
        talk.say(&world, Client, Transport::Ack);
        assert_eq!(talk.state(&world), Some("opening"));
        talk.say(&world, Backend, Transport::Ack);
        assert_eq!(talk.state(&world), Some("opening"));
        talk.say(&world, Client, Transport::Bare);
        assert_eq!(talk.state(&world), Some("established"));
    }
    assert_eq!(world.counts(), (4, 4));
}

#[test]
fn a_backend_that_has_forgotten_a_connection_begins_it_anew_unconfirmed() {
    let world = World::new(&services(TIMEOUTS, 1));
    for (number, mut talk) in (0..).zip(talks(3400)) {
        talk.connect(&world);
        talk.all(&world, &[(Client, Transport::Ack), (Backend, Transport::Ack)]);
        // Its first answer once more is no beginning.
        let again = Packet {
            numbers: [FIRST[1], FIRST[0].wrapping_add(1)],
            ..talk.packet(Backend, Transport::SynAck)
        };
        talk.pass(&world, Backend, again);
        assert_eq!(talk.state(&world), Some("established"));
        // The client has lost it, too, and opens from the same port.
        talk.next = [77_000_000, 1_234_567_890];
        talk.say(&world, Client, Transport::Syn);
        assert_eq!(talk.state(&world), Some("established"));
        talk.say(&world, Backend, Transport::SynAck);
        assert_eq!((talk.state(&world), world.counts().1), (Some("opening"), number));
        talk.say(&world, Client, Transport::Bare);
        assert_eq!((talk.state(&world), world.counts().1), (Some("established"), number + 1));
        // It is reset by the numbers of now.
        talk.say(&world, Client, Transport::Ack);
        let stale = Packet { numbers: FIRST, ..talk.packet(Client, Transport::Reset) };
        talk.pass(&world, Client, stale);
        assert_eq!(talk.state(&world), Some("established"));
    }
    let forwarded = world.kernel_verdicts(Verdict::ForwardedRequest);
    assert_eq!(world.traffic().packets_in, forwarded);
    assert_eq!(world.traffic().new_flows, 4);
}
