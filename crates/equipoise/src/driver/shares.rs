//! What the backends of pools get: by configuration, by the slots, and by live flows; and weights made anew from these at once.

use std::collections::BTreeMap;

use equipoise_core::config::Route;
use equipoise_core::id::DEFAULT_ROUTE;
use equipoise_core::state::{BackendView, PoolView};
use tokio::time::Instant;

use super::Driver;
use super::answer::{affinity, algorithm};
use super::trouble::Topic;
use crate::admin::{OfPools, ProblemDetails};
use crate::dataplane::DataPlane;
use crate::host::Machine;
use crate::known::there_are;
use crate::status::Decimal;
use crate::status::pool::{BackendShare, PoolShares};

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// What the backends of the pools of a service get, or of one of them.
    pub(super) fn pool_shares(&self, of: &OfPools) -> Result<Vec<PoolShares>, ProblemDetails> {
        let OfPools { service, route } = of;
        self.service(service)?;
        let views = self.state.services();
        let pools = views.iter().filter(|view| view.service.name == *service);
        let pools = pools.flat_map(|view| &view.pools);
        let told = pools.filter(|view| route.as_deref().is_none_or(|route| route == name(view)));
        let told: Vec<_> = told.map(|view| self.shares(service, view)).collect();
        if told.is_empty() {
            let route = route.as_deref().unwrap_or(DEFAULT_ROUTE);
            let message = format!("service {service:?} has no route {route:?}");
            let routes = views.iter().filter(|view| view.service.name == *service);
            let routes = routes.flat_map(|view| &view.pools).map(name);
            let help = there_are("routes", route, routes);
            return Err(ProblemDetails::not_found(message).with_help(help));
        }
        Ok(told)
    }

    /// Makes weights that follow live flows anew, and tells what comes of it.
    pub(super) fn recompute(&mut self, of: &OfPools) -> Result<Vec<PoolShares>, ProblemDetails> {
        self.pool_shares(of)?;
        let asked = self.service(&of.service)?.pools();
        let is_asked = |route: Option<&Route>| {
            let name = route.map_or(DEFAULT_ROUTE, Route::name);
            of.route.as_deref().is_none_or(|route| route == name)
        };
        let follows = asked.filter(|pool| is_asked(pool.route)).any(|pool| pool.follows_loads());
        if !follows {
            let message = "its weights do not follow live flows: that is what the algorithm \
                           least-connections-weights is for";
            return Err(ProblemDetails::conflict(message));
        }
        self.due.loads = None;
        self.follow_loads(Instant::now());
        if let Some(reason) = self.troubles.reason(&Topic::Maps) {
            let message = format!("the weights are not in the maps yet: {reason}");
            return Err(ProblemDetails::failed(message));
        }
        self.pool_shares(of)
    }

    fn shares(&self, service: &str, view: &PoolView<'_>) -> PoolShares {
        let planned = view.ids.iter().filter_map(|id| self.state.planned().pools.get(id));
        let slots: BTreeMap<u32, u32> = planned
            .clone()
            .flat_map(|pool| pool.members.iter().map(|member| (member.id, member.slots)))
            .collect();
        let live = |backend: &BackendView| backend.id.map_or(0, |id| self.live_flows(id));
        let flows: Vec<u64> = view.backends.iter().map(live).collect();
        let (mut weights, mut live) = ([0.0; 2], [0; 2]);
        for (backend, flows) in view.backends.iter().zip(&flows) {
            let family = usize::from(backend.address.is_ipv6());
            weights[family] += backend.configured_weight.value();
            live[family] += flows;
        }
        let part = |of: f64, whole: f64| if whole > 0.0 { of / whole } else { 0.0 };
        let backends = view.backends.iter().zip(&flows).map(|(backend, &flows)| {
            let family = usize::from(backend.address.is_ipv6());
            let configured = backend.configured_weight.value();
            BackendShare {
                address: backend.address,
                configured_weight: Decimal(configured),
                effective_weight: backend.effective_weight.value(),
                slots: backend.id.and_then(|id| slots.get(&id)).copied().unwrap_or_default(),
                configured_share: part(configured, weights[family]),
                effective_share: backend.share,
                actual_share: part(flows as f64, live[family] as f64),
                live_flows: flows,
            }
        });
        let backends = backends.collect();
        let follows = view.pool.follows_loads();
        PoolShares {
            service: service.to_owned(),
            route: name(view).to_owned(),
            algorithm: algorithm(view.pool.algorithm).to_owned(),
            affinity: affinity(view.pool.affinity).map(str::to_owned),
            panic: view.panics,
            slots: planned.map(|pool| pool.slots.len() as u64).sum(),
            recomputed_at: self.weighed.filter(|_| follows).map(|at| self.clock.written(at)),
            backends,
        }
    }
}

fn name<'a>(view: &PoolView<'a>) -> &'a str {
    view.pool.route.map_or(DEFAULT_ROUTE, Route::name)
}
