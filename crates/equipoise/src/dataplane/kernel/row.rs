//! What the flow tables answer: flows as rows, how full they are, and what a sweep or a copy has done.

use std::net::SocketAddr;
use std::time::Duration;

use equipoise_common::event::Event;

/// One flow, as `flows` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRow {
    /// TCP or UDP, by IANA number.
    pub protocol: u32,
    /// The client.
    pub client: SocketAddr,
    /// What it connected to.
    pub vip: SocketAddr,
    /// Where it goes.
    pub backend_address: SocketAddr,
    /// Service id.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
    /// `opening`, `established`, `closing`, `one-way`, `two-way`.
    pub state: &'static str,
    /// Since it was opened.
    pub age: Duration,
    /// Since its last packet in either direction.
    pub idle: Duration,
    /// Packets and IP bytes from the client, packets and IP bytes to it.
    pub traffic: [u64; 4],
}

/// What a sweep over the flow tables has done.
#[derive(Debug, Default)]
pub struct Expiry {
    /// Flows that were past their time.
    pub ended: u64,
    /// Flows closed because their backend has gone.
    pub closed: u64,
    /// Flows ended because their clients are denied, or by hand.
    pub cut: u64,
    /// Flows whose ends get a RST.
    pub resets: Vec<Ties>,
    /// What there is to tell, where services want it told.
    pub events: Vec<Event>,
}

impl Expiry {
    /// Takes in what another part of it has done.
    pub(super) fn add(&mut self, mut other: Self) {
        self.ended += other.ended;
        self.closed += other.closed;
        self.cut += other.cut;
        self.resets.append(&mut other.resets);
        self.events.append(&mut other.events);
    }
}

/// What the ends of a flow hear when it is ended by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// Nothing: the next packet is one of no flow.
    Silent,
    /// A RST, both of them, where it is a TCP connection.
    Reset,
}

/// Both ends of a TCP flow, as a RST to either needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ties {
    /// The client.
    pub client: SocketAddr,
    /// What it is connected to.
    pub vip: SocketAddr,
    /// The client as the backend sees it.
    pub client_at_backend: SocketAddr,
    /// The backend.
    pub backend: SocketAddr,
    /// The next sequence number of the client.
    pub client_sent: u32,
    /// The next sequence number of the backend.
    pub backend_sent: u32,
    /// Whether packets get to the backend as they are, which a RST of this host's own cannot.
    pub is_one_sided: bool,
}

/// How full the flow tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Live flows, both families.
    pub live: u64,
    /// Those that are confirmed.
    pub confirmed: u64,
    /// Bytes of memory of all tables.
    pub memory: u64,
    /// Live flows that are still to be carried over to other tables.
    pub to_be_carried: u64,
    /// Whether other tables are about to take the place of these, with all flows.
    pub is_carrying: bool,
    /// Live flows, of IPv4 and of IPv6.
    pub by_family: [u64; 2],
}

/// How many flows have been copied into other tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Flows that were not there before.
    pub copied: u64,
    /// Flows for which there was no room, or whose name at their backend was taken.
    pub refused: u64,
}

/// How much of the flow tables a sweep goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    All,
    /// The next part of so many.
    OneOf(u32),
}
