//! Balancers that go from test to test: to load the programs takes longer than most tests do.
//!
//! Each test has to leave its balancer as good as new, which is checked, and one that fails takes it along. What is
//! counted for as long as the programs are loaded goes on, and so does time.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, Once};
use std::time::Duration;

use equipoise::apply::Applier;
use equipoise::dataplane::kernel::{Events, Expiry, FlowRow, Part};
use equipoise::dataplane::{DataPlane as _, Maps as _};
use equipoise_common::event::Event;
use equipoise_common::flow::GRACE;
use equipoise_common::value::{Policy, Shortcuts};
use equipoise_core::config::Limits;
use equipoise_core::diff::Step;
use equipoise_core::id::Holder;
use equipoise_core::state::State;

use super::{BACKENDS, numbered, seconds};
use crate::bench::{BACKEND, BACKEND6, Bench};

const START: u32 = 1_000_000_000;

/// The ids that services have.
pub(super) const SERVICES: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// A balancer, its clock, and its events.
pub(super) struct Balancer {
    pub(super) bench: Bench,
    max_flows: u32,
    now: u32,
    events: Events,
}

/// What no test has at the moment.
struct Spare {
    balancers: Vec<Balancer>,
    /// When each of them begins anew: where a test has two, their clocks go alike.
    latest: u32,
}

static SPARE: Mutex<Spare> = Mutex::new(Spare { balancers: Vec::new(), latest: START });

impl Balancer {
    /// With this configuration and nothing else in it.
    pub(super) fn of(max_flows: u32, config: &str) -> Self {
        let (latest, spare) = {
            let Spare { balancers, latest } = &mut *SPARE.lock().unwrap();
            let at = balancers.iter().position(|balancer| balancer.max_flows == max_flows);
            (*latest, at.map(|at| balancers.swap_remove(at)))
        };
        let mut balancer = spare.unwrap_or_else(|| Self::load(max_flows, config));
        balancer.bench.reconfigure(config);
        balancer.now = latest;
        balancer.wait(0);
        balancer
    }

    pub(super) fn wait(&mut self, ticks: u32) {
        self.now += ticks;
        self.at(0);
    }

    /// Has it be so many ticks later, until the next wait.
    pub(super) fn at(&mut self, ahead: u64) {
        let ticks = u64::from(self.now) + ahead;
        self.bench.kernel.set_time(Duration::from_nanos(ticks << 20)).unwrap();
    }

    pub(super) fn sweep(&mut self) -> Expiry {
        let Bench { netns, kernel, .. } = &mut self.bench;
        // RSTs leave by sockets of the namespace.
        netns.run(|| kernel.sweep(Part::All))
    }

    pub(super) fn rows(&self) -> Vec<FlowRow> {
        let mut rows = Vec::new();
        self.bench
            .kernel
            .flows(&mut |row| {
                rows.push(row);
                true
            })
            .unwrap();
        rows
    }

    pub(super) fn everything(&mut self) -> Vec<FlowRow> {
        // Seen from half an hour ago, nothing is past its time.
        const BACK: u32 = 1 << 21;
        self.now -= BACK;
        self.wait(0);
        let rows = self.rows();
        self.wait(BACK);
        rows
    }

    /// The events that have come since the last time.
    pub(super) fn told(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.take_next()).collect()
    }

    pub(super) fn counted(&self) -> Counted {
        let pressures = self.bench.kernel.pressures().unwrap();
        let verdicts = self.bench.kernel.verdicts().unwrap();
        let pressures = pressures.into_iter().map(|(what, n)| (what.name(), n));
        let verdicts = verdicts.into_iter().map(|(hook, what, n)| ((hook as u32, what as u32), n));
        Counted {
            pressures: pressures.filter(|(_, n)| *n > 0).collect(),
            verdicts: verdicts.filter(|(_, n)| *n > 0).collect(),
        }
    }

    /// Lets other tests have it.
    pub(super) fn give_back(mut self) {
        self.clear();
        let mut spare = SPARE.lock().unwrap();
        spare.latest = spare.latest.max(self.now);
        // One with tables of another size is as good as new, and not what others ask for.
        self.max_flows = self.bench.kernel.max_flows();
        spare.balancers.push(self);
    }

    fn load(max_flows: u32, config: &str) -> Self {
        static AT_EXIT: Once = Once::new();
        AT_EXIT.call_once(|| {
            // SAFETY: a function of this program, which takes nothing.
            let refused = unsafe { libc::atexit(let_go) };
            assert_eq!(refused, 0);
        });
        let mut bench = Bench::sized(config, max_flows);
        let mut neighbours = String::new();
        for first in [BACKEND, BACKEND6] {
            for number in 0..BACKENDS {
                let ip = numbered(first, number).ip();
                writeln!(neighbours, "neigh replace {ip} lladdr 02:00:00:00:00:07 dev back")
                    .unwrap();
            }
        }
        bench.netns.ip(neighbours.trim_end()).unwrap();
        let events = bench.kernel.events().unwrap().unwrap();
        Self { bench, max_flows, now: START, events }
    }

    /// Ends all flows and takes everything out of the maps. No test may leave anything that does not go by that.
    fn clear(&mut self) {
        // No flow of any test lives longer, and no slot rests longer.
        self.wait(seconds(125 * 60) + 1);
        self.sweep();
        self.wait(GRACE + 1);
        assert_eq!(self.everything(), []);
        self.told();
        let bench = &mut self.bench;
        let occupancy = bench.kernel.occupancy();
        assert_eq!((occupancy.live, occupancy.confirmed), (0, 0));
        let named = bench.kernel.named();
        assert!(named.services.is_empty() && named.backends.is_empty(), "{named:?}");
        let mut nothing = bench.state.config().clone();
        nothing.services.clear();
        nothing.settings.limits = Limits::default();
        bench.state.handle_config(nothing.clone());
        bench.converge();
        if let Some(mark) = bench.state.resting() {
            bench.state.handle_named(mark, &named);
            bench.converge();
        }
        let planned = bench.state.planned();
        assert!(planned.services.is_empty() && planned.pools.is_empty(), "{planned:?}");
        assert!(planned.backends.is_empty(), "{planned:?}");
        // What stays of a service that has left, for as long as its flows may be there.
        for id in SERVICES {
            let value = Policy::default();
            bench.kernel.apply(&Step::PutPolicy { id, value }).unwrap();
            bench
                .kernel
                .apply(&Step::ResetServiceCounters { id, holder: Holder::default() })
                .unwrap();
        }
        bench.kernel.allow_shortcuts(Shortcuts::None).unwrap();
        // Ids and their terms begin anew.
        bench.state = State::new(nothing, bench.state.facts().clone());
        bench.applier = Applier::default();
    }
}

/// Lets all go at the end of the process, which drops no statics: their pins would stay.
extern "C" fn let_go() {
    SPARE.lock().unwrap().balancers.clear();
}

/// What is counted for as long as the programs are loaded, without what is 0.
pub(super) struct Counted {
    pub(super) pressures: BTreeMap<&'static str, u64>,
    /// By hook and verdict.
    pub(super) verdicts: BTreeMap<(u32, u32), u64>,
}

impl Counted {
    /// What has been added.
    pub(super) fn since(self, before: &Self) -> Self {
        Self {
            pressures: added(self.pressures, &before.pressures),
            verdicts: added(self.verdicts, &before.verdicts),
        }
    }
}

fn added<K: Ord>(mut now: BTreeMap<K, u64>, before: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    now.retain(|what, count| {
        *count -= before.get(what).copied().unwrap_or(0);
        *count > 0
    });
    now
}
