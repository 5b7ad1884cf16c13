//! What operators do with backends, as data: drains and breakers.

use std::net::{IpAddr, SocketAddr};

use equipoise_core::config::target;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Decimal, form, object};

/// Which backends are meant: one of a service, all of a host, or this balancer itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Name of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Address and port, as the configuration writes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// The pool of this route alone: `default`, or its first source or name; without it, all pools that name the backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Every backend of this address, in every service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = form::host, required = false)]
    pub host: Option<IpAddr>,
    /// This balancer: it is not ready for new flows any more, and those that come are served.
    #[serde(rename = "self", default, skip_serializing_if = "std::ops::Not::not")]
    pub itself: bool,
}

/// A drain that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Of which backends. What they are of is meant at once.
    #[serde(deserialize_with = "object::each")]
    pub backends: Vec<Selection>,
    /// How long flows may take to end, such as `60s`; the setting if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// `keep` or `reset`; the setting if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^(keep|reset)$")]
    pub on_timeout: Option<String>,
    /// Whether a backend gets no new flow even where nobody else can have it.
    #[serde(default)]
    pub force: bool,
    /// Whether the answer waits until all of it is over.
    #[serde(default)]
    pub wait: bool,
}

/// Backends that are to get new flows again: those of a [`Selection`], whose fields are these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct UndrainRequest {
    /// Name of the service.
    #[serde(default)]
    pub service: Option<String>,
    /// Address and port, as the configuration writes them.
    #[serde(default)]
    pub backend: Option<String>,
    /// The pool of this route alone.
    #[serde(default)]
    pub route: Option<String>,
    /// Every backend of this address, in every service.
    #[serde(default)]
    #[param(schema_with = form::host, required = false)]
    pub host: Option<IpAddr>,
    /// This balancer.
    #[serde(rename = "self", default)]
    pub itself: bool,
    /// Whether they get their shares bit by bit, as the service has backends recover.
    #[serde(default)]
    pub gradual: bool,
}

impl UndrainRequest {
    /// What is selected, at once.
    pub fn of(selection: Selection) -> Self {
        let Selection { service, backend, route, host, itself } = selection;
        Self { service, backend, route, host, itself, gradual: false }
    }

    /// Which backends are meant.
    pub fn selection(&self) -> Selection {
        let Self { service, backend, route, host, itself, .. } = self.clone();
        Selection { service, backend, route, host, itself }
    }
}

/// What has become of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrainAnswer {
    /// The drains that were asked for.
    pub drains: Vec<DrainStatus>,
    /// Whether a pool is left without a backend that is in.
    pub last: bool,
    /// What the operator should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// All drains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrainsAnswer {
    /// Whether this balancer itself is drained.
    #[serde(rename = "self")]
    pub itself: bool,
    /// Those of backends.
    pub drains: Vec<DrainStatus>,
}

/// A drain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrainStatus {
    /// Name of the service.
    pub service: String,
    /// The route that leads to the pool: `default`, or its first source or name.
    pub route: String,
    /// Address and port, as the configuration writes them.
    #[serde(with = "target")]
    #[schema(value_type = String)]
    pub backend: SocketAddr,
    /// `draining`, `completed`, `timeout`, `cancelled`, or for who waits, `interrupted`.
    pub status: String,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// Since then.
    pub elapsed_ms: u64,
    /// How long flows may take to end.
    pub timeout_ms: u64,
    /// `keep` or `reset`.
    pub on_timeout: String,
    /// Whether it gets no new flow even where nobody else can have it.
    pub forced: bool,
    /// The weight that the configuration gives it.
    #[schema(value_type = f64)]
    pub configured_weight: Decimal,
    /// Live flows when it began, without those that were over.
    pub initial_flows: u64,
    /// Those that are left.
    pub live_flows: u64,
    /// Flows that are over and only wait for what may still come, for which nobody waits.
    #[serde(default)]
    pub closing_flows: u64,
}

/// A breaker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BreakerStatus {
    /// Name of the service.
    pub service: String,
    /// The route that leads to the pool: `default`, or its first source or name.
    pub route: String,
    /// Address and port, as the configuration writes them.
    #[serde(with = "target")]
    #[schema(value_type = String)]
    pub backend: SocketAddr,
    /// `closed`, `open` or `half-open`.
    pub state: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// Until when, if it is open, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_until: Option<String>,
    /// Good outcomes in the window.
    pub successes: u64,
    /// Bad ones.
    pub failures: u64,
    /// The part of bad ones, 0 to 1.
    pub error_rate: f64,
}

/// A breaker that an operator turns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BreakerRequest {
    /// Name of the service.
    pub service: String,
    /// Address and port, as the configuration writes them.
    pub backend: String,
    /// The pool of this route alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// `open`, `close` or `reset`.
    #[schema(pattern = "^(open|close|reset)$")]
    pub action: String,
}
