//! Arguments of `drain`, `undrain` and `breaker`.

use std::net::IpAddr;

use clap::{Args, Subcommand};

use super::Watch;

/// What `drain --help` ends with.
pub(super) const EXAMPLES: &str = "\
Examples:
  equipoise drain web 10.0.0.1:8080 --wait          take a backend out before a deploy, and wait until it is idle
  equipoise drain --host 10.0.0.1 --timeout 5m      every backend of a machine
  equipoise drain --self                            this balancer, before a fail-over: its flows go on
  equipoise undrain web 10.0.0.1:8080";

/// Which backends are meant, but for their addresses.
#[derive(Debug, Args)]
pub struct Which {
    /// The service
    #[arg(required_unless_present_any = ["host", "itself"])]
    pub service: Option<String>,
    /// In the pool of this route alone: `default`, or its first source or name
    #[arg(long, value_name = "ROUTE", requires = "service")]
    pub route: Option<String>,
    /// Every backend of this address, in every service
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["service", "itself"])]
    pub host: Option<IpAddr>,
    /// This balancer: whether it is ready, while its flows go on
    #[arg(long = "self", conflicts_with_all = ["service", "host"])]
    pub itself: bool,
}

/// Arguments of `drain`.
#[derive(Debug, Args)]
pub struct Drain {
    /// Which
    #[command(flatten)]
    pub which: Which,
    /// Its backends, as the configuration writes them
    #[arg(value_name = "BACKEND", requires = "service", required_unless_present_any = ["host", "itself"])]
    pub backends: Vec<String>,
    /// How long flows may take to end [default: settings.drain.timeout]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<String>,
    /// What becomes of flows that are left then: keep or reset [default: settings.drain.on-timeout]
    #[arg(long, value_name = "POLICY", value_parser = ["keep", "reset"])]
    pub on_timeout: Option<String>,
    /// Answer when the last flow has ended, or the time is up
    #[arg(long)]
    pub wait: bool,
    /// No new flow even where no other backend is left
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `undrain`.
#[derive(Debug, Args)]
pub struct Undrain {
    /// Which
    #[command(flatten)]
    pub which: Which,
    /// The backend, as the configuration writes it
    #[arg(requires = "service", required_unless_present_any = ["host", "itself"])]
    pub backend: Option<String>,
    /// Give it its share bit by bit, as `recovery` of its pool says
    #[arg(long)]
    pub gradual: bool,
}

/// Arguments of `drains`.
#[derive(Debug, Args)]
pub struct Drains {
    /// Once or again and again
    #[command(flatten)]
    pub watch: Watch,
}

/// Arguments of `breaker`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Breaker {
    /// What to do with one; without it they are shown
    #[command(subcommand)]
    pub turn: Option<Turn>,
    /// Only those of this service
    pub service: Option<String>,
    /// Once or again and again
    #[command(flatten)]
    pub watch: Watch,
}

/// What to do with a breaker.
#[derive(Debug, Subcommand)]
pub enum Turn {
    /// Open it: the backend gets no new flows for a while
    Open(Turned),
    /// Close it: the backend gets its share again
    Close(Turned),
    /// Close it, and forget what has been counted
    Reset(Turned),
}

/// Which breaker is turned.
#[derive(Debug, Args)]
pub struct Turned {
    /// The service
    pub service: String,
    /// The backend, as the configuration writes it
    pub backend: String,
    /// In the pool of this route alone: `default`, or its first source or name
    #[arg(long, value_name = "ROUTE")]
    pub route: Option<String>,
}

/// A time such as `60s`, as it was written.
fn duration(text: &str) -> Result<String, String> {
    match humantime::parse_duration(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("a time is a number and a unit, such as 60s or 5m".to_owned()),
    }
}
