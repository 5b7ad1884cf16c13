//! The answers about names that are looked up: what `dns` tells.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A name of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NameStatus {
    /// As the configuration writes it, in lower case.
    pub name: String,
    /// `host` or `srv`.
    pub kind: String,
    /// What it stands for: the last good answer, and what one was not allowed to take away.
    pub addresses: Vec<PlaceStatus>,
    /// Where it is used.
    pub users: Vec<NameUser>,
    /// When it was last answered, RFC 3339; none before the first answer.
    pub last_resolved_at: Option<String>,
    /// How long that answer said that it may be believed.
    pub ttl_seconds: Option<f64>,
    /// From one look-up to the next, where the configuration says; else it is as long as answers say.
    pub refresh_seconds: Option<f64>,
    /// Until the next look-up.
    pub next_lookup_seconds: f64,
    /// Failures in a row since the last answer.
    pub consecutive_failures: u32,
    /// Why the last look-up failed, or what it lacked; none where it did not.
    pub error: Option<NameError>,
}

/// An address that a name stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlaceStatus {
    /// The address, with the port where an SRV record tells one.
    pub address: String,
    /// Its part of the weight of the name, relative to the others of its priority.
    pub weight: u32,
    /// The lowest is chosen first; 0 for those of a host.
    pub priority: u16,
    /// Whether the last answer did not have it, and it stays for now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
}

/// Where a name is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NameUser {
    /// Name of the service.
    pub service: String,
    /// The route that leads to the pool, as `status` tells it.
    pub route: String,
    /// `backend`, or `source` where its addresses are sources of the route.
    pub role: String,
    /// As operators name its backends: the host and the port, or the name of SRV records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// The weight of all its backends together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
}

/// Why a look-up failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NameError {
    /// `unknown-host`, `empty-response`, `timeout`, `server-failure` or `network`.
    pub kind: String,
    /// In words.
    pub message: String,
}

/// How a single look-up went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LookUpAnswer {
    /// What was looked up.
    pub name: String,
    /// `host` or `srv`.
    pub kind: String,
    /// What it stands for.
    pub addresses: Vec<PlaceStatus>,
    /// How long that may be believed, if the answer says.
    pub ttl_seconds: Option<f64>,
    /// Why there is no answer, or what it lacks.
    pub error: Option<NameError>,
}
