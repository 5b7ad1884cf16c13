//! From counters to rates: two answers of the instance and the time between them.
//!
//! Keeps a minute of new flows of each backend. An instance that has come after another one begins anew, and so does a counter that has
//! gone down. A pure function of what it is given; times are those since the screen began.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use equipoise_core::config::target;

use crate::status::{BackendStatus, Counters, Status};

/// Samples that are kept.
pub(super) const MINUTE: usize = 60;

/// Which backend a row is of: service, route, address.
pub(super) type Name = (String, String, String);

/// A backend as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) service: String,
    pub(super) route: String,
    pub(super) address: String,
    pub(super) configured: f64,
    pub(super) effective: f64,
    /// The part of new flows that its weight gives it, from 0 to 1.
    pub(super) share: f64,
    /// The part of its pool's new flows of the last minute that it got; none where there were none.
    pub(super) actual: Option<f64>,
    pub(super) flows: f64,
    pub(super) packets: f64,
    pub(super) bytes: f64,
    pub(super) live: u64,
    pub(super) handshake_ms: Option<f64>,
    pub(super) health: String,
    pub(super) breaker: String,
    pub(super) draining: bool,
    pub(super) counters: Counters,
    /// New flows, the latest last.
    pub(super) history: Vec<u64>,
}

/// What has been told so far.
#[derive(Debug, Default)]
pub(super) struct Rates {
    before: BTreeMap<Name, Counters>,
    history: BTreeMap<Name, VecDeque<u64>>,
    pid: u32,
    at: Duration,
}

impl Rates {
    /// Takes up an answer; gives its rows, in the order of the configuration.
    pub(super) fn take(&mut self, status: &Status, at: Duration) -> Vec<Row> {
        if status.pid != self.pid {
            *self = Self { pid: status.pid, at, ..Self::default() };
        }
        let seconds = at.saturating_sub(self.at).as_secs_f64();
        self.at = at;
        let mut rows = Vec::new();
        let mut now = BTreeMap::new();
        for service in &status.services {
            for pool in &service.pools {
                let begin = rows.len();
                for backend in &pool.backends {
                    let address = target::text(backend.address);
                    let name = (service.name.clone(), pool.route.clone(), address);
                    rows.push(self.row(&name, backend, seconds));
                    now.insert(name, backend.traffic);
                }
                set_actual(&mut rows[begin..]);
            }
        }
        // Backends that have gone take what was known of them along.
        self.history.retain(|name, _| now.contains_key(name));
        self.before = now;
        rows
    }

    fn row(&mut self, name: &Name, backend: &BackendStatus, seconds: f64) -> Row {
        let counters = backend.traffic;
        let before = self.before.get(name).copied().unwrap_or(counters);
        let since = |now: u64, before: u64| now.saturating_sub(before);
        let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let new = since(counters.new_flows, before.new_flows);
        let history = self.history.entry(name.clone()).or_default();
        history.push_back(new);
        if history.len() > MINUTE {
            history.pop_front();
        }
        let packets = since(counters.packets_in, before.packets_in)
            + since(counters.packets_out, before.packets_out);
        let bytes =
            since(counters.bytes_in, before.bytes_in) + since(counters.bytes_out, before.bytes_out);
        let (service, route, address) = name.clone();
        Row {
            service,
            route,
            address,
            configured: backend.configured_weight.0,
            effective: backend.effective_weight,
            share: backend.share,
            actual: None,
            flows: rate(new),
            packets: rate(packets),
            bytes: rate(bytes),
            live: backend.live_flows,
            handshake_ms: backend.passive.handshake_ms,
            health: backend.health.to_string(),
            breaker: backend.breaker.to_string(),
            draining: backend.draining,
            counters,
            history: history.iter().copied().collect(),
        }
    }
}

/// Of the new flows of a pool, the part that each of its backends got.
fn set_actual(pool: &mut [Row]) {
    let of = |row: &Row| row.history.iter().sum::<u64>();
    let all: u64 = pool.iter().map(of).sum();
    if all > 0 {
        for row in pool {
            row.actual = Some(of(row) as f64 / all as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::screen::sample::status;
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn rates_are_differences_by_the_time_between() {
        let mut rates = Rates::default();
        let first = rates.take(&status(1, &[100, 0]), seconds(0));
        assert_eq!((first[0].flows, first[0].actual), (0.0, None), "nothing to compare with yet");
        let second = rates.take(&status(1, &[130, 10]), seconds(2));
        assert_eq!((second[0].flows, second[1].flows), (15.0, 5.0));
        assert_eq!((second[0].packets, second[0].bytes), (15.0, 1500.0));
        assert_eq!((second[0].actual, second[1].actual), (Some(0.75), Some(0.25)));
        assert_eq!(second[0].history, [0, 30]);
    }

    #[test]
    fn another_process_begins_anew_and_so_does_a_counter_that_went_down() {
        let mut rates = Rates::default();
        rates.take(&status(1, &[100, 0]), seconds(0));
        assert_eq!(rates.take(&status(2, &[900, 0]), seconds(1))[0].flows, 0.0);
        assert_eq!(rates.take(&status(2, &[5, 0]), seconds(2))[0].flows, 0.0);
        assert_eq!(rates.take(&status(2, &[9, 0]), seconds(3))[0].flows, 4.0);
    }

    #[test]
    fn a_minute_is_kept() {
        let mut rates = Rates::default();
        for n in 0..100 {
            rates.take(&status(1, &[n, 0]), seconds(n));
        }
        assert_eq!(rates.take(&status(1, &[100, 0]), seconds(100))[0].history, [1; MINUTE]);
        rates.take(&status(1, &[]), seconds(101));
        assert_eq!(rates.take(&status(1, &[100, 0]), seconds(102))[0].history, [0], "it had gone");
    }
}
