//! What Equipoise decides, without doing anything: sans-IO.
//!
//! Text becomes a checked [`config::Config`]; configuration and facts become a whole desired
//! data-plane state ([`plan`]); the difference to what is applied becomes ordered steps
//! ([`diff`]). No sockets, files, clock, randomness, `tokio` or `aya` of its own: time and facts
//! are arguments, steps are answers.

pub mod breaker;
mod chance;
pub mod config;
pub mod diff;
pub mod drain;
pub mod dump;
pub mod effect;
pub mod facts;
pub mod health;
pub mod id;
pub mod load;
pub mod maglev;
pub mod plan;
pub mod ramp;
pub mod recovery;
pub mod resolve;
pub mod share;
pub mod state;
pub mod weight;
