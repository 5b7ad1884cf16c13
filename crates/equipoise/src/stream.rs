//! The stream path: TCP connections that this host takes up itself, because what leads them on is said in them, or because a backend is
//! to be told who has connected.
//!
//! A packet's rewriting cannot do that: the SYN would have to choose a backend before the client has said anything. So the packet programs
//! leave such connections to the stack, whose listening socket for them is a [`worker`]'s: it reads the name in a TLS ClientHello, picks a
//! backend in the slots that the plan has made ([`table`]), says the PROXY header, and has the kernel move the bytes between the two
//! sockets. The worker is a process of its own, so that connections outlive a restart and an upgrade of the control plane, which
//! [`keeper`] is the side of.

mod backends;
mod header;
mod hello;
pub mod keeper;
mod mirror;
mod relay;
pub mod table;
mod wire;
pub mod worker;

pub use backends::{Would, would};
pub use keeper::{How, Keeper, StreamError, stop_left};
pub use mirror::{Kept, Mirror, Number, RefusedBy, Row};
