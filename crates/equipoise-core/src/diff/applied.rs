//! What is in the maps, as far as the control plane has been told.
//!
//! Every step that succeeded is recorded here and nothing else is, so that after a failure the
//! next difference starts from the truth. Does not know how steps are taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use equipoise_common::key::HostKey;
use equipoise_common::limit;
use equipoise_common::value;

use super::run::Room;
use super::{Run, Scope, Step, within};
use crate::id::Holder;
use crate::plan::{Listed, Routed, Rule, ServiceKey};

/// What is in the maps.
#[derive(Clone, Debug)]
pub struct Applied {
    pub(super) services: BTreeMap<ServiceKey, value::Service>,
    pub(super) pools: BTreeMap<u32, AppliedPool>,
    pub(super) backends: BTreeMap<u32, value::Backend>,
    pub(super) policies: BTreeMap<u32, value::Policy>,
    pub(super) access: BTreeMap<Listed, Rule>,
    pub(super) routes: BTreeMap<Routed, u32>,
    pub(super) replies: BTreeMap<ServiceKey, value::Reply>,
    pub(super) snat: BTreeMap<u64, value::Snat>,
    pub(super) hairpins: BTreeSet<HostKey>,
    /// Who holds each service id, and whose traffic its counters count.
    pub(super) service_holders: BTreeMap<u32, Holder>,
    /// Who holds each backend id. Stays when the backend goes, so that one that comes back goes on counting.
    pub(super) backend_holders: BTreeMap<u32, Holder>,
    pub(super) room: Room,
    /// Whether something that a packet in flight may hold has gone since the last grace period.
    pub(super) unsettled: bool,
    /// What has been written where no pool leads yet.
    pub(super) written: Vec<(Run, Arc<[u32]>)>,
}

/// A pool in the maps.
#[derive(Clone, Debug)]
pub(super) struct AppliedPool {
    pub(super) holder: Holder,
    pub(super) value: value::Pool,
    pub(super) slots: Arc<[u32]>,
}

impl Default for Applied {
    fn default() -> Self {
        Self::new(limit::SLOTS)
    }
}

impl Applied {
    /// Empty maps with a slot array of this length.
    pub fn new(slots: u32) -> Self {
        Self {
            services: BTreeMap::new(),
            pools: BTreeMap::new(),
            backends: BTreeMap::new(),
            policies: BTreeMap::new(),
            access: BTreeMap::new(),
            routes: BTreeMap::new(),
            replies: BTreeMap::new(),
            snat: BTreeMap::new(),
            hairpins: BTreeSet::new(),
            service_holders: BTreeMap::new(),
            backend_holders: BTreeMap::new(),
            room: Room::new(slots),
            unsettled: false,
            written: Vec::new(),
        }
    }

    /// What is in the maps within a scope, with the room that there is.
    pub(super) fn within(&self, scope: &Scope) -> Self {
        Self {
            pools: within(&self.pools, &scope.pools),
            backends: within(&self.backends, &scope.backends),
            backend_holders: within(&self.backend_holders, &scope.backends),
            room: self.room.clone(),
            unsettled: self.unsettled,
            written: self.written.clone(),
            ..Self::new(0)
        }
    }

    /// The service keys and their values.
    pub fn services(&self) -> &BTreeMap<ServiceKey, value::Service> {
        &self.services
    }

    /// The pools: id, entry, and the slots of its run.
    pub fn pools(&self) -> impl Iterator<Item = (u32, &value::Pool, &[u32])> {
        self.pools.iter().map(|(&id, pool)| (id, &pool.value, &*pool.slots))
    }

    /// The backends by id.
    pub fn backends(&self) -> &BTreeMap<u32, value::Backend> {
        &self.backends
    }

    /// How services treat their flows, by service id.
    pub fn policies(&self) -> &BTreeMap<u32, value::Policy> {
        &self.policies
    }

    /// The prefixes that are allowed and denied.
    pub fn access(&self) -> &BTreeMap<Listed, Rule> {
        &self.access
    }

    /// The pools of sources that have a route.
    pub fn routes(&self) -> &BTreeMap<Routed, u32> {
        &self.routes
    }

    /// What replies of no flow become.
    pub fn replies(&self) -> &BTreeMap<ServiceKey, value::Reply> {
        &self.replies
    }

    /// Addresses of ours that packets to backends may come from.
    pub fn snat(&self) -> &BTreeMap<u64, value::Snat> {
        &self.snat
    }

    /// Addresses of backends that need help to reach each other.
    pub fn hairpins(&self) -> &BTreeSet<HostKey> {
        &self.hairpins
    }

    /// Takes note that a step has been taken.
    pub fn record(&mut self, step: &Step) {
        match step {
            Step::ResetServiceCounters { id, holder } => {
                self.service_holders.insert(*id, *holder);
            }
            Step::ResetBackendCounters { id, holder } => {
                self.backend_holders.insert(*id, *holder);
            }
            Step::PutPolicy { id, value } => {
                self.policies.insert(*id, *value);
            }
            Step::PutAccess { listed, rule } => {
                self.access.insert(*listed, *rule);
                self.unsettled |= *rule == Rule::Deny;
            }
            Step::RemoveAccess { listed } => {
                self.access.remove(listed);
                self.unsettled = true;
            }
            Step::PutReply { key, value } => {
                self.replies.insert(*key, *value);
            }
            Step::RemoveReply { key } => {
                self.replies.remove(key);
            }
            Step::PutSnat { key, value } => {
                self.snat.insert(*key, *value);
            }
            Step::RemoveSnat { key } => {
                self.snat.remove(key);
            }
            Step::PutHairpin { key } => {
                self.hairpins.insert(*key);
            }
            Step::RemoveHairpin { key } => {
                self.hairpins.remove(key);
            }
            Step::PutBackend { id, value } => {
                self.backends.insert(*id, *value);
            }
            // The run stays free until a pool leads to it: until then nobody reads it.
            Step::WriteSlots { run, slots } => {
                self.written.retain(|(other, _)| !other.overlaps(*run));
                self.written.push((*run, Arc::clone(slots)));
            }
            Step::PutPool { id, holder, value } => self.record_pool(*id, *holder, *value),
            Step::PutRoute { routed, pool } => {
                self.unsettled |= self.routes.insert(*routed, *pool).is_some();
            }
            Step::RemoveRoute { routed } => {
                self.unsettled |= self.routes.remove(routed).is_some();
            }
            Step::PutService { key, value } => {
                self.unsettled |= self.services.insert(*key, *value).is_some();
            }
            Step::RemoveService { key } => {
                self.unsettled |= self.services.remove(key).is_some();
            }
            Step::RemovePool { id } => {
                if let Some(pool) = self.pools.remove(id) {
                    self.room.rest(Run::of(&pool.value));
                    self.unsettled = true;
                }
            }
            Step::RemoveBackend { id } => {
                self.backends.remove(id);
            }
            Step::Grace => {
                self.room.rested();
                self.unsettled = false;
            }
        }
    }

    fn record_pool(&mut self, id: u32, holder: Holder, value: value::Pool) {
        let run = Run::of(&value);
        let old = self.pools.remove(&id);
        let slots = match &old {
            Some(old) if Run::of(&old.value) == run => Arc::clone(&old.slots),
            Some(_) | None => self.take_written(run),
        };
        if let Some(old) = old.filter(|old| Run::of(&old.value) != run) {
            self.room.rest(Run::of(&old.value));
            self.unsettled = true;
        }
        self.room.take(run);
        self.pools.insert(id, AppliedPool { holder, value, slots });
    }
    fn take_written(&mut self, run: Run) -> Arc<[u32]> {
        let at = self.written.iter().position(|(written, _)| *written == run);
        at.map(|at| self.written.swap_remove(at).1).unwrap_or_default()
    }
}
