//! Packets turned round: a RST for a TCP packet, an ICMP error for any.
//!
//! A program of its own: whoever finds that a packet is to be answered leaves its headers and the verdict in [`Work`].
//! The answer is made in place of the packet and leaves by the device that it came by, to the link
//! address that it came from. A RST has the sequence number that its receiver expects, out of the very
//! acknowledgement that it answers (RFC 9293 section 3.10.7), so it is exact also where a challenge
//! acknowledgement asks for that (RFC 5961 section 3.2). An ICMP error quotes the packet as its sender has sent it.

use equipoise_common::checksum;
use equipoise_common::flow::track::tcp;
use equipoise_common::key::{Be16, FiveTuple, TCP};
use equipoise_common::verdict::Verdict;

use crate::family::Family;
use crate::hide::forget;
use crate::hook::Hook;
use crate::leave;
use crate::limit;
use crate::packet::{Window, move_link_header};
use crate::parse::Headers;
use crate::report;
use crate::route;
use crate::slow::Work;

const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// Of an ICMP error, before what it quotes.
const ICMP_HEADER: usize = 8;
/// Hops that an answer may take.
pub const HOPS: u8 = 64;

/// An ICMP error.
struct Error<F> {
    /// Type and code.
    kind: u16,
    /// What follows the checksum, in network order.
    rest: u32,
    /// Whom it is from, and whom it is for.
    ends: FiveTuple<F>,
}

/// Answers the packet that this CPU's work has, as the verdict there says.
#[inline(always)]
pub fn give<H: Hook, F: Family>(hook: &H) -> i32 {
    const UNREACHABLE: u32 = Verdict::UnreachableNoBackend as u32;
    const REQUEST_HOPS: u32 = Verdict::RequestHopLimit as u32;
    const REPLY_HOPS: u32 = Verdict::ReplyHopLimit as u32;
    const REQUEST_SIZE: u32 = Verdict::RequestTooBig as u32;
    const REPLY_SIZE: u32 = Verdict::ReplyTooBig as u32;
    let Some(work) = F::work() else { return leave::<H>(Verdict::FlowRefused) };
    let headers = &work.headers;
    let mut ends = headers.tuple;
    let (kind, rest, from_host, tokens) = match work.verdict {
        UNREACHABLE => (F::PORT_UNREACHABLE, 0, false, 0),
        REQUEST_HOPS | REPLY_HOPS => (F::HOPS_EXCEEDED, 0, true, 1),
        REQUEST_SIZE | REPLY_SIZE => (F::TOO_BIG, u32::from(route::too_small()).to_be(), true, 2),
        _ => {
            // No answer to an answer: two ends would go on for ever (RFC 9293 section 3.5.2). And none to a fragment: its
            // header, which an answer keeps, would have the receiver wait for more.
            if headers.is_reset() || work.part.marks != 0 {
                return leave::<H>(Verdict::Unanswerable);
            }
            return finish(hook, work, reset(hook, headers));
        }
    };
    if from_host {
        match F::host(hook.interface()) {
            Some(host) => ends.destination = host,
            None => return leave::<H>(Verdict::Unanswerable),
        }
    }
    if !limit::error_takes(tokens) {
        return leave::<H>(Verdict::AnswerLimit);
    }
    finish(hook, work, error(hook, headers, &Error { kind, rest, ends }))
}

#[inline(always)]
fn finish<H: Hook, F: Family>(hook: &H, work: &Work<F>, made: bool) -> i32 {
    if !made {
        return leave::<H>(Verdict::RewriteFailed);
    }
    report::number(H::HOOK, work.verdict);
    hook.bounce()
}

#[inline(always)]
fn reset<H: Hook, F: Family>(hook: &H, headers: &Headers<F>) -> bool {
    let transport = usize::from(headers.transport);
    let network = usize::from(headers.network);
    if !hook.truncate((transport + TCP_HEADER) as u32) {
        return false;
    }
    // Asked for before the header is made, since the question writes to it.
    let partial = hook.has_partial_checksum((transport + 16) as u32);
    let window = hook.window();
    if !swap_link_addresses(&window)
        || !F::turn_round(&window, headers, (transport + TCP_HEADER - network) as u16)
    {
        return false;
    }
    let Some(header) = window.header::<TCP_HEADER>(transport) else { return false };
    let segment = &headers.segment;
    let (sequence, acknowledgement, flags) = if segment.flags & tcp::ACK != 0 {
        (segment.acknowledgement, 0, tcp::RST)
    } else {
        (0, segment.sequence.wrapping_add(segment.length), tcp::RST | tcp::ACK)
    };
    let ports =
        u32::from(headers.tuple.destination_port.0) | u32::from(headers.tuple.source_port.0) << 16;
    let words = [
        ports,
        sequence.to_be(),
        acknowledgement.to_be(),
        // Five words of header, the flags, no window.
        (0x5000_0000 | u32::from(flags) << 16).to_be(),
    ];
    let pseudo = F::pseudo(&headers.tuple, TCP as u8, TCP_HEADER as u16);
    let sum = pseudo + words.iter().map(|&word| u64::from(word)).sum::<u64>();
    header.store::<u32, 0>(words[0]);
    header.store::<u32, 4>(words[1]);
    header.store::<u32, 8>(words[2]);
    header.store::<u32, 12>(words[3]);
    // What is left to the device covers the header; only the pseudo-header is put in for it.
    let field = if partial { fold(pseudo) } else { !fold(sum) };
    header.store::<u16, 16>(field);
    header.store::<u16, 18>(0);
    true
}

/// Destination and source of the Ethernet header change places.
#[inline(always)]
pub fn swap_link_addresses(window: &Window) -> bool {
    let Some(header) = window.header::<12>(0) else { return false };
    let (d0, d1) = (header.load::<u32, 0>(), header.load::<u16, 4>());
    let (s0, s1) = (header.load::<u32, 6>(), header.load::<u16, 10>());
    header.store::<u32, 0>(s0);
    header.store::<u16, 4>(s1);
    header.store::<u32, 6>(d0);
    header.store::<u16, 10>(d1);
    true
}

/// Words of a quoted packet at most: more than any IPv4 header and 8 bytes, and an IPv6 header with as many
/// extension headers as are common. Receivers need no more (RFC 792, RFC 4443 section 2.4).
const QUOTED_WORDS: usize = 32;

#[inline(always)]
fn error<H: Hook, F: Family>(hook: &H, headers: &Headers<F>, error: &Error<F>) -> bool {
    let network = usize::from(headers.network);
    let transport = usize::from(headers.transport);
    let is_tcp = headers.tuple.protocol == TCP;
    let header = if is_tcp { TCP_HEADER } else { UDP_HEADER };
    let mut quoted = transport + header - network;
    if quoted > QUOTED_WORDS * 4 {
        quoted = QUOTED_WORDS * 4;
    }
    // Of which protocol, and whether it is cut: the verifier would go through the sum below for each.
    let quoted = forget(quoted, headers.class);
    if !hook.truncate((network + quoted) as u32) {
        return false;
    }
    let field = if is_tcp { 16 } else { 6 };
    let partial = hook.has_partial_checksum((transport + field) as u32);
    let grown = F::HEADER + ICMP_HEADER;
    if !hook.grow(grown as u32) {
        return false;
    }
    let window = hook.window();
    if !move_link_header(&window, network, grown)
        || !swap_link_addresses(&window)
        || !F::write_header(&window, network, &error.ends, (grown + quoted) as u16)
    {
        return false;
    }
    let at = network + F::HEADER;
    let Some(icmp) = window.header::<ICMP_HEADER>(at) else { return false };
    icmp.store::<u16, 0>(error.kind.to_be());
    icmp.store::<u16, 2>(0);
    icmp.store::<u32, 4>(error.rest);
    let mut sum = F::icmp_pseudo(&error.ends, (ICMP_HEADER + quoted) as u16);
    sum += u64::from(error.kind.to_be()) + u64::from(error.rest);
    let Some(mut quote) = sum_of(&window, at + ICMP_HEADER, quoted) else { return false };
    if partial {
        let quoted_at = at + ICMP_HEADER + transport - network;
        let change = if is_tcp {
            completed::<TCP_HEADER, 16>(&window, quoted_at)
        } else {
            completed::<UDP_HEADER, 6>(&window, quoted_at)
        };
        let Some(change) = change else { return false };
        quote += change;
    }
    icmp.store::<u16, 2>(!fold(sum + quote));
    true
}

/// Sum of the words of a quoted packet, whose length is a multiple of 4 but for what is cut.
#[inline(always)]
fn sum_of(window: &Window, from: usize, length: usize) -> Option<u64> {
    let mut sum = 0;
    for word in 0..QUOTED_WORDS {
        if word * 4 >= length {
            break;
        }
        sum += u64::from(window.header::<4>(from + word * 4)?.load::<u32, 0>());
    }
    Some(sum)
}

/// What completing the quoted checksum at `FIELD`, which is still left to the device, will add to the sum of its bytes.
#[inline(always)]
fn completed<const LENGTH: usize, const FIELD: usize>(window: &Window, at: usize) -> Option<u64> {
    let pseudo = window.header::<LENGTH>(at)?.load::<u16, FIELD>();
    let mut sum = 0;
    for word in 0..LENGTH / 4 {
        sum += u64::from(window.header::<4>(at + word * 4)?.load::<u32, 0>());
    }
    let sum = !fold(sum);
    let field = if sum == 0 { 0xffff } else { sum };
    Some(checksum::difference(u32::from(pseudo), u32::from(field)))
}

#[inline(always)]
fn fold(sum: u64) -> u16 {
    checksum::fold(sum)
}

/// A pseudo-header's words that are not addresses.
#[inline(always)]
pub fn pseudo_rest(protocol: u8, length: u16) -> u64 {
    u64::from(Be16::new(u16::from(protocol)).0) + u64::from(Be16::new(length).0)
}
