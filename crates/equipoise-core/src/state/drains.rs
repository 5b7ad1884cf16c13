//! Drains as facts.

use super::State;
use crate::config::health::{Recovery, RecoveryMode};
use crate::drain::{self, Drain, Drains, Pace};
use crate::id::BackendKey;

impl State {
    /// A backend is to get no new flows.
    ///
    /// # Errors
    ///
    /// When it does not already.
    pub fn handle_drain(
        &mut self,
        key: &BackendKey,
        request: drain::Request,
    ) -> Result<(), drain::AlreadyDrained> {
        self.drains.start(key.clone(), request, self.now)?;
        self.ramps.stop(key);
        Ok(())
    }

    /// That is in the maps, and the backend has so many flows; how its drain is over, if it is now.
    pub fn handle_drain_in_force(&mut self, key: &BackendKey, flows: u64) -> Option<drain::Status> {
        self.drains.in_force(key, flows, self.now)
    }

    /// A drain that began before this process goes on; false where there is no such backend.
    pub fn restore_drain(&mut self, key: &BackendKey, drain: Drain) -> bool {
        let is_there = self.may_be(key);
        if is_there {
            self.drains.restore(key.clone(), drain);
        }
        is_there
    }

    /// A backend is to get new flows again; how its drain is over, if it was drained.
    pub fn handle_undrain(&mut self, key: &BackendKey, pace: Pace) -> Option<drain::Status> {
        let ended = self.drains.undrain(key)?;
        let recovery = self.pool(key).map(|pool| pool.recovery);
        if let (Pace::Gradual, Some(Recovery { mode, slow_start })) = (pace, recovery) {
            // Where nobody checks, nothing but time can tell.
            let mode = match mode {
                RecoveryMode::Steps if self.health.standing(key).checked.is_none() => {
                    RecoveryMode::Linear
                }
                mode => mode,
            };
            self.ramps.start(key.clone(), Recovery { mode, slow_start }, self.now);
        }
        Some(ended)
    }

    /// A drained backend has so many flows; how its drain is over, if it is now.
    pub fn handle_drained_flows(&mut self, key: &BackendKey, flows: u64) -> Option<drain::Status> {
        self.drains.count(key, flows, self.now)
    }

    /// All drains.
    pub fn drains(&self) -> &Drains<BackendKey> {
        &self.drains
    }
}
