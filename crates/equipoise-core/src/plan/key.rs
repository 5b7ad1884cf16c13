//! The name of a service in the maps, whatever its address family.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use equipoise_common::key::{self, Be16, ICMP, ICMPV6, PortsKey, TCP, UDP, V4, V6};

use crate::id::Family;

/// What a service is found by; each family has a map of its own for ports, and one for ranges of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceKey {
    /// In the IPv4 map.
    V4(key::ServiceKey<V4>),
    /// In the IPv6 map.
    V6(key::ServiceKey<V6>),
    /// In the IPv4 map of ranges, with so many bits of the port.
    PortsV4(PortsKey<V4>, u8),
    /// In the IPv6 map of ranges, with so many bits of the port.
    PortsV6(PortsKey<V6>, u8),
}

/// Where packets for services come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    /// The VIP.
    pub address: IpAddr,
    /// Index of the interface.
    pub interface: u32,
    /// IANA protocol number.
    pub protocol: u32,
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

    /// The key of all ports that begin with the first `bits` bits of `port`.
    pub fn with_ports(spot: Spot, port: u16, bits: u8) -> Self {
        let Spot { address, interface, protocol } = spot;
        let (port, protocol) = (Be16::new(port), protocol as u16);
        match address {
            IpAddr::V4(address) => {
                Self::PortsV4(PortsKey { address: address.into(), interface, protocol, port }, bits)
            }
            IpAddr::V6(address) => {
                Self::PortsV6(PortsKey { address: address.into(), interface, protocol, port }, bits)
            }
        }
    }

    /// The VIP and its port, or the first of its ports.
    pub fn vip(&self) -> SocketAddr {
        match self {
            Self::V4(key) => SocketAddr::new(key.address.into(), key.port.get()),
            Self::V6(key) => SocketAddr::new(key.address.into(), key.port.get()),
            Self::PortsV4(key, _) => SocketAddr::new(key.address.into(), key.port.get()),
            Self::PortsV6(key, _) => SocketAddr::new(key.address.into(), key.port.get()),
        }
    }

    /// How many bits of the port a packet's has in common with the key's; among keys that fit, the one with the most
    /// is meant. More than there are for a key of one port alone, which is looked for first.
    pub fn port_bits(&self) -> u8 {
        match self {
            Self::V4(_) | Self::V6(_) => 17,
            Self::PortsV4(_, bits) | Self::PortsV6(_, bits) => *bits,
        }
    }

    /// The last of its ports.
    pub fn last_port(&self) -> u16 {
        let bits = u32::from(self.port_bits());
        self.vip().port() | u16::MAX.checked_shr(bits).unwrap_or_default()
    }

    /// Index of the interface that packets arrive on.
    pub fn interface(&self) -> u32 {
        match self {
            Self::V4(key) => key.interface,
            Self::V6(key) => key.interface,
            Self::PortsV4(key, _) => key.interface,
            Self::PortsV6(key, _) => key.interface,
        }
    }

    /// [`TCP`] or [`UDP`], or for a VIP as a whole [`ServiceKey::ANY`], [`ICMP`] or [`ICMPV6`].
    pub fn protocol(&self) -> u32 {
        match self {
            Self::V4(key) => u32::from(key.protocol),
            Self::V6(key) => u32::from(key.protocol),
            Self::PortsV4(key, _) => u32::from(key.protocol),
            Self::PortsV6(key, _) => u32::from(key.protocol),
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
            Self::V4(_) | Self::PortsV4(..) => Family::V4,
            Self::V6(_) | Self::PortsV6(..) => Family::V6,
        }
    }

    /// VIP, port or ports, and protocol, in words.
    pub fn place(&self) -> String {
        let (vip, protocol) = (self.vip(), self.protocol_name());
        if self.port_bits() == 0 {
            return format!("{}/{protocol}", SocketAddr::new(vip.ip(), 0)).replace(":0/", ":all/");
        }
        let last = self.last_port();
        if last == vip.port() {
            format!("{vip}/{protocol}")
        } else {
            format!("{vip}-{last}/{protocol}")
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on interface {}", self.place(), self.interface())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_with_their_ports() {
        for (address, port, bits, expected) in [
            ("192.0.2.1", 8000, 10, "192.0.2.1:8000-8063/tcp on interface 2"),
            ("192.0.2.1", 8000, 16, "192.0.2.1:8000/tcp on interface 2"),
            ("2001:db8::1", 0, 0, "[2001:db8::1]:all/tcp on interface 2"),
        ] {
            let spot = Spot { address: address.parse().unwrap(), interface: 2, protocol: TCP };
            assert_eq!(ServiceKey::with_ports(spot, port, bits).to_string(), expected);
        }
    }
}
