//! Weights that follow live flows: counted again and again, where a service wants it.
//!
//! Changes nothing but the maps, and tells nobody, since that weights change is what was asked for.

use tokio::time::Instant;

use super::Driver;
use super::trouble::Topic;
use crate::dataplane::DataPlane;
use crate::host::Machine;

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Counts live flows if that is due, and makes the maps what follows from it.
    pub(super) fn follow_loads(&mut self, now: Instant) {
        if self.due.loads.is_some_and(|at| at > now) {
            return;
        }
        let followed = self.state.followed();
        if followed.is_empty() {
            // Asked again with each turn of the loop, which comes with each sweep.
            self.due.loads = None;
            return;
        }
        self.due.loads = Some(now + self.state.config().settings.least_connections.update_interval);
        self.weighed = Some(self.clock.now());
        let loads = followed.into_iter().map(|id| (id, self.live_flows(id))).collect();
        if !self.state.handle_loads(loads) || self.due.settle {
            return;
        }
        self.look_again();
        let converged = self.follow_plan();
        match &converged {
            Ok(converged) => tracing::debug!(steps = converged.steps, "weights follow live flows"),
            Err(error) => tracing::debug!(%error, "weights do not follow live flows"),
        }
        self.troubles.note(Topic::Maps, converged.map(|_| ()));
        self.troubles.schedule(now);
    }
}
