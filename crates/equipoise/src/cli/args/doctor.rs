//! Arguments of `doctor`.

use clap::Args;

/// Shown below the help of `doctor`.
pub(super) const EXAMPLES: &str = "\
Examples:
  equipoise doctor                       by the configuration of the running instance, else by the file, else the machine alone
  equipoise doctor -c equipoise.toml     by what this file wants
  equipoise doctor --fix                 set what can be set safely, and say how to take it back
  equipoise doctor -v                    also what is as it should be

Exit code: 0 if nothing is a problem, else 1. Each finding is in docs/doctor.md.";

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Do what can be done safely: kernel settings, the BPF file system, offloads of devices made of software
    #[arg(long)]
    pub fix: bool,
}
