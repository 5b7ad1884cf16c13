//! A case in which nothing is wrong, for tests of rules to break: `eth0` to clients and `eth1` to a backend, both NICs.

use std::net::IpAddr;

use crate::doctor::measured::{ANYWHERE, Measured};
use crate::doctor::{Case, Finding, Level};
use crate::host::details::{Link, Neighbour};
use crate::host::offloads::Queues;
use crate::host::{Device, Features, Reading, Way};
use crate::status::{InterfaceStatus, ServiceStatus, Status};

pub(super) const FRONT: u32 = 2;
pub(super) const BACK: u32 = 3;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn case() -> Case {
    configured("")
}

/// With further keys of the service.
pub(super) fn configured(keys: &str) -> Case {
    let text = format!(
        "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], address = '203.0.113.10', port = 80 }}\n\
         {keys}\nbackends = [{{ address = '10.0.0.1:80' }}]\n"
    );
    let config = equipoise_core::config::parse("a.toml", &text).unwrap().config;
    Case { config: Some(config), measured: measured(), ..Case::default() }
}

/// What XDP in the driver takes, and frames that are redirected.
const ALL: Features = Features(0b111);

fn measured() -> Measured {
    let device = |index, address: &str| Device {
        index,
        up: true,
        mtu: 1500,
        link_address: Some([2, 0, 0, 0, 0, index as u8]),
        addresses: vec![ip(address)],
        features: Some(ALL),
        ..Device::default()
    };
    let via =
        |interface, next_hop: &str| Way::Via { interface, next_hop: ip(next_hop), source: None };
    let settings = [("core/bpf_jit_enable", "1"), ("ipv4/ip_forward", "1")];
    let on = ["eth0", "eth1"].map(|name| (format!("ipv4/conf/{name}/forwarding"), "1".to_owned()));
    let settings = settings.map(|(path, value)| (path.to_owned(), value.to_owned()));
    let link = Link { carrier: true, asks_neighbours: true, peer_elsewhere: false };
    let mut measured = Measured {
        reading: Reading {
            devices: [
                ("eth0".to_owned(), device(FRONT, "203.0.113.10")),
                ("eth1".to_owned(), device(BACK, "10.0.0.254")),
            ]
            .into(),
            ways: [(ip("10.0.0.1"), via(BACK, "10.0.0.1")), (ANYWHERE, via(FRONT, "203.0.113.1"))]
                .into(),
            plain_ways: true,
            ..Reading::default()
        },
        settings: settings.into_iter().chain(on).collect(),
        pins_mounted: true,
        clock: Some("tsc".to_owned()),
        cpus: 2,
        queues: [FRONT, BACK]
            .map(|index| (index, Queues { used: 2, most: 2, combined: true }))
            .into(),
        ..Measured::default()
    };
    measured.details.links = [FRONT, BACK].map(|index| (index, link)).into();
    measured.details.neighbours.insert((BACK, ip("10.0.0.1")), Neighbour::Known);
    measured
}

/// How an instance is that runs on these interfaces with native XDP.
pub(super) fn running(services: Vec<ServiceStatus>) -> Status {
    let interface = |name: &str| InterfaceStatus {
        name: name.to_owned(),
        hook: "xdp".to_owned(),
        mode: "native".to_owned(),
        reason: "the driver has XDP".to_owned(),
    };
    Status {
        version: "1".to_owned(),
        instance: "default".to_owned(),
        pid: 1,
        uptime_seconds: 60,
        services,
        interfaces: ["eth0", "eth1"].map(interface).into(),
        ..Status::default()
    }
}

/// The only finding of a rule that is not ok, or else the first.
pub(super) fn only(findings: &[Finding], rule: &str) -> Finding {
    let of: Vec<&Finding> = findings.iter().filter(|finding| finding.rule == rule).collect();
    let wrong: Vec<&&Finding> = of.iter().filter(|finding| finding.level > Level::Ok).collect();
    assert!(wrong.len() <= 1, "{wrong:#?}");
    wrong
        .first()
        .copied()
        .or(of.first())
        .map_or_else(|| panic!("nothing of {rule}"), |f| (*f).clone())
}

/// The worst level of a rule.
pub(super) fn level(findings: &[Finding], rule: &str) -> Level {
    let levels =
        findings.iter().filter(|finding| finding.rule == rule).map(|finding| finding.level);
    levels.max().unwrap_or_else(|| panic!("nothing of {rule}"))
}
