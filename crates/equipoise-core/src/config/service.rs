//! A service: where it is reached, what becomes of its packets, and its backends.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{
    Delivery, HealthCheck, Limits, Named, Origin, Ports, Route, as_text, breaker, health, target,
};
use crate::share::Weight;

/// What clients connect to, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Service {
    /// Unique among services.
    pub name: String,
    /// Where it is reached.
    pub listen: Listen,
    /// How a backend is picked for a new flow.
    pub algorithm: Algorithm,
    /// Whether clients are kept together.
    pub affinity: Affinity,
    /// How much of a client's address tells it from others, where they are.
    pub affinity_prefix: AffinityPrefix,
    /// The backends of its pool, both families in one list, in the order of the file.
    pub backends: Vec<Backend>,
    /// Those that are configured by a name.
    pub named: Vec<Arc<Named>>,
    /// Sources that have backends of their own, in the order of the file.
    #[serde(rename = "source-route")]
    pub routes: Vec<Route>,
    /// Server names that have backends of their own, in the order of the file.
    #[serde(rename = "name-route")]
    pub name_routes: Vec<Route>,
    /// How packets get to them.
    #[serde(flatten)]
    pub delivery: Delivery,
    /// Whether the VIP is put on the first listening interface at start and taken away at stop.
    pub manage_address: bool,
    /// How its flows are treated.
    #[serde(flatten)]
    pub policy: Policy,
    /// How a backend that has become healthy gets its share again.
    pub recovery: health::Recovery,
    /// What becomes of a pool of which too few backends are usable.
    pub panic: health::Panic,
    /// When a backend is taken out for its failures; none for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<breaker::Thresholds>,
}

/// How a service treats its flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Policy {
    /// TCP flows of a backend that is down. UDP flows always choose anew.
    pub on_backend_down: OnBackendDown,
    /// TCP flows of a backend that has left the configuration. UDP flows always choose anew.
    pub on_backend_removed: OnBackendRemoved,
    /// TCP packets of no flow that open none.
    pub on_unknown: OnUnknown,
    /// New flows for which there is no backend.
    pub on_empty: OnEmpty,
    /// New flows for which the flow table has no room.
    pub on_full: OnFull,
    /// Fragments of its packets.
    pub fragments: Fragments,
    /// Live flows at most; 0 for no limit of the service's own.
    pub max_flows: u32,
    /// How long flows live without a packet.
    pub timeouts: Timeouts,
    /// Who may open flows, and how many in a second, beside what the settings say.
    pub limits: Limits,
}

/// What becomes of the TCP flows of a backend that is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBackendDown {
    /// They go on.
    #[default]
    Keep,
    /// Both ends get a RST.
    Reset,
    /// Their next packet chooses anew.
    Reselect,
}

/// What becomes of the TCP flows of a backend that has left the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBackendRemoved {
    /// They go on to their end.
    #[default]
    Keep,
    /// Both ends get a RST.
    Reset,
}

/// What becomes of a TCP packet that is of no flow and opens none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnUnknown {
    /// It goes where its hash says.
    #[default]
    Hash,
    /// Its sender gets a RST.
    Reset,
    /// It is dropped.
    Drop,
}

/// What becomes of a new flow for which there is no backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnEmpty {
    /// Its sender gets a RST, or for UDP an ICMP port unreachable.
    #[default]
    Reset,
    /// It is dropped.
    Drop,
    /// It is left to the stack of this host.
    Pass,
}

/// What becomes of a new flow for which the flow table has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFull {
    /// Its packets go where their hash says, without being remembered.
    #[default]
    Hash,
    /// It is dropped.
    Drop,
}

/// What becomes of fragments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fragments {
    /// They follow the first of their packet; those that come before it are dropped.
    #[default]
    Track,
    /// New flows choose by addresses alone, so that any fragment finds its way.
    Hash,
    /// They are dropped.
    Drop,
}

/// How long flows live without a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Timeouts {
    /// TCP, until the client has acknowledged the backend's SYN.
    #[serde(serialize_with = "as_text")]
    pub tcp_opening: Duration,
    /// TCP, from then on.
    #[serde(serialize_with = "as_text")]
    pub tcp_established: Duration,
    /// TCP, after both ends have finished or one has reset.
    #[serde(serialize_with = "as_text")]
    pub tcp_closing: Duration,
    /// UDP, until the client has sent again after an answer.
    #[serde(serialize_with = "as_text")]
    pub udp_one_way: Duration,
    /// UDP, from then on.
    #[serde(serialize_with = "as_text")]
    pub udp_two_way: Duration,
    /// Whether both ends of an established TCP flow get a RST when it has been idle for too long.
    pub reset_on_expiry: bool,
}

impl Default for Timeouts {
    fn default() -> Self {
        const MINUTE: u64 = 60;
        Self {
            tcp_opening: Duration::from_secs(10),
            // Over the 2 h of TCP keep-alive, and RFC 5382's 2 h 4 min.
            tcp_established: Duration::from_secs(125 * MINUTE),
            tcp_closing: Duration::from_secs(30),
            udp_one_way: Duration::from_secs(30),
            udp_two_way: Duration::from_secs(2 * MINUTE),
            reset_on_expiry: false,
        }
    }
}

/// Where a service is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Listen {
    /// Names of interfaces, without repetition; at least one.
    pub interfaces: Vec<String>,
    /// The VIP; absent for the interfaces' own addresses, which are followed as they change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The ports.
    pub port: Ports,
    /// Which protocols are balanced.
    pub protocol: Protocol,
}

/// Protocols of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP alone.
    Tcp,
    /// UDP alone.
    Udp,
    /// Both, each with flows of its own.
    Both,
}

/// How a slot of the pool is picked for a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// By the hash of the five-tuple; the same on every machine with the same configuration.
    Maglev,
    /// At random.
    Random,
    /// One after the other, on each CPU.
    RoundRobin,
    /// Of two at random the one with fewer live flows for its weight.
    LeastConnections,
    /// At random, by weights that are computed anew from live flows again and again.
    LeastConnectionsWeights,
}

/// Whether clients are kept together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Affinity {
    /// They are not: each flow is picked a backend for.
    #[default]
    None,
    /// All flows of a source go to one backend, picked by its hash; the algorithm is not used.
    SourceIp,
}

/// Bits of a source address that tell a client from others; at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AffinityPrefix {
    /// Of an IPv4 address.
    pub v4: u8,
    /// Of an IPv6 address.
    pub v6: u8,
}

impl Default for AffinityPrefix {
    fn default() -> Self {
        Self { v4: 32, v6: 128 }
    }
}

/// Where packets go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Backend {
    /// Address and port; written in JSON and in commands as in the file. Port 0 for the one that the client has sent to.
    #[serde(serialize_with = "target::serialize")]
    pub address: SocketAddr,
    /// Configured weight; 0 keeps flows and gets no new ones.
    pub weight: u16,
    /// Live flows at most; 0 for no limit.
    pub max_flows: u32,
    /// When it is chosen.
    pub role: Role,
    /// What it is told before the first byte of a connection; none for nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How it is checked; none where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<Arc<HealthCheck>>,
    /// Among those of its role, those of the lowest rank are chosen while enough of them are usable.
    #[serde(skip)]
    pub rank: u16,
    /// The names that it comes of; none where it is the file that has its address, and no name stands for it.
    #[serde(skip)]
    pub origin: Option<Arc<Origin>>,
}

impl Backend {
    /// The weight that the configuration gives it: its own, or its part of that of a name.
    pub fn share(&self) -> Weight {
        self.origin.as_ref().map_or(Weight::configured(self.weight), |origin| origin.weight)
    }

    /// The names that it comes of.
    pub fn names(&self) -> impl Iterator<Item = &Arc<Named>> {
        self.origin.iter().flat_map(|origin| &origin.names)
    }
}

/// How a backend is told who has connected: haproxy.org, `doc/proxy-protocol.txt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyProtocol {
    /// By the binary header.
    V2,
}

/// When a backend is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// As long as it is usable.
    #[default]
    Regular,
    /// When too few regular ones are usable.
    Backup,
    /// When the pool panics, and the others are not to be chosen then.
    Fallback,
}
