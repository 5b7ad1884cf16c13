//! Limits and denied prefixes, as data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::number;

/// The limits in force, and what they have refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitsAnswer {
    /// Of each service.
    pub services: Vec<ServiceLimits>,
    /// Packets, and connections taken up, that limits and lists have refused, at all services together, by verdict.
    pub refused: BTreeMap<String, u64>,
}

/// The limits of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceLimits {
    /// Its name.
    pub service: String,
    /// New flows of each source; none without a limit.
    pub per_source: Option<SourceRate>,
    /// New flows of each backend; none without a limit.
    pub per_backend: Option<Rate>,
    /// Prefixes that are allowed: its own, and those of all services.
    pub allowed: usize,
    /// So, those that are denied.
    pub denied: usize,
    /// Which of the rates have been changed since the file was read: `per-source`, `per-backend`.
    pub changed: Vec<String>,
}

/// How many new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rate {
    /// In a second.
    pub rate: u32,
    /// At once.
    pub burst: u32,
}

/// How many new flows of a source, and what one source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SourceRate {
    /// How many.
    #[serde(flatten)]
    pub rate: Rate,
    /// IPv4 addresses with so many first bits in common are one source.
    pub prefix_v4: u8,
    /// So, IPv6 addresses.
    pub prefix_v6: u8,
}

/// Another rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RateRequest {
    /// New flows in a second; 0 for no limit.
    #[serde(deserialize_with = "number::whole")]
    #[schema(maximum = 4_294_967_295_u32)]
    pub rate: u32,
    /// New flows at once; twice the rate if absent.
    #[serde(
        default,
        deserialize_with = "number::whole_if_any",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(maximum = 4_294_967_295_u32)]
    pub burst: Option<u32>,
}

/// Clients that are not to be let in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DenyRequest {
    /// At this service alone; at all of them if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// How long; for good if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(exclusive_minimum = 0)]
    pub for_seconds: Option<f64>,
}

/// A service, where one is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct OfService {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// A prefix that is denied since the file was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Denied {
    /// Which clients.
    pub prefix: String,
    /// At which service; at all of them if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Until when, RFC 3339; none for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// How long that is from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_seconds: Option<f64>,
}
