//! Weights from live flows, for `least-connections-weights`: fewer new flows for those that have many.
//!
//! A backend with weight w and c live flows scores w / (1 + c), or 1 / (1 + c) where configured weights are not to count,
//! and gets a part of the new flows like its part of all scores. Takes counts that were sampled; asks for none.

use crate::weight::Weight;

/// Weights in proportion to the scores: the configured one for who has the fewest flows, less for all others. None
/// is 0 that was not.
pub fn weigh(backends: &[(Weight, u64)], weighted: bool) -> Vec<Weight> {
    let with_weight = || backends.iter().filter(|(weight, _)| weight.parts() > 0);
    let fewest = with_weight().map(|(_, flows)| *flows).min().unwrap_or_default();
    let score = |&(weight, flows): &(Weight, u64)| {
        if weight.parts() == 0 {
            return weight;
        }
        let whole = if weighted { weight } else { Weight::configured(1) };
        whole.part(fewest.saturating_add(1), flows.saturating_add(1))
    };
    backends.iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares in whole percent.
    fn shares(weights: &[u16], flows: &[u64], weighted: bool) -> Vec<u32> {
        let backends: Vec<_> =
            weights.iter().map(|&w| Weight::configured(w)).zip(flows.iter().copied()).collect();
        let weights = weigh(&backends, weighted);
        let sum: f64 = weights.iter().map(|weight| weight.value()).sum();
        weights.iter().map(|weight| (100.0 * weight.value() / sum).round() as u32).collect()
    }

    #[test]
    fn shares_are_like_the_scores() {
        assert_eq!(shares(&[50, 50], &[5, 20], true), [78, 22]);
        assert_eq!(shares(&[70, 30], &[9, 9], true), [70, 30]);
        assert_eq!(shares(&[70, 30], &[9, 9], false), [50, 50]);
        // 54.25, 29.59 and 16.16.
        assert_eq!(shares(&[33, 33, 34], &[5, 10, 20], true), [54, 30, 16]);
        assert_eq!(shares(&[50, 50], &[1_000_000, 1], true), [0, 100]);
        assert_eq!(shares(&[0, 50, 50], &[0, 3, 1], false), [0, 33, 67]);
    }

    #[test]
    fn backend_with_a_weight_keeps_some_and_one_without_gets_none() {
        let backends = [(Weight::configured(1), u64::MAX), (Weight::configured(u16::MAX), 0)];
        assert!(weigh(&backends, true).iter().all(|weight| weight.parts() > 0));
        assert_eq!(weigh(&backends, true)[1], Weight::configured(u16::MAX));
        assert_eq!(weigh(&[(Weight::configured(0), 0)], false), [Weight::configured(0)]);
        assert_eq!(weigh(&[], true), []);
    }
}
