//! The packet programs: one text for XDP and TC, IPv4 and IPv6.
//!
//! A packet is parsed, looked up in the flow table, and on a hit rewritten and sent. On a miss it
//! is for a service, and opens a flow, or it is none of ours and goes on untouched. Every way out
//! is a [`Verdict`], counted once, here.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "atomics for this target are intrinsics alone")]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key that is passed by value is copied to a stack of 512 bytes"
)]

mod family;
mod flow;
mod forward;
mod hook;
mod map;
mod packet;
mod parse;
mod report;
mod rewrite;
mod select;
mod service;

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use equipoise_common::step::What;
use equipoise_common::verdict::{Kind, Verdict};

use family::Family;
use flow::Decision;
use forward::Route;
use hook::{Hook, Packet, Refusal, Tc, Xdp};
use parse::{Headers, Network};
use report::Direction;
use rewrite::Hops;

/// On listening interfaces and those that lead to backends, in the driver.
#[xdp(frags)]
fn equipoise_xdp(context: XdpContext) -> u32 {
    incoming(&Xdp::<false>(context)) as u32
}

/// The same in the stack, for drivers without XDP.
#[xdp(frags)]
fn equipoise_xdpg(context: XdpContext) -> u32 {
    incoming(&Xdp::<true>(context)) as u32
}

/// The same at TC ingress.
#[classifier]
fn equipoise_in(context: TcContext) -> i32 {
    incoming(&Tc::<false>(context))
}

/// At TC egress: replies that the stack routes or that this host makes.
#[classifier]
fn equipoise_out(context: TcContext) -> i32 {
    outgoing(&Tc::<true>(context))
}

#[inline(always)]
fn incoming<H: Hook>(hook: &H) -> i32 {
    if !hook.is_for_this_host() {
        return leave::<H>(Verdict::OtherHost);
    }
    match parse::network(&hook.packet().window) {
        Ok(Network::V4(at)) => incoming_ipv4(hook, at),
        Ok(Network::V6(at)) => incoming_ipv6(hook, at),
        Err(verdict) => leave::<H>(verdict),
    }
}

// A function for each family: the kernel gives a program 512 bytes of stack, and the compiler
// would add up what the two need.

#[inline(never)]
fn incoming_ipv4<H: Hook>(hook: &H, at: usize) -> i32 {
    let packet = hook.packet();
    let left = parse::ipv4(&packet, at).and_then(|headers| balance(hook, &packet, &headers));
    left.unwrap_or_else(leave::<H>)
}

#[inline(never)]
fn incoming_ipv6<H: Hook>(hook: &H, at: usize) -> i32 {
    let packet = hook.packet();
    let left = parse::ipv6(&packet, at).and_then(|headers| balance(hook, &packet, &headers));
    left.unwrap_or_else(leave::<H>)
}

#[inline(always)]
fn outgoing<H: Hook>(hook: &H) -> i32 {
    match parse::network(&hook.packet().window) {
        Ok(Network::V4(at)) => outgoing_ipv4(hook, at),
        Ok(Network::V6(at)) => outgoing_ipv6(hook, at),
        Err(verdict) => leave::<H>(verdict),
    }
}

#[inline(never)]
fn outgoing_ipv4<H: Hook>(hook: &H, at: usize) -> i32 {
    let packet = hook.packet();
    let left = parse::ipv4(&packet, at).and_then(|headers| answer(hook, &packet, &headers));
    left.unwrap_or_else(leave::<H>)
}

#[inline(never)]
fn outgoing_ipv6<H: Hook>(hook: &H, at: usize) -> i32 {
    let packet = hook.packet();
    let left = parse::ipv6(&packet, at).and_then(|headers| answer(hook, &packet, &headers));
    left.unwrap_or_else(leave::<H>)
}

/// Counts the way out and answers with the program's action; what is sent or delivered by
/// redirect has an action of its own.
#[inline(always)]
fn leave<H: Hook>(verdict: Verdict) -> i32 {
    report::verdict(H::HOOK, verdict);
    match verdict.kind() {
        Kind::Drop => H::drop(),
        Kind::Forward | Kind::Stack | Kind::Pass => H::pass(),
    }
}

/// A packet that comes in: by its flow, or by a new one.
#[inline(always)]
fn balance<H: Hook, F: Family>(
    hook: &H,
    packet: &Packet,
    headers: &Headers<F>,
) -> Result<i32, Verdict> {
    parsed(headers);
    let mut decision = Decision::none(headers);
    if !flow::find(headers, &mut decision) {
        admit(hook, headers, &mut decision)?;
    }
    forward(hook, packet, headers, &decision)
}

/// A packet of no flow: for a service, or none of ours.
///
/// Not inlined: its stack is wanted only while it runs.
#[inline(never)]
fn admit<H: Hook, F: Family>(
    hook: &H,
    headers: &Headers<F>,
    decision: &mut Decision<F>,
) -> Result<(), Verdict> {
    let service = service::find(hook, headers)?;
    flow::open(headers, &service, decision)
}

/// A packet that goes out: only replies are ours here, and the stack sends them.
#[inline(always)]
fn answer<H: Hook, F: Family>(
    hook: &H,
    packet: &Packet,
    headers: &Headers<F>,
) -> Result<i32, Verdict> {
    parsed(headers);
    let mut reply = Decision::none(headers);
    if !flow::find_reply(headers, hook.noted(), &mut reply) {
        return Err(Verdict::Outgoing);
    }
    rewrite::apply(hook, packet, headers, &reply.to, Hops::Keep)?;
    count(headers, &reply);
    Ok(leave::<H>(Verdict::RewrittenReply))
}

/// Rewrites a packet as its flow says and finds its way.
///
/// What XDP in the driver cannot send it passes as it came, and TC ingress of the same device takes
/// it up: TC can send by any device and resolves neighbours. What TC cannot send is the stack's:
/// requests are rewritten for it; replies stay as they came, since the stack drops an IPv4 packet
/// whose source is an address of this host, and are rewritten when they go out.
#[inline(always)]
fn forward<H: Hook, F: Family>(
    hook: &H,
    packet: &Packet,
    headers: &Headers<F>,
    decision: &Decision<F>,
) -> Result<i32, Verdict> {
    let is_request = decision.direction == Direction::Request;
    let pick = |request: Verdict, reply: Verdict| if is_request { request } else { reply };
    let by_stack = match forward::route(hook, headers, &decision.to) {
        Route::Way(_, _) if headers.hop_limit <= 1 => {
            pick(Verdict::RequestHopLimit, Verdict::ReplyHopLimit)
        }
        Route::Way(hop, link) => match hook.takes(link, &hop) {
            Ok(()) => {
                rewrite::apply(hook, packet, headers, &decision.to, Hops::TakeOne)?;
                count(headers, decision);
                let verdict = pick(Verdict::ForwardedRequest, Verdict::ForwardedReply);
                report::verdict(H::HOOK, verdict);
                return Ok(hook.send(&hop));
            }
            Err(Refusal::NoNeighbour) => {
                pick(Verdict::RequestNoNeighbour, Verdict::ReplyNoNeighbour)
            }
            Err(Refusal::NoRedirect) => pick(Verdict::RequestNoRedirect, Verdict::ReplyNoRedirect),
        },
        Route::Local => pick(Verdict::RequestToLocalBackend, Verdict::ReplyToLocalClient),
        Route::TooBig => pick(Verdict::RequestTooBig, Verdict::ReplyTooBig),
        Route::None => pick(Verdict::RequestNoRoute, Verdict::ReplyNoRoute),
    };
    if !H::IS_LAST {
        flow::leave_to_next_hook(headers);
        return Ok(leave::<H>(by_stack));
    }
    let deliver = by_stack == Verdict::ReplyToLocalClient;
    if is_request || deliver {
        rewrite::apply(hook, packet, headers, &decision.to, Hops::Keep)?;
        count(headers, decision);
    }
    if deliver {
        report::verdict(H::HOOK, by_stack);
        return Ok(hook.deliver());
    }
    Ok(leave::<H>(by_stack))
}

#[inline(always)]
fn count<F: Family>(headers: &Headers<F>, decision: &Decision<F>) {
    report::traffic(decision.service, decision.backend, decision.direction, headers.size);
}

#[inline(always)]
fn parsed<F: Family>(headers: &Headers<F>) {
    let tuple = &headers.tuple;
    let ports = u64::from(tuple.source_port.get()) << 16 | u64::from(tuple.destination_port.get());
    report::step(What::Parsed, tuple.protocol, ports);
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers of the kernel that we call are for GPL-compatible programs alone.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
