//! Services on several ports, on ranges of them, and on all; and backends that keep the client's port.

use std::fmt::Write as _;
use std::net::SocketAddr;

use equipoise_common::flow::count::Pressure;
use equipoise_common::verdict::{Hook, Verdict};

use crate::bench::{BACKEND, BACKEND6, CLIENT, CLIENT6, Ends, Transport, VIP, VIP6};
use crate::talk::{CONNECTED, EXCHANGED, Side, Talk};
use crate::world::{HOOKS, World, numbered};

use Side::{Backend, Client};

/// Services of each family on the one VIP, each on these ports with a backend of its own; `{}` in the backend's text is
/// its address.
fn on(services: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (family, vip, first) in [("4", VIP, BACKEND), ("6", VIP6, BACKEND6)] {
        let vip: SocketAddr = vip.parse().unwrap();
        for (number, (ports, port)) in (0..).zip(services) {
            let backend = numbered(first, number);
            let backend = match port.parse() {
                Ok(port) => SocketAddr::new(backend.ip(), port).to_string(),
                Err(_) => backend.ip().to_string(),
            };
            writeln!(
                text,
                "[[service]]\nname = 'on-{family}-{number}'\n\
                 listen = {{ interfaces = ['front'], address = '{}', port = {ports}, protocol = 'both' }}\n\
                 backends = [{{ address = '{backend}' }}]",
                vip.ip(),
            )
            .unwrap();
        }
    }
    text
}

/// A client's port that talks to a port of the VIP, and gets to this backend at this port.
fn to(hook: Hook, is_v6: bool, [from, vip_port]: [u16; 2], (number, port): (u16, u16)) -> Talk {
    let (client, vip, backend) =
        if is_v6 { (CLIENT6, VIP6, BACKEND6) } else { (CLIENT, VIP, BACKEND) };
    let at = |address: SocketAddr, port| SocketAddr::new(address.ip(), port);
    let ends = Ends {
        client: SocketAddr::new(client.parse().unwrap(), from),
        vip: at(vip.parse().unwrap(), vip_port),
        backend: at(numbered(backend, number), port),
    };
    Talk::new(hook, ends)
}

#[test]
fn port_goes_before_range_before_all_and_is_kept_where_the_backend_has_none() {
    let config = on(&[("[80, 8050]", ""), ("'8000-8100'", ""), ("'all'", ""), ("'7-7'", "9")]);
    let world = World::new(&config);
    // For IPv6 the numbers are other ones, in the order of the file.
    let expected = [
        (80, (0, 80)),
        (8050, (0, 8050)),
        (8000, (1, 8000)),
        (8049, (1, 8049)),
        (8100, (1, 8100)),
        (7999, (2, 7999)),
        (8101, (2, 8101)),
        (443, (2, 443)),
        (1, (2, 1)),
        (65535, (2, 65535)),
        (7, (3, 9)),
        (6, (2, 6)),
    ];
    for (number, hook) in (0..).zip(HOOKS) {
        for is_v6 in [false, true] {
            for (at, (vip_port, backend)) in (0..).zip(expected) {
                let from = 20_000 + 100 * number + at;
                to(hook, is_v6, [from, vip_port], backend).connect(&world);
                to(hook, is_v6, [from + 50, vip_port], backend).exchange(&world);
            }
        }
    }
    assert_eq!(world.traffic().ports_changed, 0);
}

#[test]
fn port_of_no_range_is_not_ours_and_ranges_follow_the_configuration() {
    let mut world = World::new(&on(&[("'8000-8100'", "")]));
    let outside = |world: &World, vip_port: u16| {
        for hook in HOOKS {
            for is_v6 in [false, true] {
                for transport in [Transport::Syn, Transport::Udp] {
                    let talk = to(hook, is_v6, [21_000, vip_port], (0, vip_port));
                    let packet = talk.packet(Client, transport);
                    talk.is_passed(world, Client, packet, Verdict::NoService);
                }
            }
        }
    };
    [80, 7999, 8101].into_iter().for_each(|port| outside(&world, port));
    let mut old = to(Hook::Xdp, false, [21_001, 8100], (0, 8100));
    old.connect(&world);
    world.reconfigure(&on(&[("'8050-8099'", "")]));
    [8000, 8049, 8100].into_iter().for_each(|port| outside(&world, port));
    to(Hook::Xdp, false, [21_002, 8050], (0, 8050)).connect(&world);
    to(Hook::Ingress, true, [21_002, 8099], (0, 8099)).connect(&world);
    // A connection goes on, whatever becomes of its service.
    old.say(&world, Client, Transport::Ack);
    old.say(&world, Backend, Transport::Ack);
}

#[test]
fn one_client_port_at_two_ports_of_a_vip_has_two_names_only_at_one_port_of_a_backend() {
    let world = World::new(&on(&[("'8000-8100'", "8080"), ("[80, 443]", "")]));
    for (number, hook) in (0..).zip(HOOKS) {
        for is_v6 in [false, true] {
            let from = 22_000 + number;
            for vip_port in [80, 443] {
                to(hook, is_v6, [from, vip_port], (1, vip_port)).all(&world, &CONNECTED);
            }
            let before = world.traffic().ports_changed;
            to(hook, is_v6, [from, 8000], (0, 8080)).all(&world, &CONNECTED);
            let second = to(hook, is_v6, [from, 8001], (0, 8080));
            let (verdict, _) = second.send(&world, Client, second.packet(Client, Transport::Syn));
            assert_eq!(verdict, Verdict::ForwardedRequest);
            assert_eq!(world.traffic().ports_changed, before + 1);
        }
    }
}

#[test]
fn replies_that_were_not_remembered_go_out_from_the_port_that_was_asked() {
    const FLOWS: u16 = 64;
    let config = on(&[("'8000-8100'", ""), ("[80, 443]", ""), ("[81, 82]", "8080")]);
    let world = World::sized(&config, FLOWS.into());
    let mut lines = Vec::new();
    for is_v6 in [false, true] {
        for from in 23_000..23_000 + FLOWS {
            let said = if from % 2 == 0 { &CONNECTED } else { &EXCHANGED };
            lines.extend(to(Hook::Xdp, is_v6, [from, 8000], (0, 8000)).script(&world, said));
        }
    }
    world.batch(&lines);
    assert_eq!(world.counts(), (2 * u64::from(FLOWS), 2 * u64::from(FLOWS)));
    for hook in HOOKS {
        for is_v6 in [false, true] {
            for (vip_port, number) in [(8000, 0), (8077, 0), (8100, 0), (80, 1), (443, 1)] {
                let mut talk = to(hook, is_v6, [24_000, vip_port], (number, vip_port));
                talk.all(&world, &CONNECTED);
                talk.all(&world, &EXCHANGED);
                assert_eq!(talk.state(&world), None);
            }
            // Of two ports that lead to one at the backend, neither can be told; nor is the rest of its ports ours.
            for (port, number) in [(8080, 2), (7999, 0), (8101, 0), (8000, 1)] {
                let talk = to(hook, is_v6, [24_001, 81], (number, port));
                let packet = talk.packet(Backend, Transport::Udp);
                talk.is_passed(&world, Backend, packet, Verdict::NoService);
            }
        }
    }
    assert_eq!(world.pressure(Pressure::StatelessReply), 4 * 5 * 2);
}
