//! Tests of the flow table on one CPU: what each call does, how much a table takes, and long random
//! sequences against a plain map.
//!
//! What several CPUs do to it at once is in `tests/flow_interleavings.rs`. [`table`] is the storage
//! of all tests here, with names for flows and a packet's whole way through it.

mod capacity;
mod conversation;
mod copy;
mod evict;
mod model;
mod one_sided;
mod open;
mod table;
mod track;
mod traffic;
