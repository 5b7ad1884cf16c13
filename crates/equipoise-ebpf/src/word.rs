//! A word of a map, as the flow tables and limits want one.

use core::cell::UnsafeCell;
use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};
use core::ptr;

use equipoise_common::flow::Word;

/// A word in a map that other CPUs and user space reach too.
#[repr(transparent)]
pub struct Shared(UnsafeCell<u64>);

impl Shared {
    /// A word to be put into a map.
    #[inline(always)]
    pub const fn new(value: u64) -> Self {
        Self(UnsafeCell::new(value))
    }
}

// The library's atomics are not there for this target: plain accesses are volatile, the rest intrinsics, which
// become the instructions that the kernel runs as full barriers.
impl Word for Shared {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: aligned, and in a map entry that stays.
        unsafe { ptr::read_volatile(self.0.get()) }
    }

    #[inline(always)]
    fn store(&self, value: u64) {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(self.0.get(), value) };
    }

    #[inline(always)]
    fn store_low(&self, value: u32) {
        // The target's byte order is little endian (bpfel), so the lower half comes first.
        // SAFETY: as above.
        unsafe { ptr::write_volatile(self.0.get().cast::<u32>(), value) };
    }

    #[inline(always)]
    fn exchange(&self, current: u64, new: u64) -> u64 {
        const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
        // SAFETY: as above.
        unsafe { atomic_cxchg::<u64, ORDER, ORDER>(self.0.get(), current, new) }.0
    }

    #[inline(always)]
    fn add(&self, by: u64) -> u64 {
        // SAFETY: as above.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(self.0.get(), by) }
    }
}
