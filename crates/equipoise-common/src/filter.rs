//! Which addresses may be a VIP's or a backend's: bits, so that a packet of others leaves after two loads.
//!
//! A packet of ours has a VIP or a backend as its source or its destination. An address leads to a bit by a hash. A bit
//! that is set says "perhaps", and the packet is looked up; one that is not says "no". Bits are
//! set before an address is used, and never cleared: flows outlive the services and backends that they were opened for.

use crate::hash::mix;
use crate::key::Address;

/// Words of the filter: 8 KiB, a part of any first-level cache. With 1 000 addresses, one of 65 others is looked up.
pub const WORDS: u32 = 1_024;

/// The word of an address, and its bit in it.
#[inline(always)]
pub fn place<A: Address>(address: A) -> (u32, u64) {
    let [one, two] = address.words();
    let hash = if A::IS_V6 { mix(mix(0, one), two) } else { mix(0, one) };
    ((hash >> 32) as u32 & (WORDS - 1), 1 << (hash & 63))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::key::{V4, V6};

    #[test]
    fn addresses_are_spread_over_all_bits() {
        let v4 = (0..20_000_u32).map(|number| place(V4((0x0a00_0000 + number).to_be())));
        let v6 = (0..20_000_u64).map(|number| place(V6([0x2001_0db8, number.to_be()])));
        for places in [v4.collect::<Vec<_>>(), v6.collect()] {
            assert!(places.iter().all(|(word, bit)| *word < WORDS && bit.is_power_of_two()));
            let different: BTreeSet<_> = places.iter().copied().collect();
            // Of 20 000 balls in 65 536 boxes as many fall into different ones, within five deviations.
            assert!((16_800..=17_500).contains(&different.len()), "{}", different.len());
        }
    }
}
