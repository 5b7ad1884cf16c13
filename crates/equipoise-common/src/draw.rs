//! Which flow the next packet of a measurement is of; shared by the bench and its programs.

use crate::key::V6;

/// What packets are like, and which flow is next. Set before each run, one for each CPU.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, Default))]
pub struct Draw {
    /// Of the generator; not 0.
    pub random: u64,
    /// Number of the first flow, or of the next one where they are taken in turn.
    pub first: u64,
    /// Drawn among so many; 0 to take them in turn.
    pub flows: u64,
    /// The end that is not the client, as [`crate::key::Address::pack`] has it.
    pub end: V6,
    /// Its port, in network order.
    pub port: u64,
    /// 1 where it is the sender.
    pub is_reply: u64,
    /// Sequence number of the next packet.
    pub sequence: u64,
    /// Its acknowledgement.
    pub acknowledgement: u64,
    /// By how much the two grow from one packet to the next.
    pub step: u64,
    /// Service id of flows that are opened in the table alone.
    pub service: u64,
    /// Their backend's id.
    pub backend: u64,
}

impl Draw {
    /// The number of the next flow.
    #[inline(always)]
    pub fn next_flow(&mut self) -> u64 {
        if self.flows == 0 {
            self.first += 1;
            return self.first - 1;
        }
        // Marsaglia's xorshift.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.first + (((self.random >> 32) * self.flows) >> 32)
    }
}

#[cfg(feature = "user")]
mod pod {
    use super::Draw;

    // SAFETY: `repr(C)`, of 64-bit words alone, so without padding; any bytes are a value.
    unsafe impl aya::Pod for Draw {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_in_turn_are_each_met_once() {
        let mut draw = Draw { first: 7, ..Draw::default() };
        assert_eq!([(); 3].map(|()| draw.next_flow()), [7, 8, 9]);
    }

    #[test]
    fn flows_at_random_are_all_met_and_none_beyond() {
        let mut draw = Draw { random: 1, first: 100, flows: 50, ..Draw::default() };
        let mut met = [0_u32; 50];
        for _ in 0..10_000 {
            met[(draw.next_flow() - 100) as usize] += 1;
        }
        assert!(met.iter().all(|&times| (100..320).contains(&times)), "{met:?}");
    }
}
