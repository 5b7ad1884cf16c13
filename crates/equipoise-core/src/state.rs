//! All that the control plane knows, and the plan that follows from it.
//!
//! Configuration and facts come in through `handle_` calls as they are learnt; [`State::plan`]
//! answers with what the data plane should be. Sans-IO: no clock, no sockets, no maps. What has
//! been applied is not kept here.

mod lasting;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use equipoise_common::key::{Address as _, V4};
use equipoise_common::value::{Backend, Fate, Snat};

use crate::breaker::{self, Breakers};
use crate::config::health::{Recovery, RecoveryMode};
use crate::config::{self, Config};
use crate::diff::{Found, Scope};
use crate::drain::{self, Drain, Drains, Pace};
use crate::facts::{Facts, Moment};
use crate::health::{Change, Effect, Health, Manual, Outcome, ProbeId, Standing};
use crate::id::{BackendKey, Held, Ids, Limits, Mark, Named, RouteName, Wanted};
use crate::plan::{Desired, Note, PoolPlan, ServiceKey, plan, plan_again};
use crate::ramp::Ramps;
use crate::resolve::{Absent, LeftOut, Names};
use crate::weight::{Belief, Drained, Weight};

mod names;

/// Configuration, facts, ids, and the latest plan.
#[derive(Clone, Debug)]
pub struct State {
    /// As it is written.
    written: Arc<Config>,
    /// With what names stand for.
    config: Arc<Config>,
    names: Names,
    absent: Absent,
    left_out: Vec<LeftOut>,
    facts: Facts,
    health: Health,
    breakers: Breakers,
    drains: Drains<BackendKey>,
    ramps: Ramps<BackendKey>,
    /// As it was told last.
    now: Moment,
    ids: Ids,
    desired: Desired,
    stale: bool,
    /// Where the plan may differ from what it was when that was asked last; none for anywhere.
    scope: Option<Scope>,
    /// Whether flows are to be reset since backends have gone down.
    resets: bool,
    /// Backends that an earlier process had kept out, and what becomes of their flows; asked for once.
    were_out: BTreeMap<u32, Fate>,
}

/// When a state begins, and by which chance.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beginning {
    /// The moment that it is.
    pub now: Moment,
    /// Decides when checks begin.
    pub seed: u64,
    /// How many ids there are. With more than the maps of the programs hold, a plan is for figures alone.
    pub ids: Limits,
}

/// What time alone has changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Passed {
    /// Backends about which an operator's word has run out.
    pub words: Vec<BackendKey>,
    /// Breakers that are half-open now.
    pub breakers: Vec<breaker::Told>,
}

/// What the end of a check has changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probed {
    /// Of what is believed of health.
    pub health: Option<Change>,
    /// Of breakers.
    pub breakers: Vec<breaker::Told>,
    /// Whose check it was.
    pub backends: Vec<BackendKey>,
}

/// What an operator does with a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Opens it.
    Open,
    /// Closes it.
    Close,
    /// Makes it as new.
    Reset,
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
    /// Knows this much and nothing else.
    pub fn new(config: Config, facts: Facts) -> Self {
        Self::begun(config, facts, Beginning::default())
    }

    /// So, at this moment.
    pub fn begun(config: Config, facts: Facts, beginning: Beginning) -> Self {
        let Beginning { now, seed, ids } = beginning;
        let config = Arc::new(config);
        let mut ids = Ids::new(ids);
        ids.hold(&Wanted::all(&config));
        let mut health = Health::new(seed);
        health.handle_config(now, &config);
        let mut breakers = Breakers::default();
        breakers.handle_config(now, &config);
        let mut names = Names::new(seed);
        names.handle_config(now, &config);
        Self {
            written: Arc::clone(&config),
            config,
            names,
            absent: Absent::default(),
            left_out: Vec::new(),
            facts,
            health,
            breakers,
            drains: Drains::default(),
            ramps: Ramps::default(),
            now,
            ids,
            desired: Desired::default(),
            stale: true,
            scope: None,
            resets: false,
            were_out: BTreeMap::new(),
        }
    }

    /// What an earlier process has left in the maps is gone on from; before anything is planned.
    pub fn take_over(&mut self, found: &Found) {
        let wanted = Wanted::all(&self.config);
        self.ids = Ids::recovered(Limits::default(), &found.remembered(), &wanted);
        let may_be_out =
            |backend: &Backend| backend.generation > 0 && backend.state == Backend::LIVE;
        let out = found.backends.iter().filter(|(_, backend)| may_be_out(backend));
        self.were_out = out.map(|(&id, backend)| (id, Fate::from_number(backend.fate))).collect();
    }

    /// Another configuration is in force.
    ///
    /// Drains of backends that have left end; answers with those that were not over.
    pub fn handle_config(&mut self, config: Config) -> Vec<BackendKey> {
        self.names.handle_config(self.now, &config);
        self.written = Arc::new(config);
        self.resolve()
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

    /// Time has passed. Answers with what that alone has changed.
    pub fn handle_time(&mut self, now: Moment) -> Passed {
        self.now = now;
        self.ramps.handle_time(now);
        Passed { words: self.health.handle_time(now), breakers: self.breakers.handle_time(now) }
    }

    /// A health check has ended; what changes by that.
    pub fn handle_probe(&mut self, probe: ProbeId, outcome: Outcome) -> Probed {
        let outcomes = if outcome.is_ok() { (1, 0) } else { (0, 1) };
        let checked = self.health.checked_by(probe);
        let is_good = outcome.is_ok();
        let health = self.health.handle_outcome(self.now, probe, outcome);
        if is_good {
            checked.iter().for_each(|key| self.ramps.note_good(key, self.now));
        }
        let breakers = checked.iter().filter_map(|key| {
            let change = self.breakers.record(self.now, key, outcomes)?;
            Some((key.clone(), change))
        });
        let breakers = breakers.collect();
        Probed { health, breakers, backends: checked }
    }

    /// Connections have ended so many times well and so many times badly at a backend; what changes by that.
    pub fn handle_outcomes(
        &mut self,
        key: &BackendKey,
        outcomes: (u64, u64),
    ) -> Option<breaker::Change> {
        self.breakers.record(self.now, key, outcomes)
    }

    /// An operator turns a breaker; none where there is none, and no change where there is nothing to do.
    pub fn handle_breaker(
        &mut self,
        key: &BackendKey,
        turn: Turn,
    ) -> Option<Option<breaker::Change>> {
        let now = self.now;
        self.breakers.by_hand(key, |breaker| match turn {
            Turn::Open => breaker.force_open(now),
            Turn::Close => breaker.force_close(now),
            Turn::Reset => breaker.reset(now),
        })
    }

    /// Whether any backend has a breaker.
    pub fn has_breakers(&self) -> bool {
        !self.breakers.is_empty()
    }

    /// What the breaker of a backend lets through, and why, if it has one.
    pub fn breaker(&self, key: &BackendKey) -> Option<breaker::Standing> {
        self.breakers.standing(self.now, key)
    }

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

    /// The id of a backend; none where there is no such backend, or when all are taken.
    pub fn backend_id(&self, key: &BackendKey) -> Option<u32> {
        let pool = self.ids.held(&key.service)?.pools.get(&key.route)?;
        let held = pool.backends.get(&key.address).copied();
        // Flows of one that has left for now are still its own.
        held.or_else(|| self.ids.absent(key).filter(|_| self.absent.has(key))).map(|id| id.number)
    }

    /// The backends of those ids that are asked for, and these.
    pub fn holders(&self, is_asked: impl FnMut(u32) -> bool) -> Vec<(BackendKey, u32)> {
        self.ids.holders(is_asked)
    }

    /// The weight that the configuration gives a backend.
    pub fn configured_weight(&self, key: &BackendKey) -> Option<Weight> {
        let pool = self.pool(key)?;
        let backend = pool.backends.iter().find(|backend| backend.address == key.address)?;
        Some(backend.share())
    }

    /// The pool of a backend.
    fn pool(&self, key: &BackendKey) -> Option<config::Pool<'_>> {
        let service = self.config.services.iter().find(|service| *service.name == *key.service)?;
        let is_meant =
            |pool: &config::Pool<'_>| pool.route.map(config::Route::name) == key.route.as_deref();
        service.pools().find(is_meant)
    }

    /// All drains.
    pub fn drains(&self) -> &Drains<BackendKey> {
        &self.drains
    }

    /// An operator says how a backend is, or takes that back; false where there is no such backend.
    pub fn handle_manual(&mut self, key: &BackendKey, manual: Option<Manual>) -> bool {
        let may_be = self.may_be(key);
        if may_be {
            self.ramps.stop(key);
        }
        may_be && self.health.handle_manual(self.now, key, manual)
    }

    /// Operators' words about the health of backends that hold.
    pub fn words(&self) -> impl Iterator<Item = (&BackendKey, Manual)> {
        self.health.words()
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

    /// The id of a backend and the VIP that it is checked at; none where it is checked at its own address alone.
    pub fn checked_vip(&self, key: &BackendKey) -> Option<(u32, IpAddr)> {
        let id = self.ids.held(&key.service)?.pools.get(&key.route)?.backends.get(&key.address)?;
        let vip = self.desired.snat.get(&Snat::key(id.number, Snat::CHECKED_VIP))?.address;
        let vip = if key.address.is_ipv4() { V4::unpack(vip).into() } else { vip.into() };
        Some((id.number, vip))
    }

    /// When something is to be done, or time alone changes something.
    pub fn next_wake(&self) -> Option<Moment> {
        let others = self.breakers.next_wake().into_iter().chain(self.names.next_wake());
        let health = self.health.next_wake().into_iter().chain(others);
        health.chain(self.ramps.next_wake(self.now)).min()
    }

    /// What is known of a backend's health.
    pub fn standing(&self, key: &BackendKey) -> Standing<'_> {
        let mut standing = self.health.standing(key);
        standing.belief.recovered = standing.belief.recovered.min(self.ramps.part(key));
        standing
    }

    /// Whether something has happened that the plan does not know of.
    pub fn is_stale(&self) -> bool {
        let drains = self.drains.has_changed();
        let ramps = self.ramps.has_changed();
        self.stale || self.health.has_changed() || self.breakers.has_changed() || drains || ramps
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
        let changed = [
            self.health.take_changed(),
            self.breakers.take_changed(),
            self.drains.take_changed(),
            self.ramps.take_changed(),
        ];
        if changed.contains(&true) {
            let beliefs = self.beliefs();
            let changed = differing(&self.facts.beliefs, &beliefs);
            self.facts.beliefs = beliefs;
            self.stale |= !changed.is_empty() && !self.plan_again(&changed);
        }
        if self.stale {
            let mut was_out = self.out(self.desired.backends.keys());
            was_out.append(&mut self.were_out);
            self.desired = plan(&self.config, &self.facts, &self.ids, Some(&self.desired));
            self.note_departures(&was_out, None);
            self.stale = false;
            self.scope = None;
        }
        &self.desired
    }

    /// What all kinds of facts say of backends, where that is not what is believed of those of which nothing is known.
    fn beliefs(&self) -> BTreeMap<BackendKey, Belief> {
        let mut beliefs = self.health.beliefs().clone();
        for (key, drain) in self.drains.iter() {
            let belief = beliefs.entry(key.clone()).or_default();
            belief.drained = if drain.request.is_forced { Drained::Forced } else { Drained::Yes };
            belief.resets = drain.resets();
        }
        for (key, part) in self.ramps.iter() {
            let belief = beliefs.entry(key.clone()).or_default();
            belief.recovered = belief.recovered.min(part);
        }
        for (key, state) in self.breakers.not_closed() {
            beliefs.entry(key.clone()).or_default().breaker = state;
        }
        beliefs
    }

    /// Plans what follows from what is believed of these backends; false where everything is to be planned.
    fn plan_again(&mut self, changed: &BTreeSet<BackendKey>) -> bool {
        if self.stale {
            return false;
        }
        // More than can be otherwise now, and little.
        let pools = changed.iter().flat_map(|key| self.backend_ids(key)).collect::<Vec<_>>();
        let was_out = self.out(pools.iter());
        let known = (&*self.config, &self.facts, &self.ids);
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

    /// Of some backends, those that are kept out, and what becomes of their flows.
    fn out<'a>(&self, ids: impl Iterator<Item = &'a u32>) -> BTreeMap<u32, Fate> {
        ids.filter_map(|id| Some((*id, self.desired.backends.get(id)?.out?))).collect()
    }

    /// Where the plan may differ from what it was when this was asked last; none for anywhere.
    pub fn take_scope(&mut self) -> Option<Scope> {
        self.scope.replace(Scope::default())
    }

    /// Backends that are kept out from now on are of another generation: that tells flows of before.
    fn note_departures(&mut self, was_out: &BTreeMap<u32, Fate>, scope: Option<&Scope>) {
        let is_out = match scope {
            Some(scope) => self.out(scope.backends.iter()),
            None => self.out(self.desired.backends.keys()),
        };
        for (id, &fate) in is_out.iter().filter(|(id, fate)| was_out.get(id) != Some(fate)) {
            let Some(backend) = self.desired.backends.get_mut(id) else { continue };
            let service = u32::from(backend.value.service);
            let departure = self.ids.depart(*id, fate, service);
            backend.value.generation = departure.generation;
            backend.value.fate = fate as u8;
            self.resets |= fate == Fate::Reset;
        }
    }

    /// The configuration in force, with what names stand for.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The configuration in force, as it is written.
    pub fn written(&self) -> &Config {
        &self.written
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

/// The backends of which something else is believed.
fn differing(
    before: &BTreeMap<BackendKey, Belief>,
    after: &BTreeMap<BackendKey, Belief>,
) -> BTreeSet<BackendKey> {
    let is_other = |key: &&BackendKey| before.get(key) != after.get(key);
    before.keys().chain(after.keys()).filter(is_other).cloned().collect()
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
            (
                backend.id,
                backend.configured_weight.value(),
                backend.effective_weight.value(),
                backend.share,
            )
        });
        let expected =
            [(Some(0), 3.0, 3.0, 0.75), (Some(1), 1.0, 1.0, 1.0), (Some(2), 1.0, 1.0, 0.25)];
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
        state.ids = Ids::new(Limits { backends: 1, ..Default::default() });
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
