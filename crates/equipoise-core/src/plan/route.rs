//! Which sources have a pool of their own, as the programs are told: prefixes by service.

use std::fmt;

use equipoise_common::access::AccessKey;

use super::{Desired, Draft, Listed};
use crate::config::Prefix;
use crate::id::Family;

/// A prefix of sources that have a route of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Routed {
    /// The service, by id.
    pub service: u32,
    /// The prefix.
    pub prefix: Prefix,
}

impl Routed {
    /// As the kernel has it: bits that are compared, and what they are.
    pub fn key(&self) -> (u32, AccessKey) {
        let Prefix { address, length } = self.prefix;
        let scope = AccessKey::scope(Some(self.service), address.is_ipv6());
        let bits = AccessKey::SCOPE_BITS + u32::from(length);
        (bits, AccessKey::new(scope, address.into()))
    }

    /// From how the kernel has it; none for what is no prefix of a service's.
    pub fn from_key(bits: u32, key: AccessKey) -> Option<Self> {
        let Listed { service, prefix } = Listed::from_key(bits, key)?;
        Some(Self { service: service?, prefix })
    }
}

impl fmt::Display for Routed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of service {}", self.prefix, self.service)
    }
}

/// Places the prefixes of all routes: made of all at once, since a map that grows by one of a hundred thousand after the
/// other takes ten times as long, at every change of the machine.
pub(super) fn place(drafts: &[Draft<'_>], desired: &mut Desired) {
    let pools = drafts.iter().flat_map(|draft| draft.routed.iter().map(move |pool| (draft, pool)));
    let entries = pools.flat_map(|(draft, pool)| {
        let prefixes = pool.route().map_or(&[][..], |route| &route.source.prefixes);
        prefixes.iter().map(move |&prefix| {
            let (_, pool) = pool.ids[Family::of(prefix.address) as usize];
            (Routed { service: draft.id.number, prefix }, pool.number)
        })
    });
    desired.routes = entries.collect();
}
