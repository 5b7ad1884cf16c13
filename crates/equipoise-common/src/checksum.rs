//! Incremental checksums (RFC 1624) over one's-complement sums (RFC 1071).
//!
//! Words are taken as they stand in memory: the sum of network-order words is the same number
//! byte-swapped, whatever the machine's order (RFC 1071, section 2 B), so nothing is swapped here.

/// The folded difference that changing `old` into `new` makes to a sum.
///
/// Up to a few hundred differences can be added in one `u64` before [`fold`].
#[inline(always)]
pub const fn difference(old: u32, new: u32) -> u64 {
    (!old) as u64 + new as u64
}

/// Folds a sum into 32 bits: the kernel's `__wsum`.
#[inline(always)]
pub const fn fold_wide(mut sum: u64) -> u32 {
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    sum as u32
}

/// Folds a sum into 16 bits.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let mut sum = fold_wide(sum);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// A 16-bit number as it counts in a sum when it stands so many bytes after the sum's beginning: at an odd offset it lies
/// across two words, with its bytes the other way round (RFC 1071 section 2).
#[inline(always)]
pub const fn word_at(number: u16, offset: usize) -> u16 {
    if offset & 1 == 0 { number } else { number.swap_bytes() }
}

/// A checksum field after a change of the words that it covers.
///
/// RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`. `change` is a sum of [`difference`]s.
#[inline(always)]
pub const fn update(field: u16, change: u64) -> u16 {
    !fold((!field) as u64 + change)
}

/// As [`update`], for UDP: a computed 0 is sent as 0xffff, since 0 means "none" (RFC 768).
#[inline(always)]
pub const fn update_udp(field: u16, change: u64) -> u16 {
    let updated = update(field, change);
    if updated == 0 { 0xffff } else { updated }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full(words: &[u32]) -> u16 {
        !fold(words.iter().map(|&w| u64::from(w)).sum())
    }

    proptest! {
        #[test]
        fn incremental_equals_recomputed(
            mut words in prop::collection::vec(any::<u32>(), 2..40),
            at in any::<prop::sample::Index>(),
            new in any::<u32>(),
        ) {
            // The all-zero packet is the one case in which both zeros of the one's complement
            // are right; a real header is never all zero.
            words.push(0x0000_4500);
            let at = at.index(words.len() - 1);
            let before = full(&words);
            let change = difference(words[at], new);
            words[at] = new;
            prop_assert_eq!(update(before, change), full(&words));
        }

        #[test]
        fn many_differences_add_up(pairs in prop::collection::vec((any::<u32>(), any::<u32>()), 1..64)) {
            let mut old: Vec<u32> = pairs.iter().map(|p| p.0).collect();
            let mut new: Vec<u32> = pairs.iter().map(|p| p.1).collect();
            old.push(0x0000_4500);
            new.push(0x0000_4500);
            let change = pairs.iter().map(|&(o, n)| difference(o, n)).sum();
            prop_assert_eq!(update(full(&old), change), full(&new));
        }
    }

    #[test]
    fn a_number_may_change_at_an_odd_offset() {
        let sum_of = |bytes: [u8; 8]| {
            !fold(bytes.chunks(2).map(|two| u64::from(u16::from_ne_bytes([two[0], two[1]]))).sum())
        };
        for at in 0..6 {
            let mut bytes = [1, 2, 3, 4, 250, 251, 252, 253];
            let before = sum_of(bytes);
            let old = u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
            let new = u16::from_ne_bytes([0xbe, 0x05]);
            bytes[at..at + 2].copy_from_slice(&new.to_ne_bytes());
            let change = difference(word_at(old, at).into(), word_at(new, at).into());
            assert_eq!(update(before, change), sum_of(bytes), "at {at}");
        }
    }

    #[test]
    fn udp_never_sends_a_computed_zero() {
        let change = difference(0, 0x0000_1234);
        let field = !fold(u64::from(!0x1234_u16));
        assert_eq!(update(field, change), 0);
        assert_eq!(update_udp(field, change), 0xffff);
    }
}
