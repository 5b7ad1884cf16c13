//! The table of flows: single packets through the real programs, and what becomes of flows in time,
//! under limits, and when backends go.
//!
//! As the packet table, byte for byte and at both hooks, with expected packets built from scratch by another
//! library. The clock is set by the tests, so nothing here waits.

#[path = "packets/bench.rs"]
#[expect(dead_code, reason = "the packet table uses the rest")]
mod bench;

#[path = "flows/answers.rs"]
mod answers;
#[path = "flows/carried.rs"]
mod carried;
#[path = "flows/choosing.rs"]
mod choosing;
#[path = "flows/closing.rs"]
mod closing;
#[path = "flows/confirming.rs"]
mod confirming;
#[path = "flows/copy.rs"]
mod copy;
#[path = "flows/empty.rs"]
mod empty;
#[path = "flows/errors.rs"]
mod errors;
#[path = "flows/errors_limited.rs"]
mod errors_limited;
#[path = "flows/events.rs"]
mod events;
#[path = "flows/exact.rs"]
mod exact;
#[path = "flows/expiry.rs"]
mod expiry;
#[path = "flows/fragments.rs"]
mod fragments;
#[path = "flows/full.rs"]
mod full;
#[path = "flows/gone.rs"]
mod gone;
#[path = "flows/hammer.rs"]
mod hammer;
#[path = "flows/layouts.rs"]
mod layouts;
#[path = "flows/limits.rs"]
mod limits;
#[path = "flows/modes.rs"]
mod modes;
#[path = "flows/names.rs"]
mod names;
#[path = "flows/next_hops.rs"]
mod next_hops;
#[path = "flows/passive.rs"]
mod passive;
#[path = "flows/ports.rs"]
mod ports;
#[path = "flows/rates.rs"]
mod rates;
#[path = "flows/reloads.rs"]
mod reloads;
#[path = "flows/resize.rs"]
mod resize;
#[path = "flows/routes.rs"]
mod routes;
#[path = "flows/sources.rs"]
mod sources;
#[path = "flows/streamed.rs"]
mod streamed;
#[path = "flows/talk.rs"]
mod talk;
#[path = "flows/unknown.rs"]
mod unknown;
#[path = "flows/world.rs"]
mod world;
