//! Prefixes of sources: who is let in, and who counts as one source.
//!
//! The longest prefix decides, a service's own and the settings' together, and where two of one length
//! differ, the source is denied. Addresses are packed as [`crate::key::Address::pack`] does. Knows no maps.

use crate::key::V6;

/// Whose list a prefix is in, and its address: what the kernel's tries compare the first bits of, for those that are
/// let in and for those that have a route.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub struct AccessKey {
    /// Whose list, and which family: see [`AccessKey::scope`].
    pub scope: u32,
    /// The address, as words of memory; bits beyond the prefix are zero.
    pub address: [u32; 4],
}

impl AccessKey {
    /// Bits of `scope`, which come before those of the prefix.
    pub const SCOPE_BITS: u32 = 32;

    /// In the list of this scope.
    #[inline(always)]
    pub const fn new(scope: u32, V6([first, second]): V6) -> Self {
        // As they follow each other in memory.
        #[cfg(target_endian = "little")]
        let address = [first as u32, (first >> 32) as u32, second as u32, (second >> 32) as u32];
        #[cfg(target_endian = "big")]
        let address = [(first >> 32) as u32, first as u32, (second >> 32) as u32, second as u32];
        Self { scope, address }
    }

    /// The list of the settings, or of a service, for addresses of a family.
    #[inline(always)]
    pub const fn scope(service: Option<u32>, is_v6: bool) -> u32 {
        let number = match service {
            None => 0,
            Some(id) => id + 1,
        };
        number << 1 | is_v6 as u32
    }

    /// Whose list it is in, none for the settings', and whether it is for addresses of IPv6: what [`AccessKey::scope`] was made of.
    #[cfg(any(test, feature = "user"))]
    pub const fn list(&self) -> (Option<u32>, bool) {
        ((self.scope >> 1).checked_sub(1), self.scope & 1 != 0)
    }

    /// The address, packed.
    #[cfg(any(test, feature = "user"))]
    pub const fn address(&self) -> V6 {
        let [a, b, c, d] = self.address;
        #[cfg(target_endian = "little")]
        let words = [a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32];
        #[cfg(target_endian = "big")]
        let words = [(a as u64) << 32 | b as u64, (c as u64) << 32 | d as u64];
        V6(words)
    }
}

/// What is said of a prefix.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub struct Access {
    /// Bits of the prefix.
    pub bits: u32,
    /// [`Access::ALLOW`] or [`Access::DENY`].
    pub what: u32,
}

impl Access {
    /// `what`: sources in it are let in.
    pub const ALLOW: u32 = 0;
    /// `what`: they are not, and their flows are ended.
    pub const DENY: u32 = 1;

    /// A number that is higher for what decides: the longer prefix, and of two that are as long, the one that denies.
    #[inline(always)]
    pub const fn strength(self) -> u32 {
        self.bits << 1 | self.what
    }
}

/// What takes several sources together: whose bucket of tokens it is.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct SourceKey {
    /// Service id.
    pub service: u32,
    /// Bits of the prefix, and 256 more for IPv6: else prefixes of different kinds could be taken for one.
    pub kind: u32,
    /// The address; bits beyond the prefix are zero.
    pub address: V6,
}

/// The first bits of a packed address; so many of an IPv4 address are its own.
#[inline(always)]
pub const fn masked(address: V6, bits: u32) -> V6 {
    let [first, second] = address.0;
    if bits >= 64 {
        V6([first, second & leading(bits - 64)])
    } else {
        V6([first & leading(bits), 0])
    }
}

/// The first bits of a word in network order; 64 at most.
#[inline(always)]
const fn leading(bits: u32) -> u64 {
    let mask = if bits == 0 { 0 } else { u64::MAX << ((64 - bits) & 63) };
    mask.to_be()
}

const _: () = {
    assert!(size_of::<AccessKey>() == 20);
    assert!(size_of::<Access>() == 8);
    assert!(size_of::<SourceKey>() == 24);
};

#[cfg(feature = "user")]
mod user {
    use super::{Access, AccessKey, SourceKey};

    // SAFETY: `repr(C)` words without padding (sizes asserted above); any bit pattern is a value.
    unsafe impl aya::Pod for AccessKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Access {}
    // SAFETY: as above.
    unsafe impl aya::Pod for SourceKey {}
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};

    use super::*;

    #[test]
    fn as_many_bits_of_an_address_stay_as_the_prefix_has() {
        for bits in 0..=128_u32 {
            let all = V6::from(Ipv6Addr::from(u128::MAX));
            let right = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            assert_eq!(Ipv6Addr::from(masked(all, bits)), Ipv6Addr::from(right), "{bits}");
        }
        let address: IpAddr = "192.0.2.255".parse().unwrap();
        for (bits, right) in
            [(0, "0.0.0.0"), (8, "192.0.0.0"), (25, "192.0.2.128"), (32, "192.0.2.255")]
        {
            let right: IpAddr = right.parse().unwrap();
            assert_eq!(masked(address.into(), bits), right.into(), "{bits}");
        }
    }

    #[test]
    fn longest_prefix_of_two_lists_decides_and_a_tie_denies() {
        let of = |bits, what| Access { bits, what }.strength();
        assert!(of(8, Access::DENY) > of(8, Access::ALLOW));
        assert!(of(9, Access::ALLOW) > of(8, Access::DENY));
        assert!(of(9, Access::DENY) > of(8, Access::ALLOW));
    }

    #[test]
    fn lists_of_services_and_families_are_apart() {
        let scopes = [None, Some(0), Some(1)]
            .map(|service| [false, true].map(|is_v6| AccessKey::scope(service, is_v6)));
        assert_eq!(scopes, [[0, 1], [2, 3], [4, 5]]);
        let address = V6::from("2001:db8::17".parse::<Ipv6Addr>().unwrap());
        for service in [None, Some(0), Some(7)] {
            let key = AccessKey::new(AccessKey::scope(service, true), address);
            assert_eq!((key.list(), key.address()), ((service, true), address));
        }
    }
}
