//! Packets at random through the real programs: what must hold of any, and what a model of them predicts of each.
//!
//! A failure prints the seed and the packet as hexadecimal text, which `equipoise explain --hex` takes.

#[path = "packets/bench.rs"]
#[expect(dead_code, reason = "the tables of packets and flows use the rest")]
mod bench;
#[path = "random/explained.rs"]
mod explained;
#[path = "random/model.rs"]
mod model;
#[path = "random/mutants.rs"]
mod mutants;
#[path = "random/predicted.rs"]
mod predicted;
#[path = "random/traffic.rs"]
mod traffic;
#[path = "random/whole.rs"]
mod whole;
#[path = "random/wire.rs"]
mod wire;
