//! The rules: each takes a case and gives what it has found, also where that is as it should be.
//!
//! A file each for the machine, its interfaces, the ways to backends and to clients, the firewall, and a running instance. A rule's name
//! is in `docs/doctor.md` with what it looks at.

use super::{Case, Finding};

mod firewall;
mod instance;
mod interface;
mod machine;
mod offload;
mod path;
mod vip;

/// Every rule, in the order in which a packet would meet what it is about.
pub(super) fn all(case: &Case) -> Vec<Finding> {
    [
        machine::all(case),
        interface::all(case),
        offload::all(case),
        vip::all(case),
        path::all(case),
        firewall::all(case),
        instance::all(case),
    ]
    .concat()
}

#[cfg(test)]
mod sample;
