//! The numbers of one kind: which are in use, which rest, and which are free.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Holder, Id, Mark};

/// The numbers of one kind that nobody holds.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    limit: u32,
    /// The lowest number that nobody has held.
    unused: u32,
    /// By who held them last.
    resting: BTreeMap<Holder, Resting>,
    /// Rested, the oldest first.
    free: VecDeque<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Resting {
    id: Id,
    since: u64,
}

impl Numbers {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, unused: 0, resting: BTreeMap::new(), free: VecDeque::new() }
    }

    /// With these held before by those; each gets its own again if it is asked for.
    pub(super) fn remembering(limit: u32, held: &BTreeMap<u32, Holder>) -> Self {
        let held = || held.iter().filter(|(number, _)| **number < limit);
        let resting = |(&number, &holder): (&u32, &Holder)| {
            (holder, Resting { id: Id { number, holder }, since: 0 })
        };
        let taken: BTreeSet<u32> = held().map(|(&number, _)| number).collect();
        let unused = taken.last().map_or(0, |last| last + 1);
        Self {
            limit,
            unused,
            resting: held().map(resting).collect(),
            free: (0..unused).filter(|number| !taken.contains(number)).collect(),
        }
    }

    /// The id that `holder` has held before, or else another.
    pub(super) fn give(&mut self, holder: Holder) -> Option<Id> {
        if let Some(resting) = self.resting.remove(&holder) {
            return Some(resting.id);
        }
        if self.unused < self.limit {
            self.unused += 1;
            return Some(Id { number: self.unused - 1, holder });
        }
        let number = self.free.pop_front()?;
        Some(Id { number, holder })
    }

    pub(super) fn release(&mut self, id: Id, now: u64) {
        self.resting.insert(id.holder, Resting { id, since: now });
    }

    /// Those that nobody holds and that flows may name.
    pub(super) fn resting(&self) -> impl Iterator<Item = Id> {
        self.resting.values().map(|resting| resting.id)
    }

    /// That which a holder has held, and would get again.
    pub(super) fn resting_of(&self, holder: Holder) -> Option<Id> {
        self.resting.get(&holder).map(|resting| resting.id)
    }

    pub(super) fn is_any_resting(&self) -> bool {
        !self.resting.is_empty()
    }

    /// Answers with those that may be given out again.
    pub(super) fn rested(&mut self, mark: Mark, still_named: &BTreeSet<u32>) -> Vec<u32> {
        let is_rested = |resting: &Resting| {
            resting.since <= mark.0 && !still_named.contains(&resting.id.number)
        };
        let mut rested: Vec<Resting> =
            self.resting.extract_if(.., |_, resting| is_rested(resting)).map(|(_, r)| r).collect();
        rested.sort_by_key(|resting| (resting.since, resting.id.number));
        let rested: Vec<u32> = rested.into_iter().map(|resting| resting.id.number).collect();
        self.free.extend(&rested);
        rested
    }
}
