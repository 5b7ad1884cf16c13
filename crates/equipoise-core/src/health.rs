//! Health: what checks and operators say of backends, as beliefs for [`crate::weight`].
//!
//! Takes the configuration, outcomes of checks, words of operators, and the time; gives beliefs that differ from that
//! of a backend of which nothing is known, and effects: which check to make now, and which to give up. A word of an operator
//! holds until it is taken back, or until its deadline, whatever checks say. Knows no sockets and no clock, and nothing of weights.

mod record;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use record::{Cause, Failure, FailureKind, Lasting, Outcome, Record, Verdict};
use schedule::Schedule;
pub use schedule::Target;

use crate::chance::unit;
use crate::config::health::Recovery;
use crate::config::{Backend, Config, HealthCheck};
use crate::id::{BackendKey, Member};
use crate::weight::Belief;

/// A check under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeId {
    /// Of what.
    pub target: u64,
    /// Which of all checks.
    pub number: u64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A check is to be made, and its outcome to be told by the id.
    Probe {
        /// Its id.
        probe: ProbeId,
        /// Where.
        address: SocketAddr,
        /// How.
        check: Arc<HealthCheck>,
        /// A backend that it is made for, if packets get there as they are: then the check is to go to the VIP there.
        vip_at: Option<BackendKey>,
    },
    /// Nobody waits for checks of this target any more.
    Cancel {
        /// The target.
        target: u64,
    },
}

/// An operator's word about a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manual {
    /// Whether it is to be taken for down, or for healthy.
    pub is_down: bool,
    /// Until when; none for until it is taken back.
    pub until: Option<Duration>,
}

/// A verdict that has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Of these backends.
    pub backends: Vec<BackendKey>,
    /// What was believed before.
    pub before: Verdict,
    /// What is believed now.
    pub verdict: Verdict,
    /// Why, where it is bad news.
    pub error: Option<Failure>,
}

/// What is known of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing<'a> {
    /// By its checks; none where it has none.
    pub checked: Option<(&'a Target, &'a Record)>,
    /// By an operator.
    pub manual: Option<Manual>,
    /// What is believed.
    pub belief: Belief,
}

impl Standing<'_> {
    /// In a word.
    pub fn name(&self) -> &'static str {
        match (self.manual, self.checked) {
            (Some(Manual { is_down: true, .. }), _) => Verdict::Unhealthy.name(),
            (Some(Manual { is_down: false, .. }), _) => Verdict::Healthy.name(),
            (None, Some((_, record))) => record.verdict.name(),
            (None, None) => "none",
        }
    }
}

/// How a backend is checked, and gets its share again.
#[derive(Clone, Copy, Debug)]
struct Checked {
    target: u64,
    recovery: Recovery,
}

/// How a backend is checked from now on, and what is known of it from before.
struct Asked<'a> {
    backend: &'a Backend,
    keeps_packets: bool,
    check: &'a Arc<HealthCheck>,
    known: Option<Record>,
}

/// Everything known of the health of backends.
#[derive(Clone, Debug)]
pub struct Health {
    schedule: Schedule,
    backends: BTreeMap<BackendKey, Option<Checked>>,
    manual: BTreeMap<BackendKey, Manual>,
    /// When time alone gives a backend more.
    growing: BTreeMap<BackendKey, Duration>,
    beliefs: BTreeMap<BackendKey, Belief>,
    /// Who is not there and may come back, and what checks have said of it.
    absent: BTreeMap<BackendKey, Option<Record>>,
    /// Who may come back after the next configuration.
    expected: BTreeSet<BackendKey>,
    has_changed: bool,
}

impl Health {
    /// Knows nothing; the seed decides when checks begin.
    pub fn new(seed: u64) -> Self {
        Self {
            schedule: Schedule::new(seed),
            backends: BTreeMap::new(),
            manual: BTreeMap::new(),
            growing: BTreeMap::new(),
            beliefs: BTreeMap::new(),
            absent: BTreeMap::new(),
            expected: BTreeSet::new(),
            has_changed: false,
        }
    }

    /// Who is not there with the next configuration, and may come back: what is known of it is kept.
    pub fn expect(&mut self, absent: BTreeSet<BackendKey>) {
        self.expected = absent;
    }

    /// One more may come back, of which something is known from before.
    pub fn expect_one(&mut self, absent: BackendKey) {
        self.absent.entry(absent).or_default();
    }

    /// Another configuration: who stays keeps what is known of it, also by another check; who is
    /// new is unknown; of who leaves, nothing is left.
    pub fn handle_config(&mut self, now: Duration, config: &Config) {
        let mut before = std::mem::take(&mut self.backends);
        let mut left = Vec::new();
        for (key, Member { service, pool, backend }) in BackendKey::all(config) {
            let old = before.remove(&key).flatten();
            let known = old.and_then(|old| self.schedule.watched(old.target));
            let known = known.map(|old| old.record.heir());
            let known = known.or(self.absent.remove(&key).flatten());
            let keeps_packets = service.delivery.mode.keeps_packets();
            let checked = backend.health_check.as_ref().map(|check| Checked {
                target: self.watch(now, &key, Asked { backend, keeps_packets, check, known }),
                recovery: pool.recovery,
            });
            let is_other = |old: &Checked| checked.is_none_or(|c| c.target != old.target);
            left.extend(old.filter(is_other).map(|old| (old.target, key.clone())));
            self.backends.insert(key, checked);
        }
        for (key, old) in before {
            let watched = old.and_then(|old| self.schedule.watched(old.target));
            self.absent.insert(key.clone(), watched.map(|old| old.record.heir()));
            left.extend(old.map(|old| (old.target, key)));
        }
        let expected = std::mem::take(&mut self.expected);
        for (key, _) in self.absent.extract_if(.., |key, _| !expected.contains(key)) {
            self.manual.remove(&key);
        }
        for key in expected {
            self.absent.entry(key).or_default();
        }
        for (target, key) in left {
            self.schedule.leave(target, &key);
        }
        self.growing.clear();
        self.beliefs.retain(|key, _| self.backends.contains_key(key));
        self.has_changed = true;
        let keys: Vec<_> = self.backends.keys().cloned().collect();
        keys.iter().for_each(|key| self.believe(now, key));
    }

    fn watch(
        &mut self,
        now: Duration,
        key: &BackendKey,
        Asked { backend, keeps_packets, check, known }: Asked<'_>,
    ) -> u64 {
        let port = check.port.unwrap_or(backend.address.port());
        let goes_to_vip = keeps_packets && check.question.is_by_packets();
        let target = Target {
            address: SocketAddr::new(backend.address.ip(), port),
            check: Arc::clone(check),
            vip_of: goes_to_vip.then(|| Arc::clone(&key.service)),
        };
        self.schedule.watch(now, target, (key.clone(), known))
    }

    /// A check has ended. Outcomes that nobody waits for change nothing.
    pub fn handle_outcome(
        &mut self,
        now: Duration,
        probe: ProbeId,
        outcome: Outcome,
    ) -> Option<Change> {
        let before = self.schedule.watched(probe.target).map(|watched| watched.record.verdict);
        let (watched, is_new) = self.schedule.take(now, probe, outcome)?;
        let users: Vec<_> = watched.users.iter().cloned().collect();
        let Record { verdict, error, .. } = watched.record.clone();
        users.iter().for_each(|key| self.believe(now, key));
        let before = before.unwrap_or_default();
        is_new.then_some(Change { backends: users, before, verdict, error })
    }

    /// An operator says how a backend is, or takes that back; false where there is no such backend.
    pub fn handle_manual(
        &mut self,
        now: Duration,
        key: &BackendKey,
        manual: Option<Manual>,
    ) -> bool {
        if !self.knows(key) {
            return false;
        }
        match manual {
            Some(manual) => self.manual.insert(key.clone(), manual),
            None => self.manual.remove(key),
        };
        self.believe(now, key);
        true
    }

    /// Time has passed. Answers with the backends about which an operator's word has run out.
    pub fn handle_time(&mut self, now: Duration) -> Vec<BackendKey> {
        let is_over = |manual: &Manual| manual.until.is_some_and(|until| until <= now);
        let over = self.manual.extract_if(.., |_, manual| is_over(manual));
        let over: Vec<_> = over.map(|(key, _)| key).collect();
        let grown = self.growing.extract_if(.., |_, at| *at <= now);
        let grown: Vec<_> = grown.map(|(key, _)| key).collect();
        over.iter().chain(&grown).for_each(|key| self.believe(now, key));
        over
    }

    /// Operators' words that hold.
    pub fn words(&self) -> impl Iterator<Item = (&BackendKey, Manual)> {
        self.manual.iter().map(|(key, manual)| (key, *manual))
    }

    /// What checks have said of backends, as far as it outlives the process.
    pub fn lasting(&self, now: Duration) -> impl Iterator<Item = (&BackendKey, Lasting)> {
        self.backends.iter().filter_map(move |(key, checked)| {
            let Checked { target, recovery } = (*checked)?;
            let record = &self.schedule.watched(target)?.record;
            Some((key, record.lasting(now, recovery)?))
        })
    }

    /// What an earlier process has found out by checks goes on; false where the backend has none now.
    pub fn restore(&mut self, now: Duration, key: &BackendKey, lasting: Lasting) -> bool {
        let Some(Checked { target, .. }) = self.backends.get(key).copied().flatten() else {
            return false;
        };
        let Some(record) = self.schedule.record_mut(target) else { return false };
        record.restore(lasting);
        let users = self.schedule.watched(target).map(|watched| watched.users.clone());
        users.into_iter().flatten().for_each(|key| self.believe(now, &key));
        true
    }

    /// Whether there is such a backend, or may be again.
    pub fn knows(&self, key: &BackendKey) -> bool {
        self.backends.contains_key(key) || self.absent.contains_key(key)
    }

    /// The backends that go by a check, if its outcome is waited for.
    pub fn checked_by(&self, probe: ProbeId) -> Vec<BackendKey> {
        self.schedule.users(probe)
    }

    /// Has a backend checked at once; the target, by which its outcome will be told.
    pub fn check_now(&mut self, now: Duration, key: &BackendKey) -> Option<u64> {
        let target = self.backends.get(key)?.as_ref()?.target;
        self.schedule.hurry(now, target);
        Some(target)
    }

    /// Whether an outcome of this target may still come.
    pub fn is_watched(&self, target: u64) -> bool {
        self.schedule.watched(target).is_some()
    }

    /// What is to be done by now; none when that is all.
    pub fn poll_effect(&mut self, now: Duration) -> Option<Effect> {
        self.schedule.poll(now)
    }

    /// When something is to be done, or time alone changes something.
    pub fn next_wake(&self) -> Option<Duration> {
        let deadlines = self.manual.values().filter_map(|manual| manual.until);
        let growing = self.growing.values().copied();
        deadlines.chain(growing).chain(self.schedule.next_due()).min()
    }

    /// Whether beliefs have changed since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// Beliefs that say something.
    pub fn beliefs(&self) -> &BTreeMap<BackendKey, Belief> {
        &self.beliefs
    }

    /// Whether beliefs have changed since they were asked for last.
    pub fn has_changed(&self) -> bool {
        self.has_changed
    }

    /// What is known of a backend.
    pub fn standing(&self, key: &BackendKey) -> Standing<'_> {
        let checked = self.backends.get(key).and_then(Option::as_ref);
        let watched = checked.and_then(|checked| self.schedule.watched(checked.target));
        Standing {
            checked: watched.map(|watched| (&watched.target, &watched.record)),
            manual: self.manual.get(key).copied(),
            belief: self.beliefs.get(key).copied().unwrap_or_default(),
        }
    }

    /// Targets, times at which one is due, and checks under way.
    pub fn counts(&self) -> (usize, usize, usize) {
        self.schedule.counts()
    }

    /// Forms the belief about a backend.
    fn believe(&mut self, now: Duration, key: &BackendKey) {
        let checked = self.backends.get(key).copied().flatten();
        let watched = checked.and_then(|c| Some((c, &self.schedule.watched(c.target)?.record)));
        self.growing.remove(key);
        let belief = match (self.manual.get(key), watched) {
            (Some(manual), _) => Belief { is_down: manual.is_down, ..Belief::default() },
            (None, Some((_, record))) if record.verdict == Verdict::Unhealthy => Belief::DOWN,
            (None, Some((Checked { recovery, .. }, record))) => {
                if let Some(at) = record.grows_at(now, recovery) {
                    self.growing.insert(key.clone(), at);
                }
                Belief { recovered: record.recovered(now, recovery), ..Belief::default() }
            }
            (None, None) => Belief::default(),
        };
        let before = if belief == Belief::default() {
            self.beliefs.remove(key)
        } else {
            self.beliefs.insert(key.clone(), belief)
        };
        self.has_changed |= before.unwrap_or_default() != belief;
    }
}
