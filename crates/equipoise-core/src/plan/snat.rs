//! Addresses of ours that packets to backends come from: where the client's is replaced, where one backend reaches
//! another through a VIP, and outside of UDP tunnels.
//!
//! On addresses that this host has itself the kernel's own connections have their ports, and flows get the others.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use equipoise_common::key::{HostKey, V4, V6};
use equipoise_common::limit;
use equipoise_common::value::{Backend, Snat};

use super::{Desired, Draft, Note};
use crate::config::Mode;
use crate::facts::{Facts, OwnPorts};
use crate::id::{Gone, Ids};

/// Ports that are not for well-known services.
const FIRST: u16 = 1_024;

/// Gives backends their entries.
pub(super) fn place(drafts: &[Draft<'_>], ids: &Ids, facts: &Facts, desired: &mut Desired) {
    let interfaces = facts.interfaces.values().flat_map(|interface| &interface.addresses);
    let own: BTreeSet<IpAddr> = interfaces.chain(facts.sources.values()).copied().collect();
    let wide = Ports { first: FIRST, ports: u16::MAX - FIRST + 1 };
    let ports =
        |address: &IpAddr| if own.contains(address) { beside(facts.own_ports) } else { wide };
    for draft in drafts {
        let mut without = Vec::new();
        for placed in &draft.backends {
            let Some((id, _)) = placed.id else { continue };
            let address = placed.backend.address;
            let sources = sources(draft, address, facts);
            if sources.is_empty() && needs_one(draft.service.delivery.mode) {
                without.push(address);
            }
            put(desired, id.number, sources.iter().map(|source| (*source, ports(source))));
            if draft.service.delivery.mode == Mode::Nat {
                desired.hairpins.insert(host(address.ip()));
            }
        }
        if !without.is_empty() {
            let service = Arc::clone(&draft.name);
            desired.notes.push(Note::NoSourceAddress { service, backends: without });
        }
    }
    // Flows in a UDP tunnel are told the outer source anew with each packet.
    for Gone { id, address, .. } in ids.gone() {
        let source = facts.sources.get(&address.ip());
        put(desired, id.number, source.iter().map(|source| (**source, ports(source))));
    }
}

fn needs_one(mode: Mode) -> bool {
    match mode {
        Mode::FullNat | Mode::Gue => true,
        Mode::Nat | Mode::Dsr | Mode::Ipip => false,
    }
}

/// What packets to a backend may come from.
fn sources(draft: &Draft<'_>, backend: SocketAddr, facts: &Facts) -> Vec<IpAddr> {
    let named = draft.service.delivery.snat_addresses.iter().copied();
    let fits = |address: &IpAddr| address.is_ipv4() == backend.is_ipv4();
    match draft.service.delivery.mode {
        // A backend on this host would take what comes from its own address for a forgery.
        Mode::FullNat if facts.sources.contains_key(&backend.ip()) => {
            let named: Vec<_> = named.filter(fits).collect();
            if named.is_empty() { own(backend, facts) } else { named }
        }
        Mode::Nat | Mode::FullNat | Mode::Gue => own(backend, facts),
        Mode::Dsr | Mode::Ipip => Vec::new(),
    }
}

fn own(backend: SocketAddr, facts: &Facts) -> Vec<IpAddr> {
    facts.sources.get(&backend.ip()).copied().into_iter().collect()
}

fn put(desired: &mut Desired, id: u32, sources: impl Iterator<Item = (IpAddr, Ports)>) {
    let Some(backend) = desired.backends.get_mut(&id) else { return };
    for (entry, (source, Ports { first, ports })) in (0..).zip(sources) {
        if desired.snat.len() >= limit::SNAT as usize {
            return;
        }
        let value = Snat { address: V6::from(source), first, ports, reserved: 0 };
        desired.snat.insert(Snat::key(id, entry), value);
        backend.value.sources = entry as u8 + 1;
    }
}

fn host(address: IpAddr) -> HostKey {
    match address {
        IpAddr::V4(address) => HostKey::of(V4::from(address)),
        IpAddr::V6(address) => HostKey::of(V6::from(address)),
    }
}

/// So many ports from this one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    first: u16,
    ports: u16,
}

/// The larger part of what is left beside the kernel's own; all of it where nothing is left.
fn beside(OwnPorts(first, last): OwnPorts) -> Ports {
    let below = Ports { first: FIRST, ports: first.saturating_sub(FIRST) };
    let above = Ports { first: last.saturating_add(1), ports: u16::MAX - last };
    let larger = if below.ports >= above.ports { below } else { above };
    if larger.ports == 0 { Ports { first: FIRST, ports: u16::MAX - FIRST + 1 } } else { larger }
}

/// Whether a backend's mode byte says that its packets keep their VIP.
pub(super) fn mode(mode: Mode, address: SocketAddr) -> u8 {
    let family = if address.is_ipv6() { Backend::IS_V6 } else { 0 };
    mode.value() as u8 | family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_beside_the_kernels_own_are_the_larger_part() {
        let ports = |first, last| {
            let Ports { first, ports } = beside(OwnPorts(first, last));
            (first, ports)
        };
        assert_eq!(ports(32_768, 60_999), (1_024, 31_744));
        assert_eq!(ports(2_000, 40_000), (40_001, 25_535));
        assert_eq!(ports(1_024, 65_535), (1_024, 64_512));
    }
}
