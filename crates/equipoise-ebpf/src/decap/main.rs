//! The programs that take packets out of their encapsulation, on a backend that has no tunnel device.
//!
//! A packet inside another, or inside GUE, is looked at from outside to inside: whether it is for this
//! host, from whom, in one piece, and for which VIP. Only then its outer header goes, and the stack gets what
//! was inside. On their way out, packets that open connections of VIPs tell of segments that fit. Every way
//! out is a [`Verdict`], counted once, here. An object of its own, which shares no map with the balancer's.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod clamp;
#[path = "../ethernet.rs"]
mod ethernet;
#[path = "../hide.rs"]
mod hide;
mod hook;
mod inner;
mod map;
#[path = "../mss.rs"]
mod mss;
mod outer;
#[path = "../packet.rs"]
#[expect(dead_code, reason = "the balancer's programs use the rest")]
mod packet;

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use equipoise_common::decap::{Verdict, congestion};
use equipoise_common::verdict::Kind;

use ethernet::{ETHERNET, NoNetwork};
use hook::{Hook, Tc, Xdp};
use map::VERDICTS;

/// Where packets come in, in the driver or in the stack.
#[xdp(frags)]
fn decap_xdp(context: XdpContext) -> u32 {
    incoming(&Xdp(context)) as u32
}

/// The same at TC ingress.
#[classifier]
fn decap_in(context: TcContext) -> i32 {
    incoming(&Tc::<false>(context))
}

/// At TC egress: what opens connections of VIPs.
#[classifier]
fn decap_out(context: TcContext) -> i32 {
    let hook = Tc::<true>(context);
    let verdict = clamp::clamp(&hook).unwrap_or_else(|why| why);
    leave(&hook, verdict)
}

#[inline(always)]
fn incoming<H: Hook>(hook: &H) -> i32 {
    let verdict = decapsulate(hook).unwrap_or_else(|why| why);
    leave(hook, verdict)
}

#[inline(always)]
fn decapsulate<H: Hook>(hook: &H) -> Result<Verdict, Verdict> {
    let outer = outer::find(hook)?;
    outer::admit(hook, &outer)?;
    let inner = inner::check(hook, &outer)?;
    let told = congestion(outer.congestion, inner.congestion).ok_or(Verdict::Congested)?;
    hook.cut(&outer)?;
    if told != inner.congestion {
        inner::tell(hook, &outer, told).ok_or(Verdict::Failed)?;
    }
    Ok(outer.how)
}

/// Counts the way out, and answers with the program's action.
#[inline(always)]
fn leave<H: Hook>(_hook: &H, verdict: Verdict) -> i32 {
    if let Some(counter) = VERDICTS.get_ptr_mut(verdict.counter(H::HOOK)) {
        // SAFETY: this CPU's own entry, and nothing else runs on it meanwhile.
        unsafe { *counter += 1 };
    }
    match verdict.kind() {
        Kind::Drop => H::DROP,
        Kind::Forward | Kind::Answer | Kind::Stack | Kind::Pass => H::PASS,
    }
}

/// Where the IP header is.
#[inline(always)]
fn network<H: Hook>(hook: &H) -> Result<ethernet::Network, Verdict> {
    /// The shortest IP header.
    const IP: usize = 20;
    ethernet::network(&hook.window(ETHERNET + IP)).map_err(|why| match why {
        NoNetwork::Short => Verdict::Malformed,
        NoNetwork::NotIp => Verdict::NotIp,
    })
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers of the kernel that we call are for GPL-compatible programs alone.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
