//! The slot table of a pool: Maglev hashing (Eisenbud et al., NSDI 2016), weighted.
//!
//! Each backend has its own permutation of the slots, seeded by its address and port alone, and
//! backends take turns at claiming their next free slot; turns are in proportion to weights. The
//! result depends on nothing but addresses and weights, so that every machine with the same
//! configuration has the same table, and a backend that comes or goes moves few other slots.
//! Unlike in the paper, a permutation is not `offset + k * skip` modulo a prime: two of those can
//! run alike, and with few backends that moves several percent of the slots for nothing.
//! Knows nothing of ids and of where tables are kept.

use std::net::{IpAddr, SocketAddr};

use equipoise_common::hash;

use crate::weight::Weight;

/// How finely tables divide: slots for each backend of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolution(u32);

impl Resolution {
    /// From fine to coarse. Shares are right to 1 % from 100 on; with 400, a backend that goes
    /// moves less than 2 % of the slots that were not its own, which with 100 may be 4 %.
    pub const ALL: [Self; 6] = [Self(400), Self(200), Self(100), Self(50), Self(25), Self(12)];

    /// Slots for a backend of average weight, at least, up to the largest table.
    pub fn slots(self) -> u32 {
        self.0
    }

    /// The length of the table of a pool of so many backends, whatever they weigh.
    ///
    /// A length that followed every change would move every slot with it, so lengths are powers
    /// of two: a pool grows and shrinks through its range without changing length.
    pub fn length(self, backends: usize) -> u32 {
        if backends <= 1 {
            return backends as u32;
        }
        let wanted = backends.max(SMALL_POOL).saturating_mul(self.0 as usize);
        wanted.min(LARGEST as usize).next_power_of_two() as u32
    }
}

/// Pools of up to this many backends share one length.
const SMALL_POOL: usize = 10;

/// 64 slots each for 4096 backends: eight such tables are half of all slots.
const LARGEST: u32 = 1 << 18;

/// A filled table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// For each slot, which of the backends it names: an index into what was given.
    pub slots: Vec<u32>,
    /// For each backend given, how many slots name it.
    pub counts: Vec<u32>,
}

/// Fills a table of `length` slots, a [`Resolution::length`], in proportion to the weights.
///
/// Each backend with a weight has at least one slot, and otherwise its share rounded up or down.
/// Without any such backend the table is empty. Neither the order of the backends nor a common
/// factor of the weights makes a difference.
pub fn fill(backends: &[(SocketAddr, Weight)], length: u32) -> Table {
    let claims = claims(backends, length);
    let mut counts = vec![0; backends.len()];
    for claim in &claims {
        counts[claim.backend] = claim.quota;
    }
    match claims.as_slice() {
        [] => Table { slots: Vec::new(), counts },
        [only] => Table { slots: vec![only.backend as u32; length as usize], counts },
        _ => Table { slots: contend(&claims, length), counts },
    }
}

/// The length of the table that [`in_turn`] fills: the sum of the weights without a common factor, at most this.
pub fn turns(backends: &[(SocketAddr, Weight)], most: u32) -> u32 {
    let weights = || backends.iter().map(|(_, weight)| u64::from(weight.parts()));
    let common = weights().fold(0, gcd).max(1);
    let sum = weights().map(|weight| weight / common).sum::<u64>();
    u32::try_from(sum).map_or(most, |sum| sum.min(most))
}

/// Fills a table of `length` slots, of [`turns`], in the order in which backends take their turns: as evenly as their
/// weights allow, each as often as its weight says. The order of the backends makes no difference.
pub fn in_turn(backends: &[(SocketAddr, Weight)], length: u32) -> Table {
    let claims = claims(backends, length);
    let mut counts = vec![0; backends.len()];
    for claim in &claims {
        counts[claim.backend] = claim.quota;
    }
    let slots = ordered(&claims).into_iter().map(|(_, at)| claims[at as usize].backend as u32);
    Table { slots: slots.collect(), counts }
}

/// A backend's part in the filling.
struct Claim {
    backend: usize,
    identity: u64,
    weight: u64,
    quota: u32,
}

/// The backends with a weight, in the order of their identities.
fn claims(backends: &[(SocketAddr, Weight)], length: u32) -> Vec<Claim> {
    let with_weight = backends.iter().enumerate().filter(|(_, (_, weight))| weight.parts() > 0);
    let mut claims: Vec<Claim> = with_weight
        .map(|(backend, &(address, weight))| Claim {
            backend,
            identity: identity(address),
            weight: u64::from(weight.parts()),
            quota: 0,
        })
        .collect();
    claims.sort_by_key(|claim| (claim.identity, backends[claim.backend].0));
    let common = claims.iter().fold(0, |divisor, claim| gcd(divisor, claim.weight));
    claims.iter_mut().for_each(|claim| claim.weight /= common);
    share_out(&mut claims, length);
    claims
}

/// The same number on every machine: no memory order, no seed.
fn identity(address: SocketAddr) -> u64 {
    let (high, low, family) = match address.ip() {
        IpAddr::V4(ip) => (0, u64::from(ip.to_bits()), 4),
        IpAddr::V6(ip) => ((ip.to_bits() >> 64) as u64, ip.to_bits() as u64, 6),
    };
    let hash = hash::mix(hash::mix(0, high), low);
    hash::mix(hash, u64::from(address.port()) << 8 | family)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Sets the quotas: largest remainders, over what is left when the lightest have one slot each.
fn share_out(claims: &mut [Claim], length: u32) {
    let mut by_weight: Vec<usize> = (0..claims.len()).collect();
    by_weight.sort_by_key(|&at| claims[at].weight);
    let mut slots = u64::from(length);
    let mut weight: u64 = claims.iter().map(|claim| claim.weight).sum();
    let mut sharing = by_weight.as_slice();
    while let [lightest, others @ ..] = sharing
        && claims[*lightest].weight * slots < weight
        && slots > 0
    {
        claims[*lightest].quota = 1;
        slots -= 1;
        weight -= claims[*lightest].weight;
        sharing = others;
    }
    let mut left = slots;
    let mut remainders: Vec<(u64, usize)> = Vec::with_capacity(sharing.len());
    for &at in sharing {
        let product = claims[at].weight * slots;
        let quota = product / weight;
        claims[at].quota = quota as u32;
        left -= quota;
        remainders.push((product % weight, at));
    }
    remainders.sort_by(|(a, a_at), (b, b_at)| b.cmp(a).then(a_at.cmp(b_at)));
    for (_, at) in remainders.into_iter().take(left as usize) {
        claims[at].quota += 1;
    }
}

/// Lets the backends claim slots in turn until each has its quota.
fn contend(claims: &[Claim], length: u32) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    let mut slots = vec![FREE; length as usize];
    let mut walks: Vec<Walk> =
        claims.iter().map(|claim| Walk::new(claim.identity, length)).collect();
    for (_, at) in ordered(claims) {
        let walk = &mut walks[at as usize];
        let free = loop {
            let slot = &mut slots[walk.next() as usize];
            if *slot == FREE {
                break slot;
            }
        };
        *free = claims[at as usize].backend as u32;
    }
    slots
}

/// All turns in order: the k-th of a backend comes at the time (2k + 1) / weight.
///
/// Times depend on a backend's own weight alone, so that a change elsewhere does not reorder the
/// turns of the others. Times that agree follow the order of identities.
fn ordered(claims: &[Claim]) -> Vec<(u64, u32)> {
    // 2k + 1 < 2^19, so times fit; and weights are of 32 bits, so that none is 0.
    let units: Vec<u64> = claims.iter().map(|claim| (1 << 44) / claim.weight).collect();
    let mut turns = Vec::with_capacity(claims.iter().map(|claim| claim.quota as usize).sum());
    let mut taking: Vec<u32> = (0..claims.len() as u32).collect();
    // Round by round, which is their order already where weights are equal.
    for k in 0.. {
        taking.retain(|&at| claims[at as usize].quota > k);
        if taking.is_empty() {
            break;
        }
        turns.extend(taking.iter().map(|&at| (units[at as usize] * u64::from(2 * k + 1), at)));
    }
    turns.sort_unstable();
    turns
}

/// A backend's permutation of the slots: each of them once.
///
/// Adding, multiplying by an odd number and folding the upper half into the lower are all one to
/// one on numbers of so many bits, so what they make of a counter is a permutation.
struct Walk {
    step: u32,
    start: u32,
    factors: [u32; 2],
    mask: u32,
    fold: u32,
}

impl Walk {
    /// `length` is a power of two.
    fn new(identity: u64, length: u32) -> Self {
        let (first, second) = (hash::mix(identity, 1), hash::mix(identity, 2));
        Self {
            step: 0,
            start: first as u32,
            factors: [(first >> 32) as u32 | 1, second as u32 | 1],
            mask: length - 1,
            fold: length.trailing_zeros().div_ceil(2),
        }
    }

    fn next(&mut self) -> u32 {
        let mut slot = self.step.wrapping_add(self.start) & self.mask;
        self.step += 1;
        for factor in self.factors {
            slot = slot.wrapping_mul(factor) & self.mask;
            slot ^= slot >> self.fold;
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const USUAL: Resolution = Resolution::ALL[0];

    fn address(number: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 8080))
    }

    fn pool(weights: &[u16]) -> Vec<(SocketAddr, Weight)> {
        let weight = |(at, &weight)| (address(at), Weight::configured(weight));
        weights.iter().enumerate().map(weight).collect()
    }

    fn usual(backends: &[(SocketAddr, Weight)]) -> Table {
        fill(backends, USUAL.length(backends.len()))
    }

    /// The addresses in the slots.
    fn named(backends: &[(SocketAddr, Weight)], table: &Table) -> Vec<SocketAddr> {
        table.slots.iter().map(|&at| backends[at as usize].0).collect()
    }

    /// The part of the slots that name another address.
    fn moved(before: &[SocketAddr], after: &[SocketAddr]) -> f64 {
        let differing = before.iter().zip(after).filter(|(before, after)| before != after).count();
        differing as f64 / before.len() as f64
    }

    #[test]
    fn length_gives_each_backend_the_slots_of_its_resolution_up_to_the_largest() {
        for resolution in Resolution::ALL {
            for backends in 2..20_000 {
                let length = resolution.length(backends);
                let each = length / backends as u32;
                assert!(each >= resolution.slots() || length == LARGEST, "{backends}: {length}");
            }
        }
    }

    #[test]
    fn pool_without_weight_has_no_slots_and_one_of_one_backend_has_one() {
        assert_eq!(usual(&[]), Table::default());
        assert_eq!(usual(&pool(&[0, 0])), Table { slots: vec![], counts: vec![0, 0] });
        assert_eq!(usual(&pool(&[7])), Table { slots: vec![0], counts: vec![1] });
        assert_eq!(usual(&pool(&[0, 7])).counts, [0, 4096]);
    }

    #[test]
    fn shares_of_equal_backends_are_right_to_one_percent() {
        for backends in [2, 3, 7, 10, 11, 25, 41, 100, 655, 2_000] {
            let table = usual(&pool(&vec![1; backends]));
            let ideal = table.slots.len() as f64 / backends as f64;
            let worst = table.counts.iter().map(|&count| (f64::from(count) / ideal - 1.0).abs());
            assert!(worst.fold(0.0, f64::max) <= 0.01, "{backends}");
        }
    }

    #[test]
    fn light_backend_among_a_thousand_heavy_ones_keeps_a_slot() {
        let mut weights = vec![u16::MAX; 1_002];
        weights[17] = 1;
        weights[800] = 1;
        let table = usual(&pool(&weights));
        assert_eq!((table.counts[17], table.counts[800]), (1, 1));
        assert_eq!(table.counts.iter().sum::<u32>(), table.slots.len() as u32);
    }

    #[test]
    fn backend_that_goes_moves_few_slots_but_its_own() {
        for size in [2_usize, 3, 5, 10, 11, 20, 50] {
            for set in 0..3 {
                let backends: Vec<_> =
                    (0..size).map(|at| (address(set * 100 + at), Weight::configured(1))).collect();
                let length = USUAL.length(size);
                let before = named(&backends, &fill(&backends, length));
                for gone in (0..size).step_by(size.div_ceil(5)) {
                    let mut rest = backends.clone();
                    rest.remove(gone);
                    let part = moved(&before, &named(&rest, &fill(&rest, length)));
                    assert!(part <= 1.0 / size as f64 + 0.02, "{size} without {gone}: {part}");
                }
            }
        }
    }

    #[test]
    fn backend_that_gains_weight_moves_few_slots_but_those_it_gains() {
        let mut backends = pool(&[4; 10]);
        let before = usual(&backends);
        backends[3].1 = Weight::configured(5);
        let after = usual(&backends);
        let gained = f64::from(after.counts[3] - before.counts[3]) / before.slots.len() as f64;
        let part = moved(&named(&backends, &before), &named(&backends, &after));
        assert!(part <= gained + 0.02, "{part} for {gained}");
    }

    #[test]
    fn every_walk_visits_every_slot_once() {
        for length in (7..=18).map(|bits| 1_u32 << bits) {
            let mut walk = Walk::new(identity(address(length as usize)), length);
            let visited: BTreeSet<u32> = (0..length).map(|_| walk.next()).collect();
            assert_eq!(visited.len(), length as usize);
            assert_eq!(visited.last(), Some(&(length - 1)));
        }
    }

    #[test]
    fn backends_take_turns_as_evenly_as_their_weights_allow() {
        let named = |weights: &[u16]| {
            let backends = pool(weights);
            let length = turns(&backends, 4_096);
            let table = in_turn(&backends, length);
            assert_eq!(table.slots.len(), length as usize);
            table.slots
        };
        assert!(named(&[]).is_empty());
        assert!(named(&[0, 0]).is_empty());
        assert_eq!(named(&[0, 9]), [1]);
        let mut equal = named(&[7, 7, 7]);
        equal.sort_unstable();
        assert_eq!(equal, [0, 1, 2]);
        // No two of the heavy one's turns are further apart than they have to be.
        let heavy = named(&[3, 1]);
        assert_eq!(heavy.iter().filter(|&&at| at == 0).count(), 3);
        let all = [heavy.clone(), heavy].concat();
        assert!(all.windows(5).all(|turns| turns.iter().filter(|&&at| at == 1).count() <= 2));
        let long = in_turn(&pool(&[u16::MAX, 1]), turns(&pool(&[u16::MAX, 1]), 4_096));
        assert_eq!((long.counts, long.slots.len()), (vec![4_095, 1], 4_096));
    }

    /// A recorded value: if it moves, two versions side by side would disagree on slots.
    #[test]
    fn the_same_pool_is_filled_alike_in_every_version() {
        let mut backends = pool(&[50, 30, 20]);
        backends.push(("[2001:db8::3]:8080".parse().unwrap(), Weight::configured(10)));
        let table = usual(&backends);
        assert_eq!(table.counts, [1862, 1117, 745, 372]);
        let hash = table.slots.iter().fold(0, |hash, &slot| hash::mix(hash, u64::from(slot)));
        assert_eq!(hash, 0x6351_5102_69cc_9ebf);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn each_backend_has_its_share_rounded_up_or_down(
            weights in prop::collection::vec(0_u16..200, 1..40),
        ) {
            let table = usual(&pool(&weights));
            let mut found = vec![0; weights.len()];
            table.slots.iter().for_each(|&at| found[at as usize] += 1);
            prop_assert_eq!(&found, &table.counts);
            let total: u32 = weights.iter().copied().map(u32::from).sum();
            for (&weight, &count) in weights.iter().zip(&table.counts) {
                // Here no share is under one slot.
                let ideal = f64::from(weight) * table.slots.len() as f64 / f64::from(total.max(1));
                prop_assert!((f64::from(count) - ideal).abs() < 1.0, "{} for {}", count, ideal);
            }
        }

        #[test]
        fn turns_are_as_many_as_the_weights_say(weights in prop::collection::vec(0_u16..60, 1..40)) {
            let backends = pool(&weights);
            let table = in_turn(&backends, turns(&backends, 4_096));
            let sum: u32 = weights.iter().copied().map(u32::from).sum();
            for (at, (&weight, &count)) in weights.iter().zip(&table.counts).enumerate() {
                let turns = table.slots.iter().filter(|&&slot| slot as usize == at).count();
                prop_assert_eq!(turns, count as usize);
                prop_assert_eq!(u64::from(count) * u64::from(sum), u64::from(weight) * table.slots.len() as u64);
                // In any part of the order, too, a backend is close to its share.
                let mut seen = 0.0;
                for (number, &slot) in (1..).zip(&table.slots) {
                    seen += f64::from(u8::from(slot as usize == at));
                    let share = f64::from(weight) * f64::from(number) / f64::from(sum);
                    prop_assert!((seen - share).abs() < 4.0, "{} for {}", seen, share);
                }
            }
        }

        #[test]
        fn the_lightest_have_one_slot_each_whatever_the_others_weigh(
            weights in prop::collection::vec(prop_oneof![0_u16..3, any::<u16>()], 2..40),
        ) {
            let backends = pool(&weights);
            let table = fill(&backends, 128);
            for (&weight, &count) in weights.iter().zip(&table.counts) {
                prop_assert_eq!(weight > 0, count > 0);
            }
            let total = table.counts.iter().sum::<u32>();
            prop_assert_eq!(total, table.slots.len() as u32);
        }

        #[test]
        fn neither_the_order_nor_a_common_factor_makes_a_difference(
            weights in prop::collection::vec(0_u16..100, 1..12),
            factor in 1_u16..600,
            turn in any::<prop::sample::Index>(),
        ) {
            let backends = pool(&weights);
            let mut others = pool(&weights.iter().map(|weight| weight * factor).collect::<Vec<_>>());
            others.rotate_left(turn.index(weights.len()));
            others.reverse();
            prop_assert_eq!(named(&backends, &usual(&backends)), named(&others, &usual(&others)));
        }
    }
}
