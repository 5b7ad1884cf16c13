//! The flow table: a set-associative table of forwarding decisions, the same source in the packet
//! programs, in user space, under the model checker and in the property tests.
//!
//! A flow is two entries, one for each direction, each found by its own five-tuple and linked to the
//! other: a packet of either direction costs one look-up, and touches one cache line (IPv6: two).
//! [`word`] and [`set`] are the storage, [`entry`] what an entry says, [`find`] and [`mod@open`] the
//! two ways in, [`track`] what packets tell, [`end`] the one way out, [`mod@copy`] the way into a
//! table of another size. Knows no maps, no clock, no packets.
//!
//! # Memory order
//!
//! Plain words are loaded and stored relaxed; [`word::Word::exchange`] and [`word::Word::add`] are full barriers,
//! as the kernel defines its atomics that return a value (`Documentation/bpf/standardization`;
//! on arm64 they are `LSE ...al` forms or `dmb`-fenced loops). A claim fills a slot while its meta word says
//! *resting*, and then publishes it by an exchange of that word. A packet that has found its key does its one
//! `add` and loads the meta word again before it believes anything else of the slot. What has been given up is
//! not used for another flow before [`GRACE`] has passed, which is longer than any program runs.

pub mod copy;
pub mod count;
pub mod end;
pub mod entry;
pub mod find;
pub mod open;
pub mod set;
pub mod state;
pub mod track;
pub mod word;

pub use count::{Live, Refused};
pub use entry::{At, Facts, Meta, Reason, flag};
pub use set::{GRACE, Position, Set, Storage, WAYS, sets_for};
pub use state::{State, long_tick, moment, tick};
pub use word::Word;

#[cfg(test)]
mod tests;
