//! All that the control plane knows, and the plan that follows from it.
//!
//! Configuration and facts come in through `handle_` calls as they are learnt; [`State::plan`]
//! answers with what the data plane should be. Sans-IO: no clock, no sockets, no maps. What has
//! been applied is not kept here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use equipoise_common::key::{Address as _, V4};
use equipoise_common::value::{Backend, Fate, Snat};

use crate::breaker::{self, Breakers};
use crate::config::{self, Config};
use crate::diff::{Found, Scope};
use crate::drain::Drains;
use crate::facts::{Facts, Moment};
use crate::health::{Change, Effect, Health, Manual, Outcome, ProbeId, Standing};
use crate::id::{BackendKey, Ids, Limits, Mark, Named, Wanted};
use crate::plan::{Desired, Note};
use crate::ramp::Ramps;
use crate::resolve::{Absent, LeftOut, Names};
use crate::weight::Weight;

mod drains;
mod lasting;
mod names;
mod planning;
mod view;

pub use view::{BackendView, PoolView, ServiceView};

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
