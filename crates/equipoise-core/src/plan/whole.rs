//! What is known of a VIP as a whole, whatever the port.
//!
//! For packets that have no port: echo requests, which are answered for a VIP that is not an address of this host, and
//! fragments that come before the first of their packet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use equipoise_common::key::{ICMP, ICMPV6};
use equipoise_common::limit;
use equipoise_common::value;

use super::{Desired, Draft, ServiceKey};
use crate::config::Fragments;
use crate::facts::Facts;
use crate::id::Family;

/// Places the VIPs that services name, once under protocol 0, and once under ICMP where no interface has the address: this
/// host answers for its own addresses itself, which the programs could not tell from addresses without a route. They are
/// in the service maps and take the room that is left there.
///
/// Of several services on a VIP it is one that does not choose by addresses alone that stands for all: which of
/// them a fragment is for nobody can tell.
pub(super) fn place(drafts: &[Draft<'_>], facts: &Facts, desired: &mut Desired) {
    let own: BTreeSet<IpAddr> =
        facts.interfaces.values().flat_map(|interface| interface.addresses.clone()).collect();
    let mut room = Family::ALL.map(|family| {
        let used = desired.services.keys().filter(|key| key.family() == family).count();
        (limit::SERVICE_KEYS as usize).saturating_sub(used)
    });
    for (key, service) in standing_for(drafts) {
        let family = key.family();
        let icmp = if family == Family::V4 { ICMP } else { ICMPV6 };
        let room = &mut room[family as usize];
        for protocol in [ServiceKey::ANY, icmp] {
            let vip = key.vip();
            if *room == 0 || protocol == icmp && own.contains(&vip.ip()) {
                continue;
            }
            *room -= 1;
            desired.services.insert(ServiceKey::new(vip, key.interface(), protocol), service);
        }
    }
}

/// For each VIP on each interface the service that stands for all.
fn standing_for(drafts: &[Draft<'_>]) -> BTreeMap<ServiceKey, value::Service> {
    let mut found: BTreeMap<ServiceKey, (value::Service, bool)> = BTreeMap::new();
    let exact = drafts.iter().filter(|draft| draft.service.listen.address.is_some());
    for (draft, key) in exact.flat_map(|draft| draft.keys.iter().map(move |key| (draft, key))) {
        let vip = SocketAddr::new(key.vip().ip(), 0);
        let whole = ServiceKey::new(vip, key.interface(), ServiceKey::ANY);
        let (_, pool) = draft.own.ids[key.family() as usize];
        let by_hash = draft.service.policy.fragments == Fragments::Hash;
        let service = value::Service { id: draft.id.number, pool: pool.number };
        let standing = found.entry(whole).or_insert((service, by_hash));
        if standing.1 && !by_hash {
            *standing = (service, by_hash);
        }
    }
    found.into_iter().map(|(key, (service, _))| (key, service)).collect()
}
