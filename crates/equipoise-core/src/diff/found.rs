//! What a process finds in maps that an earlier one has left: what has been applied, and whose ids are whose.
//!
//! Read before any step is taken. Whatever a killed process has left half done is in here as it stands, so that the next
//! difference goes on from the truth. Does not know how maps are read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use equipoise_common::key::HostKey;
use equipoise_common::value;

use super::applied::{Applied, AppliedPool};
use super::run::Run;
use crate::id::{Holder, Remembered};
use crate::plan::{Listed, Routed, Rule, ServiceKey};

/// What is in maps that are taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The service keys and their values.
    pub services: BTreeMap<ServiceKey, value::Service>,
    /// The pools: entry, and the slots of its run.
    pub pools: BTreeMap<u32, (value::Pool, Arc<[u32]>)>,
    /// The backends.
    pub backends: BTreeMap<u32, value::Backend>,
    /// How services treat their flows.
    pub policies: BTreeMap<u32, value::Policy>,
    /// The prefixes that are allowed and denied.
    pub access: BTreeMap<Listed, Rule>,
    /// The pools of sources that have a route.
    pub routes: BTreeMap<Routed, u32>,
    /// What replies of no flow become.
    pub replies: BTreeMap<ServiceKey, value::Reply>,
    /// Addresses of ours that packets to backends may come from.
    pub snat: BTreeMap<u64, value::Snat>,
    /// Addresses of backends that need help to reach each other.
    pub hairpins: BTreeSet<HostKey>,
    /// Who holds each service id.
    pub service_holders: BTreeMap<u32, Holder>,
    /// Who holds each pool id.
    pub pool_holders: BTreeMap<u32, Holder>,
    /// Who holds each backend id.
    pub backend_holders: BTreeMap<u32, Holder>,
}

impl Found {
    /// Whose ids are whose.
    pub fn remembered(&self) -> Remembered {
        Remembered {
            services: self.service_holders.clone(),
            pools: self.pool_holders.clone(),
            backends: self.backend_holders.clone(),
            entries: self.backends.clone(),
        }
    }
}

impl Applied {
    /// What has been found, with a slot array of this length. No packet holds anything of before any more.
    pub fn found(slots: u32, found: Found) -> Self {
        let mut applied = Self::new(slots);
        let holder = |id: &u32| found.pool_holders.get(id).copied().unwrap_or_default();
        for (id, (value, slots)) in found.pools {
            let run = Run::of(&value);
            // What lies across another's slots, or beyond the array, is put anew.
            if run.length > 0 && (slots.len() as u32 != run.length || !applied.room.is_free(run)) {
                continue;
            }
            applied.room.take(run);
            applied.pools.insert(id, AppliedPool { holder: holder(&id), value, slots });
        }
        Self {
            services: found.services,
            backends: found.backends,
            policies: found.policies,
            access: found.access,
            routes: found.routes,
            replies: found.replies,
            snat: found.snat,
            hairpins: found.hairpins,
            service_holders: found.service_holders,
            backend_holders: found.backend_holders,
            ..applied
        }
    }
}
