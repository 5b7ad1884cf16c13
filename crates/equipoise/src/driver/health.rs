//! Health checks in the loop: what is due is ordered, what comes in is told to the state, and the maps follow.
//!
//! Many outcomes that are ready together make one change of the maps, and most make none. Whoever has asked for a check is
//! answered when its outcome is in.

use std::time::Duration;

use equipoise_core::config::{Route, target};
use equipoise_core::health::{Effect, Manual, Outcome, ProbeId, Record, Standing, Target};
use equipoise_core::id::BackendKey;
use equipoise_core::state::{BackendView, PoolView};
use tokio::time::Instant;

use super::Driver;
use super::clock::asked_for;
use super::trouble::Topic;
use crate::admin::{ProblemDetails, Reply};
use crate::dataplane::DataPlane;
use crate::dataplane::kernel::Part;
use crate::host::{Machine, Way};
use crate::probe::Vip;
use crate::status::health::{
    BackendHealth, BackendName, CheckError, CheckHealth, HealthFilter, HealthWord, ManualHealth,
    Word,
};
use crate::status::{Decimal, PassiveStatus};

/// What is due within this is done together: thousands of checks a second are not as many turns of the loop.
const TOGETHER: Duration = Duration::from_millis(5);

/// Somebody who waits for the outcome of checks.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The targets whose outcomes are not in.
    targets: Vec<u64>,
    backends: Vec<BackendKey>,
    reply: Reply<Vec<BackendHealth>>,
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Checks have ended.
    pub(super) fn take_outcomes(&mut self, ended: Vec<(ProbeId, Outcome)>) {
        self.tell_time();
        for (probe, outcome) in ended {
            self.take_outcome(probe, outcome);
        }
    }

    fn take_outcome(&mut self, probe: ProbeId, outcome: Outcome) {
        let ended = outcome.clone();
        let changed = self.state.handle_probe(probe, outcome);
        self.counted.note_check(&changed.backends, &ended);
        if let Some(change) = &changed.health {
            self.tell_health(change);
        }
        for (key, change) in &changed.breakers {
            self.tell_breaker(key, change);
        }
        for waiting in &mut self.waiting {
            waiting.targets.retain(|&target| target != probe.target);
        }
    }

    /// Has checks made that are due, and makes the maps what follows from those that have been made.
    pub(super) fn follow_health(&mut self, now: Instant) {
        self.tell_time();
        while let Some(effect) = self.state.poll_effect() {
            let vip = match &effect {
                Effect::Probe { vip_at: Some(key), .. } => self.vip(key),
                Effect::Probe { vip_at: None, .. } | Effect::Cancel { .. } => None,
            };
            self.prober.order(effect, vip);
        }
        if self.state.is_stale() && !self.due.settle {
            let maps = self.converge();
            self.troubles.note(Topic::Maps, maps);
            self.troubles.schedule(now);
        }
        // Not before the maps tell flows that they are to be: nothing would be found.
        if !self.troubles.has(&Topic::Maps) && !self.state.is_stale() && self.state.take_resets() {
            self.sweep(Part::All);
        }
        self.answer_waiting();
        let not_before = Instant::now() + TOGETHER;
        let wake = self.state.next_wake();
        self.due.health = wake.map(|at| self.clock.instant(at).max(not_before));
    }

    /// The VIP to check a backend at, beside its own address: where its packets leave by a device of ours.
    fn vip(&self, key: &BackendKey) -> Option<Vip> {
        let (backend, address) = self.state.checked_vip(key)?;
        let Some(Way::Via { interface, .. }) = self.reading.ways.get(&key.address.ip()) else {
            return None;
        };
        self.interfaces.indexes().contains(interface).then_some(Vip { address, backend })
    }

    pub(super) fn tell_time(&mut self) {
        let passed = self.state.handle_time(self.clock.now());
        for key in &passed.words {
            self.tell_standing(key, None, "the word about it has run out");
        }
        for (key, change) in &passed.breakers {
            self.tell_breaker(key, change);
        }
        if !passed.words.is_empty() {
            self.save();
        }
    }

    /// The health of the backends of a service, or of all.
    pub(super) fn health(
        &self,
        filter: &HealthFilter,
    ) -> Result<Vec<BackendHealth>, ProblemDetails> {
        if let Some(service) = &filter.service {
            self.service(service)?;
        }
        let is_asked = |name: &str| filter.service.as_ref().is_none_or(|service| service == name);
        Ok(self.told(&mut |key| is_asked(&key.service)))
    }

    /// An operator says how a backend is.
    pub(super) fn take_word(
        &mut self,
        name: &BackendName,
        word: &HealthWord,
    ) -> Result<Vec<BackendHealth>, ProblemDetails> {
        let keys = self.backends(&name.service, &name.backend, name.route.as_deref())?;
        self.tell_time();
        let length = word.for_seconds.map(|seconds| asked_for("for_seconds", seconds));
        let until = length.transpose()?.map(|length| self.clock.now() + length);
        let manual = match word.state {
            Word::Up => Some(Manual { is_down: false, until }),
            Word::Down => Some(Manual { is_down: true, until }),
            Word::Auto => None,
        };
        for key in &keys {
            let before = self.state.standing(key).name();
            self.state.handle_manual(key, manual);
            self.tell_standing(key, Some(before), "by hand");
        }
        // What is told is in force.
        self.follow_health(Instant::now());
        self.save();
        Ok(self.told(&mut |key| keys.contains(key)))
    }

    /// Has a backend checked now; answered when that is done.
    pub(super) fn check_now(&mut self, name: &BackendName, reply: Reply<Vec<BackendHealth>>) {
        let named = self.backends(&name.service, &name.backend, name.route.as_deref());
        let begun = named.and_then(|keys| {
            self.tell_time();
            let targets: Vec<_> = keys.iter().filter_map(|key| self.state.check_now(key)).collect();
            if targets.is_empty() {
                let message = format!("backend {} has no health check", name.backend);
                let help = format!(
                    "`health-check` of its service gives it one; `equipoise probe tcp {0}` checks once, and `equipoise health set {1} {0} down` \
                     says how it is by hand",
                    name.backend, name.service
                );
                return Err(ProblemDetails::unprocessable(message).with_help(help));
            }
            Ok((keys, targets))
        });
        match begun {
            Ok((backends, targets)) => {
                self.waiting.push(Waiting { targets, backends, reply });
                self.due.health = Some(Instant::now());
            }
            // Whoever asked may be gone.
            Err(problem) => drop(reply.send(Err(problem))),
        }
    }

    fn answer_waiting(&mut self) {
        let is_done = |waiting: &mut Waiting| {
            // A reload may have taken them away.
            waiting.targets.retain(|&target| self.state.is_watched(target));
            waiting.targets.is_empty() || waiting.reply.is_closed()
        };
        let done: Vec<_> = self.waiting.extract_if(.., is_done).collect();
        for Waiting { backends, reply, .. } in done {
            drop(reply.send(Ok(self.told(&mut |key| backends.contains(key)))));
        }
    }

    /// Looks at all backends of all pools.
    fn each(&self, look: &mut dyn FnMut(&BackendKey, &BackendView)) {
        for service in self.state.services() {
            for PoolView { pool, backends, .. } in &service.pools {
                for view in backends {
                    let key = BackendKey {
                        service: service.service.name.as_str().into(),
                        route: pool.route.map(|route| Route::name(route).into()),
                        address: view.address,
                    };
                    look(&key, view);
                }
            }
        }
    }

    fn told(&self, is_asked: &mut dyn FnMut(&BackendKey) -> bool) -> Vec<BackendHealth> {
        let now = self.clock.now();
        let mut told = Vec::new();
        self.each(&mut |key, view| {
            if is_asked(key) {
                let passive = self.passive(key, view.id);
                let standing = self.state.standing(key);
                let mut health = backend_health(now, (key, view), &standing, passive);
                if let Some(check) = &mut health.check {
                    check.vip = self.vip(key).map(|vip| vip.address);
                }
                told.push(health);
            }
        });
        told
    }
}

fn backend_health(
    now: Duration,
    (key, view): (&BackendKey, &BackendView),
    standing: &Standing<'_>,
    passive: PassiveStatus,
) -> BackendHealth {
    let manual = standing.manual.map(|Manual { is_down, until }| ManualHealth {
        state: if is_down { "down" } else { "up" }.to_owned(),
        remaining_seconds: until.map(|until| until.saturating_sub(now).as_secs_f64()),
    });
    BackendHealth {
        service: key.service.to_string(),
        route: key.route_name().to_owned(),
        backend: key.address,
        health: standing.name().into(),
        manual,
        check: standing.checked.map(|(target, record)| check_health(now, target, record)),
        passive,
        recovered: standing.belief.recovered,
        configured_weight: Decimal(view.configured_weight.value()),
        effective_weight: view.effective_weight.value(),
    }
}

fn check_health(now: Duration, target: &Target, record: &Record) -> CheckHealth {
    let error = record.error.as_ref().map(|failure| CheckError {
        kind: failure.kind.name().to_owned(),
        message: failure.message.clone(),
        cause: failure.cause.map(|cause| cause.name().to_owned()),
    });
    CheckHealth {
        kind: target.check.question.name().into(),
        address: target.address,
        vip: None,
        verdict: record.verdict.name().into(),
        successes: record.successes,
        failures: record.failures,
        last_check_seconds: record.checked_at.map(|at| now.saturating_sub(at).as_secs_f64()),
        latency_ms: record.latency.map(|latency| latency.as_secs_f64() * 1e3),
        error,
    }
}

/// A backend of a pool in words.
pub(super) fn in_words(key: &BackendKey) -> String {
    let route = key.route.as_ref().map(|route| format!(" from {route}")).unwrap_or_default();
    format!("{} of {}{route}", target::text(key.address), key.service)
}
