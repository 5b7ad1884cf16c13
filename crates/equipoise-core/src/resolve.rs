//! Names that stand for backends: what an answer changes, and when to ask again.
//!
//! The last good answer stays until a better one comes, for ever: a resolver that fails takes no backend away. An answer
//! that would take many away at once takes away only so many, unless they are known to be bad. Time and randomness are
//! arguments. Asks nobody itself: [`Name::due`] says when, and answers come in by [`Name::answer`] and [`Name::fail`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::facts::Moment;
use crate::weight::Weight;

/// How a name is looked up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// From one look-up to the next; none to follow what answers say of themselves.
    pub refresh: Option<Duration>,
    /// The shortest time that an answer is believed, whatever it says.
    pub min_ttl: Duration,
    /// The longest.
    pub max_ttl: Duration,
    /// How many of the known addresses one answer may take away, percent.
    pub max_shrink: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            refresh: None,
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(300),
            max_shrink: 50,
        }
    }
}

/// What a name stands for: places, each with a part of the name's weight.
///
/// In order, without doubles: order and repetition in an answer make no difference.
pub type Places = BTreeMap<SocketAddr, Part>;

/// A part of a name's weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// Relative to the other parts.
    pub weight: u32,
    /// Which are asked first: the lowest that there is. Others stand by (RFC 2782).
    pub priority: u16,
}

impl Default for Part {
    fn default() -> Self {
        Self { weight: 1, priority: 0 }
    }
}

/// What a resolver has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the name stands for, at least one.
    pub places: Places,
    /// How long it may be believed, if it says.
    pub ttl: Option<Duration>,
}

/// Why a resolver has said nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// In words.
    pub message: String,
}

/// What kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// There is no such name (NXDOMAIN).
    UnknownHost,
    /// There is, and it stands for nothing of this kind.
    EmptyResponse,
    /// No answer in time.
    Timeout,
    /// The server could not, or would not (SERVFAIL, REFUSED).
    Server,
    /// The server could not be asked.
    Network,
}

impl FailureKind {
    /// The name in answers, events and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownHost => "unknown-host",
            Self::EmptyResponse => "empty-response",
            Self::Timeout => "timeout",
            Self::Server => "server-failure",
            Self::Network => "network",
        }
    }
}

/// What an answer has changed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Changed {
    /// Places that are new.
    pub added: BTreeSet<SocketAddr>,
    /// Places that are gone.
    pub removed: BTreeSet<SocketAddr>,
    /// Places that the answer does not have, and that stay for now.
    pub kept: BTreeSet<SocketAddr>,
}

/// One name.
#[derive(Clone, Debug)]
pub struct Name {
    settings: Settings,
    places: Places,
    /// When it was last answered.
    resolved: Option<Moment>,
    failures: u32,
    last_failure: Option<Failure>,
    due: Moment,
}

impl Name {
    /// Nothing is known yet, and it is to be asked at once.
    pub fn new(settings: Settings, now: Moment) -> Self {
        Self {
            settings,
            places: Places::new(),
            resolved: None,
            failures: 0,
            last_failure: None,
            due: now,
        }
    }

    /// Other settings, which hold from the next look-up on.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// What it stands for: the last good answer, and what one was not allowed to take away.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// When it was last answered.
    pub fn resolved(&self) -> Option<Moment> {
        self.resolved
    }

    /// Failures in a row since, and the last of them.
    pub fn failures(&self) -> (u32, Option<&Failure>) {
        (self.failures, self.last_failure.as_ref())
    }

    /// When it is to be looked up again.
    pub fn due(&self) -> Moment {
        self.due
    }

    /// It is to be looked up now.
    pub fn ask(&mut self, now: Moment) {
        self.due = now;
    }

    /// It has been answered. Places of which `is_bad` says so may go whatever their number; `chance`, 0 to 1, moves the
    /// next look-up by up to a tenth.
    pub fn answer(
        &mut self,
        answer: &Answer,
        is_bad: impl Fn(&SocketAddr) -> bool,
        (now, chance): (Moment, f64),
    ) -> Option<Changed> {
        let settings = self.settings;
        let believed = answer.ttl.unwrap_or(settings.max_ttl);
        let ttl = believed.clamp(settings.min_ttl, settings.max_ttl.max(settings.min_ttl));
        self.due = now + jittered(settings.refresh.unwrap_or(ttl), chance);
        if answer.places.is_empty() {
            return None;
        }
        self.resolved = Some(now);
        self.failures = 0;
        self.last_failure = None;
        let missing = self.places.keys().filter(|place| !answer.places.contains_key(place));
        let (bad, good): (Vec<_>, Vec<_>) = missing.copied().partition(is_bad);
        let may_go = self.places.len() * usize::from(settings.max_shrink) / 100;
        let go = good.len().min(may_go.saturating_sub(bad.len()));
        let kept: BTreeSet<_> = good[go..].iter().copied().collect();
        let removed: BTreeSet<_> = good[..go].iter().chain(&bad).copied().collect();
        let mut places = answer.places.clone();
        places.extend(kept.iter().filter_map(|place| Some((*place, *self.places.get(place)?))));
        let added = places.keys().filter(|place| !self.places.contains_key(place)).copied();
        let added: BTreeSet<_> = added.collect();
        let is_same = places == self.places;
        self.places = places;
        (!is_same).then_some(Changed { added, removed, kept })
    }

    /// It could not be looked up. What is known stays.
    pub fn fail(&mut self, failure: Failure, (now, chance): (Moment, f64)) {
        self.failures = self.failures.saturating_add(1);
        self.last_failure = Some(failure);
        let settings = self.settings;
        // An answer that does not come is asked for at the shortest time first, and then more and more seldom.
        let longest = settings.refresh.unwrap_or(settings.max_ttl);
        let doubled = settings.min_ttl.saturating_mul(1 << (self.failures - 1).min(16));
        self.due = now + jittered(doubled.min(longest.max(settings.min_ttl)), chance);
    }
}

/// A time, more or less by up to a tenth. `chance` is 0 to 1.
fn jittered(time: Duration, chance: f64) -> Duration {
    time.mul_f64(0.9 + 0.2 * chance.clamp(0.0, 1.0))
}

/// What each place gets of the weight of its name, exactly divided, and whether it stands by. None of the weight is lost to
/// whole numbers, and none is nothing of something.
pub fn shares(places: &Places, weight: u16) -> Vec<(SocketAddr, Weight, bool)> {
    let whole = Weight::configured(weight);
    let first = places.values().map(|part| part.priority).min().unwrap_or_default();
    places
        .iter()
        .map(|(place, part)| {
            let peers = places.values().filter(|peer| peer.priority == part.priority);
            // A weight of 0 is for who is seldom chosen where others have some, and for all where nobody has (RFC 2782).
            let all: u64 = peers.map(|peer| u64::from(peer.weight.max(1))).sum();
            let share = whole.part(part.weight.max(1).into(), all);
            (*place, share, part.priority != first)
        })
        .collect()
}

#[cfg(test)]
mod tests;
