//! Fragments: the first of a packet is decided as the packet would be, and the others follow it.
//!
//! Only the first has ports. What has been made of it is remembered by what its packet's fragments have in common: the
//! addresses, the protocol and the identification (RFC 791, RFC 8200 section 4.5). The others get its addresses;
//! the transport checksum is in the first alone, and right for all. Where the stack has the first, it gets them too.

use equipoise_common::key::{Address, Be16, FiveTuple, ServiceKey, TCP};
use equipoise_common::value::{self, Mode};
use equipoise_common::verdict::Verdict;

use crate::family::{Addresses, Family};
use crate::flow::{self, Decision, Found, Passage};
use crate::forward::{self, Change, Passing};
use crate::hook::{Hook, Packet, Stage};
use crate::parse::{self, Headers, Ip, Part};
use crate::report::{self, Direction};
use crate::rewrite::{self, Hops};
use crate::table::others;
use crate::{
    TURN, action, carry, filter, leave, limit, observes, odd, on, pool, select, service, slow,
    table,
};

/// What the fragments of a packet have in common.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct PacketKey<F> {
    source: F,
    destination: F,
    identification: u32,
    protocol: u32,
}

/// What has been made of the first.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct First<F> {
    source: F,
    destination: F,
    service: u32,
    backend: u32,
    /// When it came, ticks that do not wrap: nobody takes away what is not followed any more.
    since: u64,
    /// [`REQUEST`], [`REPLY`], [`CARRIED`], or 0 for a packet that goes on as it came.
    direction: u32,
    /// 1 for one of a connection that this host takes up; programs of another layout take it for one that is not ours.
    streamed: u32,
}

const REQUEST: u32 = 1;
const REPLY: u32 = 2;
/// A request that stays as it is.
const CARRIED: u32 = 3;
/// The stack has it.
const STREAMED: u32 = 4;

const HASH: u8 = value::Fragments::Hash as u8;
const DROP: u8 = value::Fragments::Drop as u8;
const FULL_NAT: u8 = Mode::FullNat as u8;

/// How long fragments follow their first: as long as any receiver keeps them (RFC 8200 section 4.5: 60 s), ticks.
const FOLLOWED: u64 = 57_220;

impl<F: Address> PacketKey<F> {
    #[inline(always)]
    fn of(tuple: &FiveTuple<F>, part: Part) -> Self {
        Self {
            source: tuple.source,
            destination: tuple.destination,
            identification: part.identification,
            protocol: tuple.protocol,
        }
    }
}

/// Does with the first fragment of a packet what is to be done.
#[inline(always)]
pub fn first<H: Hook, F: Family>(hook: &H, packet: &Packet, ip: Ip<F>) -> Result<u64, Verdict> {
    if !filter::is_known(&ip.tuple) {
        return Err(Verdict::Fragment);
    }
    let part = ip.part;
    let headers = parse::transport(packet, ip).map_err(|verdict| match verdict {
        Verdict::NotTcpUdp => Verdict::Fragment,
        other => other,
    })?;
    let mut decision = Decision::none(&headers);
    let passage = hook.passage();
    let found = F::look_up(&headers, passage, &mut decision);
    decision.apart = found == Found::Apart || found == Found::ApartEventful;
    if found == Found::Nothing && others::is_moving() {
        return Ok(on(Stage::Elsewhere));
    }
    if found != Found::Flow && found != Found::Eventful && !decision.apart {
        if passage != Passage::In {
            return Err(Verdict::Outgoing);
        }
        let service = match found {
            Found::Reset => value::Service { id: 0, pool: 0 },
            _ => match service::find(hook, &headers) {
                Ok(service) => service,
                Err(verdict) => {
                    // Those that follow are not ours either.
                    remember(&headers, part, &decision, 0);
                    return Err(verdict);
                }
            },
        };
        if is_refused(service.id) {
            return Err(Verdict::FragmentRefused);
        }
        return slow::hand_on(&headers, &decision, (found, part), service);
    }
    if is_refused(decision.service) {
        return Err(Verdict::FragmentRefused);
    }
    remember(&headers, part, &decision, direction(&decision, headers.tuple.destination));
    if decision.apart {
        let sent = Verdict::ForwardedRequest;
        return carry::hand_over(&headers, &decision, (found, part), sent);
    }
    let turn = if found == Found::Eventful { TURN } else { 0 };
    if passage == Passage::In {
        let Some(work) = F::work() else { return Err(Verdict::FlowRefused) };
        work.headers = headers;
        work.at = decision.at;
        work.way_is_known = false;
        return Ok(odd::GO | turn);
    }
    if !observes() {
        rewrite::apply(hook, packet, &headers, &decision.to, Hops::Keep)?;
    }
    report::packet(&headers, &decision);
    Ok(action(leave::<H>(Verdict::RewrittenReply)) | turn)
}

/// Does with one that is not the first what is to be done.
#[inline(always)]
pub fn later<H: Hook, F: Family>(hook: &H, packet: &Packet, ip: &Ip<F>) -> Result<u64, Verdict> {
    if !filter::is_known(&ip.tuple) {
        return Err(Verdict::Fragment);
    }
    let headers = odd::headers(ip);
    let mut decision = Decision { now: flow::now(), ..Decision::none(&headers) };
    let is_in = hook.passage() == Passage::In;
    match F::first_fragment(&PacketKey::of(&ip.tuple, ip.part)) {
        Some(first) if flow::long_now().saturating_sub(first.since) <= FOLLOWED => {
            if first.direction == 0 {
                let is_streamed = first.streamed != 0;
                return Err(if is_streamed { Verdict::Streamed } else { Verdict::Fragment });
            }
            decision.to.source = first.source;
            decision.to.destination = first.destination;
            decision.service = first.service;
            decision.backend = first.backend;
            match first.direction {
                REPLY => decision.direction = Direction::Reply,
                // What has been sent by link address alone goes out as it came in, and is not to be sent again.
                CARRIED => decision.apart = is_in,
                _ => {}
            }
        }
        _ if is_in => decide_alone(hook, &headers, &mut decision)?,
        _ => return Err(Verdict::Outgoing),
    }
    if decision.apart {
        let sent = Verdict::ForwardedRequest;
        return carry::hand_over(&headers, &decision, (Found::Nothing, ip.part), sent);
    }
    let passing = Passing { hook, packet, headers: &headers, decision: &decision };
    if is_in {
        return Ok(action(forward::by::<_, _, _, false>(&passing, &Later)?));
    }
    if decision.direction == Direction::Request {
        return Err(Verdict::Outgoing);
    }
    if !observes() {
        Change::<H, F>::apply(&Later, &passing, Hops::Keep)?;
    }
    Change::<H, F>::count(&Later, &passing);
    Ok(action(leave::<H>(Verdict::RewrittenReply)))
}

/// Decides about a fragment whose first has not come.
#[inline(always)]
fn decide_alone<H: Hook, F: Family>(
    hook: &H,
    headers: &Headers<F>,
    decision: &mut Decision<F>,
) -> Result<(), Verdict> {
    let tuple = &headers.tuple;
    if tuple.protocol == F::ICMP {
        return Err(Verdict::Fragment);
    }
    let key = ServiceKey {
        address: tuple.destination,
        interface: hook.interface(),
        port: Be16(0),
        protocol: 0,
    };
    let service = F::service(&key).ok_or(Verdict::Fragment)?;
    let policy = table::policy(service.id).ok_or(Verdict::FragmentUnknown)?;
    match policy.fragments {
        HASH => {}
        DROP => return Err(Verdict::FragmentRefused),
        _ => return Err(Verdict::FragmentUnknown),
    }
    if limit::is_listed(&policy.limits, service.id, tuple.source) {
        return Err(Verdict::SourceDenied);
    }
    // By the source alone, as the plan has it for such a service: the ports, which are not there, make no difference.
    let pool = pool::of(&service, policy, tuple.source);
    if tuple.protocol == TCP && select::is_streamed(pool) {
        return Err(Verdict::Streamed);
    }
    let run = select::hashed(pool, headers).ok_or(Verdict::NoBackend)?;
    let chosen = run.backend(0).ok_or(Verdict::NoBackend)?;
    match chosen.backend.mode() {
        FULL_NAT => return Err(Verdict::FragmentUnknown),
        mode if Mode::is_one_sided(mode) => decision.apart = true,
        _ => decision.to.destination = F::unpack(chosen.backend.address),
    }
    decision.service = service.id;
    decision.backend = chosen.id;
    Ok(())
}

/// Whether a service drops fragments.
#[inline(always)]
fn is_refused(service: u32) -> bool {
    table::policy(service).is_some_and(|policy| policy.fragments == DROP)
}

/// Remembers what has been made of the first fragment of a packet, as [`First::direction`] says.
#[inline(always)]
fn remember<F: Family>(headers: &Headers<F>, part: Part, decision: &Decision<F>, direction: u32) {
    let Some(work) = F::work() else { return };
    work.headers.tuple = headers.tuple;
    work.part = part;
    work.decision = *decision;
    keep::<F>(direction);
}

/// Remembers the first fragment that the slow path has decided about.
#[inline(always)]
pub fn remember_new<F: Family>() {
    let Some(work) = F::work() else { return };
    keep::<F>(direction(&work.decision, work.headers.tuple.destination));
}

/// Remembers that the stack has a first fragment, for a connection that this host takes up.
#[inline(always)]
pub fn remember_streamed<F: Family>() {
    keep::<F>(STREAMED);
}

/// Remembers what this CPU's work says of a first fragment.
///
/// Not inlined: its stack is wanted only while it runs.
#[inline(never)]
fn keep<F: Family>(direction: u32) {
    let Some(work) = F::work().filter(|_| !report::is_dry()) else { return };
    let decision = &work.decision;
    let is_streamed = direction == STREAMED;
    let first = First {
        source: decision.to.source,
        destination: decision.to.destination,
        service: decision.service,
        backend: decision.backend,
        since: flow::long_now(),
        direction: if is_streamed { 0 } else { direction },
        streamed: u32::from(is_streamed),
    };
    F::keep_fragment(&PacketKey::of(&work.headers.tuple, work.part), &first);
}

/// A request that keeps the VIP goes as it is; others are apart only for what a SYN asks for.
#[inline(always)]
fn direction<F: Family>(decision: &Decision<F>, vip: F) -> u32 {
    match decision.direction {
        Direction::Request if decision.apart && decision.to.destination == vip => CARRIED,
        Direction::Request => REQUEST,
        Direction::Reply => REPLY,
    }
}

/// A fragment without ports.
struct Later;

impl<H: Hook, F: Family> Change<H, F> for Later {
    const SENT: [Verdict; 2] = [Verdict::ForwardedRequest, Verdict::ForwardedReply];

    #[inline(always)]
    fn apply(&self, passing: &Passing<'_, H, F>, hops: Hops) -> Result<(), Verdict> {
        let Passing { packet, headers, decision, .. } = passing;
        let to = Addresses { source: decision.to.source, destination: decision.to.destination };
        if F::write(packet, headers, to, hops == Hops::TakeOne) {
            Ok(())
        } else {
            Err(Verdict::RewriteFailed)
        }
    }

    #[inline(always)]
    fn count(&self, passing: &Passing<'_, H, F>) {
        report::packet(passing.headers, passing.decision);
    }
}
