//! Arguments of commands about services and flows.

use clap::{Args, Subcommand, ValueEnum};

use super::Watch;

pub(super) const EXAMPLES: &str = "\
Examples:
  equipoise flows --service web --client 192.0.2.0/24
  equipoise flows --sum-by client        # who has the most
  equipoise flows delete --client 198.51.100.7 --reset";

/// Arguments of `services`.
#[derive(Debug, Args)]
pub struct Services {
    /// This one alone
    pub service: Option<String>,
    /// Once or again and again
    #[command(flatten)]
    pub watch: Watch,
}

/// Which flows are meant.
#[derive(Debug, Args)]
pub struct WhichFlows {
    /// Only flows of this service
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only flows to this backend
    #[arg(long, value_name = "ADDR:PORT")]
    pub backend: Option<String>,
    /// Only flows of clients in this prefix
    #[arg(long, value_name = "PREFIX")]
    pub client: Option<String>,
}

/// What is done with flows.
#[derive(Debug, Subcommand)]
pub enum FlowsAction {
    /// End flows; the next packet of one is then one of no flow, as `on-unknown` of its service says
    Delete {
        /// Which
        #[command(flatten)]
        which: WhichFlows,
        /// All of them
        #[arg(long, conflicts_with_all = ["service", "backend", "client"])]
        all: bool,
        /// Both ends of a TCP connection get a RST
        #[arg(long)]
        reset: bool,
    },
}

/// Arguments of `flows`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Flows {
    /// What to do; without it they are listed
    #[command(subcommand)]
    pub action: Option<FlowsAction>,
    /// Which
    #[command(flatten)]
    pub which: WhichFlows,
    /// How many there are for each, and what they have carried, the most flows first
    #[arg(long, value_enum, value_name = "WHAT")]
    pub sum_by: Option<SumBy>,
    /// Once or again and again
    #[command(flatten)]
    pub watch: Watch,
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
