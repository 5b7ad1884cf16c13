//! Who may open a flow, and how many in a second: lists of prefixes, and buckets of tokens.
//!
//! Asked for packets of no flow alone, by the slow path. What a service does not limit is not looked up. The arithmetic
//! is `equipoise_common::bucket`; which prefix decides is said in `equipoise_common::access`.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use equipoise_common::access::{Access, AccessKey, SourceKey, masked};
use equipoise_common::bucket::{Bucket, ERRORS, Rate, Taken};
use equipoise_common::key::V6;
use equipoise_common::step::What;
use equipoise_common::value::Limits;

use crate::family::Family;
use crate::flow::Found;
use crate::map::{ACCESS, BACKEND_TOKENS, CLOCK, ERROR_TOKENS, SOURCES, TEST_CLOCK};
use crate::table::policy;
use crate::word::Shared;
use crate::{report, slow::Work};

/// Beside the flags of [`Limits::lists`]: the source is of IPv6.
const IS_V6: u32 = 1 << 8;

/// Whether the source of the packet in this CPU's work is kept out.
///
/// Not inlined, as [`is_over`]: its stack is wanted only while it runs.
#[inline(never)]
pub fn is_denied<F: Family>() -> bool {
    let Some(work) = F::work() else { return false };
    let Some(limits) = limits(work) else { return false };
    is_listed(limits, work.service.id, work.headers.tuple.source)
}

/// Whether a source is kept out of a service with these limits.
#[inline(always)]
pub fn is_listed<F: Family>(limits: &Limits, service: u32, source: F) -> bool {
    if limits.lists == 0 {
        return false;
    }
    let family = if F::IS_V6 { IS_V6 } else { 0 };
    let V6([first, second]) = source.pack();
    source_is_denied(u32::from(limits.lists) | family, service, first, second) != 0
}

/// Whether the source of the packet in this CPU's work has had as many new flows as it may. If not, it
/// has one more now.
#[inline(never)]
pub fn is_over<F: Family>() -> bool {
    let Some(work) = F::work() else { return false };
    let Some(limits) = limits(work) else { return false };
    let bits = u32::from(if F::IS_V6 { limits.prefix_v6 } else { limits.prefix_v4 });
    let kind = bits | if F::IS_V6 { IS_V6 } else { 0 };
    let V6([first, second]) = masked(work.headers.tuple.source.pack(), bits);
    let service = work.service.id;
    if source_takes(service, kind, first, second) == Taken::Yes as u32 {
        return false;
    }
    report::step(What::SourceOverLimit, service, u64::from(limits.source.rate));
    true
}

/// Takes a token of a backend; false where there is none.
#[inline(always)]
pub fn backend_takes(id: u32, service: u32) -> bool {
    backend_token(id, service) == Taken::Yes as u32
}

/// Takes a token of ICMP errors of a kind; false where there is none.
#[inline(always)]
pub fn error_takes(kind: u32) -> bool {
    let Some(bucket) = ERROR_TOKENS.get_ptr(kind) else { return true };
    // SAFETY: an entry of an array map stays, and is all shared words.
    take(unsafe { &*bucket }, ERRORS) == Taken::Yes as u32
}

/// What limits the service of a packet of no flow; none for a packet of one that is being reset.
#[inline(always)]
fn limits<F: Family>(work: &Work<F>) -> Option<&'static Limits> {
    if work.found == Found::Reset {
        return None;
    }
    policy(work.service.id).map(|policy| &policy.limits)
}

// Functions that are verified by themselves.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn source_is_denied(lists: u32, service: u32, first: u64, second: u64) -> u32 {
    let is_v6 = lists & IS_V6 != 0;
    let bits = AccessKey::SCOPE_BITS + if is_v6 { 128 } else { 32 };
    let has = |flag: u8| lists & u32::from(flag) != 0;
    let mut strongest = None;
    for (flag, whose) in [(Limits::OWN_LIST, Some(service)), (Limits::COMMON_LIST, None)] {
        if !has(flag) {
            continue;
        }
        let scope = AccessKey::scope(whose, is_v6);
        let key = Key::new(bits, AccessKey::new(scope, V6([first, second])));
        if let Some(&found) = ACCESS.get(&key) {
            let strength = found.strength();
            if strongest.is_none_or(|strongest| strength > strongest) {
                strongest = Some(strength);
            }
        }
    }
    let denies = match strongest {
        Some(strength) => strength & 1 == Access::DENY,
        None => has(Limits::LISTED_ONLY),
    };
    let (bits, what) = match strongest {
        Some(strength) => (strength >> 1, u64::from(strength & 1)),
        None => (0, 2),
    };
    report::step(What::Access, bits, what);
    u32::from(denies)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn source_takes(service: u32, kind: u32, first: u64, second: u64) -> u32 {
    let Some(policy) = policy(service) else { return Taken::Yes as u32 };
    let key = SourceKey { service, kind, address: V6([first, second]) };
    let mut bucket = SOURCES.get_ptr(key);
    if bucket.is_none() {
        if report::is_dry() {
            return Taken::Yes as u32;
        }
        let empty = Bucket::new(Shared::new(0), Shared::new(0));
        // Another CPU may have been quicker: then it is there.
        let _ = SOURCES.insert(key, empty, u64::from(BPF_NOEXIST));
        bucket = SOURCES.get_ptr(key);
    }
    // Where there was no room at all, nothing is counted.
    let Some(bucket) = bucket else { return Taken::Yes as u32 };
    // SAFETY: an entry of a hash map that is allocated at once stays memory of this kind, and is all shared words. One
    // that is given to another source meanwhile gives a token of that one's.
    take(unsafe { &*bucket }, policy.limits.source)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn backend_token(id: u32, service: u32) -> u32 {
    let Some(policy) = policy(service) else { return Taken::Yes as u32 };
    let rate = policy.limits.backend;
    let Some(bucket) = BACKEND_TOKENS.get_ptr(id) else { return Taken::Yes as u32 };
    // SAFETY: an entry of an array map stays, and is all shared words.
    let taken = take(unsafe { &*bucket }, rate);
    if taken != Taken::Yes as u32 {
        report::step(What::BackendOverLimit, id, u64::from(rate.rate));
    }
    taken
}

#[inline(always)]
fn take(bucket: &Bucket<Shared>, rate: Rate) -> u32 {
    if rate.rate == 0 {
        return Taken::Yes as u32;
    }
    if report::is_dry() {
        return if bucket.would_take(rate, now()) { Taken::Yes } else { Taken::No } as u32;
    }
    bucket.take(rate, now()) as u32
}

/// The exact clock, in microseconds: the coarse one steps four thousand of them. New flows and ICMP errors alone pay for it.
#[inline(always)]
fn now() -> u64 {
    let nanoseconds = if TEST_CLOCK.load() != 0 {
        CLOCK.get(0).copied().unwrap_or_default()
    } else {
        // SAFETY: takes nothing.
        unsafe { bpf_ktime_get_ns() }
    };
    nanoseconds / 1_000
}
