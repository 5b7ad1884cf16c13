//! Opening a flow: two entries, claimed together or not at all.
//!
//! Counts first, then places: what a limit forbids touches no set. The sets that both keys lead to are taken by
//! locks that are tried and never waited for, and everything is looked up once more behind them: of two CPUs
//! with the first packets of one flow, the second finds what the first has decided. Whatever is
//! in the way is said, and nothing is left behind.

use super::count::{Live, Refused};
use super::end::{Evicted, is_usable, take};
use super::entry::{At, Meta, flag, pair, ports};
use super::find::find;
use super::set::{FIRST_CHOICE, Position, Storage, WAYS, Way, position};
use super::state::State;
use super::word::Word;
use crate::key::{FiveTuple, UDP};

/// A flow to be opened.
#[derive(Clone, Copy)]
pub struct New<A> {
    /// The five-tuple of the client's packets as they come in.
    pub request: FiveTuple<A>,
    /// The five-tuple of the backend's packets as they come in.
    pub reply: FiveTuple<A>,
    /// Service id.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
    /// Generation of the backend.
    pub generation: u16,
    /// Whether the backend's answers do not come by us.
    pub is_one_sided: bool,
    /// End of what the client has sent.
    pub sent: u32,
    /// Its latest acknowledgement, and with it the end of what it knows the backend to have sent.
    pub acknowledged: u32,
    /// Packets and IP bytes of the first packet.
    pub packets: u64,
    /// IP bytes of the first packet.
    pub bytes: u64,
    /// Now, ticks.
    pub now: u32,
    /// Now, moments.
    pub begun: u32,
}

/// Live flows at most; 0 for no limit.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Of the table.
    pub table: u32,
    /// Of the service.
    pub service: u32,
    /// Of the backend.
    pub backend: u32,
}

impl Limits {
    /// No limits.
    pub const NONE: Self = Self { table: 0, service: 0, backend: 0 };
}

/// How an opening ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Where the request's entry is; 0 if there is none.
    pub at: Position,
    /// True if another CPU was quicker.
    pub found: bool,
    /// Why there is none, a [`Refused`] as a number; 0 if there is one.
    pub refused: u32,
    /// What gave way to it, an [`Evicted`] as a number.
    pub evicted: u32,
}

impl Opened {
    /// Nothing yet.
    pub const NOTHING: Self = Self { at: 0, found: false, refused: 0, evicted: 0 };

    /// In one word.
    #[inline(always)]
    pub const fn packed(self) -> u64 {
        self.at as u64
            | (self.found as u64) << 32
            | (self.refused as u64) << 40
            | (self.evicted as u64) << 48
    }

    /// The reverse of [`Opened::packed`].
    #[inline(always)]
    pub const fn unpacked(word: u64) -> Self {
        Self {
            at: word as Position,
            found: word >> 32 & 1 != 0,
            refused: (word >> 40 & 0xff) as u32,
            evicted: (word >> 48 & 0xff) as u32,
        }
    }
}

/// Opens a flow, unless its request's entry is there already: [`reserve`], [`place`] and [`release`], which a program
/// calls one after the other, so that each has its stack to itself.
pub fn open<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    new: &New<S::Address>,
    limits: &Limits,
    opened: &mut Opened,
) {
    *opened = reserve(table, new, limits);
    if opened.refused == 0 {
        let evicted = opened.evicted;
        place(table, new, opened);
        opened.evicted = evicted;
        release(table, new, opened);
    }
}

/// Counts a flow that is to be opened; what is forbidden is refused, and nothing is counted then.
#[inline(always)]
pub fn reserve<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    new: &New<S::Address>,
    limits: &Limits,
) -> Opened {
    let mut opened = Opened::NOTHING;
    if !count(table, Live::Service(new.service), limits.service) {
        opened.refused = Refused::Service as u32;
        return opened;
    }
    if !count(table, Live::Backend(new.backend), limits.backend) {
        take(table, Live::Service(new.service));
        opened.refused = Refused::Backend as u32;
        return opened;
    }
    if count(table, Live::Table, limits.table) {
        return opened;
    }
    let way = Way::of(&new.request, table.seed(), table.sets());
    opened.evicted = table.evict(way.first, new.now);
    if opened.evicted == Evicted::Nothing as u32 {
        opened.evicted = table.evict(way.second, new.now);
    }
    // One has gone, and this one comes in its place, unless another CPU is quicker.
    if opened.evicted == Evicted::Nothing as u32 || !count(table, Live::Table, limits.table) {
        give_back(table, new);
        opened.refused = Refused::Full as u32;
    }
    opened
}

/// Takes off the counts again what [`place`] has not placed, and makes room for those that come after the
/// grace where there was none.
#[inline(always)]
pub fn release<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    new: &New<S::Address>,
    opened: &mut Opened,
) {
    if opened.refused == 0 && !opened.found {
        return;
    }
    take_back(table, new);
    if opened.refused == Refused::Crowded as u32 && opened.evicted == 0 {
        let way = Way::of(&new.request, table.seed(), table.sets());
        opened.evicted = table.evict(way.first, new.now);
    }
}

/// Counts one more, unless that is more than `most`.
#[inline(always)]
fn count<const SLOT: usize, S: Storage<SLOT>>(table: &S, of: Live, most: u32) -> bool {
    let Some(count) = table.live(of) else { return true };
    let before = count.add(1);
    if most != 0 && before >= most as u64 {
        count.add(1_u64.wrapping_neg());
        return false;
    }
    true
}

/// Takes off the counts what [`reserve`] has counted.
#[inline(always)]
pub(super) fn take_back<const SLOT: usize, S: Storage<SLOT>>(table: &S, new: &New<S::Address>) {
    take(table, Live::Table);
    give_back(table, new);
}

#[inline(always)]
fn give_back<const SLOT: usize, S: Storage<SLOT>>(table: &S, new: &New<S::Address>) {
    take(table, Live::Service(new.service));
    take(table, Live::Backend(new.backend));
}

/// No set.
const NONE: u32 = u32::MAX;

/// Sets that this opening has locked.
struct Held {
    request: u32,
    reply: u32,
    /// Second choices that were taken. Both keys may need theirs: with one for both, sets would be
    /// crowded from 6/10 on.
    seconds: [u32; 2],
}

impl Held {
    #[inline(always)]
    fn has(&self, set: u32) -> bool {
        let [one, other] = self.seconds;
        self.request == set || self.reply == set || one == set || other == set
    }
}

/// Claims two slots for a flow that is counted, and fills them.
#[inline(always)]
pub fn place<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    new: &New<S::Address>,
    opened: &mut Opened,
) {
    *opened = Opened::NOTHING;
    let request = Way::of(&new.request, table.seed(), table.sets());
    let reply = Way::of(&new.reply, table.seed(), table.sets());
    for way in [&request, &reply] {
        // Both before the first lock, behind which nothing is read until it is taken.
        if let Some(set) = table.set(way.first) {
            set.fetch(way.row);
        }
    }
    let Some(first) = table.set(request.first).filter(|first| first.try_lock(S::MARK)) else {
        opened.refused = Refused::Busy as u32;
        return;
    };
    opened.at = find(table, &new.request, &request);
    if opened.at == 0 {
        place_locked(table, new, [&request, &reply], opened);
    } else {
        opened.found = true;
    }
    first.unlock(S::MARK);
}

/// With the set of the request's first choice held.
#[inline(always)]
fn place_locked<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    new: &New<S::Address>,
    [request, reply]: [&Way; 2],
    opened: &mut Opened,
) {
    let mut held = Held { request: request.first, reply: NONE, seconds: [NONE; 2] };
    if reply.first != request.first {
        if !table.set(reply.first).is_some_and(|set| set.try_lock(S::MARK)) {
            opened.refused = Refused::Busy as u32;
            return;
        }
        held.reply = reply.first;
    }
    if find(table, &new.reply, reply) == 0 {
        place_held(table, new, [request, reply], &mut held, opened);
    } else {
        opened.refused = Refused::Taken as u32;
    }
    let [one, other] = held.seconds;
    for set in [one, other, held.reply] {
        if set != NONE
            && let Some(set) = table.set(set)
        {
            set.unlock(S::MARK);
        }
    }
}

/// With the sets of both first choices held.
#[inline(always)]
fn place_held<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    new: &New<S::Address>,
    [request, reply]: [&Way; 2],
    held: &mut Held,
    opened: &mut Opened,
) {
    let request_at = choose_for(table, request, held, new.now);
    if request_at == 0 {
        opened.refused = Refused::Crowded as u32;
        return;
    }
    // From here on the row counts as used, so that the reply does not choose it.
    mark(table, request_at, request.tag);
    let reply_at = choose_for(table, reply, held, new.now);
    if reply_at == 0 {
        if let Some(set) = table.set(request_at >> 4) {
            set.clear_tag(request_at & 15);
        }
        opened.refused = Refused::Crowded as u32;
        return;
    }
    mark(table, reply_at, reply.tag);
    for (at, way) in [(request_at, request), (reply_at, reply)] {
        if at >> 4 != way.first
            && let Some(first) = table.set(way.first)
        {
            first.spill(1);
        }
    }
    let udp = new.request.protocol == UDP;
    let state = if udp { State::OneWay } else { State::Opening };
    let mut always = if udp { flag::UDP } else { 0 };
    if new.is_one_sided {
        // What nobody sees here is taken to have come.
        always |= flag::ONE_SIDED | flag::ANSWERED;
    }
    let spilled = |at: Position, way: &Way| if at >> 4 == way.first { 0 } else { flag::SPILLED };
    let reply_meta = Meta::live(
        state,
        flag::REPLY | always | spilled(reply_at, reply),
        new.generation,
        request_at,
    );
    let request_meta =
        Meta::live(state, always | spilled(request_at, request), new.generation, reply_at);
    fill(table, reply_at, new, Side::Reply);
    fill(table, request_at, new, Side::Request);
    publish(table, reply_at, reply_meta);
    publish(table, request_at, request_meta);
    opened.at = request_at;
}

#[inline(always)]
fn choose_for<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    way: &Way,
    held: &mut Held,
    now: u32,
) -> Position {
    let Way { first, second, row, .. } = *way;
    if let Some(set) = table.set(first)
        && set.used() < FIRST_CHOICE
        && set.tag(row) == 0
        && is_usable(set.row(row), now)
    {
        return position(first, row);
    }
    let second_is = if held.has(way.second) { Wanted::HELD } else { Wanted::MAY_LOCK };
    let chosen = table.choose(&Wanted { first, second, row, second_is, now });
    if chosen & LOCKED != 0 {
        held.seconds = [held.seconds[1], way.second];
    }
    chosen as Position
}

#[inline(always)]
fn mark<const SLOT: usize, S: Storage<SLOT>>(table: &S, at: Position, tag: u16) {
    if let Some(set) = table.set(at >> 4) {
        set.set_tag(at & 15, tag);
    }
}

/// Where a key is to go, and what is held of where it could.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// The set of its first choice, which is held.
    pub first: u32,
    /// The set of its second choice.
    pub second: u32,
    /// The row that it prefers.
    pub row: u32,
    /// Whether the second set is held already, and if not, whether it may be locked: [`Wanted::HELD`],
    /// [`Wanted::MAY_LOCK`] or neither.
    pub second_is: u32,
    /// Now.
    pub now: u32,
}

impl Wanted {
    /// The second set is held.
    pub const HELD: u32 = 1;
    /// The second set may be locked.
    pub const MAY_LOCK: u32 = 2;
}

/// Set in what [`choose`] answers if it has locked the second set.
pub const LOCKED: u64 = 1 << 32;

/// A row for a key, or 0: in the set of its first choice until that is well filled, then in the emptier one.
#[inline(always)]
pub fn choose<const SLOT: usize, S: Storage<SLOT>>(table: &S, wanted: &Wanted) -> u64 {
    let Some(first) = table.set(wanted.first) else { return 0 };
    let used = first.used();
    let row = table.usable(wanted.first, wanted.row, wanted.now);
    let in_first = if row == 0 { 0 } else { position(wanted.first, row) as u64 };
    if in_first != 0 && used < FIRST_CHOICE || wanted.second == wanted.first {
        return in_first;
    }
    let Some(second) = table.set(wanted.second) else { return in_first };
    let mut locked = 0;
    if wanted.second_is & Wanted::HELD == 0 {
        if wanted.second_is & Wanted::MAY_LOCK == 0 || !second.try_lock(S::MARK) {
            return in_first;
        }
        locked = LOCKED;
    }
    if in_first == 0 || second.used() < used {
        let row = table.usable(wanted.second, wanted.row, wanted.now);
        if row != 0 {
            return position(wanted.second, row) as u64 | locked;
        }
    }
    if locked != 0 {
        second.unlock(S::MARK);
    }
    in_first
}

/// A row of a set that can be claimed, or 0; the preferred one if possible.
#[inline(always)]
pub fn usable<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    index: u32,
    preferred: u32,
    now: u32,
) -> u32 {
    let Some(set) = table.set(index) else { return 0 };
    if set.tag(preferred) == 0 && is_usable(set.row(preferred), now) {
        return preferred;
    }
    let mut row = 1;
    while row <= WAYS {
        if set.tag(row) == 0 && is_usable(set.row(row), now) {
            return row;
        }
        row += 1;
    }
    0
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Reply,
}

/// Writes all of a claimed slot but its meta word.
#[inline(always)]
fn fill<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    at: Position,
    new: &New<S::Address>,
    side: Side,
) {
    let Some(set) = table.set(at >> 4) else { return };
    let slot = set.row(at & 15);
    let (key, other) = match side {
        Side::Request => (&new.request, &new.reply),
        Side::Reply => (&new.reply, &new.request),
    };
    let addresses = pair(key.source, key.destination);
    let to = pair(other.destination, other.source);
    let mut word = 0;
    while word < At::<SLOT>::PAIR {
        slot[At::<SLOT>::KEY + word].store(addresses[word]);
        slot[At::<SLOT>::TO + word].store(to[word]);
        word += 1;
    }
    let now = (new.now as u64) << 32;
    let opened = match side {
        Side::Request => now,
        Side::Reply => (new.begun as u64) << 32,
    };
    slot[At::<SLOT>::KEY_PORTS].store(ports(key) as u64 | opened);
    let to_ports = ports(&other.reversed()) as u64;
    slot[At::<SLOT>::TO_PORTS]
        .store(to_ports | (new.service as u64 & 0xffff) << 32 | (new.backend as u64) << 48);
    // What the client has acknowledged is what the backend has sent.
    let (sent, acknowledged, traffic) = match side {
        Side::Request => (new.sent, new.acknowledged, new.packets << 36 | new.bytes),
        Side::Reply => (new.acknowledged, new.sent, 0),
    };
    slot[At::<SLOT>::ACTIVITY].store(sent as u64 | now);
    slot[At::<SLOT>::TRACK].store(acknowledged as u64);
    slot[At::<SLOT>::TRAFFIC].store(traffic);
}

/// Makes a filled slot an entry.
#[inline(always)]
fn publish<const SLOT: usize, S: Storage<SLOT>>(table: &S, at: Position, meta: Meta) {
    let Some(set) = table.set(at >> 4) else { return };
    let slot = set.row(at & 15);
    // Free or resting, and ours: nobody else writes it, so the exchange cannot fail.
    let was = slot[At::<SLOT>::META].load();
    slot[At::<SLOT>::META].exchange(was, meta.0);
}
