//! Looking a five-tuple up: the one thing that every packet does.
//!
//! The way that the key prefers is looked at first; it nearly always has the entry. The tags of the
//! header lead to the others, and to the second set only where entries have had to go there. Answers
//! with a position; whether the flow is past its time is for [`is_expired`].

use super::entry::{Meta, last_seen, matches};
use super::set::{Position, Set, Storage, Way, at, position};
use super::word::Word;
use crate::key::FiveTuple;

/// The position of the entry that `key` finds, or 0.
#[inline(always)]
pub fn find<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    key: &FiveTuple<S::Address>,
    way: &Way,
) -> Position {
    find_as(table, key, way, Expected::There)
}

/// What a look-up is expected to find.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The key, where it prefers to be: nothing else is touched.
    There,
    /// Nothing: the header, which tells so, is fetched from memory together with the way.
    Nothing,
}

/// As [`find`], with what is expected.
#[inline(always)]
pub fn find_as<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    key: &FiveTuple<S::Address>,
    way: &Way,
    expected: Expected,
) -> Position {
    let Some(set) = table.set(way.first) else { return 0 };
    if expected == Expected::Nothing {
        set.spilled();
    }
    if matches(set.row(way.row), key) {
        return position(way.first, way.row);
    }
    // Not by a call, which costs as much again: a new flow is looked for four times.
    if !set.may_have(way.tag) && set.spilled() == 0 {
        return 0;
    }
    table.find_elsewhere(key, way)
}

/// The position of the entry that `key` finds where it does not prefer to be, or 0.
#[inline(always)]
pub fn find_elsewhere<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    key: &FiveTuple<S::Address>,
    way: &Way,
) -> Position {
    let Some(set) = table.set(way.first) else { return 0 };
    let row = table.forget(find_in(set, key, way.tag));
    if row != 0 {
        return position(way.first, row);
    }
    if set.spilled() == 0 {
        return 0;
    }
    let Some(second) = table.set(way.second) else { return 0 };
    match table.forget(find_in(second, key, way.tag)) {
        0 => 0,
        row => position(way.second, row),
    }
}

/// The row of a set that has the entry, or 0.
#[inline(always)]
fn find_in<W: Word, A: crate::key::Address, const SLOT: usize>(
    set: &Set<W, SLOT>,
    key: &FiveTuple<A>,
    tag: u16,
) -> u32 {
    let mut group = 0;
    while group < 4 {
        if set.group_may_have(group, tag) {
            let mut row = group * 4;
            while row < group * 4 + 4 {
                // Row 0 is the header; its tag is always 0.
                if set.tag(row) == tag && matches(set.row(row), key) {
                    return row;
                }
                row += 1;
            }
        }
        group += 1;
    }
    0
}

/// Whether a flow, found at `here`, has been idle for longer than it may: in both directions.
#[inline(always)]
pub fn is_expired<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    here: Position,
    slot: &[S::Word; SLOT],
    timeout: u32,
    now: u32,
) -> bool {
    if !is_past(last_seen(slot), timeout, now) {
        return false;
    }
    let meta = Meta(slot[0].load());
    let Some(other) = at(table, meta.other()) else { return true };
    let partner = Meta(other[0].load());
    !partner.is_live() || partner.other() != here || is_past(last_seen(other), timeout, now)
}

/// How far ahead of ours a time may lie: another CPU may have read the clock a little later than we have.
const AHEAD: u32 = 1 << 22;

/// Whether more than `timeout` has gone by. Not by the sign of the difference: what nobody has touched
/// for 26 days would then seem to lie ahead for as long again.
#[inline(always)]
pub fn is_past(since: u32, timeout: u32, now: u32) -> bool {
    let age = now.wrapping_sub(since);
    age > timeout && age < AHEAD.wrapping_neg()
}
