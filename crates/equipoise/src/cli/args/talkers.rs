//! Arguments of `top-talkers`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::Watch;
use crate::status::talkers::By;

/// Examples in the help.
pub(super) const EXAMPLES: &str = "\
One source is an IPv4 address, or an IPv6 network of 64 bits. They are counted in memory of a fixed size, so that a count may be
too high where there are very many; then the range in which it is told.

Examples:
  equipoise top-talkers                           who has opened most flows in the last minute or two
  equipoise top-talkers --by live-flows --service web
  equipoise top-talkers --by dropped --for 10s    whose packets are dropped: such are looked at meanwhile, as `trace` does";

/// Arguments of `top-talkers`.
#[derive(Debug, Args)]
pub struct TopTalkers {
    /// Sources of this service alone
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// What they have most of
    #[arg(long, value_enum, value_name = "WHAT", default_value = "new-flows")]
    pub by: Most,
    /// How long dropped packets are looked at [default: 5s]
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub time: Option<Duration>,
    /// So many sources of each service at most [default: 10]
    #[arg(long, value_name = "N")]
    pub limit: Option<u8>,
    /// Once or again and again
    #[command(flatten)]
    pub watch: Watch,
}

/// What sources have most of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Most {
    /// Flows that have opened in the last minute or two
    NewFlows,
    /// Flows in the table now
    LiveFlows,
    /// Packets that are dropped while this looks
    Dropped,
}

impl Most {
    /// What is counted anyway; none for what has to be looked at.
    pub fn counted(self) -> Option<By> {
        match self {
            Self::NewFlows => Some(By::NewFlows),
            Self::LiveFlows => Some(By::LiveFlows),
            Self::Dropped => None,
        }
    }
}
