//! One word of the table, as memory that several CPUs and user space share.

/// A word that is read and written from several sides at once.
pub trait Word {
    /// As it is now; not ordered with other words.
    fn load(&self) -> u64;

    /// Sets it; not ordered with other words.
    fn store(&self, value: u64);

    /// Sets the lower half and leaves the upper; not ordered, and not one with an `add` to it.
    fn store_low(&self, value: u32);

    /// Sets it to `new` if it is `current`; answers with what it was. A full barrier.
    fn exchange(&self, current: u64, new: u64) -> u64;

    /// Adds, wrapping; answers with what it was. A full barrier.
    fn add(&self, by: u64) -> u64;
}

#[cfg(any(test, feature = "user"))]
mod user {
    use super::Word;
    use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    impl Word for AtomicU64 {
        #[inline]
        fn load(&self) -> u64 {
            Self::load(self, Ordering::Acquire)
        }

        #[inline]
        fn store(&self, value: u64) {
            Self::store(self, value, Ordering::Release);
        }

        #[inline]
        fn store_low(&self, value: u32) {
            // SAFETY: half of this word, which is aligned and lives as long as the reference; both halves and the
            // whole are only ever reached atomically, as the programs do in the same memory.
            let halves = unsafe { &*self.as_ptr().cast::<[AtomicU32; 2]>() };
            let low = if cfg!(target_endian = "little") { 0 } else { 1 };
            halves[low].store(value, Ordering::Release);
        }

        #[inline]
        fn exchange(&self, current: u64, new: u64) -> u64 {
            match self.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(was) | Err(was) => was,
            }
        }

        #[inline]
        fn add(&self, by: u64) -> u64 {
            self.fetch_add(by, Ordering::SeqCst)
        }
    }
}
