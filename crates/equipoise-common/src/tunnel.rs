//! What tunnels to backends look like: sizes, the port, and sources that differ from flow to flow.

use crate::value::Mode;

/// UDP port of GUE (IANA).
pub const GUE_PORT: u16 = 6_080;

/// Bytes that go before an IP packet on its way to a backend.
#[inline(always)]
pub const fn overhead(mode: u8, is_v6: bool) -> u32 {
    const UDP_HEADER: u32 = 8;
    let header = if is_v6 { 40 } else { 20 };
    if mode == Mode::Ipip as u8 {
        header
    } else if mode == Mode::Gue as u8 {
        header + UDP_HEADER
    } else {
        0
    }
}

/// A source port out of the dynamic ones (RFC 6335), for the flow with this hash.
#[inline(always)]
pub const fn source_port(hash: u64) -> u16 {
    0xc000 | (hash >> 48) as u16
}

/// An IPv4 source out of 198.18.0.0/15, which no host of the Internet has (RFC 2544), in host order.
#[inline(always)]
pub const fn source_v4(hash: u64) -> u32 {
    0xc612_0000 | (hash >> 40) as u32 & 0x1_ffff
}

/// An IPv6 source out of 100::/64, which no host has (RFC 6666), in host order.
#[inline(always)]
pub const fn source_v6(hash: u64) -> [u64; 2] {
    [0x0100_0000_0000_0000, hash]
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn sources_are_of_nobody_and_differ() {
        for hash in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            let v4 = Ipv4Addr::from(source_v4(hash));
            assert!(v4.octets()[0] == 198 && v4.octets()[1] & !1 == 18, "{v4}");
            let [one, two] = source_v6(hash);
            let v6 = Ipv6Addr::from(u128::from(one) << 64 | u128::from(two));
            assert_eq!(v6.segments()[..4], [0x100, 0, 0, 0]);
            assert!(source_port(hash) >= 49_152);
        }
        assert_ne!(source_v4(1 << 40), source_v4(2 << 40));
        assert_ne!(source_port(1 << 48), source_port(2 << 48));
    }

    #[test]
    fn only_tunnels_take_room() {
        let modes = [Mode::Nat, Mode::FullNat, Mode::Dsr, Mode::Ipip, Mode::Gue];
        assert_eq!(modes.map(|mode| overhead(mode as u8, false)), [0, 0, 0, 20, 28]);
        assert_eq!(modes.map(|mode| overhead(mode as u8, true)), [0, 0, 0, 40, 48]);
    }
}
