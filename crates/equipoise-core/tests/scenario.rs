//! Scenarios: what happens to an instance, told as text, and what is planned and done about it.
//!
//! A file in `scenario/` is a title and sections, taken in order. Events: `facts` (an interface a
//! line: name, index, addresses), `config` (a configuration in TOML), `flows` (the flow table has
//! been read; a line for each backend id that it names), `fails at N` (the N-th step of the next
//! `steps` is refused), `answers` (how backends answer checks from now on; the others answer well), `until T` (time passes,
//! and checks are made), `manual` (an operator's word: a service, a backend, `up`, `down` or `auto`, and for how long), `loads` (live
//! flows by backend id), `names` (what names stand for from now on: a name, for how long, and addresses, or those of SRV records
//! with priority and weight; names that are not there are not known), `drain` (a service, a backend, how long flows may take, and `forced` or nothing; `from ROUTE` behind the
//! service for the pool of a route), `undrain` (so, and `gradual` or nothing), `breaker` (a service, a backend, and `open`, `close` or
//! `reset`), `outcomes` (a service, a backend, how many connections have ended well there, and how many badly). Answers: `dump` (the
//! desired state), `steps` (what leads there from what has been done so far), `health` (what is believed of each backend),
//! `drains` (how far each has got). `UPDATE_EXPECT=1 cargo test` writes the answers anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use equipoise_core::config::breaker::OnTimeout;
use equipoise_core::config::{self, Config};
use equipoise_core::diff::{Applied, Difference, diff};
use equipoise_core::drain::{Pace, Request};
use equipoise_core::dump::dump;
use equipoise_core::facts::{Facts, Interface};
use equipoise_core::health::{Effect, Failure, FailureKind, Manual};
use equipoise_core::id::BackendKey;
use equipoise_core::id::Named;
use equipoise_core::resolve::{self, Answer, Part};
use equipoise_core::state::{State, Turn};
use expect_test::expect_file;

macro_rules! scenarios {
    ($($name:ident)+) => {
        $(#[test] fn $name() { check(stringify!($name)); })+

        #[test]
        fn every_file_is_a_scenario() {
            let names: BTreeSet<String> = [$(stringify!($name)),+].map(String::from).into();
            let files = std::fs::read_dir(folder()).expect("the folder of scenarios");
            let stem = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
            let files = files.filter_map(|file| stem(file.expect("its entries").path()));
            assert_eq!(files.collect::<BTreeSet<_>>(), names);
        }
    };
}

scenarios! {
    address_of_a_name_that_comes_back_is_who_it_was
    address_of_a_name_that_leaves_goes_after_packets_in_flight
    address_that_appears_adds_keys_and_nothing_else
    algorithm_change_keeps_the_slots
    all_backends_down_is_as_if_nothing_were_known
    all_breakers_open_are_as_if_there_were_none
    answer_that_is_much_smaller_takes_half_unless_health_agrees
    backend_of_two_pools_answers_for_its_service
    backend_that_comes_back_after_its_id_has_rested_is_a_new_one
    backend_that_comes_back_has_its_old_id
    backend_that_comes_back_is_of_another_generation
    backend_that_comes_back_while_a_flow_names_it_has_its_old_id
    backend_that_has_left_stays_until_no_flow_names_it
    backend_that_leaves_goes_after_packets_in_flight
    backend_that_leaves_with_a_reset_goes_after_packets_in_flight
    backend_that_leaves_takes_its_drain_with_it
    backends_are_unknown_and_usable_until_a_threshold_says_otherwise
    backup_backends_take_over_when_no_other_is_usable
    breaker_is_of_one_service_and_pool
    breaker_opens_and_closes_by_what_every_check_says
    breaker_that_is_half_open_lets_in_nobody_who_is_down_or_drained
    breaker_turned_by_hand_reaches_the_slots
    check_of_no_kind_is_no_check
    checks_that_change_no_verdict_write_nothing
    connections_that_fail_open_a_breaker_for_longer_each_time
    down_backend_is_of_another_generation_and_its_flows_are_told
    drain_is_of_a_port_and_not_of_an_address
    drain_of_a_route_leaves_other_pools_alone
    drained_backend_stays_out_whatever_its_health_does
    exact_address_wins_over_own_addresses
    failing_backend_loses_its_slots_and_gets_them_back
    families_of_a_service_are_weighed_apart
    flap_touches_the_pools_that_name_the_backend_and_no_other
    hosts_that_are_sources_lead_all_their_addresses
    interface_that_does_not_exist_is_a_note_until_it_appears
    last_backend_drained_serves_on_unless_that_is_forced
    last_backend_that_goes_down_keeps_its_flows
    live_flows_and_health_meet_in_one_weight
    name_beside_a_heavy_backend_keeps_its_share
    name_is_divided_among_its_addresses_beside_others
    name_that_fails_keeps_its_last_addresses
    name_without_an_address_leaves_its_pool_empty
    new_weight_touches_its_pool_alone
    order_of_addresses_writes_nothing
    own_addresses_have_the_ports_that_exact_ones_leave
    policy_change_touches_the_policy_alone
    pool_that_panics_by_none_has_no_backend
    pool_that_panics_falls_back_to_other_backends
    port_goes_before_range_before_all
    priorities_of_service_records_stand_by
    recovery_by_time_is_a_line
    recovery_goes_by_quarters_from_unhealthy
    refused_step_is_taken_by_the_next_try
    reload_keeps_what_is_known
    route_leads_its_sources_to_a_pool_of_their_own
    route_that_changes_touches_its_own_entries_alone
    route_that_leaves_goes_before_its_pool
    second_service_leaves_the_first_untouched
    service_of_both_families_has_a_pool_for_each
    scores_follow_live_flows_of_their_own_backend
    service_that_leaves_goes_before_what_it_led_to
    service_without_a_backend_of_a_family_is_a_note
    tables_of_settings_service_route_and_backend_are_merged
    two_services_with_one_name_each_follow_it
    undrained_backend_gets_its_share_back_by_quarters
    weight_of_zero_keeps_the_backend_and_takes_its_slots
    word_of_an_operator_stands_whatever_checks_say
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenario")
}

fn check(name: &str) {
    let path = folder().join(name).with_extension("txt");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    expect_file![&path].assert_eq(&play(&text));
}

/// The text with the answers that are right.
fn play(text: &str) -> String {
    let mut sections = text.split("\n== ");
    let mut played = sections.next().unwrap_or_default().to_owned();
    let mut story = Story::default();
    for section in sections {
        let (head, body) = section.split_once('\n').unwrap_or((section, ""));
        let body = story.turn(head, body);
        let _ = write!(played, "\n== {head}\n{body}");
    }
    played
}

#[derive(Default)]
struct Story {
    facts: Facts,
    config: Option<Config>,
    state: Option<State>,
    applied: Applied,
    fails: Option<usize>,
    now: Duration,
    bad: BTreeSet<SocketAddr>,
    names: BTreeMap<String, Answer>,
    loads: BTreeMap<u32, u64>,
}

impl Story {
    fn turn(&mut self, head: &str, body: &str) -> String {
        match head.split_whitespace().collect::<Vec<_>>()[..] {
            ["facts"] => self.facts = facts(body),
            ["config"] => self.config = Some(parse(body)),
            ["flows"] => self.flows(body),
            ["fails", "at", step] => self.fails = Some(step.parse().expect("the number of a step")),
            ["answers"] => self.answers(body),
            ["until", time] => self.until(duration(time)),
            ["names"] => self.names = body.lines().filter(|l| !l.is_empty()).map(name).collect(),
            ["manual"] => self.manual(body),
            ["loads"] => self.loads(body),
            ["drain"] => self.drain(body),
            ["undrain"] => self.undrain(body),
            ["breaker"] => self.breaker(body),
            ["outcomes"] => self.outcomes(body),
            ["drains"] => return self.drains(),
            ["health"] => return self.health(),
            ["dump"] => return self.dump(),
            ["steps"] => return self.steps(),
            _ => panic!("no such section: {head}"),
        }
        body.to_owned()
    }

    /// What has been learnt goes to the state when it is asked.
    fn state(&mut self) -> &mut State {
        let facts = self.facts.clone();
        if let Some(state) = &mut self.state {
            if let Some(config) = self.config.take() {
                state.handle_config(config);
            }
            state.handle_facts(facts);
        } else {
            let config = self.config.take().expect("a configuration before an answer");
            self.state = Some(State::new(config, facts));
        }
        self.state.as_mut().expect("it is there by now")
    }

    fn flows(&mut self, body: &str) {
        let backends = body.lines().filter(|line| !line.is_empty());
        let backends = backends.map(|id| id.parse().expect("a backend id")).collect();
        let state = self.state();
        if let Some(mark) = state.resting() {
            state.handle_named(mark, &Named { services: BTreeSet::new(), backends });
        }
    }

    fn answers(&mut self, body: &str) {
        for line in body.lines().filter(|line| !line.is_empty()) {
            let (address, answer) = line.split_once(' ').expect("an address and its answer");
            let address = address.parse().expect("an address and a port");
            match answer {
                "bad" => self.bad.insert(address),
                "good" => self.bad.remove(&address),
                _ => panic!("an answer is good or bad: {line}"),
            };
        }
    }

    /// Each check and each look-up is answered at once.
    fn until(&mut self, end: Duration) {
        const TICK: Duration = Duration::from_millis(100);
        let (bad, names) = (self.bad.clone(), self.names.clone());
        let (mut now, state) = (self.now, self.state());
        while now < end {
            now += TICK;
            state.handle_time(now);
            while let Some(effect) = state.poll_look_up() {
                let resolve::Effect::LookUp { id, name, .. } = effect else { continue };
                let unknown = || resolve::Failure {
                    kind: resolve::FailureKind::UnknownHost,
                    message: format!("there is no name {name}"),
                };
                let answer = names.get(name.text()).cloned().ok_or_else(unknown);
                state.handle_answer(id, answer);
            }
            if state.has_new_places() {
                state.take_places();
            }
            while let Some(effect) = state.poll_effect() {
                let Effect::Probe { probe, address, .. } = effect else { continue };
                let outcome = if bad.contains(&address) {
                    Err(Failure::new(FailureKind::ConnectionRefused, "connection refused"))
                } else {
                    Ok(Duration::from_millis(1))
                };
                state.handle_probe(probe, outcome);
            }
        }
        self.now = now;
    }

    fn manual(&mut self, body: &str) {
        let now = self.now;
        for line in body.lines().filter(|line| !line.is_empty()) {
            let words: Vec<_> = line.split_whitespace().collect();
            let [service, address, word, length @ ..] = &words[..] else {
                panic!("a service, a backend and a word: {line}");
            };
            let address = address.parse().expect("an address and a port");
            let key = BackendKey { service: (*service).into(), route: None, address };
            let until = length.first().map(|length| now + duration(length));
            let manual = match *word {
                "auto" => None,
                word => Some(Manual { is_down: word == "down", until }),
            };
            assert!(self.state().handle_manual(&key, manual), "no such backend: {line}");
        }
    }

    fn loads(&mut self, body: &str) {
        let load = |line: &str| {
            let (id, flows) = line.split_once(' ').expect("an id and its flows");
            (id.parse().expect("a backend id"), flows.parse().expect("a number of flows"))
        };
        let loads: BTreeMap<u32, u64> =
            body.lines().filter(|line| !line.is_empty()).map(load).collect();
        let state = self.state();
        for (key, id) in state.holders(|_| true) {
            state.handle_drained_flows(&key, loads.get(&id).copied().unwrap_or_default());
        }
        self.loads = loads.clone();
        self.state().handle_loads(loads);
    }

    fn drain(&mut self, body: &str) {
        for (key, words) in named(body) {
            let [timeout, words @ ..] = &words[..] else { panic!("how long flows may take") };
            let request = Request {
                timeout: duration(timeout),
                on_timeout: OnTimeout::Keep,
                is_forced: words == ["forced"],
            };
            let loads = self.loads.clone();
            let state = self.state();
            let flows = state.backend_id(&key).and_then(|id| loads.get(&id)).copied();
            let drained = state.handle_drain(&key, request, flows.unwrap_or_default());
            drained.expect("it is not drained already");
        }
    }

    fn undrain(&mut self, body: &str) {
        for (key, words) in named(body) {
            let pace = if words == ["gradual"] { Pace::Gradual } else { Pace::AtOnce };
            self.state().handle_undrain(&key, pace).expect("it is drained");
        }
    }

    fn breaker(&mut self, body: &str) {
        for (key, words) in named(body) {
            let turn = match words[..] {
                ["open"] => Turn::Open,
                ["close"] => Turn::Close,
                ["reset"] => Turn::Reset,
                _ => panic!("a breaker is opened, closed or reset"),
            };
            self.state().handle_breaker(&key, turn).expect("it has a breaker");
        }
    }

    fn outcomes(&mut self, body: &str) {
        for (key, words) in named(body) {
            let [good, bad] = &words[..] else { panic!("how many good and bad ones") };
            let outcomes = (good.parse().expect("a number"), bad.parse().expect("a number"));
            self.state().handle_outcomes(&key, outcomes);
        }
    }

    fn drains(&mut self) -> String {
        let mut text = String::new();
        for (key, drain) in self.state().drains().iter() {
            let (name, address, status) = (&key.service, key.address, drain.status.name());
            let route = key.route.as_deref().map(|route| format!(" from {route}"));
            let route = route.unwrap_or_default();
            let (flows, first) = (drain.flows, drain.initial_flows);
            let _ = writeln!(text, "{name}{route} {address}: {status}, {flows} of {first} flows");
        }
        if text.is_empty() { "none\n".to_owned() } else { text }
    }

    fn health(&mut self) -> String {
        let mut text = String::new();
        let state = self.state();
        state.plan();
        for service in state.services() {
            for pool in &service.pools {
                let route = pool.pool.route.map(|route| format!(" from {}", route.name()));
                for backend in &pool.backends {
                    let (name, weight) = (&service.service.name, backend.effective_weight);
                    let (address, health) = (backend.address, backend.health);
                    let route = route.as_deref().unwrap_or_default();
                    let _ = write!(text, "{name}{route} {address}: {health}, weight {weight}");
                    if backend.breaker != "closed" {
                        let _ = write!(text, ", breaker {}", backend.breaker);
                    }
                    text.push_str(if backend.is_drained { ", drained\n" } else { "\n" });
                }
            }
        }
        text
    }

    fn dump(&mut self) -> String {
        let facts = self.facts.clone();
        dump(self.state().plan(), &facts)
    }

    fn steps(&mut self) -> String {
        let desired = self.state().plan().clone();
        let Difference { steps, unplaced } = diff(&self.applied, &desired);
        let mut text = String::new();
        let fails = self.fails.take();
        for (number, step) in (1..).zip(&steps) {
            if fails == Some(number) {
                let _ = writeln!(text, "{step}: refused");
                return text;
            }
            let _ = writeln!(text, "{step}");
            self.applied.record(step);
        }
        for unplaced in unplaced {
            let _ = writeln!(text, "{unplaced}");
        }
        if steps.is_empty() { "none\n".to_owned() } else { text }
    }
}

/// A name, for how long it may be believed, and what it stands for: addresses, or `ADDRESS:PORT/PRIORITY/WEIGHT`.
fn name(line: &str) -> (String, Answer) {
    let mut words = line.split_whitespace();
    let (Some(name), Some(ttl)) = (words.next(), words.next()) else {
        panic!("a name, a time and addresses: {line}");
    };
    let place = |word: &str| match word.split('/').collect::<Vec<_>>()[..] {
        [address] => (SocketAddr::new(address.parse().expect("an address"), 0), Part::default()),
        [place, priority, weight] => {
            let (priority, weight) = (priority.parse(), weight.parse());
            let part =
                Part { priority: priority.expect("a priority"), weight: weight.expect("a weight") };
            (place.parse().expect("an address and a port"), part)
        }
        _ => panic!("no place: {word}"),
    };
    let answer =
        Answer { places: words.map(place).collect(), ttl: Some(duration(ttl)), lacks: None };
    (name.to_owned(), answer)
}

/// Lines that begin with a backend, and what else they say.
fn named(body: &str) -> Vec<(BackendKey, Vec<&str>)> {
    let line = |line| {
        let words: Vec<&str> = str::split_whitespace(line).collect();
        let (service, route, words) = match &words[..] {
            [service, "from", route, words @ ..] => (*service, Some(*route), words),
            [service, words @ ..] => (*service, None, words),
            [] => panic!("a service and a backend: {line}"),
        };
        let [address, words @ ..] = words else { panic!("a backend: {line}") };
        let address = address.parse().expect("an address and a port");
        (
            BackendKey { service: service.into(), route: route.map(Into::into), address },
            words.to_vec(),
        )
    };
    body.lines().filter(|line| !line.is_empty()).map(line).collect()
}

fn duration(text: &str) -> Duration {
    let seconds = text.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.expect("seconds"))
}

fn facts(body: &str) -> Facts {
    let mut interfaces = BTreeMap::new();
    for line in body.lines().filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace();
        let (Some(name), Some(index)) = (words.next(), words.next()) else {
            panic!("an interface has a name and an index: {line}");
        };
        let addresses = words.map(|word| word.parse().expect("an address")).collect();
        let index = index.parse().expect("an index");
        interfaces.insert(name.to_owned(), Interface { index, addresses });
    }
    Facts { interfaces, ..Facts::default() }
}

fn parse(body: &str) -> Config {
    match config::parse("scenario.toml", body) {
        Ok(checked) => checked.config,
        Err(problems) => panic!("{problems:?}\nin\n{body}"),
    }
}
