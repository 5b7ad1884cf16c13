//! Routes by source: whose packets go to which pool, by every way of deciding about one.
//!
//! Each route has one backend, so that where a packet goes says which route it has taken.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use equipoise_common::verdict::{Hook, Verdict};
use equipoise_core::facts::{Facts, OwnPorts};

use crate::bench::{Packet, Transport, VIP, VIP6};
use crate::fragments::{LARGE, cut};
use crate::modes::{backend, opened};
use crate::talk::{ends_of, redirect};
use crate::world::{HOOKS, World};

/// Prefixes that lie in each other, and the backend of each.
const ROUTES: [(&str, &str, u16); 3] = [
    ("198.51.0.0/16", "2001:db8:c::/48", 1),
    ("198.51.100.0/24", "2001:db8:c::/64", 2),
    ("198.51.100.7", "2001:db8:c::7", 3),
];

/// A client of no route, and one of each for which a shorter prefix would do as well; and the backend of each.
const CLIENTS: [(&str, &str, u16); 4] = [
    ("192.0.2.77", "2001:db8:d::7", 0),
    ("198.51.7.7", "2001:db8:c:1::7", 1),
    ("198.51.100.8", "2001:db8:c::8", 2),
    ("198.51.100.7", "2001:db8:c::7", 3),
];

const BOTH: [bool; 2] = [false, true];

fn of<T>(is_v6: bool, v4: T, v6: T) -> T {
    if is_v6 { v6 } else { v4 }
}

/// A service of each family on this port, which leads sources of these prefixes to these backends, and others to the first.
fn routed(port: u16, keys: &str, routes: &[(&str, &str, u16)]) -> String {
    let mut text = String::new();
    for is_v6 in BOTH {
        let vip: SocketAddr = of(is_v6, VIP, VIP6).parse().unwrap();
        let list =
            |number: u16| format!("backends = [{{ address = '{}' }}]", backend(is_v6, number));
        writeln!(
            text,
            "[[service]]\nname = '{port} of {}'\n{}\n{keys}\n\
             listen = {{ interfaces = ['front'], address = '{}', port = {port}, protocol = 'both' }}",
            vip.ip(),
            list(0),
            vip.ip()
        )
        .unwrap();
        for (v4, v6, number) in routes {
            let source = of(is_v6, v4, v6);
            writeln!(text, "[[service.source-route]]\nsource = '{source}'\n{}", list(*number))
                .unwrap();
        }
    }
    text
}

/// A client's address and a VIP.
fn ends(is_v6: bool, (v4, v6): (&str, &str), [from, to]: [u16; 2]) -> [SocketAddr; 2] {
    let vip: SocketAddr = of(is_v6, VIP, VIP6).parse().unwrap();
    let client: IpAddr = of(is_v6, v4, v6).parse().unwrap();
    [SocketAddr::new(client, from), SocketAddr::new(vip.ip(), to)]
}

/// The backend that a client's packet goes to.
fn goes(world: &World, hook: Hook, packet: Packet) -> IpAddr {
    let frame = packet.build(world.client_link());
    let (verdict, output) = world.verdict(hook, world.front, &frame);
    let context = format!("{} {hook:?}", packet.from);
    assert_eq!((verdict, output.action), (Verdict::ForwardedRequest, redirect(hook)), "{context}");
    let is_tunnel = output.frame.len() > frame.len();
    if is_tunnel { opened(&output.frame, 0).0.destination } else { ends_of(&output.frame)[1].ip() }
}

#[test]
fn longest_prefix_of_a_source_decides_for_new_flows_and_for_packets_that_open_none() {
    for (mode, port) in [("nat", 20_000), ("full-nat", 20_100), ("ipip", 20_200), ("gue", 20_300)] {
        let world = World::new(&routed(80, &format!("mode = '{mode}'"), &ROUTES));
        for (number, hook) in (0..).zip(HOOKS) {
            for is_v6 in BOTH {
                for (v4, v6, expected) in CLIENTS {
                    // By the hash of a packet from mid-stream, and for a RST without being remembered.
                    for (nth, transport) in (0..).zip([
                        Transport::Syn,
                        Transport::Udp,
                        Transport::Ack,
                        Transport::Reset,
                    ]) {
                        if mode == "full-nat" && transport == Transport::Reset {
                            continue;
                        }
                        let port = port + 10 * number + nth;
                        let packet = Packet::between(ends(is_v6, (v4, v6), [port, 80]), transport);
                        let to = goes(&world, hook, packet);
                        let context = format!("{mode} {v4} {v6} {nth}");
                        assert_eq!(to, backend(is_v6, expected), "{context}");
                    }
                }
            }
        }
    }
}

#[test]
fn two_services_do_not_share_their_routes() {
    let prefix = |number| [("198.51.100.0/24", "2001:db8:c::/48", number)];
    let text = routed(80, "", &prefix(1)) + &routed(81, "", &prefix(2)) + &routed(82, "", &[]);
    let world = World::new(&text);
    for hook in HOOKS {
        for is_v6 in BOTH {
            for (port, expected) in [(80, 1), (81, 2), (82, 0)] {
                let client = ("198.51.100.9", "2001:db8:c::9");
                let ends = ends(is_v6, client, [21_000 + port, port]);
                let to = goes(&world, hook, Packet::between(ends, Transport::Udp));
                assert_eq!(to, backend(is_v6, expected), "{port}");
            }
        }
    }
}

#[test]
fn flows_stay_where_they_are_when_routes_change() {
    let prefix = |number| [("198.51.100.0/24", "2001:db8:c::/48", number)];
    let mut world = World::new(&routed(80, "", &prefix(1)));
    let client = ("198.51.100.9", "2001:db8:c::9");
    let mut all = Vec::new();
    // What new flows get in each turn; the last has no route.
    for (turn, routes) in (0..).zip([&prefix(1)[..], &prefix(2), &[]]) {
        world.reconfigure(&routed(80, "", routes));
        for (number, hook) in (0..).zip(HOOKS) {
            for is_v6 in BOTH {
                let ends = ends(is_v6, client, [22_000 + 10 * turn + number, 80]);
                let expected = backend(is_v6, routes.first().map_or(0, |(.., number)| *number));
                assert_eq!(goes(&world, hook, Packet::between(ends, Transport::Syn)), expected);
                all.push((hook, ends, expected));
            }
        }
        for &(hook, ends, expected) in &all {
            let to = goes(&world, hook, Packet::between(ends, Transport::Ack));
            assert_eq!(to, expected, "{ends:?}");
        }
    }
}

#[test]
fn a_fragment_before_the_first_goes_where_that_will_go() {
    for (mode, port) in [("nat", 23_000), ("ipip", 23_100)] {
        let keys = format!("fragments = 'hash'\nmode = '{mode}'");
        let mut world = World::new(&routed(80, &keys, &ROUTES));
        for hook in HOOKS {
            for is_v6 in BOTH {
                for (v4, v6, expected) in CLIENTS {
                    // What was left under this identification is followed no more.
                    world.wait(60_000);
                    let ends = ends(is_v6, (v4, v6), [port, 80]);
                    let packet = Packet { payload: LARGE, ..Packet::between(ends, Transport::Udp) };
                    let pieces = cut(&packet.build(world.client_link()));
                    for number in [2, 0, 1] {
                        let (verdict, output) = world.verdict(hook, world.front, &pieces[number]);
                        assert_eq!(verdict, Verdict::ForwardedRequest, "{mode} {v4} {number}");
                        let to = if mode == "nat" {
                            destination(&output.frame)
                        } else {
                            opened(&output.frame, 0).0.destination
                        };
                        assert_eq!(to, backend(is_v6, expected), "{mode} {v4} {number}");
                    }
                }
            }
        }
    }
}

/// Of a fragment, which may have no ports.
fn destination(frame: &[u8]) -> IpAddr {
    let v4 = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).unwrap().into();
    let v6 = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).unwrap().into();
    if frame[12] == 8 { v4(&frame[30..34]) } else { v6(&frame[38..54]) }
}

#[test]
fn without_a_backend_of_its_route_a_client_finds_none_at_all() {
    let other = |is_v6: bool| backend(!is_v6, 1);
    for (empty, verdict) in [("drop", Verdict::NoBackend), ("reset", Verdict::ResetNoBackend)] {
        let mut text = String::new();
        for is_v6 in BOTH {
            // Of the other family, so that clients of this one find its pool empty.
            let service = routed(80, &format!("on-empty = '{empty}'"), &[]);
            let services: Vec<&str> = service.split_inclusive("protocol = 'both' }\n").collect();
            let prefix = of(is_v6, "198.51.100.0/24", "2001:db8:c::/48");
            text += services[usize::from(is_v6)];
            writeln!(
                text,
                "[[service.source-route]]\nsource = '{prefix}'\nbackends = [{{ address = '{}' }}]",
                other(is_v6)
            )
            .unwrap();
        }
        let world = World::new(&text);
        for hook in HOOKS {
            for is_v6 in BOTH {
                let client = ("198.51.100.9", "2001:db8:c::9");
                let ends = ends(is_v6, client, [24_000, 80]);
                let frame = Packet::between(ends, Transport::Syn).build(world.client_link());
                assert_eq!(world.verdict(hook, world.front, &frame).0, verdict, "{hook:?}");
            }
        }
        assert_eq!(world.traffic().new_flows, 0);
    }
}

#[test]
fn a_hundred_thousand_prefixes_load_and_each_finds_its_pool() {
    const PREFIXES: u32 = 100_000;
    let prefix = |number: u32| IpAddr::from((0x1000_0000 + (number << 8)).to_be_bytes());
    let list = |parity: u32| {
        let mine = (0..PREFIXES).filter(|number| number % 2 == parity);
        let text: Vec<_> = mine.map(|number| format!("'{}/24'", prefix(number))).collect();
        text.join(",")
    };
    let service = routed(80, "", &[]);
    let service = service.split_inclusive("protocol = 'both' }\n").next().unwrap();
    let mut text = service.to_owned();
    for parity in [0, 1] {
        writeln!(
            text,
            "[[service.source-route]]\nsource = [{}]\nbackends = [{{ address = '{}' }}]",
            list(parity),
            backend(false, 1 + parity as u16)
        )
        .unwrap();
    }
    let mut world = World::new(service);
    let begun = Instant::now();
    world.reconfigure(&text);
    println!("100000 prefixes from text to the kernel: {:?}", begun.elapsed());
    // Another reading of the machine, which changes nothing here.
    let before = world.state.facts().clone();
    world.state.handle_facts(Facts { own_ports: OwnPorts(2_000, 65_000), ..before.clone() });
    let begun = Instant::now();
    world.converge();
    println!("planned again, and nothing of routes to be done: {:?}", begun.elapsed());
    world.state.handle_facts(before);
    world.converge();
    for number in [0, 1, 2, 49_999, 50_000, PREFIXES - 1, PREFIXES] {
        let client = prefix(number).to_string();
        let ends = ends(false, (&client, ""), [25_000, 80]);
        let expected = if number < PREFIXES { 1 + (number % 2) as u16 } else { 0 };
        for hook in HOOKS {
            let to = goes(&world, hook, Packet::between(ends, Transport::Udp));
            assert_eq!(to, backend(false, expected), "{client}");
        }
    }
}
