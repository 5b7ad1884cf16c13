//! Checks of this host's own that go the way the packets go: `equipoise_common::probe`.
//!
//! A packet on its way out that no flow knows and whose priority names a backend becomes one for the VIP, and is then carried
//! as a client's would be. What the VIP answers is known by its five-tuple, and gets the backend's address back. No flow is
//! opened and no traffic is counted: checks are none of the service's packets, and a drain does not wait for them.

use core::ptr;

use equipoise_common::flow::find::is_past;
use equipoise_common::key::FiveTuple;
use equipoise_common::probe::{self, AnswerKey};
use equipoise_common::value::Snat;
use equipoise_common::verdict::Verdict;

use crate::carry;
use crate::family::Family;
use crate::flow::{Decision, Found, now};
use crate::hook::Hook;
use crate::map::{PROBED, SNAT, STATELESS};
use crate::parse::{Headers, Part};
use crate::rewrite::{self, Hops};
use crate::{leave, report};

/// The place in [`STATELESS`] of when there was such a packet last.
const LAST: u32 = 1;

/// A packet on its way out that is of no flow.
#[inline(always)]
pub fn outgoing<H: Hook, F: Family>(hook: &H, headers: &Headers<F>) -> Result<u64, Verdict> {
    let Some(backend) = probe::backend(hook.priority()) else { return Err(Verdict::Outgoing) };
    let decision = Decision { backend, now: now(), ..Decision::none(headers) };
    carry::hand_over(headers, &decision, (Found::Nothing, Part::WHOLE), Verdict::ProbeSent)
}

/// Makes the packet in this CPU's work one for the VIP. False if there is none, or the kernel refuses.
#[inline(never)]
pub fn address<H: Hook, F: Family>(hook: &H) -> bool {
    let Some(work) = F::work() else { return false };
    // SAFETY: entries are replaced whole; a reader of the old one finds what was right just now.
    let vip = unsafe { SNAT.get(Snat::key(work.decision.backend, Snat::CHECKED_VIP)) };
    let Some(vip) = vip else { return false };
    let tuple = work.headers.tuple;
    if !report::is_dry() {
        let key = AnswerKey {
            source: vip.address,
            destination: tuple.source.pack(),
            source_port: tuple.destination_port,
            destination_port: tuple.source_port,
            protocol: tuple.protocol,
        };
        if PROBED.insert(key, tuple.destination.pack(), 0).is_err() {
            return false;
        }
        if let Some(last) = STATELESS.get_ptr_mut(LAST) {
            // SAFETY: an entry of an array map stays; one word, and any of the CPUs' times will do.
            unsafe { ptr::write_volatile(last, u64::from(now()) + 1) };
        }
    }
    let to = FiveTuple { destination: F::unpack(vip.address), ..tuple };
    if rewrite::apply(hook, &hook.packet(), &work.headers, &to, Hops::Keep).is_err() {
        return false;
    }
    work.headers.tuple.destination = to.destination;
    // It comes by here once more, as what it is then.
    hook.forget_priority();
    true
}

/// Whether there has been a check in the last minutes: nothing answers one else.
#[inline(always)]
pub fn are_made() -> bool {
    /// About two minutes.
    const REMEMBERED: u32 = 1 << 17;
    // SAFETY: an entry of an array map stays; one word.
    let last = STATELESS.get_ptr(LAST).map_or(0, |last| unsafe { ptr::read_volatile(last) });
    last != 0 && !is_past(last as u32, REMEMBERED, now())
}

/// Whether the packet in this CPU's work may be an answer of a VIP.
#[inline(always)]
pub fn may_be_answer<F: Family>() -> bool {
    F::work().is_some_and(|work| work.verdict == Verdict::ProbeAnswer as u32)
}

/// Gives it the backend's address, if it is one.
#[inline(never)]
pub fn answer<H: Hook, F: Family>(hook: &H) -> i32 {
    let Some(work) = F::work() else { return leave::<H>(Verdict::FlowRefused) };
    let tuple = &work.headers.tuple;
    let key = AnswerKey {
        source: tuple.source.pack(),
        destination: tuple.destination.pack(),
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
        protocol: tuple.protocol,
    };
    // SAFETY: entries are written whole, and of one connection alone all say the same.
    let Some(backend) = (unsafe { PROBED.get(key) }) else {
        return leave::<H>(Verdict::NoService);
    };
    let to = FiveTuple { source: F::unpack(*backend), ..*tuple };
    match rewrite::apply(hook, &hook.packet(), &work.headers, &to, Hops::Keep) {
        Ok(()) => leave::<H>(Verdict::ProbeAnswer),
        Err(verdict) => leave::<H>(verdict),
    }
}
