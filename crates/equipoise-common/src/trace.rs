//! A packet as it came and as it left, with what became of it, through a ring buffer.
//!
//! Fixed size. Bytes are those of the frame from its link header on, as far as there is room.

/// Bytes of a packet that are kept.
pub const KEPT: usize = 128;

/// A packet.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Traced {
    /// When it left, nanoseconds of the kernel's monotonic clock.
    pub time: u64,
    /// Packets that were wanted, and not told of, on this CPU since the one before: too many came.
    pub skipped: u64,
    /// A [`crate::verdict::Hook`] as a number.
    pub hook: u32,
    /// The index of the interface that it came by (egress: left by).
    pub interface: u32,
    /// A [`crate::verdict::Verdict`] as a number.
    pub verdict: u32,
    /// The id of its service, and 1; 0 for none.
    pub service: u32,
    /// The id of its backend, and 1; 0 for none.
    pub backend: u32,
    /// What the program has answered the kernel.
    pub action: u32,
    /// Bytes of the frame as it came, and as it left.
    pub lengths: [u32; 2],
    /// How many of each are here.
    pub kept: [u32; 2],
    /// The first of them.
    pub bytes: [[u8; KEPT]; 2],
}

impl Traced {
    /// One that has not been filled.
    pub const NOTHING: Self = Self {
        time: 0,
        skipped: 0,
        hook: 0,
        interface: 0,
        verdict: 0,
        service: 0,
        backend: 0,
        action: 0,
        lengths: [0; 2],
        kept: [0; 2],
        bytes: [[0; KEPT]; 2],
    };
}

const _: () = assert!(size_of::<Traced>() == 312);

/// Which packets are told of.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Wanted {
    /// A bit for each [`crate::verdict::Verdict`], by its number.
    pub verdicts: [u64; 2],
    /// The id of the service, and 1; 0 for any, and for packets of none.
    pub service: u64,
    /// Nanoseconds between two packets on one CPU at least.
    pub pause: u64,
}

impl Wanted {
    /// Whether packets with the verdict of this number are wanted.
    #[inline(always)]
    pub const fn has(&self, verdict: u32) -> bool {
        let word = if verdict < 64 { self.verdicts[0] } else { self.verdicts[1] };
        word >> (verdict & 63) & 1 != 0
    }

    /// Wants the verdict of this number too.
    pub const fn add(&mut self, verdict: u32) {
        self.verdicts[(verdict >> 6 & 1) as usize] |= 1 << (verdict & 63);
    }
}

const _: () = assert!(crate::verdict::VERDICTS <= 128);

#[cfg(feature = "user")]
// SAFETY: `repr(C)` words without padding; any bit pattern is a value.
unsafe impl aya::Pod for Wanted {}
#[cfg(feature = "user")]
// SAFETY: `repr(C)` words and bytes without padding (size asserted above); any bit pattern is a value.
unsafe impl aya::Pod for Traced {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_wanted_that_has_been_added_and_no_other() {
        for number in [0, 1, 63, 64, 65, 127] {
            let mut wanted = Wanted::default();
            wanted.add(number);
            assert!((0..128).all(|other| wanted.has(other) == (other == number)), "{number}");
        }
    }
}
