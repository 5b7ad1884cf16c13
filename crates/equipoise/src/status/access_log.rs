//! The log of flows, as `status` tells of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How the log of flows is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessLogStatus {
    /// The file; none where only standard output gets lines.
    pub path: Option<String>,
    /// Whether standard output gets each line, too.
    pub stdout: bool,
    /// How large the file is now.
    pub size_bytes: Option<u64>,
    /// How large it may grow before it is put aside.
    pub max_size_bytes: Option<u64>,
    /// Files put aside that are kept.
    pub max_files: Option<u32>,
    /// Lines written since the start.
    pub written: Written,
    /// Lines lost since then.
    pub dropped: Dropped,
}

/// Lines by where they went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Written {
    /// Into the file.
    pub file: u64,
    /// To standard output.
    pub stdout: u64,
}

/// Lines by why they are lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dropped {
    /// More flows closed than could be written, and these found no room to wait.
    pub queue: u64,
    /// The file could not be written for too long.
    pub file: u64,
    /// Standard output could not.
    pub stdout: u64,
}
