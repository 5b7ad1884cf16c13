//! Which number stands for which service, pool and backend in the kernel's arrays.
//!
//! An id follows the identity of its holder (names and addresses), not its place in the file or
//! its weight. An id whose holder has left rests: the holder gets it back with its counters and
//! flows if it returns, and nobody else gets it while a flow may name it. Knows nothing of the
//! flow table; the shell says what flows name.

mod backend;
mod holder;
mod numbers;
mod remember;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use equipoise_common::limit;
use equipoise_common::value::{Fate, Mode};

pub use backend::{BackendKey, DEFAULT_ROUTE, Member};
pub use holder::Holder;
use numbers::Numbers;
pub use remember::Remembered;

use crate::config::{self, Config, OnBackendRemoved};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A number, and who holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Index into the kernel's arrays.
    pub number: u32,
    /// Who holds it.
    pub holder: Holder,
}

/// What the configuration wants ids for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Name of a service.
    pub service: Arc<str>,
    /// Its pools.
    pub pools: Vec<WantedPool>,
    /// What becomes of the TCP flows of a backend that leaves.
    pub removal: Fate,
    /// How packets get to them. In another mode they are other backends: flows go on as they were opened.
    pub mode: Mode,
}

impl Wanted {
    /// What a configuration wants.
    pub fn all(config: &Config) -> Vec<Self> {
        let pool = |pool: config::Pool<'_>| WantedPool {
            route: pool.route.map(|route| route.name().into()),
            backends: pool.backends.iter().map(|backend| backend.address).collect(),
        };
        let wanted = |service: &config::Service| Self {
            service: service.name.as_str().into(),
            pools: service.pools().map(pool).collect(),
            removal: match service.policy.on_backend_removed {
                OnBackendRemoved::Keep => Fate::Keep,
                OnBackendRemoved::Reset => Fate::Reset,
            },
            mode: service.delivery.mode.value(),
        };
        config.services.iter().map(wanted).collect()
    }
}

/// What a pool of a service wants ids for: one for each family, and its backends'.
#[derive(Clone, Debug)]
pub struct WantedPool {
    /// What leads to it.
    pub route: RouteName,
    /// Its backends.
    pub backends: Vec<SocketAddr>,
}

/// What the route to a pool is called within its service; none for clients that have no route.
pub type RouteName = Option<Arc<str>>;

/// How many ids there are.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of services.
    pub services: u32,
    /// Of pools.
    pub pools: u32,
    /// Of backends.
    pub backends: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { services: limit::SERVICES, pools: limit::POOLS, backends: limit::BACKENDS }
    }
}

/// What flows still name.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// Service ids.
    pub services: BTreeSet<u32>,
    /// Backend ids.
    pub backends: BTreeSet<u32>,
}

/// A moment in the life of the ids: what rested then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// All ids.
#[derive(Clone, Debug)]
pub struct Ids {
    held: BTreeMap<Arc<str>, Held>,
    services: Numbers,
    pools: Numbers,
    backends: Numbers,
    /// Where packets went to backends that have left, and how, by id: those that rest.
    left: BTreeMap<u32, (SocketAddr, Mode)>,
    /// By backend id, for those whose holder has left before, also when it is back.
    departures: BTreeMap<u32, Departure>,
    /// Raised at each [`Ids::hold`].
    now: u64,
}

/// How the holder of a backend id has left, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Departure {
    /// How many times.
    pub generation: u16,
    /// What becomes of the TCP flows that were there the last time.
    pub fate: Fate,
    /// The service that it belongs to, by id.
    pub service: u32,
}

/// A backend that has left the configuration and whose id rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Its id.
    pub id: Id,
    /// Address and port.
    pub address: SocketAddr,
    /// How packets get there.
    pub mode: Mode,
    /// How it has left.
    pub departure: Departure,
}

/// The ids that a service holds; what has none found none.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// Of the service.
    pub service: Option<Id>,
    /// Of its pools.
    pub pools: BTreeMap<RouteName, HeldPool>,
    /// What becomes of the TCP flows of a backend that leaves.
    pub removal: Fate,
    /// How packets get to its backends.
    pub mode: Mode,
}

/// The ids that a pool holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldPool {
    /// Its own, in the order of [`Family::ALL`].
    pub ids: [Option<Id>; 2],
    /// Of its backends.
    pub backends: BTreeMap<SocketAddr, Id>,
}

/// Whose backends are let go, and what becomes of their flows.
#[derive(Clone, Copy)]
struct Leaving {
    id: Option<Id>,
    mode: Mode,
    fate: Fate,
}

impl Ids {
    /// With nothing held.
    pub fn new(limits: Limits) -> Self {
        Self {
            held: BTreeMap::new(),
            services: Numbers::new(limits.services),
            pools: Numbers::new(limits.pools),
            backends: Numbers::new(limits.backends),
            left: BTreeMap::new(),
            departures: BTreeMap::new(),
            now: 0,
        }
    }

    /// Gives an id to everything wanted, as far as there are any, and lets all others rest.
    pub fn hold(&mut self, wanted: &[Wanted]) {
        self.now += 1;
        let mut before = std::mem::take(&mut self.held);
        for Wanted { service, pools, removal, mode } in wanted {
            let mut old = before.remove(service).unwrap_or_default();
            let id = old.service.or_else(|| self.services.give(Holder::service(service)));
            let leaving = Leaving { id, mode: *mode, fate: *removal };
            if old.mode != *mode {
                for pool in old.pools.values_mut() {
                    let backends = std::mem::take(&mut pool.backends);
                    self.release_backends(Leaving { mode: old.mode, ..leaving }, backends);
                }
            }
            let mut held =
                Held { service: id, pools: BTreeMap::new(), removal: *removal, mode: *mode };
            for WantedPool { route, backends } in pools {
                let old = old.pools.remove(route).unwrap_or_default();
                let pool = self.hold_pool(leaving, (service, route), backends, old);
                held.pools.insert(route.clone(), pool);
            }
            for pool in old.pools.into_values() {
                self.release_pool(leaving, pool);
            }
            self.held.insert(Arc::clone(service), held);
        }
        for old in before.into_values() {
            self.release(old);
        }
    }

    fn hold_pool(
        &mut self,
        leaving: Leaving,
        (service, route): (&str, &RouteName),
        backends: &[SocketAddr],
        mut old: HeldPool,
    ) -> HeldPool {
        let mut held = HeldPool { ids: old.ids, backends: BTreeMap::new() };
        for (family, id) in Family::ALL.into_iter().zip(&mut held.ids) {
            let holder = Holder::pool(service, route, family);
            *id = id.or_else(|| self.pools.give(holder));
        }
        for &address in backends {
            let holder = Holder::backend(service, route, address, leaving.mode);
            let give = || self.backends.give(holder);
            if let Some(id) = old.backends.remove(&address).or_else(give) {
                held.backends.insert(address, id);
            }
        }
        self.release_backends(leaving, old.backends);
        held
    }

    /// The ids that a service holds.
    pub fn held(&self, service: &str) -> Option<&Held> {
        self.held.get(service)
    }

    /// The id that rests for a backend of a service that is there, since it has left; none where none does.
    pub fn absent(&self, key: &BackendKey) -> Option<Id> {
        let mode = self.held.get(&key.service)?.mode;
        self.backends.resting_of(Holder::backend(&key.service, &key.route, key.address, mode))
    }

    /// The backends of those ids of backends that are asked for, and these.
    pub fn holders(&self, mut is_asked: impl FnMut(u32) -> bool) -> Vec<(BackendKey, u32)> {
        let mut holders = Vec::new();
        for (service, held) in &self.held {
            for (route, pool) in &held.pools {
                for (&address, id) in pool.backends.iter().filter(|(_, id)| is_asked(id.number)) {
                    let (service, route) = (Arc::clone(service), route.clone());
                    holders.push((BackendKey { service, route, address }, id.number));
                }
            }
        }
        holders
    }

    /// How a backend has left before; with generation 0 if it never has.
    pub fn departure(&self, backend: Id) -> Departure {
        self.departures.get(&backend.number).copied().unwrap_or_default()
    }

    /// The holder of a backend id has gone down, and may come back: as if it had left and were there again.
    pub fn depart(&mut self, id: u32, fate: Fate, service: u32) -> Departure {
        let departure = self.departures.entry(id).or_default();
        departure.generation = departure.generation.wrapping_add(1);
        departure.fate = fate;
        departure.service = service;
        *departure
    }

    /// The backends that have left and whose ids rest.
    pub fn gone(&self) -> impl Iterator<Item = Gone> {
        self.backends.resting().filter_map(|id| {
            let (address, mode) = *self.left.get(&id.number)?;
            Some(Gone { id, address, mode, departure: self.departure(id) })
        })
    }

    /// What rests by now; none when nothing does.
    pub fn resting(&self) -> Option<Mark> {
        let is_any = self.services.is_any_resting()
            || self.pools.is_any_resting()
            || self.backends.is_any_resting();
        is_any.then_some(Mark(self.now))
    }

    /// Of what rested at `mark`, everything but what is still named may be given out again. Says
    /// whether backends were among it: they are [`Ids::gone`] no longer.
    ///
    /// The mark must have been taken when the maps agreed with the plan, a grace period included,
    /// and the flow table read after that: otherwise a packet in flight could open a flow that
    /// names an id which this calls unnamed.
    pub fn rested(&mut self, mark: Mark, still_named: &Named) -> bool {
        self.services.rested(mark, &still_named.services);
        self.pools.rested(mark, &BTreeSet::new());
        let backends = self.backends.rested(mark, &still_named.backends);
        for id in &backends {
            self.departures.remove(id);
            self.left.remove(id);
        }
        !backends.is_empty()
    }

    fn release(&mut self, held: Held) {
        let Held { service: id, pools, removal: fate, mode } = held;
        for pool in pools.into_values() {
            self.release_pool(Leaving { id, mode, fate }, pool);
        }
        if let Some(id) = id {
            self.services.release(id, self.now);
        }
    }

    fn release_pool(&mut self, leaving: Leaving, pool: HeldPool) {
        for id in pool.ids.into_iter().flatten() {
            self.pools.release(id, self.now);
        }
        self.release_backends(leaving, pool.backends);
    }

    fn release_backends(
        &mut self,
        Leaving { id: holder, mode, fate }: Leaving,
        backends: BTreeMap<SocketAddr, Id>,
    ) {
        for (address, id) in backends {
            let departure = self.departures.entry(id.number).or_default();
            departure.generation = departure.generation.wrapping_add(1);
            departure.fate = fate;
            departure.service = holder.map_or(departure.service, |holder| holder.number);
            self.left.insert(id.number, (address, mode));
            self.backends.release(id, self.now);
        }
    }
}

impl Default for Ids {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(service: &str, backends: &[u16]) -> Wanted {
        let backends = backends.iter().map(|&port| address(port)).collect();
        let pools = vec![WantedPool { route: None, backends }];
        Wanted { service: service.into(), pools, removal: Fate::Keep, mode: Mode::Nat }
    }

    /// With a route that has one backend.
    fn with_route(mut wanted: Wanted, route: &str, backend: u16) -> Wanted {
        let route = Some(route.into());
        wanted.pools.push(WantedPool { route, backends: vec![address(backend)] });
        wanted
    }

    /// The pool for clients without a route.
    fn own<'a>(ids: &'a Ids, service: &str) -> &'a HeldPool {
        &ids.held(service).unwrap().pools[&None]
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn backend(ids: &Ids, port: u16) -> Option<u32> {
        own(ids, "web").backends.get(&address(port)).map(|id| id.number)
    }

    /// Room for three backends.
    fn small() -> Ids {
        Ids::new(Limits { services: 2, pools: 4, backends: 3 })
    }

    /// What becomes of the backends of `web` that leave.
    fn leaving(removal: Fate, backends: &[u16]) -> Wanted {
        Wanted { removal, ..wanted("web", backends) }
    }

    /// Of the backends that are gone: port, generation, fate and service.
    fn gone(ids: &Ids) -> Vec<(u16, u16, Fate, u32)> {
        let of = |gone: Gone| {
            let Departure { generation, fate, service } = gone.departure;
            (gone.address.port(), generation, fate, service)
        };
        let mut all: Vec<_> = ids.gone().map(of).collect();
        all.sort_by_key(|gone| gone.0);
        all
    }

    fn named(backends: &[u32]) -> Named {
        Named { services: BTreeSet::new(), backends: backends.iter().copied().collect() }
    }

    #[test]
    fn ids_follow_the_identity_when_the_file_is_reordered() {
        let mut ids = Ids::default();
        ids.hold(&[wanted("web", &[1, 2, 3]), wanted("dns", &[1])]);
        let all = |ids: &Ids| {
            let of = |held: &Held| (held.service, held.pools.clone());
            ["web", "dns"].map(|service| of(ids.held(service).unwrap()))
        };
        let before = all(&ids);
        ids.hold(&[wanted("dns", &[1]), wanted("web", &[3, 2, 1])]);
        assert_eq!(all(&ids), before);
        assert_eq!(ids.resting(), None);
    }

    #[test]
    fn the_same_address_in_two_services_is_two_backends() {
        let mut ids = Ids::default();
        ids.hold(&[wanted("web", &[1]), wanted("dns", &[1])]);
        let [web, dns] = ["web", "dns"].map(|service| own(&ids, service));
        assert_ne!(web.backends[&address(1)].number, dns.backends[&address(1)].number);
    }

    #[test]
    fn route_has_ids_of_its_own_which_follow_its_name() {
        let mut ids = Ids::default();
        let web = || wanted("web", &[1]);
        ids.hold(&[with_route(with_route(web(), "10.0.0.0/8", 1), "10.1.0.0/16", 1)]);
        let all = |ids: &Ids| ids.held("web").unwrap().pools.clone();
        let before = all(&ids);
        let pools: BTreeSet<_> = before.values().flat_map(|pool| pool.ids).collect();
        let backends: BTreeSet<_> =
            before.values().map(|pool| pool.backends[&address(1)]).collect();
        assert_eq!((pools.len(), backends.len()), (6, 3));
        ids.hold(&[with_route(with_route(web(), "10.1.0.0/16", 1), "10.0.0.0/8", 1)]);
        assert_eq!(all(&ids), before);
        // One that leaves rests with its backends, and gets all back.
        ids.hold(&[with_route(web(), "10.1.0.0/16", 1)]);
        let route: RouteName = Some("10.0.0.0/8".into());
        let left = before[&route].backends[&address(1)].number;
        assert_eq!(ids.gone().map(|gone| gone.id.number).collect::<Vec<_>>(), [left]);
        ids.hold(&[with_route(with_route(web(), "10.1.0.0/16", 1), "10.0.0.0/8", 1)]);
        assert_eq!((all(&ids), ids.resting()), (before, None));
    }

    #[test]
    fn what_comes_back_before_its_id_has_rested_gets_its_old_id() {
        let mut ids = Ids::default();
        ids.hold(&[wanted("web", &[1, 2])]);
        ids.hold(&[wanted("web", &[2])]);
        ids.hold(&[wanted("web", &[3, 2, 1])]);
        assert_eq!(backend(&ids, 1), Some(0));
        assert_eq!(backend(&ids, 3), Some(2));
    }

    #[test]
    fn an_id_that_a_flow_names_is_not_given_out_again() {
        let mut ids = small();
        ids.hold(&[wanted("web", &[1, 2, 3])]);
        ids.hold(&[wanted("web", &[3])]);
        let mark = ids.resting().unwrap();
        ids.rested(mark, &named(&[0]));
        ids.hold(&[wanted("web", &[3, 4, 5])]);
        assert_eq!(backend(&ids, 4), Some(1));
        assert_eq!(backend(&ids, 5), None);
        ids.hold(&[wanted("web", &[3, 4, 1])]);
        assert_eq!(backend(&ids, 1), Some(0));
    }

    #[test]
    fn never_used_ids_are_given_before_rested_ones_and_those_oldest_first() {
        let mut ids = small();
        ids.hold(&[wanted("web", &[1, 2])]);
        ids.hold(&[wanted("web", &[1])]);
        ids.hold(&[wanted("web", &[])]);
        ids.rested(ids.resting().unwrap(), &named(&[]));
        ids.hold(&[wanted("web", &[4, 5, 6])]);
        assert_eq!([4, 5, 6].map(|port| backend(&ids, port).unwrap()), [2, 1, 0]);
    }

    #[test]
    fn what_began_to_rest_after_the_mark_goes_on_resting() {
        let mut ids = small();
        ids.hold(&[wanted("web", &[1, 2, 3])]);
        ids.hold(&[wanted("web", &[2, 3])]);
        let mark = ids.resting().unwrap();
        ids.hold(&[wanted("web", &[1, 3])]);
        ids.hold(&[wanted("web", &[3])]);
        ids.rested(mark, &named(&[]));
        ids.hold(&[wanted("web", &[3, 4])]);
        assert_eq!(backend(&ids, 4), None);
    }

    #[test]
    fn leavers_do_not_cost_newcomers_their_place_and_exhaustion_is_an_answer() {
        let mut ids = small();
        ids.hold(&[wanted("web", &[1, 2, 3, 4])]);
        assert_eq!([1, 2, 3].map(|port| backend(&ids, port)), [0, 1, 2].map(Some));
        assert_eq!(backend(&ids, 4), None);
        ids.hold(&[wanted("web", &[4])]);
        assert_eq!(backend(&ids, 4), None);
        ids.rested(ids.resting().unwrap(), &named(&[]));
        ids.hold(&[wanted("web", &[4])]);
        assert_eq!(backend(&ids, 4), Some(0));
    }

    #[test]
    fn each_departure_raises_the_generation_until_the_id_has_rested() {
        let mut ids = small();
        ids.hold(&[wanted("web", &[1, 2])]);
        let id = own(&ids, "web").backends[&address(1)];
        assert_eq!(ids.departure(id).generation, 0);
        for generation in 1..4 {
            ids.hold(&[wanted("web", &[2])]);
            assert_eq!(gone(&ids), [(1, generation, Fate::Keep, 0)]);
            ids.hold(&[wanted("web", &[1, 2])]);
            assert_eq!(gone(&ids), []);
            assert_eq!(ids.departure(id).generation, generation);
        }
        ids.hold(&[wanted("web", &[2])]);
        assert!(!ids.rested(ids.resting().unwrap(), &named(&[0])));
        assert_eq!(gone(&ids), [(1, 4, Fate::Keep, 0)]);
        assert!(ids.rested(ids.resting().unwrap(), &named(&[])));
        assert_eq!(gone(&ids), []);
        ids.hold(&[wanted("web", &[2, 3, 1])]);
        assert_eq!(backend(&ids, 1), Some(0));
        assert_eq!(ids.departure(own(&ids, "web").backends[&address(1)]).generation, 0);
    }

    #[test]
    fn fate_is_that_of_the_latest_departure() {
        let mut ids = small();
        ids.hold(&[leaving(Fate::Keep, &[1])]);
        // What the configuration that no longer names the backend says about it holds.
        ids.hold(&[leaving(Fate::Reset, &[])]);
        assert_eq!(gone(&ids), [(1, 1, Fate::Reset, 0)]);
        ids.hold(&[leaving(Fate::Keep, &[1])]);
        let id = own(&ids, "web").backends[&address(1)];
        assert_eq!(ids.departure(id).fate, Fate::Reset);
        ids.hold(&[leaving(Fate::Keep, &[])]);
        ids.hold(&[leaving(Fate::Reset, &[])]);
        assert_eq!(gone(&ids), [(1, 2, Fate::Keep, 0)]);
    }

    #[test]
    fn backends_of_a_service_that_leaves_go_by_what_it_said_last() {
        let mut ids = small();
        ids.hold(&[wanted("dns", &[]), leaving(Fate::Reset, &[1, 2])]);
        ids.hold(&[wanted("dns", &[])]);
        assert_eq!(gone(&ids), [(1, 1, Fate::Reset, 1), (2, 1, Fate::Reset, 1)]);
    }
}
