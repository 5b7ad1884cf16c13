//! The flow tables in our address space: listing, counting, copying.
//!
//! The same source as in the programs walks the same memory, so nothing here costs a system call per flow. A set whose
//! header has no tag is passed over at the cost of one cache line.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use equipoise_common::event::Event;
use equipoise_common::flow::copy::{Copied as Outcome, carry, copy};
use equipoise_common::flow::entry::{Facts, both, facts, handshake, key, last_seen, opened, owner};
use equipoise_common::flow::find::is_expired;
use equipoise_common::flow::set::{End, WAYS, at, position};
use equipoise_common::flow::{Live as Count, Meta, Position, Set, State, Storage, flag, tick};
use equipoise_common::key::{Address, FiveTuple};
use equipoise_common::value::{Backend, Policy};

use super::mapped::Mapped;
use super::{Copied, FlowRow};

/// Counts of live flows.
pub(super) struct Live {
    /// Of each table and its confirmed flows, 8 words apart.
    pub(super) tables: Mapped,
    /// By service id.
    pub(super) services: Mapped,
    /// By backend id.
    pub(super) backends: Mapped,
    /// So, those that are over.
    pub(super) closing: Mapped,
}

impl Live {
    fn word(&self, of: Count, first: usize) -> Option<&AtomicU64> {
        const WORD: usize = size_of::<u64>();
        match of {
            Count::Table => self.tables.word(first * WORD),
            Count::Confirmed => self.tables.word((first + 8) * WORD),
            Count::Service(id) => self.services.word(id as usize * WORD),
            Count::Backend(id) => self.backends.word(id as usize * WORD),
            Count::Closing(id) => self.closing.word(id as usize * WORD),
        }
    }

    /// A count. One that another CPU is taking off while it adds may be read a moment too early.
    pub(super) fn count(&self, of: Count, first: usize) -> u64 {
        self.word(of, first).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// A count of each family's table, IPv4 and IPv6 together.
    pub(super) fn both(&self, of: Count) -> u64 {
        self.count(of, FIRST_V4) + self.count(of, FIRST_V6)
    }
}

/// Where the counts of a family's table begin.
pub(super) const FIRST_V4: usize = 0;
/// As [`FIRST_V4`].
pub(super) const FIRST_V6: usize = 16;

/// One family's table.
pub(super) struct Table<'a, A> {
    pub(super) memory: &'a Mapped,
    pub(super) live: &'a Live,
    /// Where its counts begin.
    pub(super) first: usize,
    pub(super) sets: u32,
    pub(super) seed: u64,
    /// The time, where it is one that is set.
    pub(super) clock: Option<u32>,
    /// How services treat their flows, by id.
    pub(super) policies: &'a [Policy],
    /// The backends, by id.
    pub(super) backends: &'a [Backend],
    /// Flows that have ended or closed by a call of ours.
    pub(super) ended: RefCell<Vec<Event>>,
    pub(super) family: std::marker::PhantomData<fn() -> A>,
}

impl<A: Address + Into<IpAddr>, const SLOT: usize> Storage<SLOT> for Table<'_, A> {
    type Word = AtomicU64;
    type Address = A;
    /// Not that of the programs: what a process that is killed leaves locked is told by it.
    const MARK: u64 = 2;

    fn sets(&self) -> u32 {
        self.sets
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn set(&self, index: u32) -> Option<&Set<AtomicU64, SLOT>> {
        if index >= self.sets {
            return None;
        }
        self.memory.get(index as usize * size_of::<Set<AtomicU64, SLOT>>())
    }

    fn live(&self, of: Count) -> Option<&AtomicU64> {
        self.live.word(of, self.first)
    }

    fn timeout(&self, service: u32, state: u32) -> u32 {
        self.policies.get(service as usize).map_or(0, |policy| policy.timeouts[state as usize & 7])
    }

    fn ended(&self, end: &End<'_, AtomicU64, SLOT>) {
        let (service, _) = owner(end.request);
        let wanted = self
            .policies
            .get(service as usize)
            .is_some_and(|policy| policy.switches & Policy::EVENTS != 0);
        // A flow that has closed has been told of then.
        if wanted && end.was.state() != State::Closing {
            self.ended.borrow_mut().push(event::<A, SLOT>(self, end));
        }
    }
}

fn event<A: Address + Into<IpAddr>, const SLOT: usize>(
    table: &Table<'_, A>,
    end: &End<'_, AtomicU64, SLOT>,
) -> Event {
    let found: FiveTuple<A> = key(end.request, end.was);
    let facts: Facts<A> = facts(end.request, end.was);
    let traffic = both(end.request, end.reply);
    let backend = table.backend(end.was, &facts);
    let (one, other) = (backend.is_ipv6(), A::IS_V6);
    Event {
        client: found.source.pack(),
        vip: found.destination.pack(),
        backend_address: backend.ip().into(),
        client_port: found.source_port,
        vip_port: found.destination_port,
        backend_port: facts.to.destination_port,
        what: Event::CLOSED
            | if other { Event::IPV6 } else { 0 }
            | if one { Event::BACKEND_IPV6 } else { 0 }
            | if end.was.is_sent_again() { Event::SENT_AGAIN } else { 0 },
        protocol: found.protocol,
        why: end.why as u32,
        service: facts.service,
        backend: facts.backend,
        duration: latest(end.request, end.reply).wrapping_sub(opened(end.request)),
        state: end.was.state_number(),
        handshake: end.reply.map_or(0, |reply| handshake(reply, end.was)).into(),
        packets_in: traffic.packets_in,
        bytes_in: traffic.bytes_in,
        packets_out: traffic.packets_out,
        bytes_out: traffic.bytes_out,
    }
}

impl<A: Address + Into<IpAddr>> Table<'_, A> {
    /// The same table for another thread, with nothing ended yet.
    pub(super) fn again(&self) -> Self {
        Self { ended: RefCell::default(), ..*self }
    }

    /// Where the packets of a flow go.
    fn backend(&self, meta: Meta, facts: &Facts<A>) -> SocketAddr {
        let FiveTuple { destination, destination_port, .. } = facts.to;
        let entry = self.backends.get(facts.backend as usize);
        let entry = entry.filter(|_| meta.has(flag::ONE_SIDED));
        let ip = entry.map_or_else(|| destination.into(), |entry| entry.place().ip());
        SocketAddr::new(ip, destination_port.get())
    }
}

/// When the last packet of a flow came, whichever way it went.
fn latest<const SLOT: usize>(
    request: &[AtomicU64; SLOT],
    reply: Option<&[AtomicU64; SLOT]>,
) -> u32 {
    let mine = last_seen(request);
    let other = reply.map_or(mine, last_seen);
    if other.wrapping_sub(mine) as i32 > 0 { other } else { mine }
}

/// Calls `each` with every entry in these sets, until it answers false; false if it has.
pub(super) fn entries<A: Address + Into<IpAddr>, const SLOT: usize>(
    table: &Table<'_, A>,
    sets: Range<u32>,
    mut each: impl FnMut(Position, &[AtomicU64; SLOT], Meta) -> bool,
) -> bool {
    for index in sets {
        let Some(set) = Storage::<SLOT>::set(table, index) else { return true };
        for group in 0..4 {
            if set.group(group) == 0 {
                continue;
            }
            for row in (group * 4..group * 4 + 4).filter(|&row| row != 0 && row <= WAYS) {
                if set.tag(row) == 0 {
                    continue;
                }
                let slot = set.row(row);
                let meta = Meta(slot[0].load(Ordering::Acquire));
                if meta.is_live() && !each(position(index, row), slot, meta) {
                    return false;
                }
            }
        }
    }
    true
}

/// Calls `each` for every live flow of one family's table; false when it has asked to stop.
pub(super) fn walk<A, const SLOT: usize>(
    table: &Table<'_, A>,
    now: u32,
    each: &mut dyn FnMut(FlowRow) -> bool,
) -> bool
where
    A: Address + Into<IpAddr>,
{
    entries::<A, SLOT>(table, 0..table.sets, |here, slot, meta| {
        if meta.has(flag::REPLY) {
            return true;
        }
        let (service, _) = owner(slot);
        let timeout = Storage::<SLOT>::timeout(table, service, meta.state_number());
        // Ended by the next packet or the next sweep, whichever comes first.
        if is_expired::<SLOT, _>(table, here, slot, timeout, now) {
            return true;
        }
        each(row(table, slot, meta, now))
    })
}

/// A flow as it is listed.
pub(super) fn row<A: Address + Into<IpAddr>, const SLOT: usize>(
    table: &Table<'_, A>,
    slot: &[AtomicU64; SLOT],
    meta: Meta,
    now: u32,
) -> FlowRow {
    let found: FiveTuple<A> = key(slot, meta);
    let facts: Facts<A> = facts(slot, meta);
    let reply = at::<SLOT, _>(table, meta.other());
    let traffic = both(slot, reply);
    let since = |then: u32| ticks(now.wrapping_sub(then) as i32);
    FlowRow {
        protocol: found.protocol,
        client: SocketAddr::new(found.source.into(), found.source_port.get()),
        vip: SocketAddr::new(found.destination.into(), found.destination_port.get()),
        backend_address: table.backend(meta, &facts),
        service: facts.service,
        backend: facts.backend,
        state: meta.state().name(),
        age: since(opened(slot)),
        idle: since(latest(slot, reply)),
        traffic: [traffic.packets_in, traffic.bytes_in, traffic.packets_out, traffic.bytes_out],
    }
}

/// So many ticks; none for a time that is not yet over.
pub(super) fn ticks(ticks: i32) -> Duration {
    Duration::from_nanos(u64::from(ticks.max(0).unsigned_abs()) << 20)
}

/// Copies every flow of one family's table into another; those past their time too, whose ends are still to be told.
/// Adds to `copied` what has become of them.
pub(super) fn copy_all<A, const SLOT: usize>(
    from: &Table<'_, A>,
    to: &Table<'_, A>,
    now: u32,
    copied: &mut Copied,
) where
    A: Address + Into<IpAddr>,
{
    entries::<A, SLOT>(from, 0..from.sets, |here, _, _| {
        match copy::<SLOT, _, _>(from, here, to, now) {
            Outcome::Done => copied.copied += 1,
            Outcome::Refused(_) => copied.refused += 1,
            Outcome::Found | Outcome::Nothing => {}
        }
        true
    });
}

/// Carries every flow in these sets of one family's table over to another, which is in use as well. What finds no room
/// there stays. How many there were.
pub(super) fn carry_all<A, const SLOT: usize>(
    from: &Table<'_, A>,
    sets: Range<u32>,
    to: &Table<'_, A>,
) -> u64
where
    A: Address + Into<IpAddr>,
{
    let mut met = 0;
    entries::<A, SLOT>(from, sets, |here, _, meta| {
        if meta.has(flag::REPLY) {
            return true;
        }
        met += 1;
        // Read for each: what is given up is stamped with it, and a grace must not begin in the past.
        let now = from.clock.unwrap_or_else(now);
        carry::<SLOT, _, _>(from, here, to, now);
        true
    });
    met
}

/// Gives back what a process of user space that was killed has left locked. What it was about to fill there is free again.
pub(super) fn unlock_left<A, const SLOT: usize>(table: &Table<'_, A>)
where
    A: Address + Into<IpAddr>,
{
    let mark = <Table<'_, A> as Storage<SLOT>>::MARK;
    for index in 0..table.sets {
        let Some(set) = Storage::<SLOT>::set(table, index) else { return };
        if set.taken_by() != mark {
            continue;
        }
        for row in 1..=WAYS {
            if set.tag(row) != 0 && !Meta(set.row(row)[0].load(Ordering::Acquire)).is_live() {
                set.clear_tag(row);
            }
        }
        set.unlock(mark);
    }
}

/// The clock of the programs: monotonic, at the last kernel tick.
pub(super) fn now() -> u32 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a whole `timespec` to fill; this clock is there since 2.6.32.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    tick(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
