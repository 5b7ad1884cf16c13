//! Arguments of `trace` and `capture`.

use std::path::PathBuf;

use clap::Args;

use super::Enough;

/// Examples in the help.
pub(super) const TRACE: &str = "\
Examples:
  equipoise trace --service web --reason limit       packets of one service that are over a limit
  equipoise trace --reason no_backend,malformed      packets that leave with these verdicts
  equipoise trace --rate 5 --count 20                twenty of all packets, five a second on each CPU

The programs that tell of packets take the place of the others as long as this runs, and cost each packet some time.";

/// Examples in the help.
pub(super) const CAPTURE: &str = "\
Examples:
  equipoise capture -w web.pcapng --service web --for 10s
  equipoise capture -w - --reason limit | wireshark -k -i -";

/// Which packets.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// Packets of this service alone
    #[arg(long)]
    pub service: Option<String>,
    /// Packets with these verdicts alone: names or parts of them, with commas between them
    #[arg(long, value_name = "VERDICT")]
    pub reason: Option<String>,
    /// So many packets a second at most, on each CPU [default: 100; capture: 10000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// When it is enough
    #[command(flatten)]
    pub enough: Enough,
}

/// Arguments of `trace`.
#[derive(Debug, Args)]
pub struct Trace {
    /// Which packets.
    #[command(flatten)]
    pub which: Which,
}

/// Arguments of `capture`.
#[derive(Debug, Args)]
pub struct Capture {
    /// The file, pcapng; `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    pub write: PathBuf,
    /// Which packets.
    #[command(flatten)]
    pub which: Which,
}
