//! Packets told of to who looks on: as they came, as they left, and with what verdict.
//!
//! Only in programs that are loaded for that: in others [`TRACE`] is 0, and the kernel takes all of this out of them.

use core::ptr;

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_skb_load_bytes, bpf_xdp_load_bytes};
use equipoise_common::trace::{KEPT, Traced};
use equipoise_common::verdict::{self, Verdict};

use crate::hide::opaque;
use crate::hook::Hook;
use crate::map::{LAST, TRACE, TRACE_WANTED, TRACED, TRACING};

/// Runs a program that packets come to.
#[inline(always)]
pub fn from_the_start<H: Hook>(hook: &H, run: impl FnOnce(&H) -> i32) -> i32 {
    if TRACE.load() != 0 {
        begin(hook);
    }
    to_the_end(hook, run)
}

/// Runs a program that packets go on in.
#[inline(always)]
pub fn to_the_end<H: Hook>(hook: &H, run: impl FnOnce(&H) -> i32) -> i32 {
    let action = run(hook);
    if TRACE.load() != 0 {
        end(hook, action);
    }
    action
}

/// The packet has this verdict.
#[inline(always)]
pub fn verdict(verdict: u32) {
    if TRACE.load() != 0
        && let Some(traced) = traced()
    {
        traced.verdict = verdict;
    }
}

/// The packet is for this service.
#[inline(always)]
pub fn for_service(service: u32) {
    if TRACE.load() != 0
        && let Some(traced) = traced()
    {
        traced.service = service + 1;
    }
}

/// The packet goes to, or comes from, this backend.
#[inline(always)]
pub fn of(service: u32, backend: u32) {
    if TRACE.load() != 0
        && let Some(traced) = traced()
    {
        traced.service = service + 1;
        traced.backend = backend + 1;
    }
}

#[inline(always)]
fn traced() -> Option<&'static mut Traced> {
    // SAFETY: this CPU's own entry, and nothing else runs on it meanwhile.
    TRACING.get_ptr_mut(0).map(|traced| unsafe { &mut *traced })
}

#[inline(never)]
fn begin<H: Hook>(hook: &H) -> u32 {
    let Some(traced) = traced() else { return 0 };
    traced.verdict = Verdict::NotIp as u32;
    traced.service = 0;
    traced.backend = 0;
    keep::<H, 0>(hook, traced);
    0
}

#[inline(never)]
fn end<H: Hook>(hook: &H, action: i32) -> u32 {
    let (Some(traced), Some(wanted)) = (traced(), TRACE_WANTED.get_ptr(0)) else { return 0 };
    // SAFETY: an entry of an array map stays; user space replaces it as a whole while no such program runs.
    let wanted = unsafe { &*wanted };
    let is_of_it = wanted.service == 0 || u64::from(traced.service) == wanted.service;
    if !wanted.has(traced.verdict) || !is_of_it {
        return 0;
    }
    let Some(last) = LAST.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own entry, and nothing else runs on it meanwhile.
    let [last, skipped] = unsafe { &mut *last };
    // SAFETY: takes nothing.
    let now = unsafe { bpf_ktime_get_ns() };
    if now.wrapping_sub(*last) < wanted.pause {
        *skipped += 1;
        return 0;
    }
    *last = now;
    traced.time = now;
    traced.skipped = *skipped;
    traced.hook = H::HOOK as u32;
    traced.interface = hook.interface();
    traced.action = action as u32;
    keep::<H, 1>(hook, traced);
    // A whole one, in this CPU's own memory.
    if TRACED.output_untyped::<Traced>(&*traced, 0).is_ok() {
        *skipped = 0;
    } else {
        *skipped += 1;
    }
    0
}

/// Keeps the beginning of the packet as it is now.
#[inline(always)]
fn keep<H: Hook, const SIDE: usize>(hook: &H, traced: &mut Traced) {
    let length = hook.length() as u32;
    traced.lengths[SIDE] = length;
    let most = if length < KEPT as u32 { length } else { KEPT as u32 };
    // In a form of which the verifier sees that it is 1 to 128; there is no frame without bytes.
    let bytes = (opaque(most.wrapping_sub(1) as usize) as u32 & (KEPT as u32 - 1)) + 1;
    let to = ptr::from_mut(&mut traced.bytes[SIDE]).cast::<c_void>();
    let loaded = match H::HOOK {
        // SAFETY: the context is the one that the kernel gave us; there is room for 128 bytes.
        verdict::Hook::Xdp => unsafe { bpf_xdp_load_bytes(hook.context().cast(), 0, to, bytes) },
        // SAFETY: as above.
        verdict::Hook::Ingress | verdict::Hook::Egress => unsafe {
            bpf_skb_load_bytes(hook.context(), 0, to, bytes)
        },
    };
    traced.kept[SIDE] = if loaded == 0 { bytes } else { 0 };
}
