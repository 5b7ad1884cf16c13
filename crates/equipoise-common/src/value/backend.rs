//! A backend as the maps have it: where it is, how packets get there, and what becomes of its flows.

use crate::key::{Be16, V6};

/// A backend of one pool of one service. Its id names it in slots, flows and counters.
///
/// It stays in the map after it has left the configuration, as [`Backend::GONE`], while flows name it.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub struct Backend {
    /// The address; an IPv4 one takes the first 4 bytes.
    pub address: V6,
    /// The port; 0 for the one that the client has sent to.
    pub port: Be16,
    /// 0 while the entry is not in use, else [`Backend::LIVE`] or [`Backend::GONE`].
    pub state: u8,
    /// How its packets get there: a [`Mode`] as a number, and [`Backend::IS_V6`].
    pub mode: u8,
    /// The service it belongs to.
    pub service: u16,
    /// How many live flows it is to have for those of others in its pool; 0 where nobody asks.
    pub weight: u16,
    /// Raised each time the backend goes away; flows remember the one that they were opened in.
    pub generation: u16,
    /// What becomes of TCP flows of earlier generations: a [`Fate`] as a number. UDP flows of
    /// earlier generations always choose anew.
    pub fate: u8,
    /// How many [`Snat`] entries it has.
    pub sources: u8,
    /// Live flows at most; 0 for no limit.
    pub max_flows: u32,
    /// Nothing: what makes the layout another one.
    #[cfg(feature = "other-layout")]
    pub more: u64,
}

impl Backend {
    /// `state` of an entry that may be chosen.
    pub const LIVE: u8 = 1;
    /// `state` of an entry that flows may name and that is not chosen any more.
    pub const GONE: u8 = 2;
    /// `mode`: the address is of IPv6.
    pub const IS_V6: u8 = 0x80;

    /// How its packets get there, a [`Mode`] as a number.
    #[inline(always)]
    pub const fn mode(&self) -> u8 {
        self.mode & !Self::IS_V6
    }
}

/// How packets get to a backend.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub enum Mode {
    /// With its address in place of the VIP; it answers through us.
    #[default]
    Nat = 0,
    /// So, and with an address of ours in place of the client's.
    FullNat = 1,
    /// As they are, to its link address; it answers the client itself.
    Dsr = 2,
    /// As they are, inside an IP packet (RFC 2003, RFC 2473); it answers the client itself.
    Ipip = 3,
    /// As they are, inside a UDP packet to port 6080 (draft-ietf-intarea-gue-09, variant 1); it answers the client itself.
    Gue = 4,
}

impl Mode {
    /// From how it stands in an entry.
    #[cfg(feature = "user")]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::FullNat,
            2 => Self::Dsr,
            3 => Self::Ipip,
            4 => Self::Gue,
            _ => Self::Nat,
        }
    }

    /// Whether packets with this [`Backend::mode`] stay as they are, and their answers do not come by us.
    #[inline(always)]
    pub const fn is_one_sided(number: u8) -> bool {
        number >= Self::Dsr as u8
    }
}

/// An address of ours that packets to a backend may come from, and the ports there that are free for it. The key is
/// [`Snat::key`].
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub struct Snat {
    /// The address; an IPv4 one takes the first 4 bytes.
    pub address: V6,
    /// The first port, in host order.
    pub first: u16,
    /// How many ports, at least one; none for [`Snat::CHECKED_VIP`].
    pub ports: u16,
    /// Zero.
    pub reserved: u32,
}

impl Snat {
    /// The entry that is no source, but the VIP that the backend is checked at.
    pub const CHECKED_VIP: u32 = crate::limit::SNAT_ADDRESSES;

    /// The key of a backend's entry, the first of which is 0.
    #[inline(always)]
    pub const fn key(backend: u32, entry: u32) -> u64 {
        (backend as u64) << 32 | entry as u64
    }
}

/// What becomes of the TCP flows of a backend that has gone away.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub enum Fate {
    /// They go on to their end.
    #[default]
    Keep = 0,
    /// Both ends get a RST.
    Reset = 1,
    /// Their next packet chooses anew.
    Reselect = 2,
}

impl Fate {
    /// From how it stands in an entry.
    #[cfg(feature = "user")]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Reset,
            2 => Self::Reselect,
            _ => Self::Keep,
        }
    }
}

#[cfg(feature = "user")]
mod user {
    use std::net::{IpAddr, SocketAddr};

    use super::{Backend, Mode};
    use crate::key::{Address as _, V4};

    impl Backend {
        /// What `mode` is for a backend with this address.
        pub fn mode_at(mode: Mode, address: IpAddr) -> u8 {
            mode as u8 | if address.is_ipv6() { Self::IS_V6 } else { 0 }
        }

        /// Where packets go: address and port, 0 for the one that the client has sent to.
        pub fn place(&self) -> SocketAddr {
            let is_v4 = self.mode & Self::IS_V6 == 0;
            let ip: IpAddr =
                if is_v4 { V4::unpack(self.address).into() } else { self.address.into() };
            SocketAddr::new(ip, self.port.get())
        }
    }
}
