//! What is known about the machine, as far as the plan depends on it.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Facts about the machine, gathered by the shell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The interfaces that exist, by name.
    pub interfaces: BTreeMap<String, Interface>,
    /// Live flows by backend id, as last sampled, of backends whose weights depend on them.
    pub loads: BTreeMap<u32, u64>,
}

/// An interface that exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's index, unique within a network namespace.
    pub index: u32,
    /// Its own addresses, in order; IPv6 link-local ones are left out.
    pub addresses: Vec<IpAddr>,
}
