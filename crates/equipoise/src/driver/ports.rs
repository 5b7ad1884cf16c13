//! Ports of ours that run out: how many flows come from our addresses at each backend, against how many can.
//!
//! Looked at with each sweep, so that an operator hears of it before clients do.

use equipoise_core::plan::{Crowded, crowded};

use super::Driver;
use crate::dataplane::DataPlane;
use crate::host::Machine;

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Looks at the ports again; tells in the log of what is new.
    pub(super) fn watch_ports(&mut self) {
        let plane = &self.plane;
        let now = crowded(self.state.planned(), |id| plane.live_flows(id));
        for crowded in &now {
            if !self.crowded.iter().any(|before| before.backend == crowded.backend) {
                let Crowded { backend, flows, ports } = crowded;
                tracing::warn!(%backend, flows, ports, "source ports are running out");
            }
        }
        if now != self.crowded {
            self.look_again();
        }
        self.crowded = now;
    }
}
