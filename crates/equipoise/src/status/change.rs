//! Configurations taken while running, as data: reloads, and what operators have changed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::number;
use crate::admin::problem::ConfigError;

/// A configuration that is to be taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// The file by its whole path, which is the instance's from then on; the one that it has if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Whether changes made while running are dropped.
    #[serde(default)]
    pub reset: bool,
    /// Within how long it is to be confirmed; otherwise, what ran before runs again then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(exclusive_minimum = 0)]
    pub confirm_seconds: Option<f64>,
}

/// What became of a configuration that was to be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReloadAnswer {
    /// How it ended.
    pub result: ReloadResult,
    /// The configuration that runs now.
    pub generation: u64,
    /// Steps that it took in the maps.
    pub steps: u64,
    /// Services that are otherwise.
    pub services: ServiceChanges,
    /// What is wrong with it.
    pub errors: Vec<ConfigError>,
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReloadResult {
    /// It runs.
    Applied,
    /// It is what runs already.
    Unchanged,
    /// It is wrong; nothing has changed.
    Rejected,
    /// It could not be applied, and what ran before runs again.
    RolledBack,
}

/// Services by what has become of them, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceChanges {
    /// New ones.
    pub added: Vec<String>,
    /// Those that are there no more.
    pub removed: Vec<String>,
    /// Those that have stayed, and in which something is otherwise.
    pub changed: Vec<String>,
}

/// A backend that is to be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddRequest {
    /// Address and port, as a configuration writes them.
    pub address: String,
    /// Its weight.
    #[serde(default = "one", deserialize_with = "number::whole")]
    #[schema(maximum = 65535)]
    pub weight: u16,
    /// The pool of this route; that for clients without a route if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Live flows at most; 0 for no limit.
    #[serde(default, deserialize_with = "number::whole")]
    #[schema(maximum = 4_294_967_295_u32)]
    pub max_flows: u32,
    /// Whether it is chosen only when no other is usable.
    #[serde(default)]
    pub backup: bool,
}

fn one() -> u16 {
    1
}

/// What is to be otherwise about a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightRequest {
    /// Its weight.
    #[serde(deserialize_with = "number::whole")]
    #[schema(maximum = 65535)]
    pub weight: u16,
    /// In the pool of this route alone; in all pools that name it if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
}

/// A change made while running that the file does not have: of a backend, of a rate, or a prefix that is denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RuntimeChange {
    /// Name of the service; none for a prefix that is denied at all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The route that leads to the pool of a backend: `default`, or its first source or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Address and port of a backend, as a configuration writes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// `service-given` or `service-removed` for a service; `weight`, `added` or `removed` for a backend; `per-source` or `per-backend` for a rate; `denied`.
    pub change: String,
    /// The weight that a backend has by that; none for one that is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// New flows in a second; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// New flows at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Clients that are denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Until when, RFC 3339; none for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}
