//! The answers about the health of backends: what `health` tells.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use equipoise_core::config::target;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Decimal, PassiveStatus};

/// The health of a backend of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BackendHealth {
    /// Name of the service.
    pub service: String,
    /// The route that leads to the pool, as `status` tells it.
    pub route: String,
    /// Address and port, as the configuration writes them.
    #[serde(with = "target")]
    #[schema(value_type = String)]
    pub backend: SocketAddr,
    /// `none` without checks, else `unknown`, `healthy` or `unhealthy`; an operator's word goes before checks.
    #[schema(value_type = String)]
    pub health: Cow<'static, str>,
    /// An operator's word; none where there is none.
    pub manual: Option<ManualHealth>,
    /// What checks say; none without checks.
    pub check: Option<CheckHealth>,
    /// What traffic itself says of it.
    #[serde(default)]
    pub passive: PassiveStatus,
    /// Percent of its share that it has again since it was unhealthy.
    pub recovered: u8,
    /// The weight that the configuration gives it.
    #[schema(value_type = f64)]
    pub configured_weight: Decimal,
    /// The weight in force; 0 only when it gets no new flow.
    pub effective_weight: f64,
}

/// An operator's word about a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ManualHealth {
    /// `up` or `down`.
    pub state: String,
    /// How long it still holds; none for until it is taken back.
    pub remaining_seconds: Option<f64>,
}

/// What checks say of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckHealth {
    /// Type of the check.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind: Cow<'static, str>,
    /// What is asked.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// The VIP there, which is asked as well and decides, where packets get there as they are.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub vip: Option<IpAddr>,
    /// `unknown`, `healthy` or `unhealthy`.
    #[schema(value_type = String)]
    pub verdict: Cow<'static, str>,
    /// Good answers in a row.
    pub successes: u32,
    /// Bad answers in a row.
    pub failures: u32,
    /// Since the last check ended; none before the first.
    pub last_check_seconds: Option<f64>,
    /// How long the last good answer took.
    pub latency_ms: Option<f64>,
    /// Why the last check failed; none where it did not.
    pub error: Option<CheckError>,
}

/// Why a check failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckError {
    /// Of which kind it is, such as `timeout` or `connection-refused`.
    pub kind: String,
    /// In words.
    pub message: String,
    /// What is broken, of a backend that is checked by a VIP: `host-down`, `port-closed`, `vip-or-tunnel` or `application`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// Whose health is asked for; what is absent does not limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct HealthFilter {
    /// Name of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// Which backend is meant: of all pools of the service that name it, unless a route is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendName {
    /// Name of the service.
    pub service: String,
    /// The backend's address and port, as the configuration writes them.
    pub backend: String,
    /// The route that leads to the pool, as `status` tells it.
    pub route: Option<String>,
}

/// Of which route a backend is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct OfRoute {
    /// The route that leads to the pool, as `status` tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
}

/// What an operator says of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthWord {
    /// It is up or down, or what checks say.
    pub state: Word,
    /// For how long; absent for until it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(exclusive_minimum = 0)]
    pub for_seconds: Option<f64>,
    /// The route that leads to the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
}

/// How a backend is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// For healthy.
    Up,
    /// For unhealthy.
    Down,
    /// As checks say.
    Auto,
}

/// How a single check went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProbeAnswer {
    /// Type of the check.
    #[serde(rename = "type")]
    pub kind: String,
    /// What was asked.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// Whether the answer was good.
    pub good: bool,
    /// How long a good answer took.
    pub latency_ms: Option<f64>,
    /// Why it was not good.
    pub error: Option<CheckError>,
}
