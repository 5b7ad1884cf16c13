//! The packet programs: one text for XDP and TC, IPv4 and IPv6.
//!
//! A packet is parsed, looked up in the flow table, and on a hit rewritten and sent. On a miss it
//! is for a service, and opens a flow, or it is none of ours and goes on untouched. Every way out
//! is a [`Verdict`], counted once, here.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "atomics for this target are intrinsics alone")]

mod answer;
#[cfg(feature = "bench")]
mod bench;
mod ethernet;
mod family;
mod filter;
mod flow;
mod forward;
mod hook;
mod map;
mod open;
mod packet;
mod parse;
mod report;
mod rewrite;
mod route;
mod select;
mod service;
mod slow;
mod stateless;
mod table;

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use equipoise_common::key::{V4, V6};
use equipoise_common::step::What;
use equipoise_common::value::Service;
use equipoise_common::verdict::{Kind, Verdict};

use family::Family;
use flow::{Decision, Found, Passage};
use hook::{Hook, Packet, Tc, Xdp};
use parse::{Headers, Network};
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

/// The slow path of the three programs above that see packets come in.
#[xdp(frags)]
fn slow_xdp(context: XdpContext) -> u32 {
    slow_path(&Xdp::<false>(context)) as u32
}

/// As [`slow_xdp`], in the stack.
#[xdp(frags)]
fn slow_xdpg(context: XdpContext) -> u32 {
    slow_path(&Xdp::<true>(context)) as u32
}

/// As [`slow_xdp`], at TC ingress.
#[classifier]
fn slow_in(context: TcContext) -> i32 {
    slow_path(&Tc::<false>(context))
}

#[inline(always)]
fn incoming<H: Hook>(hook: &H) -> i32 {
    if !hook.is_for_this_host() {
        return leave::<H>(Verdict::OtherHost);
    }
    match parse::network(&hook.packet().window) {
        Ok(Network::V4(at)) => conclude::<H, V4>(hook, incoming_ipv4(hook, at)),
        Ok(Network::V6(at)) => conclude::<H, V6>(hook, incoming_ipv6(hook, at)),
        Err(verdict) => leave::<H>(verdict),
    }
}

// A function for each family: the kernel gives a program 512 bytes of stack, and the compiler
// would add up what the two need. What is called from the entry points alone has their stack to itself.

#[inline(never)]
fn incoming_ipv4<H: Hook>(hook: &H, at: usize) -> u64 {
    let packet = hook.packet();
    concluded::<H>(
        parse::ipv4(hook, &packet, at).and_then(|headers| balance(hook, &packet, &headers)),
    )
}

#[inline(never)]
fn incoming_ipv6<H: Hook>(hook: &H, at: usize) -> u64 {
    let packet = hook.packet();
    concluded::<H>(
        parse::ipv6(hook, &packet, at).and_then(|headers| balance(hook, &packet, &headers)),
    )
}

/// Beside a program's action: the flow's state is to be changed as the packet says.
const TURN: u64 = 1 << 32;
/// In place of a program's action: the slow path goes on with the packet.
const SLOW: u64 = 1 << 33;

#[inline(always)]
fn concluded<H: Hook>(left: Result<u64, Verdict>) -> u64 {
    left.unwrap_or_else(|verdict| action(leave::<H>(verdict)))
}

#[inline(always)]
pub fn action(action: i32) -> u64 {
    u64::from(action as u32)
}

/// Does what is left to do once the stack is free.
#[inline(always)]
fn conclude<H: Hook, F: Family>(hook: &H, concluded: u64) -> i32 {
    if concluded & SLOW != 0 {
        hook.go_slow();
        return leave::<H>(Verdict::FlowRefused);
    }
    if concluded & TURN != 0 {
        F::turn();
    }
    concluded as i32
}

#[inline(always)]
fn slow_path<H: Hook>(hook: &H) -> i32 {
    match parse::network(&hook.packet().window) {
        Ok(Network::V4(_)) => slow::go_on::<H, V4>(hook, begin_ipv4, complete_ipv4),
        Ok(Network::V6(_)) => slow::go_on::<H, V6>(hook, begin_ipv6, complete_ipv6),
        Err(verdict) => leave::<H>(verdict),
    }
}

#[inline(never)]
fn begin_ipv4<H: Hook>(hook: &H) -> u64 {
    slow::begin::<H, V4>(hook)
}

#[inline(never)]
fn begin_ipv6<H: Hook>(hook: &H) -> u64 {
    slow::begin::<H, V6>(hook)
}

#[inline(never)]
fn complete_ipv4<H: Hook>(hook: &H, opened: u64) -> i32 {
    slow::complete::<H, V4>(hook, opened)
}

#[inline(never)]
fn complete_ipv6<H: Hook>(hook: &H, opened: u64) -> i32 {
    slow::complete::<H, V6>(hook, opened)
}

#[inline(always)]
fn outgoing<H: Hook>(hook: &H) -> i32 {
    match parse::network(&hook.packet().window) {
        Ok(Network::V4(at)) => conclude::<H, V4>(hook, outgoing_ipv4(hook, at)),
        Ok(Network::V6(at)) => conclude::<H, V6>(hook, outgoing_ipv6(hook, at)),
        Err(verdict) => leave::<H>(verdict),
    }
}

#[inline(never)]
fn outgoing_ipv4<H: Hook>(hook: &H, at: usize) -> u64 {
    let packet = hook.packet();
    concluded::<H>(
        parse::ipv4(hook, &packet, at).and_then(|headers| answer(hook, &packet, &headers)),
    )
}

#[inline(never)]
fn outgoing_ipv6<H: Hook>(hook: &H, at: usize) -> u64 {
    let packet = hook.packet();
    concluded::<H>(
        parse::ipv6(hook, &packet, at).and_then(|headers| answer(hook, &packet, &headers)),
    )
}

/// Counts the way out and answers with the program's action; what is sent or delivered by
/// redirect has an action of its own.
#[inline(always)]
pub fn leave<H: Hook>(verdict: Verdict) -> i32 {
    report::verdict(H::HOOK, verdict);
    match verdict.kind() {
        Kind::Drop => H::drop(),
        Kind::Forward | Kind::Answer | Kind::Stack | Kind::Pass => H::pass(),
    }
}

/// A packet that comes in: by its flow, or by the slow path.
#[inline(always)]
fn balance<H: Hook, F: Family>(
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
        Found::Reset => return hand_on(headers, &decision, found, Service { id: 0, pool: 0 }),
        Found::Nothing | Found::Idle | Found::Replaced | Found::Reselected => {
            match service::find(hook, headers) {
                Ok(service) => return hand_on(headers, &decision, found, service),
                Err(Verdict::NoService) if stateless::reply(headers, &mut decision) => {}
                Err(verdict) => return Err(verdict),
            }
        }
    }
    let action = action(forward::forward::<_, _, false>(hook, packet, headers, &decision)?);
    turned(headers, &decision, found, action)
}

/// Leaves a packet to the slow path.
#[inline(always)]
fn hand_on<F: Family>(
    headers: &Headers<F>,
    decision: &Decision<F>,
    found: Found,
    service: Service,
) -> Result<u64, Verdict> {
    let Some(work) = F::work() else { return Err(Verdict::FlowRefused) };
    work.headers = *headers;
    work.service = service;
    work.at = decision.at;
    work.flow_service = decision.service;
    work.found = found;
    Ok(SLOW)
}

/// The action, with word of an eventful packet left for when the stack is free.
#[inline(always)]
fn turned<F: Family>(
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
fn answer<H: Hook, F: Family>(
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
        // There is nobody on this side to be answered.
        Found::Reset => return Err(Verdict::Unanswerable),
        Found::Nothing | Found::Idle | Found::Replaced | Found::Reselected => {
            return Err(Verdict::Outgoing);
        }
    }
    rewrite::apply(hook, packet, headers, &reply.to, Hops::Keep)?;
    report::packet(headers, &reply);
    turned(headers, &reply, found, action(leave::<H>(Verdict::RewrittenReply)))
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
