//! Pools whose TCP connections this host takes up: what is left to the stack, what is counted before, and what goes on by its flow.

use std::net::{IpAddr, SocketAddr};

use equipoise::dataplane::kernel::{Entry, Input};
use equipoise_common::verdict::{Hook, Verdict};

use crate::answers::{ETHERNET, empty};
use crate::bench::{BACKEND, BACKEND6, Packet, Transport};
use crate::errors::{Message, TROUBLES};
use crate::fragments::{LARGE, cut};
use crate::rates::next;
use crate::talk::{Side, Talk, passed, talks};
use crate::world::{TIMEOUTS, World, numbered, seconds, services};

use Side::{Backend, Client};

/// All that TCP can say.
const ANY: [Transport; 8] = [
    Transport::Syn,
    Transport::SynAck,
    Transport::Ack,
    Transport::Bare,
    Transport::Fin,
    Transport::LoneFin,
    Transport::Reset,
    Transport::Refusal,
];

/// The first backend of each family.
fn first() -> [SocketAddr; 2] {
    [BACKEND, BACKEND6].map(|address| address.parse().unwrap())
}

/// With this configuration, in which the pools that have one of the first backends are streamed.
fn streaming(config: &str) -> World {
    let mut world = World::new(config);
    world.stream(config, &first());
    world
}

fn stays_out(world: &World, talk: &Talk, transport: Transport) {
    let packet = talk.packet(Client, transport);
    talk.is_passed(world, Client, packet, Verdict::Streamed);
}

#[test]
fn the_stack_gets_all_tcp_of_no_flow_as_it_came_and_datagrams_are_balanced() {
    for keys in ["on-unknown = 'hash'", "on-unknown = 'reset'", "on-unknown = 'drop'"] {
        let world = streaming(&services(keys, 1));
        for talk in talks(30_000) {
            for transport in ANY {
                stays_out(&world, &talk, transport);
            }
        }
        assert_eq!(world.counts(), (0, 0), "{keys}");
        for mut talk in talks(30_010) {
            talk.exchange(&world);
        }
        assert_eq!((world.counts(), world.traffic().new_flows), ((4, 4), 4), "{keys}");
    }
}

#[test]
fn whether_there_is_a_backend_is_not_asked() {
    for keys in ["on-empty = 'reset'", "on-empty = 'drop'", "on-empty = 'pass'"] {
        let config = empty(keys);
        let world = streaming(&config);
        for talk in talks(30_100) {
            for transport in ANY {
                stays_out(&world, &talk, transport);
            }
        }
    }
}

#[test]
fn of_routes_those_are_streamed_whose_pools_are() {
    let route = |source: &str, backend: SocketAddr| {
        format!(
            "[[service.source-route]]\nsource = '{source}'\nbackends = [{{ address = '{backend}' }}]\n"
        )
    };
    let [v4, v6] = services("", 1).split_once("[[service]]\nname = 'web6'").map_or_else(
        || panic!("two services"),
        |(v4, v6)| [v4.to_owned(), format!("[[service]]\nname = 'web6'{v6}")],
    );
    let others = [BACKEND, BACKEND6].map(|first| numbered(first, 1));
    let config =
        [v4, route("198.51.100.0/24", others[0]), v6, route("2001:db8:c::/64", others[1])].concat();
    let elsewhere = |mut talk: Talk| {
        let ip: &str = if talk.ends.vip.is_ipv4() { "192.0.2.77" } else { "2001:db8:d::7" };
        talk.ends.client.set_ip(ip.parse().unwrap());
        talk
    };
    // The service's own pool, then that of the route.
    for (streamed, is_route) in [(first(), false), (others, true)] {
        let mut world = World::new(&config);
        world.stream(&config, &streamed);
        for talk in talks(30_200) {
            let routed = talk.send(&world, Client, talk.packet(Client, Transport::Syn)).0;
            let other = elsewhere(next(talk, 1));
            let own = other.send(&world, Client, other.packet(Client, Transport::Syn)).0;
            let (streamed, forwarded) = (Verdict::Streamed, Verdict::ForwardedRequest);
            let expected = if is_route { (streamed, forwarded) } else { (forwarded, streamed) };
            assert_eq!((routed, own), expected, "{talk:?}");
        }
    }
}

#[test]
fn a_source_that_is_denied_is_denied() {
    let config = services("limits = { deny = ['198.51.100.7', '2001:db8:c::7'] }", 1);
    let world = streaming(&config);
    for talk in talks(30_300) {
        for transport in ANY {
            let packet = talk.packet(Client, transport);
            talk.is_dropped(&world, Client, packet, Verdict::SourceDenied);
        }
    }
}

/// What native XDP passes TC takes up, and asks for the token.
#[test]
fn a_source_pays_for_a_connection_at_the_last_hook_alone() {
    let keys = format!("{TIMEOUTS}\nlimits = {{ per-source = {{ rate = 1, burst = 3 }} }}");
    let config = services(&keys, 1);
    let mut world = streaming(&config);
    for is_v6 in [false, true] {
        let at = |entry: Entry, number: u16| {
            let talk = talks(30_400 + number)[usize::from(is_v6)];
            let (device, frame) = talk.frame(&world, Client, talk.packet(Client, Transport::Syn));
            let before = [Verdict::Streamed, Verdict::SourceLimit]
                .map(|verdict| world.kernel_verdicts(verdict));
            let runner = world.kernel.runner(entry).unwrap();
            world
                .netns
                .run(|| runner.run(Input { frame: &frame, interface: device, repeat: 1 }))
                .unwrap();
            let after = [Verdict::Streamed, Verdict::SourceLimit]
                .map(|verdict| world.kernel_verdicts(verdict));
            [after[0] - before[0], after[1] - before[1]] == [1, 0]
        };
        // Its own flows of datagrams have had one of three.
        let datagram = talks(30_390)[usize::from(is_v6)];
        datagram.pass(&world, Client, datagram.packet(Client, Transport::Udp));
        assert!((0..10).all(|number| at(Entry::Xdp, number)));
        assert!(at(Entry::Ingress, 20) && at(Entry::XdpGeneric, 21));
        assert!(!at(Entry::Ingress, 22) && !at(Entry::XdpGeneric, 23));
        assert!(at(Entry::Xdp, 24), "and leaves it to TC to say so");
    }
    for talk in talks(30_450) {
        if talk.hook == Hook::Ingress {
            let packet = talk.packet(Client, Transport::Syn);
            talk.is_dropped(&world, Client, packet, Verdict::SourceLimit);
        }
        for transport in ANY.into_iter().filter(|&transport| transport != Transport::Syn) {
            stays_out(&world, &talk, transport);
        }
    }
    world.wait(seconds(10));
}

#[test]
fn flows_go_on_to_their_end_when_their_pool_becomes_streamed() {
    let config = services(TIMEOUTS, 1);
    let mut world = World::new(&config);
    let (mut connected, mut opening) = (talks(30_500), talks(30_510));
    for talk in &mut connected {
        talk.connect(&world);
    }
    for talk in &mut opening {
        talk.say(&world, Client, Transport::Syn);
    }
    world.stream(&config, &first());
    for talk in &mut opening {
        // What comes again, too.
        talk.next[0] = talk.next[0].wrapping_sub(1);
        talk.all(
            &world,
            &[(Client, Transport::Syn), (Backend, Transport::SynAck), (Client, Transport::Bare)],
        );
    }
    for talk in connected.iter_mut().chain(&mut opening) {
        talk.all(&world, &[(Client, Transport::Ack), (Backend, Transport::Ack)]);
        talk.all(&world, &[(Client, Transport::Fin), (Backend, Transport::Fin)]);
        talk.say(&world, Client, Transport::Bare);
        assert_eq!(talk.state(&world), Some("closing"));
    }
    // One that begins anew with the same ends is another connection.
    world.wait(seconds(3));
    for talk in connected.iter().chain(&opening) {
        stays_out(&world, talk, Transport::Syn);
        assert_eq!(talk.state(&world), None);
    }
    // And back: what comes from here on opens flows.
    world.reconfigure(&config);
    for talk in &mut talks(30_520) {
        talk.connect(&world);
    }
}

fn large(talk: &Talk, transport: Transport) -> Packet {
    Packet { payload: LARGE, ..talk.packet(Client, transport) }
}

#[test]
fn fragments_follow_the_first_to_the_stack() {
    let before = [("track", Verdict::FragmentUnknown), ("hash", Verdict::Streamed)];
    for (fragments, unknown) in before {
        let mut world = streaming(&services(&format!("fragments = '{fragments}'"), 1));
        for talk in talks(30_600) {
            world.wait(60_000);
            let (device, frame) = talk.frame(&world, Client, large(&talk, Transport::Ack));
            let pieces = cut(&frame);
            assert_eq!(world.verdict(talk.hook, device, &pieces[1]).0, unknown, "{talk:?}");
            for number in [0, 2, 1] {
                let (verdict, output) = world.verdict(talk.hook, device, &pieces[number]);
                let right = (Verdict::Streamed, passed(talk.hook));
                assert_eq!((verdict, output.action), right, "{talk:?} {number}");
                assert_eq!(output.frame, pieces[number], "{talk:?} {number}");
            }
        }
        // Those of datagrams go to backends.
        world.wait(60_000);
        for talk in talks(30_650) {
            let (device, frame) = talk.frame(&world, Client, large(&talk, Transport::Udp));
            for piece in cut(&frame) {
                let (verdict, _) = world.verdict(talk.hook, device, &piece);
                assert_eq!(verdict, Verdict::ForwardedRequest, "{talk:?}");
            }
        }
    }
    let world = streaming(&services("fragments = 'drop'", 1));
    for talk in talks(30_700) {
        let (device, frame) = talk.frame(&world, Client, large(&talk, Transport::Ack));
        for piece in cut(&frame) {
            let (verdict, _) = world.verdict(talk.hook, device, &piece);
            assert_eq!(verdict, Verdict::FragmentRefused, "{talk:?}");
        }
    }
}

#[test]
fn errors_about_what_this_host_sends_reach_its_stack() {
    let world = streaming(&services("", 1));
    for talk in talks(30_800) {
        let [vip, client] = [talk.ends.vip, talk.ends.client];
        let sent = Packet::between([vip, client], Transport::Ack).build(world.client_link());
        let router: IpAddr =
            if vip.is_ipv4() { "192.0.2.254" } else { "2001:db8:99::1" }.parse().unwrap();
        for trouble in TROUBLES {
            for from in [router, client.ip()] {
                let (ends, payload) = ([from, vip.ip()], &sent[ETHERNET..]);
                let message = Message { ends, hops: 64, dscp: 0, trouble, payload };
                let frame = message.build(world.client_link());
                let (verdict, output) = world.verdict(talk.hook, world.front, &frame);
                let right = (Verdict::NotTcpUdp, passed(talk.hook));
                assert_eq!((verdict, output.action), right, "{talk:?} {trouble:?}");
                assert_eq!(output.frame, frame, "{talk:?} {trouble:?}");
            }
        }
    }
}

#[test]
fn what_this_host_answers_goes_out_as_it_is() {
    let world = streaming(&services("", 1));
    for talk in talks(30_900) {
        for transport in ANY {
            let ends = [talk.ends.vip, talk.ends.client];
            let frame = Packet::between(ends, transport).build(world.client_link());
            let (verdict, output) = world.verdict(Hook::Egress, world.front, &frame);
            assert_eq!((verdict, output.action), (Verdict::Outgoing, passed(Hook::Egress)));
            assert_eq!(output.frame, frame);
        }
    }
}

/// As this host's connections to backends are, those of checks among them.
#[test]
fn this_hosts_own_connections_to_backends_are_its_own_whatever_has_not_been_remembered() {
    let world = World::new(&services("on-unknown = 'hash'", 1));
    for talk in talks(31_000) {
        // What replies become that answer such packets is looked for from here on.
        talk.pass(&world, Client, talk.packet(Client, Transport::Reset));
        let backend = talk.ends.backend;
        let socket = world.netns.run(|| opening(backend));
        let own = socket.local_addr().unwrap().as_socket().unwrap();
        for transport in [Transport::SynAck, Transport::Ack] {
            let frame = Packet::between([backend, own], transport).build(world.backend_link());
            let (verdict, output) = world.verdict(talk.hook, world.back, &frame);
            let right = (Verdict::LocalSocket, passed(talk.hook));
            assert_eq!((verdict, output.action), right, "{talk:?} {transport:?}");
            assert_eq!(output.frame, frame);
        }
    }
}

/// A connection that has been begun and that nobody answers.
fn opening(to: SocketAddr) -> socket2::Socket {
    let domain = socket2::Domain::for_address(to);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    let begun = socket.connect(&to.into()).unwrap_err();
    assert_eq!(begun.raw_os_error(), Some(libc::EINPROGRESS));
    socket
}
