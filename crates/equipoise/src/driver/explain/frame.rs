//! Frames for packets that are told by their addresses, and what there is to read in a frame.

use std::net::{IpAddr, SocketAddr};

use equipoise_common::tunnel::GUE_PORT;
use etherparse::{EtherType, IpNumber, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use crate::admin::ProblemDetails;
use crate::status::explain::Addresses;

/// Of a machine that there is not: locally administered.
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// As most machines begin.
const HOPS: u8 = 64;
const WINDOW: u16 = 64_240;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Bytes of a VLAN tag.
const TAG: usize = 4;

/// What a packet is to a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The first one: a SYN, or a datagram.
    First,
    /// One of an established connection.
    Later,
}

/// A packet between these addresses, without data, that a device with this link address takes for its own.
pub(super) fn make(
    addresses: &Addresses,
    part: Part,
    device: [u8; 6],
) -> Result<Vec<u8>, ProblemDetails> {
    let Addresses { protocol, source, destination } = addresses;
    let step = PacketBuilder::ethernet2(SENDER, device);
    let step = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => step.ipv4(from.octets(), to.octets(), HOPS),
        (IpAddr::V6(from), IpAddr::V6(to)) => step.ipv6(from.octets(), to.octets(), HOPS),
        _ => {
            let message = format!("{source} and {destination} are not of one address family");
            return Err(ProblemDetails::unprocessable(message));
        }
    };
    let (from, to) = (source.port(), destination.port());
    let mut frame = Vec::new();
    let written = match (&**protocol, part) {
        ("tcp", Part::First) => step.tcp(from, to, 1, WINDOW).syn().write(&mut frame, &[]),
        ("tcp", Part::Later) => step.tcp(from, to, 1, WINDOW).ack(1).write(&mut frame, &[]),
        ("udp", _) => step.udp(from, to).write(&mut frame, &[]),
        (other, _) => {
            let message = format!("protocol {other:?} is neither tcp nor udp");
            return Err(ProblemDetails::unprocessable(message));
        }
    };
    written.map_err(|error| ProblemDetails::failed(format!("making a packet: {error}")))?;
    Ok(frame)
}

/// What is told of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Where its innermost packet comes from; port 0 where there is none to be seen.
    pub(super) source: SocketAddr,
    /// Where that goes to.
    pub(super) destination: SocketAddr,
    /// Its TTL or hop limit.
    pub(super) hop_limit: u8,
    /// The addresses of the packet around it, if there is one.
    pub(super) outer: Option<(IpAddr, IpAddr)>,
    /// IP bytes of the whole.
    pub(super) length: u32,
}

impl Seen {
    /// Of the frame of an IP packet.
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let header = ETHERNET + TAG * packet.link_exts.len();
        let length = frame.len().saturating_sub(header) as u32;
        let whole = Self::read(&packet, length)?;
        let Some(inner) = inner(&packet) else { return Some(whole) };
        let inner = Self::read(&inner, length)?;
        Some(Self { outer: Some((whole.source.ip(), whole.destination.ip())), ..inner })
    }

    fn read(packet: &SlicedPacket<'_>, length: u32) -> Option<Self> {
        let (source, destination, hop_limit): (IpAddr, IpAddr, u8) = match packet.net.as_ref()? {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                (header.source_addr().into(), header.destination_addr().into(), header.ttl())
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header();
                (header.source_addr().into(), header.destination_addr().into(), header.hop_limit())
            }
            NetSlice::Arp(_) => return None,
        };
        let (from, to) = match &packet.transport {
            Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
            Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
            _ => (0, 0),
        };
        let source = SocketAddr::new(source, from);
        let destination = SocketAddr::new(destination, to);
        Some(Self { source, destination, hop_limit, outer: None, length })
    }
}

/// The packet inside one: straight behind its IP header, or behind UDP as the mode `gue` has it (draft-ietf-intarea-gue-09, section 4).
fn inner<'a>(packet: &SlicedPacket<'a>) -> Option<SlicedPacket<'a>> {
    let payload = match &packet.transport {
        Some(TransportSlice::Udp(udp)) if udp.destination_port() == GUE_PORT => udp.payload(),
        Some(_) => return None,
        None => {
            let ip = packet.net.as_ref()?.ip_payload_ref()?;
            if ![IpNumber::IPV4, IpNumber::IPV6].contains(&ip.ip_number) {
                return None;
            }
            ip.payload
        }
    };
    let kind = match payload.first()? >> 4 {
        4 => EtherType::IPV4,
        6 => EtherType::IPV6,
        _ => return None,
    };
    SlicedPacket::from_ether_type(kind, payload).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(protocol: &str, source: &str, destination: &str) -> Addresses {
        Addresses {
            protocol: protocol.to_owned(),
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    #[test]
    fn a_packet_that_is_made_has_the_addresses_that_were_asked_for() {
        for (protocol, from, to) in [
            ("tcp", "198.51.100.7:4242", "203.0.113.10:443"),
            ("udp", "[2001:db8::7]:4242", "[2001:db8::10]:53"),
        ] {
            let asked = addresses(protocol, from, to);
            for part in [Part::First, Part::Later] {
                let frame = make(&asked, part, [2; 6]).unwrap();
                let seen = Seen::of(&frame).unwrap();
                assert_eq!((seen.source, seen.destination), (asked.source, asked.destination));
                assert_eq!((seen.hop_limit, seen.outer), (HOPS, None));
                assert_eq!(seen.length as usize, frame.len() - 14);
            }
        }
    }

    #[test]
    fn what_no_packet_can_be_made_of_is_refused() {
        assert!(make(&addresses("tcp", "198.51.100.7:1", "[::1]:1"), Part::First, [2; 6]).is_err());
        assert!(
            make(&addresses("icmp", "198.51.100.7:1", "1.1.1.1:1"), Part::First, [2; 6]).is_err()
        );
    }

    #[test]
    fn the_packet_inside_another_is_the_one_that_is_told() {
        let asked = addresses("tcp", "198.51.100.7:4242", "203.0.113.10:443");
        let inner = make(&asked, Part::First, [2; 6]).unwrap().split_off(14);
        let outer =
            || PacketBuilder::ethernet2(SENDER, [2; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let mut ipip = Vec::new();
        outer().write(&mut ipip, IpNumber::IPV4, &inner).unwrap();
        let mut udp = Vec::new();
        outer().udp(1, GUE_PORT).write(&mut udp, &inner).unwrap();
        for frame in [ipip, udp] {
            let seen = Seen::of(&frame).unwrap();
            assert_eq!((seen.source, seen.destination), (asked.source, asked.destination));
            let around = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
            assert_eq!(seen.outer, Some(around));
        }
    }
}
