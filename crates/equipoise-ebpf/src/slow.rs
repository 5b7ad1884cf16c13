//! The slow path: everything but a packet of a flow that goes on, and a packet that is none of ours.
//!
//! Opening a flow, ending one, answering a packet. A program of its own, with a stack and a verification of its
//! own: the fast path hands what it knows of a packet over in [`Work`] and does not come back.

use equipoise_common::flow::Reason;
use equipoise_common::flow::count::Pressure;
use equipoise_common::flow::open::{New, Opened};
use equipoise_common::key::TCP;
use equipoise_common::value::{OnEmpty, OnUnknown, Policy, Service};
use equipoise_common::verdict::{Kind, Verdict};

use crate::family::Family;
use crate::flow::{self, Decision, Found};
use crate::hook::Hook;
use crate::parse::Headers;
use crate::select::Run;
use crate::{action, answer, forward, leave, limit, open, report, route, table};

/// What is handed on about a packet.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Work<F> {
    /// The packet, as it came.
    pub headers: Headers<F>,
    /// A flow that is being put together.
    pub new: New<F>,
    /// The service that it is for, if it is of no flow.
    pub service: Service,
    /// Where its entry is in the flow table, or 0.
    pub at: u32,
    /// Service of its flow.
    pub flow_service: u32,
    /// Live flows that the service and the backend of a new flow may have.
    pub limits: [u32; 2],
    /// 1 if the service limits the new flows of a source, or of a backend, in a second.
    pub is_limited: [u32; 2],
    /// What the look-up in the flow table has found.
    pub found: Found,
    /// Where it picks its backend.
    pub run: Run,
    /// The verdict, as a number, on one that has found no backend or no name there.
    pub unnamed: u32,
    /// Whether packets to the backend of a new flow have just gone where this one can go too.
    pub way_is_known: bool,
}

/// How far [`begin`] has got with a packet: an action, or this.
const OPEN: u64 = 1 << 32;

/// A packet that the fast path has handed on.
///
/// In parts that are called one after the other, so that each has the stack to itself.
#[inline(always)]
pub fn go_on<H: Hook, F: Family>(
    hook: &H,
    begin: impl Fn(&H) -> u64,
    complete: impl Fn(&H, u64) -> i32,
) -> i32 {
    let Some(work) = F::work() else { return leave::<H>(Verdict::FlowRefused) };
    end::<F>(work.at, work.found);
    if limit::is_denied::<F>() {
        return leave::<H>(Verdict::SourceDenied);
    }
    let begun = begin(hook);
    if begun & OPEN == 0 {
        return begun as i32;
    }
    if work.is_limited[0] != 0 && limit::is_over::<F>() {
        return leave::<H>(Verdict::SourceLimit);
    }
    let opened = open::place(work);
    let is_new = opened.refused == 0 && !opened.found;
    work.way_is_known = false;
    if is_new {
        find_way::<H, F>(hook);
    }
    let action = complete(hook, opened.packed());
    if is_new && !work.way_is_known {
        keep_way::<F>();
    }
    action
}

/// Whether the first packet of the flow in this CPU's work can go where one to the same backend has just gone.
///
/// Not inlined, as [`keep_way`]: its stack is wanted only while it runs.
#[inline(never)]
fn find_way<H: Hook, F: Family>(hook: &H) {
    let Some(work) = F::work() else { return };
    work.way_is_known = route::shortcut(hook, &work.headers, &to_backend(work)).is_some();
}

/// Keeps the way that it has gone.
#[inline(never)]
fn keep_way<F: Family>() {
    let Some(work) = F::work() else { return };
    route::keep(&work.headers, &to_backend(work));
}

/// The decision about the packet that opens the flow in this CPU's work.
#[inline(always)]
fn to_backend<F: Family>(work: &Work<F>) -> Decision<F> {
    Decision {
        to: work.new.reply.reversed(),
        backend: work.new.backend,
        now: work.new.now,
        ..Decision::none(&work.headers)
    }
}

/// Everything before the flow table is written: the flow in this CPU's work is to be opened, or else the packet is
/// done with.
#[inline(always)]
pub fn begin<H: Hook, F: Family>(hook: &H) -> u64 {
    let Some(work) = F::work() else { return action(leave::<H>(Verdict::FlowRefused)) };
    match admit(work) {
        Ok(()) => OPEN,
        Err(verdict) => refuse(hook, &work.headers, verdict),
    }
}

/// Everything after, with the [`Opened`] as a word: the packet goes as has been decided.
#[inline(always)]
pub fn complete<H: Hook, F: Family>(hook: &H, opened: u64) -> i32 {
    let Some(work) = F::work() else { return leave::<H>(Verdict::FlowRefused) };
    let headers = &work.headers;
    let mut decision = Decision::none(headers);
    decision.now = flow::now();
    let settled = open::settle(work, Opened::unpacked(opened), &mut decision);
    let settled = settled.map_err(|verdict| no_backend(headers, work.service.id, verdict));
    match settled {
        Ok(()) => {
            let packet = hook.packet();
            forward::forward::<_, _, true>(hook, &packet, headers, &decision)
                .unwrap_or_else(leave::<H>)
        }
        Err(verdict) => refuse(hook, headers, verdict) as i32,
    }
}

/// Answers a packet, or leaves it.
#[inline(always)]
fn refuse<H: Hook, F: Family>(hook: &H, headers: &Headers<F>, verdict: Verdict) -> u64 {
    if verdict.kind() != Kind::Answer {
        return action(leave::<H>(verdict));
    }
    action(answer::send(hook, headers, verdict).unwrap_or_else(leave::<H>))
}

/// Ends a flow that is as good as none, or closes one that is to be reset.
#[inline(always)]
fn end<F: Family>(at: u32, found: Found) {
    match found {
        Found::Idle if F::end(at, Reason::Idle) => report::pressure(Pressure::Expired),
        Found::Reselected if F::end(at, Reason::Reselected) => {
            report::pressure(Pressure::Reselected);
        }
        Found::Reset if F::close(at, Reason::BackendGone) => {
            report::pressure(Pressure::ResetGone);
        }
        Found::Replaced => {
            F::end(at, Reason::Replaced);
        }
        Found::Idle | Found::Reselected | Found::Reset => {}
        Found::Nothing | Found::Flow | Found::Eventful => {}
    }
}

/// Whether a packet of a flow that has been idle too long is answered with a RST.
#[inline(always)]
fn resets<F: Family>(headers: &Headers<F>, service: u32) -> bool {
    let wanted =
        table::policy(service).is_some_and(|policy| policy.switches & Policy::RESET_ON_EXPIRY != 0);
    wanted && headers.is_mid_stream() && !headers.is_reset()
}

/// Decides about a packet of no flow; one that is to be remembered is put together in `work`.
#[inline(always)]
fn admit<F: Family>(work: &mut Work<F>) -> Result<(), Verdict> {
    // What opens nothing costs no token.
    work.is_limited = [0; 2];
    let headers = &work.headers;
    let is_over = work.found == Found::Idle && resets(headers, work.flow_service);
    if work.found == Found::Reset || is_over {
        return Err(Verdict::ResetFlow);
    }
    let Some(policy) = table::policy(work.service.id) else { return Err(Verdict::FlowRefused) };
    if headers.is_reset() {
        // It ends a flow that we do not know: it goes where that has gone, and nothing is remembered.
        return if policy.on_unknown == OnUnknown::Hash as u8 {
            Ok(())
        } else {
            Err(Verdict::UnknownFlow)
        };
    }
    if headers.is_mid_stream() {
        const RESET: u8 = OnUnknown::Reset as u8;
        const DROP: u8 = OnUnknown::Drop as u8;
        match policy.on_unknown {
            RESET => return Err(Verdict::ResetUnknown),
            DROP => return Err(Verdict::UnknownFlow),
            _ => {}
        }
    }
    let service = work.service.id;
    open::prepare(work, policy).map_err(|verdict| no_backend(&work.headers, service, verdict))
}

/// What becomes of a packet for which there is no backend, as its service says.
#[inline(always)]
fn no_backend<F: Family>(headers: &Headers<F>, service: u32, verdict: Verdict) -> Verdict {
    const RESET: u8 = OnEmpty::Reset as u8;
    const PASS: u8 = OnEmpty::Pass as u8;
    if verdict != Verdict::NoBackend && verdict != Verdict::FlowLimit {
        return verdict;
    }
    match table::policy(service).map_or(RESET, |policy| policy.on_empty) {
        RESET if headers.tuple.protocol == TCP => Verdict::ResetNoBackend,
        RESET => Verdict::UnreachableNoBackend,
        PASS => Verdict::NoBackendPassed,
        _ => verdict,
    }
}
