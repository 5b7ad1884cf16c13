//! What packets alone say of backends: how soon they answer, that they do not, and how many of their flows still go on.

use equipoise::dataplane::DataPlane as _;
use equipoise_common::event::Event;
use equipoise_common::flow::Reason;
use equipoise_common::flow::state::MOMENTS_BITS;
use equipoise_common::verdict::{Hook, Verdict};

use crate::bench::{Packet, Transport};
use crate::modes::{backend, ends, frame, in_mode};
use crate::talk::{CONNECTED, Side, talks};
use crate::world::{TIMEOUTS, World, seconds, services};

use Side::{Backend, Client};

/// Nanoseconds of so many ticks.
const fn ticks(ticks: u64) -> u64 {
    ticks << 20
}

#[test]
fn time_to_the_answer_is_kept_on_average_for_each_backend() {
    const _: () = assert!(MOMENTS_BITS == 10);
    let mut world = World::new(&services(TIMEOUTS, 1));
    let mut before = [None::<u64>; 2];
    for (talk, wait) in
        talks(20_000).into_iter().chain(talks(20_100)).zip([7, 9, 3, 20].iter().cycle())
    {
        let mut talk = talk;
        let id = world.backend_id(talk.ends.backend);
        talk.say(&world, Client, Transport::Syn);
        world.wait(*wait);
        talk.say(&world, Backend, Transport::SynAck);
        let taken = ticks(u64::from(*wait));
        let of = &mut before[usize::from(talk.ends.client.is_ipv6())];
        let expected = of.map_or(taken | 1, |before| (before - before / 8 + taken / 8) | 1);
        let known = || world.kernel.handshake(id).map(|time| time.as_nanos() as u64);
        assert_eq!(known(), Some(expected), "{talk:?}");
        *of = Some(expected);
        world.wait(50);
        // What comes later says nothing of it.
        talk.all(&world, &[CONNECTED[2], (Client, Transport::Ack), (Backend, Transport::Ack)]);
        let known = world.kernel.handshake(id).map(|time| time.as_nanos() as u64);
        assert_eq!(known, Some(expected));
    }
}

#[test]
fn answer_to_a_syn_that_was_sent_again_is_not_timed() {
    let mut world = World::new(&services(TIMEOUTS, 1));
    for mut talk in talks(20_200) {
        let syn = talk.packet(Client, Transport::Syn);
        talk.say(&world, Client, Transport::Syn);
        world.wait(10);
        talk.send(&world, Client, syn);
        talk.say(&world, Backend, Transport::SynAck);
        talk.say(&world, Client, Transport::Bare);
        assert_eq!(talk.state(&world), Some("established"));
        assert_eq!(world.kernel.handshake(world.backend_id(talk.ends.backend)), None);
    }
}

/// What is told of the flows that end now.
fn silent(world: &mut World) -> Vec<(Reason, bool)> {
    world.wait(seconds(1) + 1);
    let mut events = world.sweep().events;
    events.extend(world.told().into_iter().map(|told| told.event));
    let closed = events.iter().filter(|event| event.what & Event::CLOSED != 0);
    closed.map(|e| (Reason::from_number(e.why), e.what & Event::SENT_AGAIN != 0)).collect()
}

#[test]
fn silence_of_a_backend_is_told_apart_from_a_client_that_asks_once() {
    let mut world = World::new(&services(TIMEOUTS, 1));
    for mut talk in talks(20_300) {
        for again in [0, 1, 3] {
            let syn = talk.packet(Client, Transport::Syn);
            for _ in 0..=again {
                talk.send(&world, Client, syn);
            }
            assert_eq!(silent(&mut world), [(Reason::Idle, again > 0)], "{talk:?}");
            talk.next[0] = talk.next[0].wrapping_add(1 << 20);
        }
    }
}

#[test]
fn a_syn_that_xdp_leaves_to_tc_has_not_been_sent_again() {
    let mut world = World::new(&services(TIMEOUTS, 1));
    let back = world.back;
    world.kernel.allow_redirect(back, false).unwrap();
    for mut talk in talks(20_500).into_iter().filter(|talk| talk.hook == Hook::Xdp) {
        for again in [0, 1] {
            let syn = talk.packet(Client, Transport::Syn);
            for _ in 0..=again {
                for (hook, expected) in [
                    (Hook::Xdp, Verdict::RequestNoRedirect),
                    (Hook::Ingress, Verdict::ForwardedRequest),
                ] {
                    talk.hook = hook;
                    assert_eq!(talk.send(&world, Client, syn).0, expected);
                }
            }
            assert_eq!(silent(&mut world), [(Reason::Idle, again > 0)], "{talk:?}");
            talk.next[0] = talk.next[0].wrapping_add(1 << 20);
        }
    }
    world.kernel.allow_redirect(back, true).unwrap();
}

#[test]
fn silence_is_told_where_answers_go_another_way() {
    for is_v6 in [false, true] {
        let mut world =
            World::new(&in_mode("dsr", &[false, true].map(|v6| backend(v6, 0)), TIMEOUTS));
        let (client, vip) = ends(is_v6, 20_400);
        let syn = |number| {
            let packet = Packet::between([client, vip], Transport::Syn);
            frame(&world, Packet { numbers: [number, 0], ..packet }, 0).0
        };
        let (first, other) = (syn(1_000), syn(70_000));
        let front = world.front;
        let send = |world: &mut World, frames: &[&[u8]]| {
            let lines: Vec<_> =
                frames.iter().map(|frame| (Hook::Ingress, front, frame.to_vec())).collect();
            world.batch(&lines);
            silent(world)
        };
        let told = send(&mut world, &[&first, &first]);
        assert_eq!(told, [(Reason::Idle, true)], "the same one again");
        assert_eq!(send(&mut world, &[&first, &other]), [(Reason::Idle, false)], "another one");
        assert_eq!(send(&mut world, &[&first]), [(Reason::Idle, false)]);
    }
}

#[test]
fn flows_that_are_over_do_not_count_as_going_on() {
    let mut world = World::new(&services(TIMEOUTS, 1));
    for mut talk in talks(20_500) {
        let id = world.backend_id(talk.ends.backend);
        let counts = |world: &World| (world.kernel.live_flows(id), world.kernel.open_flows(id));
        talk.connect(&world);
        assert_eq!(counts(&world), (1, 1));
        talk.all(&world, &[(Client, Transport::Fin), (Backend, Transport::Fin)]);
        assert_eq!(counts(&world), (1, 1), "one acknowledgement is missing");
        talk.say(&world, Client, Transport::Bare);
        assert_eq!(counts(&world), (1, 0));
        world.wait(seconds(2) + 1);
        world.sweep();
        assert_eq!(counts(&world), (0, 0));
    }
}
