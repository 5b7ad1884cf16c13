//! What is wrong between services that are right each by itself, and what is worth a note.
//!
//! Each check is one pass over the services with a map of what was seen, so that thousands of
//! services and backends stay quick to check.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::report::{Place, Report};
use super::route::Head;
use super::service::{Backends, Draft, ListenDraft, Reach};
use crate::config::{Ports, Protocol, target};

/// Checks services against each other.
pub(super) fn check(report: &mut Report<'_>, services: &[Draft]) {
    names(report, services);
    overlaps(report, services);
    streams(report, services);
    own_vips(report, services);
    families(report, services);
    routes(report, services);
}

fn names(report: &mut Report<'_>, services: &[Draft]) {
    let mut seen: BTreeMap<&str, &Place> = BTreeMap::new();
    for (name, place) in services.iter().filter_map(|service| service.name.as_ref()) {
        match seen.entry(name) {
            Entry::Vacant(entry) => {
                entry.insert(place);
            }
            Entry::Occupied(first) => {
                let line = report.line(first.get());
                let message = format!("the service of line {line} is named `{name}` already");
                report.problem(place, message, "a name of its own for each service");
            }
        }
    }
}

/// Two services with one key would fight for each packet. An exact address and the interfaces' own
/// addresses are different keys, of which the exact one goes first; and so are a port, a range and all ports.
fn overlaps(report: &mut Report<'_>, services: &[Draft]) {
    let mut seen = Claims::default();
    for (index, service) in services.iter().enumerate() {
        let Some(listen) = &service.listen else { continue };
        let Some(ports) = &listen.port else { continue };
        let address = match listen.address {
            Reach::Own => None,
            Reach::Exact(address, _) => Some(address),
            Reach::Wrong => continue,
        };
        // By the other service: what both claim.
        let mut shared: BTreeMap<usize, Shared<'_>> = BTreeMap::new();
        for interface in &listen.interfaces {
            for protocol in protocols(listen.protocol) {
                for (other, ports) in seen.claim((interface, address, protocol), ports, index) {
                    let shared = shared.entry(other).or_default();
                    push_new(&mut shared.interfaces, interface);
                    push_new(&mut shared.protocols, protocol);
                    push_new(&mut shared.ports, ports);
                }
            }
        }
        for (other, shared) in shared {
            let other = label(report, &services[other]);
            let whose = address.map_or("the own addresses".to_owned(), |ip| format!("`{ip}`"));
            let message = format!(
                "{other} listens on {whose} of `{}`, {}, {} already",
                shared.interfaces.join("`, `"),
                port_words(&shared.ports),
                shared.protocols.join(" and "),
            );
            let allowed = "another interface, address, port or protocol for one of the two";
            report.problem(&listen.place, message, allowed);
        }
    }
}

/// What two services claim.
#[derive(Default)]
struct Shared<'s> {
    interfaces: Vec<&'s str>,
    protocols: Vec<&'s str>,
    ports: Vec<(u16, u16)>,
}

/// Where packets come in: interface, address if it is an exact one, protocol.
type Spot<'s> = (&'s str, Option<IpAddr>, &'s str);

/// Which service has claimed what.
#[derive(Default)]
struct Claims<'s> {
    ports: BTreeMap<(Spot<'s>, u16), usize>,
    /// Disjoint ranges, by their first port; with their last.
    ranges: BTreeMap<(Spot<'s>, u16), (u16, usize)>,
    all: BTreeMap<Spot<'s>, usize>,
}

impl<'s> Claims<'s> {
    /// Claims ports for a service; those that another has already, from and to, with the other.
    fn claim(&mut self, spot: Spot<'s>, ports: &Ports, index: usize) -> Vec<(usize, (u16, u16))> {
        let mut taken = Vec::new();
        match ports {
            Ports::List(list) => {
                for &port in list {
                    match self.ports.entry((spot, port)) {
                        Entry::Vacant(entry) => {
                            entry.insert(index);
                        }
                        Entry::Occupied(other) => taken.push((*other.get(), (port, port))),
                    }
                }
            }
            &Ports::Range(first, last) => {
                let before = self.ranges.range((spot, 0)..=(spot, last)).rev();
                let meets = |(&(_, from), &(to, other)): (_, &(u16, usize))| {
                    (to >= first).then(|| (other, (first.max(from), last.min(to))))
                };
                // Disjoint, so that the last ports are in order as the first ones are.
                taken.extend(before.map_while(meets));
                taken.reverse();
                if taken.is_empty() {
                    self.ranges.insert((spot, first), (last, index));
                }
            }
            Ports::All => match self.all.entry(spot) {
                Entry::Vacant(entry) => {
                    entry.insert(index);
                }
                Entry::Occupied(other) => taken.push((*other.get(), (1, u16::MAX))),
            },
        }
        taken
    }

    /// Services of which the first has a port, or ports, that the second has too by a wider range.
    fn nested(&self) -> impl Iterator<Item = (usize, usize)> {
        let ports = self.ports.iter().flat_map(|(&(spot, port), &exact)| {
            let range = self.ranges.range((spot, 0)..=(spot, port)).next_back();
            let range = range.filter(move |(_, (last, _))| *last >= port);
            let all = self.all.get(&spot);
            range.map(|(_, (_, wider))| wider).into_iter().chain(all).map(move |&w| (exact, w))
        });
        let ranges = self
            .ranges
            .iter()
            .filter_map(|((spot, _), (_, exact))| self.all.get(spot).map(|&wider| (*exact, wider)));
        ports.chain(ranges)
    }
}

/// Whoever takes up a connection for this host knows its address and port, and not the interface that it has come by: what packets
/// do by their interface, it does by the service whose port is the more exact.
fn streams(report: &mut Report<'_>, services: &[Draft]) {
    let mut seen = Claims::default();
    let mut meeting: BTreeSet<(usize, usize)> = BTreeSet::new();
    for (index, service) in services.iter().enumerate() {
        let listen = service.listen.as_ref().filter(|_| service.streams().is_some());
        let Some(ListenDraft { address: Reach::Exact(address, _), port: Some(ports), .. }) = listen
        else {
            continue;
        };
        let is_other = |other: usize| {
            // On one interface they overlap, as has been said.
            let is_shared = |interface| interfaces(&services[other]).contains(interface);
            !interfaces(service).iter().any(is_shared)
        };
        let meet = seen.claim(("", Some(*address), "tcp"), ports, index);
        meeting.extend(meet.into_iter().map(|(other, _)| (other, index)).filter(|m| is_other(m.0)));
    }
    for (exact, wider) in seen.nested() {
        let is_left = |interface| !interfaces(&services[exact]).contains(interface);
        if interfaces(&services[wider]).iter().any(is_left) {
            meeting.insert((exact.min(wider), exact.max(wider)));
        }
    }
    for (first, second) in meeting {
        let Some(listen) = &services[second].listen else { continue };
        let key = services[second].streams().unwrap_or_default();
        let message = format!(
            "{} has this address and port by other interfaces, and connections that this host takes up itself, as by `{key}`, \
             are told apart by address and port alone",
            label(report, &services[first])
        );
        let allowed =
            "another address or port for one of the two, or one service for all these interfaces";
        report.problem(&listen.place, message, allowed);
    }
}

fn interfaces(service: &Draft) -> &[String] {
    service.listen.as_ref().map_or(&[], |listen| &listen.interfaces)
}

/// `port 80`, `ports 80, 8000-8100`, `all ports`.
fn port_words(ports: &[(u16, u16)]) -> String {
    const FEW: usize = 5;
    let word = |&(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    match ports {
        [(1, u16::MAX)] => "all ports".to_owned(),
        [(first, last)] if first == last => format!("port {first}"),
        ports => {
            let words: Vec<_> = ports.iter().take(FEW).map(word).collect();
            let more = if ports.len() > FEW { ", …" } else { "" };
            format!("ports {}{more}", words.join(", "))
        }
    }
}

/// A backend that is a VIP of ours would send its packets round and round.
fn own_vips(report: &mut Report<'_>, services: &[Draft]) {
    let mut vips: BTreeMap<IpAddr, Vec<usize>> = BTreeMap::new();
    for (index, service) in services.iter().enumerate() {
        if let Some(Reach::Exact(address, _)) =
            service.listen.as_ref().map(|listen| &listen.address)
        {
            vips.entry(*address).or_default().push(index);
        }
    }
    for service in services {
        let Some(listen) = &service.listen else { continue };
        for draft in service.all_backends() {
            let backend = draft.backend.address;
            let mut owners = vips.get(&backend.ip()).into_iter().flatten();
            let Some(&owner) = owners.find(|&&owner| comes_back(listen, backend, &services[owner]))
            else {
                continue;
            };
            let owner = label(report, &services[owner]);
            let backend = target::text(backend);
            let message =
                format!("backend `{backend}` is the VIP of {owner}: packets would come back");
            report.problem(&draft.place, message, "the address of a machine behind the balancer");
        }
    }
}

/// Whether packets of a service that go to an address are for another service there.
fn comes_back(listen: &ListenDraft, to: SocketAddr, other: &Draft) -> bool {
    let Some(other) = &other.listen else { return false };
    let (Some(ports), Some(others)) = (&listen.port, &other.port) else { return false };
    let shares =
        protocols(listen.protocol).any(|one| protocols(other.protocol).any(|two| one == two));
    shares && others.meet(&ports.at(to))
}

/// A family that a service is reachable by, without a backend for it.
fn families(report: &mut Report<'_>, services: &[Draft]) {
    for service in services {
        let (Some(listen), Some((name, _))) = (&service.listen, &service.name) else { continue };
        for (family, v6) in FAMILIES {
            if may_have(service, &service.backends, v6) {
                continue;
            }
            match &listen.address {
                Reach::Own => {
                    let message = format!(
                        "service `{name}` is reachable by {family} where its interfaces have such \
                         addresses, and has no {family} backend"
                    );
                    let allowed = format!(
                        "a backend with an {family} address, or `address` to listen on one alone"
                    );
                    report.note(&listen.place, message, allowed);
                }
                Reach::Exact(address, place) if address.is_ipv6() == v6 => {
                    let message = format!(
                        "service `{name}` is reachable by {family} alone, and has no {family} backend"
                    );
                    report.note(place, message, format!("a backend with an {family} address"));
                }
                Reach::Exact(..) | Reach::Wrong => {}
            }
        }
    }
}

/// Clients of a route that are of a family without a backend.
fn routes(report: &mut Report<'_>, services: &[Draft]) {
    for service in services {
        for (family, v6) in FAMILIES {
            // Where its own pool has none either, that has been said of the whole.
            let is_reachable = match service.listen.as_ref().map(|listen| &listen.address) {
                Some(Reach::Exact(address, _)) => address.is_ipv6() == v6,
                Some(Reach::Own) => may_have(service, &service.backends, v6),
                Some(Reach::Wrong) | None => false,
            };
            for route in service.routes.iter().filter(|r| !may_have(service, &r.backends, v6)) {
                let message = match &route.head {
                    Head::Sources(list, _) => {
                        let mut prefixes = list.prefixes.iter();
                        let has_clients = prefixes.any(|p| p.address.is_ipv6() == v6);
                        has_clients.then(|| format!("this route has {family} sources"))
                    }
                    Head::Names(_) => {
                        is_reachable.then(|| format!("this route is for clients of {family}, too"))
                    }
                };
                if let Some(message) = message {
                    let message = format!("{message}, and no {family} backend");
                    let allowed = format!("a backend with an {family} address");
                    report.note(&route.place, message, allowed);
                }
            }
        }
    }
}

const FAMILIES: [(&str, bool); 2] = [("IPv4", false), ("IPv6", true)];

/// Whether a pool may have a backend for a family: any will do for what travels inside other packets, and which families a name
/// has is not known.
fn may_have(service: &Draft, pool: &Backends, v6: bool) -> bool {
    let any = service.delivery.mode.is_tunnel();
    !pool.named.is_empty()
        || pool.placed.iter().any(|draft| any || draft.backend.address.is_ipv6() == v6)
}

fn protocols(protocol: Option<Protocol>) -> impl Iterator<Item = &'static str> {
    let both: &[&str] = match protocol {
        Some(Protocol::Tcp) => &["tcp"],
        Some(Protocol::Udp) => &["udp"],
        Some(Protocol::Both) => &["tcp", "udp"],
        None => &[],
    };
    both.iter().copied()
}

fn push_new<T: Copy + PartialEq>(list: &mut Vec<T>, item: T) {
    if list.last() != Some(&item) && !list.contains(&item) {
        list.push(item);
    }
}

/// A service in the words of a message about another.
fn label(report: &Report<'_>, service: &Draft) -> String {
    let line = report.line(&service.place);
    match &service.name {
        Some((name, _)) => format!("service `{name}` (line {line})"),
        None => format!("`{}` (line {line})", service.place.key),
    }
}
