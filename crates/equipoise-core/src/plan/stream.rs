//! Services whose TCP connections this host takes up itself, as whoever takes them up is told.
//!
//! Pools, weights and slots of such services are like those of any other; a pool that is streamed says so in its entry, by
//! which the packet programs leave its connections to the stack. Does not know who takes them up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use equipoise_common::key::TCP;

use super::pool::PoolDraft;
use super::{Desired, Draft};

/// A service with connections that this host takes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is reached: an address, and the first and the last of its ports there.
    pub spots: BTreeSet<(IpAddr, u16, u16)>,
    /// The pools, by family, of clients whose source has no route; by their ids.
    pub own: [u32; 2],
    /// So, of those that name one of these servers.
    pub names: BTreeMap<String, [u32; 2]>,
    /// Backends that are told who has connected, by their ids.
    pub told: BTreeSet<u32>,
}

/// Places what is streamed.
pub(super) fn place(drafts: &[Draft<'_>], desired: &mut Desired) {
    for draft in drafts.iter().filter(|draft| draft.pools().any(PoolDraft::is_streamed)) {
        let keys = draft.keys.iter().filter(|key| key.protocol() == TCP);
        let spots = keys.map(|key| (key.vip().ip(), key.vip().port(), key.last_port())).collect();
        let mut names = BTreeMap::new();
        for pool in &draft.routed {
            for name in pool.route().into_iter().flat_map(|route| &route.names) {
                names.insert(name.clone(), pool.numbers());
            }
        }
        let is_told = |placed: &&super::Placed<'_>| placed.backend.proxy_protocol.is_some();
        let told = draft.backends().filter(is_told).filter_map(|placed| placed.id);
        let stream = Stream {
            name: Arc::clone(&draft.name),
            spots,
            own: draft.own.numbers(),
            names,
            told: told.map(|(id, _)| id.number).collect(),
        };
        desired.streams.insert(draft.id.number, stream);
    }
}
