//! IP packets as their parts say, built from scratch: every length fits, every checksum is right.
//!
//! What the program should make of a packet is built here as well, from the parts that should have changed; nothing is
//! mended in place as the program does it.

use std::net::IpAddr;

use crate::wire::{TCP, UDP, set, sum};

/// ICMP's protocol number, and ICMPv6's.
pub(crate) const ICMP: [u8; 2] = [1, 58];

/// An IP header; what does not fit its family is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) hops: u8,
    /// Differentiated services and congestion bits.
    pub(crate) class: u8,
    /// IPv6.
    pub(crate) label: u32,
    pub(crate) identification: u32,
    /// IPv4: not to be cut.
    pub(crate) whole: bool,
    /// IPv4: words of options.
    pub(crate) options: u8,
    /// IPv6: destination options of 8 bytes each.
    pub(crate) extensions: u8,
}

impl Header {
    pub(crate) fn is_v6(&self) -> bool {
        self.from.is_ipv6()
    }

    /// Bytes of the header, without that of a fragment.
    pub(crate) fn length(&self) -> usize {
        if self.is_v6() {
            40 + 8 * usize::from(self.extensions)
        } else {
            20 + 4 * usize::from(self.options)
        }
    }

    /// The IP packet that carries these bytes.
    pub(crate) fn carry(&self, protocol: u8, piece: Option<Piece>, bytes: &[u8]) -> Vec<u8> {
        if self.is_v6() { self.v6(protocol, piece, bytes) } else { self.v4(protocol, piece, bytes) }
    }

    fn v4(&self, protocol: u8, piece: Option<Piece>, bytes: &[u8]) -> Vec<u8> {
        let length = self.length();
        let mut packet = vec![0x45 + self.options, self.class];
        packet.extend(((length + bytes.len()) as u16).to_be_bytes());
        packet.extend((self.identification as u16).to_be_bytes());
        let offset =
            piece.map_or(0, |piece| (piece.offset as u16 / 8) | (u16::from(piece.more) << 13));
        packet.extend((offset | u16::from(self.whole) << 14).to_be_bytes());
        packet.extend([self.hops, protocol, 0, 0]);
        packet.extend(octets(self.from));
        packet.extend(octets(self.to));
        packet.resize(length, 1);
        let wanted = !sum(&[&packet]);
        set(&mut packet, 10, wanted);
        packet.extend(bytes);
        packet
    }

    fn v6(&self, protocol: u8, piece: Option<Piece>, bytes: &[u8]) -> Vec<u8> {
        const DESTINATION: u8 = 60;
        const FRAGMENT: u8 = 44;
        let mut kinds = vec![DESTINATION; usize::from(self.extensions)];
        kinds.extend(piece.map(|_| FRAGMENT));
        kinds.push(protocol);
        let headers = 8 * (kinds.len() - 1);
        let mut packet =
            (0x6000_0000 | u32::from(self.class) << 20 | self.label).to_be_bytes().to_vec();
        packet.extend(((headers + bytes.len()) as u16).to_be_bytes());
        packet.extend([kinds[0], self.hops]);
        packet.extend(octets(self.from));
        packet.extend(octets(self.to));
        for next in &kinds[1..=usize::from(self.extensions)] {
            // Padding of four bytes.
            packet.extend([*next, 0, 1, 4, 0, 0, 0, 0]);
        }
        if let Some(Piece { offset, more, .. }) = piece {
            packet.extend([protocol, 0]);
            packet.extend((offset as u16 | u16::from(more)).to_be_bytes());
            packet.extend(self.identification.to_be_bytes());
        }
        packet.extend(bytes);
        packet
    }
}

/// Which part of what a packet carried a fragment has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: usize,
    pub(crate) length: usize,
    pub(crate) more: bool,
}

/// What TCP or UDP say, but for the addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) protocol: u8,
    pub(crate) ports: [u16; 2],
    pub(crate) flags: u8,
    pub(crate) numbers: [u32; 2],
    pub(crate) window: u16,
    /// Whole words.
    pub(crate) options: Vec<u8>,
    /// UDP over IPv4: without a checksum.
    pub(crate) unsummed: bool,
    pub(crate) data: usize,
}

impl Segment {
    /// Bytes of the header.
    pub(crate) fn header(&self) -> usize {
        if self.protocol == TCP { 20 + self.options.len() } else { 8 }
    }

    /// Its bytes between these two.
    pub(crate) fn between(&self, from: IpAddr, to: IpAddr) -> Vec<u8> {
        let mut bytes = self.ports.map(u16::to_be_bytes).concat();
        let field = if self.protocol == TCP {
            bytes.extend(self.numbers.map(u32::to_be_bytes).concat());
            bytes.extend([(self.header() as u8 / 4) << 4, self.flags]);
            bytes.extend(self.window.to_be_bytes());
            bytes.extend([0, 0, 0, 0]);
            bytes.extend(&self.options);
            16
        } else {
            bytes.extend((8 + self.data as u16).to_be_bytes());
            bytes.extend([0, 0]);
            6
        };
        bytes.extend((0..self.data).map(|n| n as u8 ^ 0x5a));
        if self.protocol == UDP && self.unsummed && from.is_ipv4() {
            return bytes;
        }
        let wanted = !sum(&[&pseudo(from, to, self.protocol, bytes.len()), &bytes]);
        set(&mut bytes, field, if self.protocol == UDP && wanted == 0 { 0xffff } else { wanted });
        bytes
    }
}

/// An ICMP message: type and code, the word behind the checksum, and the rest.
pub(crate) fn icmp(ends: [IpAddr; 2], kind: [u8; 2], word: u32, rest: &[u8]) -> Vec<u8> {
    let mut bytes = [&kind[..], &[0, 0], &word.to_be_bytes(), rest].concat();
    let pseudo = pseudo(ends[0], ends[1], ICMP[1], bytes.len());
    let total = if ends[0].is_ipv6() { sum(&[&pseudo, &bytes]) } else { sum(&[&bytes]) };
    set(&mut bytes, 2, !total);
    bytes
}

fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = octets(from);
    bytes.extend(octets(to));
    bytes.extend([0, protocol]);
    bytes.extend((length as u16).to_be_bytes());
    bytes
}

pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
