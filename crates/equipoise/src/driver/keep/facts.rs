//! Rows of the file about breakers and about what checks have said.

use std::time::Duration;

use equipoise_core::breaker::{self, State};
use equipoise_core::health::{self, Verdict};
use equipoise_core::id::BackendKey;
use equipoise_core::recovery::Recovering;
use serde::{Deserialize, Serialize};

use super::KeptBackend;
use crate::driver::clock::millis;

/// A breaker that is not as new.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::driver) struct KeptBreaker {
    #[serde(flatten)]
    of: KeptBackend,
    state: String,
    since_ms: u64,
    open_until_ms: u64,
    #[serde(default)]
    successes: u32,
    #[serde(default)]
    repeats: u32,
}

impl KeptBreaker {
    pub(in crate::driver) fn new(key: &BackendKey, lasting: breaker::Lasting) -> Self {
        let breaker::Lasting { state, since, open_until, successes, repeats } = lasting;
        Self {
            of: KeptBackend::of(key),
            state: state.name().to_owned(),
            since_ms: millis(since),
            open_until_ms: millis(open_until),
            successes,
            repeats,
        }
    }

    /// None where its state is none that this version knows.
    pub(in crate::driver) fn read(&self) -> Option<(BackendKey, breaker::Lasting)> {
        let states = [State::Closed, State::Open, State::HalfOpen];
        let lasting = breaker::Lasting {
            state: states.into_iter().find(|state| state.name() == self.state)?,
            since: Duration::from_millis(self.since_ms),
            open_until: Duration::from_millis(self.open_until_ms),
            successes: self.successes,
            repeats: self.repeats,
        };
        Some((self.of.key(), lasting))
    }
}

/// A backend that checks have found down, or that has its share again in part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::driver) struct KeptHealth {
    #[serde(flatten)]
    of: KeptBackend,
    verdict: String,
    /// Since when it recovers, and good answers since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovering: Option<(u64, u32)>,
}

impl KeptHealth {
    pub(in crate::driver) fn new(key: &BackendKey, lasting: health::Lasting) -> Self {
        Self {
            of: KeptBackend::of(key),
            verdict: lasting.verdict.name().to_owned(),
            recovering: lasting.recovering.map(|recovering| {
                let (since, good) = recovering.told();
                (millis(since), good)
            }),
        }
    }

    /// None where its verdict is none that this version knows.
    pub(in crate::driver) fn read(&self) -> Option<(BackendKey, health::Lasting)> {
        let verdicts = [Verdict::Unknown, Verdict::Healthy, Verdict::Unhealthy];
        let told = self.recovering.map(|(since, good)| (Duration::from_millis(since), good));
        let recovering = told.map(Recovering::from_told);
        let verdict = verdicts.into_iter().find(|verdict| verdict.name() == self.verdict)?;
        Some((self.of.key(), health::Lasting { verdict, recovering }))
    }
}
