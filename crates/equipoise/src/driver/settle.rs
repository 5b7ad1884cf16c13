//! Machine, maps and programs as the plan wants them, and what is said where they are not.

use equipoise_common::value::{Backend, Fate};
use equipoise_core::config::{Admin, Config, Metrics};
use equipoise_core::plan::BackendPlan;
use tokio::time::Instant;

use super::Driver;
use super::interfaces::wanted_here;
use super::trouble::Topic;
use crate::apply::Converged;
use crate::dataplane::DataPlane;
use crate::dataplane::kernel::Part;
use crate::host::forwarding;
use crate::host::{HostError, Machine};
use crate::log;

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Makes machine and data plane as the plan wants them. The maps come before the programs, so
    /// that no packet meets a program whose maps are not right.
    pub(super) async fn settle(&mut self) {
        self.due.settle = false;
        self.look_again();
        let config = self.state.config().clone();
        let addresses = self.managed.follow(&mut self.machine, &config, &self.reading).await;
        self.troubles.note(Topic::Addresses, addresses.map_err(|e| e.to_string()));
        let forwarding = self.follow_forwarding(&config);
        self.troubles.note(Topic::Forwarding, forwarding.map_err(|e| e.to_string()));
        self.begin_streams().await;
        let maps = self.converge();
        self.troubles.note(Topic::Maps, maps);
        self.streams.retire();
        self.follow_observing(config.settings.observe);
        self.follow_metrics(config.settings.metrics.as_ref()).await;
        self.follow_otlp(config.settings.otlp.as_ref()).await;
        self.follow_admin(config.settings.admin.as_ref()).await;
        self.follow_access_log();
        log::follow(&config.settings.log);
        self.interfaces.follow(&mut self.plane, &config, &self.reading);
        if self.plane.max_flows() != config.settings.max_flows {
            self.due.size.get_or_insert_with(Instant::now);
        }
        self.troubles.note_interfaces(self.interfaces.failed());
        self.conclude_exchange();
        self.troubles.schedule(Instant::now());
        self.save();
    }

    pub(super) fn follow_forwarding(&mut self, config: &Config) -> Result<(), HostError> {
        let wanted = forwarding::Wanted::new(config, wanted_here(config, &self.reading));
        self.forwarding.follow(&mut self.machine, &wanted, &self.reading)
    }

    pub(super) async fn follow_metrics(&mut self, wanted: Option<&Metrics>) {
        let followed = self.metrics.follow(wanted).await;
        self.troubles.note(Topic::Metrics, followed.map_err(|e| e.to_string()));
    }

    pub(super) async fn follow_admin(&mut self, wanted: Option<&Admin>) {
        let followed = self.port.follow(wanted).await;
        self.troubles.note(Topic::Admin, followed.map_err(|e| e.to_string()));
    }

    pub(super) fn converge(&mut self) -> Result<(), String> {
        self.look_again();
        let converged = self.follow_plan();
        // Also after a failure: what is denied by now is denied.
        if self.applier.take_newly_denied() {
            let flows = self.cut_denied();
            tracing::info!(flows, "flows of denied clients ended");
        }
        let converged = converged?;
        // After the maps: what is kept is not to be ahead of them.
        self.save();
        if converged.steps > 0 {
            tracing::info!(steps = converged.steps, "applied");
            // Flows of a backend that has gone are not to wait for their next packet.
            if self.state.take_resets() || self.is_any_to_be_reset() {
                self.sweep(Part::All);
                self.cut_gone();
            }
        }
        Ok(())
    }

    /// Makes the maps as planned, and takes note of how that went.
    pub(super) fn settle_maps(&mut self) -> Result<(), String> {
        let maps = self.converge();
        self.troubles.note(Topic::Maps, maps.clone());
        self.troubles.schedule(Instant::now());
        maps
    }

    /// Makes the maps what is planned: where they were that before, only what has been planned anew is looked at.
    pub(super) fn follow_plan(&mut self) -> Result<Converged, String> {
        let began = Instant::now();
        self.state.plan();
        self.tell_streams();
        let planned = Instant::now();
        self.counted.planned.observe((planned - began).as_secs_f64());
        let scope = self.state.take_scope().filter(|_| !self.troubles.has(&Topic::Maps));
        let (plane, desired) = (&mut self.plane, self.state.planned());
        let converged = match scope {
            Some(scope) => self.applier.converge_within(plane, desired, &scope),
            None => self.applier.converge(plane, desired),
        };
        self.counted.applied.observe(planned.elapsed().as_secs_f64());
        converged.map_err(|error| error.to_string())
    }

    pub(super) fn is_any_to_be_reset(&self) -> bool {
        self.state.planned().backends.values().any(is_to_be_reset)
    }
}

/// Whether the flows of a backend that has gone get a RST.
fn is_to_be_reset(backend: &BackendPlan) -> bool {
    backend.value.state == Backend::GONE && backend.value.fate == Fate::Reset as u8
}
