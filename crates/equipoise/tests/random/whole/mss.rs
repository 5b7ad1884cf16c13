//! The size of segments that a SYN asks for.

use super::datagram::Segment;
use crate::wire::{SYN, TCP};

/// A SYN asks for no larger segments than these.
pub(crate) fn lower(segment: &mut Segment, most: u16) {
    if segment.protocol != TCP || segment.flags & SYN == 0 {
        return;
    }
    let options = &mut segment.options;
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        match (kind, options.get(at + 1).copied()) {
            (0, _) => return,
            (1, _) => at += 1,
            (2, Some(4)) if at + 4 <= options.len() => {
                let asked = u16::from_be_bytes([options[at + 2], options[at + 3]]);
                options[at + 2..at + 4].copy_from_slice(&asked.min(most).to_be_bytes());
                return;
            }
            (_, Some(length)) if length >= 2 => at += usize::from(length),
            _ => return,
        }
    }
}
