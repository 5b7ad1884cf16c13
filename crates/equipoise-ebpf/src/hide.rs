//! What the compiler, or the kernel's verifier, is not to know of a value.

use core::arch::asm;

/// Hides where a value came from. One real instruction: an empty template makes two line records
/// on one instruction, which the loader refuses (kernel 6.18).
#[inline(always)]
pub fn opaque(mut value: usize) -> usize {
    // SAFETY: a register is moved to itself.
    unsafe {
        asm!("{0} = {0}", inout(reg) value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// Hides from the verifier what a value can be, by something that it knows nothing of: it goes through what follows once
/// and not for each value. To look at the value's bounds again is what [`Window`] does anyway.
#[inline(always)]
pub fn forget(mut value: usize, unknown: u32) -> usize {
    // SAFETY: a register is changed and changed back.
    unsafe {
        asm!(
            "{0} ^= {1}",
            "{0} ^= {1}",
            inout(reg) value,
            in(reg) u64::from(unknown),
            options(nomem, nostack, preserves_flags)
        );
    }
    value
}
