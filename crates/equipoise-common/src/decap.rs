//! What the programs that decapsulate and user space must agree on: keys, values, sizes, verdicts.
//!
//! They are an object of their own, beside that of the balancer, and share no map with it. An address is
//! looked up with its family and, where that matters, with an interface.

use crate::key::{Address, V6};
use crate::tunnel;
use crate::value::Mode;
use crate::verdict::{Hook, Kind, verdicts};

/// The UDP port of GUE, unless another is asked for.
pub const PORT: u16 = tunnel::GUE_PORT;
/// Own addresses, over all interfaces.
pub const ADDRESSES: u32 = 16_384;
/// VIPs.
pub const VIPS: u32 = 16_384;
/// Prefixes that outer sources may be in.
pub const SOURCES: u32 = 4_096;
/// Interfaces.
pub const INTERFACES: u32 = 1_024;
/// The largest header that a balancer of ours puts before a packet: IPv6 and UDP, with GUE's variant 1.
pub const LARGEST_HEADER: u16 = tunnel::overhead(Mode::Gue as u8, true) as u16;

/// An address, of an interface or of the whole host.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub struct Place {
    /// An IPv4 address takes the first 4 bytes.
    pub address: V6,
    /// The interface's index; 0 for the whole host.
    pub interface: u32,
    /// 4 or 6.
    pub family: u32,
}

impl Place {
    /// The key of `address` on an interface.
    #[inline(always)]
    pub fn new<A: Address>(address: A, interface: u32) -> Self {
        Self { address: address.pack(), interface, family: family::<A>() }
    }

    /// What a prefix of outer sources is looked up by: the family, then the address.
    #[inline(always)]
    pub const fn source(&self) -> [u32; 5] {
        let V6([first, second]) = self.address;
        #[cfg(target_endian = "little")]
        let words = [first as u32, (first >> 32) as u32, second as u32, (second >> 32) as u32];
        #[cfg(target_endian = "big")]
        let words = [(first >> 32) as u32, first as u32, (second >> 32) as u32, second as u32];
        [self.family, words[0], words[1], words[2], words[3]]
    }

    /// Bits of [`Place::source`] before the address.
    pub const SOURCE_BITS: u32 = u32::BITS;
}

const fn family<A: Address>() -> u32 {
    if A::IS_V6 { 6 } else { 4 }
}

/// What is known of an address that encapsulated packets may be for.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord))]
pub struct Vip {
    /// 1 when it is an address of this host.
    pub is_local: u32,
    /// 1 when the segments of its connections are to be kept small.
    pub is_clamped: u32,
}

/// An interface that programs hang on.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord))]
pub struct Interface {
    /// The first four bytes of its link address, as they stand in memory.
    pub link_start: u32,
    /// The last two.
    pub link_end: u16,
    /// Bytes of TCP that fit into a segment, over IPv4.
    pub mss_v4: u16,
    /// Over IPv6.
    pub mss_v6: u16,
    /// Zero.
    pub pad: u16,
    /// Zero.
    pub pad_end: u32,
}

impl Interface {
    /// With a link address, and what fits into a segment over IPv4 and over IPv6.
    pub const fn new(link: [u8; 6], [mss_v4, mss_v6]: [u16; 2]) -> Self {
        let [a, b, c, d, e, f] = link;
        Self {
            link_start: u32::from_ne_bytes([a, b, c, d]),
            link_end: u16::from_ne_bytes([e, f]),
            mss_v4,
            mss_v6,
            pad: 0,
            pad_end: 0,
        }
    }
}

verdicts! {
    Verdict;

    /// An IP packet directly inside another, taken out of it and left to the stack.
    Ipip = "ipip", Stack;
    /// An IP packet inside GUE, taken out of it and left to the stack.
    Gue = "gue", Stack;
    /// The first packet of a connection of a VIP: the largest segment that it tells of is lowered.
    MssLowered = "mss_lowered", Stack;

    /// Neither an IP packet inside another nor UDP to the port of GUE.
    NotEncapsulated = "not_encapsulated", Pass;
    /// Not IPv4 or IPv6.
    NotIp = "not_ip", Pass;
    /// Cut short, or with a length that contradicts itself.
    Malformed = "malformed", Pass;
    /// A fragment of a packet that may be encapsulated; fragments are not put together here.
    Fragment = "fragment", Pass;
    /// IPv6 extension headers before whatever is inside.
    ExtensionHeaders = "extension_headers", Pass;
    /// Encapsulated, for another machine on the link.
    OtherHost = "other_host", Pass;
    /// Encapsulated, for an address that its interface does not have.
    NotOurs = "not_ours", Pass;
    /// Encapsulated by somebody who is not in `--from`.
    Stranger = "stranger", Pass;
    /// GUE of another kind: control messages, optional fields, another protocol, an unknown variant.
    UnknownGue = "unknown_gue", Pass;
    /// The inner packet is cut short, or not as long as the outer one says.
    InnerMalformed = "inner_malformed", Pass;
    /// The inner packet is for an address that is no VIP.
    NotVip = "not_vip", Pass;
    /// At TC, two VLAN tags before the outer header, which the kernel does not keep apart.
    Tagged = "tagged", Pass;
    /// At TC, packets merged into one that this host would forward, or datagrams of GUE: they could not be told apart
    /// again.
    Merged = "merged", Pass;
    /// The kernel refused to take the outer header off.
    Refused = "refused", Pass;
    /// On its way out, and not the first packet of a connection of a VIP.
    Outgoing = "outgoing", Pass;
    /// The first packet of a connection of a VIP, which tells of no larger segments than fit.
    MssFits = "mss_fits", Pass;

    /// The network was congested, and told so in an outer header whose inner one cannot tell (RFC 6040).
    Congested = "congested", Drop;
    /// The kernel refused to change the packet half-way.
    Failed = "failed", Drop;
}

/// Verdicts in all.
pub const VERDICTS: u32 = Verdict::ALL.len() as u32;

/// Verdict counters in all.
pub const COUNTERS: u32 = Hook::ALL.len() as u32 * VERDICTS;

impl Verdict {
    /// Index of its counter at a hook.
    #[inline(always)]
    pub const fn counter(self, hook: Hook) -> u32 {
        hook as u32 * VERDICTS + self as u32
    }
}

/// What a decapsulated packet's two bits of congestion notification become (RFC 6040, figure 4), by the outer and
/// the inner ones; none where the packet must go no further.
#[inline(always)]
pub const fn congestion(outer: u8, inner: u8) -> Option<u8> {
    const NOT_CAPABLE: u8 = 0b00;
    const CAPABLE_1: u8 = 0b01;
    const CAPABLE_0: u8 = 0b10;
    const EXPERIENCED: u8 = 0b11;
    match (outer & 0b11, inner & 0b11) {
        (EXPERIENCED, NOT_CAPABLE) => None,
        (EXPERIENCED, _) => Some(EXPERIENCED),
        (CAPABLE_1, CAPABLE_0) => Some(CAPABLE_1),
        (_, inner) => Some(inner),
    }
}

#[cfg(feature = "user")]
mod user {
    use super::{Interface, Place, Vip};

    // SAFETY: integers alone, no implicit padding (sizes are asserted below).
    unsafe impl aya::Pod for Place {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Vip {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Interface {}
}

const _: () = {
    assert!(size_of::<Place>() == 24);
    assert!(size_of::<Vip>() == 8);
    assert!(size_of::<Interface>() == 16);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::V4;
    use std::collections::BTreeSet;

    #[test]
    fn names_and_counters_are_unique() {
        let names: BTreeSet<_> = Verdict::ALL.iter().map(|v| v.name()).collect();
        assert_eq!(names.len(), Verdict::ALL.len());
        let counters: BTreeSet<_> = Hook::ALL
            .iter()
            .flat_map(|&hook| Verdict::ALL.iter().map(move |v| v.counter(hook)))
            .collect();
        assert_eq!(counters.len() as u32, COUNTERS);
        assert_eq!(counters.last(), Some(&(COUNTERS - 1)));
    }

    #[test]
    fn congestion_is_carried_inwards_as_rfc_6040_says() {
        // Rows are the inner bits, columns the outer ones: not capable, 1, 0, experienced.
        let table = [
            (0b00, [Some(0b00), Some(0b00), Some(0b00), None]),
            (0b01, [Some(0b01), Some(0b01), Some(0b01), Some(0b11)]),
            (0b10, [Some(0b10), Some(0b01), Some(0b10), Some(0b11)]),
            (0b11, [Some(0b11), Some(0b11), Some(0b11), Some(0b11)]),
        ];
        for (inner, row) in table {
            for (outer, expected) in (0..).zip(row) {
                assert_eq!(congestion(outer, inner), expected, "{outer:02b} {inner:02b}");
            }
        }
    }

    #[test]
    fn an_address_is_told_apart_by_its_family() {
        let v4 = Place::new(V4(u32::from_ne_bytes([10, 0, 0, 1])), 0);
        let v6 = Place::new(v4.address, 0);
        assert_ne!(v4, v6);
        assert_eq!(v4.source(), [4, u32::from_ne_bytes([10, 0, 0, 1]), 0, 0, 0]);
    }
}
