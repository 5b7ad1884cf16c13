//! Events of the loop: what of all that happens is told, and what is told only by comparing with what was told before.

use std::collections::BTreeSet;

use equipoise_core::breaker;
use equipoise_core::health::{Change, Standing, Verdict};
use equipoise_core::id::{BackendKey, DEFAULT_ROUTE};
use equipoise_core::plan::Note;

use super::Driver;
use crate::dataplane::DataPlane;
use crate::events::{Event, Kind, Subscription};
use crate::host::Machine;

/// What has been told to be so, and not to be otherwise yet.
#[derive(Debug, Default)]
pub(super) struct Lasting {
    /// Pools of which too few backends are usable: service, route and family.
    panics: BTreeSet<(String, String, String)>,
    /// Reasons for not being as it should.
    reasons: BTreeSet<String>,
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// The events from the one after this number on.
    pub fn subscribe(&self, after: u64) -> Subscription {
        self.told.subscribe(after)
    }

    pub(super) fn tell(&mut self, event: Event) {
        let now = self.clock.written(self.clock.now());
        self.told.tell(now, event);
    }

    /// A check has made another verdict. Where an operator has said how a backend is, that makes no difference.
    pub(super) fn tell_health(&mut self, change: &Change) {
        for key in &change.backends {
            if self.state.standing(key).manual.is_some() {
                continue;
            }
            let (from, to) = (change.before.name(), change.verdict.name());
            let event = Event::new(Kind::Health).about(key).from(from).to(to);
            let event = match (&change.error, change.verdict) {
                (Some(error), Verdict::Unhealthy) => {
                    event.because(format!("{}: {}", error.kind.name(), error.message))
                }
                _ => event.because("checks"),
            };
            self.tell(event);
        }
    }

    /// A backend stands otherwise than before, for this reason.
    pub(super) fn tell_standing(&mut self, key: &BackendKey, from: Option<&str>, why: &str) {
        let to = Standing::name(&self.state.standing(key));
        if from == Some(to) {
            return;
        }
        let event = Event::new(Kind::Health).about(key).to(to).because(why);
        self.tell(match from {
            Some(from) => event.from(from),
            None => event,
        });
    }

    /// A breaker has changed.
    pub(super) fn tell_breaker(&mut self, key: &BackendKey, change: &breaker::Change) {
        let why = match change.to {
            breaker::State::Open => {
                format!("{:.0} % of outcomes are failures", change.error_rate * 100.0)
            }
            breaker::State::HalfOpen => "its time is up".to_owned(),
            breaker::State::Closed => "successes".to_owned(),
        };
        self.tell_turned(key, change, why);
    }

    /// A breaker has changed, for this reason.
    pub(super) fn tell_turned(
        &mut self,
        key: &BackendKey,
        change: &breaker::Change,
        why: impl Into<String>,
    ) {
        let event = Event::new(Kind::Breaker).about(key);
        self.tell(event.from(change.from.name()).to(change.to.name()).because(why));
    }

    /// Tells what is otherwise by now than it was told to be.
    pub(super) fn tell_lasting(&mut self) {
        let panics: BTreeSet<_> = self.state.planned().notes.iter().filter_map(panicking).collect();
        let reasons: BTreeSet<_> = self.reasons().into_iter().collect();
        let before = std::mem::take(&mut self.lasting);
        let pool = |kind, (service, route, family): &(String, String, String)| {
            Event::new(kind).of(service, route).because(format!("{family} backends"))
        };
        let ended = before.panics.difference(&panics).map(|told| pool(Kind::PanicEnded, told));
        let begun = panics.difference(&before.panics).map(|told| pool(Kind::PanicBegun, told));
        let healed = before.reasons.difference(&reasons);
        let healed = healed.map(|reason| Event::new(Kind::Healed).because(reason));
        let degraded = reasons.difference(&before.reasons);
        let degraded = degraded.map(|reason| Event::new(Kind::Degraded).because(reason));
        let events: Vec<_> = ended.chain(begun).chain(healed).chain(degraded).collect();
        self.lasting = Lasting { panics, reasons };
        events.into_iter().for_each(|event| self.tell(event));
    }
}

/// The pool that a note says to panic.
fn panicking(note: &Note) -> Option<(String, String, String)> {
    let Note::Panic { service, route, family, .. } = note else { return None };
    let route = route.as_deref().unwrap_or(DEFAULT_ROUTE);
    Some((service.to_string(), route.to_owned(), family.to_string()))
}
