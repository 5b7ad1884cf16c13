//! Moments: time that goes on evenly while the process runs, and that the next process can read.
//!
//! The wall clock is asked once, at the start; from then on moments follow the monotonic clock, so that setting the
//! wall clock moves no deadline.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use equipoise_core::facts::Moment;
use tokio::time::Instant;

/// The moments of this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: Instant,
    epoch: Moment,
}

impl Clock {
    /// Begins now.
    pub(super) fn start() -> Self {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), epoch }
    }

    /// The moment that it is: since the Unix epoch, as the wall clock had it at the start.
    pub(super) fn now(&self) -> Moment {
        self.epoch + self.started.elapsed()
    }

    /// How long the process has run.
    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// When a moment is for the loop's timers.
    pub(super) fn instant(&self, moment: Moment) -> Instant {
        self.started + moment.saturating_sub(self.epoch)
    }

    /// A moment as answers write it, RFC 3339.
    pub(super) fn written(&self, moment: Moment) -> String {
        humantime::format_rfc3339_millis(UNIX_EPOCH + moment).to_string()
    }
}

/// A time as answers and files write it.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
