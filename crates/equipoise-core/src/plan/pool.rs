//! The pools of services and their backends: who is in one, with what weight, and in which slots.
//!
//! A service has one for each family and route. Their slots share the room that there is: the finest resolution at
//! which all fit is theirs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use equipoise_common::key::Be16;
use equipoise_common::limit;
use equipoise_common::value::{self, Fate, Pick};

use super::{BackendPlan, Desired, Draft, Note};
use crate::config::{
    Affinity, AffinityPrefix, Algorithm, Backend, Config, Fragments, OnBackendDown, Pool, Role,
    Route, Service,
};
use crate::facts::Facts;
use crate::id::BackendKey;
use crate::id::{Departure, Family, Held, Holder, Id, Ids, RouteName};
use crate::load;
use crate::maglev::{self, Resolution};
use crate::weight::{self, Candidate, Weight};

/// A pool: backends of a service for clients of one family, all of them or those of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPlan {
    /// The service's name.
    pub service: Arc<str>,
    /// What leads to it.
    pub route: RouteName,
    /// The family.
    pub family: Family,
    /// Who holds its id: these three.
    pub holder: Holder,
    /// How a slot is picked.
    pub pick: Pick,
    /// The backends, ordered by address; those without a weight too.
    pub members: Vec<Member>,
    /// Whether too few of them are usable.
    pub panics: bool,
    /// Whether TCP connections that lead to it are taken up by this host.
    pub streamed: bool,
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
    /// How a slot is picked, as it stands in the entry: of [`value::Pool`].
    pub fn pick_number(&self) -> u32 {
        self.pick.number() | if self.streamed { value::Pool::STREAMED } else { 0 }
    }

    /// The part of new flows that a member gets, 0 to 1.
    pub fn share(&self, member: &Member) -> f64 {
        f64::from(member.slots) / (self.slots.len().max(1) as f64)
    }
}

/// A pool of a service with its ids.
pub(super) struct PoolDraft<'a> {
    pool: Pool<'a>,
    streamed: bool,
    pub(super) route: RouteName,
    pub(super) ids: [(Family, Id); 2],
    pub(super) backends: Vec<Placed<'a>>,
}

/// A backend, with its id and how it has left before.
#[derive(Clone, Copy)]
pub(super) struct Placed<'a> {
    pub(super) backend: &'a Backend,
    pub(super) id: Option<(Id, Departure)>,
}

impl<'a> PoolDraft<'a> {
    /// None where there are no ids for it.
    pub(super) fn new(
        service: &Service,
        pool: Pool<'a>,
        held: Option<&Held>,
        ids: &Ids,
    ) -> Option<Self> {
        let route: RouteName = pool.route.map(|route| route.name().into());
        let held = held?.pools.get(&route)?;
        let [Some(v4), Some(v6)] = held.ids else { return None };
        let placed = |backend: &'a Backend| Placed {
            backend,
            id: held.backends.get(&backend.address).map(|&id| (id, ids.departure(id))),
        };
        let backends = pool.backends.iter().map(placed).collect();
        let ids = [(Family::V4, v4), (Family::V6, v6)];
        let streamed = service.is_streamed(&pool);
        Some(Self { pool, streamed, route, ids, backends })
    }

    /// Whether TCP connections that lead to it are taken up by this host.
    pub(super) fn is_streamed(&self) -> bool {
        self.streamed
    }

    /// Its ids, in the order of [`Family::ALL`].
    pub(super) fn numbers(&self) -> [u32; 2] {
        self.ids.map(|(_, id)| id.number)
    }

    /// What leads to it; none for clients that have no route.
    pub(super) fn route(&self) -> Option<&'a Route> {
        self.pool.route
    }
}

/// What pools depend on beside their own service.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) config: &'a Config,
    pub(super) facts: &'a Facts,
    pub(super) previous: Option<&'a Desired>,
}

/// Places the pools of all services, and their backends.
pub(super) fn place(drafts: &[Draft<'_>], known: Known<'_>, desired: &mut Desired) {
    let pools = || drafts.iter().flat_map(|draft| draft.pools().map(move |pool| (draft, pool)));
    let members: Vec<[(Vec<Member>, bool); 2]> =
        pools().map(|(draft, pool)| weighed_members((draft, pool), known, desired)).collect();
    let resolution = resolution(&members.iter().flatten().map(|(members, _)| members.len()));
    if resolution.slots() < 100 {
        desired.notes.push(Note::CoarseShares { slots: resolution.slots() });
    }
    for ((draft, pool), members) in pools().zip(members) {
        place_pool((draft, pool), members, (resolution, known), desired);
    }
}

/// Plans a pool anew whose backends are believed to be otherwise, in an empty plan of its own.
pub(super) fn place_again(
    draft: &Draft<'_>,
    pool: &PoolDraft<'_>,
    known: Known<'_>,
    desired: &mut Desired,
) {
    let Some(previous) = known.previous else { return };
    let resolution = resolution(&previous.pools.values().map(|pool| pool.members.len()));
    let members = weighed_members((draft, pool), known, desired);
    place_pool((draft, pool), members, (resolution, known), desired);
}

/// The members of a pool with their weights by family, and whether it panics.
fn weighed_members(
    (draft, pool): (&Draft<'_>, &PoolDraft<'_>),
    known: Known<'_>,
    desired: &mut Desired,
) -> [(Vec<Member>, bool); 2] {
    place_backends(draft, pool, desired).map(|mut members| {
        follow_loads(pool.pool, &mut members, known);
        let panics = follow_beliefs((draft, pool), &mut members, known.facts, desired);
        (members, panics)
    })
}

fn place_pool(
    (draft, pool): (&Draft<'_>, &PoolDraft<'_>),
    members: [(Vec<Member>, bool); 2],
    (resolution, known): (Resolution, Known<'_>),
    desired: &mut Desired,
) {
    for ((family, id), (mut members, panics)) in pool.ids.into_iter().zip(members) {
        let Id { number: id, holder } = id;
        let pick = pick(draft.service, pool.pool, family);
        let shape = Shape::of(pick, &members, resolution);
        let known = known.previous.and_then(|previous| previous.pools.get(&id));
        let slots = known
            .and_then(|known| reuse(known, &mut members, shape))
            .unwrap_or_else(|| fill(&mut members, shape));
        weigh(pick, &members, desired);
        let (service, route) = (Arc::clone(&draft.name), pool.route.clone());
        if panics {
            let (service, route) = (Arc::clone(&service), route.clone());
            let policy = pool.pool.panic.policy;
            desired.notes.push(Note::Panic { service, route, family, policy });
        }
        let streamed = pool.is_streamed();
        let plan =
            PoolPlan { service, route, family, holder, pick, members, panics, streamed, slots };
        desired.pools.insert(id, plan);
    }
}

/// Makes weights follow live flows, where the pool wants that.
fn follow_loads(pool: Pool<'_>, members: &mut [Member], known: Known<'_>) {
    if !pool.follows_loads() {
        return;
    }
    let flows = |member: &Member| known.facts.loads.get(&member.id).copied().unwrap_or_default();
    let backends: Vec<_> = members.iter().map(|member| (member.weight, flows(member))).collect();
    let weights = load::weigh(&backends, known.config.settings.least_connections.weighted);
    members.iter_mut().zip(weights).for_each(|(member, weight)| member.weight = weight);
}

/// Makes weights follow what is believed, and notes who is kept out by that; whether the pool panics.
fn follow_beliefs(
    (draft, pool): (&Draft<'_>, &PoolDraft<'_>),
    members: &mut [Member],
    facts: &Facts,
    desired: &mut Desired,
) -> bool {
    if facts.beliefs.is_empty() && pool.pool.backends.iter().all(|b| b.role == Role::Regular) {
        return false;
    }
    let role = |backend: &Backend| (backend.address, (backend.role, backend.rank));
    let roles: BTreeMap<SocketAddr, (Role, u16)> = pool.pool.backends.iter().map(role).collect();
    let belief = |address| {
        let (service, route) = (Arc::clone(&draft.name), pool.route.clone());
        facts.beliefs.get(&BackendKey { service, route, address }).copied().unwrap_or_default()
    };
    let candidates: Vec<_> = members
        .iter()
        .map(|member| {
            let (role, rank) = roles.get(&member.address).copied().unwrap_or_default();
            Candidate { weight: member.weight, role, rank, belief: belief(member.address) }
        })
        .collect();
    let weighed = weight::weigh(&candidates, pool.pool.panic);
    let fate = match draft.service.policy.on_backend_down {
        OnBackendDown::Keep => Fate::Keep,
        OnBackendDown::Reset => Fate::Reset,
        OnBackendDown::Reselect => Fate::Reselect,
    };
    let each = weighed.weights.into_iter().zip(weighed.are_out);
    for (member, (weight, is_out)) in members.iter_mut().zip(each) {
        member.weight = weight;
        let Some(backend) = desired.backends.get_mut(&member.id) else { continue };
        if belief(member.address).resets {
            backend.out = Some(Fate::Reset);
        } else if is_out {
            backend.out = Some(fate);
        }
    }
    weighed.panics
}

/// How a slot is picked for clients of a family.
fn pick(service: &Service, pool: Pool<'_>, family: Family) -> Pick {
    match (pool.affinity, pool.algorithm) {
        (Affinity::SourceIp, _) => {
            let AffinityPrefix { v4, v6 } = pool.affinity_prefix;
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

/// Places a pool's backends; answers its members by family.
fn place_backends(
    draft: &Draft<'_>,
    pool: &PoolDraft<'_>,
    desired: &mut Desired,
) -> [Vec<Member>; 2] {
    let mut members: [Vec<Member>; 2] = Default::default();
    let mut left_out = Vec::new();
    let mode = draft.service.delivery.mode;
    for &Placed { backend, id } in &pool.backends {
        let address = backend.address;
        let Some((Id { number: id, holder }, departure)) = id else {
            left_out.push(address);
            continue;
        };
        let value = value::Backend {
            address: address.ip().into(),
            port: Be16::new(address.port()),
            state: value::Backend::LIVE,
            mode: value::Backend::mode_at(mode.value(), address.ip()),
            service: draft.id.number as u16,
            generation: departure.generation,
            fate: departure.fate as u8,
            max_flows: backend.max_flows,
            ..value::Backend::default()
        };
        desired.backends.insert(id, BackendPlan { value, holder, out: None });
        let member = Member { id, address, weight: backend.share(), slots: 0 };
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let pools = limit::POOLS as usize;
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
}
