//! The flow of a packet: found and noted, or opened.
//!
//! [`look_up`] and [`open`] are what the packet's way sees; the table itself is `equipoise_common::flow`. Here is what
//! depends on services and backends: when a flow that is there is as good as none, what becomes of the
//! flows of a backend that has gone, and what is done where a new one finds no room.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use equipoise_common::event::Event;
use equipoise_common::flow::count::{Pressure, Refused};
use equipoise_common::flow::end::Evicted;
use equipoise_common::flow::entry::{count, facts, owner, uncount};
use equipoise_common::flow::find::{find, is_expired, is_past};
use equipoise_common::flow::open::{New, Opened};
use equipoise_common::flow::set::{End, Way, at};
use equipoise_common::flow::track::{note, tcp};
use equipoise_common::flow::{Meta, Reason, State, Storage, Word as _, flag, tick};
use equipoise_common::hash;
use equipoise_common::key::{Be16, FiveTuple, ServiceKey, UDP};
use equipoise_common::limit::PORT_TRIES;
use equipoise_common::step::What;
use equipoise_common::value::{Fate, OnFull, Policy, Service};
use equipoise_common::verdict::Verdict;

use crate::family::Family;
use crate::map::{BACKENDS, CLOCK, STATELESS, TEST_CLOCK};
use crate::parse::Headers;
use crate::report::{self, Direction};
use crate::select::{self, Run};
use crate::slow::Work;
use crate::table::{Shared, policy, tell};

/// What a flow makes of a packet.
pub struct Decision<F> {
    /// The five-tuple after rewriting.
    pub to: FiveTuple<F>,
    /// Which way the packet goes.
    pub direction: Direction,
    /// Index into the service counters.
    pub service: u32,
    /// Index into the backends and their counters.
    pub backend: u32,
    /// Where the packet's entry is in the flow table; 0 if it has none.
    pub at: u32,
    /// When the packet came, ticks.
    pub now: u32,
}

/// Whether a packet is of a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Of none.
    Nothing,
    /// Of one, which the decision says.
    Flow,
    /// Of one, which the decision says, and whose state the packet may change.
    Eventful,
    /// Of one that is as good as none: to be ended, as [`Reason::Idle`], and then of none.
    Idle,
    /// So, as [`Reason::Replaced`].
    Replaced,
    /// So, as [`Reason::Reselected`].
    Reselected,
    /// Of one that is to be reset: the sender gets a RST.
    Reset,
}

/// How a packet has come to the hook.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It has just come in.
    In,
    /// It goes out, and this host has made it.
    Out,
    /// It goes out, and has been noted in its flow when it came in.
    Through,
}

/// The flow that a packet is of, if there is one; the packet is noted in it unless it has been. On its way
/// out only a reply is of any.
#[inline(always)]
pub fn look_up<F: Family, const SLOT: usize, S>(
    table: &S,
    headers: &Headers<F>,
    passage: Passage,
    decision: &mut Decision<F>,
) -> Found
where
    S: Storage<SLOT, Address = F, Word = Shared>,
{
    let way = Way::of(&headers.tuple, table.seed(), table.sets());
    let here = find(table, &headers.tuple, &way);
    let Some(slot) = at(table, here).filter(|_| here != 0) else {
        report::step(What::FlowMiss, 0, 0);
        return Found::Nothing;
    };
    let meta = Meta(slot[0].load());
    if passage != Passage::In && !meta.has(flag::REPLY) {
        return Found::Nothing;
    }
    let is_new = !report::is_dry() && passage != Passage::Through;
    (decision.service, decision.backend) = owner(slot);
    decision.at = here;
    let Some(policy) = policy(decision.service) else { return Found::Nothing };
    let now = now();
    decision.now = now;
    let timeout = policy.timeouts[(meta.state_number() & 7) as usize];
    if is_expired(table, here, slot, timeout, now) {
        report::step(What::FlowExpired, decision.backend, 0);
        return Found::Idle;
    }
    if headers.is_syn() && !meta.has(flag::REPLY) && meta.state() == State::Closing {
        return Found::Replaced;
    }
    match standing(headers, meta, decision.backend) {
        Found::Flow => {}
        other => return other,
    }
    if is_new {
        // A barrier: what is read of the slot below is what its meta word stands for.
        count(slot, headers.size.packets, headers.size.bytes);
        let after = Meta(slot[0].load());
        if after.other() != meta.other() || !after.is_live() {
            // Given up between the look-up and the barrier.
            return Found::Nothing;
        }
    }
    report::step(What::FlowHit, decision.backend, u64::from(meta.flags()));
    decision.to = facts(slot, meta).to;
    decision.direction = if meta.has(flag::REPLY) { Direction::Reply } else { Direction::Request };
    if is_new && note(slot, meta, &headers.segment, now) { Found::Eventful } else { Found::Flow }
}

/// What becomes of a flow that is alive: it goes on, unless its backend has gone since it was opened.
#[inline(always)]
fn standing<F: Family>(headers: &Headers<F>, meta: Meta, backend: u32) -> Found {
    let Some(entry) = BACKENDS.get_ptr(backend) else { return Found::Flow };
    // SAFETY: an entry of an array map stays; user space writes it as a whole.
    let entry = unsafe { &*entry };
    let is_reset = is_reset(meta);
    if entry.generation == meta.generation() && !is_reset {
        return Found::Flow;
    }
    let is_reply = meta.has(flag::REPLY);
    let is_udp = headers.tuple.protocol == UDP;
    if !is_reply && (is_udp || headers.is_syn() || entry.fate == Fate::Reselect as u16) {
        return Found::Reselected;
    }
    let resets = entry.fate == Fate::Reset as u16 || is_reset;
    if is_udp || !resets || headers.is_reset() { Found::Flow } else { Found::Reset }
}

/// Whether user space, or an earlier packet, has reset the flow.
#[inline(always)]
fn is_reset(meta: Meta) -> bool {
    const GONE: u32 = (Reason::BackendGone as u32) << flag::WHY_SHIFT;
    meta.flags() & (flag::STATE | flag::WHY) == State::Closing as u32 | GONE
}

/// Whether a flow is found by this five-tuple.
#[inline(always)]
pub fn is_taken<F: Family, const SLOT: usize, S>(table: &S, key: &FiveTuple<F>) -> bool
where
    S: Storage<SLOT, Address = F>,
{
    let way = Way::of(key, table.seed(), table.sets());
    find(table, key, &way) != 0
}

/// Takes the note of a packet back, which the next hook will note again.
#[inline(always)]
pub fn leave<F, const SLOT: usize, S: Storage<SLOT>>(table: &S, here: u32, headers: &Headers<F>) {
    if let Some(slot) = at(table, here).filter(|_| here != 0) {
        uncount(slot, headers.size.packets, headers.size.bytes);
    }
}

/// What the entry at `here` makes of its packets: another CPU has opened it just now.
#[inline(always)]
pub fn recall<F: Family, const SLOT: usize, S>(table: &S, here: u32, decision: &mut Decision<F>)
where
    S: Storage<SLOT, Address = F>,
{
    if let Some(slot) = at(table, here) {
        let facts = facts(slot, Meta(slot[0].load()));
        decision.to = facts.to;
        decision.service = facts.service;
        decision.backend = facts.backend;
    }
}

/// Tells of a flow that has just been opened.
#[inline(always)]
pub fn tell_opened<F: Family, const SLOT: usize, S>(table: &S, here: u32)
where
    S: Storage<SLOT, Address = F, Word = Shared>,
{
    if let Some(request) = at(table, here) {
        let was = Meta(request[0].load());
        tell::<F, SLOT>(&End { request, reply: None, was, why: Reason::None }, Event::OPENED);
    }
}

/// Puts a flow for a packet of none together in this CPU's work: a backend, and a name at it.
///
/// The flow takes its name with the client's own source port, or, where another flow has that name, with other ports in
/// turn, and then so at a second backend.
#[inline(always)]
pub fn prepare<F: Family>(work: &mut Work<F>, policy: &Policy) -> Result<(), Verdict> {
    let headers = &work.headers;
    let Some(run) = select::run(work.service.pool, headers) else {
        return Err(Verdict::NoBackend);
    };
    put_together(headers, &work.service, &mut work.new);
    let named = F::name(&run);
    if let Some(verdict) = unnamed((named >> 32) as u32) {
        return Err(verdict);
    }
    work.limits = [policy.max_flows, named as u32];
    Ok(())
}

/// Makes a decision of how the opening of the flow in this CPU's work has ended.
#[inline(always)]
pub fn settle<F: Family>(
    work: &Work<F>,
    opened: Opened,
    decision: &mut Decision<F>,
) -> Result<(), Verdict> {
    let (headers, new) = (&work.headers, &work.new);
    if headers.is_reset() {
        return without_memory(work, decision);
    }
    let port_changed = new.reply.destination_port != headers.tuple.source_port;
    if port_changed {
        report::step(What::PortChanged, new.backend, u64::from(new.reply.destination_port.get()));
    }
    decision.to = new.reply.reversed();
    decision.service = new.service;
    decision.backend = new.backend;
    if report::is_dry() {
        return Ok(());
    }
    count_evicted(opened.evicted);
    if opened.found {
        F::recall(opened.at, decision);
        return Ok(());
    }
    let Some(policy) = policy(new.service) else { return Err(Verdict::FlowRefused) };
    if opened.refused == 0 {
        decision.at = opened.at;
        report::new_flow(new.service, new.backend, port_changed);
        if policy.switches & Policy::EVENTS != 0 {
            F::tell_opened(opened.at);
        }
        return Ok(());
    }
    match refusal(opened.refused, policy) {
        Some(verdict) => Err(verdict),
        None => without_memory(work, decision),
    }
}

/// The verdict that [`find_name`] has answered with, if it has.
#[inline(always)]
fn unnamed(number: u32) -> Option<Verdict> {
    const NO_BACKEND: u32 = Verdict::NoBackend as u32;
    const LIMIT: u32 = Verdict::FlowLimit as u32;
    const NO_PORT: u32 = Verdict::NoSourcePort as u32;
    match number {
        0 => None,
        NO_BACKEND => Some(Verdict::NoBackend),
        LIMIT => Some(Verdict::FlowLimit),
        NO_PORT => Some(Verdict::NoSourcePort),
        _ => Some(Verdict::FlowRefused),
    }
}

/// The verdict on a packet whose flow was not opened; none where it is decided without one.
#[inline(always)]
fn refusal(refused: u32, policy: &Policy) -> Option<Verdict> {
    const FULL: u32 = Refused::Full as u32;
    const CROWDED: u32 = Refused::Crowded as u32;
    const SERVICE: u32 = Refused::Service as u32;
    const BACKEND: u32 = Refused::Backend as u32;
    const BUSY: u32 = Refused::Busy as u32;
    match refused {
        SERVICE => {
            report::pressure(Pressure::RefusedService);
            Some(Verdict::FlowLimit)
        }
        BACKEND => {
            report::pressure(Pressure::RefusedBackend);
            Some(Verdict::FlowLimit)
        }
        FULL | CROWDED if policy.on_full == OnFull::Drop as u8 => {
            report::pressure(Pressure::RefusedFull);
            Some(Verdict::FlowRefused)
        }
        FULL | CROWDED => {
            report::pressure(Pressure::StatelessFull);
            None
        }
        BUSY => {
            report::pressure(Pressure::StatelessBusy);
            None
        }
        _ => Some(Verdict::NoSourcePort),
    }
}

#[inline(always)]
fn count_evicted(evicted: u32) {
    const EXPIRED: u32 = Evicted::Expired as u32;
    const CLOSING: u32 = Evicted::Closing as u32;
    const UNCONFIRMED: u32 = Evicted::Unconfirmed as u32;
    match evicted {
        EXPIRED => report::pressure(Pressure::Expired),
        CLOSING => report::pressure(Pressure::EvictedClosing),
        UNCONFIRMED => report::pressure(Pressure::EvictedUnconfirmed),
        _ => {}
    }
}

#[inline(always)]
fn put_together<F: Family>(headers: &Headers<F>, service: &Service, new: &mut New<F>) {
    let segment = &headers.segment;
    let acknowledges = segment.flags & tcp::ACK != 0;
    *new = New {
        request: headers.tuple,
        reply: headers.tuple.reversed(),
        service: service.id,
        backend: 0,
        generation: 0,
        sent: segment.sequence.wrapping_add(segment.length),
        acknowledged: if acknowledges { segment.acknowledgement } else { 0 },
        packets: headers.size.packets,
        bytes: headers.size.bytes,
        now: now(),
    };
}

/// Finds a backend for the flow in this CPU's scratch, and a name at it that no other flow has; answers with the
/// backend's limit, or with a verdict as a number in the upper half.
#[inline(always)]
pub fn find_name<F: Family>(run: &Run) -> u64 {
    let Some(work) = F::work() else { return u64::from(Verdict::FlowRefused as u32) << 32 };
    let new = &mut work.new;
    // Deterministic candidates, spread by the flow's hash over the upper half of the ports.
    let mut candidate = hash::five_tuple(&new.request);
    let mut next = 0;
    let mut limit = 0;
    for attempt in 0..2 * PORT_TRIES {
        if attempt % PORT_TRIES == 0 {
            let chosen = match run.with_room(&mut next) {
                Ok(chosen) => chosen,
                Err(verdict) => return u64::from(verdict as u32) << 32,
            };
            new.reply.source = F::unpack(chosen.backend.address);
            new.reply.source_port = chosen.backend.port;
            new.reply.destination_port = new.request.source_port;
            new.backend = chosen.id;
            new.generation = chosen.backend.generation;
            limit = chosen.backend.max_flows;
        } else {
            candidate = hash::mix(candidate, 1);
            new.reply.destination_port = Be16::new(candidate as u16 | 0x8000);
        }
        if !F::is_taken(&new.reply) {
            return u64::from(limit);
        }
    }
    u64::from(Verdict::NoSourcePort as u32) << 32
}

/// Sends a packet where its hash says without remembering it.
///
/// A name that another flow has at the backend cannot be used: the answers would be mixed up. Replies find their way
/// back by [`unremembered_reply`].
#[inline(never)]
pub fn without_memory<F: Family>(
    work: &Work<F>,
    decision: &mut Decision<F>,
) -> Result<(), Verdict> {
    let (headers, service) = (&work.headers, &work.service);
    let Some(run) = select::run(service.pool, headers) else { return Err(Verdict::NoBackend) };
    let Some(chosen) = run.hashed(headers).backend(0) else { return Err(Verdict::NoBackend) };
    let mut reply = headers.tuple.reversed();
    reply.source = F::unpack(chosen.backend.address);
    reply.source_port = chosen.backend.port;
    if F::is_taken(&reply) {
        return Err(Verdict::NoSourcePort);
    }
    decision.to = reply.reversed();
    decision.service = service.id;
    decision.backend = chosen.id;
    if report::is_dry() {
        return Ok(());
    }
    if let Some(last) = STATELESS.get_ptr_mut(0) {
        let now = u64::from(now()) + 1;
        // SAFETY: an entry of an array map stays; one word, and any of the CPUs' times will do.
        let last = unsafe { &mut *last };
        if *last != now {
            *last = now;
        }
    }
    Ok(())
}

/// What a packet of no flow becomes if it answers one that was not remembered.
///
/// Looked for only while there has been such a packet in the last minutes, so that packets that are none of
/// ours cost nothing more in peace.
#[inline(always)]
pub fn unremembered_reply<F: Family>(headers: &Headers<F>, decision: &mut Decision<F>) -> bool {
    /// About two minutes.
    const REMEMBERED: u32 = 1 << 17;
    // SAFETY: an entry of an array map stays; one word.
    let last = STATELESS.get_ptr(0).map_or(0, |last| unsafe { core::ptr::read_volatile(last) });
    if last == 0 || is_past(last as u32, REMEMBERED, now()) {
        return false;
    }
    answer_to_unremembered(headers, decision)
}

#[inline(never)]
fn answer_to_unremembered<F: Family>(headers: &Headers<F>, decision: &mut Decision<F>) -> bool {
    let tuple = &headers.tuple;
    let key = ServiceKey {
        address: tuple.source,
        interface: 0,
        port: tuple.source_port,
        protocol: tuple.protocol as u16,
    };
    let Some(reply) = F::reply(&key) else { return false };
    decision.to = *tuple;
    decision.to.source = F::unpack(reply.vip);
    decision.to.source_port = reply.port;
    decision.direction = Direction::Reply;
    decision.service = reply.service;
    decision.backend = reply.backend;
    report::pressure(Pressure::StatelessReply);
    true
}

/// The coarse clock, in ticks: the exact one costs 20 ns on a VM.
#[inline(always)]
pub fn now() -> u32 {
    if TEST_CLOCK.load() != 0 {
        return tick(CLOCK.get(0).copied().unwrap_or_default());
    }
    // SAFETY: takes nothing.
    tick(unsafe { bpf_ktime_get_coarse_ns() })
}

impl<F: Family> Decision<F> {
    /// What is to be filled in.
    #[inline(always)]
    pub fn none(headers: &Headers<F>) -> Self {
        Self { to: headers.tuple, direction: Direction::Request, service: 0, backend: 0, at: 0, now: 0 }
    }
}
