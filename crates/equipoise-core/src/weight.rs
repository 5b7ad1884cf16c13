//! How much of a pool's new flows a backend gets: the one place that decides it.
//!
//! Everything that is believed about a backend meets here and nowhere else, so that no two
//! writers can each let in what the other keeps out. The slot table only sees the result. The rule, for each pool and
//! address family, of backends whose configured weight is not 0:
//!
//! | usable regular backends | usable backups | regular | backup | fallback |
//! | --- | --- | --- | --- | --- |
//! | above `panic.threshold` percent | any | by belief | 0 | 0 |
//! | at or below | together with the regular ones above the threshold | by belief | by belief | 0 |
//! | at or below | together still at or below: *panic*, `all` | configured | 0 | 0 |
//! | | `none` | 0 | 0 | 0 |
//! | | `fallback` | 0 | 0 | by belief; if none of them is usable, configured |
//!
//! "Configured" is the weight of the file or what live flows make of it (`load.rs`). "By belief" is 0 for a backend that is
//! down, else the configured weight, or the part of it that it has recovered. Weights are relative: what one backend
//! loses, the others have in proportion to their own. What is not believed is what is not known: unknown is usable.

use std::fmt;

use crate::config::Role;
use crate::config::health::{Panic, PanicPolicy};

/// A share of new flows, relative to the other backends of the pool.
///
/// Counted in parts of a configured weight of 1, finely enough that any fraction of the smallest
/// weight still differs from none; only proportions matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

impl Weight {
    /// Parts in a configured weight of 1: the largest weight just fits.
    const PARTS: u32 = 1 << 16;

    /// As configured.
    pub fn configured(weight: u16) -> Self {
        Self(u32::from(weight) * Self::PARTS)
    }

    /// A part of it, at most all of it, and never none of some.
    #[must_use]
    pub fn part(self, numerator: u64, denominator: u64) -> Self {
        let part = u128::from(self.0) * u128::from(numerator) / u128::from(denominator.max(1));
        let least = self.0.min(1);
        Self(u32::try_from(part).unwrap_or(self.0).clamp(least, self.0))
    }

    /// In parts.
    pub fn parts(self) -> u32 {
        self.0
    }

    /// In the unit of the configuration.
    pub fn value(self) -> f64 {
        f64::from(self.0) / f64::from(Self::PARTS)
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value().fmt(f)
    }
}

/// What is believed about a backend, of each kind of fact what matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Belief {
    /// Whether it is down, by its checks or by hand.
    pub is_down: bool,
    /// Percent of its share that it has again since it was down; at least 1.
    pub recovered: u8,
}

impl Default for Belief {
    /// Of a backend about which nothing is known.
    fn default() -> Self {
        Self { is_down: false, recovered: 100 }
    }
}

impl Belief {
    /// Of a backend that is down.
    pub const DOWN: Self = Self { is_down: true, recovered: 100 };

    /// Whether it may be chosen.
    pub fn is_usable(self) -> bool {
        !self.is_down
    }

    /// What it gets of a weight.
    fn of(self, weight: Weight) -> Weight {
        if self.is_usable() { weight.part(self.recovered.into(), 100) } else { Weight::default() }
    }
}

/// A backend of a pool, to be weighed.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// As configured, or as live flows make it.
    pub weight: Weight,
    /// When it is chosen.
    pub role: Role,
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

/// Weighs the backends of a pool, of one family.
pub fn weigh(candidates: &[Candidate], panic: Panic) -> Weighed {
    let usable = |roles: &[Role]| {
        let asked = candidates.iter().filter(|c| c.weight.parts() > 0 && roles.contains(&c.role));
        let (all, usable) = asked.fold((0_u64, 0_u64), |(all, usable), candidate| {
            (all + 1, usable + u64::from(candidate.belief.is_usable()))
        });
        usable * 100 > u64::from(panic.threshold) * all || all == 0
    };
    let is_any = |role: Role| {
        candidates.iter().any(|c| c.role == role && c.weight.parts() > 0 && c.belief.is_usable())
    };
    let backups_join = !usable(&[Role::Regular]) || !is_any(Role::Regular);
    let panics = backups_join && !usable(&[Role::Regular, Role::Backup]);
    let falls_back = is_any(Role::Fallback);
    let weight = |candidate: &Candidate| {
        let Candidate { weight, role, belief } = *candidate;
        let none = Weight::default();
        match (role, panics, panic.policy) {
            (Role::Regular, false, _) => belief.of(weight),
            (Role::Backup, false, _) if backups_join => belief.of(weight),
            (Role::Regular, true, PanicPolicy::All) => weight,
            (Role::Fallback, true, PanicPolicy::Fallback) if falls_back => belief.of(weight),
            (Role::Fallback, true, PanicPolicy::Fallback) => weight,
            (Role::Regular, true, PanicPolicy::None | PanicPolicy::Fallback)
            | (Role::Backup, ..)
            | (Role::Fallback, ..) => none,
        }
    };
    let weights: Vec<_> = candidates.iter().map(weight).collect();
    let is_out = |(candidate, weight): (&Candidate, &Weight)| {
        candidate.belief.is_down && weight.parts() == 0
    };
    let are_out = candidates.iter().zip(&weights).map(is_out).collect();
    Weighed { weights, are_out, panics }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Belief = Belief { is_down: false, recovered: 100 };

    fn of(weight: u16, role: Role, belief: Belief) -> Candidate {
        Candidate { weight: Weight::configured(weight), role, belief }
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
}
