//! What replies become that answer packets which were not remembered.
//!
//! Without a flow, the backend's address, port and protocol alone must say which VIP a reply goes out from: so it
//! is for backends that serve one address and one port of one service alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use equipoise_common::key::Be16;
use equipoise_common::value;

use super::{Desired, Draft, Placed, ServiceKey};
use crate::id::Family;

/// Places what is unambiguous.
pub(super) fn place(drafts: &[Draft<'_>], desired: &mut Desired) {
    let mut found: BTreeMap<ServiceKey, Option<value::Reply>> = BTreeMap::new();
    for draft in drafts {
        for Placed { backend, id } in &draft.backends {
            let Some((id, _)) = id else { continue };
            let family = Family::of(backend.address.ip());
            for (protocol, vips) in vips(draft, family) {
                let key = ServiceKey::new(backend.address, 0, protocol);
                let only = vips.first().filter(|_| vips.len() == 1);
                let reply = only.map(|vip| value::Reply {
                    vip: vip.ip().into(),
                    port: Be16::new(vip.port()),
                    service: draft.id.number,
                    backend: id.number,
                    ..value::Reply::default()
                });
                // A second service makes it ambiguous, whatever it says.
                found.entry(key).and_modify(|other| *other = None).or_insert(reply);
            }
        }
    }
    let unambiguous = found.into_iter().filter_map(|(key, reply)| Some((key, reply?)));
    desired.replies = unambiguous.collect();
}

/// The addresses and ports that a service is reached by in a family, by protocol.
fn vips(draft: &Draft<'_>, family: Family) -> BTreeMap<u32, BTreeSet<SocketAddr>> {
    let mut vips: BTreeMap<u32, BTreeSet<SocketAddr>> = BTreeMap::new();
    for key in draft.keys.iter().filter(|key| key.family() == family) {
        vips.entry(key.protocol()).or_default().insert(key.vip());
    }
    vips
}
