//! VIPs: whether this host has them, and answers when it is asked for them on the link.

use std::net::IpAddr;

use equipoise_core::config::Service;

use super::super::{Case, Finding, Level};
use crate::host::Way;

pub(super) fn all(case: &Case) -> Vec<Finding> {
    let Some(config) = &case.config else { return Vec::new() };
    let mut findings = Vec::new();
    for service in &config.services {
        match service.listen.address {
            Some(vip) => findings.extend(owned(case, service, vip)),
            None => findings.extend(own_addresses(case, service)),
        }
    }
    findings.extend(without_ipv6(case));
    findings
}

fn owned(case: &Case, service: &Service, vip: IpAddr) -> Vec<Finding> {
    let name = &service.name;
    let owners: Vec<&str> = case.measured.reading.owners(vip).collect();
    if case.measured.details.duplicates.contains(&vip) {
        let finding = Finding::ok(
            "vip",
            name,
            format!(
                "another host on the link has {vip}: the kernel has found out, and does not use it"
            ),
        )
        .because(Level::Problem, "clients reach the other host")
        .helped("take it from one of them");
        return vec![finding];
    }
    if let Some((interface, link_address)) = others(case, service, vip).next() {
        return vec![contested(service, (vip, &owners), interface, link_address)];
    }
    if owners.is_empty() {
        if service.manage_address && case.running.is_none() {
            return vec![Finding::ok(
                "vip",
                name,
                format!("{vip} is added when an instance starts"),
            )];
        }
        let finding = Finding::ok("vip", name, format!("no interface of this host has {vip}"))
            .because(Level::Warning, "nobody answers when it is asked for on the link: clients get there only if it is routed here")
            .helped("`manage-address = true` in the service, or `ip addr add`; nothing, if it is routed here");
        return vec![finding];
    }
    let on = owners.join(", ");
    if vip.is_ipv6() {
        return vec![Finding::ok("vip", name, format!("{vip} is on {on}"))];
    }
    let links = service.listen.interfaces.iter();
    links
        .filter(|interface| {
            case.measured.reading.devices.get(*interface).is_some_and(|d| !d.loopback)
        })
        .map(|interface| asked_for(case, (name, vip), interface, &owners))
        .collect()
}

/// Link addresses that are none of this host's and are answered with when the VIP is asked for, by the interface of the link.
fn others<'a>(
    case: &'a Case,
    service: &'a Service,
    vip: IpAddr,
) -> impl Iterator<Item = (&'a str, [u8; 6])> {
    let devices = &case.measured.reading.devices;
    let answer = move |name: &'a String| {
        let hop = (devices.get(name)?.index, vip);
        let found = *case.measured.details.link_addresses.get(&hop)?;
        let is_own = devices.values().any(|device| device.link_address == Some(found));
        (!is_own).then_some((name.as_str(), found))
    };
    service.listen.interfaces.iter().filter_map(answer)
}

/// A VIP that another host answers for.
fn contested(
    service: &Service,
    (vip, owners): (IpAddr, &[&str]),
    interface: &str,
    link_address: [u8; 6],
) -> Finding {
    let other = link_address.map(|byte| format!("{byte:02x}")).join(":");
    let told = format!("another host on the link of {interface}, {other}, answers for {vip}");
    if owners.is_empty() {
        return Finding::ok("vip", &service.name, format!("{told}, and this one does not have it"))
            .because(Level::Warning, "clients reach the other host: right for one that stands by")
            .helped("nothing, if this one stands by; else take it from the other host");
    }
    Finding::ok("vip", &service.name, format!("{told}; here it is on {}", owners.join(", ")))
        .because(Level::Problem, "clients reach whichever of them has answered first")
        .helped("take it from one of them; backends of `dsr` have it on `lo`, with arp_ignore = 1 and arp_announce = 2")
}

/// Whether the kernel answers for the VIP on this link.
fn asked_for(
    case: &Case,
    (service, vip): (&str, IpAddr),
    interface: &str,
    owners: &[&str],
) -> Finding {
    /// Answers nobody.
    const NEVER: u32 = 8;
    let ignore = case.in_force(interface, "arp_ignore");
    let announce = case.in_force(interface, "arp_announce");
    let measured = format!(
        "{vip} is on {}; on {interface} arp_ignore is {ignore}, arp_announce {announce}",
        owners.join(", ")
    );
    let finding = Finding::ok("vip", service, measured);
    if ignore == 0 || (owners.contains(&interface) && ignore != NEVER) {
        return finding;
    }
    finding
        .because(Level::Problem, format!("this host does not answer when it is asked for {vip} on the link of {interface}: clients there find nobody"))
        .helped(format!(
            "ip addr add {vip}/32 dev {interface}, or net.ipv4.conf.{{all,{interface}}}.arp_ignore = 0; nothing, if {vip} is routed here"
        ))
}

/// A service of the interfaces' own addresses.
fn own_addresses(case: &Case, service: &Service) -> Vec<Finding> {
    let there = service.listen.interfaces.iter();
    let there = there.filter_map(|name| Some((name, case.measured.reading.devices.get(name)?)));
    there
        .map(|(name, device)| match &device.addresses[..] {
            [] => Finding::ok(
                "vip",
                &service.name,
                format!("{name} has no address, and the service has none of its own"),
            )
            .because(Level::Problem, "there is nothing to connect to")
            .helped(format!("ip addr add ADDRESS dev {name}, or `listen.address`")),
            addresses => {
                let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                Finding::ok("vip", &service.name, format!("{name} has {}", all.join(", ")))
            }
        })
        .collect()
}

/// Interfaces that IPv6 is needed on and is off.
fn without_ipv6(case: &Case) -> Vec<Finding> {
    let Some(config) = &case.config else { return Vec::new() };
    let reading = &case.measured.reading;
    let mut needed = std::collections::BTreeSet::new();
    for service in &config.services {
        if service.listen.address.is_some_and(|vip| vip.is_ipv6()) {
            needed.extend(service.listen.interfaces.iter().map(String::as_str));
        }
        let ways = service.all_backends().filter(|backend| backend.address.is_ipv6());
        needed.extend(ways.filter_map(|backend| match reading.ways.get(&backend.address.ip())? {
            Way::Via { interface, .. } => Some(reading.by_index(*interface)?.0),
            Way::Local | Way::Unreachable => None,
        }));
    }
    let off = |name: &&str| case.setting(&format!("ipv6/conf/{name}/disable_ipv6")) == Some("1");
    needed
        .into_iter()
        .filter(off)
        .map(|name| {
            Finding::ok("ipv6", name, "IPv6 is off there")
                .because(
                    Level::Problem,
                    "it has no IPv6 address and no neighbour: IPv6 services do not work by it",
                )
                .helped(format!(
                    "sysctl -w net.ipv6.conf.{}.disable_ipv6=0",
                    name.replace('.', "/")
                ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::sample::{case, configured, ip, level, only};
    use super::*;

    #[test]
    fn vip_that_is_there_and_answered_for_is_ok() {
        let found = only(&all(&case()), "vip");
        assert_eq!(found.level, Level::Ok);
        assert_eq!(
            found.measured,
            "203.0.113.10 is on eth0; on eth0 arp_ignore is 0, arp_announce 0"
        );
    }

    #[test]
    fn vip_that_nobody_has_is_a_warning_unless_it_is_added() {
        let gone = |mut case: Case| {
            case.measured.reading.devices.get_mut("eth0").unwrap().addresses.clear();
            level(&all(&case), "vip")
        };
        assert_eq!(gone(case()), Level::Warning);
        assert_eq!(gone(configured("manage-address = true")), Level::Ok);
    }

    #[test]
    fn vip_on_another_interface_is_not_answered_for_where_arp_is_told_to_ignore_it() {
        let mut case = case();
        let devices = &mut case.measured.reading.devices;
        devices.get_mut("eth0").unwrap().addresses = vec![ip("203.0.113.2")];
        devices.get_mut("eth1").unwrap().addresses.push(ip("203.0.113.10"));
        assert_eq!(level(&all(&case), "vip"), Level::Ok);
        for name in ["all", "eth0"] {
            let mut case = case.clone();
            case.measured.settings.insert(format!("ipv4/conf/{name}/arp_ignore"), "1".to_owned());
            assert_eq!(level(&all(&case), "vip"), Level::Problem, "{name}");
        }
    }

    #[test]
    fn own_address_is_answered_for_unless_nobody_is() {
        let mut case = case();
        let set = |case: &mut Case, value: &str| {
            case.measured.settings.insert("ipv4/conf/eth0/arp_ignore".to_owned(), value.to_owned());
        };
        set(&mut case, "1");
        assert_eq!(level(&all(&case), "vip"), Level::Ok);
        set(&mut case, "8");
        assert_eq!(level(&all(&case), "vip"), Level::Problem);
    }

    #[test]
    fn vip_that_another_host_has_is_a_problem() {
        let mut case = case();
        case.measured.details.duplicates.insert(ip("203.0.113.10"));
        assert_eq!(level(&all(&case), "vip"), Level::Problem);
    }

    #[test]
    fn vip_that_another_host_answers_for_is_a_problem_where_it_is_here_too() {
        let mut case = case();
        let front = case.measured.reading.devices["eth0"].index;
        let mut answered = |link_address| {
            let hop = (front, ip("203.0.113.10"));
            case.measured.details.link_addresses.insert(hop, link_address);
            only(&all(&case), "vip")
        };
        assert_eq!(answered([2, 0, 0, 0, 0, 3]).level, Level::Ok, "by another interface of ours");
        let found = answered([2, 0, 0, 0, 0, 9]);
        assert_eq!(found.level, Level::Problem);
        let told = "another host on the link of eth0, 02:00:00:00:00:09, answers for 203.0.113.10; here it is on eth0";
        assert_eq!(found.measured, told);
        case.measured.reading.devices.get_mut("eth0").unwrap().addresses.clear();
        assert_eq!(level(&all(&case), "vip"), Level::Warning, "this one may stand by");
    }

    #[test]
    fn interface_without_an_address_has_nothing_to_connect_to() {
        let mut case = case();
        case.config.as_mut().unwrap().services[0].listen.address = None;
        assert_eq!(only(&all(&case), "vip").measured, "eth0 has 203.0.113.10");
        case.measured.reading.devices.get_mut("eth0").unwrap().addresses.clear();
        assert_eq!(level(&all(&case), "vip"), Level::Problem);
    }

    #[test]
    fn ipv6_that_is_off_matters_where_it_is_needed() {
        let mut case = case();
        case.measured.settings.insert("ipv6/conf/eth0/disable_ipv6".to_owned(), "1".to_owned());
        assert!(all(&case).iter().all(|finding| finding.rule != "ipv6"));
        case.config.as_mut().unwrap().services[0].listen.address = Some(ip("2001:db8::10"));
        assert_eq!(level(&all(&case), "ipv6"), Level::Problem);
    }
}
