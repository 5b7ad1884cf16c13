//! Which checks are made when: one for each address and check, however many pools name it, unless it goes to their VIPs.
//!
//! A target is due a period after its last check began, so that targets that began apart stay apart; the period is
//! `interval`, or `fast-interval` while its verdict may change. A check that is slow puts nothing off, its own target's
//! next one included: as many as are needed for a verdict may be under way. Ids are never used
//! twice, so that an outcome that comes after its target has gone finds nothing. Knows no sockets and no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::record::{Outcome, Record};
use super::{BackendKey, Effect, ProbeId, unit};
use crate::config::HealthCheck;

/// What is checked: by this check at this address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Address and port.
    pub address: SocketAddr,
    /// How.
    pub check: Arc<HealthCheck>,
    /// The service whose VIP there is asked, where its packets get there as they are; none where the address is.
    pub vip_of: Option<Arc<str>>,
}

/// A target and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) target: Target,
    pub(super) record: Record,
    /// Who goes by it.
    pub(super) users: BTreeSet<BackendKey>,
    due: Duration,
    began: Option<Duration>,
    /// Numbers of the checks under way.
    in_flight: BTreeSet<u64>,
    /// The latest whose outcome is in.
    heard: u64,
}

/// All targets, and when each is due.
#[derive(Clone, Debug, Default)]
pub(super) struct Schedule {
    seed: u64,
    ids: BTreeMap<Target, u64>,
    watched: BTreeMap<u64, Watched>,
    due: BTreeSet<(Duration, u64)>,
    cancelled: Vec<u64>,
    last_id: u64,
    last_number: u64,
}

impl Schedule {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Makes a backend go by a target, which is checked from now on if it was not before. A new target starts with what
    /// is known of the backend by another check, if that is given.
    pub(super) fn watch(
        &mut self,
        now: Duration,
        target: Target,
        (user, known): (BackendKey, Option<Record>),
    ) -> u64 {
        if let Some(&id) = self.ids.get(&target) {
            if let Some(watched) = self.watched.get_mut(&id) {
                watched.users.insert(user);
            }
            return id;
        }
        self.last_id += 1;
        let id = self.last_id;
        let record = known.unwrap_or_default();
        // Spread over a period from the first one on: thousands at once would be a herd for ever.
        let due = now + period(&target.check, &record).mul_f64(unit(self.seed ^ id));
        self.ids.insert(target.clone(), id);
        self.due.insert((due, id));
        let users = BTreeSet::from([user]);
        let in_flight = BTreeSet::new();
        let watched = Watched { target, record, users, due, began: None, in_flight, heard: 0 };
        self.watched.insert(id, watched);
        id
    }

    /// Makes a backend go by a target no longer; a target that nobody goes by is forgotten.
    pub(super) fn leave(&mut self, id: u64, user: &BackendKey) {
        let Some(watched) = self.watched.get_mut(&id) else { return };
        watched.users.remove(user);
        if !watched.users.is_empty() {
            return;
        }
        self.due.remove(&(watched.due, id));
        if !watched.in_flight.is_empty() {
            self.cancelled.push(id);
        }
        if let Some(Watched { target, .. }) = self.watched.remove(&id) {
            self.ids.remove(&target);
        }
    }

    pub(super) fn watched(&self, id: u64) -> Option<&Watched> {
        self.watched.get(&id)
    }

    pub(super) fn record_mut(&mut self, id: u64) -> Option<&mut Record> {
        self.watched.get_mut(&id).map(|watched| &mut watched.record)
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        if !self.cancelled.is_empty() {
            return Some(Duration::ZERO);
        }
        self.due.first().map(|&(due, _)| due)
    }

    /// What is to be done by now.
    pub(super) fn poll(&mut self, now: Duration) -> Option<Effect> {
        if let Some(target) = self.cancelled.pop() {
            return Some(Effect::Cancel { target });
        }
        loop {
            let &(due, id) = self.due.first().filter(|(due, _)| *due <= now)?;
            self.due.remove(&(due, id));
            let Some(watched) = self.watched.get_mut(&id) else { continue };
            let check = Arc::clone(&watched.target.check);
            let may_begin = watched.in_flight.len() < most_at_once(&check);
            // What is a little late is not later and later: the rate is that of the interval.
            let period = period(&check, &watched.record);
            let began = if now < due + period { due } else { now };
            watched.began = Some(began);
            watched.due = began + period;
            self.due.insert((watched.due, id));
            if !may_begin {
                continue;
            }
            self.last_number += 1;
            watched.in_flight.insert(self.last_number);
            let probe = ProbeId { target: id, number: self.last_number };
            let Target { address, ref vip_of, .. } = watched.target;
            // Any of its users: they are of one service.
            let vip_at = watched.users.first().filter(|_| vip_of.is_some()).cloned();
            return Some(Effect::Probe { probe, address, check, vip_at });
        }
    }

    /// Takes an outcome; answers with what is watched, and whether its verdict is another now.
    pub(super) fn take(
        &mut self,
        now: Duration,
        probe: ProbeId,
        outcome: Outcome,
    ) -> Option<(&Watched, bool)> {
        let id = probe.target;
        let watched = self.watched.get_mut(&id)?;
        if !watched.in_flight.remove(&probe.number) || probe.number < watched.heard {
            return None;
        }
        watched.heard = probe.number;
        let check = Arc::clone(&watched.target.check);
        let is_new = watched.record.take(now, outcome, &check);
        let period = period(&check, &watched.record);
        let due = watched.began.map_or(now, |began| now.max(began + period));
        self.set_due(id, due);
        self.watched.get(&id).map(|watched| (watched, is_new))
    }

    /// Whose backends go by a check, if its outcome is waited for.
    pub(super) fn users(&self, probe: ProbeId) -> Vec<BackendKey> {
        let watched = self.watched.get(&probe.target).filter(|watched| {
            watched.in_flight.contains(&probe.number) && probe.number >= watched.heard
        });
        watched.into_iter().flat_map(|watched| watched.users.iter().cloned()).collect()
    }

    /// Makes a target due.
    pub(super) fn hurry(&mut self, now: Duration, id: u64) {
        self.set_due(id, now);
    }

    fn set_due(&mut self, id: u64, due: Duration) {
        let Some(watched) = self.watched.get_mut(&id) else { return };
        self.due.remove(&(watched.due, id));
        watched.due = due;
        self.due.insert((due, id));
    }

    /// Targets, times and checks under way: equal where each target has one time.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let in_flight = self.watched.values().map(|watched| watched.in_flight.len()).sum();
        (self.watched.len(), self.due.len(), in_flight)
    }
}

fn period(check: &HealthCheck, record: &Record) -> Duration {
    if record.is_pending() { check.interval.min(check.fast_interval) } else { check.interval }
}

/// Enough for a verdict within as many intervals as it needs answers, and the timeout.
fn most_at_once(check: &HealthCheck) -> usize {
    check.unhealthy_threshold.max(1) as usize
}
