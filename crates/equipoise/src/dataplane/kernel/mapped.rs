//! An array map in our address space: words that the programs read and write at the same time.
//!
//! Knows where a word is and that it is there, not what it means.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64};

use aya::maps::{Map, MapData};

use super::KernelError;
use super::pin::refused;

/// An array map in our address space.
pub(super) struct Mapped {
    start: ptr::NonNull<u8>,
    length: NonZeroUsize,
    /// Keeps the map.
    _map: MapData,
}

// SAFETY: the mapping belongs to this value, and all of it is reached by atomics alone.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps this many bytes of an array map that was made mappable.
    pub(super) fn new(map: Map, length: usize) -> Result<Self, KernelError> {
        let Map::Array(map) = map else {
            return Err(KernelError::Refused(
                "a map that should be an array is not one".to_owned(),
            ));
        };
        let page = 4096;
        let length = length.next_multiple_of(page);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let fd = map.fd().as_fd().as_raw_fd();
        // SAFETY: a new shared mapping of a map made mappable; nothing else is touched.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), length, protection, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(refused("mapping a map into memory", &io::Error::last_os_error()));
        }
        // A process that forks would copy its page tables; what it starts has no use for it.
        // SAFETY: the mapping that was just made. Without it a fork costs more, and no less works.
        unsafe { libc::madvise(start, length, libc::MADV_DONTFORK) };
        let start = ptr::NonNull::new(start.cast())
            .ok_or_else(|| refused("mapping a map into memory", &"address 0"))?;
        let length = NonZeroUsize::new(length)
            .ok_or_else(|| refused("mapping a map into memory", &"no bytes"))?;
        Ok(Self { start, length, _map: map })
    }

    /// The word at this many bytes from the start, a multiple of 8; none beyond the end.
    pub(super) fn word(&self, at: usize) -> Option<&AtomicU64> {
        self.get(at)
    }

    /// The half word at this many bytes from the start, a multiple of 4; none beyond the end.
    pub(super) fn half(&self, at: usize) -> Option<&AtomicU32> {
        self.get(at)
    }

    /// What is made of atomics, at this many bytes from the start; none beyond the end.
    pub(super) fn get<T: Atomics>(&self, at: usize) -> Option<&T> {
        let end = at.checked_add(size_of::<T>())?;
        if end > self.length.get() || !at.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: inside the mapping, which starts at a page, and aligned: checked above.
        let place = unsafe { self.start.add(at) };
        // SAFETY: as above; it is made of atomics, for which any bits are a value, and lives as long as we do.
        Some(unsafe { place.cast::<T>().as_ref() })
    }
}

/// Types that are made of atomics, and nothing else.
///
/// # Safety
///
/// Any bits are a value, and every access to shared memory through a reference is atomic.
pub(super) unsafe trait Atomics {}

// SAFETY: one atomic.
unsafe impl Atomics for AtomicU64 {}
// SAFETY: one atomic.
unsafe impl Atomics for AtomicU32 {}
// SAFETY: an array of atomics.
unsafe impl<const SLOT: usize> Atomics for equipoise_common::flow::Set<AtomicU64, SLOT> {}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, unmapped once.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length.get()) };
    }
}
