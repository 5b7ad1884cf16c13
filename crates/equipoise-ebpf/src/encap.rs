//! Packets inside packets: the headers that go before one that stays as it is (RFC 2003, RFC 2473,
//! draft-ietf-intarea-gue-09 variant 1).
//!
//! The outer source, or for UDP its port, differs from flow to flow, so that receivers spread what comes over their
//! queues. Traffic class and congestion bits are the inner ones (RFC 6040 section 4.1, normal mode). Knows where a packet
//! goes, not why.

use equipoise_common::checksum;
use equipoise_common::key::{Be16, FiveTuple, UDP, V4, V6};
use equipoise_common::tunnel::{self, GUE_PORT};
use equipoise_common::value::Mode;

use crate::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::family::{Addresses, Family};
use crate::hook::{Hook, Room};
use crate::packet::Window;

/// Hops that the outer packet may take.
const HOPS: u8 = 64;
const UDP_HEADER: usize = 8;

/// Whatever carries an inner packet.
pub struct Outer<O> {
    /// Ends and protocol; for UDP, ports too.
    pub tuple: FiveTuple<O>,
    /// The inner packet's traffic class: 8 bits.
    pub class: u8,
    /// The inner packet's flow, hashed.
    pub hash: u64,
    /// IP bytes of the inner packet, all segments of it.
    pub length: u32,
}

/// What a family of outer packets looks like.
pub trait Carrier: Family {
    /// The number of the inner packet's protocol: IPv4 in IP, or IPv6 in IP.
    const IN_IP: u32;
    /// What frames of it are marked by.
    const ETHERTYPE: Be16;
    /// Its traffic class in a header of the family.
    fn class_of(class: u32) -> u8;
    /// The reverse of [`Carrier::class_of`], as a route look-up wants it.
    fn class(class: u8) -> u32;
    /// A source that nobody has, other for other flows.
    fn anonymous(hash: u64) -> Self;
    /// Writes the header at `network`, of so many IP bytes.
    fn write_outer(window: &Window, network: usize, outer: &Outer<Self>, length: u32) -> bool;
}

/// The outer five-tuple of a packet of the flow with this hash. The source is an address of ours, where one is wanted.
#[inline(always)]
pub fn tuple<O: Carrier>(
    mode: u8,
    inner: u32,
    hash: u64,
    Addresses { source, destination }: Addresses<O>,
) -> FiveTuple<O> {
    if mode == Mode::Gue as u8 {
        return FiveTuple {
            source,
            destination,
            source_port: Be16::new(tunnel::source_port(hash)),
            destination_port: Be16::new(GUE_PORT),
            protocol: UDP,
        };
    }
    FiveTuple {
        source: O::anonymous(hash),
        destination,
        source_port: Be16(0),
        destination_port: Be16(0),
        protocol: inner,
    }
}

/// Puts the outer headers before the packet whose IP header is at `network`. False if the kernel refuses.
#[inline(always)]
pub fn wrap<H: Hook, O: Carrier>(hook: &H, network: usize, outer: &Outer<O>) -> bool {
    let is_udp = outer.tuple.protocol == UDP;
    let udp = if is_udp { UDP_HEADER } else { 0 };
    let grown = O::HEADER + udp;
    if !hook.make_room(&Room { network, bytes: grown as u32, is_v6: O::IS_V6, is_udp }) {
        return false;
    }
    let window = hook.window();
    let Some(ethertype) = window.header::<2>(network - 2) else { return false };
    ethertype.store::<_, 0>(O::ETHERTYPE);
    if !O::write_outer(&window, network, outer, outer.length + grown as u32) {
        return false;
    }
    if is_udp {
        let Some(header) = window.header::<UDP_HEADER>(network + O::HEADER) else { return false };
        header.store::<_, 0>(outer.tuple.source_port);
        header.store::<_, 2>(outer.tuple.destination_port);
        header.store::<_, 4>(sized(outer.length + UDP_HEADER as u32));
        // None: what is inside has its own (RFC 6935, RFC 6936).
        header.store::<u16, 6>(0);
    }
    true
}

/// A length field; 0 for what does not fit, as GSO packets over 64 kB have it (kernel 6.3).
#[inline(always)]
fn sized(length: u32) -> Be16 {
    Be16::new(if length > 0xffff { 0 } else { length as u16 })
}

impl Carrier for V4 {
    const IN_IP: u32 = 4;
    const ETHERTYPE: Be16 = ETHERTYPE_IPV4;

    #[inline(always)]
    fn class_of(class: u32) -> u8 {
        class as u8
    }

    #[inline(always)]
    fn class(class: u8) -> u32 {
        u32::from(class)
    }

    #[inline(always)]
    fn anonymous(hash: u64) -> Self {
        Self(tunnel::source_v4(hash).to_be())
    }

    #[inline(always)]
    fn write_outer(window: &Window, network: usize, outer: &Outer<Self>, length: u32) -> bool {
        const DO_NOT_FRAGMENT: u16 = 0x4000;
        let Some(header) = window.header::<20>(network) else { return false };
        let first = (0x4500 | u16::from(outer.class)).to_be();
        let length = sized(length).0;
        let fragment = DO_NOT_FRAGMENT.to_be();
        let hops = (u16::from(HOPS) << 8 | outer.tuple.protocol as u16).to_be();
        let sum = u64::from(first)
            + u64::from(length)
            + u64::from(fragment)
            + u64::from(hops)
            + outer.tuple.source.sum()
            + outer.tuple.destination.sum();
        header.store::<u16, 0>(first);
        header.store::<u16, 2>(length);
        // Packets that are never cut need no identification (RFC 6864 section 4.1).
        header.store::<u16, 4>(0);
        header.store::<u16, 6>(fragment);
        header.store::<u16, 8>(hops);
        header.store::<u16, 10>(!checksum::fold(sum));
        header.store::<V4, 12>(outer.tuple.source);
        header.store::<V4, 16>(outer.tuple.destination);
        true
    }
}

impl Carrier for V6 {
    const IN_IP: u32 = 41;
    const ETHERTYPE: Be16 = ETHERTYPE_IPV6;

    #[inline(always)]
    fn class_of(class: u32) -> u8 {
        (u32::from_be(class) >> 20) as u8
    }

    #[inline(always)]
    fn class(class: u8) -> u32 {
        (0x6000_0000 | u32::from(class) << 20).to_be()
    }

    #[inline(always)]
    fn anonymous(hash: u64) -> Self {
        let [one, two] = tunnel::source_v6(hash);
        Self([one.to_be(), two.to_be()])
    }

    #[inline(always)]
    fn write_outer(window: &Window, network: usize, outer: &Outer<Self>, length: u32) -> bool {
        let Some(header) = window.header::<40>(network) else { return false };
        // A flow label of its own for each flow (RFC 6438).
        let label = outer.hash as u32 & 0xf_ffff;
        header.store::<u32, 0>((0x6000_0000 | u32::from(outer.class) << 20 | label).to_be());
        header.store::<_, 4>(sized(length - 40));
        header.store::<u8, 6>(outer.tuple.protocol as u8);
        header.store::<u8, 7>(HOPS);
        header.store::<V6, 8>(outer.tuple.source);
        header.store::<V6, 24>(outer.tuple.destination);
        true
    }
}
