//! Modes in which packets stay as they are: by link address, in IP, in UDP. And those in which the source changes.
//!
//! What leaves is taken apart by another library, and what is inside compared with what came, byte for byte.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use equipoise_common::verdict::{Hook, Verdict};
use etherparse::{Ethernet2Slice, IpNumber, Ipv4Slice, Ipv6Slice, UdpSlice};

use crate::answers::{ETHERNET, TAGS, tagged};
use crate::bench::{BACKEND, BACKEND6, CLIENT, CLIENT6, FAR, Packet, Transport, VIP, VIP6};
use crate::talk::redirect;
use crate::world::{HOOKS, World, numbered};

/// A client with this port, the VIP and the first backend's address.
pub(crate) fn ends(is_v6: bool, port: u16) -> (SocketAddr, SocketAddr) {
    let (client, vip) = if is_v6 { (CLIENT6, VIP6) } else { (CLIENT, VIP) };
    (SocketAddr::new(client.parse().unwrap(), port), vip.parse().unwrap())
}

pub(crate) fn backend(is_v6: bool, number: u16) -> IpAddr {
    numbered(if is_v6 { BACKEND6 } else { BACKEND }, number).ip()
}

/// A service on each VIP in this mode, with these backends for both.
pub(crate) fn in_mode(mode: &str, backends: &[IpAddr], keys: &str) -> String {
    let list: Vec<String> =
        backends.iter().map(|backend| format!("{{ address = '{backend}' }}")).collect();
    let service = |name: &str, vip: &str, of: &dyn Fn(&IpAddr) -> bool| {
        let vip: SocketAddr = vip.parse().unwrap();
        let list: Vec<&str> = backends
            .iter()
            .zip(&list)
            .filter(|(backend, _)| of(backend))
            .map(|(_, text)| text.as_str())
            .collect();
        format!(
            "[[service]]\nname = '{name}'\nmode = '{mode}'\n\
             listen = {{ interfaces = ['front'], address = '{}', port = 80, protocol = 'both' }}\n\
             backends = [{}]\n{keys}\n",
            vip.ip(),
            list.join(", "),
        )
    };
    let tunnel = mode == "ipip" || mode == "gue";
    service("web", VIP, &|backend| tunnel || backend.is_ipv4())
        + &service("web6", VIP6, &|backend| tunnel || backend.is_ipv6())
}

/// The frame of a packet, and the IP packet that is in it when it has lost a hop.
pub(crate) fn frame(world: &World, packet: Packet, tags: usize) -> (Vec<u8>, Vec<u8>) {
    let build = |packet: Packet| packet.build(world.client_link());
    let inside = build(packet.hops(packet.hops - 1))[ETHERNET..].to_vec();
    (tagged(&build(packet), TAGS[tags]), inside)
}

/// Outer headers, as they were sent.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Outer {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    protocol: u8,
    hops: u8,
    /// Differentiated services, and congestion notification.
    class: u8,
    /// Of UDP.
    ports: Option<(u16, u16)>,
}

/// Takes what was sent apart: what is outside, and the bytes inside.
pub(crate) fn opened(frame: &[u8], tags: usize) -> (Outer, Vec<u8>) {
    let ethernet = Ethernet2Slice::from_slice_without_fcs(frame).unwrap();
    let mut at = ETHERNET;
    let mut ethertype = ethernet.ether_type().0;
    for _ in 0..tags {
        ethertype = u16::from_be_bytes(frame[at + 2..at + 4].try_into().unwrap());
        at += 4;
    }
    let packet = &frame[at..];
    let (mut outer, inside) = if ethertype == 0x0800 {
        let ip = Ipv4Slice::from_slice(packet).unwrap();
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(usize::from(header.total_len), packet.len());
        assert!(header.dont_fragment && !header.more_fragments);
        let outer = Outer {
            source: header.source.into(),
            destination: header.destination.into(),
            protocol: header.protocol.0,
            hops: header.time_to_live,
            class: header.dscp.value() << 2 | header.ecn.value(),
            ports: None,
        };
        (outer, ip.payload().payload.to_vec())
    } else {
        assert_eq!(ethertype, 0x86dd);
        let ip = Ipv6Slice::from_slice(packet).unwrap();
        let header = ip.header().to_header();
        assert_eq!(usize::from(header.payload_length) + 40, packet.len());
        let outer = Outer {
            source: header.source.into(),
            destination: header.destination.into(),
            protocol: header.next_header.0,
            hops: header.hop_limit,
            class: header.traffic_class,
            ports: None,
        };
        (outer, ip.payload().payload.to_vec())
    };
    if outer.protocol != IpNumber::UDP.0 {
        return (outer, inside);
    }
    let udp = UdpSlice::from_slice(&inside).unwrap();
    assert_eq!(usize::from(udp.length()), inside.len());
    assert_eq!(udp.checksum(), 0);
    outer.ports = Some((udp.source_port(), udp.destination_port()));
    (outer, udp.payload().to_vec())
}

#[test]
fn tunnels_carry_packets_of_either_family_in_packets_of_either() {
    for (mode, port) in [("ipip", 30_000), ("gue", 30_100)] {
        for is_outer_v6 in [false, true] {
            let world = World::new(&in_mode(mode, &[backend(is_outer_v6, 0)], ""));
            for (number, hook) in (0..).zip(HOOKS) {
                for (is_v6, tags) in [(false, 0), (true, 0), (false, 1), (true, 1), (true, 2)] {
                    let (client, vip) = ends(is_v6, port + number);
                    for transport in [Transport::Syn, Transport::Ack, Transport::Udp] {
                        let packet = Packet::between([client, vip], transport);
                        let (frame, inside) = frame(&world, packet, tags);
                        let (verdict, output) = world.verdict(hook, world.front, &frame);
                        let context = format!("{mode} {is_v6} in {is_outer_v6} {hook:?} {tags}");
                        assert_eq!(verdict, Verdict::ForwardedRequest, "{context}");
                        assert_eq!(output.action, redirect(hook), "{context}");
                        assert_eq!(
                            output.frame[12..][..4 * tags],
                            frame[12..][..4 * tags],
                            "{context}"
                        );
                        let (outer, carried) = opened(&output.frame, tags);
                        assert_eq!(carried, inside, "{context}");
                        assert_eq!(outer.destination, backend(is_outer_v6, 0), "{context}");
                        assert_eq!((outer.hops, outer.class), (64, 0), "{context}");
                        if mode == "gue" {
                            let own = if is_outer_v6 { "2001:db8:b::1" } else { "10.0.0.1" };
                            assert_eq!(outer.source.to_string(), own, "{context}");
                            let (from, to) = outer.ports.unwrap();
                            assert!(from >= 49_152 && to == 6_080, "{context}: {outer:?}");
                        } else {
                            assert_eq!(outer.protocol, if is_v6 { 41 } else { 4 }, "{context}");
                        }
                        if hook == Hook::Xdp {
                            assert_eq!(output.frame[..6], FAR, "{context}");
                        }
                    }
                }
            }
        }
    }
}

/// Sends packets of many flows, and says how many outer sources, or source ports, they had.
fn spread(world: &World, is_v6: bool) -> usize {
    let sources = (0..64).map(|number| {
        let (client, vip) = ends(is_v6, 31_000 + number);
        let packet = Packet::between([client, vip], Transport::Syn);
        let (frame, _) = frame(world, packet, 0);
        let outer = |frame: &[u8]| {
            let output = world.run(Hook::Xdp, world.front, frame);
            let (outer, _) = opened(&output.frame, 0);
            (outer.source, outer.ports)
        };
        let first = outer(&frame);
        // All packets of a flow alike, or receivers would see them out of order.
        assert_eq!(first, outer(&frame));
        first
    });
    sources.collect::<BTreeSet<_>>().len()
}

#[test]
fn outer_source_differs_from_flow_to_flow() {
    for mode in ["ipip", "gue"] {
        for is_outer_v6 in [false, true] {
            let world = World::new(&in_mode(mode, &[backend(is_outer_v6, 0)], ""));
            for is_v6 in [false, true] {
                let spread = spread(&world, is_v6);
                assert!(spread > 60, "{mode} {is_outer_v6}: {spread} of 64");
            }
        }
    }
}

#[test]
fn traffic_class_of_the_inner_packet_is_the_outer_ones() {
    for is_outer_v6 in [false, true] {
        let world = World::new(&in_mode("ipip", &[backend(is_outer_v6, 0)], ""));
        for (number, hook) in (0..).zip(HOOKS) {
            for is_v6 in [false, true] {
                let (client, vip) = ends(is_v6, 32_000 + number);
                let packet = Packet::between([client, vip], Transport::Udp);
                let (mut frame, _) = frame(&world, packet, 0);
                // Expedited forwarding, and an ECN-capable sender.
                const CLASS: u8 = 46 << 2 | 2;
                if is_v6 {
                    frame[ETHERNET] |= CLASS >> 4;
                    frame[ETHERNET + 1] |= CLASS << 4;
                } else {
                    let header = etherparse::Ipv4Header::from_slice(&frame[ETHERNET..]).unwrap().0;
                    let header = etherparse::Ipv4Header {
                        dscp: 46.try_into().unwrap(),
                        ecn: 2.try_into().unwrap(),
                        ..header
                    };
                    let mut bytes = Vec::new();
                    header.write(&mut bytes).unwrap();
                    frame[ETHERNET..][..bytes.len()].copy_from_slice(&bytes);
                }
                let (verdict, output) = world.verdict(hook, world.front, &frame);
                assert_eq!(verdict, Verdict::ForwardedRequest);
                let (outer, _) = opened(&output.frame, 0);
                assert_eq!(outer.class, CLASS, "{is_v6} in {is_outer_v6} {hook:?}");
            }
        }
    }
}

#[test]
fn by_link_address_a_packet_stays_as_it_is() {
    let backends = [backend(false, 0), backend(true, 0)];
    let world = World::new(&in_mode("dsr", &backends, ""));
    for (number, hook) in (0..).zip(HOOKS) {
        for is_v6 in [false, true] {
            for tags in [0, 1] {
                let (client, vip) = ends(is_v6, 33_000 + 10 * number + tags as u16);
                for transport in [Transport::Syn, Transport::Ack, Transport::Udp] {
                    let packet = Packet::between([client, vip], transport);
                    let (frame, inside) = frame(&world, packet, tags);
                    let (verdict, output) = world.verdict(hook, world.front, &frame);
                    assert_eq!(verdict, Verdict::ForwardedRequest, "{hook:?}");
                    assert_eq!(output.action, redirect(hook));
                    assert_eq!(output.frame[ETHERNET + 4 * tags..], inside, "{hook:?}");
                    if hook == Hook::Xdp || tags > 0 {
                        assert_eq!(output.frame[..6], FAR);
                        assert_eq!(output.frame[6..12], world.back_link());
                    }
                }
            }
        }
    }
}

#[test]
fn backend_behind_a_router_cannot_be_reached_by_link_address() {
    let far = "192.0.2.77".parse().unwrap();
    let world = World::new(&in_mode("dsr", &[far, backend(true, 0)], ""));
    world.netns.ip("route replace 192.0.2.0/24 via 10.0.0.11").unwrap();
    for (number, hook) in (0..).zip(HOOKS) {
        let (client, vip) = ends(false, 34_000 + number);
        let (frame, _) = frame(&world, Packet::between([client, vip], Transport::Syn), 0);
        let (verdict, _) = world.verdict(hook, world.front, &frame);
        assert_eq!(verdict, Verdict::RequestNotOnLink, "{hook:?}");
    }
    world.netns.ip("route del 192.0.2.0/24").unwrap();
}

/// A TCP packet with this MSS option, behind some that say nothing, and the value that it leaves with.
fn mss_of(frame: &[u8], is_v6: bool) -> Option<u16> {
    let transport = ETHERNET + if is_v6 { 40 } else { 20 };
    let tcp = etherparse::TcpSlice::from_slice(&frame[transport..]).unwrap();
    tcp.options_iterator().find_map(|option| match option {
        Ok(etherparse::TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
        _ => None,
    })
}

/// A SYN or an answer to one that asks for this MSS.
fn asking(
    world: &World,
    [from, to]: [SocketAddr; 2],
    (is_answer, mss): (bool, u16),
    before: &[etherparse::TcpOptionElement],
) -> Vec<u8> {
    let link = if is_answer { world.backend_link() } else { world.client_link() };
    let step = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 64),
        other => panic!("{other:?}"),
    };
    let (sequence, acknowledgement) = if is_answer { (5000, 1001) } else { (1000, 0) };
    let mut step = step.tcp(from.port(), to.port(), sequence, 65_000).syn();
    if is_answer {
        step = step.ack(acknowledgement);
    }
    let mut options = before.to_vec();
    options.push(etherparse::TcpOptionElement::MaximumSegmentSize(mss));
    options.push(etherparse::TcpOptionElement::SelectiveAcknowledgementPermitted);
    let mut frame = Vec::new();
    step.options(&options).unwrap().write(&mut frame, &[]).unwrap();
    frame
}

/// Whether the checksum of the TCP packet in this frame is right.
fn is_sound(frame: &[u8], is_v6: bool) -> bool {
    let (ip, rest) = etherparse::IpHeaders::from_slice(&frame[ETHERNET..]).unwrap();
    let (header, payload) = etherparse::TcpHeader::from_slice(rest.payload).unwrap();
    let sum = match &ip {
        etherparse::IpHeaders::Ipv4(ip, _) => header.calc_checksum_ipv4(ip, payload),
        etherparse::IpHeaders::Ipv6(ip, _) => header.calc_checksum_ipv6(ip, payload),
    };
    assert_eq!(is_v6, ip.ipv6().is_some());
    sum.unwrap() == header.checksum
}

#[test]
fn segments_are_no_larger_than_their_service_says_whoever_asks() {
    use etherparse::TcpOptionElement::Noop;
    let backends = [backend(false, 0), backend(true, 0)];
    let world = World::new(&in_mode("nat", &backends, "mss-clamp = 1200"));
    for (number, hook) in (0..).zip(HOOKS) {
        for is_v6 in [false, true] {
            for (at, before) in (0..).zip([&[][..], &[Noop], &[Noop, Noop, Noop]]) {
                let (client, vip) = ends(is_v6, 35_000 + 100 * number + at);
                let there = SocketAddr::new(backend(is_v6, 0), 80);
                for (asked, told) in [(1460, 1200), (1200, 1200), (900, 900)] {
                    let syn = asking(&world, [client, vip], (false, asked), before);
                    // The second time it is of a flow.
                    for _ in 0..2 {
                        let (verdict, output) = world.verdict(hook, world.front, &syn);
                        assert_eq!(verdict, Verdict::ForwardedRequest);
                        assert_eq!(mss_of(&output.frame, is_v6), Some(told));
                        assert!(is_sound(&output.frame, is_v6), "{hook:?} {at} {asked}");
                    }
                    let answer = asking(&world, [there, client], (true, asked), before);
                    let (verdict, output) = world.verdict(hook, world.back, &answer);
                    assert_eq!(verdict, Verdict::ForwardedReply);
                    assert_eq!(mss_of(&output.frame, is_v6), Some(told));
                    assert!(is_sound(&output.frame, is_v6), "{hook:?} {at} {asked}");
                    let (verdict, output) = world.verdict(Hook::Egress, world.front, &answer);
                    assert_eq!(verdict, Verdict::RewrittenReply);
                    assert_eq!(mss_of(&output.frame, is_v6), Some(told));
                    assert!(is_sound(&output.frame, is_v6), "{hook:?} {at} {asked}");
                }
            }
        }
    }
}

#[test]
fn clients_behind_a_tunnel_are_asked_for_what_fits_through_it() {
    for (mode, outer) in [("ipip", 20), ("gue", 28)] {
        let world = World::new(&in_mode(mode, &[backend(false, 0)], ""));
        for (number, hook) in (0..).zip(HOOKS) {
            for (is_v6, inner) in [(false, 40), (true, 60)] {
                let (client, vip) = ends(is_v6, 36_000 + number);
                let syn = asking(&world, [client, vip], (false, 1460), &[]);
                let (verdict, output) = world.verdict(hook, world.front, &syn);
                assert_eq!(verdict, Verdict::ForwardedRequest);
                let (_, inside) = opened(&output.frame, 0);
                let inside = [&output.frame[..ETHERNET], &inside].concat();
                assert_eq!(mss_of(&inside, is_v6), Some(1500 - outer - inner), "{mode} {hook:?}");
                assert!(is_sound(&inside, is_v6));
            }
        }
    }
}
