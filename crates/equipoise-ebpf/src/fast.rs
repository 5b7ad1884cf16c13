//! The way of nearly every packet: by its flow, at once; and where those go that have none.
//!
//! What costs more than a look-up is left to other programs, so that the rest does not pay for it.

use equipoise_common::step::What;
use equipoise_common::value::Service;
use equipoise_common::verdict::Verdict;

use crate::family::Family;
use crate::flow::{Decision, Found, Passage};
use crate::hook::{Hook, Packet, Stage};
use crate::parse::{Headers, Part};
use crate::rewrite::{self, Hops};
use crate::slow::hand_on;
use crate::table::others;
use crate::{
    TURN, action, carry, filter, forward, leave, observes, on, probe, report, service, stateless,
};

/// A packet that comes in: by its flow, or by the slow path.
#[inline(always)]
pub fn balance<H: Hook, F: Family>(
    hook: &H,
    packet: &Packet,
    headers: &Headers<F>,
) -> Result<u64, Verdict> {
    parsed(headers);
    if !filter::may_be_ours(&headers.tuple) {
        return Err(Verdict::NoService);
    }
    let mut decision = Decision::none(headers);
    let found = F::look_up(headers, Passage::In, &mut decision);
    match found {
        Found::Flow | Found::Eventful => {}
        Found::Apart | Found::ApartEventful => {
            let sent = Verdict::ForwardedRequest;
            return carry::hand_over(headers, &decision, (found, Part::WHOLE), sent);
        }
        Found::Reset => {
            let none = Service { id: 0, pool: 0 };
            return hand_on(headers, &decision, (found, Part::WHOLE), none);
        }
        Found::Nothing | Found::Idle | Found::Replaced | Found::Reselected => {
            if found == Found::Nothing && others::is_moving() {
                return Ok(on(Stage::Elsewhere));
            }
            match service::find(hook, headers) {
                Ok(service) => {
                    return hand_on(headers, &decision, (found, Part::WHOLE), service);
                }
                Err(Verdict::NoService) if stateless::reply(headers, &mut decision) => {
                    // A check, or a connection that this host has taken up, may be at that very place.
                    if service::is_own(hook, headers) {
                        return Err(Verdict::LocalSocket);
                    }
                }
                // What XDP in the driver passes, TC takes up.
                Err(Verdict::NoService) if H::IS_LAST && probe::are_made() => {
                    return answered(headers, Verdict::ProbeAnswer);
                }
                Err(verdict) => return Err(verdict),
            }
        }
    }
    match forward::forward::<_, _, false>(hook, packet, headers, &decision) {
        // What TC takes up is noted there, and told of with it: here it has been taken off again.
        Ok(sent) if !H::IS_LAST && sent == H::pass() => Ok(action(sent)),
        Ok(sent) => turned(headers, &decision, found, action(sent)),
        Err(verdict) => {
            F::leave(decision.at, headers);
            if verdict.is_answered() { answered(headers, verdict) } else { Err(verdict) }
        }
    }
}

/// Leaves a packet to the program that answers it.
#[inline(always)]
fn answered<F: Family>(headers: &Headers<F>, verdict: Verdict) -> Result<u64, Verdict> {
    if observes() {
        return Err(verdict);
    }
    let Some(work) = F::work() else { return Err(Verdict::FlowRefused) };
    work.headers = *headers;
    work.verdict = verdict as u32;
    Ok(on(Stage::Answer))
}

/// The action, with word of an eventful packet left for when the stack is free.
#[inline(always)]
pub fn turned<F: Family>(
    headers: &Headers<F>,
    decision: &Decision<F>,
    found: Found,
    action: u64,
) -> Result<u64, Verdict> {
    if found != Found::Eventful {
        return Ok(action);
    }
    if let Some(work) = F::work() {
        work.headers.segment = headers.segment;
        work.at = decision.at;
    }
    Ok(action | TURN)
}

/// A packet that goes out: only replies are ours here, and the stack sends them.
#[inline(always)]
pub fn answer<H: Hook, F: Family>(
    hook: &H,
    packet: &Packet,
    headers: &Headers<F>,
) -> Result<u64, Verdict> {
    parsed(headers);
    if !filter::may_be_ours(&headers.tuple) {
        return Err(Verdict::Outgoing);
    }
    let mut reply = Decision::none(headers);
    let found = F::look_up(headers, hook.passage(), &mut reply);
    match found {
        Found::Flow | Found::Eventful => {}
        Found::Apart | Found::ApartEventful => {
            let sent = Verdict::RewrittenReply;
            return carry::hand_over(headers, &reply, (found, Part::WHOLE), sent);
        }
        // There is nobody on this side to be answered.
        Found::Reset => return Err(Verdict::Unanswerable),
        Found::Nothing | Found::Idle | Found::Replaced | Found::Reselected => {
            if found == Found::Nothing && others::is_moving() {
                return Ok(on(Stage::Elsewhere));
            }
            return probe::outgoing(hook, headers);
        }
    }
    if !observes() {
        rewrite::apply(hook, packet, headers, &reply.to, Hops::Keep)?;
    }
    report::packet(headers, &reply);
    turned(headers, &reply, found, action(leave::<H>(Verdict::RewrittenReply)))
}

#[inline(always)]
fn parsed<F: Family>(headers: &Headers<F>) {
    let tuple = &headers.tuple;
    let ports = u64::from(tuple.source_port.get()) << 16 | u64::from(tuple.destination_port.get());
    report::step(What::Parsed, tuple.protocol, ports);
}
