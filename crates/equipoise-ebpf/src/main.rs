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
mod carry;
mod encap;
mod ethernet;
mod family;
mod fast;
mod filter;
mod flow;
mod forward;
mod fragment;
mod hide;
mod hook;
mod icmp;
mod limit;
mod map;
mod mss;
mod name;
mod odd;
mod open;
mod packet;
mod parse;
mod pool;
mod prefix;
mod probe;
mod report;
mod rewrite;
mod route;
mod select;
mod service;
mod slow;
mod stateless;
mod table;
mod take;
mod tell;
mod trace;
mod word;

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use equipoise_common::key::{V4, V6};
use equipoise_common::verdict::{Kind, Verdict};

use family::Family;
use hook::{Hook, Stage, Tc, Xdp};
use parse::Network;

/// On listening interfaces and those that lead to backends, in the driver.
#[xdp(frags)]
fn equipoise_xdp(context: XdpContext) -> u32 {
    trace::from_the_start(&Xdp::<false>(context), incoming) as u32
}

/// The same in the stack, for drivers without XDP.
#[xdp(frags)]
fn equipoise_xdpg(context: XdpContext) -> u32 {
    trace::from_the_start(&Xdp::<true>(context), incoming) as u32
}

/// The same at TC ingress.
#[classifier]
fn equipoise_in(context: TcContext) -> i32 {
    trace::from_the_start(&Tc::<false>(context), incoming)
}

/// At TC egress: replies that the stack routes or that this host makes.
#[classifier]
fn equipoise_out(context: TcContext) -> i32 {
    trace::from_the_start(&Tc::<true>(context), outgoing)
}

/// The slow path of the three programs above that see packets come in: [`slow`].
#[xdp(frags)]
fn slow_xdp(context: XdpContext) -> u32 {
    trace::to_the_end(&Xdp::<false>(context), slow_path) as u32
}

/// As [`slow_xdp`], in the stack.
#[xdp(frags)]
fn slow_xdpg(context: XdpContext) -> u32 {
    trace::to_the_end(&Xdp::<true>(context), slow_path) as u32
}

/// As [`slow_xdp`], at TC ingress.
#[classifier]
fn slow_in(context: TcContext) -> i32 {
    trace::to_the_end(&Tc::<false>(context), slow_path)
}

/// What is not a whole TCP or UDP packet, for each of the four: [`odd`].
#[xdp(frags)]
fn odd_xdp(context: XdpContext) -> u32 {
    trace::to_the_end(&Xdp::<false>(context), odd_path) as u32
}

/// As [`odd_xdp`], in the stack.
#[xdp(frags)]
fn odd_xdpg(context: XdpContext) -> u32 {
    trace::to_the_end(&Xdp::<true>(context), odd_path) as u32
}

/// As [`odd_xdp`], at TC ingress.
#[classifier]
fn odd_in(context: TcContext) -> i32 {
    trace::to_the_end(&Tc::<false>(context), odd_path)
}

/// As [`odd_xdp`], at TC egress.
#[classifier]
fn odd_out(context: TcContext) -> i32 {
    trace::to_the_end(&Tc::<true>(context), odd_path)
}

/// What is answered: [`answer`].
#[xdp(frags)]
fn answer_xdp(context: XdpContext) -> u32 {
    trace::to_the_end(&Xdp::<false>(context), answer_path) as u32
}

/// As [`answer_xdp`], in the stack.
#[xdp(frags)]
fn answer_xdpg(context: XdpContext) -> u32 {
    trace::to_the_end(&Xdp::<true>(context), answer_path) as u32
}

/// As [`answer_xdp`], at TC ingress.
#[classifier]
fn answer_in(context: TcContext) -> i32 {
    trace::to_the_end(&Tc::<false>(context), answer_path)
}

/// What is not rewritten alone: [`carry`].
#[xdp(frags)]
fn carry_xdp(context: XdpContext) -> u32 {
    trace::to_the_end(&Xdp::<false>(context), carry_path) as u32
}

/// As [`carry_xdp`], in the stack.
#[xdp(frags)]
fn carry_xdpg(context: XdpContext) -> u32 {
    trace::to_the_end(&Xdp::<true>(context), carry_path) as u32
}

/// As [`carry_xdp`], at TC ingress.
#[classifier]
fn carry_in(context: TcContext) -> i32 {
    trace::to_the_end(&Tc::<false>(context), carry_path)
}

/// As [`carry_xdp`], at TC egress.
#[classifier]
fn carry_out(context: TcContext) -> i32 {
    trace::to_the_end(&Tc::<true>(context), carry_path)
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
        parse::ipv4(hook, &packet, at).and_then(|headers| fast::balance(hook, &packet, &headers)),
    )
}

#[inline(never)]
fn incoming_ipv6<H: Hook>(hook: &H, at: usize) -> u64 {
    let packet = hook.packet();
    concluded::<H>(
        parse::ipv6(hook, &packet, at).and_then(|headers| fast::balance(hook, &packet, &headers)),
    )
}

/// Beside a program's action: the flow's state is to be changed as the packet says.
pub const TURN: u64 = 1 << 32;
/// In place of a program's action, from this bit on: the [`Stage`] that goes on with the packet, and 1.
pub const ON: u32 = 33;

/// That this stage goes on with the packet.
#[inline(always)]
pub const fn on(stage: Stage) -> u64 {
    (stage as u64 + 1) << ON
}

#[inline(always)]
fn concluded<H: Hook>(left: Result<u64, Verdict>) -> u64 {
    left.unwrap_or_else(|verdict| match verdict {
        Verdict::Fragment | Verdict::NotTcpUdp => on(Stage::Odd),
        verdict => action(leave::<H>(verdict)),
    })
}

#[inline(always)]
pub fn action(action: i32) -> u64 {
    u64::from(action as u32)
}

/// Does what is left to do once the stack is free.
#[inline(always)]
fn conclude<H: Hook, F: Family>(hook: &H, concluded: u64) -> i32 {
    if concluded >> ON != 0 {
        return go_on(hook, concluded);
    }
    if concluded & TURN != 0 {
        F::turn();
    }
    concluded as i32
}

/// Leaves the packet to a stage. The places are constants, with which the kernel makes a jump of it.
#[inline(always)]
fn go_on<H: Hook>(hook: &H, concluded: u64) -> i32 {
    const SLOW: u64 = on(Stage::Slow);
    const ODD: u64 = on(Stage::Odd);
    const CARRY: u64 = on(Stage::Carry);
    const ELSEWHERE: u64 = on(Stage::Elsewhere);
    match concluded {
        SLOW => hook.go_on(Stage::Slow),
        ODD => hook.go_on(Stage::Odd),
        CARRY => hook.go_on(Stage::Carry),
        ELSEWHERE => hook.go_on(Stage::Elsewhere),
        _ => hook.go_on(Stage::Answer),
    }
    leave::<H>(Verdict::FlowRefused)
}

/// The end of a stage, which may be the beginning of another.
#[inline(always)]
fn staged<H: Hook>(hook: &H, concluded: u64) -> i32 {
    if concluded >> ON != 0 { go_on(hook, concluded) } else { concluded as i32 }
}

#[inline(always)]
fn slow_path<H: Hook>(hook: &H) -> i32 {
    match parse::network(&hook.packet().window) {
        Ok(Network::V4(_)) => staged(hook, slow::go_on::<H, V4>(hook)),
        Ok(Network::V6(_)) => staged(hook, slow::go_on::<H, V6>(hook)),
        Err(verdict) => leave::<H>(verdict),
    }
}

#[inline(always)]
fn odd_path<H: Hook>(hook: &H) -> i32 {
    match parse::network(&hook.packet().window) {
        Ok(Network::V4(at)) => {
            let left = match icmp_ipv4(hook, at) {
                odd::FIRST => match first_ipv4(hook, at) {
                    left if left & odd::GO != 0 => slow::complete::<H, V4>(hook) | left & TURN,
                    left => left,
                },
                odd::LATER => later_ipv4(hook, at),
                left => left,
            };
            conclude::<H, V4>(hook, left)
        }
        Ok(Network::V6(at)) => {
            let left = match icmp_ipv6(hook, at) {
                odd::FIRST => match first_ipv6(hook, at) {
                    left if left & odd::GO != 0 => slow::complete::<H, V6>(hook) | left & TURN,
                    left => left,
                },
                odd::LATER => later_ipv6(hook, at),
                left => left,
            };
            conclude::<H, V6>(hook, left)
        }
        Err(verdict) => leave::<H>(verdict),
    }
}

#[inline(never)]
fn icmp_ipv4<H: Hook>(hook: &H, at: usize) -> u64 {
    let packet = odd::packet(hook);
    let ip = parse::ip_v4(hook, &packet, at);
    odd::concluded::<H>(ip.and_then(|ip| icmp::take_up(hook, &packet, &ip)))
}

#[inline(never)]
fn icmp_ipv6<H: Hook>(hook: &H, at: usize) -> u64 {
    let packet = odd::packet(hook);
    let ip = parse::ip_v6::<H, true>(hook, &packet, at);
    odd::concluded::<H>(ip.and_then(|ip| icmp::take_up(hook, &packet, &ip)))
}

#[inline(never)]
fn first_ipv4<H: Hook>(hook: &H, at: usize) -> u64 {
    let packet = hook.packet();
    let ip = parse::ip_v4(hook, &packet, at);
    odd::concluded::<H>(ip.and_then(|ip| fragment::first(hook, &packet, ip)))
}

#[inline(never)]
fn first_ipv6<H: Hook>(hook: &H, at: usize) -> u64 {
    let packet = hook.packet();
    let ip = parse::ip_v6::<H, true>(hook, &packet, at);
    odd::concluded::<H>(ip.and_then(|ip| fragment::first(hook, &packet, ip)))
}

#[inline(never)]
fn later_ipv4<H: Hook>(hook: &H, at: usize) -> u64 {
    let packet = hook.packet();
    let ip = parse::ip_v4(hook, &packet, at);
    odd::concluded::<H>(ip.and_then(|ip| fragment::later(hook, &packet, &ip)))
}

#[inline(never)]
fn later_ipv6<H: Hook>(hook: &H, at: usize) -> u64 {
    let packet = hook.packet();
    let ip = parse::ip_v6::<H, true>(hook, &packet, at);
    odd::concluded::<H>(ip.and_then(|ip| fragment::later(hook, &packet, &ip)))
}

#[inline(always)]
fn answer_path<H: Hook>(hook: &H) -> i32 {
    match parse::network(&hook.packet().window) {
        Ok(Network::V4(_)) if probe::may_be_answer::<V4>() => probe::answer::<H, V4>(hook),
        Ok(Network::V6(_)) if probe::may_be_answer::<V6>() => probe::answer::<H, V6>(hook),
        Ok(Network::V4(_)) => answer_ipv4(hook),
        Ok(Network::V6(_)) => answer_ipv6(hook),
        Err(verdict) => leave::<H>(verdict),
    }
}

#[inline(never)]
fn answer_ipv4<H: Hook>(hook: &H) -> i32 {
    answer::give::<H, V4>(hook)
}

#[inline(never)]
fn answer_ipv6<H: Hook>(hook: &H) -> i32 {
    answer::give::<H, V6>(hook)
}

#[inline(always)]
fn carry_path<H: Hook>(hook: &H) -> i32 {
    match parse::network(&hook.packet().window) {
        Ok(Network::V4(_)) => staged(hook, carry::go_on::<H, V4>(hook)),
        Ok(Network::V6(_)) => staged(hook, carry::go_on::<H, V6>(hook)),
        Err(verdict) => leave::<H>(verdict),
    }
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
        parse::ipv4(hook, &packet, at).and_then(|headers| fast::answer(hook, &packet, &headers)),
    )
}

#[inline(never)]
fn outgoing_ipv6<H: Hook>(hook: &H, at: usize) -> u64 {
    let packet = hook.packet();
    concluded::<H>(
        parse::ipv6(hook, &packet, at).and_then(|headers| fast::answer(hook, &packet, &headers)),
    )
}

/// Counts the way out and answers with the program's action; what is sent or delivered by
/// redirect has an action of its own.
#[inline(always)]
pub fn leave<H: Hook>(verdict: Verdict) -> i32 {
    report::verdict(H::HOOK, verdict);
    if observes() {
        return H::pass();
    }
    match verdict.kind() {
        Kind::Drop => H::drop(),
        Kind::Forward | Kind::Answer | Kind::Stack | Kind::Pass => H::pass(),
    }
}

/// Whether packets go on as they have come, whatever is decided about them.
#[inline(always)]
pub fn observes() -> bool {
    map::OBSERVE.load() != 0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers of the kernel that we call are for GPL-compatible programs alone.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
