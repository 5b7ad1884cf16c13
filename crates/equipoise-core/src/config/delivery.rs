//! How packets get to the backends of a service, and what they look like there.

use std::fmt;
use std::net::IpAddr;

use equipoise_common::value;
use serde::{Serialize, Serializer};

/// How packets get to the backends of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Delivery {
    /// What is done with them.
    pub mode: Mode,
    /// The addresses of ours that they come from in [`Mode::FullNat`]; none for the egress interface's own.
    pub snat_addresses: Vec<IpAddr>,
    /// The largest segment that TCP ends may ask each other for.
    pub mss_clamp: MssClamp,
}

/// What is done with packets on their way to a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The backend's address takes the place of the VIP.
    #[default]
    Nat,
    /// So, and an address of ours takes the place of the client's.
    FullNat,
    /// They are sent to the backend's link address as they are.
    Dsr,
    /// They are sent to it inside IP packets.
    Ipip,
    /// They are sent to it inside UDP packets.
    Gue,
}

impl Mode {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::FullNat => "full-nat",
            Self::Dsr => "dsr",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
        }
    }

    /// As the packet programs have it.
    pub const fn value(self) -> value::Mode {
        match self {
            Self::Nat => value::Mode::Nat,
            Self::FullNat => value::Mode::FullNat,
            Self::Dsr => value::Mode::Dsr,
            Self::Ipip => value::Mode::Ipip,
            Self::Gue => value::Mode::Gue,
        }
    }

    /// Whether packets keep their VIP and port, and are answered by the backend itself.
    pub const fn keeps_packets(self) -> bool {
        value::Mode::is_one_sided(self.value() as u8)
    }

    /// Whether packets travel inside others, which may be of the other family.
    pub const fn is_tunnel(self) -> bool {
        matches!(self, Self::Ipip | Self::Gue)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The largest segment that TCP ends may ask each other for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MssClamp {
    /// What goes through a tunnel to the backend in one piece; without one, what they like.
    #[default]
    Auto,
    /// What they like.
    Off,
    /// So many bytes.
    Bytes(u16),
}

impl Serialize for MssClamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Off => serializer.serialize_str("off"),
            Self::Bytes(bytes) => serializer.serialize_u16(*bytes),
        }
    }
}
