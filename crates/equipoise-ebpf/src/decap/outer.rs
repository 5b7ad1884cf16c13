//! The outside of an encapsulated packet: an IP header with another behind it, or UDP and GUE in between.
//!
//! Finds what is inside, and says who may send it to us. Knows nothing of the inner packet but its family.

use aya_ebpf::btf_maps::lpm_trie::Key;
use equipoise_common::decap::{Place, Verdict};
use equipoise_common::key::{Address, Be16, UDP, V4, V6};

use crate::ethernet::Network;
use crate::hook::Hook;
use crate::map::{FROM_ANYBODY, INTERFACES, OWN, PORT, SOURCES};
use crate::network;

const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP_HEADER: usize = 8;
/// GUE's header of variant 0, without optional fields.
const GUE: usize = 4;

/// IANA protocol numbers of IPv4 and IPv6 inside of something.
const IN_IPV4: u8 = 4;
const IN_IPV6: u8 = 41;

/// What is around an encapsulated packet.
pub struct Outer {
    /// Inside of what.
    pub how: Verdict,
    /// Offset of the outer IP header.
    pub network: usize,
    /// Offset of the inner one.
    pub inner: usize,
    /// Where both packets end.
    pub end: usize,
    /// Whether the outer header is IPv6's.
    pub is_v6: bool,
    /// Whether the inner one is.
    pub is_inner_v6: bool,
    /// Two bits of congestion notification.
    pub congestion: u8,
    source: Place,
    destination: Place,
}

/// Finds what is around the packet in this frame; the verdict where nothing is that is for us.
#[inline(always)]
pub fn find<H: Hook>(hook: &H) -> Result<Outer, Verdict> {
    match network(hook)? {
        Network::V4(at) => ipv4(hook, at),
        Network::V6(at) => ipv6(hook, at),
    }
}

/// Whether this host is to take out what is inside: it is for an address of the interface, and from somebody who may
/// send it.
#[inline(always)]
pub fn admit<H: Hook>(hook: &H, outer: &Outer) -> Result<(), Verdict> {
    // SAFETY: entries are replaced whole; a reader of the old one finds what was right just now.
    let interface = unsafe { INTERFACES.get(hook.interface()) }.ok_or(Verdict::NotOurs)?;
    if !hook.is_for_this_host(interface) {
        return Err(Verdict::OtherHost);
    }
    let own = Place { interface: hook.interface(), ..outer.destination };
    // SAFETY: as above.
    if unsafe { OWN.get(own) }.is_none() {
        return Err(Verdict::NotOurs);
    }
    if FROM_ANYBODY.load() == 0 {
        const WHOLE: u32 = size_of::<[u32; 5]>() as u32 * 8;
        if SOURCES.get(&Key::new(WHOLE, outer.source.source())).is_none() {
            return Err(Verdict::Stranger);
        }
    }
    Ok(())
}

/// What an IP header says.
struct Found<A> {
    network: usize,
    transport: usize,
    end: usize,
    protocol: u8,
    congestion: u8,
    source: A,
    destination: A,
}

#[inline(always)]
fn ipv4<H: Hook>(hook: &H, at: usize) -> Result<Outer, Verdict> {
    /// More fragments, and the fragment offset.
    const FRAGMENTED: u16 = 0x3fff;
    let header = hook.window(at + IPV4).header::<IPV4>(at).ok_or(Verdict::Malformed)?;
    let protocol = header.load::<u8, 9>();
    if !may_hold(protocol) {
        return Err(Verdict::NotEncapsulated);
    }
    let first: u8 = header.load::<u8, 0>();
    let header_length = (first & 0xf) as usize * 4;
    let length = header.load::<Be16, 2>().get() as usize;
    if first >> 4 != 4
        || header_length < IPV4
        || length < header_length
        || at + length > hook.length()
    {
        return Err(Verdict::Malformed);
    }
    if header.load::<Be16, 6>().get() & FRAGMENTED != 0 {
        return Err(Verdict::Fragment);
    }
    let found = Found {
        network: at,
        transport: at + header_length,
        end: at + length,
        protocol,
        congestion: header.load::<u8, 1>() & 0b11,
        source: header.load::<V4, 12>(),
        destination: header.load::<V4, 16>(),
    };
    inside(hook, &found)
}

#[inline(always)]
fn ipv6<H: Hook>(hook: &H, at: usize) -> Result<Outer, Verdict> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    let header = hook.window(at + IPV6).header::<IPV6>(at).ok_or(Verdict::Malformed)?;
    let protocol = header.load::<u8, 6>();
    match protocol {
        FRAGMENT => return Err(Verdict::Fragment),
        HOP_BY_HOP | ROUTING | DESTINATION => return Err(Verdict::ExtensionHeaders),
        protocol if !may_hold(protocol) => return Err(Verdict::NotEncapsulated),
        _ => {}
    }
    let length = IPV6 + header.load::<Be16, 4>().get() as usize;
    if header.load::<u8, 0>() >> 4 != 6 || at + length > hook.length() {
        return Err(Verdict::Malformed);
    }
    let found = Found {
        network: at,
        transport: at + IPV6,
        end: at + length,
        protocol,
        congestion: header.load::<u8, 1>() >> 4 & 0b11,
        source: header.load::<V6, 8>(),
        destination: header.load::<V6, 24>(),
    };
    inside(hook, &found)
}

/// Whether a packet of this protocol may hold another.
#[inline(always)]
fn may_hold(protocol: u8) -> bool {
    matches!(protocol, IN_IPV4 | IN_IPV6) || u32::from(protocol) == UDP
}

#[inline(always)]
fn inside<H: Hook, A: Address>(hook: &H, found: &Found<A>) -> Result<Outer, Verdict> {
    let (how, inner, is_inner_v6) = match found.protocol {
        IN_IPV4 => (Verdict::Ipip, found.transport, false),
        IN_IPV6 => (Verdict::Ipip, found.transport, true),
        _ => {
            let (inner, is_inner_v6) = gue(hook, found.transport, found.end)?;
            (Verdict::Gue, inner, is_inner_v6)
        }
    };
    Ok(Outer {
        how,
        network: found.network,
        inner,
        end: found.end,
        is_v6: A::IS_V6,
        is_inner_v6,
        congestion: found.congestion,
        source: Place::new(found.source, 0),
        destination: Place::new(found.destination, 0),
    })
}

/// What a UDP datagram holds: the offset of an IP packet, and whether it is one of IPv6.
#[inline(always)]
fn gue<H: Hook>(hook: &H, transport: usize, end: usize) -> Result<(usize, bool), Verdict> {
    /// Of variant 0: variant, control bit and length of optional fields; and the flags.
    const PLAIN: u32 = 0xff00_ffff;
    let window = hook.window(transport + UDP_HEADER + GUE);
    let udp = window.header::<UDP_HEADER>(transport).ok_or(Verdict::Malformed)?;
    if udp.load::<u16, 2>() != PORT.load() {
        return Err(Verdict::NotEncapsulated);
    }
    if udp.load::<Be16, 4>().get() as usize != end - transport {
        return Err(Verdict::Malformed);
    }
    let at = transport + UDP_HEADER;
    let header = window.header::<GUE>(at).ok_or(Verdict::InnerMalformed)?;
    let word = u32::from_be(header.load::<u32, 0>());
    // Variant 1 is an IP packet without more ado: its version begins with the same bits.
    match word >> 28 {
        4 => return Ok((at, false)),
        6 => return Ok((at, true)),
        _ => {}
    }
    if word & PLAIN != 0 {
        return Err(Verdict::UnknownGue);
    }
    match (word >> 16) as u8 {
        IN_IPV4 => Ok((at + GUE, false)),
        IN_IPV6 => Ok((at + GUE, true)),
        _ => Err(Verdict::UnknownGue),
    }
}
