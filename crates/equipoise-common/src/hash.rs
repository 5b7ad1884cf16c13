//! The hash that picks a slot.
//!
//! The same five-tuple must lead to the same slot on every machine with the same configuration,
//! so that a peer can take over; hence no secret and no machine-dependent order. It is a chain of
//! multiply and xor-shift rounds with the constants of splitmix64 (Steele, Lea, Flood: "Fast
//! splittable pseudorandom number generators", 2014).

use crate::key::{Address, FiveTuple};

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

/// Hash of the first `bits` bits of an address, of which there is at least one.
#[inline(always)]
pub fn source<A: Address>(address: A, bits: u32) -> u64 {
    let [first, second] = address.words();
    if !A::IS_V6 {
        let mask = u32::MAX.wrapping_shl(32_u32.wrapping_sub(bits));
        return mix(GOLDEN, (u32::from_be(first as u32) & mask) as u64);
    }
    let high = if bits < 64 { u64::MAX.wrapping_shl(64 - bits) } else { u64::MAX };
    let low = if bits > 64 { u64::MAX.wrapping_shl(128_u32.wrapping_sub(bits)) } else { 0 };
    mix(mix(GOLDEN, u64::from_be(first) & high), u64::from_be(second) & low)
}

/// `hash` mapped to `0..length` without a division: Lemire's multiply-shift ("Fast random integer
/// generation in an interval", 2019).
#[inline(always)]
pub const fn slot(hash: u64, length: u32) -> u32 {
    (((hash >> 32) * length as u64) >> 32) as u32
}

/// How far the slot for another attempt is from the one before, in a run of so many: about the golden section, since neighbouring
/// slots may be one backend's.
#[inline(always)]
pub const fn stride(length: u32) -> u32 {
    length / 8 * 5 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Be16, TCP, V4, V6};

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
    fn sources_of_one_prefix_hash_alike_and_others_do_not() {
        let v4 = |text: &str| V4::from(text.parse::<std::net::Ipv4Addr>().unwrap());
        let v6 = |text: &str| V6::from(text.parse::<std::net::Ipv6Addr>().unwrap());
        let alike = |bits, a: &str, b: &str| source(v4(a), bits) == source(v4(b), bits);
        assert!(alike(24, "198.51.100.1", "198.51.100.255") && alike(1, "0.0.0.1", "127.0.0.0"));
        assert!(!alike(24, "198.51.100.1", "198.51.101.1") && !alike(1, "1.0.0.0", "128.0.0.0"));
        assert!(!alike(32, "198.51.100.1", "198.51.100.0"));
        let alike = |bits, a: &str, b: &str| source(v6(a), bits) == source(v6(b), bits);
        assert!(
            alike(64, "2001:db8::1", "2001:db8::ffff:0:0:1")
                && alike(56, "2001:db8::", "2001:db8:0:ff::1")
        );
        assert!(
            !alike(64, "2001:db8::1", "2001:db8:0:1::1")
                && !alike(65, "2001:db8::", "2001:db8::8000:0:0:0")
        );
        assert!(
            alike(127, "2001:db8::", "2001:db8::1") && !alike(128, "2001:db8::", "2001:db8::1")
        );
        // Recorded values, as above.
        assert_eq!(source(v4("198.51.100.1"), 24), 5_023_905_075_636_399_762);
        assert_eq!(source(v6("2001:db8::1"), 56), 8_585_468_730_337_069_105);
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
