//! Which sources have most, as data.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::talkers::Talker as Counted;

/// Which sources are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct TalkersRequest {
    /// Those of this service alone.
    pub service: Option<String>,
    /// What they have most of; new flows unless given.
    #[param(inline)]
    pub by: Option<By>,
    /// So many at most of each service; 10 unless given.
    #[param(maximum = 255)]
    pub limit: Option<u8>,
}

impl TalkersRequest {
    /// Sources of each service, unless it is said.
    pub const LIMIT: u8 = 10;
}

/// What sources have most of.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Flows that have opened in the last minute or two.
    #[default]
    NewFlows,
    /// Flows in the table now.
    LiveFlows,
}

/// Packets of which sources are dropped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct DroppedRequest {
    /// Those of this service alone.
    pub service: Option<String>,
    /// How long is looked at; 5 unless given, and an hour at most.
    #[param(exclusive_minimum = 0, maximum = 3600)]
    pub for_seconds: Option<f64>,
    /// So many at most of each service; 10 unless given.
    #[param(maximum = 255)]
    pub limit: Option<u8>,
}

impl DroppedRequest {
    /// How long is looked at, unless it is said.
    pub const SECONDS: f64 = 5.0;
}

/// The sources with most, service by service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TopTalkers {
    /// Over how long it has been counted; none for what is so now.
    pub over_seconds: Option<f64>,
    /// The services that have any, in the order of the configuration.
    pub services: Vec<ServiceTalkers>,
    /// Packets that were dropped and not looked at, since too many came.
    #[serde(default)]
    pub skipped: u64,
}

/// The sources with most of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceTalkers {
    /// Its name; none for packets that were dropped before it was known.
    pub service: Option<String>,
    /// How much all its sources have had.
    pub total: u64,
    /// Those that surely have the most, first.
    pub sources: Vec<Talker>,
}

/// How much a source has had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Talker {
    /// An IPv4 address, or an IPv6 network of 64 bits.
    pub source: String,
    /// Not less than this.
    pub at_least: u64,
    /// Not more than this: the same, unless there are more sources than are told apart.
    pub at_most: u64,
}

impl ServiceTalkers {
    /// The first of them.
    pub fn of(service: Option<String>, total: u64, talkers: &[Counted], limit: u8) -> Self {
        let told = talkers.iter().take(limit.into());
        let sources = told.map(|&Counted { source, at_least, at_most }| Talker {
            source: source.to_string(),
            at_least,
            at_most,
        });
        Self { service, total, sources: sources.collect() }
    }
}
