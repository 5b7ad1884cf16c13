//! What should be in the maps, made anew where something has changed and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use equipoise_common::value::Fate;

use super::State;
use crate::diff::Scope;
use crate::id::BackendKey;
use crate::plan::{Desired, plan, plan_again};
use crate::weight::{Belief, Drained};

impl State {
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

    /// The plan may differ anywhere from what has been applied: somebody else has written.
    pub fn compare_all(&mut self) {
        self.scope = None;
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
}

/// The backends of which something else is believed.
fn differing(
    before: &BTreeMap<BackendKey, Belief>,
    after: &BTreeMap<BackendKey, Belief>,
) -> BTreeSet<BackendKey> {
    let is_other = |key: &&BackendKey| before.get(key) != after.get(key);
    before.keys().chain(after.keys()).filter(is_other).cloned().collect()
}
