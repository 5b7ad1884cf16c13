//! Weights as numbers: finely enough that parts of parts still differ from none.
//!
//! What decides a weight is `weight.rs`; this is only what it is counted in.

use std::fmt;

/// A share of new flows, relative to the other backends of the pool.
///
/// Counted in parts of a configured weight of 1, finely enough that any fraction of the smallest
/// weight still differs from none; only proportions matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

    /// Both together, up to the heaviest that there is.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0).min(u32::from(u16::MAX) * Self::PARTS))
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
