//! What numbers stand for while a packet is explained: taken from the state when it is asked for, since the explaining itself is done
//! on a thread of its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use equipoise_core::config::{Affinity, Algorithm, Route, target};
use equipoise_core::id::DEFAULT_ROUTE;
use equipoise_core::state::{BackendView, State};

use crate::host::{Reading, Way};

/// All that numbers in steps stand for.
#[derive(Debug, Default)]
pub(super) struct Scene {
    /// Names of services by id.
    pub(super) services: BTreeMap<u32, String>,
    /// Which of the pools a pool id is of.
    pub(super) pool_ids: BTreeMap<u32, usize>,
    /// All pools.
    pub(super) pools: Vec<Pool>,
    /// Where a backend id is: of which pool, and which of its backends.
    pub(super) backends: BTreeMap<u32, (usize, usize)>,
    /// Name and MTU of devices by index.
    pub(super) devices: BTreeMap<u32, (String, u32)>,
    /// The ways to backends.
    pub(super) ways: BTreeMap<IpAddr, Way>,
}

/// A pool.
#[derive(Debug)]
pub(super) struct Pool {
    /// Name of its service.
    pub(super) service: String,
    /// What leads to it.
    pub(super) route: String,
    /// How one of its backends comes to be the one for a new flow, in words.
    pub(super) pick: &'static str,
    /// Whether packets travel inside others, which are of any family.
    pub(super) is_tunnel: bool,
    /// Its backends.
    pub(super) backends: Vec<Member>,
}

/// A backend of a pool.
#[derive(Debug)]
pub(super) struct Member {
    /// Its id, if it has one.
    pub(super) id: Option<u32>,
    /// Address and port.
    pub(super) address: SocketAddr,
    /// Why it gets no new flow; none where it does.
    pub(super) out: Option<String>,
    /// Its part of the new flows of its family, 0 to 1.
    pub(super) share: f64,
}

impl Scene {
    /// As everything is now.
    pub(super) fn new(state: &State, reading: &Reading) -> Self {
        let devices = reading.devices.iter();
        let mut scene = Self {
            devices: devices.map(|(name, d)| (d.index, (name.clone(), d.mtu))).collect(),
            ways: reading.ways.clone(),
            ..Self::default()
        };
        for service in state.services() {
            let name = &service.service.name;
            scene.services.extend(service.id.map(|id| (id, name.clone())));
            for view in &service.pools {
                let at = scene.pools.len();
                scene.pool_ids.extend(view.ids.iter().map(|&id| (id, at)));
                let members = view.backends.iter().enumerate();
                scene.backends.extend(members.filter_map(|(n, b)| Some((b.id?, (at, n)))));
                scene.pools.push(Pool {
                    service: name.clone(),
                    route: view.pool.route.map_or(DEFAULT_ROUTE, Route::name).to_owned(),
                    pick: pick(view.pool.algorithm, view.pool.affinity),
                    is_tunnel: service.service.delivery.mode.is_tunnel(),
                    backends: view.backends.iter().map(member).collect(),
                });
            }
        }
        scene
    }

    /// The pool and the backend that an id stands for.
    pub(super) fn backend(&self, id: u32) -> Option<(&Pool, &Member)> {
        let &(pool, member) = self.backends.get(&id)?;
        let pool = &self.pools[pool];
        Some((pool, &pool.backends[member]))
    }

    /// A backend in words.
    pub(super) fn name(&self, id: u32) -> String {
        match self.backend(id) {
            Some((_, member)) => target::text(member.address),
            None => format!("a backend that has left (number {id})"),
        }
    }

    /// Name and MTU of a device.
    pub(super) fn device(&self, index: u32) -> (String, Option<u32>) {
        match self.devices.get(&index) {
            Some((name, mtu)) => (name.clone(), Some(*mtu)),
            None => (format!("interface {index}"), None),
        }
    }
}

fn member(view: &BackendView) -> Member {
    let BackendView { id, address, share, .. } = *view;
    Member { id, address, out: out(view), share }
}

/// Why a backend gets no new flow.
fn out(view: &BackendView) -> Option<String> {
    if view.effective_weight.value() > 0.0 {
        return None;
    }
    let why = if view.configured_weight.parts() == 0 {
        "its weight is 0".to_owned()
    } else if view.is_drained {
        "it is draining".to_owned()
    } else if view.breaker == "open" {
        "its breaker is open".to_owned()
    } else if view.health == "unhealthy" {
        "it is unhealthy".to_owned()
    } else if view.id.is_none() {
        "there are more backends than numbers for them".to_owned()
    } else {
        "it is only for when others are not usable".to_owned()
    };
    Some(why)
}

const fn pick(algorithm: Algorithm, affinity: Affinity) -> &'static str {
    match (affinity, algorithm) {
        (Affinity::SourceIp, _) => "the hash of its source leads to another's slot",
        (Affinity::None, Algorithm::Maglev) => "the hash of its addresses leads to another's slot",
        (Affinity::None, Algorithm::Random) => "another was drawn, and the next packet may be its",
        (Affinity::None, Algorithm::RoundRobin) => "it is another's turn",
        (Affinity::None, Algorithm::LeastConnections) => {
            "of the two that were drawn another has fewer flows for its weight"
        }
        (Affinity::None, Algorithm::LeastConnectionsWeights) => {
            "the hash of its addresses leads to another's slot, by weights that follow live flows"
        }
    }
}
