//! Packets for which rewriting is not all, or not what is to be done: those that go to their backend as they are, by link
//! address or inside another packet, and the first ones of TCP connections whose segments are to be smaller.
//!
//! A program of its own, with a stack and a verification of its own: whoever has decided about such a packet leaves it in
//! [`Work`] and does not come back. Others pay nothing for it.

use equipoise_common::checksum;
use equipoise_common::flow::track::tcp;
use equipoise_common::hash;
use equipoise_common::key::{Be16, FiveTuple, TCP, V4, V6};
use equipoise_common::step::What;
use equipoise_common::tunnel;
use equipoise_common::value::{Backend, Mode, Policy, Snat};
use equipoise_common::verdict::{self, Verdict};

use crate::encap::{self, Carrier, Outer};
use crate::family::{Addresses, Family};
use crate::flow::{Decision, Found, Passage};
use crate::hook::{Change, Hook, Refusal, Stage};
use crate::map::SNAT;
use crate::mss;
use crate::observes;
use crate::parse::{Headers, Part};
use crate::report::Direction;
use crate::rewrite::{self, Hops};
use crate::route::{self, Hop, Route, Wanted};
use crate::slow::{self, Work};
use crate::table::{self, policy};
use crate::{ON, action, leave, on, probe, report};

/// Whether the ends of a connection are to be told a smaller MSS than they ask for, and this packet is one that asks.
#[inline(always)]
pub fn is_lowered<F>(headers: &Headers<F>, policy: &Policy) -> bool {
    headers.segment.flags & tcp::SYN != 0 && policy.mss != Policy::MSS_ANY
}

/// Leaves a packet to this program.
#[inline(always)]
pub fn hand_over<F: Family>(
    headers: &Headers<F>,
    decision: &Decision<F>,
    (found, part): (Found, Part),
    sent: Verdict,
) -> Result<u64, Verdict> {
    let Some(work) = F::work() else { return Err(Verdict::FlowRefused) };
    work.headers = *headers;
    work.decision = *decision;
    work.at = decision.at;
    work.found = found;
    work.part = part;
    work.sent = sent as u32;
    // What is left there is of another packet.
    work.way_is_known = false;
    Ok(on(Stage::Carry))
}

/// Does with the packet in this CPU's work what is to be done.
#[inline(always)]
pub fn go_on<H: Hook, F: Carrier>(hook: &H) -> u64 {
    let Some(work) = F::work() else { return action(leave::<H>(Verdict::FlowRefused)) };
    if work.found == Found::ApartEventful {
        F::turn();
    }
    if observes() {
        report::packet(&work.headers, &work.decision);
        report::number(H::HOOK, work.sent);
        return action(H::pass());
    }
    let is_probe = is_probe::<H, F>(work);
    if is_probe && !probe::address::<H, F>(hook) {
        return action(leave::<H>(Verdict::ProbeUnplaced));
    }
    let Some(entry) = table::backend(work.decision.backend) else {
        return action(leave::<H>(Verdict::FlowRefused));
    };
    if is_probe {
        work.decision.service = u32::from(entry.service);
    }
    work.mode = u32::from(entry.mode());
    work.is_to_v6 = entry.mode & Backend::IS_V6 != 0;
    if !Mode::is_one_sided(entry.mode()) {
        return rewritten::<H, F>(hook);
    }
    work.ends[1] = entry.address;
    if work.mode == GUE {
        // SAFETY: entries are replaced whole; a reader of the old one finds what was right just now.
        match unsafe { SNAT.get(Snat::key(work.decision.backend, 0)) } {
            Some(own) => work.ends[0] = own.address,
            None => return action(leave::<H>(Verdict::NoSourceAddress)),
        }
    }
    let found = if work.is_to_v6 { way_v6::<H, F>(hook) } else { way_v4::<H, F>(hook) };
    if found != SEND && found != STACK {
        return found;
    }
    if !clamp::<H, F>(hook) || !take_hop::<H, F>(hook) {
        return action(leave::<H>(Verdict::RewriteFailed));
    }
    if work.is_to_v6 { send_v6::<H, F>(hook, found) } else { send_v4::<H, F>(hook, found) }
}

/// Whether it is a check of this host's own, which only goes out.
#[inline(always)]
fn is_probe<H: Hook, F>(work: &Work<F>) -> bool {
    H::HOOK as u32 == verdict::Hook::Egress as u32 && work.sent == Verdict::ProbeSent as u32
}

const DSR: u32 = Mode::Dsr as u32;
const GUE: u32 = Mode::Gue as u32;

/// Instead of an action: the packet can be sent by the hop that [`way`] has found.
const SEND: u64 = 1 << 63;
/// Instead of an action: the stack can send it once it is wrapped up.
const STACK: u64 = 1 << 62;

/// A packet that is rewritten, with a smaller MSS.
#[inline(always)]
fn rewritten<H: Hook, F: Family>(hook: &H) -> u64 {
    if hook.passage() == Passage::In {
        let done = slow::complete::<H, F>(hook);
        return if stays::<H, F>(done) || clamp::<H, F>(hook) { done } else { action(H::drop()) };
    }
    if !clamp::<H, F>(hook) {
        return action(leave::<H>(Verdict::RewriteFailed));
    }
    outgoing::<H, F>(hook)
}

/// Whether a packet is as its sender has sent it when this is done: it is answered, which quotes it so, or left.
#[inline(always)]
fn stays<H: Hook, F: Family>(done: u64) -> bool {
    let is_reply = F::work().is_some_and(|work| work.decision.direction == Direction::Reply);
    done >> ON != 0 || done == action(H::pass()) && (is_reply || !H::IS_LAST)
}

#[inline(never)]
fn outgoing<H: Hook, F: Family>(hook: &H) -> u64 {
    let Some(work) = F::work() else { return action(leave::<H>(Verdict::FlowRefused)) };
    let packet = hook.packet();
    let to = &work.decision.to;
    if let Err(verdict) = rewrite::apply(hook, &packet, &work.headers, to, Hops::Keep) {
        return action(leave::<H>(verdict));
    }
    report::packet(&work.headers, &work.decision);
    action(leave::<H>(Verdict::RewrittenReply))
}

// A function for each family of the outer packet, for the stack's sake.

#[inline(never)]
fn way_v4<H: Hook, F: Carrier>(hook: &H) -> u64 {
    way::<H, F, V4>(hook)
}

#[inline(never)]
fn way_v6<H: Hook, F: Carrier>(hook: &H) -> u64 {
    way::<H, F, V6>(hook)
}

#[inline(never)]
fn send_v4<H: Hook, F: Carrier>(hook: &H, found: u64) -> u64 {
    send::<H, F, V4>(hook, found)
}

#[inline(never)]
fn send_v6<H: Hook, F: Carrier>(hook: &H, found: u64) -> u64 {
    send::<H, F, V6>(hook, found)
}

/// The five-tuple that the packet leaves with.
#[inline(always)]
fn leaving<F: Carrier, O: Carrier>(work: &Work<F>) -> FiveTuple<O> {
    let (tuple, [own, backend]) = (&work.headers.tuple, work.ends);
    if work.mode == DSR {
        return FiveTuple {
            source: O::unpack(tuple.source.pack()),
            destination: O::unpack(backend),
            source_port: tuple.source_port,
            destination_port: tuple.destination_port,
            protocol: tuple.protocol,
        };
    }
    let ends = Addresses { source: O::unpack(own), destination: O::unpack(backend) };
    encap::tuple(work.mode as u8, F::IN_IP, flow_hash(work), ends)
}

/// The same for all packets of a flow, but for fragments without ports.
#[inline(always)]
fn flow_hash<F: Family>(work: &Work<F>) -> u64 {
    hash::five_tuple(&work.headers.tuple)
}

/// Finds the packet's way.
#[inline(always)]
fn way<H: Hook, F: Carrier, O: Carrier>(hook: &H) -> u64 {
    let Some(work) = F::work() else { return action(leave::<H>(Verdict::FlowRefused)) };
    let to = leaving::<F, O>(work);
    let overhead = tunnel::overhead(work.mode as u8, O::IS_V6);
    let length = work.headers.length + overhead;
    let wanted = Wanted {
        to,
        backend: work.decision.backend,
        flow: 0,
        length: if length > 0xffff { 0xffff } else { length },
        class: O::class(F::class_of(work.headers.class)),
        now: work.decision.now,
    };
    work.hop_is_known = route::shortcut(hook, &wanted).is_some();
    if !work.hop_is_known {
        match route::find(hook, &wanted) {
            Route::Way(_) => {}
            Route::TooBig => {
                route::shrink(overhead);
                return refuse::<H, F>(Verdict::RequestTooBig);
            }
            Route::Local => return by_stack::<H, F>(Verdict::RequestToLocalBackend),
            Route::Refused(Refusal::NoNeighbour) => {
                return by_stack::<H, F>(Verdict::RequestNoNeighbour);
            }
            Route::Refused(Refusal::NoRedirect) => {
                return by_stack::<H, F>(Verdict::RequestNoRedirect);
            }
            Route::None => return by_stack::<H, F>(Verdict::RequestNoRoute),
        }
    }
    let Some(hop) = hop(work) else { return action(leave::<H>(Verdict::RewriteFailed)) };
    if work.headers.hop_limit <= 1 {
        return refuse::<H, F>(Verdict::RequestHopLimit);
    }
    if work.mode == DSR && !hop.is_to(wanted.to.destination) {
        return action(leave::<H>(Verdict::RequestNotOnLink));
    }
    work.mtu = u32::from(hop.mtu());
    SEND
}

/// The hop that [`way`] has found.
#[inline(always)]
fn hop<F>(work: &Work<F>) -> Option<Hop> {
    if work.hop_is_known { route::known(work.decision.backend) } else { route::asked() }
}

/// A packet that cannot be sent from here.
#[inline(always)]
fn by_stack<H: Hook, F: Family>(verdict: Verdict) -> u64 {
    let Some(work) = F::work() else { return action(leave::<H>(Verdict::FlowRefused)) };
    work.mtu = 0;
    work.by_stack = verdict as u32;
    if !H::IS_LAST {
        F::leave(work.decision.at, &work.headers);
        return action(leave::<H>(verdict));
    }
    if verdict == Verdict::RequestToLocalBackend {
        report::packet(&work.headers, &work.decision);
        return action(leave::<H>(verdict));
    }
    if work.mode == DSR {
        return action(leave::<H>(Verdict::RequestUndeliverable));
    }
    // The stack sees the outer hops alone.
    if work.headers.hop_limit <= 1 { refuse::<H, F>(Verdict::RequestHopLimit) } else { STACK }
}

/// Leaves a packet, or has it answered; an error is not answered by an error (RFC 1122 section 3.2.2), nor is a fragment
/// that nobody can match.
#[inline(always)]
fn refuse<H: Hook, F: Family>(verdict: Verdict) -> u64 {
    let Some(work) = F::work() else { return action(leave::<H>(Verdict::FlowRefused)) };
    let is_error = work.headers.tuple.protocol == F::ICMP;
    if is_error || work.part.marks & Part::LATER != 0 {
        return action(leave::<H>(Verdict::Unanswerable));
    }
    slow::refuse::<H, F>(verdict)
}

/// One hop less. False if the packet has become too short.
#[inline(never)]
fn take_hop<H: Hook, F: Family>(hook: &H) -> bool {
    let Some(work) = F::work() else { return false };
    let tuple = &work.headers.tuple;
    let same = Addresses { source: tuple.source, destination: tuple.destination };
    F::write(&hook.packet(), &work.headers, same, true)
}

/// Sends the packet, or leaves it to the stack.
#[inline(always)]
fn send<H: Hook, F: Carrier, O: Carrier>(hook: &H, found: u64) -> u64 {
    let Some(work) = F::work() else { return action(leave::<H>(Verdict::FlowRefused)) };
    if work.mode != DSR {
        let outer = Outer {
            tuple: leaving::<F, O>(work),
            class: F::class_of(work.headers.class),
            hash: flow_hash(work),
            length: whole_length(hook, &work.headers),
        };
        if !encap::wrap(hook, usize::from(work.headers.network), &outer) {
            return action(leave::<H>(Verdict::RewriteFailed));
        }
        let overhead = tunnel::overhead(work.mode as u8, O::IS_V6);
        report::step(What::Encapsulated, work.mode, u64::from(overhead));
    }
    // An ICMP error is no packet of a flow, and neither is a check.
    if work.headers.tuple.protocol != F::ICMP && !is_probe::<H, F>(work) {
        report::packet(&work.headers, &work.decision);
    }
    if found == STACK {
        report::number(H::HOOK, work.by_stack);
        return action(H::pass());
    }
    let Some(hop) = hop(work) else { return action(leave::<H>(Verdict::RewriteFailed)) };
    report::number(H::HOOK, work.sent);
    action(hook.send(&hop))
}

/// IP bytes of the packet, all segments of it.
#[inline(always)]
fn whole_length<H: Hook, F>(hook: &H, headers: &Headers<F>) -> u32 {
    if headers.size.packets == 1 {
        return headers.length;
    }
    hook.length() as u32 - u32::from(headers.network)
}

/// Lowers the MSS that a SYN asks for to what its service says, or to what goes through the tunnel.
#[inline(never)]
fn clamp<H: Hook, F: Family>(hook: &H) -> bool {
    let Some(work) = F::work() else { return false };
    let headers = &work.headers;
    let Some(policy) = policy(work.decision.service) else { return true };
    let is_asked = headers.tuple.protocol == TCP && headers.segment.flags & tcp::SYN != 0;
    let most = most::<F>(policy.mss, work);
    if !is_asked || most == 0 || work.part.marks & Part::LATER != 0 {
        return true;
    }
    let transport = usize::from(headers.transport);
    hook.pull((transport + mss::TCP_MAX) as u32);
    let window = hook.window();
    let Some(at) = mss::offset(&window, transport) else { return true };
    let Some(old) = mss::lower(&window, at, most) else { return true };
    report::step(What::MssLowered, u32::from(old.get()), u64::from(most));
    let word = |number: Be16| u32::from(checksum::word_at(number.0, at - transport));
    hook.adjust_checksum(&Change {
        protocol: TCP,
        is_v6: F::IS_V6,
        transport,
        addresses: 0,
        ports: checksum::difference(word(old), word(Be16::new(most))),
    })
}

/// The largest MSS that a packet may ask for; 0 for any.
#[inline(always)]
fn most<F: Family>(wanted: u16, work: &Work<F>) -> u16 {
    if wanted != Policy::MSS_FITS {
        return wanted;
    }
    let headers = F::HEADER + mss::TCP_MIN;
    let around = tunnel::overhead(work.mode as u8, work.is_to_v6) + headers as u32;
    if work.mtu > around { (work.mtu - around) as u16 } else { 0 }
}
