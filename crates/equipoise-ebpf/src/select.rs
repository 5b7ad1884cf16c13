//! Which backend a new flow goes to: a slot of the pool's run, and the backend in it.

use core::ptr;

use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_get_smp_processor_id};
use equipoise_common::flow::count::Pressure;
use equipoise_common::flow::{Live, Word as _};
use equipoise_common::hash;
use equipoise_common::key::Be16;
use equipoise_common::limit::BACKEND_TRIES;
use equipoise_common::step::What;
use equipoise_common::value::{Backend, Pick, Pool};
use equipoise_common::verdict::Verdict;

use crate::family::Family;
use crate::map::{BACKENDS, POOLS, SLOTS, TURNS};
use crate::parse::Headers;
use crate::{limit, report, table};

/// A pool's run of slots, and where in it this flow looks.
#[derive(Clone, Copy)]
pub struct Run {
    /// First slot of the run.
    pub offset: u32,
    /// Slots in it, at least one.
    pub length: u32,
    /// The slot that is picked.
    pub first: u32,
}

/// A backend and its id.
#[derive(Clone, Copy)]
pub struct Chosen {
    /// Index into the backends and their counters.
    pub id: u32,
    /// The entry.
    pub backend: Backend,
}

impl Chosen {
    /// The port at the backend for packets to this one.
    #[inline(always)]
    pub fn port(&self, vip: Be16) -> Be16 {
        if self.backend.port.0 == 0 { vip } else { self.backend.port }
    }
}

/// The run of a pool, with the slot that this packet's flow picks; none for an empty pool.
#[inline(always)]
pub fn run<F: Family>(pool: u32, headers: &Headers<F>) -> Option<Run> {
    let (run, pick) = entry(pool)?;
    // A packet from the middle of a stream goes where its hash says, whatever the algorithm: a
    // peer that has taken over finds the same slot.
    let first = match pick {
        _ if headers.is_mid_stream() => run.hashed(headers, pick),
        Pick::Hash | Pick::Source { .. } => run.hashed(headers, pick),
        Pick::Random => at_random(run.length),
        Pick::Turn => next_in_turn(pool, run.length),
        Pick::Fewest => fewest(run.offset, run.length),
    };
    Some(Run { first, ..run })
}

/// The run of a pool, with the slot that this packet's hash picks whatever the algorithm.
#[inline(always)]
pub fn hashed<F: Family>(pool: u32, headers: &Headers<F>) -> Option<Run> {
    let (run, pick) = entry(pool)?;
    Some(Run { first: run.hashed(headers, pick), ..run })
}

/// Whether this host takes up the TCP connections that lead to a pool.
#[inline(always)]
pub fn is_streamed(pool: u32) -> bool {
    POOLS.get_ptr(pool).is_some_and(|pool| picks(pool) & Pool::STREAMED != 0)
}

/// How an entry says that its slots are picked.
#[inline(always)]
fn picks(pool: *const Pool) -> u32 {
    // SAFETY: the entry is in an array map and stays; its second word is epoch and pick.
    let second = unsafe { ptr::read_volatile(pool.cast::<u64>().wrapping_add(1)) };
    (second >> 32) as u32
}

#[inline(always)]
fn entry(pool: u32) -> Option<(Run, Pick)> {
    let pool: *const Pool = POOLS.get_ptr(pool)?;
    // Offset and length are one aligned word, loaded at once: user space flips it at once.
    // SAFETY: the entry is in an array map and stays.
    let word = unsafe { ptr::read_volatile(pool.cast::<u64>()) };
    let (offset, length) = (word as u32, (word >> 32) as u32);
    let pick = Pick::from_number(picks(pool));
    (length != 0).then_some((Run { offset, length, first: 0 }, pick))
}

#[inline(always)]
fn at_random(length: u32) -> u32 {
    // SAFETY: takes nothing.
    hash::slot(u64::from(unsafe { bpf_get_prandom_u32() }) << 32, length)
}

/// This CPU's next slot. CPUs begin some way apart, or the first flows of all would go to one backend.
#[inline(always)]
fn next_in_turn(pool: u32, length: u32) -> u32 {
    let Some(turn) = TURNS.get_ptr_mut(pool) else { return 0 };
    // SAFETY: this CPU's own entry, and nothing else runs on it meanwhile.
    let turn = unsafe { &mut *turn };
    // SAFETY: takes nothing.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let slot = u64::from(cpu * hash::stride(length)) + *turn;
    if !report::is_dry() {
        *turn += 1;
    }
    slot.checked_rem(u64::from(length)).unwrap_or_default() as u32
}

/// Of two slots at random, the one whose backend has fewer live flows for its weight. A function that is verified by
/// itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fewest(offset: u32, length: u32) -> u32 {
    let (one, other) = (at_random(length), at_random(length));
    let (Some(a), Some(b)) = (load(offset + one), load(offset + other)) else { return one };
    // What each would have with this flow, by the other's weight instead of through its own.
    if (b.0 + 1) * a.1 < (a.0 + 1) * b.1 { other } else { one }
}

/// Live flows and weight of the backend in a slot.
#[inline(always)]
fn load(slot: u32) -> Option<(u64, u64)> {
    let entry = SLOTS.get_ptr(slot)?;
    // SAFETY: the entry is in an array map and stays.
    let id = unsafe { ptr::read_volatile(entry) };
    let weight = BACKENDS.get(id)?.weight;
    Some((table::live(Live::Backend(id), 0)?.load(), u64::from(weight)))
}

impl Run {
    /// The slot that the packet's hash picks.
    #[inline(always)]
    fn hashed<F: Family>(&self, headers: &Headers<F>, pick: Pick) -> u32 {
        let hash = match pick {
            Pick::Source { bits } => hash::source(headers.tuple.source, u32::from(bits)),
            Pick::Hash | Pick::Random | Pick::Turn | Pick::Fewest => {
                hash::five_tuple(&headers.tuple)
            }
        };
        hash::slot(hash, self.length)
    }

    /// The backend in the picked slot, or, for another `attempt`, in one some way on.
    #[inline(always)]
    pub fn backend(&self, attempt: u32) -> Option<Chosen> {
        let mut slot = self.first;
        if attempt > 0 {
            slot = (slot + attempt * hash::stride(self.length))
                .checked_rem(self.length)
                .unwrap_or_default();
        }
        let entry = SLOTS.get_ptr(self.offset + slot)?;
        // SAFETY: the entry is in an array map and stays.
        let id = unsafe { ptr::read_volatile(entry) };
        report::step(What::Slot, slot, u64::from(id));
        let backend = *BACKENDS.get(id)?;
        (backend.state == Backend::LIVE).then_some(Chosen { id, backend })
    }

    /// The first backend from attempt `next` on that has room for another flow, and, where that `is_limited`, a token
    /// for it.
    #[inline(always)]
    pub fn with_room(&self, next: &mut u32, is_limited: u32) -> Result<Chosen, Verdict> {
        let answer = backend_with_room(self.offset, self.length, self.first, *next, is_limited);
        *next = (answer >> 32) as u32;
        match answer as u32 {
            NO_BACKEND => Err(Verdict::NoBackend),
            NO_ROOM => Err(Verdict::FlowLimit),
            NO_TOKEN => Err(Verdict::BackendLimit),
            id => match BACKENDS.get(id) {
                Some(&backend) => Ok(Chosen { id, backend }),
                None => Err(Verdict::NoBackend),
            },
        }
    }
}

/// No backend of the slots that were tried can be chosen.
const NO_BACKEND: u32 = u32::MAX;
/// Those that can be chosen have as many flows as they may.
const NO_ROOM: u32 = u32::MAX - 1;

/// So, or have had as many new flows as their rate allows, at least one of them.
const NO_TOKEN: u32 = u32::MAX - 2;

/// The id of the first backend with room from attempt `next` on, and the attempt after it in the upper half. A
/// function that is verified by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn backend_with_room(
    offset: u32,
    length: u32,
    first: u32,
    next: u32,
    is_limited: u32,
) -> u64 {
    let mut found = NO_BACKEND;
    let mut attempt = next;
    for _ in 0..BACKEND_TRIES {
        let tried = backend_in_slot(offset, length, first, attempt, is_limited);
        attempt += 1;
        match tried {
            NO_BACKEND => {}
            NO_TOKEN => found = NO_TOKEN,
            NO_ROOM if found == NO_BACKEND => found = NO_ROOM,
            NO_ROOM => {}
            id => {
                if found != NO_BACKEND {
                    report::pressure(Pressure::MovedOn);
                }
                return u64::from(attempt) << 32 | u64::from(id);
            }
        }
    }
    if found != NO_BACKEND {
        report::pressure(Pressure::RefusedBackend);
    }
    u64::from(attempt) << 32 | u64::from(found)
}

/// The id of the backend that an attempt leads to, if it has room. A function that is verified by itself, and so once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn backend_in_slot(
    offset: u32,
    length: u32,
    first: u32,
    attempt: u32,
    is_limited: u32,
) -> u32 {
    let run = Run { offset, length, first };
    let Some(chosen) = run.backend(attempt) else { return NO_BACKEND };
    if !has_room(&chosen) {
        report::step(What::BackendFull, chosen.id, u64::from(chosen.backend.max_flows));
        return NO_ROOM;
    }
    if is_limited != 0 && !limit::backend_takes(chosen.id, u32::from(chosen.backend.service)) {
        return NO_TOKEN;
    }
    chosen.id
}

#[inline(always)]
fn has_room(chosen: &Chosen) -> bool {
    let limit = u64::from(chosen.backend.max_flows);
    // The opening counts exactly; this spares it backends that have no chance.
    limit == 0 || table::live(Live::Backend(chosen.id), 0).is_none_or(|live| live.load() < limit)
}
