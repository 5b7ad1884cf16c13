//! The checked configuration: what the rest of the program may rely on.
//!
//! [`parse`] turns the text of a file into a [`Config`] or into *all* of its problems, each with
//! its place. A `Config` in hand is valid in itself; whether this machine can serve it is asked
//! later, with facts. Knows nothing of files, of the machine or of the data plane.

pub mod admin;
pub mod breaker;
pub mod changes;
mod check;
mod convert;
mod delivery;
mod file;
mod flags;
pub mod health;
pub mod import;
mod limits;
pub mod log;
mod metrics;
mod name;
pub mod otlp;
mod parts;
mod path;
mod ports;
mod problem;
mod route;
mod schema;
mod texts;
mod variables;
mod write;
mod written;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use equipoise_common::limit;
use serde::{Serialize, Serializer};

use crate::share::Weight;

pub use admin::Admin;
pub use changes::{
    Change, Changes, Denial, NewBackend, RateChange, RateKey, RateOf, ServiceChange,
};
pub use check::{keys, nearest::nearest};
pub use convert::{Converted, Ignored, convert, from_json, write};
pub use delivery::{Delivery, Mode, MssClamp};
pub use file::Format;
pub use file::edn::keys as edn_keys;
pub use flags::{flags_text, from_flags};
pub use health::HealthCheck;
pub use limits::{Limits, List, NotAPrefix, Prefix, RateLimit, Rates, SourceLimit, SourcePrefix};
pub use log::{AccessLog, Log};
pub use metrics::Metrics;
pub use name::{Dns, Name, Named, OnFirstFailure, Origin};
pub use otlp::Otlp;
pub use ports::{Ports, target};
pub use problem::{Places, Problem, problem_at};
pub use route::{Pool, Route};
pub use schema::schema;
pub use texts::Included;
pub use variables::Variables;
pub use written::written;

/// A configuration that passed, and what is worth a warning.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// What works less than it seems to, in the order of the text.
    pub notes: Vec<Problem>,
    /// What the text says and nobody listens to: keys that are unknown or not served, where the format lets them be. In the
    /// order of the text.
    pub ignored: Vec<Problem>,
}

/// Reads a file that a configuration names; answers with why it cannot, in words.
pub type ReadFile<'a> = dyn Fn(&Path) -> Result<String, String> + 'a;

/// Lists the names in a directory; answers with why it cannot, in words.
pub type ReadNames<'a> = dyn Fn(&Path) -> Result<Vec<String>, String> + 'a;

/// What a configuration may ask of the machine that it is read on.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    /// Files that it includes, and files of prefixes.
    pub files: &'a ReadFile<'a>,
    /// Names in directories that it includes files of.
    pub names: &'a ReadNames<'a>,
    /// Environment variables in its texts.
    pub variables: &'a Variables<'a>,
    /// Whether who hears what is wrong may read the files as well. Otherwise, nothing is told that looks like no prefix: what is no
    /// list at all may hold secrets.
    pub tells_files: bool,
}

impl<'a> Around<'a> {
    /// There are files, and nothing else.
    pub fn files(files: &'a ReadFile<'a>) -> Self {
        Self { files, names: &no_names, variables: &no_variables, tells_files: true }
    }
}

/// Reads and checks the text of a file, whose kind is the extension of its name, and which asks for nothing around it.
///
/// On failure: all that is wrong, in the order of the text; never nothing.
pub fn parse(name: &str, text: &str) -> Result<Checked, Vec<Problem>> {
    parse_with(name, text, &Around::files(&no_files))
}

/// As [`parse`], of a text that may include files, name others and have variables.
pub fn parse_with(name: &str, text: &str, around: &Around<'_>) -> Result<Checked, Vec<Problem>> {
    parse_changed((name, text), around, &Changes::default()).map(|changed| changed.checked)
}

/// A configuration with the changes that have been made since it was written.
#[derive(Clone, Debug)]
pub struct Changed {
    /// With the changes.
    pub checked: Checked,
    /// Those that hold: the file says something else, and has what they are about.
    pub changes: Changes,
}

/// As [`parse_with`], with changes laid over what the text says.
pub fn parse_changed(
    (name, text): (&str, &str),
    around: &Around<'_>,
    changes: &Changes,
) -> Result<Changed, Vec<Problem>> {
    check_parts(parts::read(name, text, around), around, changes)
}

/// Checks what was read.
fn check_parts(
    whole: parts::Whole,
    around: &Around<'_>,
    changes: &Changes,
) -> Result<Changed, Vec<Problem>> {
    let parts::Whole { texts, root, mut faults, mut ignored } = whole;
    let Some(mut root) = root else {
        problem::settle(&texts, &mut faults);
        return Err(faults);
    };
    variables::expand(&mut root, "", around.variables, &mut faults);
    let changes = changes.lay_over(&mut root);
    let check::Verdict { config, problems, mut notes } = check::check(&texts, &root, around);
    if let (Some(config), []) = (config, faults.as_slice()) {
        problem::settle(&texts, &mut notes);
        problem::settle(&texts, &mut ignored);
        return Ok(Changed { checked: Checked { config, notes, ignored }, changes });
    }
    problem::arrange(&texts, &mut faults);
    // What stands where the text itself is at fault was not meant as it was read.
    let meant = |problem: &Problem| !problem::any_meets(&faults, problem);
    let meant: Vec<_> = problems.into_iter().filter(meant).collect();
    faults.extend(meant);
    problem::settle(&texts, &mut faults);
    Err(faults)
}

/// For texts that name no files.
fn no_files(_: &Path) -> Result<String, String> {
    Err("files are not read here".to_owned())
}

/// For texts that include none.
fn no_names(_: &Path) -> Result<Vec<String>, String> {
    Err("directories are not read here".to_owned())
}

/// For texts without variables.
fn no_variables(_: &str) -> Option<String> {
    None
}

/// A whole, valid configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Config {
    /// The services, in the order of the file; at least one.
    pub services: Vec<Service>,
    /// Everything that is not of one service.
    pub settings: Settings,
    /// Where each key stands in the text.
    #[serde(skip)]
    pub places: Places,
}

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

/// Durations are written as they are read.
fn as_text<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
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

/// Everything that is not of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// Which hook the programs take, per interface.
    pub attach: Attach,
    /// On which interfaces replies are awaited.
    pub backend_interfaces: BackendInterfaces,
    /// Flows that the flow table holds.
    pub max_flows: u32,
    /// What becomes of the data plane when the process ends.
    pub on_exit: OnExit,
    /// Whether flows that open and close are told.
    pub events: bool,
    /// Who may open flows, and how many in a second, for all services.
    pub limits: Limits,
    /// How weights follow live flows.
    pub least_connections: LeastConnections,
    /// Whether commands are run as health checks.
    pub exec_checks: bool,
    /// Whether packets are decided about and counted, and go on as they have come.
    pub observe: bool,
    /// When a backend is taken out for its failures, where its service does not say; none for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<breaker::Thresholds>,
    /// How drains go where nothing else is asked for.
    pub drain: breaker::Draining,
    /// How names are looked up.
    pub dns: Dns,
    /// Where metrics are to be had; none for nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// Where metrics are pushed to; none for nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<Otlp>,
    /// Where the admin API is to be had beside its socket; none for nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<Admin>,
    /// Where flows that have closed are written; none for nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    /// How what happens is logged.
    pub log: Log,
}

/// How the weights of `least-connections-weights` follow live flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LeastConnections {
    /// How often they are computed anew.
    #[serde(serialize_with = "as_text")]
    pub update_interval: Duration,
    /// Whether configured weights count, too.
    pub weighted: bool,
}

impl Default for LeastConnections {
    fn default() -> Self {
        Self { update_interval: Duration::from_secs(1), weighted: true }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            attach: Attach::default(),
            backend_interfaces: BackendInterfaces::Auto,
            max_flows: limit::FLOWS,
            on_exit: OnExit::Detach,
            events: true,
            limits: Limits::default(),
            least_connections: LeastConnections::default(),
            exec_checks: false,
            observe: false,
            breaker: None,
            drain: breaker::Draining::default(),
            dns: Dns::default(),
            metrics: None,
            otlp: None,
            admin: None,
            access_log: None,
            log: Log::default(),
        }
    }
}

/// Which hook the programs take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Attach {
    /// For interfaces without an entry of their own.
    pub default: AttachMode,
    /// For these interfaces.
    pub interfaces: BTreeMap<String, AttachMode>,
}

impl Default for Attach {
    fn default() -> Self {
        Self { default: AttachMode::Auto, interfaces: BTreeMap::new() }
    }
}

impl Settings {
    /// The mode of an interface: where packets go on as they have come, one place must see them all.
    pub fn attach_mode(&self, interface: &str) -> AttachMode {
        if self.observe { AttachMode::Tc } else { self.attach.mode(interface) }
    }
}

impl Attach {
    /// The mode asked for on an interface.
    pub fn mode(&self, interface: &str) -> AttachMode {
        self.interfaces.get(interface).copied().unwrap_or(self.default)
    }
}

/// A way to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachMode {
    /// What suits the device.
    Auto,
    /// XDP in the driver.
    Xdp,
    /// XDP in the stack.
    XdpGeneric,
    /// TC ingress.
    Tc,
}

/// On which interfaces replies are awaited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendInterfaces {
    /// Those that routes to the backends lead to, followed as they change.
    Auto,
    /// These.
    Named(Vec<String>),
}

/// What becomes of the data plane when the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnExit {
    /// Programs are detached and everything of ours is removed.
    Detach,
    /// Programs and maps stay pinned; packets flow on.
    Keep,
}
