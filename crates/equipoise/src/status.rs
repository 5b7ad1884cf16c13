//! The answers of the admin API as data: what `status`, `flows` and `config` tell.
//!
//! The driver fills these, the admin API and `--json` write them as they stand, and the commands
//! read them back to show them to people. Field names are the published ones.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use equipoise_core::config::{Ports, target};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::metrics::FlowSummary;

pub mod access_log;
pub mod change;
pub mod explain;
pub mod flow_event;
mod form;
pub mod health;
pub mod history;
pub mod limits;
pub mod load;
pub mod names;
mod number;
mod object;
pub mod operate;
pub mod pool;
pub mod talkers;
pub mod trace;

pub use number::Decimal;
pub(crate) use object::Object;

/// How a running instance is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of the program that runs.
    pub version: String,
    /// Name of the instance.
    pub instance: String,
    /// Its process.
    pub pid: u32,
    /// Since the start.
    pub uptime_seconds: u64,
    /// Whether everything is as the configuration wants it.
    pub state: Health,
    /// Why it is not.
    pub reasons: Vec<String>,
    /// What is right and still good to know.
    pub notes: Vec<String>,
    /// Where packets are only observed: how far who balances them agrees.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub observing: Option<Observing>,
    /// Which configuration runs.
    pub config: ConfigStatus,
    /// The services, in the order of the configuration.
    pub services: Vec<ServiceStatus>,
    /// The interfaces that programs are attached to, by name.
    pub interfaces: Vec<InterfaceStatus>,
    /// The flow table.
    pub flow_table: FlowTable,
    /// How much there is now, and the most that there was.
    #[serde(default)]
    pub load: load::Load,
    /// The log of flows; none where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<access_log::AccessLogStatus>,
    /// Connections that were taken up and came to no backend, by reason, of all services that there have been.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, u64>,
    /// Packets by verdict, over all hooks.
    pub verdicts: BTreeMap<String, u64>,
    /// Packets by hook and verdict; those that are 0 are left out.
    pub hooks: BTreeMap<String, BTreeMap<String, u64>>,
}

/// How far another balancer, beside which this one only observes, decides as this one would: of flows that have closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Observing {
    /// Flows with packets from the backend that this one would have chosen.
    pub agreed: u64,
    /// Flows without: another backend has got them, or none.
    pub other: u64,
}

/// Whether everything is as the configuration wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It is.
    #[default]
    Ok,
    /// Something is not; the reasons say what.
    Degraded,
}

/// Which configuration runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigStatus {
    /// The file; none when it came from flags.
    pub path: Option<String>,
    /// Raised with each configuration taken.
    pub generation: u64,
    /// When it was taken, RFC 3339.
    pub loaded_at: String,
    /// Why the last reload was refused; none when it was taken.
    pub last_error: Option<String>,
    /// Whether the file is watched for changes.
    pub watching: bool,
    /// How long what runs still waits to be confirmed, before what ran before it runs again; none where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within_seconds: Option<f64>,
    /// What operators have changed since, and is otherwise than the file says.
    #[serde(default)]
    pub runtime_changes: Vec<change::RuntimeChange>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub listen: ListenStatus,
    /// Whether new flows find a backend.
    pub state: ServiceState,
    /// What has gone through it.
    #[serde(flatten)]
    pub traffic: Counters,
    /// Connections that were taken up and came to no backend, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, u64>,
    /// Its pools: that of its default route, and one for each route by source.
    pub pools: Vec<PoolStatus>,
}

/// Whether new flows find a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// They do.
    Up,
    /// There is no backend to choose.
    Down,
}

/// Where a service is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListenStatus {
    /// On which interfaces.
    pub interfaces: Vec<String>,
    /// The address that the configuration names; none for the interfaces' own.
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// The addresses as they are now.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// The ports, as the configuration writes them.
    #[schema(value_type = Value)]
    pub port: Ports,
    /// `tcp`, `udp` or `both`.
    pub protocol: String,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PoolStatus {
    /// The route that leads to it: `default`, or its first source or name as the configuration writes it.
    pub route: String,
    /// How a backend is picked.
    pub algorithm: String,
    /// `source-ip` where clients are kept together in place of the algorithm, else nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// Whether health is ignored, because too few backends are healthy.
    pub panic: bool,
    /// Its backends, IPv4 and IPv6 in one list.
    pub backends: Vec<BackendStatus>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BackendStatus {
    /// Address and port, as the configuration writes them.
    #[serde(with = "target")]
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// The names that it comes of, as operators name them: `api.internal:8080`, or the name of SRV records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// The weight that the configuration gives it: its own, or its part of that of a name.
    #[schema(value_type = f64)]
    pub configured_weight: Decimal,
    /// The weight in force; 0 only when it gets no new flow.
    pub effective_weight: f64,
    /// Its part of the new flows of its address family, from 0 to 1.
    pub share: f64,
    /// `none` without checks, else `unknown`, `healthy` or `unhealthy`.
    #[schema(value_type = String)]
    pub health: Cow<'static, str>,
    /// State of its breaker.
    #[schema(value_type = String)]
    pub breaker: Cow<'static, str>,
    /// Whether it is being taken out gently.
    pub draining: bool,
    /// Flows in the table.
    pub live_flows: u64,
    /// What traffic itself says of it.
    #[serde(default)]
    pub passive: PassiveStatus,
    /// What its flows that have closed were like.
    #[serde(default)]
    pub flows: FlowSummary,
    /// What has gone through it.
    #[serde(flatten)]
    pub traffic: Counters,
}

/// What traffic itself says of a backend, without any check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PassiveStatus {
    /// How long it takes to answer a SYN, an average in which what is old weighs less and less; none before it has answered any, and
    /// where its answers do not come by the balancer.
    pub handshake_ms: Option<f64>,
    /// Connections that it has refused with a RST.
    pub refused: u64,
    /// Connections that it has not answered, though the client has asked again.
    pub unanswered: u64,
    /// Connections that it has reset in the middle.
    pub reset: u64,
}

/// Counters that never go down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counters {
    /// Flows opened.
    pub new_flows: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// IP bytes from clients.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// IP bytes to clients.
    pub bytes_out: u64,
    /// New flows that got another source port, since theirs was taken.
    pub ports_changed: u64,
}

/// An interface that programs are attached to, or should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// `xdp`, `tc`, or `none` while nothing is attached.
    pub hook: String,
    /// `native`, `generic`, `tcx`, `clsact`, or `none`.
    pub mode: String,
    /// Why this one.
    pub reason: String,
}

/// The flow table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FlowTable {
    /// Flows that each address family's table holds.
    pub size: u64,
    /// Flows that are still to be carried over to other tables; 0 but after a change of size or layout.
    #[serde(default)]
    pub to_be_carried: u64,
    /// Whether flows are being carried over to tables of another size or layout, or have been and these are about to take their place.
    #[serde(default)]
    pub carrying: bool,
    /// Flows that only one end has confirmed.
    pub opening: u64,
    /// Flows that both ends have confirmed.
    pub established: u64,
    /// Flows that are ending.
    pub closing: u64,
    /// Flows of both families now, exact.
    pub live: u64,
    /// How many more there is room for.
    #[serde(default)]
    pub headroom: load::Headroom,
    /// Bytes of memory that the tables of both families take.
    pub memory_bytes: u64,
    /// Flows that gave way to others: not confirmed, or over.
    pub evicted: u64,
    /// New flows that were refused, for want of room or by a limit.
    pub refused: u64,
    /// What became of flows under pressure, by name.
    pub pressure: BTreeMap<String, u64>,
    /// Flows that have opened and closed, where services have them told.
    pub events: FlowEvents,
}

/// Flow events so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowEvents {
    /// Flows that have opened.
    pub opened: u64,
    /// Flows that have closed, by reason.
    pub closed: BTreeMap<String, u64>,
    /// Events that were lost.
    pub lost: u64,
}

/// A flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The client.
    #[schema(value_type = String)]
    pub client: SocketAddr,
    /// What it connected to.
    #[schema(value_type = String)]
    pub vip: SocketAddr,
    /// Where it goes.
    #[schema(value_type = String)]
    pub backend: SocketAddr,
    /// Name of the service; none when it is no longer configured.
    pub service: Option<String>,
    /// `opening`, `established`, `closing`, `one-way` or `two-way`.
    pub state: String,
    /// Since it was opened.
    pub age_seconds: f64,
    /// Since its last packet.
    pub idle_seconds: f64,
    /// Packets from the client.
    pub packets_in: u64,
    /// IP bytes from the client.
    pub bytes_in: u64,
    /// Packets to the client.
    pub packets_out: u64,
    /// IP bytes to the client.
    pub bytes_out: u64,
}

/// Which flows are asked for; what is absent does not limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FlowFilter {
    /// Name of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The backend's address and port, as the configuration writes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Prefix or address of clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

/// Which flows are asked for, and which part of their list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// Name of the service.
    pub service: Option<String>,
    /// The backend's address and port, as the configuration writes them.
    pub backend: Option<String>,
    /// Prefix or address of clients.
    pub client: Option<String>,
    /// So many at most.
    #[param(maximum = 4_294_967_295_u32)]
    pub limit: Option<u32>,
    /// Without so many at the beginning.
    #[serde(default)]
    #[param(maximum = 4_294_967_295_u32)]
    pub offset: u32,
}

/// The text of a configuration to be compared with what runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// Name of the file, whose ending tells the format.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// What a configuration would change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanAnswer {
    /// Whether the steps lead from what a running instance has; else from nothing.
    pub running: bool,
    /// The steps, in order, as text.
    pub steps: Vec<String>,
    /// What the configuration asks for and cannot be had.
    pub notes: Vec<String>,
    /// The whole desired state as text.
    pub dump: String,
    /// What it does to clients, service by service, where it does anything; nothing without a running instance.
    #[serde(default)]
    pub effect: Vec<ServiceEffect>,
}

/// What another configuration does to the clients of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceEffect {
    /// Its name.
    pub service: String,
    /// `added`, `removed`, `changed`, or `none` where other services alone make a difference to it.
    pub change: String,
    /// Percent of the space of its new flows that go to another backend than before, of the pool where that is most.
    pub moved_percent: f64,
    /// Live flows that would end with a RST: of backends that go, where the service says so.
    pub broken_flows: u64,
    /// The largest packets of clients that get to its backends whole, where that is otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<MtuChange>,
}

/// Bytes of the largest packets that get through whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MtuChange {
    /// Now.
    pub before: u32,
    /// With the other configuration.
    pub after: u32,
}

/// Another binary runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpgradeAnswer {
    /// The process that runs now.
    pub pid: Option<u32>,
    /// Its version.
    pub version: String,
    /// The version of the process before it.
    pub previous_version: String,
    /// Flows that are carried over to its maps, where these have another layout; which goes on for as long as the status says `carrying`.
    #[serde(default)]
    pub to_be_carried: u64,
    /// From the request to the end of the process before.
    pub took_ms: u64,
}

/// What is to run in place of this process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpgradeRequest {
    /// The whole path of a binary.
    #[schema(value_type = String)]
    pub binary: PathBuf,
}

/// How a stop ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StopAnswer {
    /// The process that is ending; none when there was none any more.
    pub pid: Option<u32>,
    /// Everything that was taken away.
    pub stopped: bool,
    /// Name of the instance.
    #[serde(default)]
    pub instance: String,
}
