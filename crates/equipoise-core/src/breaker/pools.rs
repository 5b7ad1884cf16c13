//! The breakers of all backends, by pool: so many of one may be out at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::{Breaker, Change, Lasting, State};
use crate::config::Config;
use crate::config::breaker::Thresholds;
use crate::facts::Moment;
use crate::id::{BackendKey, Member, RouteName};

/// A change, and of which backend.
pub type Told = (BackendKey, Change);

/// A breaker as it is shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// What it lets through.
    pub state: State,
    /// Since when.
    pub since: Moment,
    /// Until when, if it is open.
    pub open_until: Option<Moment>,
    /// Successes and failures that count.
    pub counts: (u64, u64),
}

/// Before all others in order.
const FIRST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// The breakers of all backends that have one.
#[derive(Clone, Debug, Default)]
pub struct Breakers {
    breakers: BTreeMap<BackendKey, Breaker>,
    /// When time alone changes one: of few, however many there are.
    waiting: BTreeMap<BackendKey, Moment>,
    thresholds: BTreeMap<Arc<str>, Thresholds>,
    /// Backends of each pool that has breakers.
    sizes: BTreeMap<(Arc<str>, RouteName), usize>,
    /// Those of backends that are not there and may come back.
    absent: BTreeMap<BackendKey, Breaker>,
    /// Who may come back after the next configuration.
    expected: BTreeSet<BackendKey>,
    has_changed: bool,
}

impl Breakers {
    /// Who is not there with the next configuration, and may come back: its breaker is kept as it is.
    pub fn expect(&mut self, absent: BTreeSet<BackendKey>) {
        self.expected = absent;
    }

    /// Another configuration: who stays keeps what has been counted, and its state.
    pub fn handle_config(&mut self, now: Moment, config: &Config) {
        let mut before = std::mem::take(&mut self.breakers);
        self.waiting.clear();
        self.sizes.clear();
        self.thresholds.clear();
        for (key, Member { service, pool, .. }) in BackendKey::all(config) {
            let Some(thresholds) = service.breaker else { continue };
            self.thresholds.insert(Arc::clone(&key.service), thresholds);
            let place = (Arc::clone(&key.service), key.route.clone());
            self.sizes.insert(place, pool.backends.len());
            let known = before.remove(&key).or_else(|| self.absent.remove(&key));
            let mut breaker = known.unwrap_or(Breaker::new(thresholds, now));
            breaker.set(thresholds, now);
            self.breakers.insert(key.clone(), breaker);
            self.follow(&key);
        }
        self.absent.append(&mut before);
        let expected = std::mem::take(&mut self.expected);
        self.absent.retain(|key, _| expected.contains(key));
        self.has_changed = true;
    }

    /// So many outcomes of a backend have come in.
    pub fn record(
        &mut self,
        now: Moment,
        key: &BackendKey,
        outcomes: (u64, u64),
    ) -> Option<Change> {
        // Looked for only where it makes a difference.
        let may_open = outcomes.1 > 0 && self.may_open(key);
        let change = self.breakers.get_mut(key)?.record(outcomes, may_open, now);
        if change.is_some() {
            self.has_changed = true;
            self.follow(key);
        }
        change
    }

    /// Knows when time alone changes one.
    fn follow(&mut self, key: &BackendKey) {
        match self.breakers.get(key).and_then(Breaker::due) {
            Some(at) => self.waiting.insert(key.clone(), at),
            None => self.waiting.remove(key),
        };
    }

    /// Whether one more of a pool may be out.
    ///
    /// One may be whatever the percentage says, unless that is 0: a guard that a pool of two could never use would be none.
    /// Both are what Envoy's outlier detection does (`max_ejection_percent`).
    fn may_open(&self, key: &BackendKey) -> bool {
        let pool = (Arc::clone(&key.service), key.route.clone());
        let (Some(thresholds), Some(size)) =
            (self.thresholds.get(&key.service), self.sizes.get(&pool))
        else {
            return false;
        };
        let is_of_pool =
            |other: &BackendKey| other.service == key.service && other.route == key.route;
        let first = BackendKey { address: FIRST, ..key.clone() };
        let pool = self.breakers.range(first..).take_while(|(other, _)| is_of_pool(other));
        let out = pool.filter(|(other, breaker)| *other != key && breaker.state == State::Open);
        let percent = usize::from(thresholds.max_ejected);
        percent > 0 && out.count() < (size * percent / 100).max(1)
    }

    /// Time has passed.
    pub fn handle_time(&mut self, now: Moment) -> Vec<Told> {
        let due: Vec<_> = self.waiting.extract_if(.., |_, at| *at <= now).collect();
        let mut turned = Vec::new();
        for (key, _) in due {
            let change = self.breakers.get_mut(&key).and_then(|breaker| breaker.turn(now));
            self.follow(&key);
            turned.extend(change.map(|change| (key, change)));
        }
        self.has_changed |= !turned.is_empty();
        turned
    }

    /// When time alone changes something.
    pub fn next_wake(&self) -> Option<Moment> {
        self.waiting.values().copied().min()
    }

    /// Opens, closes or resets one by hand; none where there is none, and no change where there is nothing to do.
    pub fn by_hand(
        &mut self,
        key: &BackendKey,
        act: impl FnOnce(&mut Breaker) -> Option<Change>,
    ) -> Option<Option<Change>> {
        let change = act(self.breakers.get_mut(key)?);
        self.has_changed |= change.is_some();
        self.follow(key);
        Some(change)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.breakers.is_empty()
    }

    /// What one lets through, if there is one.
    pub fn state(&self, key: &BackendKey) -> Option<State> {
        self.breakers.get(key).map(Breaker::state)
    }

    /// One as it is shown.
    pub fn standing(&self, now: Moment, key: &BackendKey) -> Option<Standing> {
        let breaker = self.breakers.get(key)?;
        Some(Standing {
            state: breaker.state(),
            since: breaker.since(),
            open_until: breaker.open_until(),
            counts: breaker.counts(now),
        })
    }

    /// Those that let less than everything through.
    pub fn not_closed(&self) -> impl Iterator<Item = (&BackendKey, State)> {
        let all = self.breakers.iter().map(|(key, breaker)| (key, breaker.state()));
        all.filter(|(_, state)| *state != State::Closed)
    }

    /// What outlives the process.
    pub fn lasting(&self) -> impl Iterator<Item = (&BackendKey, Lasting)> {
        self.breakers.iter().filter_map(|(key, breaker)| Some((key, breaker.lasting()?)))
    }

    /// One goes on as an earlier process has left it; false where there is none now.
    pub fn restore(&mut self, key: &BackendKey, lasting: Lasting) -> bool {
        let Some(breaker) = self.breakers.get_mut(key) else { return false };
        breaker.restore(lasting);
        self.has_changed = true;
        self.follow(key);
        true
    }

    /// Whether any has changed since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// Whether any has changed since that was asked last.
    pub fn has_changed(&self) -> bool {
        self.has_changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use std::time::Duration;

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    fn config(backends: usize, breaker: &str) -> Config {
        let backends: Vec<_> =
            (1..=backends).map(|n| format!("{{ address = '10.0.0.{n}:80' }}")).collect();
        let text = format!(
            "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], address = '203.0.113.1', port = 80 }}\n\
             backends = [{}]\n{breaker}",
            backends.join(", ")
        );
        parse("equipoise.toml", &text).unwrap().config
    }

    fn key(number: u8) -> BackendKey {
        let address = SocketAddr::from(([10, 0, 0, number], 80));
        BackendKey { service: "web".into(), route: None, address }
    }

    const TABLE: &str = "[service.breaker]\nmin-requests = 1\n";

    #[test]
    fn so_many_of_a_pool_open_and_no_more() {
        let opened = |size: usize, percent: u8| {
            let mut breakers = Breakers::default();
            let table = format!("{TABLE}max-ejected = {percent}\n");
            breakers.handle_config(at(0), &config(size, &table));
            let all = 1..=size as u8;
            all.filter(|&n| breakers.record(at(1), &key(n), (0, 1)).is_some()).count()
        };
        assert_eq!(opened(10, 50), 5);
        assert_eq!(opened(3, 50), 1);
        assert_eq!(opened(2, 10), 1, "one of any pool");
        assert_eq!(opened(4, 100), 4);
        assert_eq!(opened(4, 0), 0);
    }

    #[test]
    fn who_is_half_open_leaves_its_place_to_another() {
        let mut breakers = Breakers::default();
        breakers.handle_config(at(0), &config(2, TABLE));
        assert!(breakers.record(at(1), &key(1), (0, 1)).is_some());
        assert_eq!(breakers.record(at(2), &key(2), (0, 1)), None);
        assert_eq!(breakers.next_wake(), Some(at(31)));
        let told = breakers.handle_time(at(31));
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].0.clone(), told[0].1.to), (key(1), State::HalfOpen));
        assert!(breakers.record(at(32), &key(2), (0, 1)).is_some());
    }

    #[test]
    fn states_survive_another_configuration_and_end_with_their_backend_or_table() {
        let mut breakers = Breakers::default();
        breakers.handle_config(at(0), &config(3, TABLE));
        breakers.record(at(1), &key(3), (0, 1));
        breakers.record(at(1), &key(1), (7, 0));
        breakers.handle_config(at(2), &config(4, "[service.breaker]\nmin-requests = 5\n"));
        assert_eq!(breakers.state(&key(3)), Some(State::Open));
        assert_eq!(breakers.standing(at(2), &key(1)).unwrap().counts, (7, 0));
        breakers.handle_config(at(3), &config(2, TABLE));
        assert_eq!(breakers.state(&key(3)), None);
        breakers.handle_config(at(4), &config(3, TABLE));
        assert_eq!(breakers.state(&key(3)), Some(State::Closed), "who comes again is new");
        breakers.handle_config(at(5), &config(3, ""));
        assert_eq!((breakers.state(&key(1)), breakers.next_wake()), (None, None));
    }

    #[test]
    fn hands_tell_whether_there_is_one_and_whether_it_has_changed() {
        let mut breakers = Breakers::default();
        breakers.handle_config(at(0), &config(1, TABLE));
        breakers.take_changed();
        assert_eq!(breakers.by_hand(&key(9), |b| b.force_open(at(1))), None);
        assert_eq!(breakers.by_hand(&key(1), |b| b.force_close(at(1))), Some(None));
        assert!(!breakers.take_changed());
        assert!(breakers.by_hand(&key(1), |b| b.force_open(at(1))).unwrap().is_some());
        assert!(breakers.take_changed());
    }
}
