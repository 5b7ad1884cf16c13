//! Room in the flat slot array: which runs are free, and which rest.
//!
//! A run that packets have read is not written again before a grace period; until then it rests.
//! Knows nothing of pools or of what the slots hold.

use std::collections::BTreeMap;
use std::fmt;

use equipoise_common::value::Pool;

/// A run of the slot array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// First slot.
    pub offset: u32,
    /// How many.
    pub length: u32,
}

impl Run {
    /// The run that a pool's entry names.
    pub fn of(pool: &Pool) -> Self {
        Self { offset: pool.offset, length: pool.length }
    }

    /// The first slot after it.
    pub fn end(self) -> u32 {
        self.offset + self.length
    }

    /// Whether a slot is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.offset, self.end())
    }
}

/// What of the slot array is not in use by a pool.
#[derive(Clone, Debug)]
pub(super) struct Room {
    /// Lengths of free runs by their offsets; no two of them touch.
    free: BTreeMap<u32, u32>,
    resting: Vec<Run>,
}

impl Room {
    pub(super) fn new(slots: u32) -> Self {
        Self { free: BTreeMap::from([(0, slots)]), resting: Vec::new() }
    }

    /// The free run of this length that leaves the smallest remainder, or none.
    ///
    /// Runs come in few lengths, so the best fit is mostly an exact one and nothing crumbles.
    pub(super) fn find(&self, length: u32) -> Option<Run> {
        let fitting = self.free.iter().filter(|&(_, &room)| room >= length);
        let (&offset, _) = fitting.min_by_key(|&(_, &room)| room)?;
        Some(Run { offset, length })
    }

    /// Whether all of a run is free.
    pub(super) fn is_free(&self, run: Run) -> bool {
        self.hole_around(run).is_some()
    }

    /// Marks a run as used; one that is not free is left as it is.
    pub(super) fn take(&mut self, run: Run) {
        let Some(hole) = self.hole_around(run).filter(|_| run.length > 0) else { return };
        self.free.remove(&hole.offset);
        if run.offset > hole.offset {
            self.free.insert(hole.offset, run.offset - hole.offset);
        }
        if hole.end() > run.end() {
            self.free.insert(run.end(), hole.end() - run.end());
        }
    }

    fn hole_around(&self, run: Run) -> Option<Run> {
        let (&offset, &length) = self.free.range(..=run.offset).next_back()?;
        let hole = Run { offset, length };
        (run.end() <= hole.end()).then_some(hole)
    }

    /// A run that packets may still be reading.
    pub(super) fn rest(&mut self, run: Run) {
        if run.length > 0 {
            self.resting.push(run);
        }
    }

    pub(super) fn is_anything_resting(&self) -> bool {
        !self.resting.is_empty()
    }

    /// After a grace period: whatever rested is free.
    pub(super) fn rested(&mut self) {
        for run in std::mem::take(&mut self.resting) {
            self.release(run);
        }
    }

    fn release(&mut self, mut run: Run) {
        if let Some(length) = self.free.remove(&run.end()) {
            run.length += length;
        }
        if let Some((&offset, length)) = self.free.range_mut(..run.offset).next_back()
            && offset + *length == run.offset
        {
            *length += run.length;
            return;
        }
        self.free.insert(run.offset, run.length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(offset: u32, length: u32) -> Run {
        Run { offset, length }
    }

    #[test]
    fn a_given_up_run_is_used_again_only_after_a_grace_period() {
        let mut room = Room::new(10);
        room.take(run(0, 10));
        room.rest(run(0, 10));
        assert_eq!(room.find(1), None);
        room.rested();
        assert_eq!(room.find(10), Some(run(0, 10)));
    }

    #[test]
    fn neighbouring_free_runs_become_one_in_any_order() {
        for order in [[0, 1, 2], [2, 1, 0], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1]] {
            let mut room = Room::new(9);
            let runs = [run(0, 3), run(3, 3), run(6, 3)];
            runs.into_iter().for_each(|run| room.take(run));
            for at in order {
                room.rest(runs[at]);
                room.rested();
            }
            assert_eq!(room.find(9), Some(run(0, 9)), "{order:?}");
        }
    }

    #[test]
    fn the_tightest_free_run_is_chosen() {
        let mut room = Room::new(100);
        room.take(run(10, 5));
        room.take(run(18, 2));
        assert_eq!(room.find(3), Some(run(15, 3)));
        assert_eq!(room.find(4), Some(run(0, 4)));
        assert_eq!(room.find(81), None);
    }

    #[test]
    fn the_middle_of_a_free_run_can_be_taken() {
        let mut room = Room::new(10);
        room.take(run(4, 2));
        room.rest(run(4, 2));
        room.rested();
        assert_eq!(room.find(10), Some(run(0, 10)));
    }
}
