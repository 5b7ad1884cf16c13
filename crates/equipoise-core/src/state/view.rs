//! What is planned, service by service, as it is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::State;
use crate::config;
use crate::id::{BackendKey, Held, RouteName};
use crate::plan::{PoolPlan, ServiceKey};
use crate::weight::Weight;

/// A service as it is planned.
#[derive(Clone, Debug)]
pub struct ServiceView<'a> {
    /// As configured.
    pub service: &'a config::Service,
    /// Its id; none when all are taken.
    pub id: Option<u32>,
    /// What it is reached by.
    pub keys: Vec<ServiceKey>,
    /// Its pools: that for all clients, and then those of the routes, in the order of the file.
    pub pools: Vec<PoolView<'a>>,
}

impl ServiceView<'_> {
    /// The backends of all its pools.
    pub fn backends(&self) -> impl Iterator<Item = &BackendView> {
        self.pools.iter().flat_map(|pool| &pool.backends)
    }
}

/// A pool as it is planned.
#[derive(Clone, Debug)]
pub struct PoolView<'a> {
    /// As configured.
    pub pool: config::Pool<'a>,
    /// Its ids, one for each family.
    pub ids: Vec<u32>,
    /// Whether too few backends are usable, of a family at least.
    pub panics: bool,
    /// Its backends, both families in one list, in the order of the file.
    pub backends: Vec<BackendView>,
}

/// A backend as it is planned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackendView {
    /// Address and port.
    pub address: SocketAddr,
    /// Its id; none when all are taken.
    pub id: Option<u32>,
    /// What is believed of its health, in a word.
    pub health: &'static str,
    /// State of its breaker, in a word; closed where it has none.
    pub breaker: &'static str,
    /// Whether it is drained.
    pub is_drained: bool,
    /// As configured, or its part of the weight of a name.
    pub configured_weight: Weight,
    /// What follows from everything known about it.
    pub effective_weight: Weight,
    /// The part of the new flows of its family that it gets, 0 to 1.
    pub share: f64,
}

impl State {
    /// The services of the latest plan, in the order of the file.
    pub fn services(&self) -> Vec<ServiceView<'_>> {
        let mut keys: BTreeMap<u32, Vec<ServiceKey>> = BTreeMap::new();
        for (&key, service) in self.desired.services.iter().filter(|(key, _)| !key.is_whole()) {
            keys.entry(service.id).or_default().push(key);
        }
        let view = |service| self.view(service, &mut keys);
        self.config.services.iter().map(view).collect()
    }

    fn view<'a>(
        &'a self,
        service: &'a config::Service,
        keys: &mut BTreeMap<u32, Vec<ServiceKey>>,
    ) -> ServiceView<'a> {
        let held = self.ids.held(&service.name);
        let id = held.and_then(|held| held.service).map(|id| id.number);
        let pool = |pool| self.view_pool(&service.name, pool, held);
        ServiceView {
            service,
            id,
            keys: id.and_then(|id| keys.remove(&id)).unwrap_or_default(),
            pools: service.pools().map(pool).collect(),
        }
    }

    fn view_pool<'a>(
        &self,
        service: &str,
        pool: config::Pool<'a>,
        held: Option<&Held>,
    ) -> PoolView<'a> {
        let route: RouteName = pool.route.map(|route| route.name().into());
        let held = held.and_then(|held| held.pools.get(&route));
        let ids = held.into_iter().flat_map(|held| held.ids.into_iter().flatten());
        let ids: Vec<u32> = ids.map(|id| id.number).collect();
        let planned: Vec<&PoolPlan> =
            ids.iter().filter_map(|id| self.desired.pools.get(id)).collect();
        let panics = planned.iter().any(|pool| pool.panics);
        let service: Arc<str> = service.into();
        let backends = pool.backends.iter().map(|backend| {
            let (service, route, address) = (Arc::clone(&service), route.clone(), backend.address);
            let key = BackendKey { service, route, address };
            let breaker = self.breakers.state(&key).unwrap_or_default().name();
            let known = Known {
                health: self.health.standing(&key).name(),
                breaker,
                is_drained: self.drains.is_drained(&key),
            };
            view_backend(backend, &planned, known)
        });
        PoolView { pool, panics, backends: backends.collect(), ids }
    }
}

/// What is known of a backend, in words.
#[derive(Clone, Copy)]
struct Known {
    health: &'static str,
    breaker: &'static str,
    is_drained: bool,
}

fn view_backend(backend: &config::Backend, pools: &[&PoolPlan], known: Known) -> BackendView {
    let member = pools.iter().find_map(|pool| {
        let at = pool.members.binary_search_by_key(&backend.address, |member| member.address);
        Some((*pool, pool.members[at.ok()?]))
    });
    BackendView {
        address: backend.address,
        id: member.map(|(_, member)| member.id),
        health: known.health,
        breaker: known.breaker,
        is_drained: known.is_drained,
        configured_weight: backend.share(),
        effective_weight: member.map_or(backend.share(), |(_, member)| member.weight),
        share: member.map_or(0.0, |(pool, member)| pool.share(&member)),
    }
}
