//! Which pool a packet of no flow picks its backend from: that of the longest prefix of its source, or the service's own.
//!
//! Asked wherever a service's pool is about to be used, so that all ways of deciding about a source agree: new flows,
//! packets that are not remembered, and fragments. A service without routes is not looked up. Flows know their backend
//! and never come here.

use aya_ebpf::btf_maps::lpm_trie::Key;
use equipoise_common::access::AccessKey;
use equipoise_common::key::V6;
use equipoise_common::step::What;
use equipoise_common::value::{Policy, Service};

use crate::family::Family;
use crate::map::ROUTES;
use crate::report;

/// The pool of a service for packets of a source.
#[inline(always)]
pub fn of<F: Family>(service: &Service, policy: &Policy, source: F) -> u32 {
    if policy.switches & Policy::ROUTES == 0 {
        return service.pool;
    }
    let V6([first, second]) = source.pack();
    routed(AccessKey::scope(Some(service.id), F::IS_V6), service.pool, first, second)
}

/// A function that is verified by itself, so that its stack is wanted only while it runs.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn routed(scope: u32, default: u32, first: u64, second: u64) -> u32 {
    let is_v6 = scope & 1 != 0;
    let bits = AccessKey::SCOPE_BITS + if is_v6 { 128 } else { 32 };
    let key = Key::new(bits, AccessKey::new(scope, V6([first, second])));
    let Some(&pool) = ROUTES.get(&key) else { return default };
    report::step(What::Routed, pool, u64::from(default));
    pool
}
