//! What of facts outlives a process beside drains and words of operators: verdicts of checks, recovery, and breakers.
//!
//! Without it a backend that is down would get new flows for as long as checks take to find it down again.

use super::State;
use crate::id::BackendKey;
use crate::{breaker, health};

impl State {
    /// What checks have said of backends, as far as it outlives the process.
    pub fn lasting_health(&self) -> impl Iterator<Item = (&BackendKey, health::Lasting)> {
        self.health.lasting(self.now)
    }

    /// What checks have said before this process goes on; false where there is no such backend, or it is not checked.
    pub fn restore_health(&mut self, key: &BackendKey, lasting: health::Lasting) -> bool {
        self.health.restore(self.now, key, lasting)
    }

    /// Breakers, as far as they outlive the process.
    pub fn lasting_breakers(&self) -> impl Iterator<Item = (&BackendKey, breaker::Lasting)> {
        self.breakers.lasting()
    }

    /// A breaker of before this process goes on; false where there is none.
    pub fn restore_breaker(&mut self, key: &BackendKey, lasting: breaker::Lasting) -> bool {
        self.breakers.restore(key, lasting)
    }
}
