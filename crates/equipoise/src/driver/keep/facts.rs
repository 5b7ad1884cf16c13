//! Rows of the file about breakers, about what checks have said, and about names.

use std::net::SocketAddr;
use std::time::Duration;

use equipoise_core::breaker::{self, State};
use equipoise_core::config::Name;
use equipoise_core::health::{self, Verdict};
use equipoise_core::id::BackendKey;
use equipoise_core::recovery::Recovering;
use equipoise_core::resolve::{Part, Places};
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

/// What a name stands for, for a start while nobody can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::driver) struct KeptName {
    name: String,
    srv: bool,
    places: Vec<KeptPlace>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KeptPlace {
    address: SocketAddr,
    weight: u32,
    priority: u16,
}

impl KeptName {
    pub(in crate::driver) fn new(name: &Name, places: &Places) -> Self {
        let place = |(&address, part): (&SocketAddr, &Part)| KeptPlace {
            address,
            weight: part.weight,
            priority: part.priority,
        };
        Self {
            name: name.text().to_owned(),
            srv: matches!(name, Name::Srv(_)),
            places: places.iter().map(place).collect(),
        }
    }

    pub(in crate::driver) fn read(&self) -> (Name, Places) {
        let text = self.name.as_str().into();
        let name = if self.srv { Name::Srv(text) } else { Name::Host(text) };
        let part = |kept: &KeptPlace| Part { weight: kept.weight, priority: kept.priority };
        (name, self.places.iter().map(|kept| (kept.address, part(kept))).collect())
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
