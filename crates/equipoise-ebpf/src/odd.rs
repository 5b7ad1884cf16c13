//! What is not a whole TCP or UDP packet: ICMP errors about packets that we have forwarded, echo requests to VIPs.
//!
//! A program of its own, in which the others go on when their parser meets something else than they are for, so that it
//! costs the rest nothing. Parses the packet again.

use equipoise_common::verdict::Verdict;

use crate::family::Family;
use crate::hook::{Hook, Packet};
use crate::parse::Ip;
use crate::{action, icmp, leave};

/// The packet, with as much of it within reach as an ICMP error's quote takes.
#[inline(always)]
pub fn packet<H: Hook>(hook: &H) -> Packet {
    /// Ethernet, two VLAN tags, IP headers with options outside and quoted, ICMP's own, the start of TCP.
    const WITH_QUOTE: u32 = 14 + 8 + 60 + 8 + 60 + 20;
    hook.pull(WITH_QUOTE);
    hook.packet()
}

/// The action, or the stage that goes on.
#[inline(always)]
pub fn concluded<H: Hook>(left: Result<u64, Verdict>) -> u64 {
    left.unwrap_or_else(|verdict| {
        // An error is not answered by an error (RFC 1122 section 3.2.2).
        let is_answered = verdict.is_answered();
        action(leave::<H>(if is_answered { Verdict::Unanswerable } else { verdict }))
    })
}

/// Does with a packet what is to be done.
#[inline(always)]
pub fn take_up<H: Hook, F: Family>(hook: &H, packet: &Packet, ip: &Ip<F>) -> Result<u64, Verdict> {
    if ip.part.marks != 0 {
        return Err(Verdict::Fragment);
    }
    if ip.tuple.protocol != F::ICMP {
        return Err(Verdict::NotTcpUdp);
    }
    icmp::take_up(hook, packet, ip)
}
