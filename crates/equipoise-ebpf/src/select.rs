//! Which backend a new flow goes to: a slot of the pool's run, and the backend in it.

use core::ptr;

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use equipoise_common::hash;
use equipoise_common::step::What;
use equipoise_common::value::{Backend, Pick, Pool};

use crate::family::Family;
use crate::map::{BACKENDS, POOLS, SLOTS};
use crate::parse::Headers;
use crate::report;

/// A pool's run of slots, and where in it this flow looks.
pub struct Run {
    offset: u32,
    length: u32,
    first: u32,
}

/// A backend and its id.
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
    // A packet from the middle of a stream goes where its hash says, whatever the algorithm: a
    // peer that has taken over finds the same slot.
    let hash = if pick == Pick::Random as u32 && !headers.is_mid_stream() {
        // SAFETY: takes nothing.
        u64::from(unsafe { bpf_get_prandom_u32() }) << 32
    } else {
        hash::five_tuple(&headers.tuple)
    };
    Some(Run { offset, length, first: hash::slot(hash, length) })
}

impl Run {
    /// The backend in the picked slot, or, for another `attempt`, in one some way on.
    #[inline(always)]
    pub fn backend(&self, attempt: u32) -> Option<Chosen> {
        let mut slot = self.first;
        if attempt > 0 {
            // About the golden section of the run: neighbouring slots may be one backend's.
            slot += self.length / 8 * 5 + attempt;
            if slot >= self.length {
                slot -= self.length;
            }
            if slot >= self.length {
                slot = 0;
            }
        }
        let entry = SLOTS.get_ptr(self.offset + slot)?;
        // SAFETY: the entry is in an array map and stays.
        let id = unsafe { ptr::read_volatile(entry) };
        report::step(What::Slot, slot, u64::from(id));
        let backend = *BACKENDS.get(id)?;
        (backend.state == Backend::LIVE).then_some(Chosen { id, backend })
    }
}
