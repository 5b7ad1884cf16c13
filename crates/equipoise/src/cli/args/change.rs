//! Arguments of `reload`, `weight`, `backend` and `config`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::OneBackend;

/// What `backend --help` ends with.
pub(super) const EXAMPLES: &str = "\
What is changed so is checked as a file is, holds over reloads and restarts as long as the file says something else,
and is dropped by `equipoise reload --reset`; `equipoise config --changes` lists it.

Examples:
  equipoise backend add web 10.0.0.4:8080 --weight 50
  equipoise backend remove web 10.0.0.3:8080        its flows go on, as `on-backend-removed` says
  equipoise weight web 10.0.0.2:8080 0              it keeps its flows, and gets no new ones";

/// Arguments of `reload`.
#[derive(Debug, Args)]
pub struct Reload {
    /// Another file, which is the instance's from then on
    pub file: Option<PathBuf>,
    /// Drop what has been changed by `weight` and `backend`
    #[arg(long)]
    pub reset: bool,
}

/// Arguments of `weight`.
#[derive(Debug, Args)]
pub struct Weight {
    /// Which
    #[command(flatten)]
    pub backend: OneBackend,
    /// Its weight, 0 to 65535: 0 keeps its flows and gets no new ones
    pub weight: u16,
}

/// Arguments of `backend`.
#[derive(Debug, Args)]
pub struct Backend {
    /// What to do
    #[command(subcommand)]
    pub action: BackendAction,
}

/// What is done with a backend.
#[derive(Debug, Subcommand)]
pub enum BackendAction {
    /// Add a backend to a pool
    Add(AddBackend),
    /// Take a backend out of its pools
    Remove(OneBackend),
}

/// Arguments of `backend add`.
#[derive(Debug, Args)]
pub struct AddBackend {
    /// Name of the service
    pub service: String,
    /// Address and port, as in a configuration
    pub backend: String,
    /// Its weight
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub weight: u16,
    /// Into the pool of this route: its first source [default: that for clients without a route]
    #[arg(long, value_name = "ROUTE")]
    pub route: Option<String>,
    /// Live flows at most; 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_flows: u32,
    /// Chosen only when no other backend is usable
    #[arg(long)]
    pub backup: bool,
}

/// Arguments of `config`.
#[derive(Debug, Args)]
pub struct Config {
    /// Show only what has been changed by `weight` and `backend`
    #[arg(long)]
    pub changes: bool,
}
