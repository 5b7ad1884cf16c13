//! Arguments of `explain`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

/// Examples in the help.
pub(super) const EXAMPLES: &str = "\
Examples:
  equipoise explain tcp 198.51.100.7:4242 203.0.113.10:443            a client's packet: a new flow's first, or one of a flow that is there
  equipoise explain tcp 10.0.0.1:8080 198.51.100.7:4242               a backend's answer
  equipoise explain tcp 198.51.100.7:4242 203.0.113.10:443 --sni api.example.com
  equipoise explain --hex 02000000000102000000000208004500...         these very bytes
  equipoise explain --pcap client.pcap --in eth0                      each packet of a capture";

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// `tcp` or `udp`
    #[arg(value_parser = ["tcp", "udp"], requires = "destination", conflicts_with_all = ["hex", "pcap"])]
    pub protocol: Option<String>,
    /// Where the packet comes from
    #[arg(value_name = "ADDR:PORT")]
    pub source: Option<SocketAddr>,
    /// Where it goes
    #[arg(value_name = "ADDR:PORT")]
    pub destination: Option<SocketAddr>,
    /// The packet from its Ethernet header on, as hexadecimal digits
    #[arg(long, value_name = "BYTES", conflicts_with = "pcap", required_unless_present_any = ["protocol", "pcap"])]
    pub hex: Option<String>,
    /// Each packet of a capture, pcap or pcapng, of Ethernet frames
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// The server that its client names in TLS, for services with routes by name
    #[arg(long, value_name = "NAME")]
    pub sni: Option<String>,
    /// The interface that it comes by [default: the one that leads to the source if that is a backend, else the first listening one]
    #[arg(long = "in", value_name = "IFACE")]
    pub interface: Option<String>,
}
