//! How connections go on, as a worker knows it: made of the plan, sent whole, and looked up in.
//!
//! It is what the packet programs have in their maps of the same services: slots, backends, prefixes of sources; and the names that lead
//! to pools beside. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use equipoise_common::limit;
use equipoise_common::value::{self, Mode};
use equipoise_core::config::{Config, Prefix};
use equipoise_core::plan::{Desired, Routed, Stream};
use serde::{Deserialize, Serialize};

/// All that is streamed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// The services, by id.
    pub(super) services: BTreeMap<u32, Service>,
    /// Their pools, by id.
    pub(super) pools: BTreeMap<u32, Pool>,
    /// The backends in these, by id.
    pub(super) backends: BTreeMap<u32, Backend>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Service {
    /// Who holds its id.
    pub(super) holder: u64,
    /// Addresses that it is reached at, and the first and last of its ports there.
    pub(super) spots: Vec<(IpAddr, u16, u16)>,
    /// Pools by family, for clients whose source has no route.
    pub(super) own: [u32; 2],
    /// Prefixes of sources that have a pool of their own: addresses, and bits of them.
    pub(super) sources: Vec<(IpAddr, u8, u32)>,
    /// Pools by family, for clients that name one of these servers.
    pub(super) names: BTreeMap<String, [u32; 2]>,
    /// Live flows at most; 0 for no limit.
    pub(super) max_flows: u32,
    /// How long a connection may take to get to a backend.
    pub(super) opening: Duration,
    /// How long one lives that moves nothing.
    pub(super) idle: Duration,
    /// New flows of each backend in a second, and how many at once; 0 for no limit.
    pub(super) backend_rate: (u32, u32),
    /// Addresses that connections to backends are made from; none for what the system takes.
    pub(super) sources_at_backends: Vec<IpAddr>,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pool {
    /// How a slot is picked, [`value::Pool::pick`].
    pub(super) pick: u32,
    /// A backend's id in each slot.
    pub(super) slots: Arc<[u32]>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Backend {
    /// Who holds its id.
    pub(super) holder: u64,
    /// Where it is; port 0 for the one that the client has connected to.
    pub(super) place: SocketAddr,
    /// What its generation is.
    pub(super) generation: u16,
    /// How many live flows it is to have for those of others in its pool.
    pub(super) weight: u16,
    /// Live flows at most; 0 for no limit.
    pub(super) max_flows: u32,
    /// Whether it is told who has connected.
    pub(super) told: bool,
}

impl Table {
    /// What is streamed by a plan.
    pub fn of(config: &Config, desired: &Desired) -> Self {
        let mut table = Self::default();
        for (&id, stream) in &desired.streams {
            let Some(service) = config.services.iter().find(|s| s.name == *stream.name) else {
                continue;
            };
            let policy = desired.policies.get(&id).copied().unwrap_or_default();
            let rate = policy.limits.backend;
            // They are in the order of their services.
            let first = Routed { service: id, prefix: Prefix::of([0; 4].into(), 0) };
            let routes =
                desired.routes.range(first..).take_while(|(routed, _)| routed.service == id);
            let sources = routes.map(|(routed, &pool)| {
                let Prefix { address, length } = routed.prefix;
                (address, length, pool)
            });
            let is_full = service.delivery.mode.value() == Mode::FullNat;
            let timeouts = service.policy.timeouts;
            table.services.insert(
                id,
                Service {
                    holder: desired.service_holders.get(&id).map_or(0, |holder| holder.0),
                    spots: stream.spots.iter().copied().collect(),
                    own: stream.own,
                    sources: sources.collect(),
                    names: stream.names.clone(),
                    max_flows: policy.max_flows,
                    opening: timeouts.tcp_opening,
                    idle: timeouts.tcp_established,
                    backend_rate: (rate.rate, rate.burst),
                    sources_at_backends: if is_full {
                        service.delivery.snat_addresses.clone()
                    } else {
                        Vec::new()
                    },
                },
            );
        }
        table.place_pools(desired);
        table
    }

    fn place_pools(&mut self, desired: &Desired) {
        let streams: HashMap<&str, &Stream> =
            desired.streams.values().map(|stream| (&*stream.name, stream)).collect();
        if streams.is_empty() {
            return;
        }
        for (&id, pool) in &desired.pools {
            let Some(stream) = streams.get(&*pool.service) else { continue };
            let slots = Arc::clone(&pool.slots);
            self.pools.insert(id, Pool { pick: pool.pick_number(), slots });
            for member in &pool.members {
                let Some(backend) = desired.backends.get(&member.id) else { continue };
                let told = stream.told.contains(&member.id);
                self.backends.insert(member.id, Backend::of(backend, told));
            }
        }
    }

    /// Whether nothing is streamed.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }
}

impl Backend {
    fn of(plan: &equipoise_core::plan::BackendPlan, told: bool) -> Self {
        let value::Backend { generation, weight, max_flows, .. } = plan.value;
        let place = plan.value.place();
        Self { holder: plan.holder.0, place, generation, weight, max_flows, told }
    }
}

/// A table, made ready to be looked up in.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    pub(super) table: Table,
    /// Ports and services by address, the fewest ports first.
    spots: HashMap<IpAddr, Vec<(RangeInclusive<u16>, u32)>>,
    /// Pools by service and prefix, and the lengths of prefixes that each service has, the longest first.
    sources: HashMap<(u32, Prefix), u32>,
    lengths: HashMap<u32, Vec<u8>>,
}

impl Lookup {
    /// Of a table.
    pub(super) fn new(table: Table) -> Self {
        let mut lookup = Self::default();
        for (&id, service) in &table.services {
            for &(address, first, last) in &service.spots {
                lookup.spots.entry(address).or_default().push((first..=last, id));
            }
            let lengths = lookup.lengths.entry(id).or_default();
            for &(address, length, pool) in &service.sources {
                lookup.sources.insert((id, Prefix::of(address, length)), pool);
                lengths.push(length);
            }
            lengths.sort_unstable();
            lengths.dedup();
            lengths.reverse();
        }
        for spots in lookup.spots.values_mut() {
            spots.sort_by_key(|(ports, _)| ports.len());
        }
        lookup.table = table;
        lookup
    }

    /// The service that is reached there.
    pub(super) fn service(&self, vip: SocketAddr) -> Option<(u32, &Service)> {
        let spots = self.spots.get(&vip.ip())?;
        let (_, id) = spots.iter().find(|(ports, _)| ports.contains(&vip.port()))?;
        Some((*id, self.table.services.get(id)?))
    }

    /// The pool that a client's source leads to, by the longest prefix; none where it has no route.
    pub(super) fn of_source(&self, service: u32, client: IpAddr) -> Option<u32> {
        let lengths = self.lengths.get(&service)?;
        lengths
            .iter()
            .find_map(|&length| self.sources.get(&(service, Prefix::of(client, length))).copied())
    }
}

impl Service {
    /// Whether clients' names matter.
    pub(super) fn asks_for_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// The pools for a name in lower case: its own, or those of the longest `*.` that it ends like; by family.
    pub(super) fn of_name(&self, name: &str) -> Option<[u32; 2]> {
        if let Some(pools) = self.names.get(name) {
            return Some(*pools);
        }
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(pools) = self.names.get(&format!("*.{parent}")) {
                return Some(*pools);
            }
            rest = parent;
        }
        None
    }
}

/// How many backends a connection tries at most.
pub(super) const TRIES: u32 = limit::BACKEND_TRIES;

#[cfg(test)]
mod tests {
    use super::*;

    fn service(names: &[(&str, u32)]) -> Service {
        Service {
            holder: 0,
            spots: vec![("203.0.113.10".parse().unwrap(), 443, 443)],
            own: [0, 1],
            sources: vec![
                ("10.0.0.0".parse().unwrap(), 8, 7),
                ("10.1.0.0".parse().unwrap(), 16, 8),
                ("2001:db8::".parse().unwrap(), 32, 9),
            ],
            names: names.iter().map(|&(name, pool)| (name.to_owned(), [pool, pool])).collect(),
            max_flows: 0,
            opening: Duration::ZERO,
            idle: Duration::ZERO,
            backend_rate: (0, 0),
            sources_at_backends: Vec::new(),
        }
    }

    #[test]
    fn a_name_leads_to_its_own_pool_and_else_to_that_of_the_longest_end() {
        let service =
            service(&[("a.example.com", 1), ("*.example.com", 2), ("*.b.example.com", 3)]);
        let pool = |name| service.of_name(name).map(|[v4, _]| v4);
        assert_eq!(pool("a.example.com"), Some(1));
        assert_eq!(pool("b.example.com"), Some(2));
        assert_eq!(pool("x.b.example.com"), Some(3));
        assert_eq!(pool("x.y.b.example.com"), Some(3));
        assert_eq!(pool("x.a.example.com"), Some(2), "a name is not all that end like it");
        for other in ["example.com", "example.org", "", ".", "*.example.org", "com"] {
            assert_eq!(pool(other), None, "{other}");
        }
    }

    #[test]
    fn the_longest_prefix_and_the_fewest_ports_decide() {
        let mut table = Table::default();
        table.services.insert(3, service(&[]));
        let mut wide = service(&[]);
        wide.spots = vec![("203.0.113.10".parse().unwrap(), 400, 500)];
        table.services.insert(2, wide);
        let lookup = Lookup::new(table);
        let at = |vip: &str| lookup.service(vip.parse().unwrap()).map(|(id, _)| id);
        assert_eq!(at("203.0.113.10:443"), Some(3));
        assert_eq!(at("203.0.113.10:444"), Some(2));
        assert_eq!(at("203.0.113.10:501"), None);
        assert_eq!(at("203.0.113.11:443"), None);
        let source = |client: &str| lookup.of_source(3, client.parse().unwrap());
        assert_eq!(source("10.1.2.3"), Some(8));
        assert_eq!(source("10.2.2.3"), Some(7));
        assert_eq!(source("11.2.2.3"), None);
        assert_eq!(source("2001:db8:1::1"), Some(9));
        assert_eq!(source("::10.1.2.3"), None);
    }
}
