//! Makes the maps what the plan says, step by step.
//!
//! The one path for start, reload, retry and rollback: the difference between what is known to be
//! in the maps and what should be, taken until it is done or a step fails. Each step that
//! succeeded is recorded, so that the next try goes on from the truth. When to try again is the
//! driver's business.

use std::io;

use equipoise_core::diff::{Applied, Difference, Scope, Step, Unplaced, diff, diff_within};
use equipoise_core::plan::{Desired, Rule};

use crate::dataplane::{Maps, StepError};

/// What is known to be in the maps, and the way to something else.
#[derive(Clone, Debug, Default)]
pub struct Applier {
    applied: Applied,
    /// Steps that have been taken ever.
    steps: u64,
    /// Whether lists have changed since it was asked.
    lists_changed: bool,
}

/// The maps are as desired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Converged {
    /// How many steps it took; 0 when nothing had changed.
    pub steps: usize,
}

impl Applier {
    /// For maps in which this is known to be.
    pub fn new(applied: Applied) -> Self {
        Self { applied, steps: 0, lists_changed: false }
    }

    /// What is in the maps.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// How many steps have been taken ever.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether clients may have come to be denied since this was last asked, whose flows are there still.
    pub fn take_newly_denied(&mut self) -> bool {
        let changed = std::mem::take(&mut self.lists_changed);
        changed && self.applied.access().values().any(|rule| *rule == Rule::Deny)
    }

    /// Takes the steps that lead to `desired`. When this returns, no packet in flight holds
    /// anything of before.
    ///
    /// # Errors
    ///
    /// When a step is refused, or there is no room for the slots of a pool. Packets flow by what
    /// is in the maps then, and another call goes on from there.
    pub fn converge(
        &mut self,
        maps: &mut impl Maps,
        desired: &Desired,
    ) -> Result<Converged, StepError> {
        let difference = diff(&self.applied, desired);
        self.take(maps, &difference)
    }

    /// So, where what is in the maps and what is desired can differ within a scope alone.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn converge_within(
        &mut self,
        maps: &mut impl Maps,
        desired: &Desired,
        scope: &Scope,
    ) -> Result<Converged, StepError> {
        let difference = diff_within(&self.applied, desired, scope);
        self.take(maps, &difference)
    }

    fn take(
        &mut self,
        maps: &mut impl Maps,
        Difference { steps, unplaced }: &Difference,
    ) -> Result<Converged, StepError> {
        for step in steps {
            maps.apply(step)?;
            self.applied.record(step);
            self.steps += 1;
            self.lists_changed |=
                matches!(step, Step::PutAccess { .. } | Step::RemoveAccess { .. });
        }
        match unplaced.first() {
            Some(&first) => Err(no_room(first)),
            None => Ok(Converged { steps: steps.len() }),
        }
    }
}

fn no_room(unplaced: Unplaced) -> StepError {
    let Unplaced { pool, slots } = unplaced;
    StepError {
        step: format!("write slots of pool {pool}"),
        source: io::Error::new(
            io::ErrorKind::StorageFull,
            format!("no room for {slots} slots in a row"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use equipoise_common::limit;
    use equipoise_core::config::parse;
    use equipoise_core::facts::{Facts, Interface};
    use equipoise_core::plan::ServiceKey;
    use equipoise_core::state::State;

    use super::*;
    use crate::dataplane::memory::{Contents, Fault, Memory};

    /// Two services, then one of them changed in every way, then the other alone.
    const CONFIGS: [&str; 3] = [
        "[[service]]
         name = 'web'
         listen = { interfaces = ['eth0'], port = 80 }
         backends = [
           { address = '10.0.0.1:80', weight = 3 }, { address = '10.0.0.2:80' },
           { address = '10.0.0.3:80' }, { address = '[fd00::1]:80' },
         ]
         [[service]]
         name = 'dns'
         listen = { interfaces = ['eth0'], address = '192.0.2.7', port = 53, protocol = 'both' }
         backends = [{ address = '10.0.0.1:53' }, { address = '10.0.0.2:53' }]",
        "[[service]]
         name = 'web'
         listen = { interfaces = ['eth0'], port = 8080 }
         algorithm = 'random'
         limits = { per-source = { rate = 5 }, allow = ['10.0.0.0/8'], deny = ['10.1.0.0/16'] }
         backends = [
           { address = '10.0.0.4:80' }, { address = '10.0.0.1:80', weight = 2 },
           { address = '[fd00::2]:80' }, { address = '[fd00::1]:80' },
         ]
         [[service]]
         name = 'dns'
         listen = { interfaces = ['eth0'], address = '192.0.2.7', port = 53, protocol = 'udp' }
         backends = [{ address = '10.0.0.1:53' }, { address = '10.0.0.2:53' }]",
        "[[service]]
         name = 'dns'
         listen = { interfaces = ['eth0'], address = '192.0.2.7', port = 53, protocol = 'udp' }
         backends = [{ address = '10.0.0.2:53' }]
         [settings.limits]
         deny = ['10.2.0.0/16']",
    ];

    /// Enough for the configurations, but not for two of them at once.
    const SLOTS: u32 = 20_000;

    fn state(text: &str) -> State {
        let addresses = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let eth0 = Interface { index: 2, addresses };
        let facts =
            Facts { interfaces: BTreeMap::from([("eth0".to_owned(), eth0)]), ..Facts::default() };
        State::new(parse("test.toml", text).unwrap().config, facts)
    }

    fn reconfigure(state: &mut State, text: &str) {
        state.handle_config(parse("test.toml", text).unwrap().config);
    }

    /// Tries until it is done; whatever stands in the maps between tries must be right as well.
    fn insist(applier: &mut Applier, maps: &mut Memory, desired: &Desired) {
        for _ in 0..1_000 {
            let converged = applier.converge(maps, desired);
            maps.check_references().unwrap();
            if converged.is_ok() {
                return;
            }
        }
        panic!("it does not come to an end");
    }

    /// What packets see: where the runs of slots lie is all the same to them.
    fn seen(maps: &Memory) -> (Contents, BTreeMap<u32, Vec<u32>>) {
        let mut contents = maps.contents().clone();
        let mut slots = BTreeMap::new();
        for (&id, pool) in &mut contents.pools {
            slots.insert(id, maps.slots(id).unwrap().to_vec());
            pool.offset = 0;
            pool.epoch = 0;
        }
        (contents, slots)
    }

    /// Lives through the configurations, with this fault in the maps throughout.
    fn live(fault: Fault) -> Vec<(Contents, BTreeMap<u32, Vec<u32>>)> {
        let mut state = state(CONFIGS[0]);
        let mut applier = Applier::new(Applied::new(SLOTS));
        let mut maps = Memory::new(SLOTS);
        maps.inject(fault);
        let mut after = Vec::new();
        for text in CONFIGS {
            reconfigure(&mut state, text);
            insist(&mut applier, &mut maps, state.plan());
            after.push(seen(&maps));
        }
        after
    }

    #[test]
    fn whichever_step_is_refused_the_maps_come_to_be_the_same() {
        let right = live(Fault::Never);
        for number in 1..100 {
            assert_eq!(live(Fault::Once(number)), right, "step {number} refused");
        }
    }

    #[test]
    fn maps_that_refuse_every_other_step_come_to_be_the_same() {
        let right = live(Fault::Never);
        for number in 2..6 {
            assert_eq!(live(Fault::Every(number)), right, "every step {number} refused");
        }
    }

    /// What live backends there are at each service key, whatever their ids: each with the part of the slots that it has.
    fn meant(maps: &Memory) -> BTreeMap<ServiceKey, BTreeMap<SocketAddr, usize>> {
        let Contents { services, backends, .. } = maps.contents();
        let mut meant = BTreeMap::new();
        for (key, service) in services {
            let places: &mut BTreeMap<SocketAddr, usize> = meant.entry(*key).or_default();
            for slot in maps.slots(service.pool).unwrap() {
                *places.entry(backends[slot].place()).or_default() += 1;
            }
        }
        meant
    }

    #[test]
    fn a_process_killed_between_any_two_steps_is_healed_by_the_next() {
        for (before, after) in [(0, 1), (1, 2), (2, 0), (1, 1)] {
            let mut state = state(CONFIGS[before]);
            let (mut applier, mut maps) = (Applier::default(), Memory::default());
            applier.converge(&mut maps, state.plan()).unwrap();
            let facts = state.facts().clone();
            reconfigure(&mut state, CONFIGS[after]);
            let steps = diff(applier.applied(), state.plan()).steps;
            let mut right = maps.clone();
            applier.converge(&mut right, state.plan()).unwrap();
            for killed_after in 0..=steps.len() {
                let mut maps = maps.clone();
                steps[..killed_after].iter().for_each(|step| maps.apply(step).unwrap());
                let found = maps.found();
                let config = parse("test.toml", CONFIGS[after]).unwrap().config;
                let mut next = State::new(config, facts.clone());
                next.take_over(&found);
                let mut applier = Applier::new(Applied::found(limit::SLOTS, found));
                // As the programs of before have left the maps.
                maps.apply(&Step::Grace).unwrap();
                let healed = applier.converge(&mut maps, next.plan()).unwrap();
                assert_eq!(maps.check_references(), Ok(()), "after {killed_after} steps");
                assert_eq!(meant(&maps), meant(&right), "after {killed_after} steps");
                assert_eq!(applier.converge(&mut maps, next.plan()).unwrap().steps, 0);
                if killed_after == steps.len() {
                    let taken = healed.steps;
                    assert_eq!((taken, seen(&maps)), (0, seen(&right)), "nothing was left to do");
                }
            }
        }
    }

    #[test]
    fn nothing_is_done_when_nothing_has_changed() {
        let mut state = state(CONFIGS[0]);
        let (mut applier, mut maps) = (Applier::default(), Memory::default());
        assert!(applier.converge(&mut maps, state.plan()).unwrap().steps > 0);
        assert_eq!(applier.converge(&mut maps, state.plan()).unwrap(), Converged { steps: 0 });
    }

    #[test]
    fn who_is_denied_is_asked_for_once_also_after_a_failure() {
        let mut state = state(CONFIGS[0]);
        let (mut applier, mut maps) = (Applier::default(), Memory::default());
        applier.converge(&mut maps, state.plan()).unwrap();
        assert!(!applier.take_newly_denied());
        reconfigure(&mut state, CONFIGS[1]);
        // Denied prefixes are put first.
        maps.inject(Fault::Once(3));
        assert!(applier.converge(&mut maps, state.plan()).is_err());
        assert!(applier.take_newly_denied());
        assert!(!applier.take_newly_denied());
        applier.converge(&mut maps, state.plan()).unwrap();
        assert!(!applier.take_newly_denied());
        assert_eq!(maps.contents().access.len(), 2);
    }

    #[test]
    fn refusal_says_what_was_tried_and_why_not() {
        let mut state = state(CONFIGS[2]);
        let (mut applier, mut maps) = (Applier::default(), Memory::default());
        maps.inject(Fault::Once(6));
        let refused = applier.converge(&mut maps, state.plan()).unwrap_err().to_string();
        assert!(refused.starts_with("put backend 0: 10.0.0.2:53 of service 0: "), "{refused}");
    }

    #[test]
    fn counters_go_on_for_a_backend_that_comes_back() {
        let mut state = state(CONFIGS[0]);
        let (mut applier, mut maps) = (Applier::default(), Memory::default());
        for text in CONFIGS {
            reconfigure(&mut state, text);
            applier.converge(&mut maps, state.plan()).unwrap();
            maps.backend_traffic(0).new_flows += 1;
        }
        reconfigure(&mut state, CONFIGS[0]);
        applier.converge(&mut maps, state.plan()).unwrap();
        assert_eq!(maps.backend_traffic(0).new_flows, 3);
    }

    #[test]
    fn pool_for_which_there_is_no_room_is_an_error_and_the_rest_is_applied() {
        let mut state = state(CONFIGS[0]);
        let mut applier = Applier::new(Applied::new(5_000));
        let mut maps = Memory::new(5_000);
        let error = applier.converge(&mut maps, state.plan()).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull, "{error}");
        maps.check_references().unwrap();
        assert_eq!(maps.contents().services.len(), 2);
    }
}
