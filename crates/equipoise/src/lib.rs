//! Equipoise: a standalone layer-4 load balancer for Linux.
//!
//! This crate does what `equipoise-core` decides: it loads and attaches the packet programs,
//! applies plans to the kernel's maps, watches the machine, and answers on a socket.

pub mod access_log;
pub mod admin;
pub mod apply;
pub mod balancer;
pub mod cli;
pub mod config_file;
pub mod dataplane;
pub mod decap;
pub mod doctor;
pub mod driver;
pub mod events;
pub mod flow_events;
pub mod handover;
pub mod host;
mod known;
pub mod log;
pub mod metrics;
pub mod privileges;
pub mod probe;
pub mod resolver;
pub mod running_config;
mod serving;
pub mod status;
pub mod stream;
pub mod talkers;
mod terminal;
pub mod watch;

pub use balancer::{Balancer, BalancerError, Configuration};
