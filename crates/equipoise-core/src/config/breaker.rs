//! Breakers and drains as they are configured.

use std::time::Duration;

use serde::Serialize;

use super::as_text;

/// When a backend is taken out of a pool for its failures, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Thresholds {
    /// Failures that open its breaker, percent of all outcomes: so many or more.
    pub error_threshold: u8,
    /// Outcomes below which it stays closed whatever they are.
    pub min_requests: u32,
    /// How long an outcome counts.
    #[serde(serialize_with = "as_text")]
    pub window: Duration,
    /// How long it is open, the first time.
    #[serde(serialize_with = "as_text")]
    pub open_for: Duration,
    /// Successes that close it again.
    pub half_open_successes: u32,
    /// The part of a pool that may be out at a time, percent.
    pub max_ejected: u8,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            error_threshold: 50,
            min_requests: 10,
            window: Duration::from_secs(60),
            open_for: Duration::from_secs(30),
            half_open_successes: 3,
            max_ejected: 50,
        }
    }
}

/// How a drain goes where nothing else is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Draining {
    /// How long flows may take to end.
    #[serde(serialize_with = "as_text")]
    pub timeout: Duration,
    /// What becomes of those that are left then.
    pub on_timeout: OnTimeout,
}

impl Default for Draining {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), on_timeout: OnTimeout::Keep }
    }
}

/// What becomes of the flows that are left when a drain's time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnTimeout {
    /// They go on to their own end.
    #[default]
    Keep,
    /// They are reset.
    Reset,
}

impl OnTimeout {
    /// All of them, by their names.
    pub const ALL: [(&'static str, Self); 2] = [("keep", Self::Keep), ("reset", Self::Reset)];

    /// The name in configuration and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Reset => "reset",
        }
    }
}
