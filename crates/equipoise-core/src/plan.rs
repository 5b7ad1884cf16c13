//! From configuration and facts to the whole desired state of the data plane.
//!
//! [`plan`] is pure and total: the same arguments give the same answer, and what cannot be placed
//! comes back as notes. Ordered maps of keys and values, as they will stand in the kernel's. Does
//! not know what is in the maps now, nor how anything gets there.

mod access;
mod again;
mod key;
mod note;
mod policy;
mod pool;
mod ports;
mod reply;
mod route;
mod snat;
mod stream;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use equipoise_common::key::{Be16, HostKey, TCP, UDP};
use equipoise_common::limit;
use equipoise_common::value;

pub use self::access::{Listed, Rule, denies};
pub use self::again::plan_again;
pub use self::key::{ServiceKey, Spot};
pub use self::note::Note;
pub use self::pool::{Member, PoolPlan};
use self::pool::{Placed, PoolDraft};
use self::ports::Taken;
pub use self::route::Routed;
pub use self::snat::{Crowded, crowded};
pub use self::stream::Stream;
use crate::config::{Config, Protocol, Service};
use crate::facts::{Facts, Interface};
use crate::id::{Family, Gone, Holder, Id, Ids};

/// What should be in the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The service maps.
    pub services: BTreeMap<ServiceKey, value::Service>,
    /// Who holds each service id, and whose traffic its counters count.
    pub service_holders: BTreeMap<u32, Holder>,
    /// The pools by id.
    pub pools: BTreeMap<u32, PoolPlan>,
    /// The backends by id; those that have left, too, while flows may name them.
    pub backends: BTreeMap<u32, BackendPlan>,
    /// How services treat their flows, by service id.
    pub policies: BTreeMap<u32, value::Policy>,
    /// The prefixes that are allowed and denied.
    pub access: BTreeMap<Listed, Rule>,
    /// The pools of sources that have a route.
    pub routes: BTreeMap<Routed, u32>,
    /// What this host takes up itself, by service id.
    pub streams: BTreeMap<u32, Stream>,
    /// What replies of no flow become, by the backend's address, port and protocol on interface 0.
    pub replies: BTreeMap<ServiceKey, value::Reply>,
    /// Addresses of ours that packets to a backend may come from, by [`value::Snat::key`].
    pub snat: BTreeMap<u64, value::Snat>,
    /// Addresses of backends that need help to reach each other through a VIP.
    pub hairpins: BTreeSet<HostKey>,
    /// What works less than the configuration asks for.
    pub notes: Vec<Note>,
}

/// A backend's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendPlan {
    /// As it stands in the map.
    pub value: value::Backend,
    /// Who holds its id, and whose traffic its counters count.
    pub holder: Holder,
    /// What becomes of its TCP flows, while it is kept out of its pool by what is believed about it.
    pub out: Option<value::Fate>,
}

impl BackendPlan {
    /// Whether it has left, and is there for its flows alone.
    pub fn is_gone(&self) -> bool {
        self.value.state == value::Backend::GONE
    }
}

/// Plans everything. What has not changed since `previous` is taken from there instead of being
/// computed again, which makes no difference to the answer.
pub fn plan(config: &Config, facts: &Facts, ids: &Ids, previous: Option<&Desired>) -> Desired {
    let mut desired = Desired::default();
    let mut drafts: Vec<Draft<'_>> = config
        .services
        .iter()
        .filter_map(|service| draft(service, facts, ids, &mut desired.notes))
        .collect();
    find_keys(&mut drafts);
    for draft in &drafts {
        let Id { number, holder } = draft.id;
        desired.service_holders.insert(number, holder);
        desired.policies.insert(number, policy::of(draft.service, &config.settings));
    }
    access::place(&drafts, &config.settings, &mut desired);
    route::place(&drafts, &mut desired);
    stream::place(&drafts, &mut desired);
    pool::place(&drafts, pool::Known { config, facts, previous }, &mut desired);
    for draft in &drafts {
        note_families_without_backend(draft, &mut desired);
    }
    place_keys(&drafts, &mut desired);
    whole::place(&drafts, facts, &mut desired);
    place_gone(ids, &mut desired);
    snat::place(&drafts, ids, facts, &mut desired);
    reply::place(&drafts, &mut desired);
    desired
}

/// Backends that have left, for the flows that may still name them.
fn place_gone(ids: &Ids, desired: &mut Desired) {
    for Gone { id, address, mode, departure } in ids.gone() {
        let value = value::Backend {
            address: address.ip().into(),
            port: Be16::new(address.port()),
            state: value::Backend::GONE,
            mode: value::Backend::mode_at(mode, address.ip()),
            service: departure.service as u16,
            generation: departure.generation,
            fate: departure.fate as u8,
            ..value::Backend::default()
        };
        desired.backends.insert(id.number, BackendPlan { value, holder: id.holder, out: None });
    }
}

/// A service with its ids and its keys.
struct Draft<'a> {
    service: &'a Service,
    name: Arc<str>,
    id: Id,
    /// Of clients that have no route.
    own: PoolDraft<'a>,
    /// Of the routes.
    routed: Vec<PoolDraft<'a>>,
    spots: Vec<Spot>,
    keys: Vec<ServiceKey>,
}

impl<'a> Draft<'a> {
    fn pools(&self) -> impl Iterator<Item = &PoolDraft<'a>> {
        std::iter::once(&self.own).chain(&self.routed)
    }

    /// Those of all pools.
    fn backends(&self) -> impl Iterator<Item = &Placed<'a>> {
        self.pools().flat_map(|pool| &pool.backends)
    }
}

fn draft<'a>(
    service: &'a Service,
    facts: &Facts,
    ids: &'a Ids,
    notes: &mut Vec<Note>,
) -> Option<Draft<'a>> {
    let name: Arc<str> = service.name.as_str().into();
    let held = ids.held(&name);
    let mut pools = service.pools().map(|pool| PoolDraft::new(service, pool, held, ids));
    let (Some(id), Some(Some(own))) = (held.and_then(|held| held.service), pools.next()) else {
        notes.push(Note::NoIds { service: name });
        return None;
    };
    let routed = pools.zip(service.all_routes()).filter_map(|(pool, route)| {
        if pool.is_none() {
            let service = Arc::clone(&name);
            notes.push(Note::NoRouteIds { service, route: route.name().into() });
        }
        pool
    });
    let routed = routed.collect();
    let mut spots = Vec::new();
    for interface in &service.listen.interfaces {
        let Some(fact) = facts.interfaces.get(interface) else {
            notes.push(Note::NoInterface {
                service: Arc::clone(&name),
                interface: interface.clone(),
            });
            continue;
        };
        let before = spots.len();
        add_spots(service, fact, &mut spots);
        if spots.len() == before {
            notes
                .push(Note::NoAddress { service: Arc::clone(&name), interface: interface.clone() });
        }
    }
    Some(Draft { service, name, id, own, routed, spots, keys: Vec::new() })
}

fn add_spots(service: &Service, interface: &Interface, spots: &mut Vec<Spot>) {
    let protocols: &[u32] = match service.listen.protocol {
        Protocol::Tcp => &[TCP],
        Protocol::Udp => &[UDP],
        Protocol::Both => &[TCP, UDP],
    };
    let addresses: &[IpAddr] = match &service.listen.address {
        Some(address) => std::slice::from_ref(address),
        None => &interface.addresses,
    };
    for &address in addresses {
        let spot = |&protocol| Spot { address, interface: interface.index, protocol };
        spots.extend(protocols.iter().map(spot));
    }
}

/// Gives services their keys: an exact address goes before an interface's own ones.
fn find_keys(drafts: &mut [Draft<'_>]) {
    let mut taken = Taken::default();
    for draft in drafts.iter_mut().filter(|draft| draft.service.listen.address.is_some()) {
        let ports = &draft.service.listen.port;
        draft.spots.iter().for_each(|&spot| taken.take(spot, ports));
        draft.keys = draft.spots.iter().flat_map(|&spot| ports::keys(spot, ports)).collect();
    }
    for draft in drafts.iter_mut().filter(|draft| draft.service.listen.address.is_none()) {
        let ports = &draft.service.listen.port;
        draft.keys = draft.spots.iter().flat_map(|&spot| taken.leaves(spot, ports)).collect();
    }
}

fn note_families_without_backend(draft: &Draft<'_>, desired: &mut Desired) {
    let exact = draft.service.listen.address.map(Family::of);
    for (family, pool) in draft.own.ids {
        let is_reachable =
            exact == Some(family) || draft.keys.iter().any(|key| key.family() == family);
        if is_reachable && desired.pools[&pool.number].slots.is_empty() {
            desired.notes.push(Note::NoBackend { service: Arc::clone(&draft.name), family });
        }
    }
}

/// Where keys clash that should not, or there is no room for all, exact addresses go first, and then the order of the file.
fn place_keys(drafts: &[Draft<'_>], desired: &mut Desired) {
    let is_exact = |draft: &&Draft<'_>| draft.service.listen.address.is_some();
    let (exact, own): (Vec<_>, Vec<_>) = drafts.iter().partition(is_exact);
    let mut room = [[limit::SERVICE_KEYS; 2], [limit::PORTS_KEYS; 2]];
    for draft in exact.into_iter().chain(own) {
        let mut left_out = [0; 2];
        for &key in &draft.keys {
            if desired.services.contains_key(&key) {
                continue;
            }
            let family = key.family() as usize;
            let is_range = matches!(key, ServiceKey::PortsV4(..) | ServiceKey::PortsV6(..));
            let room = &mut room[usize::from(is_range)][family];
            if *room == 0 {
                left_out[family] += 1;
                continue;
            }
            *room -= 1;
            let (_, pool) = draft.own.ids[family];
            desired.services.insert(key, value::Service { id: draft.id.number, pool: pool.number });
        }
        for (family, left_out) in
            Family::ALL.into_iter().zip(left_out).filter(|&(_, left_out)| left_out > 0)
        {
            let service = Arc::clone(&draft.name);
            desired.notes.push(Note::NoKeys { service, family, left_out });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::health::{Panic, Recovery};
    use crate::config::{
        Affinity, AffinityPrefix, Algorithm, Backend, Delivery, Listen, Places, Policy, Ports,
        Role, Settings,
    };
    use crate::id::{Limits, Wanted};

    fn config(services: Vec<Service>) -> Config {
        Config { services, settings: Settings::default(), places: Places::default() }
    }

    /// On the own addresses of eth0.
    fn service(name: &str, backends: u16) -> Service {
        let (interfaces, protocol) = (vec!["eth0".to_owned()], Protocol::Tcp);
        let backend = |port| Backend {
            address: SocketAddr::from(([192, 0, 2, 9], port)),
            weight: 1,
            max_flows: 0,
            role: Role::Regular,
            proxy_protocol: None,
            health_check: None,
            rank: 0,
            origin: None,
        };
        Service {
            name: name.to_owned(),
            listen: Listen { interfaces, address: None, port: Ports::one(80), protocol },
            algorithm: Algorithm::Maglev,
            affinity: Affinity::None,
            affinity_prefix: AffinityPrefix::default(),
            backends: (1..=backends).map(backend).collect(),
            named: Vec::new(),
            routes: Vec::new(),
            name_routes: Vec::new(),
            delivery: Delivery::default(),
            manage_address: false,
            policy: Policy::default(),
            recovery: Recovery::default(),
            panic: Panic::default(),
            breaker: None,
        }
    }

    fn eth0(addresses: Vec<IpAddr>) -> Facts {
        let interface = Interface { index: 2, addresses };
        Facts { interfaces: BTreeMap::from([("eth0".to_owned(), interface)]), ..Facts::default() }
    }

    fn plan_within(limits: Limits, config: &Config, facts: &Facts) -> Desired {
        let mut ids = Ids::new(limits);
        ids.hold(&Wanted::all(config));
        plan(config, facts, &ids, None)
    }

    fn notes(desired: &Desired) -> Vec<String> {
        desired.notes.iter().map(Note::to_string).collect()
    }

    #[test]
    fn service_beyond_the_ids_is_left_out_and_said() {
        let limits = Limits { services: 1, ..Limits::default() };
        let facts = eth0(vec!["192.0.2.1".parse().unwrap()]);
        let desired =
            plan_within(limits, &config(vec![service("web", 1), service("dns", 1)]), &facts);
        assert_eq!(
            (desired.services.len(), desired.pools.len(), desired.backends.len()),
            (1, 2, 1)
        );
        assert_eq!(notes(&desired), ["service dns: left out, as all ids are in use or resting"]);
    }

    #[test]
    fn backends_beyond_the_ids_are_left_out_and_said() {
        let limits = Limits { backends: 2, ..Limits::default() };
        let desired = plan_within(limits, &config(vec![service("web", 4)]), &eth0(vec![]));
        assert_eq!(desired.pools[&0].members.len(), 2);
        assert!(notes(&desired)[1].contains("2 backends left out"), "{:?}", desired.notes);
        assert!(notes(&desired)[1].contains("192.0.2.9:3"), "{:?}", desired.notes);
    }

    #[test]
    fn keys_beyond_the_map_are_left_out_and_said() {
        let address = |at: u32| IpAddr::from((0x0a00_0000 + at).to_be_bytes());
        let facts = eth0((0..limit::SERVICE_KEYS + 3).map(address).collect());
        let desired = plan_within(Limits::default(), &config(vec![service("web", 1)]), &facts);
        assert_eq!(desired.services.len(), limit::SERVICE_KEYS as usize);
        let expected =
            "service web: 3 addresses and ports left out, as the IPv4 service map is full";
        assert_eq!(notes(&desired), [expected]);
    }

    #[test]
    fn pool_whose_backends_are_the_same_keeps_its_slots() {
        let mut config = config(vec![service("web", 3), service("dns", 3)]);
        let mut ids = Ids::default();
        ids.hold(&Wanted::all(&config));
        let before = plan(&config, &Facts::default(), &ids, None);
        config.services[0].backends[1].weight = 2;
        let after = plan(&config, &Facts::default(), &ids, Some(&before));
        let is_kept =
            |pool: u32| Arc::ptr_eq(&before.pools[&pool].slots, &after.pools[&pool].slots);
        assert_eq!((is_kept(0), is_kept(2)), (false, true));
    }
}
