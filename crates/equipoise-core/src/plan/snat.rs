//! Addresses of ours that packets to backends come from: where the client's is replaced, where one backend reaches
//! another through a VIP, and outside of UDP tunnels. And the VIP that a backend is checked at, where it has packets as they are.
//!
//! On addresses that this host has itself the kernel's own connections have their ports, and flows get the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use equipoise_common::key::{HostKey, V4, V6};
use equipoise_common::limit;
use equipoise_common::value::{self, Snat};

use super::{BackendPlan, Desired, Draft, Note};
use crate::config::{self, Mode, target};
use crate::facts::{Facts, OwnPorts};
use crate::id::{Gone, Ids};

/// Ports that are not for well-known services.
const FIRST: u16 = 1_024;

/// Gives backends their entries.
pub(super) fn place(drafts: &[Draft<'_>], ids: &Ids, facts: &Facts, desired: &mut Desired) {
    let interfaces = facts.interfaces.values().flat_map(|interface| &interface.addresses);
    let own: BTreeSet<IpAddr> = interfaces.chain(facts.sources.values()).copied().collect();
    let beside = beside(facts.own_ports);
    let ports = |address: &IpAddr| if own.contains(address) { beside } else { Ports::ALL };
    for draft in drafts {
        let mut without = Vec::new();
        for placed in draft.backends() {
            let Some((id, _)) = placed.id else { continue };
            let address = placed.backend.address;
            let sources = sources(draft, address, facts);
            if sources.is_empty() && needs_one(draft.service.delivery.mode) {
                without.push(address);
            }
            put(desired, id.number, sources.iter().map(|source| (*source, ports(source))));
            if let Some(vip) = checked_vip(draft, placed.backend) {
                put_vip(desired, id.number, vip);
            }
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
    for Gone { id, address, .. } in ids.gone().filter(|gone| gone.mode == value::Mode::Gue) {
        let source = facts.sources.get(&address.ip());
        put(desired, id.number, source.iter().map(|source| (**source, ports(source))));
    }
}

/// A backend at which most of the ports that packets of ours may come from are in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crowded {
    /// Its address and port; port 0 for any.
    pub backend: SocketAddr,
    /// Flows that come from addresses of ours there.
    pub flows: u64,
    /// Flows that can, of each protocol.
    pub ports: u64,
}

impl fmt::Display for Crowded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, flows, ports } = self;
        let backend = target::text(*backend);
        write!(
            f,
            "{flows} flows at {backend} come from {ports} ports: more `snat-addresses` give room"
        )
    }
}

/// The backends of source translation at which 70 of 100 ports or more are in use, by the live flows of each backend id.
///
/// Pools of several services that name the same address and port share its ports.
pub fn crowded(desired: &Desired, live: impl Fn(u32) -> u64) -> Vec<Crowded> {
    let mut backends: BTreeMap<SocketAddr, (BTreeMap<V6, u64>, u64)> = BTreeMap::new();
    let translated =
        |(_, plan): &(&u32, &BackendPlan)| plan.value.mode() == value::Mode::FullNat as u8;
    for (&id, BackendPlan { value, .. }) in desired.backends.iter().filter(translated) {
        let (sources, flows) = backends.entry(value.place()).or_default();
        for entry in 0..u32::from(value.sources) {
            if let Some(snat) = desired.snat.get(&Snat::key(id, entry)) {
                sources.insert(snat.address, u64::from(snat.ports));
            }
        }
        *flows += live(id);
    }
    let crowded = |(backend, (sources, flows)): (_, (BTreeMap<V6, u64>, u64))| {
        let ports = sources.values().sum();
        // Where there are none, all its flows are of before, and no other is opened.
        (ports > 0 && flows * 10 >= ports * 7).then_some(Crowded { backend, flows, ports })
    };
    backends.into_iter().filter_map(crowded).collect()
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

/// The VIP to check a backend at that gets packets as they are: the first of its own family, which its address stands for.
fn checked_vip(draft: &Draft<'_>, backend: &config::Backend) -> Option<IpAddr> {
    let check = backend.health_check.as_ref()?;
    if !draft.service.delivery.mode.keeps_packets() || !check.question.is_by_packets() {
        return None;
    }
    let vips = draft.keys.iter().map(|key| key.vip().ip());
    vips.filter(|vip| vip.is_ipv4() == backend.address.is_ipv4()).min()
}

fn put_vip(desired: &mut Desired, id: u32, vip: IpAddr) {
    if desired.backends.contains_key(&id) && desired.snat.len() < limit::SNAT as usize {
        let value = Snat { address: V6::from(vip), ..Snat::default() };
        desired.snat.insert(Snat::key(id, Snat::CHECKED_VIP), value);
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

impl Ports {
    /// Those that are not for well-known services.
    const ALL: Self = Self { first: FIRST, ports: u16::MAX - FIRST + 1 };
}

/// The larger part of what is left beside the kernel's own; all of it where nothing is left.
fn beside(OwnPorts(first, last): OwnPorts) -> Ports {
    let below = Ports { first: FIRST, ports: first.saturating_sub(FIRST) };
    let above = Ports { first: last.saturating_add(1), ports: u16::MAX - last };
    let larger = if below.ports >= above.ports { below } else { above };
    if larger.ports == 0 { Ports::ALL } else { larger }
}

#[cfg(test)]
mod tests {
    use equipoise_common::key::Be16;
    use equipoise_common::value::Backend;

    use super::*;
    use crate::id::Holder;

    #[test]
    fn backends_are_told_of_when_most_of_the_ports_there_are_in_use() {
        let entry = |address: &str| {
            let address: SocketAddr = address.parse().unwrap();
            let value = Backend {
                address: address.ip().into(),
                port: Be16::new(address.port()),
                mode: Backend::mode_at(Mode::FullNat.value(), address.ip()),
                sources: 1,
                ..Backend::default()
            };
            BackendPlan { value, holder: Holder::default(), out: None }
        };
        let mut backends = ["10.0.0.1:80", "10.0.0.1:80", "[fd00::1]:80", "10.0.0.9:80"].map(entry);
        // One that has left has flows, and no ports for others.
        backends[3].value.sources = 0;
        let snat = |id: u32| {
            let address = V6::from(IpAddr::from([192, 0, 2, 1]));
            (Snat::key(id, 0), Snat { address, first: 1_024, ports: 100, reserved: 0 })
        };
        let desired = Desired {
            backends: (0..).zip(backends).collect(),
            snat: (0..3).map(snat).collect(),
            ..Desired::default()
        };
        // Two pools share the ports of the first.
        let told = |flows: [u64; 3]| {
            crowded(&desired, |id| flows.get(id as usize).copied().unwrap_or(500))
        };
        assert_eq!(told([34, 35, 69]), []);
        let [one] = &told([35, 35, 69])[..] else { panic!() };
        assert_eq!((one.flows, one.ports), (70, 100));
        assert!(one.to_string().starts_with("70 flows at 10.0.0.1:80 come from 100 ports"));
        assert_eq!(told([0, 0, 70]).len(), 1);
    }

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
