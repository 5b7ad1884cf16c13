//! Sending a packet on, or leaving that to the stack where it cannot be sent from here.

use equipoise_common::verdict::Verdict;

use crate::family::Family;
use crate::flow::Decision;
use crate::hook::{Hook, Packet, Refusal};
use crate::parse::Headers;
use crate::report::{self, Direction};
use crate::rewrite::{self, Hops};
use crate::route::{self, Route, Wanted};
use crate::{leave, observes};

/// A packet on its way.
pub struct Passing<'a, H, F> {
    /// Where it is.
    pub hook: &'a H,
    /// As it has come.
    pub packet: &'a Packet,
    /// As it has come.
    pub headers: &'a Headers<F>,
    /// Where it goes.
    pub decision: &'a Decision<F>,
}

/// How a kind of packet is rewritten.
pub trait Change<H, F> {
    /// The verdicts on a request and on a reply that are sent.
    const SENT: [Verdict; 2];
    /// Makes the packet what has been decided.
    fn apply(&self, passing: &Passing<'_, H, F>, hops: Hops) -> Result<(), Verdict>;
    /// Counts it for its service and its backend.
    fn count(&self, passing: &Passing<'_, H, F>);
}

/// A whole TCP or UDP packet.
struct Whole;

impl<H: Hook, F: Family> Change<H, F> for Whole {
    const SENT: [Verdict; 2] = [Verdict::ForwardedRequest, Verdict::ForwardedReply];

    #[inline(always)]
    fn apply(&self, passing: &Passing<'_, H, F>, hops: Hops) -> Result<(), Verdict> {
        let Passing { hook, packet, headers, decision } = *passing;
        rewrite::apply(hook, packet, headers, &decision.to, hops)
    }

    #[inline(always)]
    fn count(&self, passing: &Passing<'_, H, F>) {
        report::packet(passing.headers, passing.decision);
    }
}

/// Sends a packet as its flow says. `FIRST` is true for the first packet of a flow.
#[inline(always)]
pub fn forward<H: Hook, F: Family, const FIRST: bool>(
    hook: &H,
    packet: &Packet,
    headers: &Headers<F>,
    decision: &Decision<F>,
) -> Result<i32, Verdict> {
    by::<_, _, _, FIRST>(&Passing { hook, packet, headers, decision }, &Whole)
}

/// Finds the way of a packet, rewrites it and sends it.
///
/// What XDP in the driver cannot send it passes as it came, and TC ingress of the same device takes
/// it up: TC can send by any device and resolves neighbours. What TC cannot send is the stack's:
/// requests are rewritten for it; replies stay as they came, since the stack drops an IPv4 packet
/// whose source is an address of this host, and are rewritten when they go out.
#[inline(always)]
pub fn by<H: Hook, F: Family, C: Change<H, F>, const FIRST: bool>(
    passing: &Passing<'_, H, F>,
    change: &C,
) -> Result<i32, Verdict> {
    let Passing { hook, packet, headers, decision } = *passing;
    let is_request = decision.direction == Direction::Request;
    let pick = |request: Verdict, reply: Verdict| if is_request { request } else { reply };
    if observes() {
        change.count(passing);
        let [request, reply] = C::SENT;
        return Ok(leave::<H>(pick(request, reply)));
    }
    let by_stack = match way::<H, F, FIRST>(hook, headers, decision) {
        Route::Way(_) if headers.hop_limit <= 1 => {
            return Err(pick(Verdict::RequestHopLimit, Verdict::ReplyHopLimit));
        }
        Route::Way(hop) => {
            change.apply(passing, Hops::TakeOne)?;
            change.count(passing);
            let [request, reply] = C::SENT;
            report::verdict(H::HOOK, pick(request, reply));
            return Ok(hook.send(&hop));
        }
        Route::Refused(Refusal::NoNeighbour) => {
            pick(Verdict::RequestNoNeighbour, Verdict::ReplyNoNeighbour)
        }
        Route::Refused(Refusal::NoRedirect) => {
            pick(Verdict::RequestNoRedirect, Verdict::ReplyNoRedirect)
        }
        Route::Local => pick(Verdict::RequestToLocalBackend, Verdict::ReplyToLocalClient),
        Route::TooBig if F::may_be_cut(packet, headers) => {
            pick(Verdict::RequestToFragment, Verdict::ReplyToFragment)
        }
        Route::TooBig => return Err(pick(Verdict::RequestTooBig, Verdict::ReplyTooBig)),
        Route::None => pick(Verdict::RequestNoRoute, Verdict::ReplyNoRoute),
    };
    if !H::IS_LAST {
        F::leave(decision.at, headers);
        return Ok(leave::<H>(by_stack));
    }
    let deliver = by_stack == Verdict::ReplyToLocalClient;
    if is_request || deliver {
        change.apply(passing, Hops::Keep)?;
        change.count(passing);
    }
    if deliver {
        report::verdict(H::HOOK, by_stack);
        return Ok(hook.deliver());
    }
    Ok(leave::<H>(by_stack))
}

/// The way of a packet: the one that packets to the same backend, or replies of its flow, have just taken, or what the routing table says. The
/// slow path, which has little stack, finds out about the first packet of a flow before, and keeps its way after.
#[inline(always)]
pub fn way<H: Hook, F: Family, const FIRST: bool>(
    hook: &H,
    headers: &Headers<F>,
    decision: &Decision<F>,
) -> Route {
    let wanted = Wanted::of(headers, decision);
    if FIRST {
        let is_known = F::work().is_some_and(|work| work.way_is_known);
        return match route::known(decision.backend) {
            Some(hop) if is_known => Route::Way(hop),
            _ => route::ask(hook, &wanted),
        };
    }
    if let Some(hop) = route::shortcut(hook, &wanted) {
        return Route::Way(hop);
    }
    route::find(hook, &wanted)
}
