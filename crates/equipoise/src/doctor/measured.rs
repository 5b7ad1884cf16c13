//! Measuring: everything that the rules judge, read from the kernel in one go.
//!
//! Takes up to three seconds where a next hop is not known, since it is asked for; changes nothing. What this process may not read, or
//! an older kernel does not tell, is left out or told as a sentence.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use equipoise_core::config::{Config, Problem};

use crate::dataplane::kernel::hooks::{self, AtTc, Hung};
use crate::dataplane::kernel::{Ability, abilities};
use crate::driver::targets;
use crate::host::details::{self, Details, Neighbour};
use crate::host::netfilter::{self, Chain};
use crate::host::offloads::{self, Offloads, Queues};
use crate::host::{HostError, Machine, Netlink, Reading, Way, files, requirements};

/// A client that could be anybody; the address belongs to nobody (RFC 5737).
pub(super) const ANYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// How long somebody who has a VIP is waited for: on a link an answer takes less than a millisecond, and mostly nobody is there to give one.
const OWNERS: Duration = Duration::from_millis(500);

/// How long next hops are waited for: the kernel asks three times, a second apart.
const NEIGHBOURS: Duration = Duration::from_millis(3500);

/// What the machine is like.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Interfaces, addresses and ways.
    pub reading: Reading,
    /// Links and neighbours.
    pub details: Details,
    /// What is wrong with the kernel's version.
    pub kernel: Option<String>,
    /// What this process lacks to run an instance, or to measure everything.
    pub process: Option<String>,
    /// What the kernel can do.
    pub abilities: Vec<Ability>,
    /// XDP programs, by interface.
    pub xdp: BTreeMap<u32, Hung>,
    /// Programs at TC, by interface.
    pub tc: BTreeMap<u32, AtTc>,
    /// Offloads, by interface.
    pub offloads: BTreeMap<u32, Offloads>,
    /// Queues, by interface.
    pub queues: BTreeMap<u32, Queues>,
    /// Kernel settings, by path below `/proc/sys/net`; those that are there.
    pub settings: BTreeMap<String, String>,
    /// Why kernel settings cannot be written.
    pub settings_refused: Option<String>,
    /// Whether the BPF file system is mounted.
    pub pins_mounted: bool,
    /// The limit of locked memory, in bytes; none for no limit.
    pub memlock: Option<u64>,
    /// The clock that the kernel goes by; none where it does not tell.
    pub clock: Option<String>,
    /// CPUs that this process may run on.
    pub cpus: u32,
    /// Base chains of nftables.
    pub chains: Vec<Chain>,
    /// Why they could not be read.
    pub chains_refused: Option<String>,
    /// Tables of the older `iptables` that are loaded in this namespace.
    pub legacy_tables: Vec<String>,
    /// Keys, certificates and authorities of the configuration that cannot be read, or are not what they should be.
    pub files: Vec<Problem>,
}

const MACHINE: [&str; 5] = [
    "core/bpf_jit_enable",
    "core/bpf_jit_harden",
    "ipv4/ip_forward",
    "netfilter/nf_conntrack_count",
    "netfilter/nf_conntrack_max",
];
const OF_V4: [&str; 5] = ["forwarding", "rp_filter", "arp_ignore", "arp_announce", "accept_local"];
const OF_V6: [&str; 2] = ["forwarding", "disable_ipv6"];

/// Paths of the settings that matter on these interfaces.
fn settings_of(reading: &Reading) -> BTreeSet<String> {
    let mut paths: BTreeSet<String> = MACHINE.iter().map(|path| (*path).to_owned()).collect();
    for name in reading.devices.keys().map(String::as_str).chain(["all"]) {
        paths.extend(OF_V4.iter().map(|setting| format!("ipv4/conf/{name}/{setting}")));
        paths.extend(OF_V6.iter().map(|setting| format!("ipv6/conf/{name}/{setting}")));
    }
    paths
}

/// Measures the machine that `machine` talks to, in this process's network namespace.
///
/// # Errors
///
/// When interfaces and ways cannot be read at all.
pub async fn measure(
    machine: &mut Netlink,
    config: Option<&Config>,
) -> Result<Measured, HostError> {
    let mut asked = config.map(targets).unwrap_or_default();
    asked.insert(ANYWHERE);
    let reading = machine.read(&asked).await?;
    let hops = next_hops(&reading);
    let vips = config.map(|config| vips(config, &reading)).unwrap_or_default();
    let details = settled(machine, &hops, &vips).await?;
    let programs = reading.devices.values().filter_map(|d| Some((d.index, d.xdp_program?)));
    let indexes: BTreeSet<u32> = reading.devices.values().map(|device| device.index).collect();
    let mut settings = BTreeMap::new();
    for path in settings_of(&reading) {
        if let Some(value) = machine.setting(&path) {
            settings.insert(path, value);
        }
    }
    let (chains, chains_refused) = match netfilter::chains() {
        Ok(chains) => (chains, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    Ok(Measured {
        kernel: requirements::of_kernel().err(),
        process: requirements::of_process().err(),
        abilities: abilities(),
        xdp: programs.map(|(index, id)| (index, hooks::program(id))).collect(),
        tc: reading.devices.values().map(|d| (d.index, hooks::at_tc(d.index))).collect(),
        offloads: offloads::offloads(&indexes).unwrap_or_default(),
        queues: offloads::queues(&indexes).unwrap_or_default(),
        settings,
        settings_refused: writable("/proc/sys/net/ipv4/ip_forward").err(),
        pins_mounted: hooks::pins_are_mounted(),
        memlock: rustix::process::getrlimit(rustix::process::Resource::Memlock).current,
        clock: trimmed("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        chains,
        chains_refused,
        legacy_tables: legacy_tables(),
        files: config.map(|config| files::files(config).notes).unwrap_or_default(),
        reading,
        details,
    })
}

/// Next hops of the ways to backends that have link addresses.
fn next_hops(reading: &Reading) -> BTreeSet<(u32, IpAddr)> {
    let ways = reading.ways.iter().filter(|(target, _)| **target != ANYWHERE);
    ways.filter_map(|(_, way)| match way {
        Way::Via { interface, next_hop, .. } => Some((*interface, *next_hop)),
        Way::Local | Way::Unreachable => None,
    })
    .collect()
}

/// VIPs, on the links of the interfaces that they are listened on.
fn vips(config: &Config, reading: &Reading) -> BTreeSet<(u32, IpAddr)> {
    let mut all = BTreeSet::new();
    for service in &config.services {
        let Some(vip) = service.listen.address else { continue };
        let devices = service.listen.interfaces.iter();
        let devices = devices.filter_map(|name| reading.devices.get(name));
        let on_links = devices.filter(|device| device.up && device.link_address.is_some());
        all.extend(on_links.map(|device| (device.index, vip)));
    }
    all
}

/// Has the next hops and VIPs asked for, and reads until each next hop has answered, or has not, and others have had time to say that a VIP is
/// theirs.
async fn settled(
    machine: &mut Netlink,
    hops: &BTreeSet<(u32, IpAddr)>,
    vips: &BTreeSet<(u32, IpAddr)>,
) -> Result<Details, HostError> {
    let begun = tokio::time::Instant::now();
    details::ask_anew(vips).await?;
    let mut details = details::read().await?;
    let are_settled = |details: &Details| hops.iter().all(|hop| is_settled(details, hop));
    // Only root may ask; others are told what is known.
    let patience = match are_settled(&details) {
        true => Duration::ZERO,
        false => {
            let asked = machine.refresh_neighbours(&BTreeSet::new(), hops).await;
            if asked.is_ok() { NEIGHBOURS } else { Duration::ZERO }
        }
    };
    let is_answered = |details: &Details| {
        vips.iter().all(|vip| details.neighbours.get(vip) == Some(&Neighbour::Known))
    };
    loop {
        let waited = begun.elapsed();
        let hops_are_done = waited > patience || are_settled(&details);
        if hops_are_done && (waited > OWNERS || is_answered(&details)) {
            return Ok(details);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        details = details::read().await?;
    }
}

fn is_settled(details: &Details, hop: &(u32, IpAddr)) -> bool {
    let link = details.links.get(&hop.0);
    // One that has failed is asked once more: it may have come back.
    link.is_none_or(|link| !link.asks_neighbours)
        || details.neighbours.get(hop) == Some(&Neighbour::Known)
}

/// Opening changes nothing.
fn writable(path: &str) -> Result<(), String> {
    let opened = fs::OpenOptions::new().write(true).open(path);
    opened.map(drop).map_err(|error| format!("{path}: {error}"))
}

fn trimmed(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn legacy_tables() -> Vec<String> {
    let files = [("ip", "ip_tables_names"), ("ip6", "ip6_tables_names")];
    let mut all = Vec::new();
    for (family, file) in files {
        let names = trimmed(&format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        all.extend(names.lines().map(|name| format!("{family} {name}")));
    }
    all
}
