//! Outcomes of the last while: a window that slides, a bucket at a time.
//!
//! As a ring of buckets, of which the oldest is emptied as time goes on. An outcome counts for the window at least, less
//! one bucket, and for the window at most.

use std::time::Duration;

use crate::facts::Moment;

const BUCKETS: usize = 10;

/// Counts of successes and failures.
#[derive(Clone, Debug)]
pub(super) struct Window {
    bucket: Duration,
    begun: Moment,
    /// The bucket that was last written, counted from the beginning.
    last: u64,
    counts: [(u64, u64); BUCKETS],
}

impl Window {
    pub(super) fn new(length: Duration, now: Moment) -> Self {
        let bucket = (length / BUCKETS as u32).max(Duration::from_nanos(1));
        Self { bucket, begun: now, last: 0, counts: [(0, 0); BUCKETS] }
    }

    fn number(&self, now: Moment) -> u64 {
        let number = now.saturating_sub(self.begun).as_nanos() / self.bucket.as_nanos();
        // A clock that goes back finds the newest bucket.
        u64::try_from(number).unwrap_or(u64::MAX).max(self.last)
    }

    pub(super) fn add(&mut self, (successes, failures): (u64, u64), now: Moment) {
        let number = self.number(now);
        for passed in self.last + 1..=number.min(self.last + BUCKETS as u64) {
            self.counts[(passed % BUCKETS as u64) as usize] = (0, 0);
        }
        self.last = number;
        let bucket = &mut self.counts[(number % BUCKETS as u64) as usize];
        bucket.0 = bucket.0.saturating_add(successes);
        bucket.1 = bucket.1.saturating_add(failures);
    }

    pub(super) fn counts(&self, now: Moment) -> (u64, u64) {
        let number = self.number(now);
        let oldest = (number + 1).saturating_sub(BUCKETS as u64);
        let first = (self.last + 1).saturating_sub(BUCKETS as u64).max(oldest);
        (first..=self.last).fold((0, 0), |(successes, failures), number| {
            let bucket = self.counts[(number % BUCKETS as u64) as usize];
            (bucket.0.saturating_add(successes), bucket.1.saturating_add(failures))
        })
    }
}
