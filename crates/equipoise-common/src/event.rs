//! What is told of a flow when it opens and when it closes, through a ring buffer.
//!
//! Fixed size, so that the program reserves and fills it in place. Addresses and ports in network order,
//! times in ticks where nothing else is said, traffic as in [`crate::value::Traffic`].

use crate::key::{Be16, V6};

/// A flow has opened or closed.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Event {
    /// The client; an IPv4 address takes the first 4 bytes, so for all.
    pub client: V6,
    /// What it connected to.
    pub vip: V6,
    /// Where it goes.
    pub backend_address: V6,
    /// The client's port.
    pub client_port: Be16,
    /// The VIP's port.
    pub vip_port: Be16,
    /// The backend's port.
    pub backend_port: Be16,
    /// [`Event::OPENED`] or [`Event::CLOSED`], [`Event::IPV6`], [`Event::BACKEND_IPV6`], [`Event::SENT_AGAIN`].
    pub what: u16,
    /// TCP or UDP, by IANA number.
    pub protocol: u32,
    /// Why it has closed, a [`crate::flow::Reason`] as a number.
    pub why: u32,
    /// Service id.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
    /// From its opening to its last packet, ticks.
    pub duration: u32,
    /// The state before it closed, a [`crate::flow::State`] as a number.
    pub state: u32,
    /// From the client's first packet to the one that has confirmed a connection, moments; 0 where none has.
    pub handshake: u64,
    /// Packets from the client.
    pub packets_in: u64,
    /// IP bytes from the client.
    pub bytes_in: u64,
    /// Packets to the client.
    pub packets_out: u64,
    /// IP bytes to the client.
    pub bytes_out: u64,
}

impl Event {
    /// `what`: the flow has opened.
    pub const OPENED: u16 = 1;
    /// `what`: the flow has closed.
    pub const CLOSED: u16 = 2;
    /// `what`: the client and the VIP are of IPv6.
    pub const IPV6: u16 = 4;
    /// `what`: the backend is of IPv6.
    pub const BACKEND_IPV6: u16 = 8;
    /// `what`: the client has sent its SYN again, and nothing has come of it.
    pub const SENT_AGAIN: u16 = 16;
}

const _: () = assert!(size_of::<Event>() == 120);

#[cfg(feature = "user")]
// SAFETY: `repr(C)` words without padding (size asserted above); any bit pattern is a value.
unsafe impl aya::Pod for Event {}
