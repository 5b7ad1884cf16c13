//! The largest segment that an end of a TCP connection says it takes (RFC 9293 section 3.7.1): an option of its SYN.

use equipoise_common::key::Be16;

use crate::packet::Window;

/// Bytes of a TCP header without options.
pub const TCP_MIN: usize = 20;
/// Bytes of the largest TCP header.
pub const TCP_MAX: usize = 60;

/// The offset at which the TCP header at `transport` has the largest segment, if it says one.
#[inline(always)]
pub fn offset(window: &Window, transport: usize) -> Option<usize> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const SEGMENT: u8 = 2;
    /// Larger than any place in a header. A mask makes each turn look alike to the verifier, however the last
    /// ones went.
    const PLACES: usize = 0x7ff;
    let header = window.header::<TCP_MIN>(transport)?;
    let end = transport + (header.load::<u8, 12>() >> 4) as usize * 4;
    let mut at = transport + TCP_MIN;
    for _ in 0..TCP_MAX - TCP_MIN {
        if at >= end {
            return None;
        }
        let kind = window.header::<1>(at)?.load::<u8, 0>();
        if kind == END {
            return None;
        }
        if kind == NOTHING {
            at = (at + 1) & PLACES;
            continue;
        }
        let length = window.header::<2>(at)?.load::<u8, 1>();
        if kind == SEGMENT {
            return (length == 4 && at + 4 <= end).then_some(at + 2);
        }
        if length < 2 {
            return None;
        }
        at = (at + length as usize) & PLACES;
    }
    None
}

/// Makes the number at `at` no larger than `most`: it has been so much before, or is left as it is.
#[inline(always)]
pub fn lower(window: &Window, at: usize, most: u16) -> Option<Be16> {
    let told = window.header::<2>(at)?;
    let old = told.load::<Be16, 0>();
    if old.get() <= most {
        return None;
    }
    told.store::<Be16, 0>(Be16::new(most));
    Some(old)
}
