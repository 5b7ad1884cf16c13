//! What is not a whole TCP or UDP packet: fragments, ICMP errors about packets that we have forwarded, echo requests to
//! VIPs.
//!
//! A program of its own, in which the others go on when their parser meets something else than they are for, so that it
//! costs the rest nothing. Parses the packet again.

use equipoise_common::verdict::Verdict;

use crate::family::Family;
use crate::hook::{Hook, Packet};
use crate::parse::{Headers, Ip, Size};
use crate::{action, leave};

/// Instead of an action: the first fragment of a packet, which is for [`crate::fragment`].
pub const FIRST: u64 = 1 << 63;
/// Instead of an action: a fragment that is not the first.
pub const LATER: u64 = 1 << 62;

/// Beside an action: the packet goes as this CPU's work says ([`crate::slow::complete`]).
pub const GO: u64 = 1 << 61;

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
        // An error is not answered by an error (RFC 1122 section 3.2.2), nor is a fragment that nobody can match.
        let is_answered = verdict.is_answered();
        action(leave::<H>(if is_answered { Verdict::Unanswerable } else { verdict }))
    })
}

/// What the rest needs to know of a packet that has no ports.
#[inline(always)]
pub fn headers<F: Family>(ip: &Ip<F>) -> Headers<F> {
    let length = (ip.end - ip.network) as u32;
    Headers {
        tuple: ip.tuple,
        size: Size { packets: 1, bytes: u64::from(length) },
        class: ip.class,
        length,
        network: ip.network as u16,
        transport: ip.transport as u16,
        segment: Default::default(),
        hop_limit: ip.hop_limit,
    }
}
