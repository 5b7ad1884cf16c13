//! Arguments of `dns`.

use std::net::{IpAddr, SocketAddr};

use clap::{Args, Subcommand};

use super::Watch;

/// Where servers listen.
const PORT: u16 = 53;

/// Examples for the help.
pub(super) const EXAMPLES: &str = "\
Examples:
  equipoise dns
  equipoise dns refresh api.internal
  equipoise dns lookup _http._tcp.api.internal
  equipoise dns lookup api.internal --resolver 10.0.0.53";

/// Arguments of `dns`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Dns {
    /// Look this name up once, as `lookup` does
    #[arg(long, value_name = "NAME", conflicts_with = "watch")]
    pub resolve: Option<String>,
    /// Once or again and again
    #[command(flatten)]
    pub watch: Watch,
    /// What to do; without it, the names are shown
    #[command(subcommand)]
    pub action: Option<DnsAction>,
}

/// What is done with a name.
#[derive(Debug, Subcommand)]
pub enum DnsAction {
    /// Have the running instance look a name of its configuration up now
    Refresh {
        /// The name, or a backend of it as the configuration writes it: api.internal:8080
        name: String,
    },
    /// Look any name up once, here and now, with or without a running instance
    Lookup(LookUp),
}

/// Arguments of `dns lookup`.
#[derive(Debug, Args)]
pub struct LookUp {
    /// A host, or the name of SRV records, which begins with `_`
    pub name: String,
    /// Ask this server; without it, those of the file of -c, or the system's
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = resolver)]
    pub resolver: Vec<SocketAddr>,
}

fn resolver(text: &str) -> Result<SocketAddr, String> {
    let with_port = || text.parse::<SocketAddr>().ok();
    let alone = text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, PORT));
    alone.or_else(with_port).ok_or_else(|| "an address, with or without a port".to_owned())
}
