//! What is not of one service.

use std::collections::BTreeMap;
use std::time::Duration;

use equipoise_common::limit;
use serde::Serialize;

use super::{AccessLog, Admin, Dns, Limits, Log, Metrics, Otlp, as_text, breaker};

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
