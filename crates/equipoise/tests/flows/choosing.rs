//! Which backend a new flow gets: by turns, by live flows, and by its source.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use equipoise_common::flow::count::Pressure;
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_lab::cpu::pin;

use crate::bench::{BACKEND, BACKEND6, Transport, VIP, VIP6, families};
use crate::talk::{CONNECTED, Side, Talk, ends_of};
use crate::world::{HOOKS, TIMEOUTS, World, numbered, seconds, services};

use Side::Client;

/// A service of each family with these keys, and backends of these weights.
fn weighted(keys: &str, weights: &[u16]) -> String {
    let mut text = String::new();
    for (name, vip, first) in [("web", VIP, BACKEND), ("web6", VIP6, BACKEND6)] {
        let vip: SocketAddr = vip.parse().unwrap();
        let backend = |(number, weight)| {
            format!("{{ address = '{}', weight = {weight} }}", numbered(first, number))
        };
        let list: Vec<_> = (0..).zip(weights).map(backend).collect();
        writeln!(
            text,
            "[[service]]\nname = '{name}'\n\
             listen = {{ interfaces = ['front'], address = '{}', port = {}, protocol = 'both' }}\n\
             backends = [{}]\n{keys}\n{TIMEOUTS}",
            vip.ip(),
            vip.port(),
            list.join(", ")
        )
        .unwrap();
    }
    text
}

/// The number of the backend that a client's packet goes to.
fn chosen(world: &World, talk: &Talk, transport: Transport) -> u16 {
    let (verdict, output) = talk.send(world, Client, talk.packet(Client, transport));
    assert_eq!(verdict, Verdict::ForwardedRequest);
    let [_, to] = ends_of(&output.frame);
    let first = if to.is_ipv6() { BACKEND6 } else { BACKEND };
    (0..8).find(|&number| numbered(first, number) == to).unwrap()
}

/// The same client at another address, so many after its own.
fn moved(talk: Talk, by: u128) -> Talk {
    let mut talk = talk;
    let ip = match talk.ends.client.ip() {
        IpAddr::V4(ip) => IpAddr::from((u32::from(ip) + by as u32).to_be_bytes()),
        IpAddr::V6(ip) => IpAddr::from((u128::from(ip) + by).to_be_bytes()),
    };
    talk.ends.client.set_ip(ip);
    talk
}

fn talk(hook: Hook, family: usize, port: u16) -> Talk {
    Talk::new(hook, families(port)[family])
}

#[test]
fn each_backend_is_as_often_in_turn_as_its_weight_says() {
    pin(0);
    for weights in [&[1, 1, 1][..], &[5, 3, 2], &[7], &[4, 0, 2], &[64, 1]] {
        let world = World::new(&weighted("algorithm = 'round-robin'", weights));
        let sum: u16 = weights.iter().sum::<u16>() / if weights == [4, 0, 2] { 2 } else { 1 };
        for (family, hook) in [(0, Hook::Xdp), (1, Hook::Ingress)] {
            let mut seen = BTreeMap::new();
            let rounds = 130 / sum + 1;
            for port in 0..rounds * sum {
                let transport = if port % 2 == 0 { Transport::Syn } else { Transport::Udp };
                let talk = talk(hook, family, 25_000 + port);
                *seen.entry(chosen(&world, &talk, transport)).or_insert(0) += 1;
                // The same again is of the same flow, and takes nobody's turn.
                chosen(&world, &talk, transport);
            }
            for (number, &weight) in (0..).zip(weights) {
                let weight = if weights == [4, 0, 2] { weight / 2 } else { weight };
                let times = seen.get(&number).copied().unwrap_or(0);
                assert_eq!(times, rounds * weight, "{weights:?}: {seen:?}");
            }
        }
    }
}

#[test]
fn the_backend_with_fewer_flows_for_its_weight_gets_the_next() {
    const FLOWS: u16 = 300;
    for (weights, slack) in [(&[1, 1, 1, 1][..], 12), (&[3, 1], 15), (&[1, 0, 1], 12)] {
        let world = World::new(&weighted("algorithm = 'least-connections'", weights));
        let sum: u16 = weights.iter().sum();
        for (family, hook) in [(0, Hook::Ingress), (1, Hook::Xdp)] {
            let mut seen = BTreeMap::new();
            for port in 0..FLOWS {
                let talk = talk(hook, family, 26_000 + port);
                *seen.entry(chosen(&world, &talk, Transport::Syn)).or_insert(0) += 1;
            }
            for (number, &weight) in (0..).zip(weights) {
                let share = FLOWS * weight / sum;
                let times: u16 = seen.get(&number).copied().unwrap_or(0);
                assert!(times.abs_diff(share) <= slack, "{weights:?}: {seen:?}");
            }
        }
    }
}

#[test]
fn a_backend_that_is_busy_already_gets_few_until_its_flows_have_ended() {
    let keys = "algorithm = 'least-connections'";
    let mut world = World::new(&weighted(keys, &[1, 0]));
    for family in 0..2 {
        for port in 0..200 {
            chosen(&world, &talk(Hook::Xdp, family, 27_000 + port), Transport::Syn);
        }
    }
    world.reconfigure(&weighted(keys, &[1, 1]));
    let count = |world: &World, from: u16| {
        let mut seen = [0_u16; 2];
        for family in 0..2 {
            for port in from..from + 100 {
                let number = chosen(world, &talk(Hook::Ingress, family, port), Transport::Syn);
                seen[usize::from(number)] += 1;
            }
        }
        seen
    };
    // Both slots are of the busy one in a quarter of all cases; at random it would be a half, and 100.
    let seen = count(&world, 28_000);
    assert!(seen[0] < 75, "{seen:?}");
    world.wait(seconds(1) + 1);
    world.sweep();
    let seen = count(&world, 29_000);
    assert!(seen[0].abs_diff(seen[1]) <= 20, "{seen:?}");
}

#[test]
fn flows_of_one_source_go_to_one_backend_whatever_the_algorithm() {
    let keys =
        "affinity = 'source-ip'\naffinity-prefix = { v4 = 24, v6 = 56 }\nalgorithm = 'random'";
    let world = World::new(&weighted(keys, &[1; 8]));
    // How far apart clients of one prefix are at most, and of two at least.
    let apart = [(200, 1 << 8), ((1_u128 << 72) - 100, 1 << 72)];
    for (family, (within, beyond)) in apart.into_iter().enumerate() {
        let mut seen = BTreeMap::new();
        for client in 0..64 {
            let mut all = Vec::new();
            for (hook, port) in HOOKS.into_iter().zip([1_000, 30_000]) {
                for transport in [Transport::Syn, Transport::Udp, Transport::Ack] {
                    // From the middle of a stream, too: another balancer may have had it.
                    let port = port + 10 * transport as u16;
                    let talk = moved(talk(hook, family, port), client * beyond);
                    all.push(chosen(&world, &talk, transport));
                    all.push(chosen(&world, &moved(talk, within), transport));
                }
            }
            all.dedup();
            assert_eq!(all.len(), 1, "{client}: {all:?}");
            *seen.entry(all[0]).or_insert(0) += 1;
        }
        assert!(seen.len() == 8 && seen.values().all(|&times| times <= 20), "{seen:?}");
    }
}

#[test]
fn what_finds_no_room_goes_to_the_backend_of_its_source_too() {
    const FLOWS: u16 = 64;
    let keys = "affinity = 'source-ip'";
    let mut world = World::sized(&services(keys, 8), FLOWS.into());
    let known =
        [0, 1].map(|family| chosen(&world, &talk(Hook::Xdp, family, 33_000), Transport::Syn));
    world.wait(seconds(10) + 1);
    world.sweep();
    // What has ended rests.
    world.wait(seconds(1));
    let mut lines = Vec::new();
    for (family, first) in [BACKEND, BACKEND6].into_iter().enumerate() {
        for port in 31_000..31_000 + FLOWS {
            let mut talk = talk(Hook::Xdp, family, port);
            talk.ends.backend = numbered(first, known[family]);
            lines.extend(talk.script(&world, &CONNECTED));
        }
    }
    world.batch(&lines);
    assert_eq!(world.counts().1, 2 * u64::from(FLOWS));
    for (family, known) in known.into_iter().enumerate() {
        for (port, hook) in (0..10).flat_map(|port| HOOKS.map(|hook| (32_000 + port, hook))) {
            assert_eq!(chosen(&world, &talk(hook, family, port), Transport::Syn), known);
        }
    }
    assert_eq!(world.pressure(Pressure::StatelessFull), 2 * 10 * 2);
}
