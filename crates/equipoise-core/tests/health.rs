//! Health as a whole: what tables mean together, and what holds for weights whatever happens to health, drains, breakers and
//! hands, against a small model.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use equipoise_core::breaker;
use equipoise_core::config::breaker::OnTimeout;
use equipoise_core::config::health::{Panic, PanicPolicy, RecoveryMode};
use equipoise_core::config::{Config, Role, parse};
use equipoise_core::diff::{Applied, diff, diff_within};
use equipoise_core::drain::{Pace, Request};
use equipoise_core::facts::{Facts, Interface};
use equipoise_core::health::{Effect, Failure, FailureKind, Manual};
use equipoise_core::id::BackendKey;
use equipoise_core::plan::Note;
use equipoise_core::state::{Beginning, State, Turn};
use equipoise_core::weight::{Belief, Candidate, Drained, Weight, weigh};
use proptest::prelude::*;

#[test]
fn tables_mean_together_what_each_says_nearest() {
    let text = include_str!("config/good/health.toml");
    let config = parse("health.toml", text).unwrap_or_else(|p| panic!("{p:?}")).config;
    let [web, dns] = &config.services[..] else { panic!("two services") };
    let told = |backend: &equipoise_core::config::Backend| {
        let check = backend.health_check.as_ref().map(|check| serde_json::to_value(check).unwrap());
        (backend.role, check.unwrap_or_default())
    };
    let [first, second, third, fourth, fallback] = &web.backends[..] else { panic!("five") };
    let (role, check) = told(first);
    assert_eq!(
        (role, &check["type"], &check["path"]),
        (Role::Regular, &"http".into(), &"/health".into())
    );
    assert_eq!((&check["interval"], &check["timeout"]), (&"1s".into(), &"3s".into()));
    assert_eq!(
        (&check["healthy-threshold"], &check["unhealthy-threshold"]),
        (&2.into(), &2.into())
    );
    assert_eq!(check["expected-codes"], serde_json::json!([200, "300-399"]));
    assert_eq!(check["headers"], serde_json::json!({ "X-Check": "yes" }));
    let (role, check) = told(second);
    assert_eq!(
        (role, &check["path"], &check["timeout"]),
        (Role::Backup, &"/ready".into(), &"500ms".into())
    );
    assert_eq!(check["interval"], "1s");
    assert_eq!(told(third), (Role::Regular, serde_json::Value::Null));
    assert_eq!((&told(fourth).1["type"], &told(fourth).1["port"]), (&"tcp".into(), &9000.into()));
    assert_eq!((fallback.role, fallback.weight), (Role::Fallback, 7));
    assert!(
        Arc::ptr_eq(first.health_check.as_ref().unwrap(), fallback.health_check.as_ref().unwrap())
            || first.health_check == fallback.health_check
    );
    let panic = Panic { threshold: 20, policy: PanicPolicy::Fallback };
    assert_eq!((web.panic, web.recovery.mode), (panic, RecoveryMode::Linear));
    assert_eq!(web.recovery.slow_start, Duration::from_secs(60));

    let route = &web.routes[0].backends;
    assert_eq!((route.len(), route[1].role), (2, Role::Fallback));
    let check = told(&route[0]).1;
    assert_eq!((&check["type"], &check["interval"]), (&"exec".into(), &"1s".into()));
    assert_eq!(check["command"], serde_json::json!(["/usr/local/bin/check", "--fast"]));

    let kinds: Vec<_> = dns.backends.iter().map(|backend| told(backend).1).collect();
    assert_eq!(kinds[0]["query-type"], "AAAA");
    assert_eq!((&kinds[1]["send"], &kinds[1]["expect"]), (&"hex:00ff".into(), &"pong".into()));
    assert_eq!(
        (&kinds[2]["insecure"], &kinds[2]["client-key"]),
        (&true.into(), &"/etc/k.pem".into())
    );
    assert_eq!((&kinds[3]["tls"], &kinds[3]["server-name"]), (&true.into(), &"b.example".into()));
    assert_eq!((&kinds[4]["tls"], &kinds[4]["interval"]), (&false.into(), &"5s".into()));
}

#[test]
fn recovery_panic_and_breaker_are_what_each_table_says_nearest() {
    let text = include_str!("config/good/tables.toml");
    let config = parse("tables.toml", text).unwrap_or_else(|p| panic!("{p:?}")).config;
    let told = |service: usize| -> Vec<_> {
        let pools = config.services[service].pools();
        pools
            .map(|pool| {
                let step_in = pool.backends.iter().filter(|b| b.role == Role::Fallback);
                let step_in: Vec<_> = step_in.map(|b| b.address.ip().to_string()).collect();
                let recovery = (pool.recovery.mode, pool.recovery.slow_start.as_secs());
                (recovery, (pool.panic.threshold, pool.panic.policy), step_in)
            })
            .collect()
    };
    use PanicPolicy::{All, Fallback, None};
    use RecoveryMode::Linear;
    let first = || vec!["10.0.9.1".to_owned()];
    let web = [
        ((Linear, 20), (10, Fallback), first()),
        ((Linear, 20), (10, Fallback), first()),
        ((RecoveryMode::None, 20), (30, Fallback), vec!["10.0.9.2".to_owned()]),
        ((Linear, 20), (10, All), vec![]),
    ];
    assert_eq!(told(0), web);
    let mail = [((Linear, 60), (10, None), vec![]), ((Linear, 60), (10, Fallback), first())];
    assert_eq!(told(1), mail);
    let named: Vec<_> = config.services[0].pools().map(|pool| pool.named.len()).collect();
    assert_eq!(named, [0, 0, 1, 0], "a name steps in too");

    let breakers = config.services.iter().flat_map(equipoise_core::config::Service::pools);
    let breakers = breakers.map(|pool| pool.breaker.expect("the settings have one"));
    let breakers =
        breakers.map(|b| (b.window.as_secs(), b.max_ejected, b.min_requests, b.open_for.as_secs()));
    let (web, mail) = ((10, 20, 4, 30), (10, 20, 10, 30));
    assert_eq!(breakers.collect::<Vec<_>>(), [web, web, (10, 20, 4, 5), web, mail, mail]);

    // What is written whole says the same.
    let written = equipoise_core::config::written(&config).to_string();
    let again = parse("a.json", &written).unwrap_or_else(|p| panic!("{p:?}")).config;
    assert_eq!(again.services, config.services);
}

#[test]
fn backends_without_tables_anywhere_have_no_check_and_an_empty_table_is_tcp() {
    let text = "[[service]]\nname = 'web'\nlisten = { interfaces = ['eth0'], port = 80 }\n\
                backends = [{ address = '10.0.0.1:80' }, { address = '10.0.0.2:80', health-check = {} }]";
    let config = parse("a.toml", text).unwrap().config;
    let [none, tcp] = &config.services[0].backends[..] else { panic!("two") };
    assert_eq!(none.health_check, None);
    let check = tcp.health_check.as_ref().unwrap();
    assert_eq!(check.question.name(), "tcp");
    let seconds = [check.interval, check.timeout, check.fast_interval].map(|time| time.as_secs());
    assert_eq!(seconds, [10, 3, 2]);
    assert_eq!((check.healthy_threshold, check.unhealthy_threshold), (2, 3));
}

const HEALTHY: u32 = 2;
const UNHEALTHY: u32 = 3;

/// What is known of a backend, told once more in other words.
#[derive(Clone, Debug, Default)]
struct Model {
    good: u32,
    bad: u32,
    /// Percent that it has again; none while it is down.
    part: Option<u32>,
    manual: Option<bool>,
    drained: Drained,
    /// What its breaker lets through, of which the model only knows what follows.
    breaker: breaker::State,
}

impl Model {
    fn fresh() -> Self {
        Self { part: Some(100), ..Self::default() }
    }

    fn hear(&mut self, is_good: bool) {
        (self.good, self.bad) = if is_good { (self.good + 1, 0) } else { (0, self.bad + 1) };
        if self.bad >= UNHEALTHY {
            self.part = None;
        } else if is_good {
            self.part = match self.part {
                None if self.good >= HEALTHY => Some(25),
                part => part.map(|part| (part + 25).min(100)),
            };
        }
    }

    /// Whether it may be chosen but for its breaker.
    fn is_usable(&self) -> bool {
        self.part().is_some() && self.drained == Drained::No
    }

    fn part(&self) -> Option<u32> {
        match self.manual {
            Some(true) => None,
            Some(false) => Some(100),
            None => self.part,
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// How a backend answers from now on.
    Answer(usize, bool),
    /// Seconds.
    Pass(u64),
    Manual(usize, Option<bool>),
    Drain(usize, Drained),
    Breaker(usize, Turn),
    /// Connections that have failed.
    Fail(usize, u64),
    /// The same configuration once more.
    Reload,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => (0..5_usize, any::<bool>()).prop_map(|(b, good)| Event::Answer(b, good)),
        4 => (1..6_u64).prop_map(Event::Pass),
        1 => (0..5_usize, any::<Option<bool>>()).prop_map(|(b, word)| Event::Manual(b, word)),
        2 => (0..5_usize, drained()).prop_map(|(b, drained)| Event::Drain(b, drained)),
        1 => (0..5_usize, turn()).prop_map(|(b, turn)| Event::Breaker(b, turn)),
        2 => (0..5_usize, 1..6_u64).prop_map(|(b, failures)| Event::Fail(b, failures)),
        1 => Just(Event::Reload),
    ];
    prop::collection::vec(event, 1..40)
}

fn drained() -> impl Strategy<Value = Drained> {
    prop_oneof![3 => Just(Drained::No), 3 => Just(Drained::Yes), 1 => Just(Drained::Forced)]
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![Just(Turn::Open), Just(Turn::Close), Just(Turn::Reset)]
}

fn state() -> impl Strategy<Value = breaker::State> {
    use breaker::State::{Closed, HalfOpen, Open};
    prop_oneof![2 => Just(Closed), 1 => Just(Open), 1 => Just(HalfOpen)]
}

fn address(number: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number as u8 + 1], 8080))
}

fn config(weights: &[u16], threshold: u8) -> Config {
    let backend =
        |(n, weight): (usize, &u16)| format!("{{ address = '{}', weight = {weight} }}", address(n));
    let backends: Vec<_> = weights.iter().enumerate().map(backend).collect();
    let text = format!(
        "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], address = '203.0.113.10', port = 80 }}\n\
         backends = [{}]\n[service.health-check]\ninterval = '1s'\nhealthy-threshold = {HEALTHY}\n\
         unhealthy-threshold = {UNHEALTHY}\n[service.panic]\nthreshold = {threshold}\n\
         [service.breaker]\nmin-requests = 4\nopen-for = '5s'\nmax-ejected = 100\n",
        backends.join(", ")
    );
    parse("test.toml", &text).unwrap_or_else(|problems| panic!("{problems:?}")).config
}

/// An instance and its model.
struct World {
    state: State,
    applied: Applied,
    now: Duration,
    answers: Vec<bool>,
    models: Vec<Model>,
    weights: Vec<u16>,
    /// Percent at or below which health is ignored.
    threshold: u8,
    /// How often not everything was to be planned.
    narrow: u32,
    /// Whether health was ever ignored: notes come and go with that, which are of the whole.
    has_panicked: bool,
}

impl World {
    fn new(weights: Vec<u16>, threshold: u8, seed: u64) -> Self {
        let eth0 = Interface { index: 2, addresses: Vec::new() };
        let interfaces = BTreeMap::from([("eth0".to_owned(), eth0)]);
        let facts = Facts { interfaces, ..Facts::default() };
        let mut world = Self {
            state: State::begun(
                config(&weights, threshold),
                facts,
                Beginning { seed, ..Beginning::default() },
            ),
            applied: Applied::new(1 << 20),
            now: Duration::ZERO,
            answers: vec![true; weights.len()],
            models: vec![Model::fresh(); weights.len()],
            weights,
            threshold,
            narrow: 0,
            has_panicked: false,
        };
        world.apply();
        world
    }

    /// How many steps there were.
    fn apply(&mut self) -> usize {
        let desired = self.state.plan().clone();
        self.has_panicked |= desired.notes.iter().any(|note| matches!(note, Note::Panic { .. }));
        let steps = diff(&self.applied, &desired).steps;
        // What is planned and done for the changed alone is what is planned and done for all.
        let mut whole = self.state.clone();
        whole.handle_config(self.state.config().clone());
        assert_eq!(*whole.plan(), desired);
        if let Some(scope) = self.state.take_scope() {
            assert_eq!(diff_within(&self.applied, &desired, &scope).steps, steps);
            self.narrow += 1;
        }
        steps.iter().for_each(|step| self.applied.record(step));
        assert!(diff(&self.applied, &desired).steps.is_empty());
        steps.len()
    }

    fn pass(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while self.now < end {
            self.now += Duration::from_millis(100);
            self.state.handle_time(self.now);
            while let Some(effect) = self.state.poll_effect() {
                let Effect::Probe { probe, address: asked, .. } = effect else { continue };
                let number = (0..self.weights.len()).find(|&n| address(n) == asked).unwrap();
                let is_good = self.answers[number];
                self.models[number].hear(is_good);
                let outcome = if is_good {
                    Ok(Duration::ZERO)
                } else {
                    Err(Failure::new(FailureKind::Timeout, "late"))
                };
                let before = self.expected();
                let was = self.state.is_stale();
                self.state.handle_probe(probe, outcome);
                self.look_at_breakers();
                // Whatever came before, the state is as stale as the model's weights are other ones.
                assert!(was || before == self.expected() || self.state.is_stale());
            }
            self.look_at_breakers();
        }
    }

    fn key(&self, number: usize) -> BackendKey {
        let address = address(number % self.weights.len());
        BackendKey { service: "web".into(), route: None, address }
    }

    /// When breakers open and close is for tests of their own.
    fn look_at_breakers(&mut self) {
        for number in 0..self.weights.len() {
            let standing = self.state.breaker(&self.key(number)).unwrap();
            self.models[number].breaker = standing.state;
        }
    }

    fn drain(&mut self, number: usize, drained: Drained) {
        let key = self.key(number);
        self.state.handle_undrain(&key, Pace::AtOnce);
        if drained != Drained::No {
            let timeout = Duration::from_secs(30);
            let is_forced = drained == Drained::Forced;
            let request = Request { timeout, on_timeout: OnTimeout::Keep, is_forced };
            self.state.handle_drain(&key, request).unwrap();
        }
        let number = number % self.weights.len();
        self.models[number].drained = drained;
    }

    fn turn(&mut self, number: usize, turn: Turn) {
        self.state.handle_breaker(&self.key(number), turn).unwrap();
        self.look_at_breakers();
    }

    fn fail(&mut self, number: usize, failures: u64) {
        self.state.handle_outcomes(&self.key(number), (0, failures));
        self.look_at_breakers();
    }

    fn manual(&mut self, number: usize, word: Option<bool>) {
        let number = number % self.weights.len();
        self.models[number].manual = word;
        let key = BackendKey { service: "web".into(), route: None, address: address(number) };
        let manual = word.map(|is_down| Manual { is_down, until: None });
        assert!(self.state.handle_manual(&key, manual));
    }

    /// Those that have a weight.
    fn weighed(&self) -> impl Iterator<Item = &Model> {
        self.models.iter().zip(&self.weights).filter(|(_, weight)| **weight > 0).map(|(m, _)| m)
    }

    /// Whether breakers are asked: somebody who is usable is let through by one.
    fn asks_breakers(&self) -> bool {
        self.weighed().any(|model| model.is_usable() && model.breaker != breaker::State::Open)
    }

    fn is_in(&self, model: &Model) -> bool {
        model.is_usable() && !(self.asks_breakers() && model.breaker == breaker::State::Open)
    }

    /// The weights that the model gives.
    fn expected(&self) -> Vec<f64> {
        let are_in = self.weighed().filter(|model| self.is_in(model)).count();
        let all = self.weighed().filter(|model| model.drained == Drained::No).count();
        let panics = are_in == 0 || are_in * 100 <= usize::from(self.threshold) * all;
        let percent = |model: &Model| {
            let is_open = self.asks_breakers() && model.breaker == breaker::State::Open;
            let is_half = self.asks_breakers() && model.breaker == breaker::State::HalfOpen;
            match model.drained {
                Drained::Forced => 0,
                _ if panics && are_in == 0 => 100,
                Drained::Yes => 0,
                Drained::No if is_open => 0,
                Drained::No if panics && is_half => 10,
                Drained::No if panics => 100,
                Drained::No => model.part().unwrap_or(0).min(if is_half { 10 } else { 100 }),
            }
        };
        let weight = |(model, weight): (&Model, &u16)| {
            f64::from(*weight) * f64::from(percent(model)) / 100.0
        };
        self.models.iter().zip(&self.weights).map(weight).collect()
    }

    /// Who is drained, or whose breaker is open, gets nothing unless all are out.
    fn check_who_is_out(&mut self) {
        let any_in = self.weighed().any(|model| self.is_in(model));
        let effective = self.effective();
        for (model, weight) in self.models.iter().zip(effective) {
            let is_out = model.drained != Drained::No
                || model.breaker == breaker::State::Open && self.asks_breakers();
            assert!(!any_in || !is_out || weight == 0.0, "{model:?}");
            assert!(model.drained != Drained::Forced || weight == 0.0);
        }
    }

    fn effective(&mut self) -> Vec<f64> {
        self.state.plan();
        let services = self.state.services();
        services[0].backends().map(|backend| backend.effective_weight.value()).collect()
    }
}

/// Whether weights are the same but for their last bits: a tenth has no end in them.
fn are_alike(one: &[f64], other: &[f64]) -> bool {
    let mut pairs = one.iter().zip(other);
    one.len() == other.len()
        && pairs.all(|(a, b)| (a - b).abs() < 1e-3 && (*a == 0.0) == (*b == 0.0))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn weights_are_those_of_the_model_and_a_heal_restores_exactly_what_was_configured(
        weights in prop::collection::vec(0..100_u16, 2..5), threshold in prop_oneof![Just(0_u8), 0..=99_u8],
        events in events(), seed in any::<u64>(),
    ) {
        prop_assume!(weights.iter().any(|weight| *weight > 0));
        let mut world = World::new(weights.clone(), threshold, seed);
        let slots = world.state.planned().pools[&0].slots.clone();
        for event in events {
            match event {
                Event::Answer(number, good) => world.answers[number % weights.len()] = good,
                Event::Pass(seconds) => world.pass(seconds),
                Event::Manual(number, word) => world.manual(number, word),
                Event::Drain(number, drained) => world.drain(number, drained),
                Event::Breaker(number, turn) => world.turn(number, turn),
                Event::Fail(number, failures) => world.fail(number, failures),
                Event::Reload => {
                    world.apply();
                    world.state.handle_config(config(&weights, threshold));
                    prop_assert_eq!(world.apply(), 0, "a reload without a change writes nothing");
                }
            }
            let (effective, expected) = (world.effective(), world.expected());
            prop_assert!(are_alike(&effective, &expected), "{:?} for {:?}", effective, expected);
            world.check_who_is_out();
            let before = world.state.planned().clone();
            world.apply();
            // Answers that change nothing plan nothing.
            prop_assert!(!world.state.is_stale());
            prop_assert_eq!(world.state.plan(), &before);
        }
        world.answers.fill(true);
        for number in 0..weights.len() {
            world.manual(number, None);
            world.drain(number, Drained::No);
            world.turn(number, Turn::Reset);
        }
        // Long enough for what has failed before to count no more, and for checks to have found that all is well.
        world.pass(15);
        (0..weights.len()).for_each(|number| world.turn(number, Turn::Reset));
        let configured: Vec<_> = weights.iter().map(|weight| f64::from(*weight)).collect();
        prop_assert_eq!(world.effective(), configured);
        world.apply();
        prop_assert_eq!(&world.state.planned().pools[&0].slots, &slots);
        prop_assert!(world.narrow > 0 || world.has_panicked);
    }

    #[test]
    fn more_belief_in_a_backend_is_never_less_of_a_share(
        candidates in prop::collection::vec(candidate(), 1..6), at in any::<prop::sample::Index>(), better in 1..=100_u8,
    ) {
        let share = |candidates: &[Candidate], at: usize| {
            let weights = weigh(candidates, Panic::default()).weights;
            let sum: f64 = weights.iter().map(|weight| weight.value()).sum();
            if sum == 0.0 { 0.0 } else { weights[at].value() / sum }
        };
        let at = at.index(candidates.len());
        prop_assume!(candidates[at].role == Role::Regular);
        let before = share(&candidates, at);
        let belief = candidates[at].belief;
        let healthier = Belief { is_down: false, recovered: belief.recovered.max(better), ..belief };
        let lets_more = match belief.breaker {
            breaker::State::Open => breaker::State::HalfOpen,
            breaker::State::HalfOpen | breaker::State::Closed => breaker::State::Closed,
        };
        let betters = [
            healthier,
            Belief { drained: Drained::No, ..belief },
            Belief { breaker: breaker::State::Closed, ..belief },
            Belief { breaker: lets_more, drained: Drained::No, ..healthier },
        ];
        for better in betters {
            let mut after = candidates.clone();
            after[at].belief = better;
            prop_assert!(share(&after, at) >= before - 1e-9, "{better:?}");
        }
    }

    #[test]
    fn who_is_down_gets_nothing_unless_all_are(
        candidates in prop::collection::vec(candidate(), 1..6), threshold in 0..=99_u8, policy in 0..3_u8,
    ) {
        let policy = [PanicPolicy::All, PanicPolicy::None, PanicPolicy::Fallback][usize::from(policy)];
        let weighed = weigh(&candidates, Panic { threshold, policy });
        for (candidate, weight) in candidates.iter().zip(&weighed.weights) {
            let is_chosen = weight.parts() > 0;
            prop_assert!(!is_chosen || !candidate.belief.is_down || weighed.panics);
            prop_assert!(*weight <= candidate.weight);
            prop_assert!(candidate.role != Role::Fallback || !is_chosen || weighed.panics);
        }
        let is_usable = |c: &&Candidate| {
            let Belief { is_down, drained, .. } = c.belief;
            c.weight.parts() > 0 && !is_down && drained == Drained::No && c.role == Role::Regular
        };
        if threshold == 0 && candidates.iter().any(|c| is_usable(&c)) {
            prop_assert!(!weighed.panics);
        }
        let mut usable = candidates.iter().filter(is_usable);
        if threshold == 0 && usable.any(|c| c.belief.breaker != breaker::State::Open) {
            let backups = candidates.iter().zip(&weighed.weights).filter(|(c, _)| c.role == Role::Backup);
            prop_assert!(backups.into_iter().all(|(_, weight)| weight.parts() == 0));
        }
    }
}

fn candidate() -> impl Strategy<Value = Candidate> {
    let role =
        prop_oneof![4 => Just(Role::Regular), 1 => Just(Role::Backup), 1 => Just(Role::Fallback)];
    let belief = (any::<bool>(), 1..=100_u8, drained(), state());
    let role = (role, 0..3_u16);
    (0..50_u16, role, belief).prop_map(|(weight, role, (is_down, recovered, drained, breaker))| {
        let belief = Belief { is_down, recovered, drained, breaker, ..Belief::default() };
        let (role, rank) = role;
        Candidate { weight: Weight::configured(weight), role, rank, belief }
    })
}
