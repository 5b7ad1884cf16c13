//! The name that a flow has at its backend: no two have the same, whatever VIPs their clients came through.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use equipoise_common::flow::count::Pressure;
use equipoise_common::key::UDP;
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_lab::scale;

use crate::bench::{BACKEND, BACKEND6, CLIENT, CLIENT6, Ends, Packet, Transport, VIP, VIP6};
use crate::talk::{CONNECTED, EXCHANGED, Side, Talk, ends_of};
use crate::world::{Dice, HOOKS, World, numbered, seconds};

use Side::{Backend, Client};

/// Two VIPs of each family that lead to the same backend.
pub(crate) fn pairs() -> String {
    let mut text = String::new();
    for (family, first, backend) in [("4", VIP, BACKEND), ("6", VIP6, BACKEND6)] {
        for number in 0..2 {
            let vip = numbered(first, number);
            text += &format!(
                "[[service]]\nname = 'web{family}-{number}'\nlisten = {{ interfaces = ['front'], \
                 address = '{}', port = {}, protocol = 'both' }}\nbackends = [{{ address = '{backend}' }}]\n\
                 timeouts = {{ tcp-opening = '1s', tcp-established = '1s', tcp-closing = '1s', \
                 udp-one-way = '1s', udp-two-way = '1s' }}\n",
                vip.ip(),
                vip.port(),
            );
        }
    }
    text
}

/// A client's port of a family, through one of the VIPs.
pub(crate) fn through(hook: Hook, is_v6: bool, port: u16, vip: u16) -> Talk {
    let (client, first, backend) =
        if is_v6 { (CLIENT6, VIP6, BACKEND6) } else { (CLIENT, VIP, BACKEND) };
    let client = SocketAddr::new(client.parse().unwrap(), port);
    let ends = Ends { client, vip: numbered(first, vip), backend: backend.parse().unwrap() };
    Talk::new(hook, ends)
}

/// Sends a client's packet, and says from which port its backend sees it come.
fn name_of(world: &World, talk: &Talk, transport: Transport) -> u16 {
    let (device, frame) = talk.frame(world, Client, talk.packet(Client, transport));
    let output = world.here(talk.hook, device, &frame);
    let [from, to] = ends_of(&output.frame);
    assert_eq!((from.ip(), to), (talk.ends.client.ip(), talk.ends.backend));
    // All the rest is as it was, with the checksums that follow.
    let packet = Packet { from, to, ..talk.packet(Client, transport) }.hops(63);
    assert_eq!(output.frame, packet.build(world.sent(talk.hook, world.back)));
    from.port()
}

/// Sends what the backend has to say to a port, and checks that it gets to the client of this talk.
fn is_heard(world: &World, talk: &Talk, name: u16, transport: Transport) {
    let mut packet = talk.packet(Backend, transport);
    let wanted = Packet { from: talk.ends.vip, ..packet }.hops(63);
    packet.to.set_port(name);
    let (device, frame) = talk.frame(world, Backend, packet);
    let output = world.here(talk.hook, device, &frame);
    assert_eq!(output.frame, wanted.build(world.sent(talk.hook, world.front)), "{talk:?} {name}");
}

#[test]
fn the_second_of_two_with_one_name_gets_another_until_the_first_has_ended() {
    let mut world = World::new(&pairs());
    let netns = world.netns.clone();
    netns.run(|| {
        for (number, hook) in (0..).zip(HOOKS) {
            for is_v6 in [false, true] {
                for transport in [Transport::Syn, Transport::Udp] {
                    let port = 11_000 + number;
                    let [first, second] = [0, 1].map(|vip| through(hook, is_v6, port, vip));
                    let names =
                        |world: &World| [first, second].map(|t| name_of(world, &t, transport));
                    let changed = world.traffic().ports_changed;
                    let [own, other] = names(&world);
                    assert!(own == port && other >= 0x8000, "{own} {other}");
                    assert_eq!(world.traffic().ports_changed, changed + 1);
                    assert_eq!(names(&world), [own, other], "they stay");
                    // The first has ended: the second keeps what it has, and the next gets what is free.
                    world.wait(seconds(1));
                    assert_eq!(name_of(&world, &second, transport), other);
                    world.wait(1);
                    assert_eq!(world.sweep().ended, 1);
                    assert_eq!(names(&world), [own, other]);
                    // The second has ended, and then both: whoever is first has its own port.
                    world.wait(seconds(1) + 1);
                    assert_eq!(world.sweep().ended, 2);
                    assert_eq!(name_of(&world, &second, transport), own);
                    let another = name_of(&world, &first, transport);
                    assert!(another >= 0x8000, "{another}");
                    assert_eq!(world.traffic().ports_changed, changed + 2);
                    world.wait(seconds(1) + 1);
                    world.sweep();
                }
            }
        }
    });
}

/// A flow's client and the VIP that it came through.
type Key = (bool, bool, u16, u16);

#[test]
fn flows_through_two_vips_are_never_mixed_up() {
    let mut world = World::new(&pairs());
    let mut dice = Dice::new(1);
    // What each is called at its backend.
    let mut live: BTreeMap<Key, u16> = BTreeMap::new();
    let mut clean = true;
    let (mut opened, mut changed) = (0, 0);
    let netns = world.netns.clone();
    netns.run(|| {
        for _ in 0..scale(4_000, 100_000) {
            let (is_v6, is_udp) = (dice.one_in(2), dice.one_in(2));
            let (port, vip) = (12_000 + dice.below(12) as u16, dice.below(2) as u16);
            let key = (is_v6, is_udp, port, vip);
            let talk = through(dice.pick(&HOOKS), is_v6, port, vip);
            let (ask, answer) = if is_udp {
                (Transport::Udp, Transport::Udp)
            } else {
                (Transport::Syn, Transport::SynAck)
            };
            match (live.get(&key), dice.below(3)) {
                (Some(&name), 0) => is_heard(&world, &talk, name, answer),
                (Some(&name), _) => assert_eq!(name_of(&world, &talk, ask), name),
                (None, _) => {
                    let name = name_of(&world, &talk, ask);
                    let same = |(&(v6, udp, ..), &other): (&Key, &u16)| {
                        (v6, udp, other) == (is_v6, is_udp, name)
                    };
                    assert!(!live.iter().any(same), "{key:?} {name} {live:?}");
                    let is_free = !live.contains_key(&(is_v6, is_udp, port, 1 - vip));
                    // What is past its time and not ended yet still has its name.
                    assert!(name == port || !is_free || !clean);
                    assert!(
                        name != port || is_free || live[&(is_v6, is_udp, port, 1 - vip)] != port
                    );
                    opened += 1;
                    changed += u64::from(name != port);
                    live.insert(key, name);
                }
            }
            if dice.one_in(60) {
                world.wait(seconds(1) + 1);
                live.clear();
                clean = dice.one_in(2);
                if clean {
                    world.sweep();
                }
            }
        }
    });
    assert_eq!(world.traffic().new_flows, opened);
    assert_eq!(world.traffic().ports_changed, changed);
    assert!(changed > opened / 5 && opened > 1000, "{changed} of {opened}");
    let rows = world.rows();
    let listed: Vec<Key> = live.keys().copied().collect();
    let mut seen: Vec<Key> = rows
        .iter()
        .map(|row| {
            let first = if row.client.is_ipv6() { VIP6 } else { VIP };
            let vip = u16::from(row.vip != numbered(first, 0));
            (row.client.is_ipv6(), row.protocol == UDP, row.client.port(), vip)
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, listed);
}

#[test]
fn what_finds_no_room_is_not_sent_under_a_name_that_a_flow_has() {
    const FLOWS: u16 = 64;
    let world = World::sized(&pairs(), FLOWS.into());
    // Through the first VIP, until there is no room: connections from even ports, datagrams from odd ones.
    let mut lines = Vec::new();
    for is_v6 in [false, true] {
        for port in 18_000..18_000 + FLOWS {
            let said = if port % 2 == 0 { &CONNECTED } else { &EXCHANGED };
            lines.extend(through(Hook::Xdp, is_v6, port, 0).script(&world, said));
        }
    }
    world.batch(&lines);
    assert_eq!(world.counts(), (2 * u64::from(FLOWS), 2 * u64::from(FLOWS)));
    let before = world.pressures();
    for hook in HOOKS {
        for is_v6 in [false, true] {
            // A packet from the same port through the second VIP would be taken for the flow's own; so would a RST.
            let taken = Verdict::NoSourcePort;
            let tcp = through(hook, is_v6, 18_000, 1);
            for transport in [Transport::Syn, Transport::Ack, Transport::Reset, Transport::Refusal]
            {
                tcp.is_dropped(&world, Client, tcp.packet(Client, transport), taken);
            }
            let udp = through(hook, is_v6, 18_001, 1);
            udp.is_dropped(&world, Client, udp.packet(Client, Transport::Udp), taken);
            // From another port, or of the other protocol, it gets through, and its answer, too.
            for (port, ask) in [(19_000, Transport::Syn), (18_000, Transport::Udp)] {
                let talk = through(hook, is_v6, port, 1);
                talk.pass(&world, Client, talk.packet(Client, ask));
            }
        }
    }
    let full = world.pressure(Pressure::StatelessFull) - before.get("stateless_full").unwrap_or(&0);
    assert_eq!(full, 4 * 5);
    assert_eq!(world.counts(), (2 * u64::from(FLOWS), 2 * u64::from(FLOWS)));
}
