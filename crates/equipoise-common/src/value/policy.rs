//! How a service treats its flows.

use crate::bucket::Rate;

/// How a service treats its flows, by service id. Stays while flows of the id may be there.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub struct Policy {
    /// How long a flow lives without a packet, by [`crate::flow::State`] as a number, in
    /// [`crate::flow::tick`]s; 0 where there is no such state.
    pub timeouts: [u32; 8],
    /// Live flows of the service at most; 0 for no limit.
    pub max_flows: u32,
    /// A TCP packet of no flow that opens none: an [`OnUnknown`] as a number.
    pub on_unknown: u8,
    /// No backend to choose: an [`OnEmpty`] as a number.
    pub on_empty: u8,
    /// No room in the flow table: an [`OnFull`] as a number.
    pub on_full: u8,
    /// [`Policy::EVENTS`], [`Policy::RESET_ON_EXPIRY`], [`Policy::ROUTES`].
    pub switches: u8,
    /// Fragments: a [`Fragments`] as a number.
    pub fragments: u8,
    /// Zero.
    pub reserved: u8,
    /// The largest MSS that TCP ends may ask for through us, bytes; [`Policy::MSS_ANY`] or [`Policy::MSS_FITS`].
    pub mss: u16,
    /// Zero.
    pub reserved_too: u32,
    /// Who may open flows, and how many in a second.
    pub limits: Limits,
    /// Nothing: what makes the layout another one.
    #[cfg(feature = "other-layout")]
    pub more: [u64; 2],
}

/// Who may open flows with a service, and how many in a second.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub struct Limits {
    /// New flows of each source prefix.
    pub source: Rate,
    /// New flows of each backend.
    pub backend: Rate,
    /// Bits of the prefixes that sources of IPv4 are counted by.
    pub prefix_v4: u8,
    /// Bits of the prefixes that sources of IPv6 are counted by.
    pub prefix_v6: u8,
    /// [`Limits::OWN_LIST`], [`Limits::COMMON_LIST`], [`Limits::LISTED_ONLY`].
    pub lists: u8,
    /// Zero.
    pub reserved: u8,
    /// Zero.
    pub reserved_too: u32,
}

impl Limits {
    /// `lists`: prefixes of the service's own are allowed or denied.
    pub const OWN_LIST: u8 = 1;
    /// `lists`: prefixes are allowed or denied for all services.
    pub const COMMON_LIST: u8 = 2;
    /// `lists`: a source of no prefix is denied.
    pub const LISTED_ONLY: u8 = 4;
}

impl Policy {
    /// `switches`: opened and closed flows are told.
    pub const EVENTS: u8 = 1;
    /// `switches`: both ends of a TCP flow that has been idle too long get a RST.
    pub const RESET_ON_EXPIRY: u8 = 2;
    /// `switches`: sources may have pools of their own.
    pub const ROUTES: u8 = 4;
    /// `mss`: what they like.
    pub const MSS_ANY: u16 = 0;
    /// `mss`: what goes through the tunnel to the backend in one piece.
    pub const MSS_FITS: u16 = 1;
}

/// What becomes of fragments. Only the first of a packet has ports.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub enum Fragments {
    /// Those that come after the first go where it has gone; others are dropped.
    #[default]
    Track = 0,
    /// As [`Fragments::Track`], but new flows choose by their addresses alone, so that a fragment that comes before the
    /// first can go there too.
    Hash = 1,
    /// They are dropped.
    Drop = 2,
}

/// What becomes of a TCP packet that is of no flow and opens none.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub enum OnUnknown {
    /// It goes where its hash says, as at a peer that had the flow.
    #[default]
    Hash = 0,
    /// Its sender gets a RST.
    Reset = 1,
    /// It is dropped.
    Drop = 2,
}

/// What becomes of a packet of a new flow for which there is no backend.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub enum OnEmpty {
    /// Its sender gets a RST, or for UDP an ICMP port unreachable.
    #[default]
    Reset = 0,
    /// It is dropped.
    Drop = 1,
    /// It is left to the stack of this host.
    Pass = 2,
}

/// What becomes of a new flow for which the flow table has no room.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub enum OnFull {
    /// Each of its packets goes where its hash says, without being remembered.
    #[default]
    Hash = 0,
    /// It is dropped.
    Drop = 1,
}
