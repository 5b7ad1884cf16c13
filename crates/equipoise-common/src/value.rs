//! What the maps hold: services, pools, backends, flows, counters.
//!
//! Every field is written whole by one side (`map.rs` of the packet programs says which). Sizes
//! are asserted, and all padding is an explicit zero, because the kernel copies these bytes as
//! they stand.

use crate::key::{Be16, V6};

/// Tells one layout of the maps from another: raised with every change to a key, a value or to
/// the meaning of either. A pinned map with another tag is not taken over.
pub const LAYOUT: u64 = 1;

/// A service, as the packet program finds it by its key.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub struct Service {
    /// Index into the service counters.
    pub id: u32,
    /// The pool of the key's address family; its run may be empty.
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
    /// How a slot is picked: a [`Pick`] as a number.
    pub pick: u32,
}

/// How a slot of a pool is picked for a new flow.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub enum Pick {
    /// By the hash of the five-tuple, the same on every machine.
    Hash = 0,
    /// At random.
    Random = 1,
}

/// A backend of one pool of one service. Its id names it in slots, flows and counters.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub struct Backend {
    /// The address; an IPv4 one takes the first 4 bytes.
    pub address: V6,
    /// The port.
    pub port: Be16,
    /// 0 while the entry is not in use, else [`Backend::LIVE`].
    pub state: u16,
    /// The service it belongs to.
    pub service: u32,
}

impl Backend {
    /// `state` of an entry that may be chosen.
    pub const LIVE: u16 = 1;
}

/// One direction of a flow: what its packets become. 64 bytes for IPv4.
///
/// Both directions have an entry of their own, found by their own five-tuple, so that a packet
/// costs one look-up whichever way it goes.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Flow<A> {
    /// Source address after rewriting.
    pub source: A,
    /// Destination address after rewriting.
    pub destination: A,
    /// Source port after rewriting.
    pub source_port: Be16,
    /// Destination port after rewriting.
    pub destination_port: Be16,
    /// [`flag::REPLY`] and what has been seen so far: the `SEEN_` bits.
    pub flags: u32,
    /// Index into the service counters.
    pub service: u32,
    /// Index into the backends and their counters.
    pub backend: u32,
    /// Monotonic clock at the flow's opening, nanoseconds.
    pub opened: u64,
    /// Monotonic clock at the last packet of this direction, nanoseconds, coarse (one kernel tick).
    pub last_seen: u64,
    /// Packets of this direction.
    pub packets: u64,
    /// IP bytes of this direction.
    pub bytes: u64,
}

/// `flags` of a [`Flow`].
pub mod flag {
    /// The entry is of the direction from the backend to the client.
    pub const REPLY: u32 = 1 << 0;
    /// The client has sent something other than its opening packet.
    pub const SEEN_CLIENT_AGAIN: u32 = 1 << 1;
    /// The backend has answered.
    pub const SEEN_ANSWER: u32 = 1 << 2;
    /// The client has sent a FIN.
    pub const SEEN_CLIENT_FIN: u32 = 1 << 3;
    /// The backend has sent a FIN.
    pub const SEEN_BACKEND_FIN: u32 = 1 << 4;
    /// Either end has sent a RST.
    pub const SEEN_RST: u32 = 1 << 5;
}

impl<A> Flow<A> {
    /// True for the direction from the backend to the client.
    #[inline(always)]
    pub const fn is_reply(&self) -> bool {
        self.flags & flag::REPLY != 0
    }

    /// True once both ends have finished, or either has reset: a SYN opens a new flow then.
    #[inline(always)]
    pub const fn is_closing(&self) -> bool {
        const BOTH: u32 = flag::SEEN_CLIENT_FIN | flag::SEEN_BACKEND_FIN;
        self.flags & BOTH == BOTH || self.flags & flag::SEEN_RST != 0
    }
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
    use crate::key::V4;
    assert!(size_of::<Service>() == 8);
    assert!(size_of::<Pool>() == 16);
    assert!(size_of::<Backend>() == 24);
    assert!(size_of::<Flow<V4>>() == 56);
    assert!(size_of::<Flow<V6>>() == 80);
    assert!(size_of::<Traffic>() == 48);
};

#[cfg(feature = "user")]
mod user {
    use super::{Backend, Flow, Pool, Service, Traffic};

    // SAFETY: `repr(C)` words without padding (sizes asserted above); any bit pattern is a value.
    unsafe impl aya::Pod for Service {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Pool {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Backend {}
    // SAFETY: as above.
    unsafe impl<A: aya::Pod> aya::Pod for Flow<A> {}
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
