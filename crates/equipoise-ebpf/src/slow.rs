//! The slow path: everything but a packet of a flow that goes on, and a packet that is none of ours.
//!
//! Opening a flow, ending one, answering a packet. A program of its own, with a stack and a verification of its
//! own: the fast path hands what it knows of a packet over in [`Work`] and does not come back.

use equipoise_common::flow::Reason;
use equipoise_common::flow::count::Pressure;
use equipoise_common::flow::open::{New, Opened};
use equipoise_common::key::{PortsKey, ServiceKey, TCP, V6};
use equipoise_common::value::{OnEmpty, OnUnknown, Policy, Service};
use equipoise_common::verdict::Verdict;

use crate::family::Family;
use crate::flow::{self, Decision, Found};
use crate::hook::{Hook, Stage};
use crate::parse::{Headers, Part};
use crate::prefix::Prefix;
use crate::route::Wanted;
use crate::select::{self, Run};
use crate::table::others;
use crate::{
    action, forward, fragment, leave, limit, observes, on, open, pool, report, route, table, trace,
};

/// What is handed on about a packet.
#[repr(C, align(8))]
pub struct Work<F> {
    /// The packet, as it came.
    pub headers: Headers<F>,
    /// A flow that is being put together.
    pub new: New<F>,
    /// The key by which its service is looked for.
    pub key: ServiceKey<F>,
    /// The one by which it is looked for among those on ranges of ports.
    pub ports: Prefix<PortsKey<F>>,
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
    /// Whether it is a fragment, which others follow.
    pub part: Part,
    /// What it is to be answered for: a [`Verdict`] as a number.
    pub verdict: u32,
    /// Where it picks its backend.
    pub run: Run,
    /// The verdict, as a number, on one that has found no backend or no name there.
    pub unnamed: u32,
    /// What has been decided about it.
    pub decision: Decision<F>,
    /// Whether packets to the backend of a new flow have just gone where this one can go too.
    pub way_is_known: bool,
    /// Whether the client of a new flow is a backend itself.
    pub is_hairpin: bool,
    /// Whether a packet that is carried goes by a hop that was kept.
    pub hop_is_known: bool,
    /// Addresses of ours that a new flow may come from at its backend; 0 if it comes from the client's.
    pub sources: u32,
    /// How a packet that is carried gets to its backend, a [`equipoise_common::value::Mode`] as a number.
    pub mode: u32,
    /// Whether its backend has an IPv6 address.
    pub is_to_v6: bool,
    /// The address of ours that it comes from in GUE, and its backend's.
    pub ends: [V6; 2],
    /// What its way carries, IP bytes; 0 where that is not known.
    pub mtu: u32,
    /// The verdict on it, as a number, if it is sent.
    pub sent: u32,
    /// The verdict on it, as a number, if it is left to the stack.
    pub by_stack: u32,
}

/// Leaves a packet to the slow path.
#[inline(always)]
pub fn hand_on<F: Family>(
    headers: &Headers<F>,
    decision: &Decision<F>,
    (found, part): (Found, Part),
    service: Service,
) -> Result<u64, Verdict> {
    let Some(work) = F::work() else { return Err(Verdict::FlowRefused) };
    work.headers = *headers;
    work.service = service;
    work.at = decision.at;
    work.flow_service = decision.service;
    work.found = found;
    work.part = part;
    if found == Found::Nothing {
        trace::for_service(service.id);
    }
    Ok(on(Stage::Slow))
}

/// How far [`begin`] has got with a packet: an action, or this.
const OPEN: u64 = 1 << 63;
/// The same of one that the stack is to have, for a connection that this host takes up.
const STREAM: u64 = 1 << 62;

/// A packet that the fast path has handed on.
///
/// In parts that are called one after the other, and not inlined, so that each has the stack to itself.
#[inline(always)]
pub fn go_on<H: Hook, F: Family>(hook: &H) -> u64 {
    let Some(work) = F::work() else { return action(leave::<H>(Verdict::FlowRefused)) };
    end::<F>(work.at, work.found);
    if is_for_elsewhere(work) {
        return on(Stage::Elsewhere);
    }
    if limit::is_denied::<F>() {
        return action(leave::<H>(Verdict::SourceDenied));
    }
    let begun = begin::<H, F>();
    if begun & (OPEN | STREAM) == 0 {
        return begun;
    }
    if work.is_limited[0] != 0 && limit::is_over::<F>() {
        return action(leave::<H>(Verdict::SourceLimit));
    }
    if begun & STREAM != 0 {
        if work.part.marks != 0 {
            fragment::remember_streamed::<F>();
        }
        return action(leave::<H>(Verdict::Streamed));
    }
    let opened = open::place(work);
    let decided = decide::<H, F>(hook, opened.packed());
    if decided & OPEN == 0 {
        return decided;
    }
    if work.part.marks != 0 {
        fragment::remember_new::<F>();
    }
    if work.decision.apart {
        work.found = Found::Nothing;
        work.sent = Verdict::ForwardedRequest as u32;
        return on(Stage::Carry);
    }
    let action = complete::<H, F>(hook);
    if opened.refused == 0 && !opened.found && !work.way_is_known {
        keep_way::<F>();
    }
    action
}

/// Keeps the way that the first packet of a flow has gone.
#[inline(never)]
fn keep_way<F: Family>() {
    let Some(work) = F::work() else { return };
    route::keep(&Wanted::of(&work.headers, &work.decision));
}

/// Everything before the flow table is written: the flow in this CPU's work is to be opened, or the stack is to have the
/// packet, or else it is done with.
#[inline(never)]
fn begin<H: Hook, F: Family>() -> u64 {
    let Some(work) = F::work() else { return action(leave::<H>(Verdict::FlowRefused)) };
    match admit::<H, F>(work) {
        Ok(next) => next,
        Err(verdict) => refuse::<H, F>(verdict),
    }
}

/// What becomes of the packet when the flow table has been written, with the [`Opened`] as a word.
#[inline(never)]
fn decide<H: Hook, F: Family>(hook: &H, opened: u64) -> u64 {
    let Some(work) = F::work() else { return action(leave::<H>(Verdict::FlowRefused)) };
    let opened = Opened::unpacked(opened);
    let mut decision = Decision { now: flow::now(), ..Decision::none(&work.headers) };
    if let Err(verdict) = open::settle(work, opened, &mut decision) {
        let service = work.service.id;
        return refuse::<H, F>(no_backend(&work.headers, service, verdict));
    }
    let is_new = opened.refused == 0 && !opened.found;
    work.way_is_known =
        is_new && route::shortcut(hook, &Wanted::of(&work.headers, &decision)).is_some();
    work.decision = decision;
    OPEN
}

/// The packet goes as has been decided.
#[inline(never)]
pub fn complete<H: Hook, F: Family>(hook: &H) -> u64 {
    let Some(work) = F::work() else { return action(leave::<H>(Verdict::FlowRefused)) };
    let packet = hook.packet();
    forward::forward::<_, _, true>(hook, &packet, &work.headers, &work.decision)
        .map_or_else(refuse::<H, F>, action)
}

/// Leaves a packet; one that is to be answered goes on in the program that does that.
#[inline(always)]
pub fn refuse<H: Hook, F: Family>(verdict: Verdict) -> u64 {
    if observes() || !verdict.is_answered() {
        return action(leave::<H>(verdict));
    }
    if let Some(work) = F::work() {
        work.verdict = verdict as u32;
    }
    on(Stage::Answer)
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
        Found::Apart | Found::ApartEventful => {}
    }
}

/// Whether a packet of a flow that has just been ended is to open another one, in the tables that flows are carried over to.
#[inline(always)]
fn is_for_elsewhere<F: Family>(work: &Work<F>) -> bool {
    let opens = match work.found {
        Found::Replaced | Found::Reselected => true,
        Found::Idle => !resets(&work.headers, work.flow_service),
        // Those that are to come here from elsewhere have been there.
        Found::Nothing | Found::Reset => false,
        Found::Flow | Found::Eventful | Found::Apart | Found::ApartEventful => false,
    };
    opens && others::is_moving()
}

/// Whether a packet of a flow that has been idle too long is answered with a RST.
#[inline(always)]
fn resets<F: Family>(headers: &Headers<F>, service: u32) -> bool {
    let wanted =
        table::policy(service).is_some_and(|policy| policy.switches & Policy::RESET_ON_EXPIRY != 0);
    wanted && headers.is_mid_stream() && !headers.is_reset()
}

/// Decides about a packet of no flow; one that is to be remembered is put together in `work`. [`OPEN`] or [`STREAM`].
#[inline(always)]
fn admit<H: Hook, F: Family>(work: &mut Work<F>) -> Result<u64, Verdict> {
    // What opens nothing costs no token.
    work.is_limited = [0; 2];
    let headers = &work.headers;
    let is_over = work.found == Found::Idle && resets(headers, work.flow_service);
    if work.found == Found::Reset || is_over {
        return Err(Verdict::ResetFlow);
    }
    let Some(policy) = table::policy(work.service.id) else { return Err(Verdict::FlowRefused) };
    // Once for all that picks from it, whether it is to be remembered or not.
    work.service.pool = pool::of(&work.service, policy, headers.tuple.source);
    if headers.tuple.protocol == TCP && select::is_streamed(work.service.pool) {
        // A token for each connection, and so once: where another hook comes behind this one, there.
        let counts = H::IS_LAST && headers.is_syn() && policy.limits.source.rate != 0;
        work.is_limited[0] = u32::from(counts);
        return Ok(STREAM);
    }
    if headers.is_reset() {
        // It ends a flow that we do not know: it goes where that has gone, and nothing is remembered.
        return if policy.on_unknown == OnUnknown::Hash as u8 {
            Ok(OPEN)
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
    match open::prepare(work, policy) {
        Ok(()) => Ok(OPEN),
        Err(verdict) => Err(no_backend(&work.headers, service, verdict)),
    }
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
