//! An instance to which things happen, told as text.

mod read;
mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use equipoise_core::config::breaker::OnTimeout;
use equipoise_core::config::{Config, Name};
use equipoise_core::diff::{Applied, Difference, diff};
use equipoise_core::drain::{AlreadyDrained, Pace, Request, Status};
use equipoise_core::dump::dump;
use equipoise_core::facts::Facts;
use equipoise_core::health::{Effect, Manual};
use equipoise_core::id::{BackendKey, Named};
use equipoise_core::resolve::{self, Failure, FailureKind};
use equipoise_core::state::{Beginning, State, Turn};

use read::{Heard, Says, duration, facts, heard, name, named, parse};

/// The text with the answers that are right.
pub(crate) fn play(text: &str) -> String {
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
    heard: BTreeMap<SocketAddr, Heard>,
    names: BTreeMap<String, Says>,
    loads: BTreeMap<u32, u64>,
    told: Vec<String>,
    ordered: Vec<String>,
}

impl Story {
    fn turn(&mut self, head: &str, body: &str) -> String {
        match head.split_whitespace().collect::<Vec<_>>()[..] {
            ["facts"] => self.facts = facts(body),
            ["config"] => self.config = Some(parse(body)),
            ["flows"] => self.flows(body),
            ["fails", "at", step] => self.fails = Some(step.parse().expect("the number of a step")),
            ["answers"] => self.heard.extend(body.lines().filter(|l| !l.is_empty()).map(heard)),
            ["until", time] => self.until(duration(time)),
            ["names"] => self.names = body.lines().filter(|l| !l.is_empty()).map(name).collect(),
            ["check", "now"] => self.check_now(body),
            ["refresh"] => self.refresh(body),
            ["restart"] => self.restart(),
            ["manual"] => self.manual(body),
            ["loads"] => self.loads(body),
            ["drain"] => self.drain(body),
            ["undrain"] => self.undrain(body),
            ["breaker"] => self.breaker(body),
            ["outcomes"] => self.outcomes(body),
            ["drains"] => return shown::drains(self.state()),
            ["health"] => return shown::health(self.state()),
            ["checks"] => return shown::checks(self.state()),
            ["breakers"] => return shown::breakers(self.now, self.state()),
            ["known"] => return shown::known(self.now, self.state()),
            ["told"] => return lines(&std::mem::take(&mut self.told)),
            ["ordered"] => return lines(&std::mem::take(&mut self.ordered)),
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
                let cancelled = state.handle_config(config);
                self.tell_cancelled(cancelled);
                return self.state();
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

    /// Each check and each look-up is answered at once, unless it is not at all.
    fn until(&mut self, end: Duration) {
        const TICK: Duration = Duration::from_millis(100);
        while self.now < end {
            self.now += TICK;
            let now = self.now;
            let passed = self.state().handle_time(now);
            for key in passed.words {
                self.tell(&format!("{}: the word about it has run out", shown::named(&key)));
            }
            for (key, change) in passed.breakers {
                self.tell(&shown::turned(&key, &change));
            }
            self.work();
        }
    }

    /// Has everything done that is to be done by now.
    fn work(&mut self) {
        while let Some(effect) = self.state().poll_look_up() {
            let (id, name) = match effect {
                resolve::Effect::LookUp { id, name, .. } => (id, name),
                resolve::Effect::Cancel { .. } => {
                    self.order("a look-up is given up");
                    continue;
                }
            };
            self.order(&format!("look up {name}"));
            let unknown = || Failure {
                kind: FailureKind::UnknownHost,
                message: format!("there is no name {name}"),
            };
            let answer = match self.names.get(name.text()) {
                Some(Says::Silent) => continue,
                Some(Says::Fails(kind)) => {
                    Err(Failure { kind: *kind, message: "so it is".to_owned() })
                }
                Some(Says::Stands(answer)) => Ok(answer.clone()),
                None => Err(unknown()),
            };
            if let Some(told) = self.state().handle_answer(id, answer) {
                self.told.extend(shown::answered(&told).map(|told| self.dated(&told)));
            }
        }
        if self.state().has_new_places() {
            let cancelled = self.state().take_places();
            self.tell_cancelled(cancelled);
        }
        while let Some(effect) = self.state().poll_effect() {
            let (probe, address, check) = match effect {
                Effect::Probe { probe, address, check, .. } => (probe, address, check),
                Effect::Cancel { .. } => {
                    self.order("checks of one are given up");
                    continue;
                }
            };
            self.order(&format!("{} {address}", shown::question(&check.question)));
            let outcome = match self.heard.get(&address) {
                Some(Heard::Silent) => continue,
                Some(Heard::Bad(failure)) => Err(failure.clone()),
                Some(Heard::Good) | None => Ok(Duration::from_millis(1)),
            };
            let probed = self.state().handle_probe(probe, outcome);
            for line in probed.health.iter().flat_map(shown::changed) {
                self.tell(&line);
            }
            for (key, change) in &probed.breakers {
                self.tell(&shown::turned(key, change));
            }
        }
    }

    fn dated(&self, what: &str) -> String {
        format!("{:?} {what}", self.now)
    }

    fn tell(&mut self, what: &str) {
        self.told.push(self.dated(what));
    }

    fn order(&mut self, what: &str) {
        self.ordered.push(self.dated(what));
    }

    fn tell_cancelled(&mut self, cancelled: Vec<BackendKey>) {
        for key in cancelled {
            self.tell(&format!("{}: drain cancelled", shown::named(&key)));
        }
    }

    fn check_now(&mut self, body: &str) {
        for (key, _) in named(body) {
            self.state().check_now(&key).expect("it is checked");
        }
        self.work();
    }

    fn refresh(&mut self, body: &str) {
        for text in body.lines().filter(|line| !line.is_empty()) {
            let is_there = self.state().look_up_now(&Name::Host(text.into()));
            assert!(is_there, "no such name: {text}");
        }
        self.work();
    }

    /// Another process, of which the maps are not those of before.
    fn restart(&mut self) {
        let (now, facts) = (self.now, self.facts.clone());
        let before = self.state();
        let mut next = State::begun(
            before.written().clone(),
            facts,
            Beginning { now, ..Beginning::default() },
        );
        for (name, known) in before.names().iter() {
            next.restore_name(name, known.places().clone());
        }
        next.take_places();
        for (key, drain) in before.drains().iter() {
            assert!(next.restore_drain(key, *drain));
        }
        for (key, word) in before.words().filter(|(_, w)| w.until.is_none_or(|until| until > now)) {
            assert!(next.handle_manual(key, Some(word)));
        }
        for (key, lasting) in before.lasting_health() {
            assert!(next.restore_health(key, lasting));
        }
        for (key, lasting) in before.lasting_breakers() {
            assert!(next.restore_breaker(key, lasting));
        }
        (self.state, self.applied) = (Some(next), Applied::default());
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
        let mut ended = Vec::new();
        for (key, id) in state.holders(|_| true) {
            let flows = loads.get(&id).copied().unwrap_or_default();
            let status = state.handle_drained_flows(&key, flows);
            ended.extend(status.map(|status| (key, status)));
        }
        for (key, status) in ended {
            self.tell(&format!("{}: drain {}", shown::named(&key), status.name()));
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
            let how = match state.handle_drain(&key, request) {
                Err(AlreadyDrained) => "refused: it is drained",
                Ok(()) => {
                    state.plan();
                    let over = state.handle_drain_in_force(&key, flows.unwrap_or_default());
                    over.unwrap_or(Status::Draining).name()
                }
            };
            self.tell(&format!("{}: drain {how}", shown::named(&key)));
        }
    }

    fn undrain(&mut self, body: &str) {
        for (key, words) in named(body) {
            let pace = if words == ["gradual"] { Pace::Gradual } else { Pace::AtOnce };
            let ended = self.state().handle_undrain(&key, pace).expect("it is drained");
            self.tell(&format!("{}: drain {}", shown::named(&key), ended.name()));
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
            let change = self.state().handle_breaker(&key, turn).expect("it has a breaker");
            if let Some(change) = change {
                self.tell(&shown::turned(&key, &change));
            }
        }
    }

    fn outcomes(&mut self, body: &str) {
        for (key, words) in named(body) {
            let [good, bad] = &words[..] else { panic!("how many good and bad ones") };
            let outcomes = (good.parse().expect("a number"), bad.parse().expect("a number"));
            if let Some(change) = self.state().handle_outcomes(&key, outcomes) {
                self.tell(&shown::turned(&key, &change));
            }
        }
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

fn lines(lines: &[String]) -> String {
    if lines.is_empty() { "none\n".to_owned() } else { lines.join("\n") + "\n" }
}
