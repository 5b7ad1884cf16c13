//! How much of a pool's new flows a backend gets: the one place that decides it.
//!
//! Everything that is believed about a backend meets here and nowhere else, so that no two
//! writers can each let in what the other keeps out. The slot table only sees the result.

use std::fmt;

use crate::config::Backend;

/// A share of new flows, relative to the other backends of the pool.
///
/// Counted in parts of a configured weight of 1, finely enough that any fraction of the smallest
/// weight still differs from none; only proportions matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

impl Weight {
    /// Parts in a configured weight of 1: the largest weight just fits.
    const PARTS: u32 = 1 << 16;

    /// As configured.
    pub fn configured(weight: u16) -> Self {
        Self(u32::from(weight) * Self::PARTS)
    }

    /// A part of it, at most all of it, and never none of some.
    #[must_use]
    pub fn part(self, numerator: u64, denominator: u64) -> Self {
        let part = u128::from(self.0) * u128::from(numerator) / u128::from(denominator.max(1));
        let least = self.0.min(1);
        Self(u32::try_from(part).unwrap_or(self.0).clamp(least, self.0))
    }

    /// In parts.
    pub fn parts(self) -> u32 {
        self.0
    }

    /// In the unit of the configuration.
    pub fn value(self) -> f64 {
        f64::from(self.0) / f64::from(Self::PARTS)
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value().fmt(f)
    }
}

/// The effective weight of a backend: its configured weight.
pub fn effective(backend: &Backend) -> Weight {
    Weight::configured(backend.weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_weight_is_the_configured_one() {
        for weight in [0, 1, 50, u16::MAX] {
            let address = "192.0.2.1:80".parse().unwrap();
            let backend = Backend { address, weight, max_flows: 0 };
            assert_eq!(effective(&backend).value(), f64::from(weight));
        }
    }
}
