//! What replies become that answer packets which were not remembered.
//!
//! Without a flow, the backend's address, port and protocol alone must say which VIP and port a reply goes out from: so
//! it is for backends that serve one address of one service alone, and on each of their ports one port of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use equipoise_common::key::Be16;
use equipoise_common::value;

use super::{Desired, Draft, Placed, ServiceKey};
use crate::config::Mode;
use crate::id::Family;

/// What a backend's ports are claimed by: one port, or a range of those that keep the client's.
type Claims = BTreeMap<(SocketAddr, u32), Claim>;

struct Claim {
    first: u16,
    last: u16,
    /// None where two claim it.
    reply: Option<value::Reply>,
}

/// Places what is unambiguous.
pub(super) fn place(drafts: &[Draft<'_>], desired: &mut Desired) {
    let mut claims = Claims::new();
    // An address of ours says nothing of a client; what has not come by us needs no translation.
    let translated = |draft: &&Draft<'_>| draft.service.delivery.mode == Mode::Nat;
    for draft in drafts.iter().filter(translated) {
        // Two pools of a service that share a backend answer alike; the first counts.
        let mut seen = BTreeSet::new();
        for Placed { backend, id } in draft.backends() {
            let Some((id, _)) = id.filter(|_| seen.insert(backend.address)) else { continue };
            let reply = value::Reply {
                service: draft.id.number,
                backend: id.number,
                ..value::Reply::default()
            };
            for (protocol, vips) in vips(draft, Family::of(backend.address.ip())) {
                claim(&mut claims, (backend.address, protocol), &vips, reply);
            }
        }
    }
    part_ranges(&mut claims);
    let unambiguous = claims.into_iter().filter_map(|((backend, protocol), claim)| {
        Some((ServiceKey::new(backend, 0, protocol), claim.reply?))
    });
    desired.replies = unambiguous.collect();
}

/// The addresses and ports that a service is reached by.
#[derive(Default)]
struct Vips {
    ports: BTreeSet<SocketAddr>,
    /// First and last port of those that are on ranges.
    ranges: BTreeMap<IpAddr, (u16, u16)>,
}

/// By protocol, in a family.
fn vips(draft: &Draft<'_>, family: Family) -> BTreeMap<u32, Vips> {
    let mut vips: BTreeMap<u32, Vips> = BTreeMap::new();
    for key in draft.keys.iter().filter(|key| key.family() == family) {
        let (vip, vips) = (key.vip(), vips.entry(key.protocol()).or_default());
        match key {
            ServiceKey::V4(_) | ServiceKey::V6(_) => {
                vips.ports.insert(vip);
            }
            ServiceKey::PortsV4(..) | ServiceKey::PortsV6(..) => {
                let (first, last) = vips.ranges.entry(vip.ip()).or_insert((vip.port(), 0));
                *first = vip.port().min(*first);
                *last = key.last_port().max(*last);
            }
        }
    }
    vips
}

/// Claims the ports at which a service's packets arrive at a backend.
fn claim(claims: &mut Claims, at: (SocketAddr, u32), vips: &Vips, reply: value::Reply) {
    let (backend, protocol) = at;
    let mut add = |port: u16, claim: Claim| {
        // A second claim makes it ambiguous, whatever it says.
        let key = (SocketAddr::new(backend.ip(), port), protocol);
        let join = |other: &mut Claim| {
            let (first, last) = (claim.first.min(other.first), claim.last.max(other.last));
            *other = Claim { first, last, reply: None };
        };
        claims.entry(key).and_modify(join).or_insert(claim);
    };
    let from = |vip: SocketAddr| value::Reply {
        vip: vip.ip().into(),
        port: Be16::new(vip.port()),
        ..reply
    };
    if backend.port() != 0 {
        let only = vips.ports.first().filter(|_| vips.ports.len() == 1 && vips.ranges.is_empty());
        let (first, last) = (backend.port(), backend.port());
        add(first, Claim { first, last, reply: only.copied().map(from) });
        return;
    }
    for &vip in &vips.ports {
        let (first, last) = (vip.port(), vip.port());
        add(first, Claim { first, last, reply: Some(from(vip)) });
    }
    for (&ip, &(first, last)) in &vips.ranges {
        let kept = from(SocketAddr::new(ip, 0));
        let reply = value::Reply { first: Be16::new(first), last: Be16::new(last), ..kept };
        add(0, Claim { first, last, reply: Some(reply) });
    }
}

/// A port that is claimed by itself and in a range is ambiguous, and the range with it.
fn part_ranges(claims: &mut Claims) {
    let is_range = |&(&(backend, _), _): &(&(SocketAddr, u32), &Claim)| backend.port() == 0;
    let ranges: Vec<_> = claims
        .iter()
        .filter(is_range)
        .map(|(&(backend, protocol), claim)| (backend, protocol, claim.first, claim.last))
        .collect();
    for (backend, protocol, first, last) in ranges {
        let at = |port, protocol| (SocketAddr::new(backend.ip(), port), protocol);
        let within = claims.range_mut(at(first.max(1), 0)..=at(last, u32::MAX));
        let mut clashing = within.filter(|((_, other), _)| *other == protocol).peekable();
        if clashing.peek().is_none() {
            continue;
        }
        clashing.for_each(|(_, claim)| claim.reply = None);
        if let Some(range) = claims.get_mut(&(backend, protocol)) {
            range.reply = None;
        }
    }
}
