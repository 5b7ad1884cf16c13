//! How much of a pool's new flows a backend gets: the one place that decides it.
//!
//! Everything that is believed about a backend meets here and nowhere else, so that no two
//! writers can each let in what the other keeps out. The slot table only sees the result. The rule, for each pool and
//! address family, of backends whose configured weight is not 0:
//!
//! | regular backends that are in | backups that are in | regular | backup | fallback |
//! | --- | --- | --- | --- | --- |
//! | above `panic.threshold` percent | any | by belief | 0 | 0 |
//! | at or below | together with the regular ones above the threshold | by belief | by belief | 0 |
//! | at or below | together still at or below: *panic*, `all`, some in | configured, whatever checks say; a tenth where half-open, 0 where drained or open | by belief | 0 |
//! | none | none: `all` | configured | 0 | 0 |
//! | | `none` | 0 | 0 | 0 |
//! | | `fallback` | 0 | 0 | by belief; if none of them is in, configured |
//!
//! A backend is *in* unless it is down, drained, or its breaker is open; percents are of those that are not drained. Where
//! all that are neither down nor drained have open breakers, breakers are not asked. "Configured" is the weight of the
//! file or what live flows make of it (`load.rs`); "by belief" is that for a backend that is in, or the part of it that it
//! has recovered, and no more than a tenth while its breaker is half-open; else 0. A backend whose drain was forced
//! has 0 in every row. Backups have ranks, from 0 on: they join rank by rank, until there are enough, and of the fallback
//! backends those of the lowest rank that has one in stand for all. Weights are relative: what one backend loses, the others have in proportion to their own. What is
//! not believed is what is not known: unknown is usable.

use std::collections::BTreeSet;

use crate::breaker;
use crate::config::Role;
use crate::config::health::{Panic, PanicPolicy};
pub use crate::share::Weight;

/// What is believed about a backend, of each kind of fact what matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Belief {
    /// Whether it is down, by its checks or by hand.
    pub is_down: bool,
    /// Percent of its share that it has again since it was down; at least 1.
    pub recovered: u8,
    /// Whether it is drained.
    pub drained: Drained,
    /// Whether its flows are to be reset, since the time of its drain is up.
    pub resets: bool,
    /// What its breaker lets through.
    pub breaker: breaker::State,
}

/// Whether a backend is drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drained {
    /// It is not.
    #[default]
    No,
    /// It gets new flows only where all others are out too.
    Yes,
    /// It gets none at all.
    Forced,
}

impl Default for Belief {
    /// Of a backend about which nothing is known.
    fn default() -> Self {
        Self::UNKNOWN
    }
}

/// Percent of its share that a backend has at most while its breaker is half-open.
const HALF_OPEN: u8 = 10;

impl Belief {
    /// Of a backend about which nothing is known.
    pub const UNKNOWN: Self = Self {
        is_down: false,
        recovered: 100,
        drained: Drained::No,
        resets: false,
        breaker: breaker::State::Closed,
    };
    /// Of a backend that is down.
    pub const DOWN: Self = Self { is_down: true, ..Self::UNKNOWN };

    /// Whether it may be chosen, as far as its breaker does not matter.
    fn is_usable(self) -> bool {
        !self.is_down && self.drained == Drained::No
    }

    /// What it gets of a weight.
    fn of(self, weight: Weight) -> Weight {
        let most = if self.breaker == breaker::State::HalfOpen { HALF_OPEN } else { 100 };
        weight.part(self.recovered.min(most).into(), 100)
    }
}

/// A backend of a pool, to be weighed.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// As configured, or as live flows make it.
    pub weight: Weight,
    /// When it is chosen.
    pub role: Role,
    /// Which go first, among those of its role.
    pub rank: u16,
    /// What is believed about it.
    pub belief: Belief,
}

/// What a pool's backends get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weighed {
    /// Effective weights, in the order of the candidates.
    pub weights: Vec<Weight>,
    /// Which candidates are kept out by what is believed about them, and not chosen all the same.
    pub are_out: Vec<bool>,
    /// Whether too few are usable.
    pub panics: bool,
}

/// How far down a pool new flows are led: regular backends, or backups up to a rank as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Regular,
    Backups(u16),
}

impl Level {
    /// Of a candidate; none for those that are not chosen before the pool panics.
    fn of(candidate: &Candidate) -> Option<Self> {
        match candidate.role {
            Role::Regular => Some(Self::Regular),
            Role::Backup => Some(Self::Backups(candidate.rank)),
            Role::Fallback => None,
        }
    }
}

/// Weighs the backends of a pool, of one family.
pub fn weigh(candidates: &[Candidate], panic: Panic) -> Weighed {
    const CHOSEN: [Role; 2] = [Role::Regular, Role::Backup];
    let pool = Pool { candidates, asks_breakers: asks_breakers(candidates, &CHOSEN) };
    let levels: BTreeSet<_> = pool.of(&CHOSEN).filter_map(Level::of).collect();
    let joined = levels.iter().copied().find(|level| pool.has_enough(*level, panic));
    let panics = joined.is_none() && !levels.is_empty();
    let all_are_out = !pool.has_any(&CHOSEN);
    let falls_back =
        Pool { candidates, asks_breakers: asks_breakers(candidates, &[Role::Fallback]) };
    let stands_in = falls_back.first_rank(|candidate| falls_back.is_in(candidate.belief));
    let last_resort = falls_back.first_rank(|_| true);
    let weight = |candidate: &Candidate| {
        let Candidate { weight, role, rank, belief } = *candidate;
        let none = Weight::default();
        if belief.drained == Drained::Forced {
            return none;
        }
        match (role, panics, panic.policy) {
            (Role::Regular, false, _) => pool.by_belief(candidate),
            (Role::Backup, false, _) if Level::of(candidate) <= joined => pool.by_belief(candidate),
            (Role::Regular, true, PanicPolicy::All) if all_are_out => weight,
            // What checks say is ignored, and nothing else.
            (Role::Regular, true, PanicPolicy::All) => {
                let unchecked = Belief { is_down: false, recovered: 100, ..belief };
                pool.by_belief(&Candidate { belief: unchecked, ..*candidate })
            }
            // Regular ones may all be down: who is in is not to be idle then.
            (Role::Backup, true, PanicPolicy::All) if !all_are_out => pool.by_belief(candidate),
            (Role::Fallback, true, PanicPolicy::Fallback) => match stands_in {
                Some(first) if rank == first => falls_back.by_belief(candidate),
                None if Some(rank) == last_resort => weight,
                Some(_) | None => none,
            },
            (Role::Regular, true, PanicPolicy::None | PanicPolicy::Fallback)
            | (Role::Backup, ..)
            | (Role::Fallback, ..) => none,
        }
    };
    let weights: Vec<_> = candidates.iter().map(weight).collect();
    let is_out = |(candidate, weight): (&Candidate, &Weight)| {
        let belief = candidate.belief;
        (belief.is_down || belief.breaker == breaker::State::Open) && weight.parts() == 0
    };
    let are_out = candidates.iter().zip(&weights).map(is_out).collect();
    Weighed { weights, are_out, panics }
}

/// Whether breakers are asked: somebody is usable whose breaker is not open.
fn asks_breakers(candidates: &[Candidate], roles: &[Role]) -> bool {
    let of_role = candidates.iter().filter(|c| c.weight.parts() > 0 && roles.contains(&c.role));
    let mut usable = of_role.filter(|c| c.belief.is_usable());
    usable.any(|candidate| candidate.belief.breaker != breaker::State::Open)
}

/// The backends of a pool, and whether their breakers are asked.
struct Pool<'a> {
    candidates: &'a [Candidate],
    asks_breakers: bool,
}

impl Pool<'_> {
    /// Those of these roles that have a weight.
    fn of(&self, roles: &[Role]) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter().filter(|c| c.weight.parts() > 0 && roles.contains(&c.role))
    }

    /// Whether somebody, or something, but its checks keeps a backend out.
    fn is_taken_out(&self, belief: Belief) -> bool {
        belief.drained != Drained::No
            || self.asks_breakers && belief.breaker == breaker::State::Open
    }

    fn is_in(&self, belief: Belief) -> bool {
        !belief.is_down && !self.is_taken_out(belief)
    }

    fn has_any(&self, roles: &[Role]) -> bool {
        self.of(roles).any(|candidate| self.is_in(candidate.belief))
    }

    /// The lowest rank of a fallback backend with a weight that is so.
    fn first_rank(&self, is_so: impl Fn(&Candidate) -> bool) -> Option<u16> {
        let all = self.of(&[Role::Fallback]).filter(|candidate| is_so(candidate));
        all.map(|candidate| candidate.rank).min()
    }

    /// Whether more than the threshold are in, of those up to a level that are not drained.
    fn has_enough(&self, level: Level, panic: Panic) -> bool {
        let (mut all, mut are_in) = (0_u64, 0_u64);
        let up_to = |candidate: &&Candidate| Level::of(candidate).is_some_and(|of| of <= level);
        for candidate in self.of(&[Role::Regular, Role::Backup]).filter(up_to) {
            all += u64::from(candidate.belief.drained == Drained::No);
            are_in += u64::from(self.is_in(candidate.belief));
        }
        are_in > 0 && are_in * 100 > u64::from(panic.threshold) * all
    }

    fn by_belief(&self, candidate: &Candidate) -> Weight {
        let Candidate { weight, belief, .. } = *candidate;
        if !self.is_in(belief) {
            return Weight::default();
        }
        // Half-open is a matter of breakers too.
        let breaker = if self.asks_breakers { belief.breaker } else { breaker::State::Closed };
        Belief { breaker, ..belief }.of(weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Belief = Belief::UNKNOWN;
    const DRAINED: Belief = Belief { drained: Drained::Yes, ..UP };
    const OPEN: Belief = Belief { breaker: breaker::State::Open, ..UP };
    const HALF: Belief = Belief { breaker: breaker::State::HalfOpen, ..UP };

    fn of(weight: u16, role: Role, belief: Belief) -> Candidate {
        Candidate { weight: Weight::configured(weight), role, rank: 0, belief }
    }

    fn values(candidates: &[Candidate], panic: Panic) -> (Vec<f64>, bool) {
        let weighed = weigh(candidates, panic);
        (weighed.weights.iter().map(|weight| weight.value()).collect(), weighed.panics)
    }

    fn regular(beliefs: &[(u16, Belief)]) -> Vec<Candidate> {
        beliefs.iter().map(|&(weight, belief)| of(weight, Role::Regular, belief)).collect()
    }

    #[test]
    fn nothing_known_leaves_the_configured_weights() {
        for weight in [0, 1, 50, u16::MAX] {
            let (weights, panics) = values(&regular(&[(weight, UP)]), Panic::default());
            assert_eq!((weights, panics), (vec![f64::from(weight)], false));
        }
        assert_eq!(weigh(&[], Panic::default()).weights, []);
    }

    #[test]
    fn backend_that_is_down_gets_nothing_and_others_keep_their_proportions() {
        let backends = regular(&[(50, UP), (30, Belief::DOWN), (20, UP)]);
        assert_eq!(values(&backends, Panic::default()), (vec![50.0, 0.0, 20.0], false));
        assert_eq!(weigh(&backends, Panic::default()).are_out, [false, true, false]);
    }

    #[test]
    fn backend_that_recovers_gets_its_part_and_a_sole_one_all_the_same() {
        let quarter = Belief { recovered: 25, ..UP };
        let backends = regular(&[(50, quarter), (30, UP), (1, quarter)]);
        assert_eq!(values(&backends, Panic::default()).0, [12.5, 30.0, 0.25]);
        let sole = weigh(&regular(&[(1, Belief { recovered: 1, ..UP })]), Panic::default());
        assert!(sole.weights[0].parts() > 0);
    }

    #[test]
    fn all_down_is_as_if_nothing_were_known() {
        let all = regular(&[(50, Belief::DOWN), (0, UP), (20, Belief::DOWN)]);
        assert_eq!(values(&all, Panic::default()), (vec![50.0, 0.0, 20.0], true));
        assert_eq!(weigh(&all, Panic::default()).are_out, [false; 3]);
        let none = Panic { policy: PanicPolicy::None, ..Panic::default() };
        assert_eq!(values(&all, none), (vec![0.0; 3], true));
        assert_eq!(weigh(&all, none).are_out, [true, false, true]);
    }

    #[test]
    fn threshold_is_of_usable_backends_that_have_a_weight() {
        let half = regular(&[(1, UP), (1, Belief::DOWN), (0, UP)]);
        let panics = |threshold| values(&half, Panic { threshold, ..Panic::default() }).1;
        assert!(!panics(49) && panics(50));
    }

    #[test]
    fn backups_join_when_no_regular_one_is_usable_and_leave_again() {
        let with = |belief| {
            let mut backends = regular(&[(5, belief), (0, UP)]);
            backends.push(of(7, Role::Backup, UP));
            values(&backends, Panic::default())
        };
        assert_eq!(with(UP), (vec![5.0, 0.0, 0.0], false));
        assert_eq!(with(Belief::DOWN), (vec![0.0, 0.0, 7.0], false));
        let all_down = [of(5, Role::Regular, Belief::DOWN), of(7, Role::Backup, Belief::DOWN)];
        assert_eq!(values(&all_down, Panic::default()), (vec![5.0, 0.0], true));
        let only_backups = [of(7, Role::Backup, UP)];
        assert_eq!(values(&only_backups, Panic::default()), (vec![7.0], false));
    }

    #[test]
    fn backups_join_rank_by_rank() {
        let ranked = |rank, belief| Candidate { rank, ..of(4, Role::Backup, belief) };
        let with = |beliefs: [Belief; 4]| {
            let [regular, first, second, third] = beliefs;
            let backends = [
                of(5, Role::Regular, regular),
                ranked(0, first),
                ranked(1, second),
                ranked(7, third),
            ];
            values(&backends, Panic::default())
        };
        let down = Belief::DOWN;
        assert_eq!(with([UP, UP, UP, UP]), (vec![5.0, 0.0, 0.0, 0.0], false));
        assert_eq!(with([down, UP, UP, UP]), (vec![0.0, 4.0, 0.0, 0.0], false));
        assert_eq!(with([down, down, UP, UP]), (vec![0.0, 0.0, 4.0, 0.0], false));
        assert_eq!(with([down, down, down, UP]), (vec![0.0, 0.0, 0.0, 4.0], false));
        assert_eq!(with([down; 4]), (vec![5.0, 0.0, 0.0, 0.0], true));
    }

    #[test]
    fn fallback_of_the_lowest_rank_that_is_in_stands_for_all() {
        let panic = Panic { policy: PanicPolicy::Fallback, ..Panic::default() };
        let with = |first, second| {
            let backends = [
                of(5, Role::Regular, Belief::DOWN),
                of(1, Role::Fallback, first),
                Candidate { rank: 1, ..of(2, Role::Fallback, second) },
            ];
            values(&backends, panic).0
        };
        assert_eq!(with(UP, UP), [0.0, 1.0, 0.0]);
        assert_eq!(with(Belief::DOWN, UP), [0.0, 0.0, 2.0]);
        assert_eq!(with(Belief::DOWN, Belief::DOWN), [0.0, 1.0, 0.0]);
    }

    #[test]
    fn fallback_takes_the_pools_place_usable_or_not() {
        let panic = Panic { policy: PanicPolicy::Fallback, ..Panic::default() };
        let with = |regular, fallback| {
            let backends = [
                of(5, Role::Regular, regular),
                of(1, Role::Fallback, fallback),
                of(2, Role::Fallback, Belief::DOWN),
            ];
            values(&backends, panic)
        };
        assert_eq!(with(UP, UP), (vec![5.0, 0.0, 0.0], false));
        assert_eq!(with(Belief::DOWN, UP), (vec![0.0, 1.0, 0.0], true));
        assert_eq!(with(Belief::DOWN, Belief::DOWN), (vec![0.0, 1.0, 2.0], true));
    }

    #[test]
    fn drained_backend_gets_nothing_while_another_is_in() {
        let (weights, panics) = values(&regular(&[(50, DRAINED), (30, UP)]), Panic::default());
        assert_eq!((weights, panics), (vec![0.0, 30.0], false));
        let weighed = weigh(&regular(&[(50, DRAINED), (30, UP)]), Panic::default());
        assert_eq!(weighed.are_out, [false; 2], "its flows go on");
        let half = Panic { threshold: 50, ..Panic::default() };
        let pool = regular(&[(1, DRAINED), (1, DRAINED), (1, DRAINED), (1, UP), (1, UP)]);
        assert!(!values(&pool, half).1, "what is drained is not what is wrong");
    }

    #[test]
    fn last_one_drained_goes_on_unless_that_was_forced() {
        let all = regular(&[(50, DRAINED), (30, Belief::DOWN)]);
        assert_eq!(values(&all, Panic::default()), (vec![50.0, 30.0], true));
        let none = Panic { policy: PanicPolicy::None, ..Panic::default() };
        assert_eq!(values(&all, none), (vec![0.0; 2], true));
        let forced = Belief { drained: Drained::Forced, ..UP };
        assert_eq!(values(&regular(&[(50, forced)]), Panic::default()), (vec![0.0], true));
        let both = regular(&[(50, forced), (30, Belief::DOWN)]);
        assert_eq!(values(&both, Panic::default()).0, [0.0, 30.0]);
    }

    #[test]
    fn open_breaker_keeps_a_backend_out_and_half_open_gives_a_tenth() {
        let pool = regular(&[(50, UP), (30, OPEN), (20, HALF)]);
        assert_eq!(values(&pool, Panic::default()), (vec![50.0, 0.0, 2.0], false));
        assert_eq!(weigh(&pool, Panic::default()).are_out, [false, true, false]);
        let low = Belief { recovered: 5, ..HALF };
        assert_eq!(values(&regular(&[(50, UP), (20, low)]), Panic::default()).0, [50.0, 1.0]);
    }

    #[test]
    fn half_open_is_no_way_in_for_who_is_down_or_drained() {
        for belief in [Belief { is_down: true, ..HALF }, Belief { drained: Drained::Yes, ..HALF }] {
            assert_eq!(
                values(&regular(&[(50, UP), (20, belief)]), Panic::default()).0,
                [50.0, 0.0]
            );
        }
    }

    #[test]
    fn all_open_is_as_if_there_were_no_breakers() {
        let pool = regular(&[(50, OPEN), (30, OPEN), (20, Belief::DOWN), (10, DRAINED)]);
        assert_eq!(values(&pool, Panic::default()), (vec![50.0, 30.0, 0.0, 0.0], false));
        // A closed one that is drained does not hand everything to an open one alone.
        let mixed = regular(&[(50, DRAINED), (30, OPEN)]);
        assert_eq!(values(&mixed, Panic::default()), (vec![0.0, 30.0], false));
    }

    #[test]
    fn panic_ignores_checks_and_not_hands() {
        let panic = Panic { threshold: 50, ..Panic::default() };
        let pool = regular(&[(1, UP), (2, Belief::DOWN), (4, DRAINED), (8, OPEN)]);
        assert_eq!(values(&pool, panic), (vec![1.0, 2.0, 0.0, 0.0], true));
        // Nor what a breaker lets through.
        let half = Belief { recovered: 25, ..HALF };
        let pool =
            regular(&[(10, half), (20, Belief { is_down: true, ..half }), (30, Belief::DOWN)]);
        assert_eq!(values(&pool, panic), (vec![1.0, 2.0, 30.0], true));
    }

    #[test]
    fn backup_that_is_in_serves_beside_a_pool_that_panics() {
        let panic = Panic { threshold: 50, ..Panic::default() };
        let backup = |rank, belief| Candidate { rank, ..of(7, Role::Backup, belief) };
        let mut pool = regular(&[(5, Belief::DOWN), (5, Belief::DOWN), (5, Belief::DOWN)]);
        pool.extend([backup(0, UP), backup(0, Belief::DOWN), backup(1, DRAINED)]);
        assert_eq!(values(&pool, panic), (vec![5.0, 5.0, 5.0, 7.0, 0.0, 0.0], true));
        // Where nobody is in, they are not asked for.
        pool[3].belief = Belief::DOWN;
        assert_eq!(values(&pool, panic), (vec![5.0, 5.0, 5.0, 0.0, 0.0, 0.0], true));
    }
}
