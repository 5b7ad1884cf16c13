//! How much there is now, and the most that there was, as data.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How much there is now, and the most that there was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Load {
    /// Since when the most is looked for, RFC 3339: a restart or an upgrade that takes over the counters goes on with it.
    pub since: String,
    /// Flows in the tables.
    pub live_flows: Level,
    /// Flows that open in a second.
    pub new_flows_per_second: Level,
    /// Packets in a second, of both directions.
    pub packets_per_second: Level,
    /// IP bytes in a second, of both directions.
    pub bytes_per_second: Level,
    /// The services, in the order of the configuration.
    pub services: Vec<ServiceLoad>,
}

/// How much there is of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceLoad {
    /// Its name.
    pub name: String,
    /// Its flows, and connections that are taken up.
    pub live_flows: Level,
}

/// How much there is of something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Level {
    /// Now; what is counted by the second: in the last second or so.
    pub now: u64,
    /// The most that there was.
    pub peak: u64,
    /// When that was, RFC 3339; none where there was never any.
    pub peak_at: Option<String>,
}

/// How many more flows the tables hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Headroom {
    /// That of IPv4.
    pub ipv4: Room,
    /// That of IPv6.
    pub ipv6: Room,
}

/// How many more flows a table holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Room {
    /// So many.
    pub free: u64,
    /// Of all that it holds, in percent.
    pub percent: f64,
}

impl Room {
    /// Of a table that holds so many flows, and has so many.
    pub(crate) fn of(size: u64, live: u64) -> Self {
        let free = size.saturating_sub(live);
        Self { free, percent: 100.0 * free as f64 / size.max(1) as f64 }
    }
}
