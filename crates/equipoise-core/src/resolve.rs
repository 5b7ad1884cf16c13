//! Names that stand for backends: what an answer changes, and when to ask again.
//!
//! The last good answer stays until a better one comes, for ever: a resolver that fails takes no backend away. An answer
//! that would leave much fewer than were known takes away only so many, unless they are known to be bad. Time and randomness
//! are arguments. [`Resolved`] is one name; [`Names`] is all of a configuration, and says what to look up now; [`expand`]
//! puts what they stand for into the configuration. Asks nobody itself.

mod absent;
mod expand;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

pub use absent::Absent;
pub use expand::{Expanded, LeftOut, expand};
pub use names::{Effect, LookUpId, Names, Told};

use crate::config::Dns;
use crate::facts::Moment;
use crate::id::Family;
use crate::share::Weight;

/// How a name is looked up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// From one look-up to the next; none to follow what answers say of themselves.
    pub refresh: Option<Duration>,
    /// The shortest time that an answer is believed, whatever it says.
    pub min_ttl: Duration,
    /// The longest.
    pub max_ttl: Duration,
    /// By how many percent one answer may make the number of places smaller.
    pub max_shrink: u8,
}

impl Settings {
    /// As a configuration has it, of a name that is looked up so often.
    pub fn new(dns: &Dns, refresh: Option<Duration>) -> Self {
        let &Dns { min_ttl, max_ttl, max_shrink, .. } = dns;
        Self { refresh, min_ttl, max_ttl, max_shrink }
    }
}

/// What a name stands for: places, each with a part of the name's weight. Those of hosts have port 0.
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
    /// What the name stands for, at least one place.
    pub places: Places,
    /// How long it may be believed, if it says.
    pub ttl: Option<Duration>,
    /// Families that it says nothing certain of, and why: what is known of them stays.
    pub lacks: Option<(BTreeSet<Family>, Failure)>,
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

    /// Whether it is about the name, and not about who was asked.
    pub const fn is_definite(self) -> bool {
        match self {
            Self::UnknownHost | Self::EmptyResponse => true,
            Self::Timeout | Self::Server | Self::Network => false,
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

/// What is known of one name.
#[derive(Clone, Debug)]
pub struct Resolved {
    settings: Settings,
    places: Places,
    /// Those that the last answer did not have.
    kept: BTreeSet<SocketAddr>,
    /// When it was last answered, and how long that may be believed, if the answer said.
    answered: Option<(Moment, Option<Duration>)>,
    failures: u32,
    last_failure: Option<Failure>,
    due: Moment,
}

impl Resolved {
    /// Nothing is known yet, and it is to be asked at once.
    pub fn new(settings: Settings, now: Moment) -> Self {
        Self {
            settings,
            places: Places::new(),
            kept: BTreeSet::new(),
            answered: None,
            failures: 0,
            last_failure: None,
            due: now,
        }
    }

    /// It stood for this when an earlier process ran; where it has been answered since, that counts. Whether it is taken.
    pub fn restore(&mut self, places: Places) -> bool {
        let is_taken = self.answered.is_none() && !places.is_empty();
        if is_taken {
            self.places = places;
        }
        is_taken
    }

    /// Other settings: it is due no later than they say.
    pub fn set(&mut self, settings: Settings, now: Moment) {
        if self.settings != settings {
            self.settings = settings;
            let longest = settings.refresh.unwrap_or(settings.max_ttl);
            self.due = self.due.min(now + longest);
        }
    }

    /// How it is looked up.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// What it stands for: the last good answer, and what one was not allowed to take away.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Of those, the ones that the last answer did not have.
    pub fn kept(&self) -> &BTreeSet<SocketAddr> {
        &self.kept
    }

    /// When it was last answered, and how long the answer said that it may be believed.
    pub fn answered(&self) -> Option<(Moment, Option<Duration>)> {
        self.answered
    }

    /// Failures in a row since, and the last of them; also that which a good answer lacked something for.
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
        self.answered = Some((now, answer.ttl));
        self.failures = 0;
        self.last_failure = answer.lacks.as_ref().map(|(_, failure)| failure.clone());
        let is_said = |place: &SocketAddr| {
            let lacking = answer.lacks.as_ref().map(|(families, _)| families);
            lacking.is_none_or(|families| !families.contains(&Family::of(place.ip())))
        };
        let missing = self.places.keys().filter(|place| !answer.places.contains_key(place));
        let (said, unsaid): (Vec<_>, Vec<_>) = missing.copied().partition(is_said);
        let (bad, good): (Vec<_>, Vec<_>) = said.into_iter().partition(is_bad);
        // So many there have to be, of those that are not known to be bad.
        let before = self.places.len() - bad.len();
        let least = before - before * usize::from(settings.max_shrink) / 100;
        let there = answer.places.len() + unsaid.len();
        let go = good.len() - least.saturating_sub(there).min(good.len());
        let kept: BTreeSet<_> = good[go..].iter().chain(&unsaid).copied().collect();
        let removed: BTreeSet<_> = good[..go].iter().chain(&bad).copied().collect();
        let mut places = answer.places.clone();
        places.extend(kept.iter().filter_map(|place| Some((*place, *self.places.get(place)?))));
        let added = places.keys().filter(|place| !self.places.contains_key(place)).copied();
        let added: BTreeSet<_> = added.collect();
        let is_same = places == self.places;
        self.places = places;
        self.kept.clone_from(&kept);
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

/// How many times as often as a place of weight 0 one of weight 1 is chosen.
const SELDOM: u64 = 100;

/// What each place gets of the weight of its name, exactly divided, and its rank: 0 for those that are asked first, and one
/// more for each priority behind. None of the weight is lost to whole numbers, and none is nothing of something.
pub fn shares(places: &Places, weight: u16) -> Vec<(SocketAddr, Weight, u16)> {
    let whole = Weight::configured(weight);
    let mut sums: BTreeMap<u16, u64> = BTreeMap::new();
    // A weight of 0 is for who is seldom chosen where others have some, and for all alike where nobody has (RFC 2782).
    let weight = |part: &Part| (u64::from(part.weight) * SELDOM).max(1);
    for part in places.values() {
        *sums.entry(part.priority).or_default() += weight(part);
    }
    let ranks: BTreeMap<u16, (u16, u64)> =
        (0..).zip(&sums).map(|(rank, (&priority, &sum))| (priority, (rank, sum))).collect();
    places
        .iter()
        .filter_map(|(place, part)| {
            let &(rank, sum) = ranks.get(&part.priority)?;
            Some((*place, whole.part(weight(part), sum), rank))
        })
        .collect()
}

#[cfg(test)]
mod tests;
