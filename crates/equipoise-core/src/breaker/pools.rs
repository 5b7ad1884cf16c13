//! The breakers of all backends, by pool: so many of one may be out at a time.

use std::collections::{BTreeMap, BTreeSet};
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

/// A pool that has breakers.
#[derive(Clone, Copy, Debug)]
struct Pool {
    thresholds: Thresholds,
    backends: usize,
    /// How many of them are open.
    open: usize,
}

impl Pool {
    /// Whether one more may be out.
    ///
    /// One may be whatever the percentage says, unless that is 0: a guard that a pool of two could never use would be none.
    /// Both are what Envoy's outlier detection does (`max_ejection_percent`).
    fn has_room(&self) -> bool {
        let percent = usize::from(self.thresholds.max_ejected);
        percent > 0 && self.open < (self.backends * percent / 100).max(1)
    }
}

/// The breakers of all backends that have one.
#[derive(Clone, Debug, Default)]
pub struct Breakers {
    breakers: BTreeMap<BackendKey, Breaker>,
    /// When time alone changes one: of few, however many there are.
    waiting: BTreeMap<BackendKey, Moment>,
    /// The pools that have breakers.
    pools: BTreeMap<(Arc<str>, RouteName), Pool>,
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
        self.pools.clear();
        for (key, Member { pool, .. }) in BackendKey::all(config) {
            let Some(thresholds) = pool.breaker else { continue };
            let known = before.remove(&key).or_else(|| self.absent.remove(&key));
            let mut breaker = known.unwrap_or(Breaker::new(thresholds, now));
            breaker.set(thresholds, now);
            let new = Pool { thresholds, backends: pool.backends.len(), open: 0 };
            let pool = self.pools.entry(place(&key)).or_insert(new);
            pool.open += usize::from(breaker.state() == State::Open);
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
        let breaker = self.breakers.get_mut(key)?;
        let may_open = self.pools.get(&place(key)).is_some_and(Pool::has_room);
        let change = breaker.record(outcomes, may_open, now);
        if let Some(change) = change {
            self.count(key, change.from);
            self.has_changed = true;
            self.follow(key);
        }
        change
    }

    /// Counts one that is open now and was not, or the other way round.
    fn count(&mut self, key: &BackendKey, before: State) {
        let is_open = self.state(key) == Some(State::Open);
        let Some(pool) = self.pools.get_mut(&place(key)) else { return };
        match (before == State::Open, is_open) {
            (false, true) => pool.open += 1,
            (true, false) => pool.open = pool.open.saturating_sub(1),
            (true, true) | (false, false) => {}
        }
    }

    /// Knows when time alone changes one.
    fn follow(&mut self, key: &BackendKey) {
        match self.breakers.get(key).and_then(Breaker::due) {
            Some(at) => self.waiting.insert(key.clone(), at),
            None => self.waiting.remove(key),
        };
    }

    /// Time has passed.
    pub fn handle_time(&mut self, now: Moment) -> Vec<Told> {
        let due: Vec<_> = self.waiting.extract_if(.., |_, at| *at <= now).collect();
        let mut turned = Vec::new();
        for (key, _) in due {
            let change = self.breakers.get_mut(&key).and_then(|breaker| breaker.turn(now));
            if let Some(change) = change {
                self.count(&key, change.from);
            }
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
        if let Some(change) = change {
            self.count(key, change.from);
        }
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
        let before = breaker.state();
        breaker.restore(lasting);
        self.count(key, before);
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

/// The pool of a backend.
fn place(key: &BackendKey) -> (Arc<str>, RouteName) {
    (Arc::clone(&key.service), key.route.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use std::time::Duration;

    use crate::config::parse;

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
    fn who_fails_half_open_where_no_more_may_be_out_is_tried_on() {
        let mut breakers = Breakers::default();
        breakers.handle_config(at(0), &config(2, &format!("{TABLE}half-open-successes = 2\n")));
        breakers.record(at(1), &key(1), (0, 1));
        breakers.handle_time(at(31));
        assert!(breakers.record(at(32), &key(2), (0, 1)).is_some());
        assert_eq!(breakers.record(at(33), &key(1), (1, 0)), None);
        assert_eq!(breakers.record(at(34), &key(1), (0, 1)), None, "both would be out");
        assert_eq!(breakers.state(&key(1)), Some(State::HalfOpen));
        assert_eq!(breakers.record(at(35), &key(1), (1, 0)), None, "one in a row again");
        // As soon as the other one is in again, it may.
        breakers.by_hand(&key(2), |breaker| breaker.reset(at(36)));
        assert!(breakers.record(at(37), &key(1), (0, 1)).is_some());
    }

    #[test]
    fn each_pool_has_its_own_thresholds_and_its_own_room() {
        let routes = "[[service.source-route]]\nsource = '10.0.0.0/8'\nbreaker = { min-requests = 2 }\n\
            backends = [{ address = '10.0.0.1:80' }, { address = '10.0.0.2:80' }]\n\
            [[service.source-route]]\nsource = '172.16.0.0/12'\nbackends = [{ address = '10.0.0.1:80' }]\n";
        let mut breakers = Breakers::default();
        breakers.handle_config(at(0), &config(2, &format!("{TABLE}{routes}")));
        let of = |route: &str, number| BackendKey { route: Some(route.into()), ..key(number) };
        let (own, other) = (of("10.0.0.0/8", 1), of("172.16.0.0/12", 1));
        assert!(breakers.record(at(1), &key(1), (0, 1)).is_some());
        assert_eq!(breakers.record(at(1), &own, (0, 1)), None, "two are asked for");
        assert!(breakers.record(at(1), &own, (0, 1)).is_some(), "whoever is out elsewhere");
        assert!(breakers.record(at(1), &other, (0, 1)).is_some(), "as the service says");
        assert_eq!(breakers.record(at(1), &of("10.0.0.0/8", 2), (0, 9)), None, "no room");
        // A table in a route alone.
        let alone = routes.replace("source = '10", "source = '11");
        breakers.handle_config(at(2), &config(2, &alone));
        assert_eq!((breakers.state(&key(1)), breakers.state(&own)), (None, None));
        assert_eq!(breakers.state(&of("11.0.0.0/8", 1)), Some(State::Closed));
        assert_eq!(breakers.state(&other), None);
    }

    #[test]
    fn room_is_counted_whatever_opens_and_closes() {
        let mut breakers = Breakers::default();
        let table = format!("{TABLE}max-ejected = 50\n");
        breakers.handle_config(at(0), &config(4, &table));
        let opens = |breakers: &mut Breakers, n| breakers.record(at(9), &key(n), (0, 1)).is_some();
        breakers.by_hand(&key(1), |breaker| breaker.force_open(at(1)));
        breakers.by_hand(&key(1), |breaker| breaker.force_open(at(1)));
        assert!(opens(&mut breakers, 2) && !opens(&mut breakers, 3));
        breakers.by_hand(&key(1), |breaker| breaker.reset(at(1)));
        assert!(opens(&mut breakers, 3) && !opens(&mut breakers, 1));
        // Another configuration counts anew, and so does the next process.
        breakers.handle_config(at(2), &config(4, &table));
        assert!(!opens(&mut breakers, 1));
        let kept: Vec<_> =
            breakers.lasting().map(|(key, lasting)| (key.clone(), lasting)).collect();
        let mut next = Breakers::default();
        next.handle_config(at(3), &config(4, &table));
        for (key, lasting) in kept {
            assert!(next.restore(&key, lasting));
        }
        assert!(!opens(&mut next, 1));
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
