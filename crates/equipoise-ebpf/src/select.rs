//! Which backend a new flow goes to: a slot of the pool's run, and the backend in it.

use core::ptr;

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use equipoise_common::flow::count::Pressure;
use equipoise_common::flow::{Live, Word as _};
use equipoise_common::hash;
use equipoise_common::limit::BACKEND_TRIES;
use equipoise_common::step::What;
use equipoise_common::value::{Backend, Pick, Pool};
use equipoise_common::verdict::Verdict;

use crate::family::Family;
use crate::map::{BACKENDS, POOLS, SLOTS};
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

/// The run of a pool, with the slot that this packet's flow picks; none for an empty pool.
#[inline(always)]
pub fn run<F: Family>(pool: u32, headers: &Headers<F>) -> Option<Run> {
    let pool: *const Pool = POOLS.get_ptr(pool)?;
    // Offset and length are one aligned word, loaded at once: user space flips it at once.
    // SAFETY: the entry is in an array map and stays.
    let word = unsafe { ptr::read_volatile(pool.cast::<u64>()) };
    // SAFETY: as above; the second word is epoch and pick.
    let second = unsafe { ptr::read_volatile(pool.cast::<u64>().wrapping_add(1)) };
    let pick = (second >> 32) as u32;
    let (offset, length) = (word as u32, (word >> 32) as u32);
    if length == 0 {
        return None;
    }
    let run = Run { offset, length, first: 0 };
    // A packet from the middle of a stream goes where its hash says, whatever the algorithm: a
    // peer that has taken over finds the same slot.
    if pick == Pick::Random as u32 && !headers.is_mid_stream() {
        // SAFETY: takes nothing.
        let random = u64::from(unsafe { bpf_get_prandom_u32() }) << 32;
        return Some(Run { first: hash::slot(random, length), ..run });
    }
    Some(run.hashed(headers))
}

impl Run {
    /// The same run, with the slot that the packet's hash picks.
    #[inline(always)]
    pub fn hashed<F: Family>(&self, headers: &Headers<F>) -> Self {
        Self { first: hash::slot(hash::five_tuple(&headers.tuple), self.length), ..*self }
    }

    /// The backend in the picked slot, or, for another `attempt`, in one some way on.
    #[inline(always)]
    pub fn backend(&self, attempt: u32) -> Option<Chosen> {
        let mut slot = self.first;
        if attempt > 0 {
            // Steps of about the golden section of the run: neighbouring slots may be one backend's.
            let step = self.length / 8 * 5 + 1;
            slot = (slot + attempt * step).checked_rem(self.length).unwrap_or_default();
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
    let run = Run { offset, length, first };
    let mut found = NO_BACKEND;
    let mut attempt = next;
    for _ in 0..BACKEND_TRIES {
        let chosen = run.backend(attempt);
        attempt += 1;
        let Some(chosen) = chosen else { continue };
        if !has_room(&chosen) {
            report::step(What::BackendFull, chosen.id, u64::from(chosen.backend.max_flows));
            if found == NO_BACKEND {
                found = NO_ROOM;
            }
            continue;
        }
        if is_limited != 0 && !limit::backend_takes(chosen.id, chosen.backend.service) {
            found = NO_TOKEN;
            continue;
        }
        if found != NO_BACKEND {
            report::pressure(Pressure::MovedOn);
        }
        return u64::from(attempt) << 32 | u64::from(chosen.id);
    }
    if found != NO_BACKEND {
        report::pressure(Pressure::RefusedBackend);
    }
    u64::from(attempt) << 32 | u64::from(found)
}

#[inline(always)]
fn has_room(chosen: &Chosen) -> bool {
    let limit = u64::from(chosen.backend.max_flows);
    // The opening counts exactly; this spares it backends that have no chance.
    limit == 0 || table::live(Live::Backend(chosen.id), 0).is_none_or(|live| live.load() < limit)
}
