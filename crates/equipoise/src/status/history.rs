//! What has become of configurations, as data: what `history` and `confirm` tell.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::change::ReloadResult;

/// A configuration that was taken, or was to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HistoryEntry {
    /// When, RFC 3339.
    pub at: String,
    /// Who.
    pub by: Author,
    /// What was asked for, in words.
    pub what: String,
    /// How it ended.
    pub result: ReloadResult,
    /// The configuration that ran then.
    pub generation: u64,
    /// Why it was not taken; none where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What is otherwise by it.
    pub changes: Vec<Difference>,
    /// How many more there are than are told.
    #[serde(default)]
    pub more: usize,
}

/// Who has changed a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Author {
    /// Whoever has written the file.
    File,
    /// Whoever has sent a signal.
    Signal,
    /// A user of this host, through the socket.
    User {
        /// Its number.
        uid: u32,
    },
    /// Whoever has a key of the admin API.
    Key {
        /// The name of the key.
        name: String,
    },
    /// Whoever is at an address of this host's, where the admin API asks for no key.
    Address {
        /// Which.
        #[schema(value_type = String)]
        address: IpAddr,
    },
    /// Nobody: a time was up.
    Deadline,
}

/// Something that is otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// Where; services by their names, backends by their addresses.
    pub key: String,
    /// What was there; none for what is new.
    pub before: Option<Value>,
    /// What is there; none for what is gone.
    pub after: Option<Value>,
}

/// A configuration that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfirmAnswer {
    /// Which.
    pub generation: u64,
}
