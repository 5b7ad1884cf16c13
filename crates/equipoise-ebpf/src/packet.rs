//! The bytes of a packet: all reading and writing of them, and all of its `unsafe`.
//!
//! A [`Window`] is the part of a packet that can be touched directly. Each access compares its
//! end with the window's end, which is the very comparison that the verifier wants to see.
//!
//! The compiler must not merge two such comparisons, or move one before the pointer that it
//! guards is formed: the verifier would then see an access it cannot connect with a check. So
//! pointers and offsets pass through an instruction that the compiler cannot see through.

use core::arch::asm;

use equipoise_common::key::{Be16, V4, V6};

use crate::hide::opaque;

/// The largest offset that is ever looked at: any header behind it is not walked to.
const MAX_OFFSET: usize = 0x7ff;

/// The bytes of a packet that can be touched directly.
#[derive(Clone, Copy)]
pub struct Window {
    start: usize,
    end: usize,
}

impl Window {
    /// Bytes that can be touched.
    #[inline(always)]
    pub const fn length(&self) -> usize {
        self.end.wrapping_sub(self.start)
    }

    /// From the context's `data` and `data_end`.
    #[inline(always)]
    pub fn new(start: usize, end: usize) -> Self {
        Self { start: opaque(start), end: opaque(end) }
    }

    /// `N` bytes at `offset`, if the window holds them all.
    #[inline(always)]
    pub fn header<const N: usize>(&self, offset: usize) -> Option<Header<N>> {
        let offset = opaque(offset);
        if offset > MAX_OFFSET {
            return None;
        }
        let pointer = opaque(self.start + offset);
        if pointer + N > self.end {
            return None;
        }
        Some(Header { pointer })
    }
}

/// `N` bytes of a packet that are known to be there.
#[derive(Clone, Copy)]
pub struct Header<const N: usize> {
    pointer: usize,
}

impl<const N: usize> Header<N> {
    /// The `T` at `AT`.
    #[inline(always)]
    pub fn load<T: Bytes, const AT: usize>(&self) -> T {
        const { assert!(AT + size_of::<T>() <= N) }
        // SAFETY: `Window::header` has checked that the packet holds these bytes.
        unsafe { T::load::<AT>(self.pointer) }
    }

    /// Puts `value` at `AT`.
    #[inline(always)]
    pub fn store<T: Bytes, const AT: usize>(&self, value: T) {
        const { assert!(AT + size_of::<T>() <= N) }
        // SAFETY: `Window::header` has checked that the packet has room for these bytes, and the
        // program owns the packet while it runs.
        unsafe { value.store::<AT>(self.pointer) };
    }
}

/// The link header, which has come to stand `by` bytes too far from the front, goes there again: `length` bytes, of an
/// Ethernet header and up to two VLAN tags.
#[inline(always)]
pub fn move_link_header(window: &Window, length: usize, by: usize) -> bool {
    const ETHERNET: usize = 14;
    const TAG: usize = 4;
    let Some(old) = window.header::<ETHERNET>(by) else { return false };
    let (one, two, three) = (old.load::<u64, 0>(), old.load::<u32, 8>(), old.load::<u16, 12>());
    let Some(new) = window.header::<ETHERNET>(0) else { return false };
    new.store::<u64, 0>(one);
    new.store::<u32, 8>(two);
    new.store::<u16, 12>(three);
    let mut at = ETHERNET;
    for _ in 0..2 {
        if at + TAG > length {
            break;
        }
        let (Some(old), Some(new)) = (window.header::<TAG>(by + at), window.header::<TAG>(at))
        else {
            return false;
        };
        new.store::<u32, 0>(old.load::<u32, 0>());
        at += TAG;
    }
    true
}

/// Values that any bytes make, loaded and stored whole wherever they stand.
///
/// Headers are seldom aligned. The kernel's architectures load and store misaligned words, but
/// the compiler does not know and would go byte by byte; so these are instructions of our own.
pub trait Bytes: Copy {
    /// Loads from packet memory.
    ///
    /// # Safety
    ///
    /// All bytes of `Self` from `pointer + AT` on are in the packet.
    unsafe fn load<const AT: usize>(pointer: usize) -> Self;

    /// Stores to packet memory.
    ///
    /// # Safety
    ///
    /// All bytes of `Self` from `pointer + AT` on are in the packet.
    unsafe fn store<const AT: usize>(self, pointer: usize);
}

macro_rules! word {
    ($word:ty, $name:literal) => {
        impl Bytes for $word {
            #[inline(always)]
            unsafe fn load<const AT: usize>(pointer: usize) -> Self {
                let value: u64;
                // SAFETY: the caller vouches for the bytes; any bit pattern is a value.
                unsafe {
                    asm!(
                        concat!("{0} = *(", $name, " *)({1} + {2})"),
                        out(reg) value,
                        in(reg) pointer,
                        const AT,
                        options(readonly, nostack, preserves_flags),
                    );
                }
                value as $word
            }

            #[inline(always)]
            unsafe fn store<const AT: usize>(self, pointer: usize) {
                // SAFETY: the caller vouches for the bytes.
                unsafe {
                    asm!(
                        concat!("*(", $name, " *)({0} + {2}) = {1}"),
                        in(reg) pointer,
                        in(reg) u64::from(self),
                        const AT,
                        options(nostack, preserves_flags),
                    );
                }
            }
        }
    };
}

word!(u8, "u8");
word!(u16, "u16");
word!(u32, "u32");
word!(u64, "u64");

macro_rules! transparent {
    ($outer:ident, $inner:ty) => {
        impl Bytes for $outer {
            #[inline(always)]
            unsafe fn load<const AT: usize>(pointer: usize) -> Self {
                // SAFETY: transparent over the inner word; the caller vouches for the bytes.
                Self(unsafe { <$inner>::load::<AT>(pointer) })
            }

            #[inline(always)]
            unsafe fn store<const AT: usize>(self, pointer: usize) {
                // SAFETY: as above.
                unsafe { self.0.store::<AT>(pointer) };
            }
        }
    };
}

transparent!(Be16, u16);
transparent!(V4, u32);

impl Bytes for V6 {
    #[inline(always)]
    unsafe fn load<const AT: usize>(pointer: usize) -> Self {
        // SAFETY: transparent over two words; the caller vouches for the bytes.
        let first = unsafe { u64::load::<AT>(pointer) };
        // SAFETY: as above; the second word ends where the address ends.
        let second = unsafe { u64::load::<AT>(pointer + 8) };
        Self([first, second])
    }

    #[inline(always)]
    unsafe fn store<const AT: usize>(self, pointer: usize) {
        // SAFETY: as for `load`.
        unsafe { self.0[0].store::<AT>(pointer) };
        // SAFETY: as for `load`.
        unsafe { self.0[1].store::<AT>(pointer + 8) };
    }
}
