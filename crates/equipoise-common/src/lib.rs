//! What the packet programs and user space must agree on.
//!
//! Map keys and values ([`key`], [`value`]), the size of every map ([`limit`]), the one list of
//! verdicts ([`verdict`]), and the arithmetic that both sides must do alike ([`checksum`],
//! [`hash`]). `no_std`; knows nothing of aya's programs, of sockets or of configuration.
//!
//! Everything here is plain arithmetic, so it is tested on the host, next to its text.

#![cfg_attr(not(any(test, feature = "user")), no_std)]

pub mod access;
pub mod bucket;
pub mod checksum;
pub mod decap;
pub mod draw;
pub mod event;
pub mod filter;
pub mod flow;
pub mod hash;
pub mod key;
pub mod limit;
pub mod probe;
pub mod step;
pub mod trace;
pub mod tunnel;
pub mod value;
pub mod verdict;
