//! What is known of a VIP as a whole, whatever the port: that it is one.
//!
//! For packets that have no port: echo requests, which are answered for a VIP that is not an address of this host.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use equipoise_common::key::{ICMP, ICMPV6};
use equipoise_common::limit;
use equipoise_common::value;

use super::{Desired, Draft, ServiceKey};
use crate::facts::Facts;
use crate::id::Family;

/// Places the VIPs that services name and no interface has: this host answers for its own addresses itself, which the
/// programs could not tell from addresses without a route. They are in the service maps, under the protocol that they are
/// for, and take the room that is left there.
pub(super) fn place(drafts: &[Draft<'_>], facts: &Facts, desired: &mut Desired) {
    let own: BTreeSet<IpAddr> =
        facts.interfaces.values().flat_map(|interface| interface.addresses.clone()).collect();
    let mut room = Family::ALL.map(|family| {
        let used = desired.services.keys().filter(|key| key.family() == family).count();
        (limit::SERVICE_KEYS as usize).saturating_sub(used)
    });
    let is_vip = |draft: &&Draft<'_>| {
        draft.service.listen.address.is_some_and(|address| !own.contains(&address))
    };
    let exact = drafts.iter().filter(is_vip);
    for (draft, key) in exact.flat_map(|draft| draft.keys.iter().map(move |key| (draft, key))) {
        let family = key.family();
        let protocol = if family == Family::V4 { ICMP } else { ICMPV6 };
        let whole = ServiceKey::new(SocketAddr::new(key.vip().ip(), 0), key.interface(), protocol);
        let room = &mut room[family as usize];
        if *room == 0 || desired.services.contains_key(&whole) {
            continue;
        }
        *room -= 1;
        let (_, pool) = draft.pools[family as usize];
        desired.services.insert(whole, value::Service { id: draft.id.number, pool });
    }
}
