//! Decapsulating on a backend: single packets through the real programs, byte for byte; and real traffic in
//! namespaces, through the real binary.

#[path = "decap/bench.rs"]
mod bench;
#[path = "decap/egress.rs"]
mod egress;
#[path = "decap/host.rs"]
mod host;
#[path = "decap/lifecycle.rs"]
mod lifecycle;
#[path = "decap/mutants.rs"]
mod mutants;
#[path = "decap/opening.rs"]
mod opening;
#[path = "decap/packets.rs"]
mod packets;
#[path = "decap/refusals.rs"]
mod refusals;
#[path = "decap/traffic.rs"]
mod traffic;
#[path = "decap/tunnel.rs"]
mod tunnel;
#[path = "decap/wire.rs"]
mod wire;

use equipoise_common::verdict::Hook;

/// The hooks that packets come in by.
const INCOMING: [Hook; 2] = [Hook::Xdp, Hook::Ingress];

/// The action that lets a packet go on.
fn pass(hook: Hook) -> i32 {
    if hook == Hook::Xdp { 2 } else { -1 }
}

/// The action that ends it.
fn drop(hook: Hook) -> i32 {
    if hook == Hook::Xdp { 1 } else { 2 }
}
