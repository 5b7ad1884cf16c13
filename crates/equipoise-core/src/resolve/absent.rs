//! Backends that a name has stood for and does not now: who comes back is who it was.
//!
//! What is known of them is kept by those who know it, as long as they are in here: while a name of their pool that they
//! came of is configured. There may be very many over time, so that only so many are kept; those that an operator has said
//! something about stay.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::Config;
use crate::facts::Moment;
use crate::id::BackendKey;

/// More are not worth it: names whose addresses change all the time.
const MOST: usize = 4_096;

/// Backends that may come back.
#[derive(Clone, Debug, Default)]
pub struct Absent {
    /// Since when, and of which names they came; none where that is not known.
    backends: BTreeMap<BackendKey, (Moment, BTreeSet<String>)>,
}

impl Absent {
    /// Another configuration takes the place of one, both with what names stand for.
    pub fn follow(&mut self, now: Moment, (before, after): (&Config, &Config)) {
        let there: BTreeSet<_> = BackendKey::all(after).map(|(key, _)| key).collect();
        for (key, member) in BackendKey::all(before) {
            let names: BTreeSet<_> = member.backend.names().map(|named| named.text()).collect();
            if !names.is_empty() && !there.contains(&key) {
                self.backends.insert(key, (now, names));
            }
        }
        let mut configured = BTreeMap::new();
        for service in &after.services {
            for pool in service.pools() {
                let names: BTreeSet<_> = pool.named.iter().map(|named| named.text()).collect();
                let route = pool.route.map(crate::config::Route::name);
                configured.insert((service.name.as_str(), route), names);
            }
        }
        self.backends.retain(|key, (_, names)| {
            let configured = configured.get(&(&*key.service, key.route.as_deref()));
            let stays = configured.is_some_and(|configured| {
                names.is_empty() && !configured.is_empty() || !names.is_disjoint(configured)
            });
            stays && !there.contains(key)
        });
    }

    /// Of a backend that is not there something is known from before; false where no name could bring it back.
    pub fn expect(&mut self, now: Moment, key: &BackendKey, config: &Config) -> bool {
        let service = config.services.iter().find(|service| *service.name == *key.service);
        let mut pools = service.into_iter().flat_map(crate::config::Service::pools);
        let is_meant = pools.any(|pool| {
            pool.route.map(crate::config::Route::name) == key.route.as_deref()
                && !pool.named.is_empty()
        });
        if is_meant {
            self.backends.entry(key.clone()).or_insert((now, BTreeSet::new()));
        }
        is_meant
    }

    /// Forgets those that have been away for longest and that nobody has said anything about, where there are too many.
    pub fn limit(&mut self, is_said: impl Fn(&BackendKey) -> bool) {
        let over = self.backends.len().saturating_sub(MOST);
        if over == 0 {
            return;
        }
        let silent = self.backends.iter().filter(|(key, _)| !is_said(key));
        let mut silent: Vec<_> = silent.map(|(key, (since, _))| (*since, key.clone())).collect();
        silent.sort();
        for (_, key) in silent.into_iter().take(over) {
            self.backends.remove(&key);
        }
    }

    /// Whether a backend is one of them.
    pub fn has(&self, key: &BackendKey) -> bool {
        self.backends.contains_key(key)
    }

    /// All of them, with the names that they came of.
    pub fn iter(&self) -> impl Iterator<Item = (&BackendKey, &BTreeSet<String>)> {
        self.backends.iter().map(|(key, (_, names))| (key, names))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::config::{Name, parse};
    use crate::resolve::{Part, Places, expand};

    fn config(names: &[&str], addresses: impl IntoIterator<Item = u32>) -> Config {
        let backends: Vec<_> =
            names.iter().map(|n| format!("{{ host = '{n}', port = 80 }}")).collect();
        let text = format!(
            "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], port = 80 }}\n\
             backends = [{{ address = '192.0.2.1:80' }}, {}]\n",
            backends.join(", ")
        );
        let config = parse("a.toml", &text).unwrap().config;
        let place =
            |n: u32| (SocketAddr::new((0x0a00_0000 + n).to_be_bytes().into(), 0), Part::default());
        let places: Places = addresses.into_iter().map(place).collect();
        expand(&config, |_: &Name| Some(&places)).config
    }

    fn key(number: u32) -> BackendKey {
        let address = SocketAddr::new((0x0a00_0000 + number).to_be_bytes().into(), 80);
        BackendKey { service: "web".into(), route: None, address }
    }

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    #[test]
    fn who_leaves_a_name_may_come_back_and_who_leaves_with_it_may_not() {
        let mut absent = Absent::default();
        let steps = [
            config(&["a"], [1, 2, 3]),
            config(&["a"], [1]),
            config(&["a"], [1, 2]),
            config(&["b"], [2]),
        ];
        absent.follow(at(1), (&steps[0], &steps[1]));
        assert!(absent.has(&key(2)) && absent.has(&key(3)) && !absent.has(&key(1)));
        absent.follow(at(2), (&steps[1], &steps[2]));
        assert!(!absent.has(&key(2)) && absent.has(&key(3)));
        absent.follow(at(3), (&steps[2], &steps[3]));
        assert_eq!(absent.iter().count(), 0);
    }

    #[test]
    fn who_is_known_from_before_may_come_by_any_name_of_its_pool() {
        let mut absent = Absent::default();
        let named = config(&["a"], []);
        assert!(absent.expect(at(1), &key(7), &named));
        let other = BackendKey { service: "api".into(), ..key(7) };
        assert!(!absent.expect(at(1), &other, &named));
        absent.follow(at(2), (&named, &named));
        assert!(absent.has(&key(7)));
        let unnamed = parse(
            "a.toml",
            "[[service]]\nname = 'web'\nlisten = { interfaces = ['eth0'], port = 80 }\nbackends = [{ address = '192.0.2.1:80' }]",
        );
        absent.follow(at(3), (&named, &unnamed.unwrap().config));
        assert!(!absent.has(&key(7)));
    }

    #[test]
    fn those_that_are_away_for_longest_are_forgotten_unless_somebody_has_said_something() {
        let mut absent = Absent::default();
        let most = MOST as u32;
        absent.follow(at(1), (&config(&["a"], 0..10), &config(&["a"], 10..most)));
        absent.follow(at(2), (&config(&["a"], 10..most), &config(&["a"], most..most + 5)));
        absent.follow(at(3), (&config(&["a"], most..most + 5), &config(&["a"], [])));
        absent.limit(|backend| *backend == key(3));
        assert_eq!(absent.iter().count(), MOST);
        let gone: Vec<_> = (0..most + 5).filter(|n| !absent.has(&key(*n))).collect();
        assert_eq!(gone, [0, 1, 2, 4, 5]);
    }
}
