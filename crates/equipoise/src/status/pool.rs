//! Pools and flows as operators look into them: who gets how much, and flows that are ended by hand.

use std::net::SocketAddr;

use equipoise_core::config::target;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Decimal;

/// A pool, and what its backends get.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PoolShares {
    /// Name of the service.
    pub service: String,
    /// The route that leads to it: `default`, or its first source or name.
    pub route: String,
    /// How a backend is picked.
    pub algorithm: String,
    /// `source-ip` where clients are kept together in place of the algorithm, else nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// Whether health is ignored, because too few backends are healthy.
    pub panic: bool,
    /// Slots of both families.
    pub slots: u64,
    /// When weights that follow live flows were last made anew, RFC 3339; none for other algorithms, and before the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recomputed_at: Option<String>,
    /// Its backends, IPv4 and IPv6 in one list.
    pub backends: Vec<BackendShare>,
}

/// What a backend of a pool gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BackendShare {
    /// Address and port, as the configuration writes them.
    #[serde(with = "target")]
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// The weight that the configuration gives it.
    #[schema(value_type = f64)]
    pub configured_weight: Decimal,
    /// The weight in force.
    pub effective_weight: f64,
    /// Slots that name it.
    pub slots: u32,
    /// Its part of the new flows of its address family by the configured weights, 0 to 1.
    pub configured_share: f64,
    /// So, by the weights in force.
    pub effective_share: f64,
    /// Its part of the live flows of its address family, 0 to 1.
    pub actual_share: f64,
    /// Flows in the table.
    pub live_flows: u64,
}

/// Flows that are to be ended: those that pass all that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct EndRequest {
    /// Name of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The backend's address and port, as the configuration writes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Prefix or address of clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// All flows there are; otherwise, something of the above is needed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Whether both ends of a TCP connection get a RST.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
}

/// What has become of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndAnswer {
    /// Flows that have been ended.
    pub ended: u64,
}
