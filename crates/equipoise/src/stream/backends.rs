//! Which backend a connection goes to: as the packet programs pick one, out of the same slots.
//!
//! The slot by the pool's algorithm, and where the backend in it has no room, or has just not answered, another one some way on. What is
//! counted of a backend outlives the table that names it, as long as the same one holds its id.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use equipoise_common::bucket::{Bucket, Rate, Taken};
use equipoise_common::hash;
use equipoise_common::key::{Address, Be16, FiveTuple, TCP, V4, V6};
use equipoise_common::value::Pick;
use equipoise_core::id::Family;

use super::table::{Backend, Lookup, Service, TRIES, Table};

/// What is known of a backend beside the table.
pub(super) struct Counted {
    live: AtomicU64,
    tokens: Bucket<AtomicU64>,
}

impl Default for Counted {
    fn default() -> Self {
        let tokens = Bucket::new(AtomicU64::new(0), AtomicU64::new(0));
        Self { live: AtomicU64::new(0), tokens }
    }
}

/// One of the live flows of something that may be limited.
pub(super) struct Held(Arc<Counted>);

impl Counted {
    /// One more, if that many may be; 0 for no limit.
    fn hold(self: &Arc<Self>, most: u32) -> Option<Held> {
        let held = Held(Arc::clone(self));
        let before = self.live.fetch_add(1, Ordering::Relaxed);
        (most == 0 || before < u64::from(most)).then_some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whose counts these are: a kind, an id, and who holds it.
type Whose = (bool, u32, u64);

/// A table, and what has been counted of what is in it.
#[derive(Default)]
pub(super) struct Known {
    pub(super) lookup: Lookup,
    counted: HashMap<Whose, Arc<Counted>>,
    turns: HashMap<u32, Arc<AtomicU64>>,
}

/// A backend that has been picked, with room in it.
pub(super) struct Chosen {
    pub(super) id: u32,
    pub(super) backend: Backend,
    pub(super) held: Held,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    /// There is none to choose, or none that has not been tried.
    Nobody,
    /// Those that there are have as many flows as they may.
    Full,
    /// So, or as many new ones in a second.
    Spent,
}

/// A connection that is to go on.
#[derive(Clone, Copy)]
pub(super) struct Asking {
    pub(super) client: SocketAddr,
    pub(super) vip: SocketAddr,
    pub(super) pool: u32,
}

impl Known {
    /// Another table, with what has been counted before.
    pub(super) fn next(&self, table: Table) -> Self {
        let mut counted = HashMap::new();
        let mut keep = |whose: Whose| {
            let before = self.counted.get(&whose).cloned();
            counted.insert(whose, before.unwrap_or_default());
        };
        table.services.iter().for_each(|(&id, service)| keep((false, id, service.holder)));
        table.backends.iter().for_each(|(&id, backend)| keep((true, id, backend.holder)));
        let turn = |id: &u32| (*id, self.turns.get(id).cloned().unwrap_or_default());
        let turns = table.pools.keys().map(turn).collect();
        Self { lookup: Lookup::new(table), counted, turns }
    }

    /// One of the flows that a service may have.
    pub(super) fn hold(&self, id: u32, service: &Service) -> Option<Held> {
        self.counted.get(&(false, id, service.holder))?.hold(service.max_flows)
    }

    /// The first backend from attempt `next` on that has room and is none of `failed`; `next` is the attempt after it.
    pub(super) fn choose(
        &self,
        asking: &Asking,
        (service, failed): (&Service, &[u32]),
        next: &mut u32,
    ) -> Result<Chosen, Refusal> {
        let table = &self.lookup.table;
        let pool = table.pools.get(&asking.pool).ok_or(Refusal::Nobody)?;
        let length = pool.slots.len() as u32;
        if length == 0 {
            return Err(Refusal::Nobody);
        }
        let first = match Pick::from_number(pool.pick) {
            Pick::Hash => hash::slot(of_five_tuple(asking), length),
            Pick::Source { bits } => hash::slot(of_source(asking.client.ip(), bits), length),
            Pick::Random => at_random(length),
            Pick::Turn => self.in_turn(asking.pool, length),
            Pick::Fewest => self.fewest(&pool.slots),
        };
        let mut refusal = Refusal::Nobody;
        while *next < TRIES {
            let slot = if *next == 0 {
                first
            } else {
                ((u64::from(first) + u64::from(*next) * u64::from(hash::stride(length)))
                    % u64::from(length)) as u32
            };
            *next += 1;
            let id = pool.slots[slot as usize];
            let Some(backend) = table.backends.get(&id).filter(|_| !failed.contains(&id)) else {
                continue;
            };
            let counted = self.counted.get(&(true, id, backend.holder));
            let Some(counted) = counted else { continue };
            let Some(held) = counted.hold(backend.max_flows) else {
                refusal = refusal.max(Refusal::Full);
                continue;
            };
            let (rate, burst) = service.backend_rate;
            if rate == 0 || counted.tokens.take(Rate { rate, burst }, now()) == Taken::Yes {
                return Ok(Chosen { id, backend: backend.clone(), held });
            }
            refusal = Refusal::Spent;
        }
        Err(refusal)
    }

    /// Whether a pool has a backend beside this one and those that have failed.
    pub(super) fn names_another(&self, pool: u32, id: u32, failed: &[u32]) -> bool {
        let pool = self.lookup.table.pools.get(&pool);
        pool.is_some_and(|pool| pool.slots.iter().any(|one| *one != id && !failed.contains(one)))
    }

    fn in_turn(&self, pool: u32, length: u32) -> u32 {
        let turn = self.turns.get(&pool).map_or(0, |turn| turn.fetch_add(1, Ordering::Relaxed));
        (turn % u64::from(length)) as u32
    }

    /// Of two slots at random, the one whose backend has fewer live flows for its weight.
    fn fewest(&self, slots: &[u32]) -> u32 {
        let length = slots.len() as u32;
        let (one, other) = (at_random(length), at_random(length));
        let load = |slot: u32| {
            let id = slots[slot as usize];
            let backend = self.lookup.table.backends.get(&id)?;
            let counted = self.counted.get(&(true, id, backend.holder))?;
            Some((counted.live.load(Ordering::Relaxed), u64::from(backend.weight)))
        };
        match (load(one), load(other)) {
            // What each would have with this flow, by the other's weight instead of through its own.
            (Some(a), Some(b)) if (b.0 + 1) * a.1 < (a.0 + 1) * b.1 => other,
            _ => one,
        }
    }
}

/// The pool that a connection goes on in: that of its source's route, of the server that is named, or the service's own.
pub(super) fn pool(
    lookup: &Lookup,
    (id, service): (u32, &Service),
    client: IpAddr,
    name: Option<&str>,
) -> u32 {
    let named = || name.and_then(|name| service.of_name(name));
    lookup
        .of_source(id, client)
        .unwrap_or_else(|| of_family(named().unwrap_or(service.own), client))
}

/// Where a connection would go on by a table, as long as nothing is at its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Would {
    /// Whether the server that a client names matters for it.
    pub asks: bool,
    /// In this pool, by id.
    pub pool: u32,
    /// To this backend, by id; none where there is none to choose.
    pub backend: Option<u32>,
}

/// Where a connection would go on whose client names this server; none where nothing is taken up there.
pub fn would(
    table: Table,
    (client, vip): (SocketAddr, SocketAddr),
    name: Option<&str>,
) -> Option<Would> {
    let known = Known::default().next(table);
    let (id, service) = known.lookup.service(vip)?;
    let name = name.map(str::to_ascii_lowercase);
    let pool = pool(&known.lookup, (id, service), client.ip(), name.as_deref());
    let asks = service.asks_for_names() && known.lookup.of_source(id, client.ip()).is_none();
    let chosen = known.choose(&Asking { client, vip, pool }, (service, &[]), &mut 0);
    Some(Would { asks, pool, backend: chosen.ok().map(|chosen| chosen.id) })
}

/// The pool of a client's family.
fn of_family(pools: [u32; 2], client: IpAddr) -> u32 {
    pools[Family::of(client) as usize]
}

fn of_five_tuple(asking: &Asking) -> u64 {
    fn hashed<A: Address>(source: A, destination: A, asking: &Asking) -> u64 {
        hash::five_tuple(&FiveTuple {
            source,
            destination,
            source_port: Be16::new(asking.client.port()),
            destination_port: Be16::new(asking.vip.port()),
            protocol: TCP,
        })
    }
    match (asking.client.ip(), asking.vip.ip()) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => hashed::<V4>(client.into(), vip.into(), asking),
        (client, vip) => hashed::<V6>(client.into(), vip.into(), asking),
    }
}

fn of_source(client: IpAddr, bits: u8) -> u64 {
    match client {
        IpAddr::V4(v4) => hash::source::<V4>(v4.into(), bits.into()),
        IpAddr::V6(v6) => hash::source::<V6>(v6.into(), bits.into()),
    }
}

/// A slot at random: splitmix64 of a counter that starts anywhere, over all threads.
fn at_random(length: u32) -> u32 {
    static STATE: AtomicU64 = AtomicU64::new(0);
    let mut state = STATE.fetch_add(1, Ordering::Relaxed);
    if state == 0 {
        use std::hash::{BuildHasher as _, RandomState};
        let seed = RandomState::new().hash_one(0_u8);
        STATE.fetch_add(seed, Ordering::Relaxed);
        state = seed;
    }
    hash::slot(hash::mix(state, 0), length)
}

/// Microseconds since some moment of this process.
fn now() -> u64 {
    static BEGUN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    BEGUN.get_or_init(Instant::now).elapsed().as_micros() as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::table::Pool;
    use super::*;

    fn service() -> Service {
        Service {
            holder: 1,
            spots: Vec::new(),
            own: [0, 1],
            sources: Vec::new(),
            names: BTreeMap::new(),
            max_flows: 0,
            opening: Duration::ZERO,
            idle: Duration::ZERO,
            backend_rate: (0, 0),
            sources_at_backends: Vec::new(),
        }
    }

    fn table(pick: Pick, slots: &[u32]) -> Table {
        let mut table = Table::default();
        table.services.insert(5, service());
        table.pools.insert(0, Pool { pick: pick.number(), slots: slots.into() });
        for &id in slots {
            let place = SocketAddr::from(([10, 0, 0, id as u8], 80));
            let (holder, generation) = (u64::from(id), 0);
            let backend =
                Backend { holder, place, generation, weight: 1, max_flows: 0, told: false };
            table.backends.insert(id, backend);
        }
        table
    }

    fn asking(port: u16) -> Asking {
        let client = SocketAddr::from(([198, 51, 100, 7], port));
        Asking { client, vip: "203.0.113.10:443".parse().unwrap(), pool: 0 }
    }

    fn choose(known: &Known, port: u16) -> Result<Chosen, Refusal> {
        known.choose(&asking(port), (&service(), &[]), &mut 0)
    }

    #[test]
    fn slots_are_picked_as_the_packet_programs_pick_them() {
        let slots: Vec<u32> = (0..101).map(|slot| slot % 3).collect();
        let known = Known::default().next(table(Pick::Hash, &slots));
        for port in 1024..2024 {
            let tuple = FiveTuple::<V4> {
                source: std::net::Ipv4Addr::new(198, 51, 100, 7).into(),
                destination: std::net::Ipv4Addr::new(203, 0, 113, 10).into(),
                source_port: Be16::new(port),
                destination_port: Be16::new(443),
                protocol: TCP,
            };
            let slot = hash::slot(hash::five_tuple(&tuple), 101);
            assert_eq!(choose(&known, port).ok().unwrap().id, slots[slot as usize]);
        }
        let known = known.next(table(Pick::Source { bits: 24 }, &slots));
        let ids: std::collections::BTreeSet<u32> =
            (1..200).map(|port| choose(&known, port).ok().unwrap().id).collect();
        assert_eq!(ids.len(), 1);
        let known = known.next(table(Pick::Turn, &[0, 1, 2]));
        let ids: Vec<u32> = (1..7).map(|port| choose(&known, port).ok().unwrap().id).collect();
        assert_eq!(ids, [0, 1, 2, 0, 1, 2]);
        let known = known.next(table(Pick::Random, &[0, 1, 2]));
        let mut counts = [0; 3];
        (0..30_000).for_each(|_| counts[choose(&known, 1).ok().unwrap().id as usize] += 1);
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_one_with_fewer_flows_is_taken() {
        let known = Known::default().next(table(Pick::Fewest, &[0, 1]));
        let held: Vec<_> = (0..200).map(|port| choose(&known, port).ok().unwrap()).collect();
        let of_first = held.iter().filter(|chosen| chosen.id == 0).count();
        assert!((90..=110).contains(&of_first), "{of_first}");
    }

    #[test]
    fn who_has_no_room_or_has_not_answered_is_passed_over() {
        let mut full = table(Pick::Hash, &[0, 1]);
        full.backends.get_mut(&0).unwrap().max_flows = 2;
        let known = Known::default().next(full.clone());
        let mut held: Vec<_> = (0..100).map(|port| choose(&known, port).ok().unwrap()).collect();
        assert_eq!(held.iter().filter(|chosen| chosen.id == 0).count(), 2);
        // Those that there are count with another table, too, and not those of another holder.
        let again = known.next(full.clone());
        assert!((0..100).all(|port| choose(&again, port).ok().unwrap().id == 1));
        held.clear();
        assert!((0..100).any(|port| choose(&again, port).ok().unwrap().id == 0));
        full.backends.get_mut(&1).unwrap().max_flows = 1;
        let known = Known::default().next(full);
        let held: Vec<_> = (0..3).map(|port| choose(&known, port).ok().unwrap()).collect();
        assert_eq!(choose(&known, 9).err(), Some(Refusal::Full));
        drop(held);
        let mut next = 0;
        let failed = [0, 1];
        let chosen = known.choose(&asking(1), (&service(), &failed), &mut next);
        assert_eq!(chosen.err(), Some(Refusal::Nobody));
        assert_eq!(next, TRIES);
    }

    #[test]
    fn the_last_one_of_a_pool_is_known_as_such() {
        let known = Known::default().next(table(Pick::Hash, &[0, 1, 2, 0]));
        assert!(known.names_another(0, 0, &[]));
        assert!(known.names_another(0, 0, &[1]));
        assert!(!known.names_another(0, 0, &[1, 2]));
        assert!(!known.names_another(9, 0, &[]), "there is no such pool");
        let known = known.next(table(Pick::Hash, &[0, 0]));
        assert!(!known.names_another(0, 0, &[]));
    }

    #[test]
    fn rates_and_flows_of_services_are_kept_to() {
        let known = Known::default().next(table(Pick::Hash, &[0]));
        let limited = Service { backend_rate: (1, 3), ..service() };
        let taken = |known: &Known| known.choose(&asking(1), (&limited, &[]), &mut 0).is_ok();
        assert_eq!((0..10).filter(|_| taken(&known)).count(), 3);
        let refused = known.choose(&asking(1), (&limited, &[]), &mut 0).err();
        assert_eq!(refused, Some(Refusal::Spent));
        let few = Service { max_flows: 2, ..service() };
        let held: Vec<_> = (0..5).filter_map(|_| known.hold(5, &few)).collect();
        assert_eq!(held.len(), 2);
        drop(held);
        assert!(known.hold(5, &few).is_some());
        let none = Known::default().next(table(Pick::Hash, &[]));
        assert_eq!(choose(&none, 1).err(), Some(Refusal::Nobody));
    }
}
