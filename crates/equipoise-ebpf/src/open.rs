//! Opening a flow for a packet of none: what it is to be, and how that has ended.
//!
//! The slow path calls [`prepare`], has the flow named and placed by functions that are verified by themselves, and
//! calls [`settle`]. What is done where a new flow finds no room is said here.

use equipoise_common::flow::count::{Pressure, Refused};
use equipoise_common::flow::end::Evicted;
use equipoise_common::flow::open::{New, Opened};
use equipoise_common::flow::track::tcp;
use equipoise_common::value::{OnFull, OnUnknown, Policy, Service};
use equipoise_common::verdict::Verdict;

use crate::family::Family;
use crate::flow::{Decision, exact, now};
use crate::parse::Headers;
use crate::report;
use crate::select;
use crate::slow::Work;
use crate::stateless;
use crate::table::policy;
use crate::{carry, name};

/// Puts a flow for a packet of none together in this CPU's work, all but its backend and its name there.
#[inline(always)]
pub fn prepare<F: Family>(work: &mut Work<F>, policy: &Policy) -> Result<(), Verdict> {
    let headers = &work.headers;
    let Some(run) = select::run(work.service.pool, headers) else {
        return Err(Verdict::NoBackend);
    };
    put_together(headers, &work.service, &mut work.new);
    work.run = run;
    work.is_hairpin = name::is_hairpin(work.new.request.source);
    work.limits = [policy.max_flows, 0];
    let limits = &policy.limits;
    work.is_limited = [limits.source.rate, limits.backend.rate].map(|rate| u32::from(rate != 0));
    Ok(())
}

/// Gives the flow in this CPU's work a backend and a name there, and opens it.
///
/// How the name comes about is [`name`]'s.
#[inline(always)]
pub fn place<F: Family>(work: &mut Work<F>) -> Opened {
    if work.headers.is_reset() {
        return Opened { refused: Refused::Reset as u32, ..Opened::NOTHING };
    }
    let named = F::name(&work.run);
    work.unnamed = (named >> 32) as u32;
    if work.unnamed != 0 {
        return Opened { refused: Refused::Unnamed as u32, ..Opened::NOTHING };
    }
    if report::is_dry() {
        return Opened::NOTHING;
    }
    work.limits[1] = named as u32;
    F::open()
}

/// Makes a decision of how the opening of the flow in this CPU's work has ended.
#[inline(always)]
pub fn settle<F: Family>(
    work: &Work<F>,
    opened: Opened,
    decision: &mut Decision<F>,
) -> Result<(), Verdict> {
    let (headers, new) = (&work.headers, &work.new);
    if headers.is_reset() {
        return stateless::send(work, decision);
    }
    if opened.refused == Refused::Unnamed as u32 {
        return Err(unnamed(work.unnamed));
    }
    let port_changed = name::tell(new);
    decision.to = new.reply.reversed();
    decision.service = new.service;
    decision.backend = new.backend;
    decision.apart = new.is_one_sided
        || policy(new.service).is_some_and(|policy| carry::is_lowered(headers, policy));
    if report::is_dry() {
        return Ok(());
    }
    count_evicted(opened.evicted);
    if opened.found {
        let apart = decision.apart;
        F::recall(opened.at, decision);
        decision.apart |= apart;
        return Ok(());
    }
    let Some(policy) = policy(new.service) else { return Err(Verdict::FlowRefused) };
    if opened.refused == 0 {
        decision.at = opened.at;
        report::new_flow(new.service, new.backend, port_changed);
        if policy.switches & Policy::EVENTS != 0 {
            F::tell_opened(opened.at);
        }
        return Ok(());
    }
    // What follows it would be of no flow, and not let through: rather the client sends it again.
    let is_in_vain = headers.is_syn() && policy.on_unknown != OnUnknown::Hash as u8;
    match refusal(opened.refused, policy, is_in_vain) {
        Some(verdict) => Err(verdict),
        None => stateless::send(work, decision),
    }
}

/// The verdict that [`name::find`] has answered with.
#[inline(always)]
fn unnamed(number: u32) -> Verdict {
    const NO_BACKEND: u32 = Verdict::NoBackend as u32;
    const LIMIT: u32 = Verdict::FlowLimit as u32;
    const RATE: u32 = Verdict::BackendLimit as u32;
    const NO_PORT: u32 = Verdict::NoSourcePort as u32;
    const NO_ADDRESS: u32 = Verdict::NoSourceAddress as u32;
    match number {
        NO_BACKEND => Verdict::NoBackend,
        LIMIT => Verdict::FlowLimit,
        RATE => Verdict::BackendLimit,
        NO_PORT => Verdict::NoSourcePort,
        NO_ADDRESS => Verdict::NoSourceAddress,
        _ => Verdict::FlowRefused,
    }
}

/// The verdict on a packet whose flow was not opened; none where it is decided without one.
#[inline(always)]
fn refusal(refused: u32, policy: &Policy, is_in_vain: bool) -> Option<Verdict> {
    const FULL: u32 = Refused::Full as u32;
    const CROWDED: u32 = Refused::Crowded as u32;
    const SERVICE: u32 = Refused::Service as u32;
    const BACKEND: u32 = Refused::Backend as u32;
    const BUSY: u32 = Refused::Busy as u32;
    match refused {
        SERVICE => {
            report::pressure(Pressure::RefusedService);
            Some(Verdict::FlowLimit)
        }
        BACKEND => {
            report::pressure(Pressure::RefusedBackend);
            Some(Verdict::FlowLimit)
        }
        FULL | CROWDED | BUSY
            if is_in_vain || refused != BUSY && policy.on_full == OnFull::Drop as u8 =>
        {
            report::pressure(Pressure::RefusedFull);
            Some(Verdict::FlowRefused)
        }
        FULL | CROWDED => {
            report::pressure(Pressure::StatelessFull);
            None
        }
        BUSY => {
            report::pressure(Pressure::StatelessBusy);
            None
        }
        _ => Some(Verdict::NoSourcePort),
    }
}

#[inline(always)]
fn count_evicted(evicted: u32) {
    const EXPIRED: u32 = Evicted::Expired as u32;
    const CLOSING: u32 = Evicted::Closing as u32;
    const UNCONFIRMED: u32 = Evicted::Unconfirmed as u32;
    match evicted {
        EXPIRED => report::pressure(Pressure::Expired),
        CLOSING => report::pressure(Pressure::EvictedClosing),
        UNCONFIRMED => report::pressure(Pressure::EvictedUnconfirmed),
        _ => {}
    }
}

#[inline(always)]
fn put_together<F: Family>(headers: &Headers<F>, service: &Service, new: &mut New<F>) {
    let segment = &headers.segment;
    let acknowledges = segment.flags & tcp::ACK != 0;
    *new = New {
        request: headers.tuple,
        reply: headers.tuple.reversed(),
        service: service.id,
        backend: 0,
        generation: 0,
        is_one_sided: false,
        sent: segment.sequence.wrapping_add(segment.length),
        acknowledged: if acknowledges { segment.acknowledgement } else { 0 },
        packets: headers.size.packets,
        bytes: headers.size.bytes,
        now: now(),
        begun: exact(),
    };
}
