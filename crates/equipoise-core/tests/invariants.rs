//! What holds for every plan and every difference, whatever the configurations and their order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use equipoise_common::access::masked;
use equipoise_common::key::{HostKey, TCP};
use equipoise_common::value::{Backend, Limits, Policy, Pool, Reply, Service, Snat};
use equipoise_core::config::{
    self, Affinity, AffinityPrefix, Algorithm, Config, Delivery, List, Listen, Mode, MssClamp,
    OnBackendRemoved, Ports, Prefix, Protocol, RateLimit, Route, Settings,
};
use equipoise_core::diff::{Applied, Difference, Run, Step, diff};
use equipoise_core::facts::{Facts, Interface};
use equipoise_core::id::{Family, Ids, Named, Wanted};
use equipoise_core::plan::{Desired, Listed, Routed, Rule, ServiceKey, Spot, plan};
use equipoise_core::state::State;
use proptest::prelude::*;
use proptest::sample::Index;

/// Enough for some of the plans made here, too little for others.
const FEW_SLOTS: u32 = 20_000;

/// The maps, and what packets in flight may still be reading.
#[derive(Default)]
struct Maps {
    services: BTreeMap<ServiceKey, Service>,
    pools: BTreeMap<u32, Pool>,
    backends: BTreeMap<u32, Backend>,
    policies: BTreeMap<u32, Policy>,
    access: BTreeMap<Listed, Rule>,
    routes: BTreeMap<Routed, u32>,
    replies: BTreeMap<ServiceKey, Reply>,
    snat: BTreeMap<u64, Snat>,
    hairpins: BTreeSet<HostKey>,
    slots: BTreeMap<Run, Slots>,
    given_up: Vec<Run>,
}

/// A run as it was written, until something else is written over part of it.
struct Slots {
    ids: Arc<[u32]>,
    named: BTreeSet<u32>,
}

impl Maps {
    /// Takes a step; panics if a packet could see it happen.
    fn take(&mut self, step: &Step) {
        match step {
            Step::ResetServiceCounters { id, .. } => {
                assert!(self.services.values().all(|service| service.id != *id), "{step}");
            }
            Step::ResetBackendCounters { id, .. } => {
                assert!(self.read_runs().all(|run| !self.slots[&run].named.contains(id)), "{step}");
            }
            Step::PutPolicy { id, value } => {
                self.policies.insert(*id, *value);
            }
            Step::PutAccess { listed, rule } => {
                self.access.insert(*listed, *rule);
            }
            Step::RemoveAccess { listed } => {
                assert!(self.access.remove(listed).is_some(), "{step}");
            }
            Step::PutReply { key, value } => {
                self.replies.insert(*key, *value);
            }
            Step::RemoveReply { key } => assert!(self.replies.remove(key).is_some(), "{step}"),
            Step::PutSnat { key, value } => {
                self.snat.insert(*key, *value);
            }
            Step::RemoveSnat { key } => assert!(self.snat.remove(key).is_some(), "{step}"),
            Step::PutHairpin { key } => assert!(self.hairpins.insert(*key), "{step}"),
            Step::RemoveHairpin { key } => assert!(self.hairpins.remove(key), "{step}"),
            Step::PutBackend { id, value } => {
                let was = self.backends.insert(*id, *value);
                was.into_iter().for_each(|was| check_generation(&was, value, step));
            }
            Step::WriteSlots { run, slots } => {
                assert!(self.read_runs().all(|read| !read.overlaps(*run)), "{step}");
                assert_eq!(run.length as usize, slots.len());
                self.slots.retain(|other, _| !other.overlaps(*run));
                let slots =
                    Slots { ids: Arc::clone(slots), named: slots.iter().copied().collect() };
                self.slots.insert(*run, slots);
            }
            Step::PutPool { id, value, .. } => {
                let old = self.pools.insert(*id, *value).map(|old| Run::of(&old));
                self.given_up.extend(old.filter(|&old| old != Run::of(value)));
            }
            Step::PutRoute { routed, pool } => {
                self.routes.insert(*routed, *pool);
            }
            Step::RemoveRoute { routed } => {
                assert!(self.routes.remove(routed).is_some(), "{step}");
            }
            Step::PutService { key, value } => {
                self.services.insert(*key, *value);
            }
            Step::RemoveService { key } => assert!(self.services.remove(key).is_some(), "{step}"),
            Step::RemovePool { id } => {
                let old = self.pools.remove(id).expect("only what is there is removed");
                self.given_up.push(Run::of(&old));
            }
            Step::RemoveBackend { id } => {
                let was = self.backends.remove(id).expect("only what is there is removed");
                assert_eq!(was.state, Backend::GONE, "{step}");
            }
            Step::Grace => self.given_up.clear(),
        }
        self.check(step);
    }

    /// Each reference leads to something, in packets of now and in those in flight.
    fn check(&self, step: &Step) {
        for service in self.services.values() {
            assert!(self.pools.contains_key(&service.pool), "after {step}: {service:?}");
            assert!(self.policies.contains_key(&service.id), "after {step}: {service:?}");
        }
        for (routed, pool) in &self.routes {
            assert!(self.pools.contains_key(pool), "after {step}: {routed}");
        }
        for id in self.services.values().map(|service| service.id) {
            // Nobody is kept out because the list of those who are let in is not there yet.
            let only = self.policies[&id].limits.lists & Limits::LISTED_ONLY != 0;
            let is_its_own = |listed: &Listed| listed.service.is_none_or(|service| service == id);
            assert!(!only || self.access.keys().any(is_its_own), "after {step}");
        }
        let is_live =
            |id: &u32| self.backends.get(id).is_some_and(|there| there.state == Backend::LIVE);
        for reply in self.replies.values() {
            assert!(is_live(&reply.backend), "after {step}: {reply:?}");
            assert!(self.policies.contains_key(&reply.service), "after {step}: {reply:?}");
        }
        for (&id, backend) in &self.backends {
            for entry in 0..u32::from(backend.sources) {
                assert!(self.snat.contains_key(&Snat::key(id, entry)), "after {step}: {backend:?}");
            }
        }
        for run in self.read_runs() {
            let slots = &self.slots[&run];
            assert!(slots.named.iter().all(is_live), "after {step}: {run}");
        }
    }

    /// Where a packet is led, as the packet programs find it: by its port, else by the longest prefix.
    fn lookup(&self, spot: Spot, port: u16) -> Option<Service> {
        let exact =
            ServiceKey::new(SocketAddr::new(spot.address, port), spot.interface, spot.protocol);
        let fits = |key: &ServiceKey| {
            let ports = key.vip().port()..=key.last_port();
            ports.contains(&port)
                && (key.vip().ip(), key.interface(), key.protocol())
                    == (spot.address, spot.interface, spot.protocol)
        };
        self.services.get(&exact).copied().or_else(|| {
            let ranges = self.services.iter().filter(|(key, _)| key.port_bits() <= 16 && fits(key));
            ranges.max_by_key(|(key, _)| key.port_bits()).map(|(_, service)| *service)
        })
    }

    /// The pool that a source has at a service by its route, as the packet programs find it: by its longest prefix.
    fn routed(&self, service: u32, source: IpAddr) -> Option<u32> {
        if self.policies.get(&service)?.switches & Policy::ROUTES == 0 {
            return None;
        }
        let is_in = |&(routed, _): &(&Routed, &u32)| {
            let Prefix { address, length } = routed.prefix;
            routed.service == service
                && source.is_ipv4() == address.is_ipv4()
                && masked(source.into(), length.into()) == address.into()
        };
        let found = self.routes.iter().filter(is_in);
        found.max_by_key(|(routed, _)| routed.prefix.length).map(|(_, &pool)| pool)
    }

    fn is_there(&self, backend: u32) -> bool {
        self.backends.contains_key(&backend)
    }

    fn read_runs(&self) -> impl Iterator<Item = Run> {
        let runs = self.pools.values().map(Run::of).chain(self.given_up.iter().copied());
        runs.filter(|run| run.length > 0)
    }

    fn ids(&self, pool: &Pool) -> &[u32] {
        self.slots.get(&Run::of(pool)).map_or(&[], |slots| &slots.ids)
    }

    fn assert_is(&self, desired: &Desired) {
        assert_eq!(self.services, desired.services);
        assert_eq!(self.replies, desired.replies);
        assert_eq!(self.access, desired.access);
        assert_eq!(self.routes, desired.routes);
        // A service that has left leaves its policy.
        let policies = desired.policies.iter();
        assert!(policies.clone().all(|(id, policy)| self.policies.get(id) == Some(policy)));
        // A backend that left before it was ever put was never seen.
        let backends = desired.backends.iter().map(|(&id, backend)| (id, backend.value));
        let is_seen =
            |(id, backend): &(u32, Backend)| backend.state == Backend::LIVE || self.is_there(*id);
        assert_eq!(self.backends, backends.filter(is_seen).collect());
        let pools = self.pools.iter().map(|(&id, pool)| (id, (pool.pick, self.ids(pool))));
        let wanted =
            desired.pools.iter().map(|(&id, pool)| (id, (pool.pick_number(), &*pool.slots)));
        assert!(pools.eq(wanted));
    }
}

/// A flow of a backend that went is told from one opened since by its generation alone.
fn check_generation(was: &Backend, is: &Backend, step: &Step) {
    if (was.address, was.port, was.service) != (is.address, is.port, is.service) {
        return;
    }
    assert!(is.generation >= was.generation, "{step}");
    if was.state == Backend::LIVE && is.state == Backend::GONE {
        assert!(is.generation > was.generation, "{step}");
    }
    if was.state == Backend::GONE && is.state == Backend::LIVE {
        assert!(is.generation > 0, "{step}");
    }
}

fn take(steps: &[Step], maps: &mut Maps, applied: &mut Applied) {
    for step in steps {
        maps.take(step);
        applied.record(step);
    }
}

/// Something that happens to a running instance.
#[derive(Clone, Debug)]
struct Turn {
    config: Config,
    facts: Facts,
    /// At which of the steps the apply fails, if it does.
    fails: Option<Index>,
    /// Whether the flow table is read afterwards, and which backend id it still names.
    flows: Option<u32>,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = (configs(), facts(), any::<Option<Index>>(), prop::option::of(0_u32..8));
    let turn = turn.prop_map(|(config, facts, fails, flows)| Turn { config, facts, fails, flows });
    prop::collection::vec(turn, 1..8)
}

fn configs() -> impl Strategy<Value = Config> {
    let services = ["web", "dns", "mail"].map(|name| prop::option::weighted(0.8, service(name)));
    (services, limits()).prop_map(|(services, limits)| {
        let mut config = config(services.into_iter().flatten().collect());
        config.settings.limits = limits;
        config
    })
}

/// Services no two of which have the same rank at the same address.
fn distinct_configs() -> impl Strategy<Value = Config> {
    configs().prop_map(|mut all| {
        let kind = |ports: &Ports| match ports {
            Ports::List(_) => 0,
            Ports::Range(..) => 1,
            Ports::All => 2,
        };
        let mut seen = BTreeSet::new();
        all.services
            .retain(|service| seen.insert((service.listen.address, kind(&service.listen.port))));
        all
    })
}

fn service(name: &'static str) -> impl Strategy<Value = config::Service> {
    let address =
        prop::option::of(prop::sample::select(vec!["192.0.2.1", "192.0.2.2", "2001:db8::1"]));
    let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Both]);
    let algorithm = prop::sample::select(vec![
        Algorithm::Maglev,
        Algorithm::Random,
        Algorithm::RoundRobin,
        Algorithm::LeastConnections,
    ]);
    let pools = (backends(), routes(), name_routes());
    (address, ports(), protocol, algorithm, pools, (policy(), delivery())).prop_map(
        move |(address, port, protocol, algorithm, pools, (policy, delivery))| {
            let (backends, routes, name_routes) = pools;
            let address = address.map(|address| address.parse().unwrap());
            let interfaces = vec!["eth0".to_owned(), "eth1".to_owned()];
            let listen = Listen { interfaces, address, port, protocol };
            let mut service = config::Service {
                name: name.to_owned(),
                listen,
                algorithm,
                affinity: if protocol == Protocol::Both {
                    Affinity::SourceIp
                } else {
                    Affinity::None
                },
                affinity_prefix: AffinityPrefix::default(),
                backends,
                named: Vec::new(),
                routes,
                name_routes,
                delivery,
                manage_address: false,
                policy,
                recovery: config::health::Recovery::default(),
                panic: config::health::Panic::default(),
                breaker: None,
            };
            if delivery_keeps(&service) {
                go_by_packets(&mut service);
            }
            service
        },
    )
}

/// Whether no connections can be taken up by this host: packets go on as they are, or there is no TCP.
fn delivery_keeps(service: &config::Service) -> bool {
    service.delivery.mode.keeps_packets() || service.listen.protocol == Protocol::Udp
}

fn go_by_packets(service: &mut config::Service) {
    service.name_routes.clear();
    let routes = service.routes.iter_mut().flat_map(|route| &mut route.backends);
    service.backends.iter_mut().chain(routes).for_each(|backend| backend.proxy_protocol = None);
}

/// Some of a few prefixes, that are in each other, in no, one or two routes.
fn routes() -> impl Strategy<Value = Vec<Route>> {
    let all = ["10.0.0.0/8", "10.0.0.0/16", "10.0.0.1/32", "10.0.0.9/32", "2001:db8::/32"];
    let some = prop::sample::subsequence(all.to_vec(), 0..=5).prop_shuffle();
    (some, any::<Index>(), backends(), backends()).prop_map(|(prefixes, at, first, second)| {
        let (one, other) = prefixes.split_at(at.index(prefixes.len() + 1));
        let routes = [(one, first), (other, second)];
        let routes = routes.into_iter().filter(|(prefixes, _)| !prefixes.is_empty());
        routes.map(|(prefixes, backends)| route(prefixes, backends)).collect()
    })
}

/// Some of a few names, in no, one or two routes.
fn name_routes() -> impl Strategy<Value = Vec<Route>> {
    let all = ["a.example", "b.example", "*.example"];
    let some = prop_oneof![
        Just(Vec::new()),
        prop::sample::subsequence(all.to_vec(), 0..=3).prop_shuffle()
    ];
    (some, any::<Index>(), backends(), backends()).prop_map(|(names, at, first, second)| {
        let (one, other) = names.split_at(at.index(names.len() + 1));
        let routes = [(one, first), (other, second)];
        let routes = routes.into_iter().filter(|(names, _)| !names.is_empty());
        let by_name = |(names, backends): (&[&str], _)| Route {
            names: names.iter().map(ToString::to_string).collect(),
            ..route(&[], backends)
        };
        routes.map(by_name).collect()
    })
}

fn route(prefixes: &[&str], backends: Vec<config::Backend>) -> Route {
    let prefix = |text: &&str| {
        let (address, length) = text.split_once('/').unwrap();
        Prefix { address: address.parse().unwrap(), length: length.parse().unwrap() }
    };
    let mut parsed: Vec<_> = prefixes.iter().map(prefix).collect();
    parsed.sort_unstable();
    let written = prefixes.iter().map(ToString::to_string).collect();
    Route {
        source: List { written, prefixes: parsed.into() },
        names: Vec::new(),
        source_names: Vec::new(),
        algorithm: Algorithm::Random,
        affinity: Affinity::None,
        affinity_prefix: AffinityPrefix::default(),
        backends,
        named: Vec::new(),
        recovery: config::health::Recovery::default(),
        panic: config::health::Panic::default(),
        breaker: None,
    }
}

/// Of every mode, with addresses of ours or without.
fn delivery() -> impl Strategy<Value = Delivery> {
    let modes = vec![Mode::Nat, Mode::Nat, Mode::FullNat, Mode::Dsr, Mode::Ipip, Mode::Gue];
    let all: Vec<IpAddr> =
        ["192.0.2.9", "198.51.100.1", "2001:db8::9"].map(|a| a.parse().unwrap()).to_vec();
    let addresses = prop::sample::subsequence(all, 0..=3);
    (prop::sample::select(modes), addresses).prop_map(|(mode, snat_addresses)| Delivery {
        mode,
        snat_addresses,
        mss_clamp: MssClamp::Auto,
    })
}

/// Those that meet, and that make a few keys each.
fn ports() -> impl Strategy<Value = Ports> {
    prop::sample::select(vec![
        Ports::one(80),
        Ports::one(80),
        Ports::List(vec![80, 443]),
        Ports::Range(80, 83),
        Ports::Range(79, 500),
        Ports::All,
    ])
}

fn policy() -> impl Strategy<Value = config::Policy> {
    let removed = prop::sample::select(vec![OnBackendRemoved::Keep, OnBackendRemoved::Reset]);
    (removed, 0_u32..3, limits()).prop_map(|(on_backend_removed, max_flows, limits)| {
        config::Policy { on_backend_removed, max_flows, limits, ..config::Policy::default() }
    })
}

fn limits() -> impl Strategy<Value = config::Limits> {
    let rate = prop::option::of(0_u32..3);
    (rate, list(), list()).prop_map(|(rate, allow, deny)| config::Limits {
        per_backend: RateLimit { rate, burst: None },
        allow,
        deny,
        ..config::Limits::default()
    })
}

/// None, or some of a few prefixes, which other lists may have too.
fn list() -> impl Strategy<Value = List> {
    let prefix =
        |(address, length): (&str, u8)| Prefix { address: address.parse().unwrap(), length };
    let all =
        [("10.0.0.0", 8), ("10.0.0.0", 16), ("192.0.2.1", 32), ("2001:db8::", 32)].map(prefix);
    let some = prop::sample::subsequence(all.to_vec(), 0..=4);
    prop_oneof![Just(Vec::new()), some].prop_map(|prefixes| List {
        written: prefixes.iter().map(ToString::to_string).collect(),
        prefixes: prefixes.into(),
    })
}

/// Some of a few backends, in any order, so that they go and come back.
fn backends() -> impl Strategy<Value = Vec<config::Backend>> {
    let all: Vec<SocketAddr> =
        ["10.0.0.1:80", "10.0.0.1:81", "10.0.0.2:80", "10.0.0.3:0", "[fd00::1]:80", "[fd00::2]:80"]
            .map(|address| address.parse().unwrap())
            .to_vec();
    let some = prop::sample::subsequence(all, 0..=6).prop_shuffle();
    let told = prop::option::weighted(0.1, Just(config::ProxyProtocol::V2));
    (some, prop::array::uniform6(0_u16..4), told).prop_map(|(addresses, weights, told)| {
        let backend = |(address, weight)| config::Backend {
            address,
            weight,
            max_flows: 0,
            role: config::Role::Regular,
            health_check: None,
            proxy_protocol: told,
            rank: 0,
            origin: None,
        };
        addresses.into_iter().zip(weights).map(backend).collect()
    })
}

fn facts() -> impl Strategy<Value = Facts> {
    let all: Vec<IpAddr> =
        ["192.0.2.1", "192.0.2.9", "2001:db8::1"].map(|address| address.parse().unwrap()).to_vec();
    let interface = |index| {
        let addresses = prop::sample::subsequence(all.clone(), 0..=3);
        prop::option::weighted(
            0.9,
            addresses.prop_map(move |addresses| Interface { index, addresses }),
        )
    };
    let sources = prop::sample::subsequence(vec!["10.0.0.1", "10.0.0.2", "fd00::1"], 0..=3);
    (interface(2), interface(3), sources).prop_map(|(eth0, eth1, reached)| {
        let named = [("eth0", eth0), ("eth1", eth1)];
        let there = named.into_iter().filter_map(|(name, there)| Some((name.to_owned(), there?)));
        let own = |backend: &str| {
            let source = if backend.contains(':') { "2001:db8::1" } else { "192.0.2.9" };
            (backend.parse().unwrap(), source.parse().unwrap())
        };
        let sources = reached.into_iter().map(own).collect();
        Facts { interfaces: there.collect(), sources, ..Facts::default() }
    })
}

fn config(services: Vec<config::Service>) -> Config {
    Config { services, settings: Settings::default(), places: config::Places::default() }
}

/// Lives through the turns as the shell does, and says after each what is planned and in the maps.
fn live(turns: Vec<Turn>, slots: u32, mut after: impl FnMut(&Desired, &Applied, &Maps)) {
    let mut state = State::new(config(Vec::new()), Facts::default());
    let (mut maps, mut applied) = (Maps::default(), Applied::new(slots));
    for turn in turns {
        state.handle_config(turn.config);
        state.handle_facts(turn.facts);
        if let Some(fails) = turn.fails {
            let steps = diff(&applied, state.plan()).steps;
            let until = fails.index(steps.len() + 1);
            take(&steps[..until], &mut maps, &mut applied);
            // No retry before the next turn.
            continue;
        }
        let Difference { steps, unplaced } = diff(&applied, state.plan());
        take(&steps, &mut maps, &mut applied);
        if !unplaced.is_empty() {
            continue;
        }
        after(state.planned(), &applied, &maps);
        if let (Some(named), Some(mark)) = (turn.flows, state.resting()) {
            let backends = BTreeSet::from([named]);
            state.handle_named(mark, &Named { services: BTreeSet::new(), backends });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_prefix_of_the_steps_is_a_state_that_packets_may_see(turns in turns()) {
        // `Maps` checks after each step.
        live(turns, FEW_SLOTS, |_, _, _| ());
    }

    #[test]
    fn steps_lead_to_what_is_desired_and_then_there_are_none(turns in turns()) {
        live(turns, 1 << 17, |desired, applied, maps| {
            maps.assert_is(desired);
            assert_eq!(diff(applied, desired), Difference::default());
        });
    }

    #[test]
    fn no_packet_is_led_by_a_service_that_it_is_neither_for_before_nor_after(turns in turns()) {
        let mut state = State::new(config(Vec::new()), Facts::default());
        let (mut maps, mut applied) = (Maps::default(), Applied::new(1 << 17));
        let spots = ["192.0.2.1", "192.0.2.9"].map(|address| Spot {
            address: address.parse().unwrap(),
            interface: 2,
            protocol: TCP,
        });
        let led = |maps: &Maps| -> Vec<Option<Service>> {
            const PORTS: [u16; 8] = [22, 79, 80, 81, 84, 443, 500, 501];
            spots.iter().flat_map(|&spot| PORTS.map(|port| maps.lookup(spot, port))).collect()
        };
        for turn in turns {
            state.handle_config(turn.config);
            state.handle_facts(turn.facts);
            let before = led(&maps);
            let mut seen = Vec::new();
            for step in diff(&applied, state.plan()).steps {
                take(&[step], &mut maps, &mut applied);
                seen.push(led(&maps));
            }
            let after = led(&maps);
            for meanwhile in seen {
                for (at, service) in meanwhile.iter().enumerate() {
                    prop_assert!(*service == before[at] || *service == after[at]);
                }
            }
        }
    }

    #[test]
    fn no_source_is_led_by_a_route_that_it_has_neither_before_nor_after(turns in turns()) {
        let mut state = State::new(config(Vec::new()), Facts::default());
        let (mut maps, mut applied) = (Maps::default(), Applied::new(1 << 17));
        let sources = ["10.0.0.1", "10.0.0.9", "10.0.1.1", "10.9.0.1", "192.0.2.7", "2001:db8::7"];
        let sources: Vec<IpAddr> = sources.iter().map(|source| source.parse().unwrap()).collect();
        // Of all services that there are ids for here, and of those that packets are led to.
        let led = |maps: &Maps| -> BTreeMap<(u32, IpAddr), Option<u32>> {
            let all = (0..3).flat_map(|id| sources.iter().map(move |&source| (id, source)));
            all.map(|(id, source)| ((id, source), maps.routed(id, source))).collect()
        };
        let reached = |maps: &Maps| -> BTreeSet<u32> {
            maps.services.values().map(|service| service.id).collect()
        };
        for turn in turns {
            state.handle_config(turn.config);
            state.handle_facts(turn.facts);
            let before = led(&maps);
            let mut seen = Vec::new();
            for step in diff(&applied, state.plan()).steps {
                take(&[step], &mut maps, &mut applied);
                let (mut led, reached) = (led(&maps), reached(&maps));
                led.retain(|(id, _), _| reached.contains(id));
                seen.push(led);
            }
            let after = led(&maps);
            for (at, pool) in seen.iter().flatten() {
                prop_assert!(*pool == before[at] || *pool == after[at], "{:?}: {:?}", at, pool);
            }
        }
    }

    #[test]
    fn port_goes_before_range_before_all_and_exact_addresses_before_own_ones(
        config in distinct_configs(),
        facts in facts(),
        port in prop_oneof![any::<u16>(), 78_u16..85, 442_u16..502],
    ) {
        let mut state = State::new(config.clone(), facts.clone());
        let mut maps = Maps::default();
        take(&diff(&Applied::new(1 << 17), state.plan()).steps, &mut maps, &mut Applied::default());
        let Some(eth0) = facts.interfaces.get("eth0") else { return Ok(()) };
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let found = maps.lookup(Spot { address, interface: eth0.index, protocol: TCP }, port);
        let rank = |service: &&config::Service| {
            let ports = match service.listen.port {
                Ports::List(_) => 0,
                Ports::Range(..) => 1,
                Ports::All => 2,
            };
            (service.listen.address.is_none(), ports)
        };
        let wanted = config.services.iter().filter(|service| {
            let reached = match service.listen.address {
                Some(exact) => exact == address,
                None => eth0.addresses.contains(&address),
            };
            let mut ranges = service.listen.port.ranges();
            let has = ranges.any(|(first, last)| (first..=last).contains(&port))
                || service.listen.port == Ports::All;
            reached && has && service.listen.protocol != Protocol::Udp
        });
        let wanted = wanted.min_by_key(rank).map(|service| service.name.as_str());
        let services = state.services();
        let named = found.and_then(|found| services.iter().find(|s| s.id == Some(found.id)));
        prop_assert_eq!(named.map(|view| view.service.name.as_str()), wanted);
    }

    #[test]
    fn plan_does_not_depend_on_what_was_planned_before(turns in turns()) {
        let mut ids = Ids::default();
        let mut previous = Desired::default();
        for Turn { config, facts, .. } in turns {
            ids.hold(&Wanted::all(&config));
            let desired = plan(&config, &facts, &ids, Some(&previous));
            prop_assert_eq!(&desired, &plan(&config, &facts, &ids, None));
            previous = desired;
        }
    }

    #[test]
    fn names_lead_to_pools_that_are_there_and_only_what_is_streamed_is_taken_up(
        config in configs(),
        facts in facts(),
    ) {
        let mut state = State::new(config.clone(), facts);
        let desired = state.plan();
        let streamed = |name: &str| {
            desired.pools.values().any(|pool| pool.streamed && *pool.service == *name)
        };
        for (id, stream) in &desired.streams {
            prop_assert!(desired.service_holders.contains_key(id));
            prop_assert!(streamed(&stream.name));
            let service = config.services.iter().find(|service| *service.name == *stream.name);
            let service = service.unwrap();
            prop_assert!(!delivery_keeps(service));
            let names: BTreeSet<_> = service.name_routes.iter().flat_map(|r| &r.names).collect();
            prop_assert_eq!(stream.names.keys().collect::<BTreeSet<_>>(), names);
            let led = stream.names.iter().map(|(name, pools)| (Some(name), pools));
            for (name, pools) in led.chain([(None, &stream.own)]) {
                let route = service.name_routes.iter().find(|r| name.is_some_and(|n| r.names.contains(n)));
                for (family, id) in Family::ALL.into_iter().zip(pools) {
                    let pool = &desired.pools[id];
                    let is = (&*pool.service, pool.family, pool.route.as_deref());
                    prop_assert_eq!(is, (&*stream.name, family, route.map(Route::name)));
                    prop_assert!(pool.streamed || name.is_none());
                }
            }
            prop_assert!(stream.told.iter().all(|id| desired.backends.contains_key(id)));
            for (address, first, last) in &stream.spots {
                let is_there = |key: &ServiceKey| {
                    (key.vip().ip(), key.vip().port(), key.last_port()) == (*address, *first, *last)
                };
                prop_assert!(first <= last && desired.services.keys().any(is_there));
            }
        }
        let taken: BTreeSet<_> = desired.streams.values().map(|stream| &*stream.name).collect();
        for service in &config.services {
            prop_assert_eq!(taken.contains(&*service.name), streamed(&service.name));
        }
    }

    #[test]
    fn ids_survive_new_weights_and_another_order(
        config in configs(),
        weights in prop::collection::vec(0_u16..9, 18),
        turn in any::<Index>(),
    ) {
        let mut state = State::new(config.clone(), Facts::default());
        state.plan();
        let before = ids(&state);
        let mut other = config;
        let backends = other.services.iter_mut().flat_map(|service| {
            let routes = service.routes.iter_mut().chain(&mut service.name_routes);
            service.backends.iter_mut().chain(routes.flat_map(|route| &mut route.backends))
        });
        backends.zip(weights).for_each(|(backend, weight)| backend.weight = weight);
        for service in &mut other.services {
            let middle = turn.index(service.backends.len() + 1);
            service.backends.rotate_left(middle);
            service.routes.reverse();
            service.name_routes.reverse();
        }
        other.services.reverse();
        state.handle_config(other);
        state.plan();
        prop_assert_eq!(ids(&state), before);
        prop_assert_eq!(state.resting(), None);
    }
}

/// The ids of all backends, by service, route and address.
fn ids(state: &State) -> BTreeMap<(String, String, SocketAddr), Option<u32>> {
    let mut ids = BTreeMap::new();
    for view in state.services() {
        for pool in view.pools {
            let route = pool.pool.route.map_or("", Route::name).to_owned();
            for backend in pool.backends {
                let key = (view.service.name.clone(), route.clone(), backend.address);
                ids.insert(key, backend.id);
            }
        }
    }
    ids
}
