//! Checks that go the way the packets go: how the packet programs tell their packets, and know the answers.
//!
//! A socket of ours that talks to a backend's own address says by the priority of its packets which backend is meant. The
//! program at TC egress sends those to the VIP at that backend, as it would send a client's, and what the VIP answers has
//! the backend's address again before the stack sees it. A priority, and not a mark, since marks choose routes and are what
//! firewalls go by; the lowest four bits, by which queues are chosen, are those of best effort.

use crate::key::{Be16, V6};

/// What the priorities of such packets begin with: no class of a queueing discipline is called so.
const BEGINNING: u32 = 0xe9 << 24;
/// Bits below the backend's id.
const BELOW: u32 = 4;

/// The priority of packets for the VIP at a backend, by its id.
#[inline(always)]
pub const fn priority(backend: u32) -> u32 {
    BEGINNING | backend << BELOW
}

/// The backend that packets of this priority are for; none for any others.
#[inline(always)]
pub const fn backend(priority: u32) -> Option<u32> {
    if priority & 0xff00_0000 != BEGINNING {
        return None;
    }
    Some((priority & 0x00ff_ffff) >> BELOW)
}

/// The five-tuple of an answer, of either family.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AnswerKey {
    /// The VIP.
    pub source: V6,
    /// This host.
    pub destination: V6,
    /// The VIP's port.
    pub source_port: Be16,
    /// This host's port.
    pub destination_port: Be16,
    /// TCP or UDP.
    pub protocol: u32,
}

const _: () = {
    assert!(size_of::<AnswerKey>() == 40);
    assert!(crate::limit::BACKENDS <= 1 << (24 - BELOW));
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit;

    #[test]
    fn priorities_tell_backends_and_no_queue() {
        for id in [0, 1, limit::BACKENDS - 1] {
            assert_eq!(backend(priority(id)), Some(id));
            assert_eq!(priority(id) & 15, 0);
        }
        for other in [0, 6, 7, 0x0001_0000, 0x4551_0000, u32::MAX] {
            assert_eq!(backend(other), None);
        }
    }
}
