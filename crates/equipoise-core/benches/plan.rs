//! What deciding costs: plan and difference of many services, from nothing, after nothing, and after one backend has gone down.
//!
//! `cargo bench -p equipoise-core`. With `--check` it fails beyond its limits. The best of some runs counts: others use the machine, too.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::time::{Duration, Instant};

use equipoise_common::limit;
use equipoise_core::config::{Config, parse};
use equipoise_core::diff::{Applied, diff, diff_within};
use equipoise_core::facts::{Facts, Interface};
use equipoise_core::health::Manual;
use equipoise_core::id::{BackendKey, Limits};
use equipoise_core::state::{Beginning, State};

/// Services, backends of each, and what may be spent: on all at once, on one that has gone down. Of 4 096 services with 16 backends each
/// the maps of the programs are full; what is beyond is planned for its figure alone.
const SIZES: [(u32, u32, Duration, Duration); 4] = [
    (1_000, 10, Duration::from_millis(20), Duration::from_millis(1)),
    (4_096, 10, Duration::from_millis(300), Duration::from_millis(10)),
    (4_096, 16, Duration::from_millis(300), Duration::from_millis(10)),
    (10_000, 10, Duration::from_millis(300), Duration::from_millis(10)),
];

fn main() {
    let is_checked = std::env::args().any(|argument| argument == "--check");
    let mut is_slow = false;
    println!(
        "| services | backends of each | plan and difference of all, again | one backend goes down or comes back | nothing has changed |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: |");
    for (services, backends, whole_limit, one_limit) in SIZES {
        let config = config(services, backends);
        let whole = best(5, || all(&config));
        let mut running = Running::new(&config);
        let one = best(20, || running.flap());
        let nothing = best(20, || running.nothing());
        println!("| {services} | {backends} | {whole:.1?} | {one:.1?} | {nothing:.1?} |");
        is_slow |= whole > whole_limit || one > one_limit;
    }
    if is_checked && is_slow {
        eprintln!("too slow");
        std::process::exit(1);
    }
}

fn best(times: u32, mut run: impl FnMut() -> Duration) -> Duration {
    (0..times).map(|_| run()).min().unwrap_or_default()
}

/// Services of which no file has so many: read in parts, and put together.
fn config(services: u32, backends: u32) -> Config {
    let firsts = (0..services).step_by(limit::SERVICES as usize);
    let mut parts =
        firsts.map(|first| part(first..services.min(first + limit::SERVICES), backends));
    let mut config = parts.next().expect("there are services");
    parts.for_each(|part| config.services.extend(part.services));
    config
}

fn part(services: Range<u32>, backends: u32) -> Config {
    let mut text = String::from("[settings.health-check]\n");
    for service in services {
        let _ = writeln!(
            text,
            "[[service]]\nname = \"s{service}\"\nlisten = {{ interfaces = [\"eth0\"], address = \"203.0.113.{}\", port = {} }}\nbackends = [",
            service % 250,
            service / 250 + 1,
        );
        for backend in 0..backends {
            let number = service * backends + backend;
            let [_, a, b, c] = number.to_be_bytes();
            let _ = writeln!(
                text,
                "  {{ address = \"10.{a}.{b}.{c}:8080\", weight = {} }},",
                1 + backend
            );
        }
        text.push_str("]\n");
    }
    parse("bench.toml", &text).unwrap_or_else(|problems| panic!("{:?}", problems.first())).config
}

fn facts() -> Facts {
    let eth0 = Interface { index: 2, addresses: Vec::new() };
    Facts { interfaces: BTreeMap::from([("eth0".to_owned(), eth0)]), ..Facts::default() }
}

/// Everything, with slots that are there: what a change of the machine costs.
fn all(config: &Config) -> Duration {
    let mut running = Running::new(config);
    let mut facts = facts();
    facts.interfaces.insert("eth1".to_owned(), Interface::default());
    let began = Instant::now();
    running.state.handle_facts(facts);
    let steps = diff(&running.applied, running.state.plan()).steps.len();
    assert_eq!(steps, 0);
    began.elapsed()
}

struct Running {
    state: State,
    applied: Applied,
    is_down: bool,
}

impl Running {
    fn new(config: &Config) -> Self {
        let count = config.services.len() as u32;
        // A pool for each family, and as many ids again as are held.
        let ids = Limits { services: 2 * count, pools: 4 * count, backends: 40 * count };
        let mut running = Self {
            state: State::begun(config.clone(), facts(), Beginning { ids, ..Beginning::default() }),
            applied: Applied::new(2 * limit::SLOTS),
            is_down: false,
        };
        running.apply();
        running
    }

    fn apply(&mut self) -> usize {
        self.state.plan();
        let (scope, desired) = (self.state.take_scope(), self.state.planned());
        let difference = match scope {
            Some(scope) => diff_within(&self.applied, desired, &scope),
            None => diff(&self.applied, desired),
        };
        let steps = difference.steps;
        steps.iter().for_each(|step| self.applied.record(step));
        steps.len()
    }

    fn flap(&mut self) -> Duration {
        self.is_down = !self.is_down;
        let address = "10.0.0.5:8080".parse().expect("an address");
        let key = BackendKey { service: "s0".into(), route: None, address };
        let began = Instant::now();
        let manual = self.is_down.then_some(Manual { is_down: true, until: None });
        assert!(self.state.handle_manual(&key, manual));
        let steps = self.apply();
        let took = began.elapsed();
        assert!((3..=5).contains(&steps), "{steps}");
        took
    }

    fn nothing(&mut self) -> Duration {
        let began = Instant::now();
        assert!(!self.state.is_stale());
        self.state.plan();
        began.elapsed()
    }
}
