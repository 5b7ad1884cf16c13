//! Answers made out of packets: RSTs and port unreachable, byte for byte, whatever the packet is wrapped in.

use equipoise_common::verdict::{Hook, Verdict};
use etherparse::{Icmpv4Type, Icmpv6Type, IpHeaders, IpNumber, Ipv4Header, Ipv6Header};

use crate::bench::{Packet, Transport};
use crate::talk::{Side, Talk, bounced, reset_to, talks};
use crate::world::{World, services};

use Side::Client;

/// Hosts that answer must not do so with more than this of what they got, nor with less than they can quote.
const LONG: &[u8] = &[0x5a; 1400];

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;

/// What tells a client that nobody listens at a port, about the packet of this frame.
pub(crate) fn unreachable(world: &World, talk: &Talk, frame: &[u8]) -> Vec<u8> {
    let link = world.sent(Hook::Xdp, world.front);
    let (from, to) = (talk.ends.vip.ip(), talk.ends.client.ip());
    let network = &frame[ETHERNET..];
    let mut answer = Vec::new();
    match (from, to) {
        (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) => {
            let mut header = Ipv4Header {
                time_to_live: 64,
                source: from.octets(),
                destination: to.octets(),
                protocol: IpNumber::ICMP,
                ..Default::default()
            };
            header.dont_fragment = false;
            // Network control (RFC 1812 section 4.3.2.5).
            header.dscp = 0b11_0000.try_into().unwrap();
            let quoted = usize::from(network[0] & 0xf) * 4 + 8;
            let why = etherparse::icmpv4::DestUnreachableHeader::Port;
            link.ip(IpHeaders::Ipv4(header, Default::default()))
                .icmpv4(Icmpv4Type::DestinationUnreachable(why))
                .write(&mut answer, &network[..quoted])
                .unwrap();
        }
        (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
            let header = Ipv6Header {
                hop_limit: 64,
                source: from.octets(),
                destination: to.octets(),
                next_header: IpNumber::IPV6_ICMP,
                ..Default::default()
            };
            let why = etherparse::icmpv6::DestUnreachableCode::Port;
            link.ip(IpHeaders::Ipv6(header, Default::default()))
                .icmpv6(Icmpv6Type::DestinationUnreachable(why))
                .write(&mut answer, &network[..40 + 8])
                .unwrap();
        }
        other => panic!("{other:?}"),
    }
    answer
}

/// A service without backends, of each family.
pub(crate) fn empty(keys: &str) -> String {
    services(keys, 1)
        .replace("10.0.0.11:8080", "PLACE")
        .replace("[2001:db8:b::11]:8080", "10.0.0.11:8080")
        .replace("PLACE", "[2001:db8:b::11]:8080")
}

/// A frame with 802.1Q tags between its Ethernet header and the rest.
pub(crate) fn tagged(frame: &[u8], tags: &[[u8; 4]]) -> Vec<u8> {
    [&frame[..12], tags.as_flattened(), &frame[12..]].concat()
}

pub(crate) const TAGS: [&[[u8; 4]]; 3] =
    [&[], &[[0x81, 0, 0x60, 42]], &[[0x88, 0xa8, 0, 7], [0x81, 0, 0x0f, 0xff]]];

/// Runs a frame at the client's side, and checks that this comes back.
fn answers(world: &World, hook: Hook, frame: &[u8], expected: (Verdict, &[u8])) {
    let (verdict, output) = world.verdict(hook, world.front, frame);
    assert_eq!((verdict, output.action), (expected.0, bounced(hook)), "{hook:?} {frame:02x?}");
    assert_eq!(output.frame, expected.1, "{hook:?} {frame:02x?}");
}

#[test]
fn a_reset_keeps_ip_options_and_vlan_tags_and_takes_the_rest_away() {
    let world = World::new(&services("on-unknown = 'reset'", 1));
    for talk in talks(6000) {
        for tags in TAGS {
            for words in (0..=10).filter(|&words| words == 0 || talk.ends.client.is_ipv4()) {
                for payload in [&[], &b"x"[..], LONG] {
                    let packet = talk.packet(Client, Transport::Ack).options(words * 4);
                    let packet = Packet { payload, ..packet };
                    let frame = tagged(&packet.build(world.client_link()), tags);
                    let link = world.sent(Hook::Xdp, world.front);
                    let expected = tagged(&reset_to(packet).build(link), tags);
                    answers(&world, talk.hook, &frame, (Verdict::ResetUnknown, &expected));
                }
            }
        }
    }
}

#[test]
fn a_reset_keeps_ipv6_extension_headers() {
    let world = World::new(&services("on-unknown = 'reset'", 1));
    /// An option header of 8 bytes between the IPv6 header and TCP.
    fn extended(mut frame: Vec<u8>) -> Vec<u8> {
        const HOP_BY_HOP: u8 = 0;
        let length = u16::from_be_bytes([frame[18], frame[19]]) + 8;
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        let next = std::mem::replace(&mut frame[20], HOP_BY_HOP);
        frame.splice(54..54, [next, 0, 1, 4, 0, 0, 0, 0]);
        frame
    }
    for talk in talks(6100).iter().filter(|talk| talk.ends.client.is_ipv6()) {
        let packet = talk.packet(Client, Transport::Ack);
        let frame = extended(packet.build(world.client_link()));
        let expected = extended(reset_to(packet).build(world.sent(Hook::Xdp, world.front)));
        answers(&world, talk.hook, &frame, (Verdict::ResetUnknown, &expected));
    }
}

#[test]
fn a_refused_syn_with_data_is_acknowledged_with_all_of_it() {
    let world = World::new(&empty("on-empty = 'reset'"));
    for talk in talks(6200) {
        for payload in [&[], &b"early"[..], LONG] {
            let packet = Packet { payload, ..talk.packet(Client, Transport::Syn) };
            talk.is_reset(&world, Client, packet, Verdict::ResetNoBackend);
        }
    }
}

#[test]
fn port_unreachable_quotes_the_packet_as_its_sender_has_sent_it() {
    let world = World::new(&empty("on-empty = 'reset'"));
    for talk in talks(6300) {
        for tags in TAGS {
            for words in (0..=10).filter(|&words| words == 0 || talk.ends.client.is_ipv4()) {
                for payload in [&[], &b"x"[..], LONG] {
                    let packet = talk.packet(Client, Transport::Udp).options(words * 4);
                    let plain = Packet { payload, ..packet }.build(world.client_link());
                    let expected = tagged(&unreachable(&world, &talk, &plain), tags);
                    let frame = tagged(&plain, tags);
                    let expected = (Verdict::UnreachableNoBackend, &expected[..]);
                    answers(&world, talk.hook, &frame, expected);
                }
            }
        }
    }
    assert_eq!(world.counts(), (0, 0));
}

#[test]
fn a_datagram_without_a_checksum_is_quoted_without() {
    let world = World::new(&empty("on-empty = 'reset'"));
    for talk in talks(6400).iter().filter(|talk| talk.ends.client.is_ipv4()) {
        let mut frame = talk.packet(Client, Transport::Udp).build(world.client_link());
        frame[40..42].fill(0);
        let expected = unreachable(&world, talk, &frame);
        answers(&world, talk.hook, &frame, (Verdict::UnreachableNoBackend, &expected));
    }
}
