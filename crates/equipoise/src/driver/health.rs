//! Health checks in the loop: what is due is ordered, what comes in is told to the state, and the maps follow.
//!
//! Many outcomes that are ready together make one change of the maps, and most make none.

use equipoise_core::config::target;
use equipoise_core::health::{BackendKey, Change, Outcome, ProbeId, Verdict};
use tokio::time::Instant;

use super::Driver;
use super::trouble::Topic;
use crate::dataplane::DataPlane;
use crate::dataplane::kernel::Part;
use crate::host::Machine;

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// A check has ended.
    pub(super) fn take_outcome(&mut self, probe: ProbeId, outcome: Outcome) {
        self.tell_time();
        if let Some(change) = self.state.handle_probe(probe, outcome) {
            tell(&change);
        }
    }

    /// Has checks made that are due, and makes the maps what follows from those that have been made.
    pub(super) fn follow_health(&mut self, now: Instant) {
        self.tell_time();
        while let Some(effect) = self.state.poll_effect() {
            self.prober.order(effect);
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
        self.due.health = self.state.next_wake().map(|at| self.started + at);
    }

    fn tell_time(&mut self) {
        for key in self.state.handle_time(self.started.elapsed()) {
            tracing::info!(backend = in_words(&key), "the word about its health has run out");
        }
    }
}

fn tell(change: &Change) {
    for key in &change.backends {
        let backend = in_words(key);
        match (change.verdict, &change.error) {
            (Verdict::Unhealthy, Some(error)) => {
                tracing::warn!(
                    backend,
                    kind = error.kind.name(),
                    error = error.message,
                    "unhealthy"
                );
            }
            (verdict, _) => tracing::info!(backend, "{}", verdict.name()),
        }
    }
}

/// A backend of a pool in words.
fn in_words(key: &BackendKey) -> String {
    let route = key.route.as_ref().map(|route| format!(" from {route}")).unwrap_or_default();
    format!("{} of {}{route}", target::text(key.address), key.service)
}
