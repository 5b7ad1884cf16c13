//! What the maps hold: services, pools, backends, flows, counters.
//!
//! Every field is written whole by one side (`map.rs` of the packet programs says which). Sizes
//! are asserted, and all padding is an explicit zero, because the kernel copies these bytes as
//! they stand.

pub use self::backend::{Backend, Fate, Mode, Snat};
pub use self::policy::{Fragments, Limits, OnEmpty, OnFull, OnUnknown, Policy};
use crate::key::{Be16, V4, V6};

mod backend;
mod policy;

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
    use super::{Backend, Host, Layout, Limits, Policy, Pool, Reply, Service, Snat, Traffic};

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
