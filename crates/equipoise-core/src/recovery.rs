//! Getting a share back bit by bit: by good checks, or by time.
//!
//! How much of its share a backend has that began to recover at a moment and has been found good so many times since. Why it had
//! lost its share is not known here.

use crate::config::health::{Recovery, RecoveryMode};
use crate::facts::Moment;

/// By time it goes in so many steps.
const LINEAR_STEPS: u128 = 20;

/// A backend that gets its share back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovering {
    since: Moment,
    good: u32,
}

impl Recovering {
    /// From this moment on.
    pub fn since(since: Moment) -> Self {
        Self { since, good: 0 }
    }

    /// As it was told of by [`told`](Self::told).
    pub fn from_told((since, good): (Moment, u32)) -> Self {
        Self { since, good }
    }

    /// Since when, and how often it has been found good since then.
    pub fn told(self) -> (Moment, u32) {
        (self.since, self.good)
    }

    /// It has been found good once more.
    pub fn note_good(&mut self) {
        self.good = self.good.saturating_add(1);
    }

    /// Percent of its share that it has.
    pub fn part(self, now: Moment, recovery: Recovery) -> u8 {
        match recovery.mode {
            RecoveryMode::None => 100,
            RecoveryMode::Steps => (25 * (1 + self.good.min(3))) as u8,
            RecoveryMode::Linear => {
                let whole = recovery.slow_start.as_nanos().max(1);
                let passed = now.saturating_sub(self.since).as_nanos();
                let steps = (passed * LINEAR_STEPS / whole).clamp(1, LINEAR_STEPS);
                (steps * 100 / LINEAR_STEPS) as u8
            }
        }
    }

    /// When time alone gives it more; none where it does not.
    pub fn grows_at(self, now: Moment, recovery: Recovery) -> Option<Moment> {
        if recovery.mode != RecoveryMode::Linear || self.part(now, recovery) == 100 {
            return None;
        }
        let step = recovery.slow_start / LINEAR_STEPS as u32;
        let passed = now.saturating_sub(self.since).as_nanos() / step.as_nanos().max(1);
        // Rounding down would wake just before the step.
        let rounded = Moment::from_nanos(LINEAR_STEPS as u64);
        Some(self.since + step * (passed as u32 + 1) + rounded)
    }
}
