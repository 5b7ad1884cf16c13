//! The difference between what is in the maps and what should be, as ordered steps.
//!
//! *Every prefix* of the steps is a state that packets may see: what is referred to is put before
//! what refers to it and removed after it; the slots of a pool are replaced whole, in a run that
//! no packet reads, and the old run is written again only after a grace period. So a failure
//! leaves working maps, and start, reload, retry and rollback are one path: [`diff`] again.
//! Does not know how steps are taken.

mod applied;
mod found;
mod run;
mod step;
mod work;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use self::applied::Applied;
pub use self::found::Found;
pub use self::run::Run;
pub use self::step::Step;
pub(crate) use self::step::{
    describe_backend, describe_policy, describe_reply, describe_snat, traits,
};
use self::work::Work;
use crate::plan::Desired;

/// What is left to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// In the order in which they are to be taken.
    pub steps: Vec<Step>,
    /// What the steps do not reach.
    pub unplaced: Vec<Unplaced>,
}

/// A pool for whose new slots there is no room, even after a grace period.
///
/// It keeps the slots that it has; a pool that has none yet stays out, with its services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unplaced {
    /// The pool.
    pub pool: u32,
    /// How many slots it needs.
    pub slots: u32,
}

impl fmt::Display for Unplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, slots } = self;
        write!(f, "no room for {slots} slots of pool {pool}: it stays as it is")
    }
}

/// The steps from `applied` to `desired`; none when they agree.
pub fn diff(applied: &Applied, desired: &Desired) -> Difference {
    Work::new(applied, desired).difference()
}

/// Where two plans may differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// In these pools.
    pub pools: BTreeSet<u32>,
    /// In these backends.
    pub backends: BTreeSet<u32>,
}

/// As [`diff`], of what differs within a scope alone.
pub fn diff_within(applied: &Applied, desired: &Desired, scope: &Scope) -> Difference {
    let part = Desired {
        pools: within(&desired.pools, &scope.pools),
        backends: within(&desired.backends, &scope.backends),
        ..Desired::default()
    };
    diff(&applied.within(scope), &part)
}

fn within<V: Clone>(all: &BTreeMap<u32, V>, ids: &BTreeSet<u32>) -> BTreeMap<u32, V> {
    ids.iter().filter_map(|id| Some((*id, all.get(id)?.clone()))).collect()
}

/// Both maps side by side, in the order of their keys.
fn sides<'a, K: Ord, A, B>(
    left: &'a BTreeMap<K, A>,
    right: &'a BTreeMap<K, B>,
) -> impl Iterator<Item = (&'a K, Option<&'a A>, Option<&'a B>)> {
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((l, _)), Some((r, _))) => l.cmp(r),
        };
        let from_left = if order.is_le() { left.next() } else { None };
        let from_right = if order.is_ge() { right.next() } else { None };
        let key = from_left.map(|(key, _)| key).or(from_right.map(|(key, _)| key))?;
        Some((key, from_left.map(|(_, value)| value), from_right.map(|(_, value)| value)))
    })
}

#[cfg(test)]
mod tests;
