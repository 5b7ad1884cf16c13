//! Arguments of commands about services and flows.

use clap::{Args, ValueEnum};

pub(super) const EXAMPLES: &str = "\
Examples:
  equipoise flows --service web --client 192.0.2.0/24
  equipoise flows --sum-by client        # who has the most";

/// Arguments of `services`.
#[derive(Debug, Args)]
pub struct Services {
    /// This one alone
    pub service: Option<String>,
}

/// Arguments of `flows`.
#[derive(Debug, Args)]
pub struct Flows {
    /// Only flows of this service
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only flows to this backend
    #[arg(long, value_name = "ADDR:PORT")]
    pub backend: Option<String>,
    /// Only flows of clients in this prefix
    #[arg(long, value_name = "PREFIX")]
    pub client: Option<String>,
    /// How many there are for each, and what they have carried, the most flows first
    #[arg(long, value_enum, value_name = "WHAT")]
    pub sum_by: Option<SumBy>,
}

/// What flows are summed up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SumBy {
    /// Addresses of clients
    Client,
    /// Backends
    Backend,
    /// TCP and UDP
    Protocol,
}
