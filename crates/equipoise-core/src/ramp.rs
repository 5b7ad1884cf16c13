//! Backends that have been undrained and get their share back bit by bit, as their service has backends recover.
//!
//! Begins with an operator's word and is over when the whole share is back, when a check or a hand says otherwise, or when the
//! backend leaves. Takes good checks and the time as arguments. What a backend is, is the caller's; what follows for weights is
//! [`crate::weight`]'s.

use std::collections::BTreeMap;

use crate::config::health::Recovery;
use crate::facts::Moment;
use crate::recovery::Recovering;

#[derive(Clone, Copy, Debug)]
struct Ramp {
    recovering: Recovering,
    recovery: Recovery,
    /// Percent, as it was told last.
    part: u8,
}

/// All that get their share back, by backend.
#[derive(Clone, Debug)]
pub struct Ramps<B> {
    ramps: BTreeMap<B, Ramp>,
    has_changed: bool,
}

impl<B> Default for Ramps<B> {
    fn default() -> Self {
        Self { ramps: BTreeMap::new(), has_changed: false }
    }
}

impl<B: Ord + Clone> Ramps<B> {
    /// A backend gets its share back so, from now on.
    pub fn start(&mut self, backend: B, recovery: Recovery, now: Moment) {
        let recovering = Recovering::since(now);
        let part = recovering.part(now, recovery);
        if part < 100 {
            self.ramps.insert(backend, Ramp { recovering, recovery, part });
            self.has_changed = true;
        }
    }

    /// A check has found a backend good.
    pub fn note_good(&mut self, backend: &B, now: Moment) {
        if let Some(ramp) = self.ramps.get_mut(backend) {
            ramp.recovering.note_good();
            self.handle_time(now);
        }
    }

    /// Something else decides what a backend gets.
    pub fn stop(&mut self, backend: &B) {
        self.has_changed |= self.ramps.remove(backend).is_some();
    }

    /// Those of backends that have left are over.
    pub fn retain(&mut self, mut is_there: impl FnMut(&B) -> bool) {
        let before = self.ramps.len();
        self.ramps.retain(|backend, _| is_there(backend));
        self.has_changed |= self.ramps.len() != before;
    }

    /// Time has passed.
    pub fn handle_time(&mut self, now: Moment) {
        let mut has_changed = false;
        self.ramps.retain(|_, ramp| {
            let part = ramp.recovering.part(now, ramp.recovery);
            has_changed |= part != ramp.part;
            ramp.part = part;
            part < 100
        });
        self.has_changed |= has_changed;
    }

    /// When time alone gives one more.
    pub fn next_wake(&self, now: Moment) -> Option<Moment> {
        self.ramps.values().filter_map(|ramp| ramp.recovering.grows_at(now, ramp.recovery)).min()
    }

    /// Percent of its share that a backend has.
    pub fn part(&self, backend: &B) -> u8 {
        self.ramps.get(backend).map_or(100, |ramp| ramp.part)
    }

    /// All that have not the whole of it.
    pub fn iter(&self) -> impl Iterator<Item = (&B, u8)> {
        self.ramps.iter().map(|(backend, ramp)| (backend, ramp.part))
    }

    /// Whether any has begun, grown or ended since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// Whether any has since that was asked last.
    pub fn has_changed(&self) -> bool {
        self.has_changed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::health::RecoveryMode;

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    fn recovery(mode: RecoveryMode) -> Recovery {
        Recovery { mode, slow_start: at(20) }
    }

    #[test]
    fn share_comes_back_by_good_checks() {
        let mut ramps = Ramps::default();
        ramps.start("a", recovery(RecoveryMode::Steps), at(0));
        let mut parts = vec![ramps.part(&"a")];
        for second in 1..=4 {
            assert!(ramps.take_changed());
            ramps.note_good(&"b", at(second));
            ramps.note_good(&"a", at(second));
            parts.push(ramps.part(&"a"));
        }
        assert_eq!(parts, [25, 50, 75, 100, 100]);
        assert_eq!((ramps.iter().count(), ramps.next_wake(at(5))), (0, None));
    }

    #[test]
    fn share_comes_back_by_time() {
        let mut ramps = Ramps::default();
        ramps.start("a", recovery(RecoveryMode::Linear), at(0));
        let (mut now, mut parts) = (at(0), Vec::new());
        while let Some(next) = ramps.next_wake(now) {
            assert!(next > now);
            parts.push(ramps.part(&"a"));
            now = next;
            ramps.take_changed();
            ramps.handle_time(now);
            assert_eq!(ramps.take_changed(), ramps.part(&"a") != parts[parts.len() - 1]);
        }
        // The first step is there from the beginning.
        let expected: Vec<u8> = [5].into_iter().chain((1..20).map(|step| step * 5)).collect();
        assert_eq!(parts, expected);
        assert_eq!((ramps.part(&"a"), now.as_secs()), (100, 20));
    }

    #[test]
    fn none_is_at_once_and_what_leaves_or_is_stopped_has_none() {
        let mut ramps = Ramps::default();
        ramps.start("a", recovery(RecoveryMode::None), at(0));
        assert!(!ramps.take_changed() && ramps.part(&"a") == 100);
        for backend in ["a", "b"] {
            ramps.start(backend, recovery(RecoveryMode::Steps), at(0));
        }
        ramps.take_changed();
        ramps.stop(&"a");
        assert!(ramps.take_changed());
        ramps.retain(|backend| *backend == "a");
        assert!(ramps.take_changed());
        assert_eq!(ramps.iter().count(), 0);
    }
}
