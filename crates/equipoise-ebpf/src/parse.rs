//! From bytes to a five-tuple: Ethernet, VLAN tags, IPv4 and IPv6, TCP and UDP.
//!
//! Gives the offsets and values that the rest needs, or the verdict for a packet that is not
//! ours to touch. Looks at nothing but the packet.

use equipoise_common::flow::track::{Segment, tcp};
use equipoise_common::key::{Address, Be16, FiveTuple, TCP, UDP, V4, V6};
use equipoise_common::limit::EXTENSION_HEADERS;
use equipoise_common::verdict::Verdict;

pub use crate::ethernet::Network;
use crate::ethernet::{self, NoNetwork};
use crate::hide::forget;
use crate::hook::{Hook, Packet};
use crate::packet::{Header, Window};

const IPV6: usize = 40;
/// IPv6 extension headers (RFC 8200).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
const TCP_MIN: usize = 20;
const UDP_HEADER: usize = 8;

/// What a packet counts for.
#[derive(Clone, Copy)]
pub struct Size {
    /// 1, or the segments of a GSO packet.
    pub packets: u64,
    /// IP bytes on the wire.
    pub bytes: u64,
}

/// What the rest of the program needs of a packet.
#[derive(Clone, Copy)]
pub struct Headers<A> {
    /// Addresses, ports and protocol as they came.
    pub tuple: FiveTuple<A>,
    /// What it counts for.
    pub size: Size,
    /// IPv4 TOS, or the first 32 bits of an IPv6 header.
    pub class: u32,
    /// IP bytes of the largest packet that goes over the wire: of a segment, where a GSO packet has several.
    pub length: u32,
    /// Offset of the IP header, bytes.
    pub network: u16,
    /// Offset of the TCP or UDP header, bytes.
    pub transport: u16,
    /// What the flow table is told of a TCP packet; all 0 for UDP.
    pub segment: Segment,
    /// TTL or hop limit.
    pub hop_limit: u8,
}

impl<A> Headers<A> {
    /// True for the first packet of a TCP connection.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        self.segment.flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN
    }

    /// True for a TCP packet that ends its connection at once.
    #[inline(always)]
    pub fn is_reset(&self) -> bool {
        self.segment.flags & tcp::RST != 0
    }

    /// True for a TCP packet that can only be of a connection that is there already.
    #[inline(always)]
    pub fn is_mid_stream(&self) -> bool {
        self.tuple.protocol == TCP && !self.is_syn()
    }
}

/// Finds the IP header.
#[inline(always)]
pub fn network(window: &Window) -> Result<Network, Verdict> {
    ethernet::network(window).map_err(|why| match why {
        NoNetwork::Short => Verdict::Malformed,
        NoNetwork::NotIp => Verdict::NotIp,
    })
}

/// Whether a packet that ends here by its own account is longer than its frame. Most of them end in the part that can
/// be touched.
#[inline(always)]
fn is_beyond<H: Hook>(hook: &H, packet: &Packet, end: usize) -> bool {
    end > packet.window.length() && end > hook.length()
}

/// An IP packet, as its own headers say.
pub struct Ip<A> {
    /// Addresses and protocol; the ports are 0.
    pub tuple: FiveTuple<A>,
    /// Offset of the IP header, bytes.
    pub network: usize,
    /// Offset of what the packet carries, bytes.
    pub transport: usize,
    /// Offset of the packet's end, bytes.
    pub end: usize,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// IPv4 TOS, or the first 32 bits of an IPv6 header.
    pub class: u32,
    /// Which part of a packet it is.
    pub part: Part,
}

/// A fragment's place in its packet.
#[derive(Clone, Copy)]
pub struct Part {
    /// Whether it is a fragment, and whether the first: bits of [`Part::FRAGMENT`] and [`Part::LATER`].
    pub marks: u32,
    /// What the fragments of a packet have in common, as it stands in the header.
    pub identification: u32,
}

impl Part {
    /// `marks`: a fragment.
    pub const FRAGMENT: u32 = 1;
    /// `marks`: not the first one.
    pub const LATER: u32 = 2;
    /// A whole packet.
    pub const WHOLE: Self = Self { marks: 0, identification: 0 };
}

/// Headers of an IPv4 packet. Any header length (RFC 791).
#[inline(always)]
pub fn ipv4<H: Hook>(hook: &H, packet: &Packet, network: usize) -> Result<Headers<V4>, Verdict> {
    let ip = ip_v4(hook, packet, network)?;
    if ip.part.marks != 0 {
        return Err(Verdict::Fragment);
    }
    transport(packet, ip)
}

/// The IP header alone.
#[inline(always)]
pub fn ip_v4<H: Hook>(hook: &H, packet: &Packet, network: usize) -> Result<Ip<V4>, Verdict> {
    const MIN: usize = 20;
    const MORE: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let header = packet.window.header::<MIN>(network).ok_or(Verdict::Malformed)?;
    let first: u8 = header.load::<u8, 0>();
    let header_length = (first & 0xf) as usize * 4;
    if first >> 4 != 4 || header_length < MIN {
        return Err(Verdict::Malformed);
    }
    let mut length = header.load::<Be16, 2>().get() as usize;
    if length == 0 && packet.segments > 1 {
        // A GSO packet over 64 kB does not fit the field (BIG TCP, kernel 6.3).
        length = hook.length() - network;
    }
    if length < header_length || is_beyond(hook, packet, network + length) {
        return Err(Verdict::Malformed);
    }
    let fragment = header.load::<Be16, 6>().get();
    let mut part = Part::WHOLE;
    if fragment & (MORE | OFFSET) != 0 {
        part.identification = u32::from(header.load::<u16, 4>());
        part.marks =
            if fragment & OFFSET == 0 { Part::FRAGMENT } else { Part::FRAGMENT | Part::LATER };
    }
    let tuple = FiveTuple {
        source: header.load::<V4, 12>(),
        destination: header.load::<V4, 16>(),
        source_port: Be16(0),
        destination_port: Be16(0),
        protocol: header.load::<u8, 9>() as u32,
    };
    Ok(Ip {
        tuple,
        network,
        transport: network + header_length,
        end: network + length,
        hop_limit: header.load::<u8, 8>(),
        class: header.load::<u8, 1>() as u32,
        part,
    })
}

/// Headers of an IPv6 packet, behind its extension headers (RFC 8200).
#[inline(always)]
pub fn ipv6<H: Hook>(hook: &H, packet: &Packet, network: usize) -> Result<Headers<V6>, Verdict> {
    transport(packet, ip_v6::<H, false>(hook, packet, network)?)
}

/// The IP headers alone. Fragments are looked into if `CUT` says so.
#[inline(always)]
pub fn ip_v6<H: Hook, const CUT: bool>(
    hook: &H,
    packet: &Packet,
    network: usize,
) -> Result<Ip<V6>, Verdict> {
    let header = packet.window.header::<IPV6>(network).ok_or(Verdict::Malformed)?;
    if header.load::<u8, 0>() >> 4 != 6 {
        return Err(Verdict::Malformed);
    }
    let mut length = IPV6 + header.load::<Be16, 4>().get() as usize;
    if length == IPV6 && packet.segments > 1 {
        length = hook.length() - network;
    }
    if is_beyond(hook, packet, network + length) {
        return Err(Verdict::Malformed);
    }
    let mut next: u8 = header.load::<u8, 6>();
    let mut offset = network + IPV6;
    let mut walked = 0;
    let mut part = Part::WHOLE;
    while matches!(next, HOP_BY_HOP | ROUTING | DESTINATION) || CUT && next == FRAGMENT {
        if walked == EXTENSION_HEADERS {
            return Err(Verdict::ExtensionHeaders);
        }
        walked += 1;
        let extension = packet.window.header::<8>(offset).ok_or(Verdict::Malformed)?;
        let is_fragment = CUT && next == FRAGMENT;
        next = extension.load::<u8, 0>();
        if is_fragment {
            const OFFSET: u16 = 0xfff8;
            let fragment = extension.load::<Be16, 2>().get();
            offset += 8;
            // A packet that was to be cut and is whole for all that (RFC 6946) is a fragment to us as well.
            part.marks = Part::FRAGMENT;
            part.identification = extension.load::<u32, 4>();
            if fragment & OFFSET != 0 {
                part.marks |= Part::LATER;
                break;
            }
        } else {
            offset += (extension.load::<u8, 1>() as usize + 1) * 8;
        }
    }
    if !CUT && next == FRAGMENT {
        return Err(Verdict::Fragment);
    }
    let class = header.load::<u32, 0>();
    if CUT {
        // However many headers were walked: kernel 6.1 would go through what follows for each number.
        offset = forget(offset, class);
        next = forget(usize::from(next), class) as u8;
        part.marks = forget(part.marks as usize, class) as u32;
    }
    let tuple = FiveTuple {
        source: header.load::<V6, 8>(),
        destination: header.load::<V6, 24>(),
        source_port: Be16(0),
        destination_port: Be16(0),
        protocol: next as u32,
    };
    Ok(Ip {
        tuple,
        network,
        transport: offset,
        end: network + length,
        hop_limit: header.load::<u8, 7>(),
        class,
        part,
    })
}

/// What a quoted IPv6 header leads to, and where that is: behind the extension headers, of which fewer than in a packet
/// are walked. None for a fragment that is not the first.
#[inline(always)]
pub fn quoted_v6(window: &Window, header: &Header<IPV6>, network: usize) -> Option<(u8, usize)> {
    const WALKED: u32 = 4;
    let mut next: u8 = header.load::<u8, 6>();
    let mut offset = network + IPV6;
    let mut walked = 0;
    while matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
        if walked == WALKED {
            return None;
        }
        walked += 1;
        let extension = window.header::<8>(offset)?;
        if next == FRAGMENT {
            const OFFSET: u16 = 0xfff8;
            if extension.load::<Be16, 2>().get() & OFFSET != 0 {
                return None;
            }
            offset += 8;
        } else {
            offset += (extension.load::<u8, 1>() as usize + 1) * 8;
        }
        next = extension.load::<u8, 0>();
    }
    Some((next, offset))
}

/// With the TCP or UDP header behind them.
#[inline(always)]
pub fn transport<A: Address>(packet: &Packet, found: Ip<A>) -> Result<Headers<A>, Verdict> {
    let mut tuple = found.tuple;
    let mut segment = Segment::default();
    let header_length = match tuple.protocol {
        TCP => {
            let header =
                packet.window.header::<TCP_MIN>(found.transport).ok_or(Verdict::Malformed)?;
            tuple.source_port = header.load::<Be16, 0>();
            tuple.destination_port = header.load::<Be16, 2>();
            let header_length = (header.load::<u8, 12>() >> 4) as usize * 4;
            if header_length < TCP_MIN {
                return Err(Verdict::Malformed);
            }
            segment = Segment {
                flags: header.load::<u8, 13>(),
                sequence: u32::from_be(header.load::<u32, 4>()),
                acknowledgement: u32::from_be(header.load::<u32, 8>()),
                length: 0,
            };
            header_length
        }
        UDP => {
            let header =
                packet.window.header::<UDP_HEADER>(found.transport).ok_or(Verdict::Malformed)?;
            tuple.source_port = header.load::<Be16, 0>();
            tuple.destination_port = header.load::<Be16, 2>();
            let length = header.load::<Be16, 4>().get() as usize;
            // A fragment holds a part of the datagram alone.
            let is_beyond = found.transport + length > found.end && found.part.marks == 0;
            if length < UDP_HEADER || is_beyond {
                return Err(Verdict::Malformed);
            }
            UDP_HEADER
        }
        _ => return Err(Verdict::NotTcpUdp),
    };
    let data = found.transport + header_length;
    if data > found.end {
        return Err(Verdict::Malformed);
    }
    // SYN and FIN take a sequence number each.
    let spoken = (segment.flags & tcp::SYN != 0) as u32 + (segment.flags & tcp::FIN != 0) as u32;
    segment.length = (found.end - data) as u32 + spoken;
    let all = found.end - found.network;
    let repeated = data - found.network;
    let bytes = all as u64 + (packet.segments - 1) * repeated as u64;
    let size = Size { packets: packet.segments, bytes };
    let length =
        if packet.segments > 1 { repeated as u32 + packet.segment_size } else { all as u32 };
    Ok(Headers {
        tuple,
        network: found.network as u16,
        transport: found.transport as u16,
        segment,
        hop_limit: found.hop_limit,
        class: found.class,
        length,
        size,
    })
}
