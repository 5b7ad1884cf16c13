//! Addresses, ports, five-tuples and service keys, as they stand in packets and in map keys.
//!
//! Network byte order is a type here ([`Be16`], [`V4`], [`V6`]), so that a port or an address is
//! never compared in the wrong order. Keys are words without implicit padding: the kernel hashes
//! their bytes, and byte arrays (alignment 1) cost it ten times the instructions.

/// IANA protocol number of TCP.
pub const TCP: u32 = 6;
/// IANA protocol number of UDP.
pub const UDP: u32 = 17;
/// IANA protocol number of ICMP.
pub const ICMP: u32 = 1;
/// IANA protocol number of ICMPv6.
pub const ICMPV6: u32 = 58;

/// A 16-bit number in network byte order, such as a port.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(PartialOrd, Ord, Hash))]
pub struct Be16(pub u16);

impl Be16 {
    /// From host order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// To host order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// An IPv4 address: 4 bytes in network order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(PartialOrd, Ord, Hash))]
pub struct V4(pub u32);

/// An IPv6 address: 16 bytes in network order, as two words.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(PartialOrd, Ord, Hash))]
pub struct V6(pub [u64; 2]);

/// An address of either family, as the packet text needs it.
pub trait Address: Copy + PartialEq {
    /// True for IPv6.
    const IS_V6: bool;
    /// The address as two words, for hashing; an IPv4 address fills the first alone.
    fn words(self) -> [u64; 2];
    /// The address out of a [`V6`]-sized field in which an IPv4 address takes the first 4 bytes.
    fn unpack(wide: V6) -> Self;
    /// The reverse of [`Address::unpack`]; unused bytes are zero.
    fn pack(self) -> V6;
}

impl Address for V4 {
    const IS_V6: bool = false;

    #[inline(always)]
    fn words(self) -> [u64; 2] {
        [self.0 as u64, 0]
    }

    #[inline(always)]
    fn unpack(wide: V6) -> Self {
        // The first 4 bytes in memory, whatever the byte order of the machine.
        #[cfg(target_endian = "little")]
        let word = wide.0[0] as u32;
        #[cfg(target_endian = "big")]
        let word = (wide.0[0] >> 32) as u32;
        Self(word)
    }

    #[inline(always)]
    fn pack(self) -> V6 {
        #[cfg(target_endian = "little")]
        let word = self.0 as u64;
        #[cfg(target_endian = "big")]
        let word = (self.0 as u64) << 32;
        V6([word, 0])
    }
}

impl Address for V6 {
    const IS_V6: bool = true;

    #[inline(always)]
    fn words(self) -> [u64; 2] {
        self.0
    }

    #[inline(always)]
    fn unpack(wide: V6) -> Self {
        wide
    }

    #[inline(always)]
    fn pack(self) -> V6 {
        self
    }
}

/// Addresses, ports and protocol of a packet: the name of a flow in one direction.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub struct FiveTuple<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port.
    pub source_port: Be16,
    /// Destination port.
    pub destination_port: Be16,
    /// [`TCP`] or [`UDP`].
    pub protocol: u32,
}

impl<A: Address> FiveTuple<A> {
    /// The five-tuple of the packet that answers this one.
    #[inline(always)]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }
}

/// What a service is found by: an exact address and port, on one interface.
///
/// A service on an interface's own addresses has one key for each of them; user space follows
/// the addresses as they change.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub struct ServiceKey<A> {
    /// The VIP.
    pub address: A,
    /// Index of the interface that the packet arrives on.
    pub interface: u32,
    /// The VIP's port.
    pub port: Be16,
    /// [`TCP`] or [`UDP`].
    pub protocol: u16,
}

/// What a service on many ports is found by: the port comes last, and only its first bits count.
///
/// A range of ports is a few such prefixes. All of the rest counts.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub struct PortsKey<A> {
    /// The VIP.
    pub address: A,
    /// Index of the interface that the packet arrives on.
    pub interface: u32,
    /// [`TCP`] or [`UDP`].
    pub protocol: u16,
    /// The VIP's port.
    pub port: Be16,
}

impl<A: Address> PortsKey<A> {
    /// How many bits of a key count if so many of its port do.
    pub const fn bits(of_port: u8) -> u32 {
        size_of::<Self>() as u32 * 8 - 16 + of_port as u32
    }
}

/// An address of either family.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub struct HostKey {
    /// The address; an IPv4 one takes the first 4 bytes.
    pub address: V6,
    /// 1 for IPv6.
    pub is_v6: u64,
}

impl HostKey {
    /// Of this address.
    #[inline(always)]
    pub fn of<A: Address>(address: A) -> Self {
        Self { address: address.pack(), is_v6: A::IS_V6 as u64 }
    }
}

const _: () = {
    assert!(size_of::<HostKey>() == 24);
    assert!(size_of::<FiveTuple<V4>>() == 16);
    assert!(size_of::<FiveTuple<V6>>() == 40);
    assert!(size_of::<ServiceKey<V4>>() == 12);
    assert!(size_of::<ServiceKey<V6>>() == 24);
    assert!(size_of::<PortsKey<V4>>() == 12);
    assert!(size_of::<PortsKey<V6>>() == 24);
};

#[cfg(any(test, feature = "user"))]
mod user {
    use super::{Address, Be16, V4, V6};
    use core::fmt;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    impl fmt::Debug for Be16 {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}", self.get())
        }
    }

    impl fmt::Display for Be16 {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}", self.get())
        }
    }

    impl From<Ipv4Addr> for V4 {
        fn from(address: Ipv4Addr) -> Self {
            Self(u32::from_ne_bytes(address.octets()))
        }
    }

    impl From<V4> for Ipv4Addr {
        fn from(address: V4) -> Self {
            Self::from(address.0.to_ne_bytes())
        }
    }

    impl From<Ipv6Addr> for V6 {
        fn from(address: Ipv6Addr) -> Self {
            let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.octets();
            Self([
                u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
                u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
            ])
        }
    }

    impl From<V6> for Ipv6Addr {
        fn from(address: V6) -> Self {
            let mut octets = [0; 16];
            octets[..8].copy_from_slice(&address.0[0].to_ne_bytes());
            octets[8..].copy_from_slice(&address.0[1].to_ne_bytes());
            Self::from(octets)
        }
    }

    impl From<V4> for IpAddr {
        fn from(address: V4) -> Self {
            Self::V4(address.into())
        }
    }

    impl From<V6> for IpAddr {
        fn from(address: V6) -> Self {
            Self::V6(address.into())
        }
    }

    impl From<IpAddr> for V6 {
        /// Packs an address of either family as [`Address::pack`] does.
        fn from(address: IpAddr) -> Self {
            match address {
                IpAddr::V4(address) => V4::from(address).pack(),
                IpAddr::V6(address) => address.into(),
            }
        }
    }

    impl fmt::Debug for V4 {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            Ipv4Addr::from(*self).fmt(f)
        }
    }

    impl fmt::Debug for V6 {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            Ipv6Addr::from(*self).fmt(f)
        }
    }
}

#[cfg(feature = "user")]
mod pod {
    use super::{FiveTuple, HostKey, PortsKey, ServiceKey, V4, V6};

    // SAFETY: `repr(C)` words without padding (asserted above); any bit pattern is a value.
    unsafe impl<A: aya::Pod> aya::Pod for FiveTuple<A> {}
    // SAFETY: as above.
    unsafe impl<A: aya::Pod> aya::Pod for ServiceKey<A> {}
    // SAFETY: as above.
    unsafe impl<A: aya::Pod> aya::Pod for PortsKey<A> {}
    // SAFETY: as above.
    unsafe impl aya::Pod for HostKey {}
    // SAFETY: transparent over `u32`.
    unsafe impl aya::Pod for V4 {}
    // SAFETY: transparent over `[u64; 2]`.
    unsafe impl aya::Pod for V6 {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    #[test]
    fn network_order_is_what_the_wire_carries() {
        assert_eq!(Be16::new(0x1234).0.to_ne_bytes(), [0x12, 0x34]);
        let address = Ipv4Addr::new(10, 0, 0, 1);
        assert_eq!(V4::from(address).0.to_ne_bytes(), [10, 0, 0, 1]);
        let address: Ipv6Addr = "2001:db8::1".parse().unwrap();
        assert_eq!(V6::from(address).0[0].to_ne_bytes(), [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0]);
    }

    #[test]
    fn packed_addresses_come_back() {
        let address = V4::from(Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(V4::unpack(address.pack()), address);
        assert_eq!(V6::from(IpAddr::from(address)), address.pack());
    }
}
