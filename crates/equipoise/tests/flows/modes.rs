//! Modes in which packets stay as they are: by link address, in IP, in UDP. And those in which the source changes.
//!
//! What leaves is taken apart by another library, and what is inside compared with what came, byte for byte.

use std::net::{IpAddr, SocketAddr};

use equipoise_common::verdict::{Hook, Verdict};
use etherparse::{Ethernet2Slice, IpNumber, Ipv4Slice, Ipv6Slice, UdpSlice};

use crate::answers::{ETHERNET, TAGS, tagged};
use crate::bench::{BACKEND, BACKEND6, CLIENT, CLIENT6, FAR, Packet, Transport, VIP, VIP6};
use crate::talk::redirect;
use crate::world::{HOOKS, World, numbered};

/// A client with this port, the VIP and the first backend's address.
fn ends(is_v6: bool, port: u16) -> (SocketAddr, SocketAddr) {
    let (client, vip) = if is_v6 { (CLIENT6, VIP6) } else { (CLIENT, VIP) };
    (SocketAddr::new(client.parse().unwrap(), port), vip.parse().unwrap())
}

fn backend(is_v6: bool, number: u16) -> IpAddr {
    numbered(if is_v6 { BACKEND6 } else { BACKEND }, number).ip()
}

/// A service on each VIP in this mode, with these backends for both.
fn in_mode(mode: &str, backends: &[IpAddr], keys: &str) -> String {
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
fn frame(world: &World, packet: Packet, tags: usize) -> (Vec<u8>, Vec<u8>) {
    let build = |packet: Packet| packet.build(world.client_link());
    let inside = build(packet.hops(packet.hops - 1))[ETHERNET..].to_vec();
    (tagged(&build(packet), TAGS[tags]), inside)
}

/// Outer headers, as they were sent.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Outer {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hops: u8,
    /// Differentiated services, and congestion notification.
    class: u8,
    /// Of UDP.
    ports: Option<(u16, u16)>,
}

/// Takes what was sent apart: what is outside, and the bytes inside.
fn opened(frame: &[u8], tags: usize) -> (Outer, Vec<u8>) {
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
