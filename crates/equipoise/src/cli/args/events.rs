//! Arguments of `events`, and of all that goes on until it is enough.

use std::time::Duration;

use clap::Args;

use super::WhichFlows;

/// Examples in the help.
pub(super) const EXAMPLES: &str = "\
Examples:
  equipoise events --follow                                     what has changed, and what changes
  equipoise events --flows --service web --client 192.0.2.0/24  flows as they open and close
  equipoise events --flows --json --for 10s

Who cannot follow as fast as flows open and close is told how many events it has lost; packets are not held up by that.";

/// When it is enough.
#[derive(Clone, Copy, Debug, Args)]
pub struct Enough {
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this time
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub time: Option<Duration>,
}

/// Arguments of `events`.
#[derive(Debug, Args)]
pub struct Events {
    /// Go on with those that come
    #[arg(short, long)]
    pub follow: bool,
    /// Flows as they open and close from now on, in place of what changes
    #[arg(long)]
    pub flows: bool,
    /// Which flows
    #[command(flatten)]
    pub which: WhichFlows,
    /// When it is enough
    #[command(flatten)]
    pub enough: Enough,
}
