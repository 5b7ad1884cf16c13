//! Pools, and room for their slots.

use std::collections::BTreeSet;
use std::sync::Arc;

use equipoise_common::value;

use super::Work;
use crate::diff::applied::AppliedPool;
use crate::diff::{Run, Step};
use crate::plan::PoolPlan;

impl Work<'_> {
    pub(super) fn put_pools(&mut self) {
        let waiting = std::mem::take(&mut self.pools);
        self.pools = waiting.into_iter().filter(|&id| !self.put_pool(id)).collect();
    }

    /// False when there is no room.
    fn put_pool(&mut self, id: u32) -> bool {
        let wanted = &self.desired.pools[&id];
        let there = self.applied.pools.get(&id);
        if let Some(there) = there.filter(|there| is_same_slots(&wanted.slots, &there.slots)) {
            let value = value::Pool { pick: wanted.pick_number(), ..there.value };
            self.steps.push(Step::PutPool { id, holder: wanted.holder, value });
            return true;
        }
        let Some(run) = self.write_slots(&wanted.slots) else { return false };
        self.room.take(run);
        let epoch = there.map_or(0, |there| there.value.epoch).wrapping_add(1);
        let Run { offset, length } = run;
        let value = value::Pool { offset, length, epoch, pick: wanted.pick_number() };
        self.steps.push(Step::PutPool { id, holder: wanted.holder, value });
        self.placed.insert(id);
        if let Some(there) = there {
            self.room.rest(Run::of(&there.value));
            self.unsettled = true;
        }
        true
    }

    /// Where the slots have been written, or none when there is no room.
    fn write_slots(&mut self, slots: &Arc<[u32]>) -> Option<Run> {
        if slots.is_empty() {
            return Some(Run::default());
        }
        // A try that failed after the writing is gone on with, so that it gets further each time.
        let mut written = self.applied.written.iter();
        if let Some((run, _)) =
            written.find(|(run, s)| is_same_slots(slots, s) && self.room.is_free(*run))
        {
            return Some(*run);
        }
        let run = self.find_room(slots.len() as u32)?;
        self.steps.push(Step::WriteSlots { run, slots: Arc::clone(slots) });
        Some(run)
    }

    fn find_room(&mut self, length: u32) -> Option<Run> {
        if let Some(run) = self.room.find(length) {
            return Some(run);
        }
        if !self.room.is_anything_resting() {
            return None;
        }
        self.settle();
        self.room.find(length)
    }

    pub(super) fn has_pool(&self, id: u32) -> bool {
        self.placed.contains(&id) || self.applied.pools.contains_key(&id)
    }

    /// Removes what neither service nor route leads to any more.
    pub(super) fn remove_pools(&mut self) {
        // What could not be put yet is still led by what it was.
        let services = self.services.iter().filter_map(|key| self.applied.services.get(key));
        let routes = self.routes.iter().chain(&self.unrouted);
        let routes = routes.filter_map(|routed| self.applied.routes.get(routed));
        let needed: BTreeSet<u32> =
            services.map(|service| service.pool).chain(routes.copied()).collect();
        let gone = std::mem::take(&mut self.gone);
        let (kept, gone): (Vec<u32>, Vec<u32>) =
            gone.into_iter().partition(|id| needed.contains(id));
        self.gone = kept;
        for id in gone {
            self.steps.push(Step::RemovePool { id });
            self.room.rest(Run::of(&self.applied.pools[&id].value));
            self.unsettled = true;
        }
    }

    /// Backends that slots still name which could not be given up.
    pub(super) fn needed(&self) -> BTreeSet<u32> {
        self.pools
            .iter()
            .chain(&self.gone)
            .filter_map(|id| self.applied.pools.get(id))
            .flat_map(|pool| pool.slots.iter().copied())
            .collect()
    }
}

pub(super) fn is_same_pool(wanted: &PoolPlan, there: &AppliedPool) -> bool {
    wanted.holder == there.holder
        && wanted.pick_number() == there.value.pick
        && is_same_slots(&wanted.slots, &there.slots)
}

/// Slots that have not been filled anew are the same allocation.
fn is_same_slots(wanted: &Arc<[u32]>, there: &Arc<[u32]>) -> bool {
    Arc::ptr_eq(wanted, there) || wanted == there
}
