//! From configuration and facts to the whole desired state of the data plane.
//!
//! [`plan`] is pure and total: the same arguments give the same answer, and what cannot be placed
//! comes back as notes. Ordered maps of keys and values, as they will stand in the kernel's. Does
//! not know what is in the maps now, nor how anything gets there.

mod access;
mod key;
mod note;
mod policy;
mod ports;
mod reply;
mod snat;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use equipoise_common::key::{Be16, HostKey, TCP, UDP};
use equipoise_common::limit;
use equipoise_common::value::{self, Pick};

pub use self::access::{Listed, Rule};
pub use self::key::{ServiceKey, Spot};
pub use self::note::Note;
use self::ports::Taken;
pub use self::snat::{Crowded, crowded};
use crate::config::{
    Affinity, AffinityPrefix, Algorithm, Backend, Config, Fragments, Protocol, Service,
};
use crate::facts::{Facts, Interface};
use crate::id::{Departure, Family, Gone, Held, Id, Ids};
use crate::load;
use crate::maglev::{self, Resolution};
use crate::weight::{self, Weight};

/// What should be in the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The service maps.
    pub services: BTreeMap<ServiceKey, value::Service>,
    /// Whose traffic the counters of each service id count.
    pub service_terms: BTreeMap<u32, u32>,
    /// The pools by id.
    pub pools: BTreeMap<u32, PoolPlan>,
    /// The backends by id; those that have left, too, while flows may name them.
    pub backends: BTreeMap<u32, BackendPlan>,
    /// How services treat their flows, by service id.
    pub policies: BTreeMap<u32, value::Policy>,
    /// The prefixes that are allowed and denied.
    pub access: BTreeMap<Listed, Rule>,
    /// What replies of no flow become, by the backend's address, port and protocol on interface 0.
    pub replies: BTreeMap<ServiceKey, value::Reply>,
    /// Addresses of ours that packets to a backend may come from, by [`value::Snat::key`].
    pub snat: BTreeMap<u64, value::Snat>,
    /// Addresses of backends that need help to reach each other through a VIP.
    pub hairpins: BTreeSet<HostKey>,
    /// What works less than the configuration asks for.
    pub notes: Vec<Note>,
}

/// A pool: the backends of one family of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPlan {
    /// The service's name.
    pub service: Arc<str>,
    /// The family.
    pub family: Family,
    /// How a slot is picked.
    pub pick: Pick,
    /// The backends, ordered by address; those without a weight too.
    pub members: Vec<Member>,
    /// A backend id in each slot; the same allocation as long as the members are the same.
    pub slots: Arc<[u32]>,
}

/// A backend in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: u32,
    /// Address and port.
    pub address: SocketAddr,
    /// Its effective weight.
    pub weight: Weight,
    /// How many slots name it.
    pub slots: u32,
}

impl PoolPlan {
    /// The part of new flows that a member gets, 0 to 1.
    pub fn share(&self, member: &Member) -> f64 {
        f64::from(member.slots) / (self.slots.len().max(1) as f64)
    }
}

/// A backend's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendPlan {
    /// As it stands in the map.
    pub value: value::Backend,
    /// Whose traffic the counters of its id count.
    pub term: u32,
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
        let Id { number, term } = draft.id;
        desired.service_terms.insert(number, term);
        desired.policies.insert(number, policy::of(draft.service, &config.settings));
    }
    access::place(&drafts, &config.settings, &mut desired);
    place_pools(&drafts, Known { config, facts, previous }, &mut desired);
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
        let family = if address.is_ipv6() { value::Backend::IS_V6 } else { 0 };
        let value = value::Backend {
            address: address.ip().into(),
            port: Be16::new(address.port()),
            state: value::Backend::GONE,
            mode: mode as u8 | family,
            service: departure.service as u16,
            weight: 0,
            generation: departure.generation,
            fate: departure.fate as u8,
            sources: 0,
            max_flows: 0,
        };
        desired.backends.insert(id.number, BackendPlan { value, term: id.term });
    }
}

/// A service with its ids and its keys.
struct Draft<'a> {
    service: &'a Service,
    name: Arc<str>,
    id: Id,
    pools: [(Family, u32); 2],
    backends: Vec<Placed<'a>>,
    spots: Vec<Spot>,
    keys: Vec<ServiceKey>,
}

/// A backend, with its id and how it has left before.
#[derive(Clone, Copy)]
struct Placed<'a> {
    backend: &'a Backend,
    id: Option<(Id, Departure)>,
}

fn draft<'a>(
    service: &'a Service,
    facts: &Facts,
    ids: &'a Ids,
    notes: &mut Vec<Note>,
) -> Option<Draft<'a>> {
    let name: Arc<str> = service.name.as_str().into();
    let Some(Held { service: Some(id), pools: [Some(v4), Some(v6)], backends, .. }) =
        ids.held(&name)
    else {
        notes.push(Note::NoIds { service: name });
        return None;
    };
    let pools = [(Family::V4, v4.number), (Family::V6, v6.number)];
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
    let placed = |backend: &'a Backend| Placed {
        backend,
        id: backends.get(&backend.address).map(|&id| (id, ids.departure(id))),
    };
    let backends = service.backends.iter().map(placed).collect();
    Some(Draft { service, name, id: *id, pools, backends, spots, keys: Vec::new() })
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

/// What pools depend on beside their own service.
#[derive(Clone, Copy)]
struct Known<'a> {
    config: &'a Config,
    facts: &'a Facts,
    previous: Option<&'a Desired>,
}

/// Makes weights follow live flows, where the service wants that.
fn follow_loads(service: &Service, members: &mut [Member], known: Known<'_>) {
    let has_affinity = service.affinity == Affinity::SourceIp;
    if has_affinity || service.algorithm != Algorithm::LeastConnectionsWeights {
        return;
    }
    let flows = |member: &Member| known.facts.loads.get(&member.id).copied().unwrap_or_default();
    let backends: Vec<_> = members.iter().map(|member| (member.weight, flows(member))).collect();
    let weights = load::weigh(&backends, known.config.settings.least_connections.weighted);
    members.iter_mut().zip(weights).for_each(|(member, weight)| member.weight = weight);
}

fn place_pools(drafts: &[Draft<'_>], known: Known<'_>, desired: &mut Desired) {
    let mut members: Vec<[Vec<Member>; 2]> =
        drafts.iter().map(|draft| place_backends(draft, desired)).collect();
    for (draft, members) in drafts.iter().zip(&mut members) {
        members.iter_mut().for_each(|members| follow_loads(draft.service, members, known));
    }
    let previous = known.previous;
    let resolution = resolution(&members.iter().flatten().map(Vec::len));
    if resolution.slots() < 100 {
        desired.notes.push(Note::CoarseShares { slots: resolution.slots() });
    }
    for (draft, members) in drafts.iter().zip(members) {
        for ((family, id), mut members) in draft.pools.into_iter().zip(members) {
            let pick = pick(draft.service, family);
            let shape = Shape::of(pick, &members, resolution);
            let known = previous.and_then(|previous| previous.pools.get(&id));
            let slots = known
                .and_then(|known| reuse(known, &mut members, shape))
                .unwrap_or_else(|| fill(&mut members, shape));
            weigh(pick, &members, desired);
            let service = Arc::clone(&draft.name);
            desired.pools.insert(id, PoolPlan { service, family, pick, members, slots });
        }
    }
}

/// How a slot is picked for clients of a family.
fn pick(service: &Service, family: Family) -> Pick {
    match (service.affinity, service.algorithm) {
        (Affinity::SourceIp, _) => {
            let AffinityPrefix { v4, v6 } = service.affinity_prefix;
            Pick::Source { bits: if family == Family::V4 { v4 } else { v6 } }
        }
        // A fragment without ports finds its backend then, too.
        (Affinity::None, _) if service.policy.fragments == Fragments::Hash => {
            Pick::Source { bits: if family == Family::V4 { 32 } else { 128 } }
        }
        (Affinity::None, Algorithm::Maglev) => Pick::Hash,
        (Affinity::None, Algorithm::Random | Algorithm::LeastConnectionsWeights) => Pick::Random,
        (Affinity::None, Algorithm::RoundRobin) => Pick::Turn,
        (Affinity::None, Algorithm::LeastConnections) => Pick::Fewest,
    }
}

/// Tells the packet programs the weights of backends whose flows they compare: of the heaviest as the largest number.
fn weigh(pick: Pick, members: &[Member], desired: &mut Desired) {
    if pick != Pick::Fewest {
        return;
    }
    let heaviest = members.iter().map(|member| member.weight.parts()).max().unwrap_or_default();
    for member in members.iter().filter(|member| member.weight.parts() > 0) {
        let part = u64::from(member.weight.parts()) * u64::from(u16::MAX) / u64::from(heaviest);
        if let Some(backend) = desired.backends.get_mut(&member.id) {
            backend.value.weight = (part as u16).max(1);
        }
    }
}

/// What the slots of a pool are to be like.
#[derive(Clone, Copy)]
struct Shape {
    length: u32,
    in_turn: bool,
}

impl Shape {
    fn of(pick: Pick, members: &[Member], resolution: Resolution) -> Self {
        let most = resolution.length(members.len());
        match pick {
            Pick::Turn => Self { length: maglev::turns(&weights(members), most), in_turn: true },
            Pick::Hash | Pick::Random | Pick::Fewest | Pick::Source { .. } => {
                Self { length: most, in_turn: false }
            }
        }
    }
}

fn weights(members: &[Member]) -> Vec<(SocketAddr, Weight)> {
    members.iter().map(|member| (member.address, member.weight)).collect()
}

/// Places a service's backends; answers its members by family.
fn place_backends(draft: &Draft<'_>, desired: &mut Desired) -> [Vec<Member>; 2] {
    let mut members: [Vec<Member>; 2] = Default::default();
    let mut left_out = Vec::new();
    let mode = draft.service.delivery.mode;
    for &Placed { backend, id } in &draft.backends {
        let address = backend.address;
        let Some((Id { number: id, term }, departure)) = id else {
            left_out.push(address);
            continue;
        };
        let value = value::Backend {
            address: address.ip().into(),
            port: Be16::new(address.port()),
            state: value::Backend::LIVE,
            mode: snat::mode(mode, address),
            service: draft.id.number as u16,
            weight: 0,
            generation: departure.generation,
            fate: departure.fate as u8,
            sources: 0,
            max_flows: backend.max_flows,
        };
        desired.backends.insert(id, BackendPlan { value, term });
        let member = Member { id, address, weight: weight::effective(backend), slots: 0 };
        for family in Family::ALL {
            // What travels inside other packets may do so inside those of either family.
            if mode.is_tunnel() || family == Family::of(address.ip()) {
                members[family as usize].push(member);
            }
        }
    }
    if !left_out.is_empty() {
        desired.notes.push(Note::NoBackendIds { service: Arc::clone(&draft.name), left_out });
    }
    for members in &mut members {
        members.sort_unstable_by_key(|member| member.address);
    }
    members
}

/// The finest resolution at which all pools have room twice: while they are all replaced at once,
/// the old runs stand beside the new ones.
///
/// At the coarsest, as many backends in as many pools as there are ids for fit once in any case.
fn resolution(pools: &(impl Iterator<Item = usize> + Clone)) -> Resolution {
    let fits = |resolution: &Resolution| {
        let lengths = pools.clone().map(|backends| u64::from(resolution.length(backends)));
        lengths.sum::<u64>() <= u64::from(limit::SLOTS) / 2
    };
    let coarsest = Resolution::ALL[Resolution::ALL.len() - 1];
    Resolution::ALL.into_iter().find(fits).unwrap_or(coarsest)
}

/// The slots of an earlier plan, if the members and the length are those of now.
fn reuse(known: &PoolPlan, members: &mut [Member], shape: Shape) -> Option<Arc<[u32]>> {
    let is_same =
        |(a, b): (&Member, &Member)| (a.id, a.address, a.weight) == (b.id, b.address, b.weight);
    let is_unchanged = known.members.len() == members.len()
        && (known.pick == Pick::Turn) == shape.in_turn
        && (known.slots.is_empty() || known.slots.len() == shape.length as usize)
        && known.members.iter().zip(&*members).all(is_same);
    if !is_unchanged {
        return None;
    }
    members.copy_from_slice(&known.members);
    Some(Arc::clone(&known.slots))
}

fn fill(members: &mut [Member], Shape { length, in_turn }: Shape) -> Arc<[u32]> {
    let backends = weights(members);
    let table =
        if in_turn { maglev::in_turn(&backends, length) } else { maglev::fill(&backends, length) };
    for (member, count) in members.iter_mut().zip(table.counts) {
        member.slots = count;
    }
    table.slots.into_iter().map(|at| members[at as usize].id).collect()
}

fn note_families_without_backend(draft: &Draft<'_>, desired: &mut Desired) {
    let exact = draft.service.listen.address.map(Family::of);
    for (family, pool) in draft.pools {
        let is_reachable =
            exact == Some(family) || draft.keys.iter().any(|key| key.family() == family);
        if is_reachable && desired.pools[&pool].slots.is_empty() {
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
            let (_, pool) = draft.pools[family];
            desired.services.insert(key, value::Service { id: draft.id.number, pool });
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
    use super::*;
    use crate::config::{Backend, Delivery, Listen, Policy, Ports, Settings};
    use crate::id::{Limits, Wanted};

    fn config(services: Vec<Service>) -> Config {
        Config { services, settings: Settings::default(), places: BTreeMap::new() }
    }

    /// On the own addresses of eth0.
    fn service(name: &str, backends: u16) -> Service {
        let (interfaces, protocol) = (vec!["eth0".to_owned()], Protocol::Tcp);
        let backend = |port| Backend {
            address: SocketAddr::from(([192, 0, 2, 9], port)),
            weight: 1,
            max_flows: 0,
        };
        Service {
            name: name.to_owned(),
            listen: Listen { interfaces, address: None, port: Ports::one(80), protocol },
            algorithm: Algorithm::Maglev,
            affinity: Affinity::None,
            affinity_prefix: AffinityPrefix::default(),
            backends: (1..=backends).map(backend).collect(),
            delivery: Delivery::default(),
            manage_address: false,
            policy: Policy::default(),
        }
    }

    fn eth0(addresses: Vec<IpAddr>) -> Facts {
        let interface = Interface { index: 2, addresses };
        Facts { interfaces: BTreeMap::from([("eth0".to_owned(), interface)]), ..Facts::default() }
    }

    fn plan_within(limits: Limits, config: &Config, facts: &Facts) -> Desired {
        let mut ids = Ids::new(limits);
        let wanted = config.services.iter().map(|service| Wanted {
            service: service.name.as_str().into(),
            backends: service.backends.iter().map(|backend| backend.address).collect(),
            removal: value::Fate::Keep,
            mode: value::Mode::Nat,
        });
        ids.hold(&wanted.collect::<Vec<_>>());
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
    fn many_small_pools_and_a_few_large_ones_have_room_twice_at_a_hundred_slots_each() {
        for (pools, backends) in [(2_000, 10), (8, 4_096)] {
            let resolution = resolution(&std::iter::repeat_n(backends, pools));
            let slots = pools as u32 * resolution.length(backends);
            assert!(2 * slots <= limit::SLOTS, "{pools} of {backends}");
            assert!(resolution.slots() >= 100, "{pools} of {backends}: {resolution:?}");
        }
    }

    #[test]
    fn all_pools_and_backends_that_there_are_ids_for_have_room() {
        let pools = 2 * limit::SERVICES as usize;
        let backends = limit::BACKENDS as usize;
        for large in [1, 2, 8, 100, 1_000, pools] {
            // As many as possible in a few pools, and two in each of the others.
            let each = (backends - 2 * (pools - large)) / large;
            let lengths =
                std::iter::repeat_n(each, large).chain(std::iter::repeat_n(2, pools - large));
            let resolution = resolution(&lengths);
            let slots: u32 = lengths.map(|backends| resolution.length(backends)).sum();
            assert!(slots <= limit::SLOTS, "{large} pools of {each}: {slots}");
        }
    }

    #[test]
    fn pool_whose_backends_are_the_same_keeps_its_slots() {
        let mut config = config(vec![service("web", 3), service("dns", 3)]);
        let mut ids = Ids::default();
        let wanted = |service: &Service| Wanted {
            service: service.name.as_str().into(),
            backends: service.backends.iter().map(|backend| backend.address).collect(),
            removal: value::Fate::Keep,
            mode: value::Mode::Nat,
        };
        ids.hold(&config.services.iter().map(wanted).collect::<Vec<_>>());
        let before = plan(&config, &Facts::default(), &ids, None);
        config.services[0].backends[1].weight = 2;
        let after = plan(&config, &Facts::default(), &ids, Some(&before));
        let is_kept =
            |pool: u32| Arc::ptr_eq(&before.pools[&pool].slots, &after.pools[&pool].slots);
        assert_eq!((is_kept(0), is_kept(2)), (false, true));
    }
}
