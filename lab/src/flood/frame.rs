//! One frame after another from a mold: Ethernet, IPv4 or IPv6, TCP or UDP.
//!
//! Only the source's address and port and the TCP sequence number differ from one to the next, so
//! the checksums of the rest are summed up once. Sums are of 16-bit words in network order, and
//! every field that differs lies on a word's boundary.

use std::net::IpAddr;

use anyhow::{Result, ensure};

use super::{Kind, Mac, Random};
use crate::content::Bytes;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;
const UDP: usize = 8;

/// Where the checksum lies in an IPv4 header.
const IPV4_CHECKSUM: usize = 10;
/// The checksum and the sequence number in a TCP header.
const TCP_CHECKSUM: usize = 16;
const TCP_SEQUENCE: usize = 4;
/// The checksum in a UDP header.
const UDP_CHECKSUM: usize = 6;

const TCP_NUMBER: u8 = 6;
const UDP_NUMBER: u8 = 17;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Routers on the way that a packet survives.
const HOPS: u8 = 64;
/// What a datagram says.
const PAYLOAD: &[u8] = b"are you there?";
/// Below are ports that clients do not use.
const FIRST_PORT: u16 = 1024;

/// A frame, and what changes in it from one cast to the next.
#[derive(Debug)]
pub(super) struct Mold {
    kind: Kind,
    frame: Vec<u8>,
    /// The prefix that sources lie in, its other bits zero, and which bits those are.
    network: Vec<u8>,
    free: Vec<u8>,
    /// Where the source's address is.
    source: usize,
    /// Where the header of TCP or UDP begins.
    transport: usize,
    /// The sum of the IPv4 header, all but checksum and source.
    header_sum: u32,
    /// The sum of pseudo-header, header and payload, all but checksum and what changes.
    transport_sum: u32,
    random: Bytes,
}

impl Mold {
    pub(super) fn new(random: &Random, own: Mac) -> Result<Self> {
        let Random { kind, from, to, next_hop, seed } = *random;
        let segment = segment(kind, to.port());
        let protocol = match kind {
            Kind::Syn | Kind::Ack => TCP_NUMBER,
            Kind::Udp => UDP_NUMBER,
        };
        let length = u16::try_from(segment.len())?;
        let (ether_type, header, source) = match to.ip() {
            IpAddr::V4(to) => {
                (0x0800_u16, ipv4(protocol, length + IPV4 as u16, to.octets()), ETHERNET + 12)
            }
            IpAddr::V6(to) => (0x86dd, ipv6(protocol, length, to.octets()), ETHERNET + 8),
        };
        let (network, free) = (octets(from.network()), octets(from.hostmask()));
        let target = octets(to.ip());
        ensure!(network.len() == target.len(), "{from} and {to} are of different families");
        let pseudo_header = sum(&target) + u32::from(protocol) + u32::from(length);
        let (header_sum, transport_sum) = (sum(&header), pseudo_header + sum(&segment));
        let transport = ETHERNET + header.len();
        let frame = [&next_hop[..], &own, &ether_type.to_be_bytes(), &header, &segment].concat();
        let random = Bytes::new(seed);
        Ok(Self {
            kind,
            frame,
            network,
            free,
            source,
            transport,
            header_sum,
            transport_sum,
            random,
        })
    }

    /// The length of every frame.
    pub(super) fn length(&self) -> usize {
        self.frame.len()
    }

    /// The next frame.
    pub(super) fn cast(&mut self) -> &[u8] {
        let mut drawn = [0; 24];
        self.random.fill(&mut drawn);
        let [.., p0, p1, s0, s1, s2, s3, _, _] = drawn;
        let port = FIRST_PORT + u16::from_be_bytes([p0, p1]) % (u16::MAX - FIRST_PORT + 1);
        let source = &mut self.frame[self.source..self.source + self.network.len()];
        for (index, byte) in source.iter_mut().enumerate() {
            *byte = self.network[index] | drawn[index] & self.free[index];
        }
        let source_sum = sum(source);
        self.put(self.transport, &port.to_be_bytes());
        let mut transport_sum = self.transport_sum + source_sum + u32::from(port);
        match self.kind {
            Kind::Syn | Kind::Ack => {
                let sequence = [s0, s1, s2, s3];
                self.put(self.transport + TCP_SEQUENCE, &sequence);
                transport_sum += sum(&sequence);
                let checksum = complement(transport_sum).to_be_bytes();
                self.put(self.transport + TCP_CHECKSUM, &checksum);
            }
            Kind::Udp => {
                // RFC 768: zero says that there is no checksum, and all ones are sent for it.
                let checksum = match complement(transport_sum) {
                    0 => u16::MAX,
                    checksum => checksum,
                };
                self.put(self.transport + UDP_CHECKSUM, &checksum.to_be_bytes());
            }
        }
        if self.transport == ETHERNET + IPV4 {
            let checksum = complement(self.header_sum + source_sum).to_be_bytes();
            self.put(ETHERNET + IPV4_CHECKSUM, &checksum);
        }
        &self.frame
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.frame[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// TCP or UDP, its source port, sequence number and checksum zero.
fn segment(kind: Kind, to: u16) -> Vec<u8> {
    let [high, low] = to.to_be_bytes();
    // In words of 32 bits, in the upper half of its byte.
    let offset = (TCP as u8 / 4) << 4;
    let tcp = |acknowledged: u8, flags| {
        let mut tcp = vec![0, 0, high, low, 0, 0, 0, 0, acknowledged, 0, 0, 0, offset, flags];
        // A usual window.
        tcp.extend_from_slice(&64_240_u16.to_be_bytes());
        tcp.extend_from_slice(&[0; 4]);
        tcp
    };
    match kind {
        Kind::Syn => tcp(0, SYN),
        Kind::Ack => tcp(1, ACK),
        Kind::Udp => {
            let length = (UDP + PAYLOAD.len()) as u16;
            let [long, short] = length.to_be_bytes();
            [&[0, 0, high, low, long, short, 0, 0], PAYLOAD].concat()
        }
    }
}

/// An IPv4 header, its source and checksum zero; it forbids fragments.
fn ipv4(protocol: u8, total: u16, to: [u8; 4]) -> Vec<u8> {
    let [long, short] = total.to_be_bytes();
    let mut header = vec![0x45, 0, long, short, 0, 0, 0x40, 0, HOPS, protocol, 0, 0, 0, 0, 0, 0];
    header.extend_from_slice(&to);
    header
}

/// An IPv6 header, its source zero.
fn ipv6(protocol: u8, payload: u16, to: [u8; 16]) -> Vec<u8> {
    let [long, short] = payload.to_be_bytes();
    let mut header = vec![0x60, 0, 0, 0, long, short, protocol, HOPS];
    header.resize(IPV6 - to.len(), 0);
    header.extend_from_slice(&to);
    header
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The sum of words; 32 bits hold that of a packet without overflow.
fn sum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    // RFC 1071: an odd last byte is a word's upper half.
    let last = rest.first().map_or(0, |byte| u32::from(*byte) << 8);
    words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum::<u32>() + last
}

/// The checksum of words with this sum.
fn complement(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::SocketAddr;

    use etherparse::{NetHeaders, PacketHeaders, PayloadSlice, TransportHeader};

    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const NEXT: Mac = [2, 0, 0, 0, 0, 2];

    fn random(kind: Kind, from: &str, to: &str) -> Random {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        Random { kind, from, to, next_hop: NEXT, seed: 5 }
    }

    fn each_random() -> Vec<Random> {
        let both =
            [("198.18.0.0/15", "203.0.113.10:80"), ("2001:db8:5::/48", "[2001:db8:f::10]:80")];
        let kinds = [Kind::Syn, Kind::Ack, Kind::Udp];
        kinds.iter().flat_map(|kind| both.map(|(from, to)| random(*kind, from, to))).collect()
    }

    /// The source of a frame, all else in it checked.
    fn check(frame: &[u8], random: &Random) -> SocketAddr {
        let packet = PacketHeaders::from_ethernet_slice(frame).unwrap();
        let link = packet.link.as_ref().unwrap().clone().ethernet2().unwrap();
        assert_eq!((link.source, link.destination), (OWN, NEXT));
        let payload = match &packet.payload {
            PayloadSlice::Tcp(payload) | PayloadSlice::Udp(payload) => *payload,
            other => panic!("{other:?}"),
        };
        let transport = packet.transport.as_ref().unwrap();
        let mut right = transport.clone();
        let (from, to): (IpAddr, IpAddr) = match packet.net.as_ref().unwrap() {
            NetHeaders::Ipv4(ip, _) => {
                assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                assert_eq!((ip.time_to_live, ip.dont_fragment), (HOPS, true));
                assert_eq!(usize::from(ip.total_len), frame.len() - ETHERNET);
                right.update_checksum_ipv4(ip, payload).unwrap();
                (ip.source.into(), ip.destination.into())
            }
            NetHeaders::Ipv6(ip, _) => {
                assert_eq!(ip.hop_limit, HOPS);
                assert_eq!(usize::from(ip.payload_length), frame.len() - ETHERNET - IPV6);
                right.update_checksum_ipv6(ip, payload).unwrap();
                (ip.source.into(), ip.destination.into())
            }
            NetHeaders::Arp(_) => panic!("not IP"),
        };
        assert!(random.from.contains(&from), "{from}");
        assert_eq!(*transport, right, "the checksum is right");
        let (own, other) = match transport {
            TransportHeader::Tcp(tcp) => {
                assert_eq!(
                    (tcp.syn, tcp.ack),
                    (random.kind == Kind::Syn, random.kind == Kind::Ack)
                );
                assert!(!tcp.fin && !tcp.rst && !tcp.psh && !tcp.urg);
                assert_eq!((payload, tcp.window_size), (&b""[..], 64_240));
                (tcp.source_port, tcp.destination_port)
            }
            TransportHeader::Udp(udp) => {
                assert_eq!((random.kind, payload), (Kind::Udp, PAYLOAD));
                assert_eq!(usize::from(udp.length), UDP + PAYLOAD.len());
                (udp.source_port, udp.destination_port)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(SocketAddr::from((to, other)), random.to);
        assert!(own >= FIRST_PORT);
        (from, own).into()
    }

    #[test]
    fn frames_are_right_in_every_kind_and_family() {
        for random in each_random() {
            let frames = random.frames(OWN, 20_000).unwrap();
            let sources: BTreeSet<SocketAddr> =
                frames.iter().map(|frame| check(frame, &random)).collect();
            let ports: BTreeSet<u16> = sources.iter().map(SocketAddr::port).collect();
            assert!(sources.len() > 19_900, "{} of 20 000 sources differ", sources.len());
            assert!(ports.len() > 15_000, "{} of 20 000 ports differ", ports.len());
        }
    }

    #[test]
    fn a_datagram_never_says_that_it_has_no_checksum() {
        let random = random(Kind::Udp, "198.18.0.0/15", "203.0.113.10:80");
        let mut mold = Mold::new(&random, OWN).unwrap();
        let mut casts = |_| {
            let frame = mold.cast();
            check(frame, &random);
            frame[ETHERNET + IPV4 + UDP_CHECKSUM..]
                .first_chunk()
                .map(|sum| u16::from_be_bytes(*sum))
        };
        // About one in 65 536 sums is the one that stands for another.
        let sums: BTreeSet<Option<u16>> = (0..500_000).map(&mut casts).collect();
        assert!(sums.contains(&Some(u16::MAX)) && !sums.contains(&Some(0)));
    }

    #[test]
    fn a_prefix_of_full_length_is_one_address() {
        for (from, to) in [("192.0.2.7/32", "192.0.2.1:1"), ("2001:db8::7/128", "[2001:db8::1]:1")]
        {
            let random = random(Kind::Syn, from, to);
            for frame in random.frames(OWN, 100).unwrap() {
                assert_eq!(check(&frame, &random).ip(), random.from.addr());
            }
        }
    }

    #[test]
    fn a_seed_repeats_its_frames_and_seeds_differ() {
        let random = random(Kind::Ack, "198.18.0.0/15", "203.0.113.10:80");
        let frames = random.frames(OWN, 100).unwrap();
        assert_eq!(random.frames(OWN, 100).unwrap(), frames);
        assert_eq!(random.frames(OWN, 7).unwrap(), frames[..7]);
        assert_ne!(Random { seed: 6, ..random }.frames(OWN, 100).unwrap(), frames);
    }

    #[test]
    fn families_that_differ_are_refused() {
        let error = random(Kind::Udp, "198.18.0.0/15", "[::1]:9").frames(OWN, 1).unwrap_err();
        assert!(error.to_string().contains("different families"), "{error}");
    }
}
