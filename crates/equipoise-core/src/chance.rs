//! Chance that is an argument: numbers that are spread evenly and follow from a seed.

/// A number from 0 to below 1, by what it is made of (splitmix64).
pub(crate) fn unit(of: u64) -> f64 {
    let mut x = of.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}
