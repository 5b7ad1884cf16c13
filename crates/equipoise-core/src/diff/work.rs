//! A difference in the making: the steps so far, and what is still to be done.

mod access;
mod backends;
mod pools;
mod services;

use std::cmp::Reverse;
use std::collections::BTreeSet;

use self::pools::is_same_pool;
use super::run::Room;
use super::{Applied, Difference, Step, Unplaced, sides};
use crate::plan::{Desired, Listed, Routed, ServiceKey};

/// A difference in the making: what the maps will be like after `steps`.
pub(super) struct Work<'a> {
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
    pub(super) fn new(applied: &'a Applied, desired: &'a Desired) -> Self {
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

    /// All of it, in the order of its steps.
    pub(super) fn difference(mut self) -> Difference {
        self.put_access();
        self.put_policies();
        self.put_snat();
        self.put_backends();
        self.put_pools();
        self.put_routes();
        self.put_services();
        self.follow_replies();
        self.remove_services();
        self.remove_access();
        self.remove_routes();
        self.remove_pools();
        // What has been given up by now may be the room that a pool was missing. Each round gives up
        // something more, or it is the last.
        while self.settle() && !self.pools.is_empty() {
            self.put_pools();
            self.put_routes();
            self.put_services();
            self.remove_access();
            self.remove_routes();
            self.remove_pools();
        }
        let needed = self.needed();
        self.remove_backends(&needed);
        self.remove_snat(&needed);
        let unplaced = self
            .pools
            .iter()
            .map(|&pool| Unplaced { pool, slots: self.desired.pools[&pool].slots.len() as u32 })
            .collect();
        Difference { steps: self.steps, unplaced }
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
}
