//! The machine as the driver sees it: what it is like now, when it changes, what we ask of it.
//!
//! [`Machine`] is the seam: [`Netlink`] talks to the kernel, [`simulated::Simulated`] is a machine
//! made of data, so that the whole program runs without one. Gives a [`Reading`] of interfaces,
//! addresses, XDP features and the ways to backends. Decides nothing about services, and knows
//! nothing of maps or programs.
//!
//! Interfaces are asked for by netlink and never looked up below `/sys/class/net`, which shows the
//! network namespace it was mounted in and not the one of this process.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;

use equipoise_core::facts::{Facts, Interface, OwnPorts};

use crate::dataplane::kernel;

pub mod addresses;
pub mod advice;
pub mod check;
pub mod details;
pub mod files;
pub mod forwarding;
mod links;
mod messages;
mod neighbours;
pub mod netfilter;
mod netlink;
pub mod offloads;
pub mod requirements;
mod routes;
pub mod simulated;
mod xdp_features;

pub use netlink::Netlink;
pub use xdp_features::Features;

/// What the machine is like, read at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The interfaces that exist, by name.
    pub devices: BTreeMap<String, Device>,
    /// How each address that was asked about is reached.
    pub ways: BTreeMap<IpAddr, Way>,
    /// Whether those ways depend on the address alone: each is one path, and no rule picks a routing table by
    /// anything else of a packet.
    pub plain_ways: bool,
    /// The ports that the kernel gives to this host's own connections.
    pub own_ports: OwnPorts,
}

/// An interface that exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// The kernel's index, unique within a network namespace.
    pub index: u32,
    /// The kind as the kernel names it (`veth`, `bridge`, ...); none for hardware, paravirtual
    /// NICs and `lo`.
    pub kind: Option<String>,
    /// Whether it is `lo`.
    pub loopback: bool,
    /// Whether it is up.
    pub up: bool,
    /// Largest packet it carries.
    pub mtu: u32,
    /// Its link address; none where there is no Ethernet.
    pub link_address: Option<[u8; 6]>,
    /// Index of the device below it, such as that of a VLAN.
    pub below: Option<u32>,
    /// Its own addresses, in order; IPv6 link-local ones are left out.
    pub addresses: Vec<IpAddr>,
    /// Those of them that came with a subnet, and not as a further one in it.
    pub primary: Vec<IpAddr>,
    /// The id of the XDP program that hangs on it, ours or another's.
    pub xdp_program: Option<u32>,
    /// What it can do with XDP; none where the kernel (before 6.3) does not tell.
    pub features: Option<Features>,
}

/// How an address is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is one of this host's own.
    Local,
    /// Over a link.
    Via {
        /// Index of the interface.
        interface: u32,
        /// The gateway, or the address itself when it is on the link.
        next_hop: IpAddr,
        /// The address of this host that its own packets there come from; none where the kernel does not tell.
        source: Option<IpAddr>,
    },
    /// The routing table knows no way.
    Unreachable,
}

impl Way {
    /// The address of this host that packets going it come from.
    pub fn source(&self) -> Option<IpAddr> {
        match self {
            Self::Via { source, .. } => *source,
            Self::Local | Self::Unreachable => None,
        }
    }
}

impl Reading {
    /// The part that the plan depends on.
    pub fn facts(&self) -> Facts {
        let interface = |device: &Device| Interface {
            index: device.index,
            addresses: device.addresses.clone(),
        };
        Facts {
            interfaces: self.devices.iter().map(|(name, d)| (name.clone(), interface(d))).collect(),
            sources: self.ways.iter().filter_map(|(to, way)| Some((*to, way.source()?))).collect(),
            own_ports: self.own_ports,
            ..Facts::default()
        }
    }

    /// Name and device with this index.
    pub fn by_index(&self, index: u32) -> Option<(&str, &Device)> {
        self.devices.iter().find(|(_, d)| d.index == index).map(|(name, d)| (name.as_str(), d))
    }

    /// Names of the interfaces that have `address`.
    pub fn owners(&self, address: IpAddr) -> impl Iterator<Item = &str> {
        self.devices
            .iter()
            .filter(move |(_, d)| d.addresses.contains(&address))
            .map(|(name, _)| name.as_str())
    }
}

impl Device {
    /// As the data plane attaches to it, under this name.
    pub fn described<'a>(&'a self, name: &'a str) -> kernel::Device<'a> {
        kernel::Device {
            name,
            index: self.index,
            native_xdp: self.native_xdp(),
            xdp_program: self.xdp_program,
            kind: self.kind.as_deref(),
        }
    }

    /// Whether XDP in the driver is there to be taken: hardware or a paravirtual NIC whose driver
    /// has it, and no program in the way.
    pub fn native_xdp(&self) -> bool {
        let hardware = self.kind.is_none() && !self.loopback;
        // Before 6.3 the kernel does not tell: attaching tries, and falls back.
        hardware && self.xdp_program.is_none() && self.features.is_none_or(Features::basic)
    }
}

/// How far an IPv4 address is valid; with IPv6 the address itself tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everywhere.
    Global,
    /// On this host.
    Host,
}

/// Why the machine could not be asked, or would not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{tried}: {reason}")]
pub struct HostError {
    /// What was tried, on what.
    pub tried: String,
    /// What the kernel said.
    pub reason: String,
}

impl HostError {
    fn new(tried: impl Into<String>, reason: &impl std::fmt::Display) -> Self {
        Self { tried: tried.into(), reason: reason.to_string() }
    }
}

/// A machine that packets pass through.
pub trait Machine {
    /// Reads what it is like now, and how `targets` are reached.
    fn read(
        &mut self,
        targets: &BTreeSet<IpAddr>,
    ) -> impl Future<Output = Result<Reading, HostError>>;

    /// Resolves when something that a reading tells may have changed. Cancel-safe; one call may
    /// stand for many changes.
    fn changed(&mut self) -> impl Future<Output = ()>;

    /// Keeps neighbours fresh that packets of ours go to, since forwarding outside the stack
    /// never confirms them: those of `interfaces` that have gone stale, and each of `next_hops`
    /// that is unknown. Answers how many the kernel was asked to look for.
    fn refresh_neighbours(
        &mut self,
        interfaces: &BTreeSet<u32>,
        next_hops: &BTreeSet<(u32, IpAddr)>,
    ) -> impl Future<Output = Result<usize, HostError>>;

    /// Puts an address on an interface; false when it was there already.
    fn add_address(
        &mut self,
        interface: u32,
        address: IpAddr,
        scope: Scope,
    ) -> impl Future<Output = Result<bool, HostError>>;

    /// Takes an address off an interface; one that is gone is no error.
    fn remove_address(
        &mut self,
        interface: u32,
        address: IpAddr,
    ) -> impl Future<Output = Result<(), HostError>>;

    /// Reads a kernel setting by its path below `/proc/sys/net`; none when there is no such one.
    fn setting(&self, path: &str) -> Option<String>;

    /// Writes a kernel setting.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it.
    fn set(&mut self, path: &str, value: &str) -> Result<(), HostError>;
}
