//! What the maps hold: services, pools, backends, flows, counters.
//!
//! Every field is written whole by one side (`map.rs` of the packet programs says which). Sizes
//! are asserted, and all padding is an explicit zero, because the kernel copies these bytes as
//! they stand.

use crate::bucket::Rate;
use crate::key::{Be16, V4, V6};

/// Tells one layout of the maps from another: raised with every change to a key, a value or to
/// the meaning of either. Of maps with another tag flows are carried over, as [`CARRIAGE`] allows.
pub const LAYOUT: u64 = if cfg!(feature = "other-layout") { 10_000 } else { 11 };

/// Tells what flows are carried over by, from maps of one layout to those of another: raised where a version can no longer do so with the
/// one before. All this is alike where the number is:
///
/// - [`Layout`], [`Kind`] and who holds an id as a number, and with that the maps `LAYOUT` and `HOLDERS`;
/// - the flow tables: sets, slots, their words, states and flags, and the hash that leads to them; `LIVE` and the other counts of flows;
/// - how programs leave packets to others: `MOVING`, the numbers of the stages and what the programs are called;
/// - [`Backend`] and [`Policy`] as far as they go here: what is new comes at the end, and is zero where it is not known;
/// - the maps that both layouts share, which are alike altogether: what is counted, events, fragments, the filter of addresses, and
///   checks that are under way. New verdicts and pressures come at the end, where there is room for them.
pub const CARRIAGE: u64 = 1;

/// What maps are like that a process has left: the one thing that stays as it is in every version, so that each can read it.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Layout {
    /// [`LAYOUT`]; 0 where the maps are not complete.
    pub tag: u64,
    /// The secret that keys the hash of the flow tables.
    pub seed: u64,
    /// Live flows of each flow table at most.
    pub max_flows: u32,
    /// Sets of each flow table.
    pub sets: u32,
    /// The secret of the tables that flows are being carried over to.
    pub next_seed: u64,
    /// Live flows of each of them at most.
    pub next_max_flows: u32,
    /// Sets of each of them; 0 while no flows are carried over.
    pub next_sets: u32,
    /// [`CARRIAGE`].
    pub carriage: u64,
    /// The tag of the maps beside those tables, where they are new too; 0 while no flows are carried over.
    pub next_tag: u64,
    /// Zero.
    pub reserved: u64,
}

/// Whose ids the map of holders tells: these, above the id's 32 bits.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub enum Kind {
    /// Services.
    Service = 0,
    /// Pools.
    Pool = 1,
    /// Backends.
    Backend = 2,
}

impl Kind {
    /// The key of an id of this kind.
    pub const fn key(self, id: u32) -> u64 {
        (self as u64) << 32 | id as u64
    }
}

/// A service, as the packet program finds it by its key.
///
/// Of half words: values of a trie lie behind its keys, some of which are of an odd number of those.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub struct Service {
    /// Index into the service counters.
    pub id: u32,
    /// The pool of the key's address family for sources without a route; its run may be empty.
    pub pool: u32,
}

/// A pool: a run of slots, replaced whole.
///
/// New slots are written elsewhere first, then this entry is flipped to them: a packet sees the
/// old run or the new one, never a mixture.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub struct Pool {
    /// First slot of the run.
    pub offset: u32,
    /// Slots in the run; 0 when the pool has no usable backend.
    pub length: u32,
    /// Raised at each flip.
    pub epoch: u32,
    /// How a slot is picked: [`Pick::number`], and [`Pool::STREAMED`].
    pub pick: u32,
}

impl Pool {
    /// `pick`: TCP connections that lead here are taken up by this host, which picks itself where they go on to.
    pub const STREAMED: u32 = 1 << 16;
}

/// How a slot of a pool is picked for a new flow.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub enum Pick {
    /// By the hash of the five-tuple, the same on every machine.
    Hash,
    /// At random.
    Random,
    /// One after the other, on each CPU.
    Turn,
    /// Two at random, of which the one is taken whose backend has fewer live flows for its weight.
    Fewest,
    /// By the hash of so many bits of the source address, the same on every machine.
    Source {
        /// At least 1.
        bits: u8,
    },
}

impl Pick {
    /// As it stands in a pool.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        match self {
            Self::Hash => 0,
            Self::Random => 1,
            Self::Turn => 2,
            Self::Fewest => 3,
            Self::Source { bits } => 4 | (bits as u32) << 8,
        }
    }

    /// From how it stands in a pool.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number & 0xff {
            1 => Self::Random,
            2 => Self::Turn,
            3 => Self::Fewest,
            4 => Self::Source { bits: (number >> 8) as u8 },
            _ => Self::Hash,
        }
    }
}

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

/// For which packets a way that was asked for is kept for a moment, and not asked for again.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub enum Shortcuts {
    /// For none.
    #[default]
    None = 0,
    /// For the replies of the same flow: of all that routes and rules can tell packets apart by, these differ in their DSCP alone.
    Replies = 1,
    /// So, and for all packets to the same backend: its way depends on nothing but its address.
    All = 2,
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

/// What the replies of a backend are rewritten to where there is no flow that says it: for packets
/// that were decided without being remembered. Only for a backend that serves one VIP alone, and on each of its ports one port of it.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub struct Reply {
    /// The VIP; an IPv4 one takes the first 4 bytes.
    pub vip: V6,
    /// The VIP's port; 0 for the one that the reply comes from.
    pub port: Be16,
    /// Zero.
    pub reserved: u16,
    /// Service id.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
    /// The ports that a reply may come from, where its port stays: the first.
    pub first: Be16,
    /// The last.
    pub last: Be16,
}

/// This host's own addresses on an interface, from which it answers packets that came by it; all zeros where it has none
/// of the family.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub struct Host {
    /// IPv6.
    pub v6: V6,
    /// IPv4.
    pub v4: V4,
    /// Zero.
    pub reserved: u32,
}

/// What has gone through a service or a backend. Kept per CPU; never goes down.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Traffic {
    /// Flows opened.
    pub new_flows: u64,
    /// Packets from clients (a GSO packet counts as its segments).
    pub packets_in: u64,
    /// IP bytes from clients.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// IP bytes to clients.
    pub bytes_out: u64,
    /// New flows that got another source port, since theirs was taken through another VIP.
    pub ports_changed: u64,
}

const _: () = {
    assert!(size_of::<Layout>() == 64);
    assert!(size_of::<Service>() == 8);
    assert!(size_of::<Pool>() == 16);
    assert!(size_of::<Backend>() == if cfg!(feature = "other-layout") { 40 } else { 32 });
    assert!(size_of::<Snat>() == 24);
    assert!(size_of::<Limits>() == 24);
    assert!(size_of::<Policy>() == if cfg!(feature = "other-layout") { 88 } else { 72 });
    assert!(size_of::<Reply>() == 32);
    assert!(size_of::<Host>() == 24);
    assert!(size_of::<Traffic>() == 48);
};

#[cfg(feature = "user")]
mod user {
    use std::net::{IpAddr, SocketAddr};

    use super::{Backend, Host, Layout, Limits, Mode, Policy, Pool, Reply, Service, Snat, Traffic};
    use crate::key::{Address as _, V4};

    // SAFETY: `repr(C)` words without padding (sizes asserted above); any bit pattern is a value.
    unsafe impl aya::Pod for Service {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Layout {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Pool {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Backend {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Snat {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Limits {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Policy {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Reply {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Host {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Traffic {}

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

    impl core::ops::AddAssign for Traffic {
        /// Adds up the CPUs' shares.
        fn add_assign(&mut self, other: Self) {
            self.new_flows += other.new_flows;
            self.packets_in += other.packets_in;
            self.bytes_in += other.bytes_in;
            self.packets_out += other.packets_out;
            self.bytes_out += other.bytes_out;
            self.ports_changed += other.ports_changed;
        }
    }
}
