//! The way of a packet through this host: what the configuration names and the machine does not have, forwarding, the kernel's filter
//! of the way back, sizes, routes and neighbours.

use std::collections::BTreeSet;
use std::net::IpAddr;

use equipoise_core::config::{Config, Mode, Problem, Service};

use super::super::measured::ANYWHERE;
use super::super::{Case, Finding, Level};
use crate::host::details::Neighbour;
use crate::host::{Way, advice, check};

pub(super) fn all(case: &Case) -> Vec<Finding> {
    let Some(config) = &case.config else { return Vec::new() };
    let mut findings = named(case, config);
    findings.extend(sizes(case, config));
    findings.extend(forwarding(case, config));
    findings.extend(reverse_path(case, config));
    findings.extend(ways(case, config));
    findings
}

fn named(case: &Case, config: &Config) -> Vec<Finding> {
    const NOT_THIS_MACHINE: &str = "the configuration does not fit this machine";
    const NO_SUCH_FILE: &str = "an instance runs without what the file is for";
    let found = check::check(config, &case.measured.reading);
    let finding = |level, effect: &str, problem: Problem| {
        Finding::ok("configuration", &problem.key, problem.message)
            .because(level, effect)
            .helped(problem.allowed.unwrap_or_else(|| "change it".to_owned()))
    };
    // VIPs have a rule of their own.
    let notes = found.notes.into_iter().filter(|note| !note.key.ends_with("listen.address"));
    let files = case.measured.files.iter().cloned();
    let problems = found.problems.into_iter();
    problems
        .map(|problem| finding(Level::Problem, NOT_THIS_MACHINE, problem))
        .chain(notes.map(|note| finding(Level::Warning, NOT_THIS_MACHINE, note)))
        .chain(files.map(|note| finding(Level::Warning, NO_SUCH_FILE, note)))
        .collect()
}

fn sizes(case: &Case, config: &Config) -> Vec<Finding> {
    let notes = advice::sizes(config, &case.measured.reading).notes;
    if notes.is_empty() {
        return vec![Finding::ok(
            "mtu",
            "",
            "packets of full size fit on the ways to all backends",
        )];
    }
    notes
        .into_iter()
        .map(|note| {
            Finding::ok("mtu", &note.key, note.message)
                .because(Level::Warning, "larger packets do not arrive as they were sent")
                .helped(note.allowed.unwrap_or_default())
        })
        .collect()
}

fn forwarding(case: &Case, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let ipv6 = config.services.iter().flat_map(Service::all_backends).any(|b| b.address.is_ipv6());
    for (name, device) in case.interfaces() {
        let families = [("ipv4", true), ("ipv6", ipv6 && !device.loopback)];
        for (family, _) in families.into_iter().filter(|(_, needed)| *needed) {
            findings.extend(forwards(case, name, family));
        }
    }
    let listens_on_loopback =
        config.services.iter().any(|s| s.listen.interfaces.iter().any(|i| i == "lo"));
    let accept = "ipv4/conf/lo/accept_local";
    if listens_on_loopback && case.running.is_some() && case.setting(accept) == Some("0") {
        findings.push(
            Finding::ok("forwarding", "lo", "net.ipv4.conf.lo.accept_local is 0")
                .because(Level::Problem, "replies to clients on this host are dropped as forged")
                .cured(case.to_set(accept, "1")),
        );
    }
    findings
}

fn forwards(case: &Case, name: &str, family: &str) -> Option<Finding> {
    let path = format!("{family}/conf/{name}/forwarding");
    let setting = case.setting(&path)?;
    let told = format!("{} forwarding is", if family == "ipv4" { "IPv4" } else { "IPv6" });
    if setting != "0" {
        return Some(Finding::ok("forwarding", name, format!("{told} on")));
    }
    let finding = Finding::ok("forwarding", name, format!("{told} off"));
    let cured = |finding: Finding| {
        match family {
        "ipv4" => finding.cured(case.to_set(&path, "1")),
        // Switching it on makes interfaces deaf to router advertisements, unless they are told to heed them nevertheless.
        _ => finding.helped("accept_ra = 2 where addresses come by router advertisements, then sysctl -w net.ipv6.conf.all.forwarding=1"),
    }
    };
    let effect = "routes are not looked up for what comes in by it: packets to backends, or their replies, are dropped";
    Some(match (&case.running, &case.measured.settings_refused) {
        (None, None) => cured(finding.because(
            Level::Notice,
            "an instance switches it on when it starts, and off again at its end",
        )),
        (Some(_), _) => cured(finding.because(Level::Problem, effect)),
        (None, Some(_)) => {
            cured(finding.because(
                Level::Problem,
                format!("{effect}; an instance could not switch it on here"),
            ))
        }
    })
}

/// `rp_filter` of what the stack finishes: the packet programs do not ask it.
fn reverse_path(case: &Case, config: &Config) -> Vec<Finding> {
    let listens: BTreeSet<&str> = config
        .services
        .iter()
        .flat_map(|service| &service.listen.interfaces)
        .map(String::as_str)
        .collect();
    let anywhere = case.measured.reading.ways.get(&ANYWHERE).copied().unwrap_or(Way::Unreachable);
    case.interfaces().into_iter().filter(|(_, device)| !device.loopback).map(|(name, device)| {
        const STRICT: u32 = 1;
        const LOOSE: u32 = 2;
        let by_it = matches!(anywhere, Way::Via { interface, .. } if interface == device.index);
        let in_force = case.in_force(name, "rp_filter");
        let finding = Finding::ok("rp-filter", name, format!("rp_filter is {in_force}"));
        let path = format!("ipv4/conf/{name}/rp_filter");
        let effect = |why| format!("what the stack takes up of clients {why} is dropped: first packets to a next hop that is not known, and answers to them");
        match in_force {
            STRICT if listens.contains(name) && !by_it => {
                let finding = Finding { measured: "rp_filter is 1 (strict), and the way to clients in general does not lead by it".to_owned(), ..finding };
                finding.because(Level::Warning, effect("whose way back is another one")).cured(case.to_set(&path, "2"))
            }
            LOOSE if listens.contains(name) && anywhere == Way::Unreachable => {
                let finding = Finding { measured: "rp_filter is 2 (loose), and there is no default route".to_owned(), ..finding };
                finding
                    .because(Level::Warning, effect("to which there is no way"))
                    .helped(format!("a default route, or net.ipv4.conf.{{all,{name}}}.rp_filter = 0"))
            }
            _ => finding,
        }
    })
    .collect()
}

fn ways(case: &Case, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for service in &config.services {
        for backend in service.all_backends() {
            let ip = backend.address.ip();
            if seen.insert((ip, service.delivery.mode.name())) {
                findings.extend(way(case, service, ip));
            }
        }
    }
    if !case.measured.reading.plain_ways {
        let measured =
            "routes to backends depend on more than their address (rules, or several paths)";
        findings.push(
            Finding::ok("route", "", measured)
                .because(Level::Notice, "each packet to a backend asks for its route, where it would be known for some milliseconds else: slower")
                .helped("nothing, if that is as it should be"),
        );
    }
    findings
}

fn way(case: &Case, service: &Service, backend: IpAddr) -> Vec<Finding> {
    let subject = backend.to_string();
    let reading = &case.measured.reading;
    let mode = service.delivery.mode;
    let (interface, next_hop) = match reading.ways.get(&backend) {
        Some(Way::Via { interface, next_hop, .. }) => (*interface, *next_hop),
        Some(Way::Local) => return vec![Finding::ok("route", &subject, "it is this host")],
        Some(Way::Unreachable) | None => {
            let finding = Finding::ok("route", &subject, "there is no route to it")
                .because(Level::Problem, "packets for it are not sent")
                .helped(format!(
                    "ip route add {backend}/{} via GATEWAY",
                    if backend.is_ipv4() { 32 } else { 128 }
                ));
            return vec![finding];
        }
    };
    let device = reading.by_index(interface).map_or("?", |(name, _)| name);
    let by = if next_hop == backend {
        format!("by {device}")
    } else {
        format!("by {next_hop} on {device}")
    };
    let mut findings = Vec::new();
    let route = Finding::ok("route", &subject, by);
    findings.push(match mode {
        Mode::Dsr if next_hop != backend => route
            .because(Level::Problem, "with `dsr` it is reached by its link address: the gateway gets the packets, and routes them back here")
            .helped("a link in common with the backend, or `mode = \"ipip\"`"),
        Mode::Nat | Mode::FullNat | Mode::Dsr | Mode::Ipip | Mode::Gue => route,
    });
    findings.extend(one_armed(case, service, (backend, interface, next_hop)));
    findings.extend(neighbour(case, &subject, (interface, next_hop)));
    findings
}

/// A backend that clients share a link with may answer them itself, and they do not know its address.
fn one_armed(
    case: &Case,
    service: &Service,
    (backend, interface, next_hop): (IpAddr, u32, IpAddr),
) -> Option<Finding> {
    let reading = &case.measured.reading;
    let (name, _) = reading.by_index(interface)?;
    let to_clients = reading.ways.get(&ANYWHERE);
    let same = matches!(to_clients, Some(Way::Via { interface: way, .. }) if *way == interface);
    let listens = service.listen.interfaces.iter().any(|listen| listen == name);
    if service.delivery.mode != Mode::Nat || next_hop != backend || !same || !listens {
        return None;
    }
    let finding = Finding::ok(
        "return-path",
        &backend.to_string(),
        format!("it is on the link of {name}, by which clients come as well"),
    );
    Some(
        finding
            .because(Level::Notice, "if its way back to clients does not lead by this host, they get answers from an address that they have not asked")
            .helped("its default route by this host, or `mode = \"full-nat\"`"),
    )
}

fn neighbour(case: &Case, subject: &str, hop: (u32, IpAddr)) -> Option<Finding> {
    let (interface, next_hop) = hop;
    let details = &case.measured.details;
    let (name, _) = case.measured.reading.by_index(interface)?;
    if !details.links.get(&interface).is_some_and(|link| link.asks_neighbours) {
        return None;
    }
    let finding =
        |told: &str| Finding::ok("neighbour", subject, format!("{next_hop} on {name} {told}"));
    Some(match details.neighbours.get(&hop) {
        Some(Neighbour::Known) => finding("has a link address"),
        Some(Neighbour::Failed) => finding("does not answer when it is asked for its link address")
            .because(Level::Problem, "packets for it are not sent")
            .helped("see whether it is up, on this link, and has that address"),
        Some(Neighbour::Unknown) | None => {
            finding("has no link address that is known, and has not answered yet")
                .because(
                    Level::Warning,
                    "first packets wait for it in the stack, and are lost if it never answers",
                )
                .helped(format!("ping it, then `ip neigh show dev {name}`"))
        }
    })
}

#[cfg(test)]
mod tests {
    use equipoise_core::config::problem_at;

    use super::super::sample::{BACK, FRONT, case, configured, ip, level, only, running};
    use super::*;
    use crate::doctor::Remedy;

    fn set(case: &mut Case, path: &str, value: &str) {
        case.measured.settings.insert(path.to_owned(), value.to_owned());
    }

    #[test]
    fn sample_is_as_it_should_be() {
        let wrong: Vec<_> = all(&case()).into_iter().filter(|f| f.level > Level::Ok).collect();
        assert_eq!(wrong, []);
    }

    #[test]
    fn interface_that_is_not_there_is_a_problem_with_its_key() {
        let mut case = case();
        case.measured.reading.devices.remove("eth0");
        let found = only(&all(&case), "configuration");
        assert_eq!(
            (found.level, &*found.subject),
            (Level::Problem, "service[0].listen.interfaces[0]")
        );
    }

    #[test]
    fn file_that_cannot_be_read_is_a_warning_with_its_key() {
        let mut case = case();
        let places = &case.config.as_ref().unwrap().places;
        let fault = "certificate-file: none.pem: no such file".to_owned();
        case.measured.files = vec![problem_at(places, "settings.admin.tls", fault, None)];
        let found = only(&all(&case), "configuration");
        assert_eq!((found.level, &*found.subject), (Level::Warning, "settings.admin.tls"));
        assert!(found.measured.contains("none.pem"), "{found:?}");
    }

    #[test]
    fn tunnels_need_room() {
        assert_eq!(
            level(&all(&configured("mode = 'ipip'\nmss-clamp = 'off'")), "mtu"),
            Level::Warning
        );
        assert_eq!(level(&all(&configured("mode = 'ipip'")), "mtu"), Level::Ok);
    }

    #[test]
    fn forwarding_that_is_off_is_a_problem_while_an_instance_runs_or_could_not_set_it() {
        let mut case = case();
        let path = "ipv4/conf/eth1/forwarding";
        set(&mut case, path, "0");
        let found = only(&all(&case), "forwarding");
        assert_eq!(found.level, Level::Notice);
        assert!(!found.is_to_be_fixed());
        case.measured.settings_refused = Some("read-only".to_owned());
        assert_eq!(level(&all(&case), "forwarding"), Level::Problem);
        case.measured.settings_refused = None;
        case.running = Some(running(Vec::new()));
        let found = only(&all(&case), "forwarding");
        let remedy =
            Remedy::Setting { path: path.to_owned(), from: "0".to_owned(), to: "1".to_owned() };
        assert_eq!((found.level, found.remedy), (Level::Problem, Some(remedy)));
    }

    #[test]
    fn ipv6_forwarding_matters_with_ipv6_backends_and_is_left_to_hands() {
        let mut case = case();
        case.running = Some(running(Vec::new()));
        set(&mut case, "ipv6/conf/eth1/forwarding", "0");
        assert_eq!(level(&all(&case), "forwarding"), Level::Ok);
        case.config.as_mut().unwrap().services[0].backends[0].address =
            "[2001:db8::1]:80".parse().unwrap();
        let found = only(&all(&case), "forwarding");
        assert_eq!((found.level, found.remedy), (Level::Problem, None));
    }

    #[test]
    fn clients_on_this_host_need_their_replies_accepted() {
        let mut case = case();
        case.config.as_mut().unwrap().services[0].listen.interfaces.push("lo".to_owned());
        case.running = Some(running(Vec::new()));
        set(&mut case, "ipv4/conf/lo/accept_local", "0");
        assert_eq!(level(&all(&case), "forwarding"), Level::Problem);
        set(&mut case, "ipv4/conf/lo/accept_local", "1");
        assert_eq!(level(&all(&case), "forwarding"), Level::Ok);
    }

    #[test]
    fn strict_filter_is_loosened_where_clients_have_another_way_back() {
        let mut case = case();
        set(&mut case, "ipv4/conf/all/rp_filter", "1");
        assert_eq!(level(&all(&case), "rp-filter"), Level::Ok, "the default route leads by it");
        case.measured.reading.ways.insert(ANYWHERE, Way::Unreachable);
        let found = only(&all(&case), "rp-filter");
        assert_eq!((found.level, &*found.subject), (Level::Warning, "eth0"));
        assert_eq!(found.help, "sysctl -w net.ipv4.conf.eth0.rp_filter=2");
        let by = Way::Via { interface: BACK, next_hop: ip("10.0.0.9"), source: None };
        case.measured.reading.ways.insert(ANYWHERE, by);
        assert_eq!(level(&all(&case), "rp-filter"), Level::Warning);
        set(&mut case, "ipv4/conf/eth0/rp_filter", "2");
        assert_eq!(level(&all(&case), "rp-filter"), Level::Ok);
        case.measured.reading.ways.insert(ANYWHERE, Way::Unreachable);
        assert_eq!(level(&all(&case), "rp-filter"), Level::Warning, "loose needs some way");
    }

    #[test]
    fn backend_without_a_route_is_a_problem() {
        let mut case = case();
        case.measured.reading.ways.insert(ip("10.0.0.1"), Way::Unreachable);
        let found = only(&all(&case), "route");
        assert_eq!((found.level, &*found.subject), (Level::Problem, "10.0.0.1"));
    }

    #[test]
    fn dsr_needs_a_link_in_common() {
        let mut case = configured("mode = 'dsr'");
        assert_eq!(level(&all(&case), "route"), Level::Ok);
        let by = Way::Via { interface: BACK, next_hop: ip("10.0.0.9"), source: None };
        case.measured.reading.ways.insert(ip("10.0.0.1"), by);
        assert_eq!(level(&all(&case), "route"), Level::Problem);
    }

    #[test]
    fn neighbour_that_does_not_answer_is_a_problem() {
        let mut case = case();
        let hop = (BACK, ip("10.0.0.1"));
        for (state, wanted) in [
            (Some(Neighbour::Known), Level::Ok),
            (Some(Neighbour::Unknown), Level::Warning),
            (None, Level::Warning),
            (Some(Neighbour::Failed), Level::Problem),
        ] {
            match state {
                Some(state) => case.measured.details.neighbours.insert(hop, state),
                None => case.measured.details.neighbours.remove(&hop),
            };
            assert_eq!(level(&all(&case), "neighbour"), wanted, "{state:?}");
        }
        case.measured.details.links.get_mut(&BACK).unwrap().asks_neighbours = false;
        assert!(all(&case).iter().all(|finding| finding.rule != "neighbour"));
    }

    #[test]
    fn backend_on_the_clients_link_may_answer_by_itself() {
        let mut case = case();
        let there = Way::Via { interface: FRONT, next_hop: ip("10.0.0.1"), source: None };
        case.measured.reading.ways.insert(ip("10.0.0.1"), there);
        assert_eq!(only(&all(&case), "return-path").level, Level::Notice);
        case.config.as_mut().unwrap().services[0].delivery.mode = Mode::FullNat;
        assert!(all(&case).iter().all(|finding| finding.rule != "return-path"));
    }

    #[test]
    fn routes_by_more_than_the_address_are_told() {
        let mut case = case();
        case.measured.reading.plain_ways = false;
        assert_eq!(level(&all(&case), "route"), Level::Notice);
    }
}
