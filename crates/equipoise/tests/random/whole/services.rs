//! Random services: the text of a configuration, and what the model has to know of it.
//!
//! The slots of a pool are read off the plan, as a peer that has the same configuration would compute them; everything else
//! is what the text says.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use equipoise_core::config::{Fragments, Mode, OnEmpty, OnUnknown};
use equipoise_core::id::Family;

use crate::bench::Bench;
use crate::wire::{Dice, TCP, UDP};

/// What SYNs may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mss {
    Any,
    /// What fits the tunnel.
    Fits,
    Bytes(u16),
}

/// How a slot is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    FiveTuple,
    Random,
    /// By so many bits of the source.
    Source(u32),
}

/// Where clients of some addresses go; those of all others where there is no prefix.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) prefix: Option<(IpAddr, u32)>,
    pub(crate) backends: Vec<(SocketAddr, u32)>,
    /// The published table.
    pub(crate) slots: Vec<SocketAddr>,
    /// Whether this host takes up their TCP connections.
    pub(crate) streamed: bool,
}

impl Route {
    fn name(&self) -> Option<String> {
        self.prefix.map(|(address, bits)| format!("{address}/{bits}"))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) id: u32,
    pub(crate) vip: IpAddr,
    pub(crate) ports: RangeInclusive<u16>,
    pub(crate) protocols: &'static [u8],
    pub(crate) mode: Mode,
    pub(crate) pick: Pick,
    pub(crate) on_unknown: OnUnknown,
    pub(crate) on_empty: OnEmpty,
    pub(crate) fragments: Fragments,
    pub(crate) mss: Mss,
    /// Of `snat-addresses`.
    pub(crate) sources: Vec<IpAddr>,
    pub(crate) routes: Vec<Route>,
    text: String,
}

/// Backends that have a link address, but for the last.
const V4: [&str; 5] = ["10.0.0.11", "10.0.0.12", "10.0.0.13", "10.0.0.14", "10.0.0.16"];
const V6: [&str; 5] =
    ["2001:db8:b::11", "2001:db8:b::12", "2001:db8:b::13", "2001:db8:b::14", "2001:db8:b::16"];
/// Prefixes of clients.
const SOURCES: [[&str; 4]; 2] = [
    ["198.51.100.0/24", "198.51.100.8/29", "198.51.100.7/32", "0.0.0.0/0"],
    ["2001:db8:c::/64", "2001:db8:c::8/125", "2001:db8:c::7/128", "::/0"],
];

/// Random services, each with a VIP of its own.
pub(crate) fn services(dice: &mut Dice) -> Vec<Service> {
    (0..2 + dice.below(7)).map(|number| service(dice, number)).collect()
}

/// Has some pools be streamed.
pub(crate) fn stream(dice: &mut Dice, services: &mut [Service]) {
    for service in services.iter_mut().filter(|service| service.protocols.contains(&TCP)) {
        let routes = service.routes.iter_mut();
        routes.for_each(|route| route.streamed = dice.one_in(6));
    }
}

/// Whether the pool is that is told by its service and its route.
pub(crate) fn is_streamed(services: &[Service], service: &str, route: Option<&str>) -> bool {
    services.iter().enumerate().any(|(number, there)| {
        let is_it = |known: &Route| known.streamed && known.name().as_deref() == route;
        service == format!("s{number}") && there.routes.iter().any(is_it)
    })
}

/// Their configuration.
pub(crate) fn text(services: &[Service]) -> String {
    services.iter().map(|service| service.text.as_str()).collect()
}

fn service(dice: &mut Dice, number: usize) -> Service {
    let is_v6 = dice.one_in(2);
    let vip: IpAddr =
        if is_v6 { format!("2001:db8:f::2{number}") } else { format!("203.0.113.2{number}") }
            .parse()
            .unwrap();
    let mode = dice.pick(&[Mode::Nat, Mode::FullNat, Mode::Dsr, Mode::Ipip, Mode::Gue]);
    let keeps = matches!(mode, Mode::Dsr | Mode::Ipip | Mode::Gue);
    let is_tunnel = matches!(mode, Mode::Ipip | Mode::Gue);
    let (port, ports) = dice.pick(&[
        ("80", 80..=80),
        ("80", 80..=80),
        ("'80-90'", 80..=90),
        ("'60-1000'", 60..=1000),
        ("'all'", 1..=65_535),
    ]);
    let (protocol, protocols): (_, &[u8]) = dice.pick(&[
        ("both", &[TCP, UDP][..]),
        ("both", &[TCP, UDP]),
        ("tcp", &[TCP]),
        ("udp", &[UDP]),
    ]);
    let (unknown, on_unknown) = dice.pick(&[
        ("hash", OnUnknown::Hash),
        ("hash", OnUnknown::Hash),
        ("reset", OnUnknown::Reset),
        ("drop", OnUnknown::Drop),
    ]);
    let (empty, on_empty) =
        dice.pick(&[("reset", OnEmpty::Reset), ("drop", OnEmpty::Drop), ("pass", OnEmpty::Pass)]);
    let (cut, fragments) = dice.pick(&[
        ("track", Fragments::Track),
        ("track", Fragments::Track),
        ("hash", Fragments::Hash),
        ("drop", Fragments::Drop),
    ]);
    let (clamp, mss) = dice.pick(&[
        ("'auto'", if is_tunnel { Mss::Fits } else { Mss::Any }),
        ("'off'", Mss::Any),
        ("1200", Mss::Bytes(1200)),
        ("536", Mss::Bytes(536)),
    ]);
    let (algorithm, mut pick) = dice.pick(&[
        ("maglev", Pick::FiveTuple),
        ("maglev", Pick::FiveTuple),
        ("random", Pick::Random),
    ]);
    let mut affinity = String::new();
    if dice.one_in(5) {
        let bits = [dice.pick(&[24, 29, 32]), dice.pick(&[64, 125, 128])];
        affinity = format!(
            "affinity = 'source-ip'\naffinity-prefix = {{ v4 = {}, v6 = {} }}\n",
            bits[0], bits[1]
        );
        pick = Pick::Source(bits[usize::from(is_v6)]);
    } else if fragments == Fragments::Hash {
        pick = Pick::Source(if is_v6 { 128 } else { 32 });
    }
    let mut text = format!(
        "[[service]]\nname = 's{number}'\nmode = '{}'\nlisten = {{ interfaces = ['front'], address = '{vip}', \
         port = {port}, protocol = '{protocol}' }}\non-unknown = '{unknown}'\non-empty = '{empty}'\n\
         fragments = '{cut}'\nmss-clamp = {clamp}\nalgorithm = '{algorithm}'\n{affinity}",
        name(mode)
    );
    let mut sources: Vec<IpAddr> = Vec::new();
    if mode == Mode::FullNat && dice.one_in(2) {
        let own =
            if is_v6 { ["2001:db8:5::1", "2001:db8:5::2"] } else { ["192.0.2.1", "192.0.2.2"] };
        sources = own[..1 + dice.below(2)].iter().map(|ip| ip.parse().unwrap()).collect();
        let quoted: Vec<_> = sources.iter().map(|ip| format!("'{ip}'")).collect();
        writeln!(text, "snat-addresses = [{}]", quoted.join(", ")).unwrap();
    }
    // Which families its backends are of: now and then the wrong one alone.
    let families = match dice.below(8) {
        0 if mode != Mode::Dsr => vec![!is_v6],
        _ if is_tunnel => vec![false, true],
        _ => vec![is_v6],
    };
    let port = match (keeps, dice.below(3)) {
        (true, _) | (_, 0) => 0,
        (_, which) => 8079 + which as u16,
    };
    let mut routes = vec![Route {
        prefix: None,
        backends: backends(dice, &families, port),
        slots: vec![],
        streamed: false,
    }];
    writeln!(text, "backends = {}", list(&routes[0].backends)).unwrap();
    let mut free: Vec<_> = SOURCES[usize::from(is_v6)].to_vec();
    for _ in 0..dice.below(6).saturating_sub(3) {
        let source = free.remove(dice.below(free.len()));
        let (address, bits) = source.split_once('/').unwrap();
        let prefix = Some((address.parse().unwrap(), bits.parse().unwrap()));
        let route = Route {
            prefix,
            backends: backends(dice, &families, port),
            slots: vec![],
            streamed: false,
        };
        writeln!(
            text,
            "[[service.source-route]]\nsource = '{source}'\nbackends = {}",
            list(&route.backends)
        )
        .unwrap();
        routes.push(route);
    }
    let id = 0;
    Service {
        id,
        vip,
        ports,
        protocols,
        mode,
        pick,
        on_unknown,
        on_empty,
        fragments,
        mss,
        sources,
        routes,
        text,
    }
}

fn name(mode: Mode) -> &'static str {
    match mode {
        Mode::Nat => "nat",
        Mode::FullNat => "full-nat",
        Mode::Dsr => "dsr",
        Mode::Ipip => "ipip",
        Mode::Gue => "gue",
    }
}

fn backends(dice: &mut Dice, families: &[bool], port: u16) -> Vec<(SocketAddr, u32)> {
    let mut list: Vec<_> = families
        .iter()
        .flat_map(|v6| if *v6 { V6 } else { V4 })
        .filter_map(|ip| {
            let weight = dice.below(4) as u32;
            dice.one_in(3).then(|| (SocketAddr::new(ip.parse().unwrap(), port), weight))
        })
        .collect();
    if list.iter().all(|(_, weight)| *weight == 0) {
        let first = if families[0] { V6 } else { V4 }[0].parse().unwrap();
        list.retain(|(backend, _)| backend.ip() != first);
        list.push((SocketAddr::new(first, port), 1));
    }
    list
}

fn list(backends: &[(SocketAddr, u32)]) -> String {
    let shown = backends.iter().map(|(backend, weight)| {
        let address = match backend.port() {
            0 => backend.ip().to_string(),
            _ => backend.to_string(),
        };
        format!("{{ address = '{address}', weight = {weight} }}")
    });
    format!("[{}]", shown.collect::<Vec<_>>().join(", "))
}

/// Gives the services the ids and the slots that they have been given.
pub(crate) fn published(services: &mut [Service], bench: &mut Bench) {
    let views: Vec<_> =
        bench.state.services().iter().map(|view| (view.service.name.clone(), view.id)).collect();
    let planned = bench.state.plan();
    for (service, (name, id)) in services.iter_mut().zip(views) {
        service.id = id.unwrap();
        for route in &mut service.routes {
            let known = route.name();
            let pool = planned
                .pools
                .values()
                .find(|pool| {
                    *pool.service == *name
                        && (pool.family == Family::V6) == service.vip.is_ipv6()
                        && pool.route.as_deref() == known.as_deref()
                })
                .expect("a pool for each route and family");
            let address = |id: &u32| pool.members.iter().find(|m| m.id == *id).unwrap().address;
            route.slots = pool.slots.iter().map(address).collect();
        }
    }
}

impl Service {
    /// The table for a client.
    pub(crate) fn slots(&self, client: IpAddr) -> &[SocketAddr] {
        &self.route(client).slots
    }

    /// Where a client goes: by the longest prefix.
    pub(crate) fn route(&self, client: IpAddr) -> &Route {
        let fits = |route: &&Route| match route.prefix {
            None => true,
            Some((address, bits)) => masked(address, bits) == masked(client, bits),
        };
        let longest = |route: &&Route| route.prefix.map_or(-1, |(_, bits)| i64::from(bits));
        self.routes.iter().filter(fits).max_by_key(longest).expect("one has no prefix")
    }

    /// The slot that a packet's hash picks; none of an empty table.
    pub(crate) fn hashed(
        &self,
        protocol: u8,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Option<SocketAddr> {
        let slots = self.slots(from.ip());
        let hash = match self.pick {
            Pick::Source(bits) => {
                let is_v6 = from.is_ipv6();
                let masked = masked(from.ip(), bits);
                if is_v6 {
                    mix(mix(GOLDEN, (masked >> 64) as u64), masked as u64)
                } else {
                    mix(GOLDEN, masked as u64)
                }
            }
            Pick::FiveTuple | Pick::Random => five_tuple(protocol, from, to),
        };
        let slot = ((hash >> 32) * slots.len() as u64) >> 32;
        slots.get(slot as usize).copied()
    }
}

fn masked(address: IpAddr, bits: u32) -> u128 {
    let (word, width) = match address {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    if bits == 0 { 0 } else { word >> (width - bits) << (width - bits) }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A round of the published hash (the constants are splitmix64's).
fn mix(state: u64, word: u64) -> u64 {
    let mut h = (state ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h ^= h >> 32;
    h = h.wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 29)
}

/// The published hash: bytes as they lie in the header, read as little-endian words.
fn five_tuple(protocol: u8, from: SocketAddr, to: SocketAddr) -> u64 {
    let words = |ip: IpAddr| {
        let mut bytes = super::datagram::octets(ip);
        bytes.resize(16, 0);
        [0, 8].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()))
    };
    let ([s0, s1], [d0, d1]) = (words(from.ip()), words(to.ip()));
    let mut h = mix(GOLDEN, s0);
    if from.is_ipv6() {
        h = mix(mix(h, s1), d1);
    }
    let ports = u64::from(from.port()) << 32 | u64::from(to.port()) << 16;
    mix(mix(h, d0), ports | u64::from(protocol))
}
