//! The counters of an entry: two numbers in one word, exact however large they grow.

use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use crate::flow::entry::{At, acknowledged, count, traffic, uncount};
use crate::flow::word::Word as _;

type Slot = [AtomicU64; 8];

fn slot() -> Slot {
    std::array::from_fn(|_| AtomicU64::new(0))
}

#[test]
fn counters_are_exact_over_trillions() {
    let slot = slot();
    slot[At::<8>::TRACK].store_low(u32::MAX);
    let (mut packets, mut bytes) = (0, 0);
    for step in 0..200_000_u64 {
        let (p, b) = (step % 9 * 500_000, step % 7 * 2_800_000_000 + step);
        count(&slot, p, b);
        (packets, bytes) = (packets + p, bytes + b);
        if step % 3 == 0 {
            count(&slot, 1, 65_535);
            uncount(&slot, 1, 65_535);
        }
        assert_eq!(traffic(&slot), (packets, bytes));
    }
    assert!(bytes > 1 << 50 && packets > 1 << 38);
    assert_eq!(acknowledged(&slot), u32::MAX, "the acknowledgement stays");
}

#[test]
fn packet_is_taken_off_again_at_every_boundary() {
    for (p, b) in [(1 << 26, 1 << 34), ((1 << 26) - 1, (1 << 34) - 1500), (3, (1 << 34) - 1)] {
        let slot = slot();
        for round in 1..200 {
            count(&slot, p, b);
            count(&slot, 1, 1500);
            uncount(&slot, 1, 1500);
            assert_eq!(traffic(&slot), (p * round, b * round));
        }
    }
}

proptest! {
    #[test]
    fn counters_are_the_sum_of_what_was_counted(
        steps in prop::collection::vec((0..1_u64 << 26, 0..1_u64 << 34, any::<bool>()), 1..200),
        start in 0..1_u64 << 32,
    ) {
        let slot = slot();
        count(&slot, 0, start);
        let (mut packets, mut bytes) = (0, start);
        for (p, b, is_taken_back) in steps {
            count(&slot, p, b);
            if is_taken_back {
                uncount(&slot, p, b);
            } else {
                (packets, bytes) = (packets + p, bytes + b);
            }
            prop_assert_eq!(traffic(&slot), (packets, bytes));
        }
    }
}
