//! Arguments of `health` and `probe`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::Watch;
use crate::status::health::Word;

/// What the help of `probe` ends with.
pub(super) const EXAMPLES: &str = "\
Keys are those of a `health-check` table:
  equipoise probe tcp 10.0.0.1:8080
  equipoise probe http 10.0.0.1:8080 path=/ready 'expected-codes=[200, \"300-399\"]' timeout=1s
  equipoise probe https 10.0.0.1:443 server-name=www.example.com
  equipoise probe dns 10.0.0.53:53 query=example.com";

/// Arguments of `health`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Health {
    /// Only backends of this service
    pub service: Option<String>,
    /// What to do
    #[command(subcommand)]
    pub action: Option<HealthAction>,
    /// Once or again and again
    #[command(flatten)]
    pub watch: Watch,
}

/// What is done about health.
#[derive(Debug, Subcommand)]
pub enum HealthAction {
    /// Say how a backend is, whatever checks say, or leave it to them again
    Set {
        /// Which
        #[command(flatten)]
        backend: OneBackend,
        /// How it is
        state: Word,
        /// How long that holds [default: until it is taken back]
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
        duration: Option<Duration>,
    },
    /// Check a backend now
    Check {
        /// Which
        #[command(flatten)]
        backend: OneBackend,
    },
}

/// A backend of a service.
#[derive(Clone, Debug, Args)]
pub struct OneBackend {
    /// Name of the service
    pub service: String,
    /// Address and port, as in the configuration
    pub backend: String,
    /// Of this route alone [default: of all pools that name it]
    #[arg(long, value_name = "ROUTE")]
    pub route: Option<String>,
}

/// Arguments of `probe`.
#[derive(Debug, Args)]
pub struct Probe {
    /// tcp, http, https, grpc, udp, dns or exec
    #[arg(value_name = "TYPE")]
    pub kind: String,
    /// What is asked, as ADDR:PORT
    pub address: String,
    /// Keys of a health check
    #[arg(value_name = "KEY=VALUE")]
    pub keys: Vec<String>,
}

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub struct Wait {
    /// Name of the service
    pub service: String,
    /// How many of its backends, at least
    #[arg(long, value_name = "N")]
    pub healthy: usize,
    /// How long, at most
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}
