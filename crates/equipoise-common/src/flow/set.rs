//! Sets of slots: how a table is laid out in memory, and how a key leads to a place in it.
//!
//! A set is 16 rows of one slot's size: a header and 15 ways. A key has two sets that it may be in, and
//! in the first of them one way that it prefers, where it is nearly always found at once. Tags in the
//! header lead to the others, so that a look-up that fails touches two lines. The hash is keyed by a
//! secret of the instance, so that nobody outside can choose packets that meet in one set.

use super::count::Live;
use super::entry::{Meta, Reason};
use super::word::Word;
use crate::hash::{mix, slot};
use crate::key::{Address, FiveTuple};

/// Ways of a set.
pub const WAYS: u32 = 15;

/// How long a slot that has been given up is not used again: 2^27 ns. A program that still held it, or
/// a CPU of a virtual machine that was taken away in the middle of one, is long done by then.
pub const GRACE: u32 = 128;

/// Where an entry is: the number of its set and of its row. 0 is no place, since row 0 is a header.
pub type Position = u32;

/// Sets of a table for so many flows: twice as many ways as entries, of which each flow takes two.
///
/// It is the lines that a look-up has to touch that this is for. In a table that is filled to a half, seven entries in
/// ten are where they are looked for first, and hardly any is in its second set. Room there would be to 0.75 of all
/// ways: below that no key was seen to find none (10 000 to 10 million flows). What is left is also for slots within
/// their grace.
pub const fn sets_for(max_flows: u32) -> u32 {
    let entries = max_flows as u64 * 2;
    let sets = (entries * 2).div_ceil(WAYS as u64);
    // A handful of keys says nothing about averages, and where sets are few, both choices are often the same.
    sets as u32 + 8
}

/// Used ways of a key's first set from which on the second one is looked at. With 12 a full table has one entry in
/// thirty in its second set, with 10 one in nine.
pub const FIRST_CHOICE: u32 = 12;

/// One set. `SLOT` words a row: 8 for IPv4, 16 for IPv6.
#[repr(C, align(64))]
pub struct Set<W, const SLOT: usize> {
    rows: [[W; SLOT]; 16],
}

/// Words of the header.
const LOCK: usize = 0;
const SPILLED: usize = 1;
const TAGS: usize = 2;

/// A `1` in each lane of a word of tags.
const LANES: u64 = 0x0001_0001_0001_0001;

impl<W: Word, const SLOT: usize> Set<W, SLOT> {
    /// From its rows.
    pub const fn new(rows: [[W; SLOT]; 16]) -> Self {
        Self { rows }
    }

    /// A row; any number leads to one.
    #[inline(always)]
    pub fn row(&self, row: u32) -> &[W; SLOT] {
        &self.rows[(row & 15) as usize]
    }

    /// Has the header and a row fetched from memory, together, before either is needed. Nobody waits for them.
    #[inline(always)]
    pub fn fetch(&self, row: u32) {
        self.spilled();
        self.row(row)[0].load();
    }

    /// Takes the set for a claim, without waiting, in the name of who has this mark ([`Storage::MARK`]). To be given back by
    /// [`Set::unlock`].
    #[inline(always)]
    pub fn try_lock(&self, mark: u64) -> bool {
        self.rows[0][LOCK].exchange(0, mark) == 0
    }

    /// Gives it back. False if it was not taken by who has this mark.
    #[inline(always)]
    pub fn unlock(&self, mark: u64) -> bool {
        // An exchange, since all that was written under the lock must be seen before it.
        self.rows[0][LOCK].exchange(mark, 0) == mark
    }

    /// The mark of who has taken the set; 0 for nobody.
    #[inline(always)]
    pub fn taken_by(&self) -> u64 {
        self.rows[0][LOCK].load()
    }

    /// Entries that have their first choice here and are elsewhere.
    #[inline(always)]
    pub fn spilled(&self) -> u64 {
        self.rows[0][SPILLED].load()
    }

    /// Counts them.
    #[inline(always)]
    pub fn spill(&self, by: u64) {
        self.rows[0][SPILLED].add(by);
    }

    /// Four tags, of the rows `4 * group` to `4 * group + 3`.
    #[inline(always)]
    pub fn group(&self, group: u32) -> u64 {
        self.rows[0][TAGS + (group & 3) as usize].load()
    }

    /// The tag of a row; 0 while the row is not in use.
    #[inline(always)]
    pub fn tag(&self, row: u32) -> u16 {
        (self.group(row >> 2) >> ((row & 3) * 16)) as u16
    }

    /// Sets the tag of a row that has none. Only who has claimed the row does that.
    #[inline(always)]
    pub fn set_tag(&self, row: u32, tag: u16) {
        let lane = (row & 3) * 16;
        self.rows[0][TAGS + ((row >> 2) & 3) as usize].add((tag as u64) << lane);
    }

    /// Takes the tag of a row away. Only who has ended the row's entry does that, once.
    #[inline(always)]
    pub fn clear_tag(&self, row: u32) {
        let lane = (row & 3) * 16;
        let tag = self.tag(row) as u64;
        self.rows[0][TAGS + ((row >> 2) & 3) as usize].add((tag << lane).wrapping_neg());
    }

    /// Whether any of the four tags of a group is this one.
    #[inline(always)]
    pub fn group_may_have(&self, group: u32, tag: u16) -> bool {
        lanes_of(self.group(group), tag) != 0
    }

    /// Whether any tag of the set is this one.
    #[inline(always)]
    pub fn may_have(&self, tag: u16) -> bool {
        let mut found = 0;
        let mut group = 0;
        while group < 4 {
            found |= lanes_of(self.group(group), tag);
            group += 1;
        }
        found != 0
    }

    /// Ways in use. Without branches, of which the verifier would follow each.
    #[inline(always)]
    pub fn used(&self) -> u32 {
        const LOW: u64 = LANES * 0x7fff;
        let mut used = 0;
        let mut group = 0;
        while group < 4 {
            let tags = self.group(group);
            let marks = ((tags & LOW).wrapping_add(LOW) | tags) >> 15 & LANES;
            used += marks.wrapping_mul(LANES) >> 48;
            group += 1;
        }
        used as u32
    }
}

/// Not 0 where any of four tags is this one.
#[inline(always)]
fn lanes_of(tags: u64, tag: u16) -> u64 {
    let differences = tags ^ (LANES * tag as u64);
    // A lane of zeros is where a borrow comes out that was not in before.
    differences.wrapping_sub(LANES) & !differences & (LANES << 15)
}

/// What a table is stored in, and what is counted beside it.
pub trait Storage<const SLOT: usize> {
    /// How a word is reached.
    type Word: Word;
    /// IPv4 or IPv6.
    type Address: Address;
    /// What sets are locked with: not the same for programs, which always come to an end, and for user space, which may be
    /// killed.
    const MARK: u64 = 1;

    /// Sets in all, at least one.
    fn sets(&self) -> u32;

    /// The secret that keys the hash.
    fn seed(&self) -> u64;

    /// A set; none beyond the last.
    fn set(&self, index: u32) -> Option<&Set<Self::Word, SLOT>>;

    /// A count of live flows.
    fn live(&self, of: Live) -> Option<&Self::Word>;

    /// The same value, of which the verifier no longer knows how it came about: else it would follow all that
    /// comes after once for each row of a set.
    #[inline(always)]
    fn forget(&self, value: u32) -> u32 {
        value
    }

    /// [`super::end::end`]; as the functions below, for a program to have as a function that is verified by itself,
    /// once, instead of at each call.
    #[inline(always)]
    fn end(&self, here: Position, why: Reason, now: u32) -> bool
    where
        Self: Sized,
    {
        super::end::end(self, here, why, now)
    }

    /// As [`Storage::end`] says.
    #[inline(always)]
    fn evict(&self, set: u32, now: u32) -> u32
    where
        Self: Sized,
    {
        super::end::evict(self, set, now) as u32
    }

    /// As [`Storage::end`] says: how well a flow can be done without.
    #[inline(always)]
    fn worth(&self, here: Position, now: u32) -> u64
    where
        Self: Sized,
    {
        super::end::worth(self, here, now)
    }

    /// As [`Storage::end`] says: where a key is found that is not where it prefers to be.
    #[inline(always)]
    fn find_elsewhere(&self, key: &FiveTuple<Self::Address>, way: &Way) -> Position
    where
        Self: Sized,
    {
        super::find::find_elsewhere(self, key, way)
    }

    /// As [`Storage::end`] says: a row of a set that can be claimed.
    #[inline(always)]
    fn usable(&self, set: u32, preferred: u32, now: u32) -> u32
    where
        Self: Sized,
    {
        super::open::usable(self, set, preferred, now)
    }

    /// As [`Storage::end`] says: where a key can go.
    #[inline(always)]
    fn choose(&self, wanted: &super::open::Wanted) -> u64
    where
        Self: Sized,
    {
        super::open::choose(self, wanted)
    }

    /// Whether a confirmed flow never gives way to a new one. The alternative is there to show what it would lead to.
    #[inline(always)]
    fn spares_confirmed(&self) -> bool {
        true
    }

    /// How long a flow of a service lives without a packet in the state with this number, ticks.
    fn timeout(&self, service: u32, state: u32) -> u32;

    /// A backend has answered a SYN that came at this moment, and that was sent once: how long that has taken says something of
    /// the backend.
    #[inline(always)]
    fn answered(&self, _backend: u32, _begun: u32) {}

    /// How long ago this moment was, moments: since a flow that is confirmed now was begun. Not 0, which is for none.
    #[inline(always)]
    fn confirmed(&self, _begun: u32) -> u32 {
        1
    }

    /// A flow has ended; what its slots say, but for their meta words, is still there.
    fn ended(&self, end: &End<'_, Self::Word, SLOT>);
}

/// The end of a flow.
pub struct End<'a, W, const SLOT: usize> {
    /// The request's slot.
    pub request: &'a [W; SLOT],
    /// The reply's.
    pub reply: Option<&'a [W; SLOT]>,
    /// The request's meta word as it was.
    pub was: Meta,
    /// Why.
    pub why: Reason,
}

/// Where a key leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// The set of its first choice.
    pub first: u32,
    /// The set of its second choice; may be the same.
    pub second: u32,
    /// The row of the first set that it prefers.
    pub row: u32,
    /// Its tag, never 0.
    pub tag: u16,
}

impl Way {
    /// Where `key` leads in a table of so many sets.
    #[inline(always)]
    pub fn of<A: Address>(key: &FiveTuple<A>, seed: u64, sets: u32) -> Self {
        let hash = keyed(key, seed);
        let low = hash as u32;
        let tag = (low >> 16) as u16;
        Self {
            first: slot(hash, sets),
            second: slot(mix(hash, seed), sets),
            // Not scaled to 1..=15 by a multiplication: the verifier would not see its bound.
            row: if low & 15 == 0 { low >> 4 & 14 | 1 } else { low & 15 },
            tag: if tag == 0 { 1 } else { tag },
        }
    }
}

/// The hash of a key, of no use to whoever does not know the seed.
#[inline(always)]
fn keyed<A: Address>(key: &FiveTuple<A>, seed: u64) -> u64 {
    let [s0, s1] = key.source.words();
    let [d0, d1] = key.destination.words();
    let ports = (key.source_port.0 as u64) << 32
        | (key.destination_port.0 as u64) << 16
        | key.protocol as u64;
    if A::IS_V6 {
        let hash = mix(mix(seed, s0), s1);
        return mix(mix(mix(hash, d0), d1), ports);
    }
    mix(mix(seed, s0 | d0 << 32), ports)
}

/// Makes a position of a set and a row.
#[inline(always)]
pub const fn position(set: u32, row: u32) -> Position {
    set << 4 | row & 15
}

/// The slot at a position; none where there is no such set.
#[inline(always)]
pub fn at<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    position: Position,
) -> Option<&[S::Word; SLOT]> {
    Some(table.set(position >> 4)?.row(position))
}
