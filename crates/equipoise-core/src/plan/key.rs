//! The name of a service in the maps, whatever its address family.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use equipoise_common::key::{self, Be16, ICMP, ICMPV6, TCP, UDP, V4, V6};

use crate::id::Family;

/// What a service is found by; each family has a map of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceKey {
    /// In the IPv4 map.
    V4(key::ServiceKey<V4>),
    /// In the IPv6 map.
    V6(key::ServiceKey<V6>),
}

impl ServiceKey {
    /// The protocol of a VIP as a whole.
    pub const ANY: u32 = 0;

    /// The key of a VIP on the interface with this index, for an IANA protocol number.
    pub fn new(vip: SocketAddr, interface: u32, protocol: u32) -> Self {
        let port = Be16::new(vip.port());
        let protocol = protocol as u16;
        match vip.ip() {
            IpAddr::V4(address) => {
                Self::V4(key::ServiceKey { address: address.into(), interface, port, protocol })
            }
            IpAddr::V6(address) => {
                Self::V6(key::ServiceKey { address: address.into(), interface, port, protocol })
            }
        }
    }

    /// The VIP and its port.
    pub fn vip(&self) -> SocketAddr {
        match self {
            Self::V4(key) => SocketAddr::new(key.address.into(), key.port.get()),
            Self::V6(key) => SocketAddr::new(key.address.into(), key.port.get()),
        }
    }

    /// Index of the interface that packets arrive on.
    pub fn interface(&self) -> u32 {
        match self {
            Self::V4(key) => key.interface,
            Self::V6(key) => key.interface,
        }
    }

    /// [`TCP`] or [`UDP`], or for a VIP as a whole [`ServiceKey::ANY`], [`ICMP`] or [`ICMPV6`].
    pub fn protocol(&self) -> u32 {
        match self {
            Self::V4(key) => u32::from(key.protocol),
            Self::V6(key) => u32::from(key.protocol),
        }
    }

    /// Whether it is of a VIP as a whole, and not of a port.
    pub fn is_whole(&self) -> bool {
        matches!(self.protocol(), Self::ANY | ICMP | ICMPV6)
    }

    /// `tcp` or `udp`; `any`, `icmp` or `icmpv6` for a VIP as a whole.
    pub fn protocol_name(&self) -> &'static str {
        match self.protocol() {
            TCP => "tcp",
            UDP => "udp",
            Self::ANY => "any",
            ICMP => "icmp",
            ICMPV6 => "icmpv6",
            _ => "other",
        }
    }

    /// The family of its map.
    pub fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (vip, protocol, interface) = (self.vip(), self.protocol_name(), self.interface());
        write!(f, "{vip}/{protocol} on interface {interface}")
    }
}
