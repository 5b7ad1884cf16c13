//! What is known about the machine, as far as the plan depends on it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// A moment: time since an instant that all moments have in common, and that is before them.
pub type Moment = Duration;

use crate::id::BackendKey;
use crate::weight::Belief;

/// Facts about the machine, gathered by the shell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The interfaces that exist, by name.
    pub interfaces: BTreeMap<String, Interface>,
    /// Live flows by backend id, as last sampled, of backends whose weights depend on them.
    pub loads: BTreeMap<u32, u64>,
    /// The address of ours that packets to a backend's address come from, where there is one.
    pub sources: BTreeMap<IpAddr, IpAddr>,
    /// What is believed about backends, where that is not what is believed of those of which nothing is known.
    pub beliefs: BTreeMap<BackendKey, Belief>,
    /// The ports that the kernel gives to this host's own connections.
    pub own_ports: OwnPorts,
}

/// The first and the last port that the kernel gives to this host's own connections (`ip_local_port_range`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnPorts(pub u16, pub u16);

impl Default for OwnPorts {
    /// The kernel's default.
    fn default() -> Self {
        Self(32_768, 60_999)
    }
}

/// An interface that exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's index, unique within a network namespace.
    pub index: u32,
    /// Its own addresses, in order; IPv6 link-local ones are left out.
    pub addresses: Vec<IpAddr>,
}
