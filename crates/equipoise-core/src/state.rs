//! All that the control plane knows, and the plan that follows from it.
//!
//! Configuration and facts come in through `handle_` calls as they are learnt; [`State::plan`]
//! answers with what the data plane should be. Sans-IO: no clock, no sockets, no maps. What has
//! been applied is not kept here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use equipoise_common::value::Fate;

use crate::config::{self, Config};
use crate::diff::Scope;
use crate::facts::Facts;
use crate::health::{BackendKey, Change, Effect, Health, Manual, Outcome, ProbeId, Standing};
use crate::id::{Held, Ids, Mark, Named, RouteName, Wanted};
use crate::plan::{Desired, Note, PoolPlan, ServiceKey, plan, plan_again};
use crate::weight::{Belief, Weight};

/// Configuration, facts, ids, and the latest plan.
#[derive(Clone, Debug)]
pub struct State {
    config: Config,
    facts: Facts,
    health: Health,
    /// As it was told last.
    now: Duration,
    ids: Ids,
    desired: Desired,
    stale: bool,
    /// Where the plan may differ from what it was when that was asked last; none for anywhere.
    scope: Option<Scope>,
    /// Whether flows are to be reset since backends have gone down.
    resets: bool,
}

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
    /// As configured.
    pub configured_weight: u16,
    /// What follows from everything known about it.
    pub effective_weight: Weight,
    /// The part of the new flows of its family that it gets, 0 to 1.
    pub share: f64,
}

impl State {
    /// Knows this much and nothing else.
    pub fn new(config: Config, facts: Facts) -> Self {
        Self::seeded(config, facts, 0)
    }

    /// So, with a seed that decides when checks begin.
    pub fn seeded(config: Config, facts: Facts, seed: u64) -> Self {
        let mut ids = Ids::default();
        ids.hold(&Wanted::all(&config));
        let mut health = Health::new(seed);
        let now = Duration::ZERO;
        health.handle_config(now, &config);
        let desired = Desired::default();
        Self { config, facts, health, now, ids, desired, stale: true, scope: None, resets: false }
    }

    /// Another configuration is in force.
    pub fn handle_config(&mut self, config: Config) {
        self.ids.hold(&Wanted::all(&config));
        self.health.handle_config(self.now, &config);
        self.config = config;
        self.stale = true;
    }

    /// The machine has changed.
    pub fn handle_facts(&mut self, facts: Facts) {
        let facts = Facts {
            loads: std::mem::take(&mut self.facts.loads),
            beliefs: std::mem::take(&mut self.facts.beliefs),
            ..facts
        };
        self.stale |= self.facts != facts;
        self.facts = facts;
    }

    /// Backends whose weights follow their live flows, by id.
    pub fn followed(&self) -> Vec<u32> {
        let mut pools = self.config.services.iter().flat_map(config::Service::pools);
        if !pools.any(|pool| pool.follows_loads()) {
            return Vec::new();
        }
        let pools = self.services().into_iter().flat_map(|view| view.pools);
        let followed = pools.filter(|view| view.pool.follows_loads());
        followed.flat_map(|view| view.backends).filter_map(|backend| backend.id).collect()
    }

    /// Live flows have been counted; true if that makes a difference.
    pub fn handle_loads(&mut self, loads: BTreeMap<u32, u64>) -> bool {
        let is_new = self.facts.loads != loads;
        self.facts.loads = loads;
        self.stale |= is_new;
        is_new
    }

    /// Time has passed, since the start of the instance. Answers with the backends about which an operator's word has run
    /// out.
    pub fn handle_time(&mut self, now: Duration) -> Vec<BackendKey> {
        self.now = now;
        self.health.handle_time(now)
    }

    /// A health check has ended; what changes by that.
    pub fn handle_probe(&mut self, probe: ProbeId, outcome: Outcome) -> Option<Change> {
        self.health.handle_outcome(self.now, probe, outcome)
    }

    /// An operator says how a backend is, or takes that back; false where there is no such backend.
    pub fn handle_manual(&mut self, key: &BackendKey, manual: Option<Manual>) -> bool {
        self.health.handle_manual(self.now, key, manual)
    }

    /// Has a backend checked at once; the target, by which its outcome will be told.
    pub fn check_now(&mut self, key: &BackendKey) -> Option<u64> {
        self.health.check_now(self.now, key)
    }

    /// Whether an outcome of this target may still come.
    pub fn is_watched(&self, target: u64) -> bool {
        self.health.is_watched(target)
    }

    /// What is to be done by now; none when that is all.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.health.poll_effect(self.now)
    }

    /// When something is to be done, or time alone changes something.
    pub fn next_wake(&self) -> Option<Duration> {
        self.health.next_wake()
    }

    /// What is known of a backend's health.
    pub fn standing(&self, key: &BackendKey) -> Standing<'_> {
        self.health.standing(key)
    }

    /// Whether something has happened that the plan does not know of.
    pub fn is_stale(&self) -> bool {
        self.stale || self.health.has_changed()
    }

    /// Whether there have come to be flows to be reset, because their backend is down, since this was asked last.
    pub fn take_resets(&mut self) -> bool {
        std::mem::take(&mut self.resets)
    }

    /// The flow table has been read: of the ids that rested at `mark`, it still names these.
    ///
    /// As [`Ids::rested`] says, the mark must have been taken with the plan wholly applied, and
    /// the table read after that.
    pub fn handle_named(&mut self, mark: Mark, still_named: &Named) {
        self.stale |= self.ids.rested(mark, still_named);
        if self.desired.notes.iter().any(Note::is_about_ids) {
            self.ids.hold(&Wanted::all(&self.config));
            self.stale = true;
        }
    }

    /// What should be in the maps. Computed anew only when something has changed, and then only
    /// those slot tables whose backends have.
    pub fn plan(&mut self) -> &Desired {
        if let Some(beliefs) = self.health.take_changed() {
            let changed = differing(&self.facts.beliefs, &beliefs);
            self.facts.beliefs = beliefs;
            self.stale |= !changed.is_empty() && !self.plan_again(&changed);
        }
        if self.stale {
            let was_out = self.out(self.desired.backends.keys());
            self.desired = plan(&self.config, &self.facts, &self.ids, Some(&self.desired));
            self.note_departures(&was_out, None);
            self.stale = false;
            self.scope = None;
        }
        &self.desired
    }

    /// Plans what follows from what is believed of these backends; false where everything is to be planned.
    fn plan_again(&mut self, changed: &BTreeSet<BackendKey>) -> bool {
        if self.stale {
            return false;
        }
        // More than can be otherwise now, and little.
        let pools = changed.iter().flat_map(|key| self.backend_ids(key)).collect::<Vec<_>>();
        let was_out = self.out(pools.iter());
        let known = (&self.config, &self.facts, &self.ids);
        let Some(scope) = plan_again(known, changed, &mut self.desired) else { return false };
        self.note_departures(&was_out, Some(&scope));
        if let Some(wider) = &mut self.scope {
            wider.pools.extend(scope.pools);
            wider.backends.extend(scope.backends);
        }
        true
    }

    /// The ids of the backends of a backend's pool.
    fn backend_ids(&self, key: &BackendKey) -> Vec<u32> {
        let held = self.ids.held(&key.service).and_then(|held| held.pools.get(&key.route));
        held.into_iter().flat_map(|pool| pool.backends.values().map(|id| id.number)).collect()
    }

    /// Of some backends, those that are kept out.
    fn out<'a>(&self, ids: impl Iterator<Item = &'a u32>) -> BTreeSet<u32> {
        let is_out = |id: &&u32| self.desired.backends.get(id).is_some_and(|b| b.out.is_some());
        ids.filter(is_out).copied().collect()
    }

    /// Where the plan may differ from what it was when this was asked last; none for anywhere.
    pub fn take_scope(&mut self) -> Option<Scope> {
        self.scope.replace(Scope::default())
    }

    /// Backends that are kept out from now on are of another generation: that tells flows of before.
    fn note_departures(&mut self, was_out: &BTreeSet<u32>, scope: Option<&Scope>) {
        let is_out = match scope {
            Some(scope) => self.out(scope.backends.iter()),
            None => self.out(self.desired.backends.keys()),
        };
        for id in is_out.difference(was_out) {
            let Some(backend) = self.desired.backends.get_mut(id) else { continue };
            let Some(fate) = backend.out else { continue };
            let service = u32::from(backend.value.service);
            let departure = self.ids.depart(*id, fate, service);
            backend.value.generation = departure.generation;
            backend.value.fate = fate as u8;
            self.resets |= fate == Fate::Reset;
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The facts in force.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The latest answer of [`State::plan`].
    pub fn planned(&self) -> &Desired {
        &self.desired
    }

    /// Addresses of backends that have left and whose flows may go on.
    pub fn gone(&self) -> impl Iterator<Item = IpAddr> {
        self.ids.gone().map(|gone| gone.address.ip())
    }

    /// Whether ids rest, to be asked for in the flow table.
    pub fn resting(&self) -> Option<Mark> {
        self.ids.resting()
    }

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
            view_backend(backend, &planned, self.health.standing(&key).name())
        });
        PoolView { pool, panics, backends: backends.collect(), ids }
    }
}

/// The backends of which something else is believed.
fn differing(
    before: &BTreeMap<BackendKey, Belief>,
    after: &BTreeMap<BackendKey, Belief>,
) -> BTreeSet<BackendKey> {
    let is_other = |key: &&BackendKey| before.get(key) != after.get(key);
    before.keys().chain(after.keys()).filter(is_other).cloned().collect()
}

fn view_backend(
    backend: &config::Backend,
    pools: &[&PoolPlan],
    health: &'static str,
) -> BackendView {
    let member = pools.iter().find_map(|pool| {
        let at = pool.members.binary_search_by_key(&backend.address, |member| member.address);
        Some((*pool, pool.members[at.ok()?]))
    });
    BackendView {
        address: backend.address,
        id: member.map(|(_, member)| member.id),
        health,
        configured_weight: backend.weight,
        effective_weight: member
            .map_or(Weight::configured(backend.weight), |(_, member)| member.weight),
        share: member.map_or(0.0, |(pool, member)| pool.share(&member)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Algorithm, parse};
    use crate::facts::Interface;
    use crate::plan::BackendPlan;

    fn config(backends: &str) -> Config {
        let text = format!(
            "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], port = 80 }}\nbackends = [{backends}]"
        );
        parse("test.toml", &text).unwrap().config
    }

    fn facts() -> Facts {
        let addresses = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let eth0 = Interface { index: 2, addresses };
        Facts { interfaces: BTreeMap::from([("eth0".to_owned(), eth0)]), ..Facts::default() }
    }

    #[test]
    fn view_tells_both_families_in_the_order_of_the_file_with_their_shares() {
        let backends = "{ address = '10.0.0.2:80', weight = 3 }, { address = '[fd00::1]:80' },
            { address = '10.0.0.1:80' }";
        let mut state = State::new(config(backends), facts());
        state.plan();
        let [web] = &state.services()[..] else { panic!("one service") };
        assert_eq!((web.id, &*web.pools[0].ids, web.keys.len()), (Some(0), &[0, 1][..], 2));
        let told = web.backends().map(|backend| {
            (backend.id, backend.configured_weight, backend.effective_weight.value(), backend.share)
        });
        let expected = [(Some(0), 3, 3.0, 0.75), (Some(1), 1, 1.0, 1.0), (Some(2), 1, 1.0, 0.25)];
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn weights_follow_live_flows_where_the_service_says_so() {
        let backends =
            "{ address = '10.0.0.1:80', weight = 50 }, { address = '10.0.0.2:80', weight = 50 }";
        let follows = |algorithm| {
            let mut config = config(backends);
            config.services[0].algorithm = algorithm;
            let mut state = State::new(config, facts());
            state.plan();
            assert!(state.handle_loads(BTreeMap::from([(0, 5), (1, 20)])));
            assert!(!state.handle_loads(BTreeMap::from([(0, 5), (1, 20)])));
            state.handle_facts(facts());
            state.plan();
            let services = state.services();
            let shares = services[0].backends().map(|b| (100.0 * b.share).round());
            (state.followed(), shares.collect::<Vec<_>>())
        };
        assert_eq!(follows(Algorithm::LeastConnectionsWeights), (vec![0, 1], vec![78.0, 22.0]));
        assert_eq!(follows(Algorithm::Random), (vec![], vec![50.0, 50.0]));
    }

    #[test]
    fn same_facts_again_leave_the_plan_alone() {
        let mut state = State::new(config("{ address = '10.0.0.2:80' }"), facts());
        let before = state.plan().clone();
        state.handle_facts(facts());
        assert_eq!(*state.plan(), before);
        state.handle_facts(Facts::default());
        assert!(state.plan().services.is_empty());
    }

    #[test]
    fn backend_that_was_left_out_is_placed_when_ids_have_rested() {
        let mut state = State::new(config("{ address = '10.0.0.1:80' }"), facts());
        state.ids = Ids::new(crate::id::Limits { backends: 1, ..Default::default() });
        state.handle_config(config("{ address = '10.0.0.1:80' }"));
        state.handle_config(config("{ address = '10.0.0.2:80' }"));
        assert!(state.plan().backends.values().all(BackendPlan::is_gone));
        let mark = state.resting().unwrap();
        state.handle_named(mark, &Named::default());
        assert_eq!(state.plan().backends.len(), 1);
        assert!(!state.plan().backends[&0].is_gone());
        assert_eq!(state.resting(), None);
    }

    #[test]
    fn backend_that_has_left_is_in_the_plan_until_no_flow_names_it() {
        let both = "{ address = '10.0.0.1:80', max-flows = 7 }, { address = '10.0.0.2:80' }";
        let mut state = State::new(config(both), facts());
        let there = state.plan().backends[&0].value;
        assert_eq!((there.generation, there.max_flows), (0, 7));
        state.handle_config(config("{ address = '10.0.0.2:80' }"));
        let gone = state.plan().backends[&0];
        assert!(gone.is_gone());
        assert_eq!((gone.value.address, gone.value.port), (there.address, there.port));
        assert_eq!((gone.value.service, gone.value.generation), (there.service, 1));
        let mark = state.resting().unwrap();
        let named = Named { backends: [0].into(), ..Named::default() };
        state.handle_named(mark, &named);
        assert_eq!(state.plan().backends[&0], gone);
        state.handle_named(mark, &Named::default());
        assert_eq!(state.plan().backends.keys().copied().collect::<Vec<_>>(), [1]);
    }
}
