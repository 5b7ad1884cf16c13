//! How much there is now, and the most that there was: of live flows, and of flows, packets and bytes by the second.
//!
//! Sampled each second from the counters of services, which packets are counted in anyway. The most is kept with what is counted, for the
//! next process.

use std::collections::BTreeMap;
use std::time::Duration;

use equipoise_common::value::Traffic;
use equipoise_core::facts::Moment;
use equipoise_core::state::ServiceView;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Driver;
use super::clock::{Clock, millis};
use crate::dataplane::DataPlane;
use crate::host::Machine;
use crate::status::load::{self, Level, ServiceLoad};

/// From one sample to the next.
const EACH: Duration = Duration::from_secs(1);
/// Sampling takes a hundredth of the time at most, however many services there are.
const PART: u32 = 100;

/// The most that there was of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Peak {
    most: u64,
    /// When, since the Unix epoch.
    at_ms: u64,
}

impl Peak {
    fn note(&mut self, count: u64, at: Moment) {
        if count > self.most {
            *self = Self { most: count, at_ms: millis(at) };
        }
    }

    fn level(self, now: u64, clock: &Clock) -> Level {
        let at = || clock.written(Duration::from_millis(self.at_ms));
        Level { now, peak: self.most, peak_at: (self.most > 0).then(at) }
    }
}

/// What is counted by the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rates {
    flows: u64,
    packets: u64,
    bytes: u64,
}

/// The most that there was of everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Peaks {
    live: Peak,
    flows: Peak,
    packets: Peak,
    bytes: Peak,
}

/// How much there is, and was.
#[derive(Debug)]
pub(super) struct Load {
    since: Moment,
    now: Rates,
    peaks: Peaks,
    /// Of live flows of services, by their ids.
    services: BTreeMap<u32, Peak>,
    last: Option<(Instant, BTreeMap<u32, Traffic>)>,
}

/// What is kept for the next process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    since_ms: u64,
    peaks: Peaks,
    /// By their names.
    services: BTreeMap<String, Peak>,
}

impl Load {
    pub(super) fn since(since: Moment) -> Self {
        let (now, peaks, services) = Default::default();
        Self { since, now, peaks, services, last: None }
    }

    /// Takes up counters of services, as they are at a time.
    fn take(&mut self, (at, moment): (Instant, Moment), counters: BTreeMap<u32, Traffic>) {
        if let Some((before, last)) = self.last.take() {
            let seconds = at.saturating_duration_since(before).as_secs_f64();
            self.now = rates(&last, &counters, seconds);
            self.peaks.flows.note(self.now.flows, moment);
            self.peaks.packets.note(self.now.packets, moment);
            self.peaks.bytes.note(self.now.bytes, moment);
        }
        self.last = Some((at, counters));
    }

    /// Takes up how many flows are live: in the tables, and of services.
    fn take_live(&mut self, all: u64, services: &BTreeMap<u32, u64>, moment: Moment) {
        self.peaks.live.note(all, moment);
        self.services.retain(|id, _| services.contains_key(id));
        for (id, live) in services {
            self.services.entry(*id).or_default().note(*live, moment);
        }
    }
}

/// What has come since, by the second. Of a service that was not there before nothing is known.
fn rates(before: &BTreeMap<u32, Traffic>, now: &BTreeMap<u32, Traffic>, seconds: f64) -> Rates {
    let both = now.iter().filter_map(|(id, now)| Some((before.get(id)?, now)));
    let mut sum = [0; 3];
    for (before, now) in both {
        // Counters of a service that has come in place of another begin at 0.
        let since = |of: fn(&Traffic) -> u64| of(now).saturating_sub(of(before));
        sum[0] += since(|traffic| traffic.new_flows);
        sum[1] += since(|traffic| traffic.packets_in) + since(|traffic| traffic.packets_out);
        sum[2] += since(|traffic| traffic.bytes_in) + since(|traffic| traffic.bytes_out);
    }
    let rate = |count: u64| if seconds > 0.0 { (count as f64 / seconds).round() as u64 } else { 0 };
    let [flows, packets, bytes] = sum.map(rate);
    Rates { flows, packets, bytes }
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Takes a sample, if that is due.
    pub(super) fn follow_load(&mut self, now: Instant) {
        if self.due.load > now {
            return;
        }
        let began = Instant::now();
        self.note_live();
        let services: Vec<u32> = self.state.planned().service_holders.keys().copied().collect();
        match self.traffic((&services, &[])) {
            Ok([services, _]) => self.load.take((began, self.clock.now()), services),
            Err(error) => tracing::debug!(%error, "how much there is now is not known"),
        }
        self.due.load = now + EACH.max(began.elapsed() * PART);
    }

    /// Flows that are live now may be more than there ever were; how many there are in the tables, and of which service.
    fn note_live(&mut self) -> (u64, BTreeMap<u32, u64>) {
        let planned = self.state.planned();
        let mut services: BTreeMap<u32, u64> =
            planned.service_holders.keys().map(|id| (*id, 0)).collect();
        for (id, backend) in &planned.backends {
            if let Some(sum) = services.get_mut(&u32::from(backend.value.service)) {
                *sum += self.live_flows(*id);
            }
        }
        let all = self.plane.occupancy().live;
        self.load.take_live(all, &services, self.clock.now());
        (all, services)
    }

    /// How much there is, as answers have it.
    pub(super) fn load(&mut self) -> load::Load {
        let (all, live) = self.note_live();
        let (of, clock) = (&self.load, &self.clock);
        let Load { now, peaks, .. } = of;
        let service = |view: &ServiceView<'_>| {
            let id = view.id.unwrap_or(u32::MAX);
            let live = live.get(&id).copied().unwrap_or_default();
            let peak = of.services.get(&id).copied().unwrap_or_default();
            ServiceLoad { name: view.service.name.clone(), live_flows: peak.level(live, clock) }
        };
        load::Load {
            since: clock.written(of.since),
            live_flows: peaks.live.level(all, clock),
            new_flows_per_second: peaks.flows.level(now.flows, clock),
            packets_per_second: peaks.packets.level(now.packets, clock),
            bytes_per_second: peaks.bytes.level(now.bytes, clock),
            services: self.state.services().iter().map(service).collect(),
        }
    }

    /// What the next process goes on with.
    pub(super) fn kept_load(&self) -> Kept {
        let views = self.state.services();
        let peak = |view: &ServiceView<'_>| {
            Some((view.service.name.clone(), *self.load.services.get(&view.id?)?))
        };
        Kept {
            since_ms: millis(self.load.since),
            peaks: self.load.peaks.clone(),
            services: views.iter().filter_map(peak).collect(),
        }
    }

    /// Goes on with what the process before has seen.
    pub(super) fn restore_load(&mut self, kept: &Kept) {
        let views = self.state.services();
        let peak =
            |view: &ServiceView<'_>| Some((view.id?, *kept.services.get(&view.service.name)?));
        let services = views.iter().filter_map(peak).collect();
        let load = Load::since(Duration::from_millis(kept.since_ms));
        self.load = Load { peaks: kept.peaks.clone(), services, ..load };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(all: &[(u32, u64)]) -> BTreeMap<u32, Traffic> {
        let traffic = |n: u64| Traffic {
            new_flows: n,
            packets_in: 2 * n,
            packets_out: n,
            bytes_in: 100 * n,
            bytes_out: 10 * n,
            ..Traffic::default()
        };
        all.iter().map(|(id, n)| (*id, traffic(*n))).collect()
    }

    #[test]
    fn rates_are_of_the_time_between_and_the_most_of_them_stays_with_its_time() {
        let (at, mut load) = (Instant::now(), Load::since(Duration::ZERO));
        let mut take = |ms: u64, all: &[(u32, u64)]| {
            let after = Duration::from_millis(ms);
            load.take((at + after, after), counters(all));
            (load.now, load.peaks.clone())
        };
        assert_eq!(take(0, &[(1, 1_000)]).0, Rates::default(), "there is nothing to compare with");
        let fast = Rates { flows: 10, packets: 30, bytes: 1_100 };
        assert_eq!(take(2_000, &[(1, 1_020)]).0, fast);
        let (now, peaks) = take(4_000, &[(1, 1_022)]);
        assert_eq!(now, Rates { flows: 1, packets: 3, bytes: 110 });
        assert_eq!(peaks.flows, Peak { most: 10, at_ms: 2_000 });
        assert_eq!(peaks.bytes, Peak { most: 1_100, at_ms: 2_000 });
        // A service that comes, and one whose counters begin anew, are no traffic.
        assert_eq!(take(5_000, &[(1, 0), (2, 9_000)]).0, Rates::default());
    }

    #[test]
    fn most_live_flows_of_a_service_go_with_it() {
        let mut load = Load::since(Duration::ZERO);
        let second = Duration::from_secs(1);
        load.take_live(7, &[(1, 4), (2, 3)].into(), second);
        load.take_live(5, &[(1, 5)].into(), second * 2);
        assert_eq!(load.peaks.live, Peak { most: 7, at_ms: 1_000 });
        assert_eq!(load.services, [(1, Peak { most: 5, at_ms: 2_000 })].into());
    }
}
