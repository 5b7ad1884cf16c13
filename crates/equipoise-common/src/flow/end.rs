//! Ending a flow, whoever does it: a packet, pressure, or user space.
//!
//! The request's meta word decides: whoever turns it from live to resting has ended the flow, takes it off
//! the counts, once, and takes both entries out of their sets. Needs no lock, so user space can do it
//! from outside; slots are used again only under one, and after [`super::GRACE`].

use super::count::Live;
use super::entry::{Meta, Reason, begun, flag, key, last_seen, opened, owner};
use super::find::{is_expired, is_past};
use super::set::{End, Position, Storage, WAYS, Way, at, position};
use super::state::{MOMENTS_BITS, State};
use super::word::Word;

/// How often an exchange that others get in the way of is tried. A flow has few transitions, so
/// two CPUs collide once or twice at most; the rest is for luck.
const TRIES: u32 = 4;

/// Ends the flow with an entry at `here`, if there is one. True if it was this call that did it.
#[inline(never)]
pub fn end<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    here: Position,
    why: Reason,
    now: u32,
) -> bool {
    let Some(slot) = at(table, here) else { return false };
    let meta = Meta(slot[0].load());
    if !meta.is_live() {
        return false;
    }
    let (request_at, reply_at) =
        if meta.has(flag::REPLY) { (meta.other(), here) } else { (here, meta.other()) };
    let Some(request) = at(table, request_at) else { return false };
    let guard = if table.spares_confirmed() { why } else { Reason::None };
    let Some(was) = rest(request, reply_at, guard, now) else { return false };
    subtract(table, request, was);
    table.ended(&End { request, reply: at(table, reply_at), was, why });
    take_out_both(table, request_at, was, now);
    true
}

/// Takes the flow with its request's entry at `here` out, as it is with this meta word, without a word: it goes on in another
/// table. False if it is not like that any more.
pub(super) fn leave<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    here: Position,
    was: Meta,
    now: u32,
) -> bool {
    let Some(request) = at(table, here) else { return false };
    if request[0].exchange(was.0, Meta::resting(now).0) != was.0 {
        return false;
    }
    subtract(table, request, was);
    take_out_both(table, here, was, now);
    true
}

/// Makes the rows of both entries of a flow, the request's of which rests, free for others.
#[inline(always)]
fn take_out_both<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    request_at: Position,
    was: Meta,
    now: u32,
) {
    if let Some(request) = at(table, request_at) {
        take_out(table, request_at, request, was);
    }
    let reply_at = was.other();
    if let Some(reply) = at(table, reply_at)
        && let Some(was) = rest(reply, request_at, Reason::None, now)
    {
        take_out(table, reply_at, reply, was);
    }
}

/// Turns a live entry whose other is at `other` into a resting one; answers with what it was.
#[inline(always)]
fn rest<W: Word, const SLOT: usize>(
    slot: &[W; SLOT],
    other: Position,
    why: Reason,
    now: u32,
) -> Option<Meta> {
    let mut tries = 0;
    while tries < TRIES {
        let was = Meta(slot[0].load());
        if !was.is_live() || was.other() != other {
            return None;
        }
        // It was not when it was chosen to give way: its client has been quicker.
        if why == Reason::Evicted && was.state().is_confirmed() {
            return None;
        }
        if slot[0].exchange(was.0, Meta::resting(now).0) == was.0 {
            return Some(was);
        }
        tries += 1;
    }
    None
}

/// Takes a flow off the counts.
#[inline(always)]
fn subtract<const SLOT: usize, S: Storage<SLOT>>(table: &S, request: &[S::Word; SLOT], was: Meta) {
    let (service, backend) = owner(request);
    take(table, Live::Table);
    if was.state().is_confirmed() {
        take(table, Live::Confirmed);
    }
    take(table, Live::Service(service));
    // Before those of which these are a part: who reads the whole first never counts too few that go on.
    if was.state() == State::Closing {
        take(table, Live::Closing(backend));
    }
    take(table, Live::Backend(backend));
}

/// Takes one off a count.
#[inline(always)]
pub(super) fn take<const SLOT: usize, S: Storage<SLOT>>(table: &S, of: Live) {
    if let Some(count) = table.live(of) {
        count.add(1_u64.wrapping_neg());
    }
}

/// Makes the row of an entry that rests free for others, once its grace has passed.
#[inline(always)]
fn take_out<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    here: Position,
    slot: &[S::Word; SLOT],
    was: Meta,
) {
    if was.has(flag::SPILLED) {
        let way = Way::of(&key::<_, S::Address, SLOT>(slot, was), table.seed(), table.sets());
        if let Some(first) = table.set(way.first) {
            first.spill(1_u64.wrapping_neg());
        }
    }
    if let Some(set) = table.set(here >> 4) {
        set.clear_tag(here & 15);
    }
}

/// Takes out a reply's entry that has lost its request's: whoever ended the flow was killed in the middle.
/// True if there was one.
pub fn discard<const SLOT: usize, S: Storage<SLOT>>(table: &S, here: Position, now: u32) -> bool {
    let Some(slot) = at(table, here) else { return false };
    let meta = Meta(slot[0].load());
    let is_partner = |other: &[S::Word; SLOT]| {
        let partner = Meta(other[0].load());
        partner.is_live() && partner.other() == here
    };
    if !meta.is_live() || !meta.has(flag::REPLY) || at(table, meta.other()).is_some_and(is_partner)
    {
        return false;
    }
    let Some(was) = rest(slot, meta.other(), Reason::None, now) else { return false };
    take_out(table, here, slot, was);
    true
}

/// Ends the flow of a set that is best done without: one past its time, else the oldest that is over,
/// else the oldest that is not confirmed. Answers with why it ended, [`Reason::None`] if there is none, and how it was.
#[inline(never)]
pub fn evict<const SLOT: usize, S: Storage<SLOT>>(table: &S, index: u32, now: u32) -> Evicted {
    let mut victim = 0;
    let mut worth = 0;
    let mut row = 1;
    while row <= WAYS {
        let candidate = table.worth(position(index, row), now);
        if candidate > worth {
            (victim, worth) = (table.forget(row), candidate);
        }
        row += 1;
    }
    if victim == 0 {
        return Evicted::Nothing;
    }
    let (evicted, why) = match worth >> 32 {
        EXPIRED => (Evicted::Expired, Reason::Idle),
        CLOSING => (Evicted::Closing, Reason::Evicted),
        _ => (Evicted::Unconfirmed, Reason::Evicted),
    };
    if table.end(position(index, victim), why, now) { evicted } else { Evicted::Nothing }
}

/// What gave way.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evicted {
    /// Nothing: all are confirmed.
    Nothing = 0,
    /// A flow past its time.
    Expired = 1,
    /// A flow that was over.
    Closing = 2,
    /// A flow that was not confirmed.
    Unconfirmed = 3,
}

const UNCONFIRMED: u64 = 1;
const CLOSING: u64 = 2;
const EXPIRED: u64 = 3;

/// How well an entry's flow can be done without, and then how old it is; 0 for not at all.
#[inline(always)]
pub fn worth<const SLOT: usize, S: Storage<SLOT>>(table: &S, here: Position, now: u32) -> u64 {
    let Some(slot) = at(table, here) else { return 0 };
    let meta = Meta(slot[0].load());
    if !meta.is_live() {
        return 0;
    }
    let age = match meta.state() {
        State::Opening | State::OneWay => age(slot, meta, now),
        // An entry of a reply does not tell any more when it was opened.
        _ => (now.wrapping_sub(last_seen(slot)) as i32).max(1) as u32,
    };
    let (service, _) = owner(slot);
    let timeout = table.timeout(service, meta.state_number());
    let rank = if is_expired(table, here, slot, timeout, now) {
        EXPIRED
    } else {
        match meta.state() {
            State::Closing => CLOSING,
            State::Opening | State::OneWay => UNCONFIRMED,
            State::Established | State::TwoWay if !table.spares_confirmed() => UNCONFIRMED,
            State::Established | State::TwoWay | State::Free | State::Resting => return 0,
        }
    };
    rank << 32 | age as u64
}

/// How long ago a flow was opened, by the clock of either of its entries; at least 1.
#[inline(always)]
fn age<W: Word, const SLOT: usize>(slot: &[W; SLOT], meta: Meta, now: u32) -> u32 {
    let age = if meta.has(flag::REPLY) {
        // Of half an hour at most, which no flow that is not confirmed gets to be.
        (now.wrapping_sub(begun(slot) >> MOMENTS_BITS) << MOMENTS_BITS) as i32 >> MOMENTS_BITS
    } else {
        now.wrapping_sub(opened(slot)) as i32
    };
    // A flow cannot be younger than nothing: another CPU may have read the clock a little later.
    if age <= 0 { 1 } else { age as u32 }
}

/// Whether a slot may be claimed: never used, or given up long enough ago.
#[inline(always)]
pub(super) fn is_usable<W: Word, const SLOT: usize>(slot: &[W; SLOT], now: u32) -> bool {
    let meta = Meta(slot[0].load());
    match meta.state() {
        State::Free => true,
        State::Resting => is_past(meta.other(), super::GRACE, now),
        _ => false,
    }
}
