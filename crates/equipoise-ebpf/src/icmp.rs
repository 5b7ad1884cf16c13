//! ICMP: errors about packets of flows, which go to the end that has sent the packet, and echo requests to VIPs.
//!
//! An error quotes the packet that it is about as that was when it got lost: with the addresses and ports that we gave
//! it. The quote is found in the flow table turned round, as an answer to it would be, and gets back what its
//! sender wrote; eight quoted bytes behind the IP header suffice (RFC 792, RFC 4443 section 2.4). The error itself comes
//! from the VIP then, if it is for a client: what is behind the balancer has addresses that may mean nothing outside.

use equipoise_common::checksum;
use equipoise_common::key::{Be16, FiveTuple, ServiceKey, TCP, UDP};
use equipoise_common::verdict::Verdict;

use crate::answer::swap_link_addresses;
use crate::family::{Addresses, Family};
use crate::flow::{self, Decision, Found, Passage};
use crate::forward::{self, Change, Passing};
use crate::hook::{Hook, Packet, Stage, port_word};
use crate::odd::{self, headers};
use crate::packet::Window;
use crate::parse::{Ip, Part};
use crate::report::{self, Direction};
use crate::rewrite::Hops;
use crate::table::others;
use crate::{action, carry, leave, observes, on};

/// Bytes before what an error quotes.
const HEADER: usize = 8;

/// A quoted packet.
pub struct Quote<F> {
    /// Its addresses and ports, as they are quoted.
    pub tuple: FiveTuple<F>,
    /// Offset of its IP header, bytes.
    pub network: usize,
    /// Offset of its TCP or UDP header, bytes.
    pub transport: usize,
}

/// Does with an ICMP packet what is to be done; a fragment is left to others.
#[inline(always)]
pub fn take_up<H: Hook, F: Family>(hook: &H, packet: &Packet, ip: &Ip<F>) -> Result<u64, Verdict> {
    if ip.part.marks != 0 {
        let is_later = ip.part.marks & Part::LATER != 0;
        return Ok(if is_later { odd::LATER } else { odd::FIRST });
    }
    if ip.tuple.protocol != F::ICMP {
        return Err(Verdict::NotTcpUdp);
    }
    let icmp = packet.window.header::<HEADER>(ip.transport).ok_or(Verdict::Malformed)?;
    let (kind, code) = (icmp.load::<u8, 0>(), icmp.load::<u8, 1>());
    if kind == F::ECHO_REQUEST {
        return echo(hook, packet, ip);
    }
    if !F::is_error(kind) {
        return Err(Verdict::NotTcpUdp);
    }
    let quote = F::quote(&packet.window, ip.transport + HEADER).ok_or(Verdict::NotTcpUdp)?;
    if quote.transport + HEADER > ip.end {
        return Err(Verdict::Malformed);
    }
    let headers = headers(ip);
    let mut decision = Decision::none(&headers);
    if !F::recall(F::position(&quote.tuple.reversed()), &mut decision) {
        if others::is_moving() {
            return Ok(on(Stage::Elsewhere));
        }
        return Err(Verdict::NotTcpUdp);
    }
    decision.at = 0;
    decision.now = flow::now();
    let is_reply = decision.direction == Direction::Reply;
    if decision.apart {
        // About what the backend has sent by another way, which it has to hear of: it goes there as it is. What is about
        // a request is for the client already.
        if is_reply || hook.passage() != Passage::In {
            return Err(Verdict::NotTcpUdp);
        }
        let sent = Verdict::ForwardedErrorToBackend;
        return carry::hand_over(&headers, &decision, (Found::Nothing, Part::WHOLE), sent);
    }
    // What the sender of the quoted packet wrote, and what it knows the other end by.
    let told = decision.to.reversed();
    decision.to = FiveTuple {
        source: if is_reply { decision.to.source } else { ip.tuple.source },
        destination: decision.to.destination,
        source_port: Be16(0),
        destination_port: Be16(0),
        protocol: F::ICMP,
    };
    let change = Requote { quote, told, end: ip.end };
    let passing = Passing { hook, packet, headers: &headers, decision: &decision };
    if hook.passage() == Passage::In {
        return Ok(action(forward::by::<_, _, _, false>(&passing, &change)?));
    }
    if !is_reply {
        return Err(Verdict::NotTcpUdp);
    }
    if !observes() && hook.passage() == Passage::Out && F::tells_of_no_way(kind, code) {
        return Err(Verdict::WithheldError);
    }
    if !observes() {
        change.apply(&passing, Hops::Keep)?;
    }
    Ok(action(leave::<H>(Verdict::RewrittenError)))
}

/// Gives an error the quote that its receiver knows.
struct Requote<F> {
    quote: Quote<F>,
    told: FiveTuple<F>,
    /// Offset of the packet's end, bytes.
    end: usize,
}

impl<H: Hook, F: Family> Change<H, F> for Requote<F> {
    const SENT: [Verdict; 2] = [Verdict::ForwardedErrorToBackend, Verdict::ForwardedErrorToClient];

    #[inline(always)]
    fn apply(&self, passing: &Passing<'_, H, F>, hops: Hops) -> Result<(), Verdict> {
        let Passing { packet, headers, decision, .. } = passing;
        let to = Addresses { source: decision.to.source, destination: decision.to.destination };
        let mut sum = 0;
        if F::IS_V6 {
            // The pseudo-header is ICMPv6's alone.
            sum += to.source.change(headers.tuple.source)
                + to.destination.change(headers.tuple.destination);
        }
        if !F::write(packet, headers, to, hops == Hops::TakeOne) {
            return Err(Verdict::RewriteFailed);
        }
        let window = &packet.window;
        sum += self.requote(window).ok_or(Verdict::RewriteFailed)?;
        let icmp =
            window.header::<4>(usize::from(headers.transport)).ok_or(Verdict::RewriteFailed)?;
        icmp.store::<u16, 2>(checksum::update(icmp.load::<u16, 2>(), sum));
        Ok(())
    }

    #[inline(always)]
    fn count(&self, _passing: &Passing<'_, H, F>) {
        // What services and backends count are the packets of flows.
    }
}

impl<F: Family> Requote<F> {
    /// Writes the quote anew; answers with the differences that its words make to a checksum over them.
    #[inline(always)]
    fn requote(&self, window: &Window) -> Option<u64> {
        let Self { quote, told, end } = self;
        let from = &quote.tuple;
        let addresses = told.source.change(from.source) + told.destination.change(from.destination);
        let to = Addresses { source: told.source, destination: told.destination };
        let mut sum = addresses + F::write_quoted(window, quote.network, to, addresses)?;
        let header = window.header::<8>(quote.transport)?;
        header.store::<_, 0>(told.source_port);
        header.store::<_, 2>(told.destination_port);
        let ports = checksum::difference(port_word(from.source_port), port_word(told.source_port))
            + checksum::difference(
                port_word(from.destination_port),
                port_word(told.destination_port),
            );
        sum += ports;
        if from.protocol == UDP {
            let field = header.load::<u16, 6>();
            if field != 0 {
                let new = checksum::update_udp(field, addresses + ports);
                header.store::<u16, 6>(new);
                sum += checksum::difference(u32::from(field), u32::from(new));
            }
        } else if quote.transport + 18 <= *end
            && let Some(header) = window.header::<18>(quote.transport)
        {
            let field = header.load::<u16, 16>();
            let new = checksum::update(field, addresses + ports);
            header.store::<u16, 16>(new);
            sum += checksum::difference(u32::from(field), u32::from(new));
        }
        Some(sum)
    }
}

/// Answers an echo request to a VIP that no interface of this host has: those answer themselves.
#[inline(always)]
fn echo<H: Hook, F: Family>(hook: &H, packet: &Packet, ip: &Ip<F>) -> Result<u64, Verdict> {
    let key = ServiceKey {
        address: ip.tuple.destination,
        interface: hook.interface(),
        port: Be16(0),
        protocol: F::ICMP as u16,
    };
    if observes() || hook.passage() != Passage::In || F::service(&key).is_none() {
        return Err(Verdict::NotTcpUdp);
    }
    let headers = headers(ip);
    let window = &packet.window;
    let icmp = window.header::<HEADER>(ip.transport).ok_or(Verdict::Malformed)?;
    let was = icmp.load::<u16, 0>();
    let now = u16::from(F::ECHO_REPLY);
    icmp.store::<u16, 0>(now);
    let change = checksum::difference(u32::from(was), u32::from(now));
    icmp.store::<u16, 2>(checksum::update(icmp.load::<u16, 2>(), change));
    if !F::turn_round(window, &headers, headers.length as u16) || !swap_link_addresses(window) {
        return Err(Verdict::RewriteFailed);
    }
    report::verdict(H::HOOK, Verdict::Echo);
    Ok(action(hook.bounce()))
}

/// The quoted packet with these headers, if its first fragment is quoted.
#[inline(always)]
pub fn quoted<F: Family>(
    window: &Window,
    mut tuple: FiveTuple<F>,
    network: usize,
    transport: usize,
) -> Option<Quote<F>> {
    if tuple.protocol != TCP && tuple.protocol != UDP {
        return None;
    }
    let ports = window.header::<8>(transport)?;
    tuple.source_port = ports.load::<Be16, 0>();
    tuple.destination_port = ports.load::<Be16, 2>();
    Some(Quote { tuple, network, transport })
}
