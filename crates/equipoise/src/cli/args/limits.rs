//! Arguments of `limits`, `deny` and `pool`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use equipoise_core::config::RateOf;

use super::Watch;

/// What `limits --help` ends with.
pub(super) const LIMITS: &str = "\
A token is one new flow. What is changed so holds over reloads and restarts as long as the file says something else, and is
dropped by `equipoise reload --reset`.

Examples:
  equipoise limits set web per-source 100 --burst 200
  equipoise limits clear web per-source       no limit of that kind, whatever the file says";

/// What `deny --help` ends with.
pub(super) const DENY: &str = "\
Established flows of denied clients end at once. Where lists of allowed and denied prefixes meet, the longest prefix decides.

Examples:
  equipoise deny add 198.51.100.0/24 --for 1h
  equipoise deny add 2001:db8::/32 --service web
  equipoise deny remove 198.51.100.0/24";

/// Arguments of `limits`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Limits {
    /// What to do; without it they are shown
    #[command(subcommand)]
    pub action: Option<LimitsAction>,
    /// Only those of this service
    pub service: Option<String>,
    /// Once or again and again
    #[command(flatten)]
    pub watch: Watch,
}

/// What is done with a limit.
#[derive(Debug, Subcommand)]
pub enum LimitsAction {
    /// Give a service another rate
    Set {
        /// Name of the service
        service: String,
        /// What the rate is of
        of: Of,
        /// New flows in a second
        rate: u32,
        /// New flows at once [default: twice the rate]
        #[arg(long, value_name = "N")]
        burst: Option<u32>,
    },
    /// Have a service know no such limit
    Clear {
        /// Name of the service
        service: String,
        /// What the rate is of [default: both]
        of: Option<Of>,
    },
}

/// What a rate is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Of {
    /// Each source
    PerSource,
    /// Each backend
    PerBackend,
}

impl From<Of> for RateOf {
    fn from(of: Of) -> Self {
        match of {
            Of::PerSource => Self::PerSource,
            Of::PerBackend => Self::PerBackend,
        }
    }
}

/// Arguments of `deny`.
#[derive(Debug, Args)]
pub struct Deny {
    /// What to do
    #[command(subcommand)]
    pub action: DenyAction,
}

/// What is done about denied clients.
#[derive(Debug, Subcommand)]
pub enum DenyAction {
    /// Let nobody of a prefix in, and end their flows
    Add {
        /// A prefix or an address
        prefix: String,
        /// At this service alone [default: at all]
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// How long [default: until it is taken back]
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
        duration: Option<Duration>,
    },
    /// Let them in again
    Remove {
        /// A prefix or an address, as it was added
        prefix: String,
        /// At this service alone, where it was added so
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
    },
    /// Show what has been denied since the file was read
    List,
}

/// Arguments of `pool`.
#[derive(Debug, Args)]
pub struct Pool {
    /// Name of the service
    pub service: String,
    /// The pool of this route alone: `default`, or its first source or name
    #[arg(long, value_name = "ROUTE")]
    pub route: Option<String>,
    /// Make weights that follow live flows anew first
    #[arg(long, conflicts_with = "watch")]
    pub recompute: bool,
    /// Once or again and again
    #[command(flatten)]
    pub watch: Watch,
}
