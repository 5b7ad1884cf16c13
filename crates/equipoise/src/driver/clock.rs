//! Moments: time that goes on evenly while the process runs, and that the next process can read.
//!
//! The wall clock is asked once, at the start; from then on moments follow the monotonic clock, so that setting the
//! wall clock moves no deadline.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use equipoise_core::facts::Moment;
use tokio::time::Instant;

use crate::admin::ProblemDetails;

/// The longest time that somebody may ask for, a hundred years: no deadline is beyond what clocks can tell.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// The last moment that has a date in RFC 3339: the end of the year 9999.
const LAST_DATE: Moment = Duration::from_secs(253_402_300_799);

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
        self.started + moment.saturating_sub(self.epoch).min(LONGEST)
    }

    /// A moment as answers write it, RFC 3339.
    pub(super) fn written(&self, moment: Moment) -> String {
        humantime::format_rfc3339_millis(UNIX_EPOCH + moment.min(LAST_DATE)).to_string()
    }
}

/// A time that a request asks for, told by this key of it.
pub(super) fn asked_for(key: &str, seconds: f64) -> Result<Duration, ProblemDetails> {
    let time = Duration::try_from_secs_f64(seconds).ok();
    time.filter(|time| !time.is_zero() && *time <= LONGEST).ok_or_else(|| {
        let most = LONGEST.as_secs();
        let message =
            format!("{key} is {seconds}: more than 0 is allowed, up to {most} (a hundred years)");
        ProblemDetails::unprocessable(message)
    })
}

/// A time as answers and files write it.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_no_clock_can_tell_are_refused_and_those_of_files_are_cut() {
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-30, 3.2e9, 3e11, 1e19, 1e300] {
            let problem = asked_for("for_seconds", seconds).unwrap_err();
            assert!(problem.detail.starts_with("for_seconds is "), "{}", problem.detail);
        }
        assert_eq!(asked_for("for_seconds", 0.5).unwrap(), Duration::from_millis(500));
        let clock = Clock::start();
        let longest = asked_for("for_seconds", LONGEST.as_secs_f64()).unwrap();
        assert!(clock.written(clock.now() + longest).starts_with("2"));
        for moment in [Duration::MAX, Duration::from_secs(LAST_DATE.as_secs() + 1)] {
            assert_eq!(clock.written(moment), "9999-12-31T23:59:59.000Z");
            assert!(clock.instant(moment) > Instant::now());
        }
    }
}
