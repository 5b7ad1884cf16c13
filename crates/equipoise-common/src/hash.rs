//! The hash that picks a slot.
//!
//! The same five-tuple must lead to the same slot on every machine with the same configuration,
//! so that a peer can take over; hence no secret and no machine-dependent order. It is a chain of
//! multiply and xor-shift rounds with the constants of splitmix64 (Steele, Lea, Flood: "Fast
//! splittable pseudorandom number generators", 2014).

use crate::key::{Address, Be16, FiveTuple};

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// One round: `state` with `word` mixed in.
#[inline(always)]
pub const fn mix(state: u64, word: u64) -> u64 {
    let mut h = (state ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h ^= h >> 32;
    h = h.wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 29)
}

/// Hash of a five-tuple, from its bytes in network order.
#[inline(always)]
pub fn five_tuple<A: Address>(tuple: &FiveTuple<A>) -> u64 {
    let [s0, s1] = tuple.source.words();
    let [d0, d1] = tuple.destination.words();
    let ports = (tuple.source_port.get() as u64) << 32
        | (tuple.destination_port.get() as u64) << 16
        | tuple.protocol as u64;
    let mut h = mix(GOLDEN, u64::from_le(s0));
    if A::IS_V6 {
        h = mix(h, u64::from_le(s1));
        h = mix(h, u64::from_le(d1));
    }
    h = mix(h, u64::from_le(d0));
    mix(h, ports)
}

/// Hash of the addresses and the protocol alone: the same for all fragments of a packet.
#[inline(always)]
pub fn addresses<A: Address>(tuple: &FiveTuple<A>) -> u64 {
    five_tuple(&FiveTuple { source_port: Be16(0), destination_port: Be16(0), ..*tuple })
}

/// `hash` mapped to `0..length` without a division: Lemire's multiply-shift ("Fast random integer
/// generation in an interval", 2019).
#[inline(always)]
pub const fn slot(hash: u64, length: u32) -> u32 {
    (((hash >> 32) * length as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{TCP, V4};

    fn tuple(source: u32, port: u16) -> FiveTuple<V4> {
        FiveTuple {
            source: V4(source.to_be()),
            destination: V4(0xcb00_710a_u32.to_be()),
            source_port: Be16::new(port),
            destination_port: Be16::new(443),
            protocol: TCP,
        }
    }

    /// A recorded value: if it moves, two versions side by side would disagree on slots.
    #[test]
    fn the_same_flow_hashes_alike_in_every_version() {
        assert_eq!(five_tuple(&tuple(0xc633_6401, 4242)), 0x9484_6395_1970_ee09);
    }

    #[test]
    fn slots_are_hit_evenly_by_neighbouring_ports_and_addresses() {
        const SLOTS: u32 = 101;
        let mut hits = [0_u32; SLOTS as usize];
        for host in 0..100 {
            for port in 1024..2024 {
                hits[slot(five_tuple(&tuple(0x0a00_0000 + host, port)), SLOTS) as usize] += 1;
            }
        }
        let mean = 100_000.0 / f64::from(SLOTS);
        let chi: f64 = hits.iter().map(|&n| (f64::from(n) - mean).powi(2) / mean).sum();
        // 100 degrees of freedom: 149.4 is the 99.9th percentile.
        assert!(chi < 149.4, "chi-square {chi}");
    }

    #[test]
    fn slot_stays_inside_its_run() {
        for length in [1, 2, 3, 1021, u32::MAX] {
            assert!(slot(u64::MAX, length) == length - 1);
            assert!(slot(0, length) == 0);
        }
    }
}
