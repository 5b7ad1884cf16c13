//! Histograms: how many values were up to each of some bounds, with their sum.
//!
//! Only ever grown. Bounds are those of the kind of value; two of the same bounds can be added up. What is told of one is what its bounds
//! let be told: a percentile is the first bound that so many are up to.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bounds of times, seconds.
pub const SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Bounds of sizes, bytes.
pub const BYTES: &[f64] = &[100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

/// Values by bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64],
    /// Up to each bound and over the one before; the last are over all.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// Without a value yet.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// Adds a value.
    pub fn observe(&mut self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at] += 1;
        self.sum += value;
    }

    /// Adds those of another one; false, and nothing is added, where that has other bounds.
    pub fn add(&mut self, other: &Self) -> bool {
        if self.bounds != other.bounds {
            return false;
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.sum += other.sum;
        true
    }

    /// Values in all.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// How many are up to each bound.
    pub fn up_to(&self) -> impl Iterator<Item = (f64, u64)> {
        let cumulated = self.counts.iter().scan(0, |all, count| {
            *all += count;
            Some(*all)
        });
        self.bounds.iter().copied().zip(cumulated)
    }

    /// The first bound that this part of all values, 0 to 1, is up to; the last where they are over all.
    pub fn percentile(&self, part: f64) -> f64 {
        let wanted = part * self.count() as f64;
        let found = self.up_to().find(|(_, count)| *count as f64 >= wanted).map(|(bound, _)| bound);
        found.or(self.bounds.last().copied()).unwrap_or_default()
    }

    /// In a few numbers.
    pub fn summary(&self) -> Summary {
        let count = self.count();
        if count == 0 {
            return Summary::default();
        }
        Summary {
            count,
            sum: self.sum,
            mean: self.sum / count as f64,
            p50: self.percentile(0.5),
            p95: self.percentile(0.95),
            p99: self.percentile(0.99),
        }
    }

    /// To be kept.
    pub fn kept(&self) -> KeptHistogram {
        KeptHistogram { counts: self.counts.clone(), sum: self.sum }
    }

    /// What was kept of one of these bounds; nothing where it was of others.
    pub fn of_kept(bounds: &'static [f64], kept: &KeptHistogram) -> Self {
        if kept.counts.len() != bounds.len() + 1 {
            return Self::new(bounds);
        }
        Self { bounds, counts: kept.counts.clone(), sum: kept.sum }
    }
}

/// What is kept of a histogram.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeptHistogram {
    counts: Vec<u64>,
    sum: f64,
}

/// A histogram in a few numbers; all 0 without a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    /// Values.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// Their mean.
    pub mean: f64,
    /// The bound that half of them are up to.
    pub p50: f64,
    /// So, 95 of a hundred.
    pub p95: f64,
    /// So, 99.
    pub p99: f64,
}

/// What flows of a backend were like that have closed.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowHistograms {
    /// From opening to the last packet, seconds.
    pub lifetime: Histogram,
    /// From the first SYN to the packet that has confirmed the connection, seconds; of connections that were confirmed.
    pub handshake: Histogram,
    /// IP bytes from the client.
    pub bytes_in: Histogram,
    /// IP bytes to it.
    pub bytes_out: Histogram,
}

impl Default for FlowHistograms {
    fn default() -> Self {
        let [lifetime, handshake] = [(); 2].map(|()| Histogram::new(SECONDS));
        let [bytes_in, bytes_out] = [(); 2].map(|()| Histogram::new(BYTES));
        Self { lifetime, handshake, bytes_in, bytes_out }
    }
}

impl FlowHistograms {
    /// Adds those of others.
    pub fn add(&mut self, other: &Self) {
        // All have the bounds of their kind.
        self.lifetime.add(&other.lifetime);
        self.handshake.add(&other.handshake);
        self.bytes_in.add(&other.bytes_in);
        self.bytes_out.add(&other.bytes_out);
    }

    /// In a few numbers.
    pub fn summary(&self) -> FlowSummary {
        FlowSummary {
            lifetime_seconds: self.lifetime.summary(),
            handshake_seconds: self.handshake.summary(),
            bytes_in: self.bytes_in.summary(),
            bytes_out: self.bytes_out.summary(),
        }
    }
}

/// What flows of a backend were like that have closed, in a few numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FlowSummary {
    /// From opening to the last packet.
    pub lifetime_seconds: Summary,
    /// From the first SYN to the packet that has confirmed the connection.
    pub handshake_seconds: Summary,
    /// IP bytes from the client.
    pub bytes_in: Summary,
    /// IP bytes to it.
    pub bytes_out: Summary,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Histogram {
        let mut histogram = Histogram::new(SECONDS);
        values.iter().for_each(|value| histogram.observe(*value));
        histogram
    }

    #[test]
    fn each_bound_has_all_that_are_up_to_it() {
        let histogram = of(&[0.0, 0.001, 0.0011, 10.0, 11.0]);
        let up_to: Vec<_> = histogram.up_to().collect();
        assert_eq!((up_to[0], up_to[1], up_to[11]), ((0.001, 2), (0.005, 3), (10.0, 4)));
        assert_eq!((up_to.len(), histogram.count()), (12, 5));
        assert!((histogram.sum() - 21.0021).abs() < 1e-9);
    }

    #[test]
    fn only_the_same_bounds_add_up() {
        let mut histogram = of(&[0.002]);
        assert!(histogram.add(&of(&[3.0, 0.002])));
        assert_eq!(histogram, of(&[0.002, 3.0, 0.002]));
        assert!(!histogram.add(&Histogram::new(BYTES)));
        assert_eq!(histogram.count(), 3);
    }

    #[test]
    fn percentiles_are_bounds_and_the_last_for_what_is_over_all() {
        assert_eq!(of(&[]).summary(), Summary::default());
        let values: Vec<f64> = (1..=100).map(|number| f64::from(number) / 100.0).collect();
        let summary = of(&values).summary();
        assert_eq!((summary.p50, summary.p95, summary.p99), (0.5, 1.0, 1.0));
        assert!((summary.mean - 0.505).abs() < 1e-9);
        assert_eq!(of(&[70.0]).percentile(0.5), 10.0);
    }

    #[test]
    fn what_is_kept_comes_back_unless_it_was_of_other_bounds() {
        let histogram = of(&[0.3, 20.0]);
        assert_eq!(Histogram::of_kept(SECONDS, &histogram.kept()), histogram);
        assert_eq!(Histogram::of_kept(BYTES, &histogram.kept()), Histogram::new(BYTES));
    }
}
