//! Sending a packet on, or leaving that to the stack where it cannot be sent from here.

use equipoise_common::verdict::Verdict;

use crate::family::Family;
use crate::flow::Decision;
use crate::hook::{Hook, Packet, Refusal};
use crate::leave;
use crate::parse::Headers;
use crate::report::{self, Direction};
use crate::rewrite::{self, Hops};
use crate::route::{self, Route};

/// Rewrites a packet as its flow says and finds its way.
///
/// What XDP in the driver cannot send it passes as it came, and TC ingress of the same device takes
/// it up: TC can send by any device and resolves neighbours. What TC cannot send is the stack's:
/// requests are rewritten for it; replies stay as they came, since the stack drops an IPv4 packet
/// whose source is an address of this host, and are rewritten when they go out. `FIRST` is true for the first packet of
/// a flow.
#[inline(always)]
pub fn forward<H: Hook, F: Family, const FIRST: bool>(
    hook: &H,
    packet: &Packet,
    headers: &Headers<F>,
    decision: &Decision<F>,
) -> Result<i32, Verdict> {
    let is_request = decision.direction == Direction::Request;
    let pick = |request: Verdict, reply: Verdict| if is_request { request } else { reply };
    let by_stack = match way::<H, F, FIRST>(hook, headers, decision) {
        Route::Way(_) if headers.hop_limit <= 1 => {
            pick(Verdict::RequestHopLimit, Verdict::ReplyHopLimit)
        }
        Route::Way(hop) => {
            rewrite::apply(hook, packet, headers, &decision.to, Hops::TakeOne)?;
            report::packet(headers, decision);
            let verdict = pick(Verdict::ForwardedRequest, Verdict::ForwardedReply);
            report::verdict(H::HOOK, verdict);
            return Ok(hook.send(&hop));
        }
        Route::Refused(Refusal::NoNeighbour) => {
            pick(Verdict::RequestNoNeighbour, Verdict::ReplyNoNeighbour)
        }
        Route::Refused(Refusal::NoRedirect) => {
            pick(Verdict::RequestNoRedirect, Verdict::ReplyNoRedirect)
        }
        Route::Local => pick(Verdict::RequestToLocalBackend, Verdict::ReplyToLocalClient),
        Route::TooBig => pick(Verdict::RequestTooBig, Verdict::ReplyTooBig),
        Route::None => pick(Verdict::RequestNoRoute, Verdict::ReplyNoRoute),
    };
    if !H::IS_LAST {
        if !report::is_dry() {
            F::leave(decision.at, headers);
        }
        return Ok(leave::<H>(by_stack));
    }
    let deliver = by_stack == Verdict::ReplyToLocalClient;
    if is_request || deliver {
        rewrite::apply(hook, packet, headers, &decision.to, Hops::Keep)?;
        report::packet(headers, decision);
    }
    if deliver {
        report::verdict(H::HOOK, by_stack);
        return Ok(hook.deliver());
    }
    Ok(leave::<H>(by_stack))
}

/// The way of a packet: the one that packets to the same backend have just taken, or what the routing table says. The
/// slow path, which has little stack, finds out about the first packet of a flow before, and keeps its way after.
#[inline(always)]
pub fn way<H: Hook, F: Family, const FIRST: bool>(
    hook: &H,
    headers: &Headers<F>,
    decision: &Decision<F>,
) -> Route {
    if FIRST {
        let is_known = F::work().is_some_and(|work| work.way_is_known);
        return match route::known(decision.backend) {
            Some(hop) if is_known => Route::Way(hop),
            _ => route::ask(hook, headers, decision),
        };
    }
    if decision.direction != Direction::Request {
        return route::ask(hook, headers, decision);
    }
    if let Some(hop) = route::shortcut(hook, headers, decision) {
        return Route::Way(hop);
    }
    let route = route::ask(hook, headers, decision);
    route::keep(headers, decision);
    route
}
