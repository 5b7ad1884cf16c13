//! What traffic itself says of backends: kept for who asks, and told to breakers.
//!
//! How connections have ended comes by flow events, so with `events = false` there is nothing of it; how long handshakes take
//! is kept by the programs. What is counted goes with its backend, by its names, over reloads.

use std::collections::BTreeMap;

use equipoise_core::id::BackendKey;
use tokio::time::Instant;

use super::Driver;
use super::events::Ended;
use crate::dataplane::DataPlane;
use crate::host::Machine;
use crate::metrics::FlowSummary;
use crate::status::PassiveStatus;

/// How connections have ended, by backend.
pub(super) type Passive = BTreeMap<BackendKey, Ended>;

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Takes up what has become of connections, and makes the maps what follows from that.
    pub(super) fn take_connections(&mut self) {
        let ended = self.events.take_ended();
        if ended.is_empty() {
            return;
        }
        self.tell_time();
        for (key, id) in self.state.holders(|id| ended.contains_key(&id)) {
            let Some(ended) = ended.get(&id) else { continue };
            self.passive.entry(key.clone()).or_default().add(ended);
            let outcomes = ended.outcomes();
            if outcomes == (0, 0) {
                continue;
            }
            if let Some(change) = self.state.handle_outcomes(&key, outcomes) {
                self.tell_breaker(&key, &change);
            }
        }
        if self.state.has_breakers() {
            // The maps follow in this turn, with what checks have said.
            self.due.health = Some(Instant::now());
        }
    }

    /// What traffic says of a backend.
    pub(super) fn passive(&self, key: &BackendKey, id: Option<u32>) -> PassiveStatus {
        let ended = self.passive.get(key);
        let count = |of: fn(&Ended) -> u64| ended.map_or(0, of);
        let handshake = id.and_then(|id| self.plane.handshake(id));
        PassiveStatus {
            handshake_ms: handshake.map(|time| time.as_secs_f64() * 1e3),
            refused: count(|ended| ended.refused),
            unanswered: count(|ended| ended.unanswered),
            reset: count(|ended| ended.reset),
        }
    }

    /// So, of all that are there, by id.
    pub(super) fn all_passive(&self) -> BTreeMap<u32, PassiveStatus> {
        let holders = self.state.holders(|_| true).into_iter();
        holders.map(|(key, id)| (id, self.passive(&key, Some(id)))).collect()
    }

    /// What flows were like of all backends that are there, by id.
    pub(super) fn all_flows(&self) -> BTreeMap<u32, FlowSummary> {
        let holders = self.state.holders(|_| true).into_iter();
        let of = |(key, id)| Some((id, self.passive.get(&key)?.flows.summary()));
        holders.filter_map(of).collect()
    }

    /// Of backends that have left, nothing is kept.
    pub(super) fn forget_passive(&mut self) {
        let state = &self.state;
        self.passive.retain(|key, _| state.backend_id(key).is_some());
        self.forget_checks();
    }
}
