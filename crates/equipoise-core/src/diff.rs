//! The difference between what is in the maps and what should be, as ordered steps.
//!
//! *Every prefix* of the steps is a state that packets may see: what is referred to is put before
//! what refers to it and removed after it; the slots of a pool are replaced whole, in a run that
//! no packet reads, and the old run is written again only after a grace period. So a failure
//! leaves working maps, and start, reload, retry and rollback are one path: [`diff`] again.
//! Does not know how steps are taken.

mod applied;
mod found;
mod run;
mod step;

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use equipoise_common::value;

pub use self::applied::Applied;
use self::applied::AppliedPool;
pub use self::found::Found;
use self::run::Room;
pub use self::run::Run;
pub use self::step::Step;
pub(crate) use self::step::{
    describe_backend, describe_policy, describe_reply, describe_snat, traits,
};
use crate::plan::{BackendPlan, Desired, Listed, PoolPlan, Routed, Rule, ServiceKey};

/// What is left to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// In the order in which they are to be taken.
    pub steps: Vec<Step>,
    /// What the steps do not reach.
    pub unplaced: Vec<Unplaced>,
}

/// A pool for whose new slots there is no room, even after a grace period.
///
/// It keeps the slots that it has; a pool that has none yet stays out, with its services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unplaced {
    /// The pool.
    pub pool: u32,
    /// How many slots it needs.
    pub slots: u32,
}

impl fmt::Display for Unplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, slots } = self;
        write!(f, "no room for {slots} slots of pool {pool}: it stays as it is")
    }
}

/// The steps from `applied` to `desired`; none when they agree.
pub fn diff(applied: &Applied, desired: &Desired) -> Difference {
    let mut work = Work::new(applied, desired);
    work.put_access();
    work.put_policies();
    work.put_snat();
    work.put_backends();
    work.put_pools();
    work.put_routes();
    work.put_services();
    work.follow_replies();
    work.remove_services();
    work.remove_access();
    work.remove_routes();
    work.remove_pools();
    // What has been given up by now may be the room that a pool was missing. Each round gives up
    // something more, or it is the last.
    while work.settle() && !work.pools.is_empty() {
        work.put_pools();
        work.put_routes();
        work.put_services();
        work.remove_access();
        work.remove_routes();
        work.remove_pools();
    }
    let needed = work.needed();
    work.remove_backends(&needed);
    work.remove_snat(&needed);
    let unplaced = work
        .pools
        .iter()
        .map(|&pool| Unplaced { pool, slots: desired.pools[&pool].slots.len() as u32 })
        .collect();
    Difference { steps: work.steps, unplaced }
}

/// Where two plans may differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// In these pools.
    pub pools: BTreeSet<u32>,
    /// In these backends.
    pub backends: BTreeSet<u32>,
}

/// As [`diff`], of what differs within a scope alone.
pub fn diff_within(applied: &Applied, desired: &Desired, scope: &Scope) -> Difference {
    let part = Desired {
        pools: within(&desired.pools, &scope.pools),
        backends: within(&desired.backends, &scope.backends),
        ..Desired::default()
    };
    diff(&applied.within(scope), &part)
}

fn within<V: Clone>(all: &BTreeMap<u32, V>, ids: &BTreeSet<u32>) -> BTreeMap<u32, V> {
    ids.iter().filter_map(|id| Some((*id, all.get(id)?.clone()))).collect()
}

/// A difference in the making: what the maps will be like after `steps`.
struct Work<'a> {
    applied: &'a Applied,
    desired: &'a Desired,
    steps: Vec<Step>,
    room: Room,
    unsettled: bool,
    /// Pools that the steps put.
    placed: BTreeSet<u32>,
    /// Pools that are still to be put.
    pools: Vec<u32>,
    /// Prefixes of which lists are still to say nothing any more.
    unlisted: Vec<Listed>,
    /// Prefixes of sources that are still to be given a pool.
    routes: Vec<Routed>,
    /// Prefixes of sources that are still to lose theirs.
    unrouted: Vec<Routed>,
    /// Services that are still to be put.
    services: Vec<ServiceKey>,
    /// Pools that are still to be removed.
    gone: Vec<u32>,
}

impl<'a> Work<'a> {
    fn new(applied: &'a Applied, desired: &'a Desired) -> Self {
        let mut work = Self {
            applied,
            desired,
            steps: Vec::new(),
            room: applied.room.clone(),
            unsettled: applied.unsettled,
            placed: BTreeSet::new(),
            pools: Vec::new(),
            unlisted: Vec::new(),
            routes: Vec::new(),
            unrouted: Vec::new(),
            services: Vec::new(),
            gone: Vec::new(),
        };
        for (&id, wanted, there) in sides(&desired.pools, &applied.pools) {
            match (wanted, there) {
                (Some(wanted), Some(there)) if !is_same_pool(wanted, there) => work.pools.push(id),
                (Some(_), None) => work.pools.push(id),
                (None, Some(_)) => work.gone.push(id),
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        let lists = sides(&desired.access, &applied.access);
        work.unlisted =
            lists.filter(|(_, wanted, _)| wanted.is_none()).map(|(&listed, ..)| listed).collect();
        for (&routed, wanted, there) in sides(&desired.routes, &applied.routes) {
            match (wanted, there) {
                (Some(_), _) if wanted != there => work.routes.push(routed),
                (None, Some(_)) => work.unrouted.push(routed),
                (Some(_), _) | (None, None) => {}
            }
        }
        // As below: longer prefixes come first and go last.
        work.routes.sort_by_key(|routed| Reverse(routed.prefix.length));
        work.unrouted.sort_by_key(|routed| routed.prefix.length);
        for (&key, wanted, there) in sides(&desired.services, &applied.services) {
            if wanted.is_some() && wanted != there {
                work.services.push(key);
            }
        }
        // Of two keys that fit a port, the one that is meant comes first, so that no packet is led by the other meanwhile;
        // and goes last.
        work.services.sort_by_key(|key| Reverse(key.port_bits()));
        work
    }

    /// Before the policies that make the programs look for them.
    fn put_access(&mut self) {
        for (&listed, wanted, there) in sides(&self.desired.access, &self.applied.access) {
            if let Some(&rule) = wanted.filter(|_| wanted != there) {
                self.steps.push(Step::PutAccess { listed, rule });
                // A packet that was let in may still open its flow, which is to be ended as well.
                self.unsettled |= rule == Rule::Deny;
            }
        }
    }

    /// After the policies, which may have kept out what is in no list, and the services that are no more.
    fn remove_access(&mut self) {
        let led = self.led();
        for listed in std::mem::take(&mut self.unlisted) {
            let is_asked = listed.service.map_or(!led.is_empty(), |id| led.contains(&id));
            if is_asked {
                self.unlisted.push(listed);
                continue;
            }
            self.steps.push(Step::RemoveAccess { listed });
            self.unsettled = true;
        }
    }

    /// Services that keys still lead to which are to lead to others as soon as these can be put.
    fn led(&self) -> BTreeSet<u32> {
        let there = self.services.iter().filter_map(|key| self.applied.services.get(key));
        there.map(|service| service.id).collect()
    }

    fn put_policies(&mut self) {
        for (&id, wanted, there) in sides(&self.desired.policies, &self.applied.policies) {
            if let Some(&value) = wanted.filter(|_| wanted != there) {
                self.steps.push(Step::PutPolicy { id, value });
            }
        }
    }

    fn put_backends(&mut self) {
        let (applied, desired) = (self.applied, self.desired);
        for (&id, wanted, there) in sides(&desired.service_holders, &applied.service_holders) {
            if let Some(&holder) = wanted.filter(|_| wanted != there) {
                self.steps.push(Step::ResetServiceCounters { id, holder });
            }
        }
        for (&id, wanted, there) in sides(&desired.backends, &applied.backend_holders) {
            if let Some(backend) = wanted.filter(|b| !b.is_gone() && there != Some(&b.holder)) {
                self.steps.push(Step::ResetBackendCounters { id, holder: backend.holder });
            }
        }
        for (&id, wanted, there) in sides(&desired.backends, &applied.backends) {
            let is_next = |b: &&BackendPlan| {
                !b.is_gone() && there != Some(&b.value) && !has_fallen(there, &b.value)
            };
            if let Some(backend) = wanted.filter(is_next) {
                self.steps.push(Step::PutBackend { id, value: backend.value });
            }
        }
    }

    /// Before the backends that say how many there are.
    fn put_snat(&mut self) {
        for (&key, wanted, there) in sides(&self.desired.snat, &self.applied.snat) {
            if let Some(&value) = wanted.filter(|_| wanted != there) {
                self.steps.push(Step::PutSnat { key, value });
            }
        }
        let (desired, applied) = (&self.desired.hairpins, &self.applied.hairpins);
        self.steps.extend(desired.difference(applied).map(|&key| Step::PutHairpin { key }));
        self.steps.extend(applied.difference(desired).map(|&key| Step::RemoveHairpin { key }));
    }

    /// After the backends that have said so; those that stay as they are still do.
    fn remove_snat(&mut self, needed: &BTreeSet<u32>) {
        for (&key, wanted, there) in sides(&self.desired.snat, &self.applied.snat) {
            let backend = (key >> 32) as u32;
            if wanted.is_none() && there.is_some() && !needed.contains(&backend) {
                self.steps.push(Step::RemoveSnat { key });
            }
        }
    }

    fn put_pools(&mut self) {
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

    /// Before the services whose packets look for them. Of a service for one of whose routes there is no pool yet, those
    /// that are shorter wait, too: else sources of the longer one would be led by them meanwhile.
    fn put_routes(&mut self) {
        let mut waiting = BTreeSet::new();
        for routed in std::mem::take(&mut self.routes) {
            let pool = self.desired.routes[&routed];
            if waiting.contains(&routed.service) || !self.has_pool(pool) {
                waiting.insert(routed.service);
                self.routes.push(routed);
                continue;
            }
            self.steps.push(Step::PutRoute { routed, pool });
            self.unsettled |= self.applied.routes.contains_key(&routed);
        }
    }

    /// After the services that are no more, and after the routes that come in place of these.
    fn remove_routes(&mut self) {
        let mut waiting = self.waiting();
        waiting.extend(self.led());
        for routed in std::mem::take(&mut self.unrouted) {
            if waiting.contains(&routed.service) {
                self.unrouted.push(routed);
                continue;
            }
            self.steps.push(Step::RemoveRoute { routed });
            self.unsettled = true;
        }
    }

    /// Services that have routes still to be put.
    fn waiting(&self) -> BTreeSet<u32> {
        self.routes.iter().map(|routed| routed.service).collect()
    }

    fn has_pool(&self, id: u32) -> bool {
        self.placed.contains(&id) || self.applied.pools.contains_key(&id)
    }

    fn put_services(&mut self) {
        let routes = self.waiting();
        let waiting = std::mem::take(&mut self.services);
        self.services =
            waiting.into_iter().filter(|&key| !self.put_service(key, &routes)).collect();
    }

    /// False while a pool of it is not there.
    fn put_service(&mut self, key: ServiceKey, waiting: &BTreeSet<u32>) -> bool {
        let value = self.desired.services[&key];
        if !self.has_pool(value.pool) || waiting.contains(&value.id) {
            return false;
        }
        self.steps.push(Step::PutService { key, value });
        self.unsettled |= self.applied.services.contains_key(&key);
        true
    }

    /// What replies of no flow become. Whoever looks one up looks nothing else up, so order does not matter.
    fn follow_replies(&mut self) {
        for (&key, wanted, there) in sides(&self.desired.replies, &self.applied.replies) {
            match (wanted, there) {
                (Some(&value), there) if there != Some(&value) => {
                    self.steps.push(Step::PutReply { key, value });
                }
                (None, Some(_)) => self.steps.push(Step::RemoveReply { key }),
                (Some(_), _) | (None, None) => {}
            }
        }
    }

    fn remove_services(&mut self) {
        let sides = sides(&self.desired.services, &self.applied.services);
        let mut gone: Vec<ServiceKey> =
            sides.filter(|(_, wanted, _)| wanted.is_none()).map(|(&key, ..)| key).collect();
        gone.sort_by_key(ServiceKey::port_bits);
        self.unsettled |= !gone.is_empty();
        self.steps.extend(gone.into_iter().map(|key| Step::RemoveService { key }));
    }

    /// Removes what neither service nor route leads to any more.
    fn remove_pools(&mut self) {
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

    /// Waits until no packet in flight holds anything that has gone; false when there is nothing.
    fn settle(&mut self) -> bool {
        if !self.unsettled && !self.room.is_anything_resting() {
            return false;
        }
        self.steps.push(Step::Grace);
        self.room.rested();
        self.unsettled = false;
        true
    }

    /// Backends that slots still name which could not be given up.
    fn needed(&self) -> BTreeSet<u32> {
        self.pools
            .iter()
            .chain(&self.gone)
            .filter_map(|id| self.applied.pools.get(id))
            .flat_map(|pool| pool.slots.iter().copied())
            .collect()
    }

    /// Removes what no slot names any more, or leaves it to its flows.
    fn remove_backends(&mut self, needed: &BTreeSet<u32>) {
        for (&id, wanted, there) in sides(&self.desired.backends, &self.applied.backends) {
            let Some(there) = there.filter(|_| !needed.contains(&id)) else { continue };
            match wanted {
                None => self.steps.push(Step::RemoveBackend { id }),
                // Flows are told only when the slots do not lead there any more: they would choose it again.
                Some(plan)
                    if (plan.is_gone() && plan.value != *there)
                        || has_fallen(Some(there), &plan.value) =>
                {
                    self.steps.push(Step::PutBackend { id, value: plan.value });
                }
                Some(_) => {}
            }
        }
    }
}

/// Whether a backend that stays has gone down since.
fn has_fallen(there: Option<&value::Backend>, wanted: &value::Backend) -> bool {
    let holder = |b: &value::Backend| (b.state, b.address, b.port, b.service);
    there.is_some_and(|there| {
        holder(there) == holder(wanted) && there.generation != wanted.generation
    })
}

fn is_same_pool(wanted: &PoolPlan, there: &AppliedPool) -> bool {
    wanted.holder == there.holder
        && wanted.pick_number() == there.value.pick
        && is_same_slots(&wanted.slots, &there.slots)
}

/// Slots that have not been filled anew are the same allocation.
fn is_same_slots(wanted: &Arc<[u32]>, there: &Arc<[u32]>) -> bool {
    Arc::ptr_eq(wanted, there) || wanted == there
}

/// Both maps side by side, in the order of their keys.
fn sides<'a, K: Ord, A, B>(
    left: &'a BTreeMap<K, A>,
    right: &'a BTreeMap<K, B>,
) -> impl Iterator<Item = (&'a K, Option<&'a A>, Option<&'a B>)> {
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((l, _)), Some((r, _))) => l.cmp(r),
        };
        let from_left = if order.is_le() { left.next() } else { None };
        let from_right = if order.is_ge() { right.next() } else { None };
        let key = from_left.map(|(key, _)| key).or(from_right.map(|(key, _)| key))?;
        Some((key, from_left.map(|(_, value)| value), from_right.map(|(_, value)| value)))
    })
}

#[cfg(test)]
mod tests;
