//! The flow of a packet: found and noted.
//!
//! The table itself is `equipoise_common::flow`. Here is what depends on services and backends: when a flow that is
//! there is as good as none, and what becomes of the flows of a backend that has gone.

use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use equipoise_common::event::Event;
use equipoise_common::flow::entry::{count, facts, owner, uncount};
use equipoise_common::flow::find::{Expected, find_as, is_expired};
use equipoise_common::flow::set::{End, Way, at};
use equipoise_common::flow::track::note;
use equipoise_common::flow::{
    Meta, Reason, State, Storage, Word as _, flag, long_tick, moment, tick,
};
use equipoise_common::key::{FiveTuple, UDP};
use equipoise_common::step::What;
use equipoise_common::value::Fate;

use crate::carry;
use crate::family::Family;
use crate::map::{CLOCK, TEST_CLOCK};
use crate::parse::Headers;
use crate::report::{self, Direction};
use crate::table::{self, policy};
use crate::tell::tell;
use crate::trace;
use crate::word::Shared;

/// What a flow makes of a packet.
#[derive(Clone, Copy)]
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
    /// Whether it is for [`crate::carry`]: rewriting is not all, or not what is to be done with it. A flow that is found says
    /// so by [`Found`].
    pub apart: bool,
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
    /// As [`Found::Flow`], for [`crate::carry`].
    Apart,
    /// As [`Found::Eventful`], for [`crate::carry`].
    ApartEventful,
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
    let expected = if headers.is_syn() { Expected::Nothing } else { Expected::There };
    let here = find_as(table, &headers.tuple, &way, expected);
    let Some(slot) = at(table, here).filter(|_| here != 0) else {
        report::step(What::FlowMiss, 0, 0);
        return Found::Nothing;
    };
    let meta = Meta(slot[0].load());
    let is_reply = meta.has(flag::REPLY);
    // Answers that are not to come by us and do for all that go on as they are.
    if is_reply && meta.has(flag::ONE_SIDED) || passage != Passage::In && !is_reply {
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
    trace::of(decision.service, decision.backend);
    decision.to = facts(slot, meta).to;
    decision.direction = if is_reply { Direction::Reply } else { Direction::Request };
    let is_eventful = is_new && note(slot, meta, &headers.segment, now);
    if meta.has(flag::ONE_SIDED) || carry::is_lowered(headers, policy) {
        return if is_eventful { Found::ApartEventful } else { Found::Apart };
    }
    if is_eventful { Found::Eventful } else { Found::Flow }
}

/// What becomes of a flow that is alive: it goes on, unless its backend has gone since it was opened.
#[inline(always)]
fn standing<F: Family>(headers: &Headers<F>, meta: Meta, backend: u32) -> Found {
    let Some(entry) = table::backend(backend) else { return Found::Flow };
    let is_reset = is_reset(meta);
    if entry.generation == meta.generation() && !is_reset {
        return Found::Flow;
    }
    let is_reply = meta.has(flag::REPLY);
    let is_udp = headers.tuple.protocol == UDP;
    if !is_reply && (is_udp || headers.is_syn() || entry.fate == Fate::Reselect as u8) {
        return Found::Reselected;
    }
    let resets = entry.fate == Fate::Reset as u8 || is_reset;
    if is_udp || !resets || headers.is_reset() { Found::Flow } else { Found::Reset }
}

/// Whether user space, or an earlier packet, has reset the flow.
#[inline(always)]
fn is_reset(meta: Meta) -> bool {
    const GONE: u32 = (Reason::BackendGone as u32) << flag::WHY_SHIFT;
    meta.flags() & (flag::STATE | flag::WHY) == State::Closing as u32 | GONE
}

/// Where a flow is found by this five-tuple, or 0.
#[inline(always)]
pub fn position<F: Family, const SLOT: usize, S>(table: &S, key: &FiveTuple<F>) -> u32
where
    S: Storage<SLOT, Address = F>,
{
    let way = Way::of(key, table.seed(), table.sets());
    find_as(table, key, &way, Expected::Nothing)
}

/// Takes the note of a packet back, which does not go on with its flow here: the next hook will note it again, or it is answered. A dry
/// run has noted nothing.
#[inline(always)]
pub fn leave<F, const SLOT: usize, S: Storage<SLOT>>(table: &S, here: u32, headers: &Headers<F>) {
    if report::is_dry() {
        return;
    }
    if let Some(slot) = at(table, here).filter(|_| here != 0) {
        uncount(slot, headers.size.packets, headers.size.bytes);
    }
}

/// What the entry at `here` makes of its packets, if there is one.
#[inline(always)]
pub fn recall<F: Family, const SLOT: usize, S>(
    table: &S,
    here: u32,
    decision: &mut Decision<F>,
) -> bool
where
    S: Storage<SLOT, Address = F>,
{
    let Some(slot) = at(table, here).filter(|_| here != 0) else { return false };
    let meta = Meta(slot[0].load());
    let facts = facts(slot, meta);
    decision.to = facts.to;
    decision.service = facts.service;
    decision.backend = facts.backend;
    let is_reply = meta.has(flag::REPLY);
    decision.direction = if is_reply { Direction::Reply } else { Direction::Request };
    decision.apart = meta.has(flag::ONE_SIDED);
    true
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

/// The coarse clock, in ticks: the exact one costs 20 ns on a VM.
#[inline(always)]
pub fn now() -> u32 {
    tick(coarse())
}

/// The coarse clock, in ticks that do not wrap.
#[inline(always)]
pub fn long_now() -> u64 {
    long_tick(coarse())
}

/// In nanoseconds.
#[inline(always)]
fn coarse() -> u64 {
    if TEST_CLOCK.load() != 0 {
        return CLOCK.get(0).copied().unwrap_or_default();
    }
    // SAFETY: takes nothing.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The exact clock, in moments.
#[inline(always)]
pub fn exact() -> u32 {
    if TEST_CLOCK.load() != 0 {
        return moment(CLOCK.get(0).copied().unwrap_or_default());
    }
    // SAFETY: takes nothing.
    moment(unsafe { bpf_ktime_get_ns() })
}

impl<F: Family> Decision<F> {
    /// What is to be filled in.
    #[inline(always)]
    pub fn none(headers: &Headers<F>) -> Self {
        Self {
            to: headers.tuple,
            direction: Direction::Request,
            service: 0,
            backend: 0,
            at: 0,
            now: 0,
            apart: false,
        }
    }
}
