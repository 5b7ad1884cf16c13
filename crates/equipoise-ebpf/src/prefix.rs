//! A key of a prefix tree that lies in a map, and is written in words there.

use aya_ebpf::btf_maps::lpm_trie::Key;

/// A [`Key`] at a place where all of it is aligned. It is packed, and the compiler would write it byte by byte where it
/// cannot see the place: on the stack it can.
#[repr(C, align(8))]
pub struct Prefix<K> {
    /// Before the key, so that what comes after its bits is aligned to eight bytes.
    gap: u32,
    bits: u32,
    data: K,
}

impl<K> Prefix<K> {
    /// So many bits of this.
    #[inline(always)]
    pub fn new(bits: u32, data: K) -> Self {
        const { assert!(size_of::<Key<K>>() == size_of::<u32>() + size_of::<K>()) }
        const { assert!(align_of::<K>() <= 8) }
        Self { gap: 0, bits, data }
    }

    /// Makes it so many bits of this, where it is.
    #[inline(always)]
    pub fn set(&mut self, bits: u32, data: K) {
        self.bits = bits;
        self.data = data;
    }

    /// As the kernel takes it.
    #[inline(always)]
    pub fn key(&self) -> &Key<K> {
        let start = (&raw const *self).cast::<u8>().wrapping_add(core::mem::offset_of!(Self, bits));
        // SAFETY: the bits and, right behind them, the data, as a key has them (asserted above); it is aligned to a byte.
        unsafe { &*start.cast() }
    }
}
