//! Arguments of `check`, `convert` and `import`, which are about files alone.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use equipoise_core::config::Format;

/// What `convert --help` ends with.
pub(super) const EXAMPLES: &str = "\
Examples:
  equipoise convert equipoise.toml equipoise.yaml
  equipoise convert equipoise.json - --format toml   to standard output";

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The file; without it, that of -c
    pub file: Option<PathBuf>,
    /// Check it against this machine as well
    #[arg(long)]
    pub host: bool,
    /// Take what would be ignored for errors: keys of EDN that are unknown or not served
    #[arg(long)]
    pub strict: bool,
}

/// Arguments of `convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// The file that is read
    #[arg(value_name = "IN")]
    pub from: PathBuf,
    /// The file that is written, in the format of its extension; `-` for standard output
    #[arg(value_name = "OUT")]
    pub to: PathBuf,
    /// The format for standard output
    #[arg(long, value_name = "FORMAT", value_parser = format, default_value = "toml")]
    pub format: Format,
    /// Leave out what has no counterpart because it is unknown or not served, and say so
    #[arg(long)]
    pub partial: bool,
}

fn format(text: &str) -> Result<Format, String> {
    Format::of(&format!("x.{text}")).ok_or_else(|| format!("files end in {}", Format::ENDINGS))
}

/// What `import --help` ends with.
pub(super) const IMPORTS: &str = "\
Examples:
  ipvsadm -Sn | equipoise import ipvs - -i eth0 > equipoise.toml
  equipoise import keepalived /etc/keepalived/keepalived.conf -i eth0
  equipoise import haproxy /etc/haproxy/haproxy.cfg -i eth0 --json
What could not be carried over is listed on standard error, or with --json beside the configuration.";

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct Import {
    /// Where it comes from
    #[arg(value_name = "SOURCE")]
    pub source: From,
    /// The file that is read; `-` for standard input
    pub file: PathBuf,
    /// Interfaces of services, where the file does not say
    #[arg(short, long, value_name = "IFACE", num_args = 1.., default_value = "eth0")]
    pub interface: Vec<String>,
    /// The format that is printed
    #[arg(long, value_name = "FORMAT", value_parser = format, default_value = "toml")]
    pub format: Format,
}

/// A load balancer that configurations come from.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum From {
    /// What `ipvsadm -Sn` prints
    Ipvs,
    /// keepalived's virtual servers
    Keepalived,
    /// HAProxy's TCP frontends, backends and listens
    Haproxy,
}
