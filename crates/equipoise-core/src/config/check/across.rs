//! What is wrong between services that are right each by itself, and what is worth a note.
//!
//! Each check is one pass over the services with a map of what was seen, so that thousands of
//! services and backends stay quick to check.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

use super::report::{Place, Report};
use super::service::{Draft, Reach};
use crate::config::Protocol;

/// Checks services against each other.
pub(super) fn check(report: &mut Report<'_>, services: &[Draft]) {
    names(report, services);
    overlaps(report, services);
    own_vips(report, services);
    families(report, services);
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
/// addresses are different keys, of which the exact one goes first.
fn overlaps(report: &mut Report<'_>, services: &[Draft]) {
    let mut seen: BTreeMap<(&str, Option<IpAddr>, u16, &str), usize> = BTreeMap::new();
    for (index, service) in services.iter().enumerate() {
        let Some(listen) = &service.listen else { continue };
        let Some(port) = listen.port else { continue };
        let address = match listen.address {
            Reach::Own => None,
            Reach::Exact(address, _) => Some(address),
            Reach::Wrong => continue,
        };
        // By the other service: what both claim.
        let mut shared: BTreeMap<usize, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
        for interface in &listen.interfaces {
            for protocol in protocols(listen.protocol) {
                match seen.entry((interface, address, port, protocol)) {
                    Entry::Vacant(entry) => {
                        entry.insert(index);
                    }
                    Entry::Occupied(other) => {
                        let (interfaces, protocols) = shared.entry(*other.get()).or_default();
                        push_new(interfaces, interface);
                        push_new(protocols, protocol);
                    }
                }
            }
        }
        for (other, (interfaces, protocols)) in shared {
            let other = label(report, &services[other]);
            let whose = address.map_or("the own addresses".to_owned(), |ip| format!("`{ip}`"));
            let message = format!(
                "{other} listens on {whose} of `{}`, port {port}, {} already",
                interfaces.join("`, `"),
                protocols.join(" and "),
            );
            let allowed = "another interface, address, port or protocol for one of the two";
            report.problem(&listen.place, message, allowed);
        }
    }
}

/// A backend that is a VIP of ours would send its packets round and round.
fn own_vips(report: &mut Report<'_>, services: &[Draft]) {
    let mut vips: BTreeMap<(IpAddr, u16, &str), usize> = BTreeMap::new();
    for (index, service) in services.iter().enumerate() {
        let Some(listen) = &service.listen else { continue };
        let (Reach::Exact(address, _), Some(port)) = (&listen.address, listen.port) else {
            continue;
        };
        for protocol in protocols(listen.protocol) {
            vips.entry((*address, port, protocol)).or_insert(index);
        }
    }
    for service in services {
        let protocol = service.listen.as_ref().and_then(|listen| listen.protocol);
        for draft in &service.backends {
            let address = draft.backend.address;
            let mut keys = protocols(protocol).map(|p| (address.ip(), address.port(), p));
            let Some(owner) = keys.find_map(|key| vips.get(&key)) else { continue };
            let owner = label(report, &services[*owner]);
            let message =
                format!("backend `{address}` is the VIP of {owner}: packets would come back");
            report.problem(&draft.place, message, "the address of a machine behind the balancer");
        }
    }
}

/// A family that a service is reachable by, without a backend for it.
fn families(report: &mut Report<'_>, services: &[Draft]) {
    for service in services {
        let (Some(listen), Some((name, _))) = (&service.listen, &service.name) else { continue };
        let has = |v6: bool| service.backends.iter().any(|b| b.backend.address.is_ipv6() == v6);
        for (family, v6) in [("IPv4", false), ("IPv6", true)] {
            if has(v6) {
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

fn protocols(protocol: Option<Protocol>) -> impl Iterator<Item = &'static str> {
    let both: &[&str] = match protocol {
        Some(Protocol::Tcp) => &["tcp"],
        Some(Protocol::Udp) => &["udp"],
        Some(Protocol::Both) => &["tcp", "udp"],
        None => &[],
    };
    both.iter().copied()
}

fn push_new<'s>(list: &mut Vec<&'s str>, item: &'s str) {
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
