//! Where packets to backends come from: the client, or an address of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use equipoise_common::verdict::{Hook, Verdict};
use equipoise_core::facts::OwnPorts;

use crate::bench::{Packet, Transport};
use crate::modes::{backend, ends, in_mode};
use crate::talk::{ends_of, redirect};
use crate::world::{HOOKS, World};

const BOTH: [bool; 2] = [false, true];

fn own(is_v6: bool) -> IpAddr {
    if is_v6 { "2001:db8:b::1" } else { "10.0.0.1" }.parse().unwrap()
}

fn full_nat(keys: &str) -> World {
    World::new(&in_mode("full-nat", &[backend(false, 0), backend(true, 0)], keys))
}

/// Sends a client's packet, and answers with where it seems to come from, once all else has been checked.
fn source(
    world: &World,
    hook: Hook,
    [client, vip]: [SocketAddr; 2],
    transport: Transport,
) -> SocketAddr {
    let packet = Packet::between([client, vip], transport);
    let (verdict, output) = world.verdict(hook, world.front, &packet.build(world.client_link()));
    assert_eq!((verdict, output.action), (Verdict::ForwardedRequest, redirect(hook)), "{client}");
    let [from, to] = ends_of(&output.frame);
    assert_eq!(to, SocketAddr::new(backend(vip.is_ipv6(), 0), 80));
    let sent = Packet { from, to, ..packet }.hops(63);
    assert_eq!(output.frame, sent.build(world.sent(hook, world.back)), "{hook:?}");
    from
}

/// Sends what the backend answers, and checks that the client gets it from the VIP.
fn answered(world: &World, hook: Hook, [client, vip]: [SocketAddr; 2], name: SocketAddr) {
    let there = SocketAddr::new(backend(vip.is_ipv6(), 0), 80);
    let packet = Packet::between([there, name], Transport::Udp);
    let (verdict, output) = world.verdict(hook, world.back, &packet.build(world.backend_link()));
    assert_eq!((verdict, output.action), (Verdict::ForwardedReply, redirect(hook)));
    let sent = Packet { from: vip, to: client, ..packet }.hops(63);
    assert_eq!(output.frame, sent.build(world.sent(hook, world.front)));
}

#[test]
fn backends_see_an_address_of_ours_and_their_answers_find_the_client() {
    let world = full_nat("");
    for (number, hook) in (0..).zip(HOOKS) {
        for is_v6 in BOTH {
            let (client, vip) = ends(is_v6, 38_000 + number);
            let name = source(&world, hook, [client, vip], Transport::Udp);
            assert_eq!(name.ip(), own(is_v6));
            // Ports of the kernel's own connections are left to it.
            assert!((1_024..32_768).contains(&name.port()), "{name}");
            assert_eq!(source(&world, hook, [client, vip], Transport::Udp), name);
            answered(&world, hook, [client, vip], name);
            let stream = source(&world, hook, [client, vip], Transport::Syn);
            assert_eq!(stream.ip(), own(is_v6));
        }
    }
}

#[test]
fn ports_are_those_that_the_kernel_does_not_give_out() {
    let mut world = full_nat("");
    let before = world.state.facts().clone();
    let mut facts = before.clone();
    facts.own_ports = OwnPorts(2_000, 65_000);
    world.state.handle_facts(facts);
    world.converge();
    for is_v6 in BOTH {
        for number in 0..50 {
            let (client, vip) = ends(is_v6, 38_100 + number);
            let name = source(&world, Hook::Xdp, [client, vip], Transport::Udp);
            assert!((1_024..2_000).contains(&name.port()), "{name}");
        }
    }
    world.state.handle_facts(before);
    world.converge();
}

#[test]
fn flows_are_spread_over_the_addresses_that_a_service_names() {
    let keys = "snat-addresses = ['192.0.2.51', '192.0.2.52', '2001:db8:e::51', '2001:db8:e::52']";
    let world = full_nat(keys);
    for is_v6 in BOTH {
        let mut used: BTreeMap<IpAddr, u32> = BTreeMap::new();
        let mut names = BTreeSet::new();
        for number in 0..200 {
            let (client, vip) = ends(is_v6, 39_000 + number);
            let name = source(&world, Hook::Xdp, [client, vip], Transport::Udp);
            *used.entry(name.ip()).or_default() += 1;
            assert!(names.insert(name), "{name} has two flows");
            answered(&world, Hook::Xdp, [client, vip], name);
        }
        assert_eq!(used.len(), 2, "{used:?}");
        assert!(used.values().all(|times| *times > 60), "{used:?}");
        assert!(names.iter().any(|name| name.port() > 32_767), "all ports are ours there");
    }
}

#[test]
fn without_a_free_port_a_new_flow_is_refused_and_counted_and_others_go_on() {
    let mut world = full_nat("max-flows = 0");
    let before = world.state.facts().clone();
    let mut facts = before.clone();
    // Sixteen ports are left: 1024 to 1039.
    facts.own_ports = OwnPorts(1_040, 65_535);
    world.state.handle_facts(facts);
    world.converge();
    for (number, is_v6) in (0..).zip(BOTH) {
        let mut names = BTreeMap::new();
        let mut refused = 0;
        for port in 40_000..40_200 {
            let (client, vip) = ends(is_v6, port + 200 * number);
            let packet = Packet::between([client, vip], Transport::Udp);
            let frame = packet.build(world.client_link());
            let (verdict, output) = world.verdict(Hook::Xdp, world.front, &frame);
            match verdict {
                Verdict::ForwardedRequest => {
                    let [name, _] = ends_of(&output.frame);
                    assert!(names.insert(name, client).is_none(), "{name} has two flows");
                }
                Verdict::NoSourcePort => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((names.len(), refused), (16, 184), "each port is found");
        for (name, client) in names {
            let (_, vip) = ends(is_v6, 0);
            answered(&world, Hook::Xdp, [client, vip], name);
        }
    }
    world.state.handle_facts(before);
    world.converge();
}

#[test]
fn without_an_address_of_ours_packets_that_need_one_are_refused() {
    let mut world = full_nat("");
    let before = world.state.facts().clone();
    let mut facts = before.clone();
    facts.sources.clear();
    world.state.handle_facts(facts.clone());
    world.converge();
    let refused = |world: &World, port| {
        for is_v6 in BOTH {
            let (client, vip) = ends(is_v6, port);
            let frame = Packet::between([client, vip], Transport::Udp).build(world.client_link());
            let (verdict, _) = world.verdict(Hook::Ingress, world.front, &frame);
            assert_eq!(verdict, Verdict::NoSourceAddress);
        }
    };
    refused(&world, 41_000);
    world.reconfigure(&in_mode("gue", &[backend(false, 0)], ""));
    refused(&world, 41_001);
    world.state.handle_facts(before);
    world.converge();
}

#[test]
fn backend_that_reaches_another_through_a_vip_is_seen_as_one_of_us() {
    let all = [backend(false, 0), backend(true, 0), backend(false, 1), backend(true, 1)];
    let world = World::new(&in_mode("nat", &all, ""));
    for (number, hook) in (0..).zip(HOOKS) {
        for is_v6 in BOTH {
            let (stranger, vip) = ends(is_v6, 0);
            let mut reached = BTreeSet::new();
            for port in 0..40 {
                let own_port = 42_000 + 100 * number + port;
                let client = SocketAddr::new(backend(is_v6, 0), own_port);
                let packet = Packet::between([client, vip], Transport::Udp);
                // It comes by the clients' interface here, which makes no difference.
                let frame = packet.build(world.client_link());
                let (verdict, output) = world.verdict(hook, world.front, &frame);
                assert_eq!(verdict, Verdict::ForwardedRequest);
                let [from, to] = ends_of(&output.frame);
                assert_eq!(from.ip(), own(is_v6), "{client} to {to}");
                reached.insert(to.ip());
                let answer =
                    Packet::between([to, from], Transport::Udp).build(world.backend_link());
                let (verdict, output) = world.verdict(hook, world.back, &answer);
                assert_eq!(verdict, Verdict::ForwardedReply);
                assert_eq!(ends_of(&output.frame), [vip, client]);
            }
            assert_eq!(reached.len(), 2, "itself and the other one");
            // That flow alone: strangers are who they are.
            let stranger = SocketAddr::new(stranger.ip(), 42_500 + number);
            let frame = Packet::between([stranger, vip], Transport::Udp).build(world.client_link());
            let output = world.run(hook, world.front, &frame);
            assert_eq!(ends_of(&output.frame)[0], stranger);
        }
    }
}
