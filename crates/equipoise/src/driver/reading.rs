//! What the machine is like: read when it has changed, and its neighbours kept fresh.

use std::collections::BTreeSet;
use std::net::IpAddr;

use equipoise_core::config::{Config, Service};
use tokio::time::Instant;

use super::Driver;
use super::trouble::Topic;
use super::wake::NEIGHBOURS;
use crate::dataplane::DataPlane;
use crate::host::{Machine, Way};

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Reads the machine; a change of it is due to be settled.
    pub(super) async fn read_machine(&mut self) {
        self.look_again();
        let targets = self.targets(self.state.config());
        self.read_ways(&targets).await;
    }

    /// Reads the machine, with the ways to these addresses.
    pub(super) async fn read_ways(&mut self, targets: &BTreeSet<IpAddr>) {
        let began = Instant::now();
        let read = self.machine.read(targets).await;
        self.due.not_before = Instant::now() + began.elapsed() * 9;
        match read {
            Ok(reading) => {
                self.troubles.note(Topic::Machine, Ok(()));
                if reading != self.reading {
                    self.state.handle_facts(reading.facts());
                    self.reading = reading;
                    self.due.settle = true;
                }
            }
            Err(error) => {
                self.troubles.note(Topic::Machine, Err(error.to_string()));
                self.troubles.schedule(Instant::now());
            }
        }
    }

    /// The addresses whose ways matter with this configuration: those of backends, also of those that have left.
    pub(super) fn targets(&self, config: &Config) -> BTreeSet<IpAddr> {
        targets(config).into_iter().chain(self.state.gone()).collect()
    }

    pub(super) async fn refresh_neighbours(&mut self) {
        self.due.neighbours = Instant::now() + NEIGHBOURS;
        let next_hops = self.reading.ways.values().filter_map(|way| match way {
            Way::Via { interface, next_hop, .. } => Some((*interface, *next_hop)),
            Way::Local | Way::Unreachable => None,
        });
        let (next_hops, interfaces) = (next_hops.collect(), self.interfaces.indexes());
        match self.machine.refresh_neighbours(&interfaces, &next_hops).await {
            Ok(asked) => tracing::trace!(asked, "neighbours"),
            Err(error) => tracing::warn!(%error, "neighbours are not kept fresh"),
        }
    }
}

/// The addresses whose ways matter: those of the backends.
pub fn targets(config: &Config) -> BTreeSet<IpAddr> {
    config.services.iter().flat_map(Service::all_backends).map(|b| b.address.ip()).collect()
}
