//! What is in the maps, read back: by a process that goes on where another has ended.
//!
//! The reverse of taking steps, map by map. An entry that no step has written is left out, and is put anew or removed by the
//! difference that follows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aya::maps::MapError;
use equipoise_common::key::{Address, PortsKey};
use equipoise_common::limit;
use equipoise_common::value::{Kind, Policy, Pool, Reply, Service};
use equipoise_core::diff::{Found, Run};
use equipoise_core::id::Holder;
use equipoise_core::plan::{Routed, ServiceKey};

use super::mapped::Mapped;
use super::table::{SLOT, Tables, words};

impl Tables {
    /// Knows of the maps what whoever has written them knows.
    pub(super) fn learn(&mut self) -> Result<(), MapError> {
        for (known, entry) in self.known_backends.iter_mut().zip(self.backends.iter()) {
            *known = entry?;
        }
        for (known, entry) in self.known_policies.iter_mut().zip(self.policies.iter()) {
            *known = entry?;
        }
        let pools = self.held()?.remove(&(Kind::Pool as u32)).unwrap_or_default();
        self.known_pools = pools.into_iter().map(|(id, Holder(holder))| (id, holder)).collect();
        Ok(())
    }

    /// What is in the maps.
    pub(super) fn found(&mut self) -> Result<Found, MapError> {
        self.learn()?;
        let mut held = self.held()?;
        let mut holders = |kind: Kind| held.remove(&(kind as u32)).unwrap_or_default();
        let backends = numbered(&self.known_backends, |backend| backend.state != 0);
        let policies = numbered(&self.known_policies, |policy| *policy != Policy::default());
        let pool_holders = holders(Kind::Pool);
        Ok(Found {
            services: self.found_services()?,
            pools: pool_holders.keys().filter_map(|&id| Some((id, self.pool(id)?))).collect(),
            backends,
            policies,
            access: self.access.all()?,
            routes: self.found_routes()?,
            replies: self.found_replies()?,
            snat: self.snat.iter().collect::<Result<_, _>>()?,
            hairpins: self.hairpins.keys().collect::<Result<_, _>>()?,
            service_holders: holders(Kind::Service),
            backend_holders: holders(Kind::Backend),
            pool_holders,
        })
    }

    fn found_services(&self) -> Result<BTreeMap<ServiceKey, Service>, MapError> {
        let mut services = BTreeMap::new();
        for entry in self.services_v4.iter() {
            let (key, value) = entry?;
            services.insert(ServiceKey::V4(key), value);
        }
        for entry in self.services_v6.iter() {
            let (key, value) = entry?;
            services.insert(ServiceKey::V6(key), value);
        }
        for entry in self.ports_v4.iter() {
            let (key, value) = entry?;
            if let Some((key, bits)) = ports(key.prefix_len(), key.data()) {
                services.insert(ServiceKey::PortsV4(key, bits), value);
            }
        }
        for entry in self.ports_v6.iter() {
            let (key, value) = entry?;
            if let Some((key, bits)) = ports(key.prefix_len(), key.data()) {
                services.insert(ServiceKey::PortsV6(key, bits), value);
            }
        }
        Ok(services)
    }

    fn found_routes(&self) -> Result<BTreeMap<Routed, u32>, MapError> {
        let mut routes = BTreeMap::new();
        for entry in self.routes.iter() {
            let (key, pool) = entry?;
            if let Some(routed) = Routed::from_key(key.prefix_len(), key.data()) {
                routes.insert(routed, pool);
            }
        }
        Ok(routes)
    }

    fn found_replies(&self) -> Result<BTreeMap<ServiceKey, Reply>, MapError> {
        let mut replies = BTreeMap::new();
        for entry in self.replies_v4.iter() {
            let (key, value) = entry?;
            replies.insert(ServiceKey::V4(key), value);
        }
        for entry in self.replies_v6.iter() {
            let (key, value) = entry?;
            replies.insert(ServiceKey::V6(key), value);
        }
        Ok(replies)
    }

    /// A pool that has been put: its entry and its slots.
    fn pool(&self, id: u32) -> Option<(Pool, Arc<[u32]>)> {
        let at = id as usize * size_of::<Pool>();
        let word = |number: usize| {
            let word = self.pools.word(at + number * size_of::<u64>())?;
            Some(word.load(Ordering::Acquire))
        };
        let (place, more) = (word(0)?, word(1)?);
        let (offset, length) = words(place);
        let (epoch, pick) = words(more);
        // Each time that it is put its epoch is raised; a pool that is removed is zeroed.
        (epoch > 0).then(|| {
            let pool = Pool { offset, length, epoch, pick };
            (pool, slots(&self.slots, Run::of(&pool)))
        })
    }

    /// Who holds ids, by kind.
    fn held(&self) -> Result<BTreeMap<u32, BTreeMap<u32, Holder>>, MapError> {
        let mut held: BTreeMap<u32, BTreeMap<u32, Holder>> = BTreeMap::new();
        for entry in self.holders.iter() {
            let (key, holder) = entry?;
            let (id, kind) = words(key);
            held.entry(kind).or_default().insert(id, Holder(holder));
        }
        Ok(held)
    }
}

/// The slots of a run; fewer than it is long where it goes beyond the array.
fn slots(slots: &Mapped, run: Run) -> Arc<[u32]> {
    let end = run.offset.saturating_add(run.length).min(limit::SLOTS);
    let slot = |number: u32| Some(slots.half(number as usize * SLOT)?.load(Ordering::Relaxed));
    (run.offset..end).filter_map(slot).collect()
}

/// The entries of an array that are in use, by their place.
fn numbered<T: Copy>(all: &[T], is_used: impl Fn(&T) -> bool) -> BTreeMap<u32, T> {
    (0..).zip(all).filter(|(_, entry)| is_used(entry)).map(|(id, entry)| (id, *entry)).collect()
}

/// A key of ranges, and how many bits of its port count.
fn ports<A: Address>(bits: u32, key: PortsKey<A>) -> Option<(PortsKey<A>, u8)> {
    let of_port = bits.checked_sub(PortsKey::<A>::bits(0))?;
    Some((key, u8::try_from(of_port).ok().filter(|bits| *bits <= 16)?))
}
