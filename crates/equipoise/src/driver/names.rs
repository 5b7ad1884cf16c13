//! Names in the loop: what is due is looked up, and what names stand for becomes backends.
//!
//! Answers that are ready together make one change. The machine is read before a change is taken that has new addresses,
//! since the ways to them are a part of the plan. A configuration with names that have never been looked up waits for their
//! first answers, and the one before is in force until then: no pool is empty for the time that an answer takes.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use equipoise_core::config::{Config, Name, OnFirstFailure, Route, target};
use equipoise_core::facts::Facts;
use equipoise_core::id::DEFAULT_ROUTE;
use equipoise_core::resolve::{Answer, Failure, LookUpId, Places, Resolved, Told};
use equipoise_core::state::State;
use tokio::time::{Instant, timeout_at};

use super::counts::count;
use super::keep::Kept;
use super::{Driver, StartError};
use crate::admin::{Configure, ProblemDetails, Reply};
use crate::dataplane::DataPlane;
use crate::events::{Event, Kind};
use crate::host::Machine;
use crate::known::there_are;
use crate::resolver::{Answers, Resolver};
use crate::status::change::{ReloadAnswer, ReloadRequest};
use crate::status::history::Author;
use crate::status::names::{NameError, NameStatus, NameUser, PlaceStatus};

/// First answers are waited for as long as this where they may be missing; then it goes on without.
const FIRST_ANSWERS: Duration = Duration::from_secs(3);

/// Somebody who waits for answers.
#[derive(Debug)]
pub(super) struct Asking {
    /// Names whose answers are not in.
    names: BTreeSet<Name>,
    /// All that are asked for.
    all: Vec<Name>,
    reply: Reply<Vec<NameStatus>>,
}

/// A reload that waits for first answers.
#[derive(Debug)]
pub(super) struct Awaiting {
    request: ReloadRequest,
    by: Author,
    reply: Option<Reply<ReloadAnswer>>,
    /// When it goes on without those that have not come, if it may.
    until: Instant,
}

/// Whether names of a configuration may be taken.
enum FirstAnswers {
    /// All are in, or need not be.
    In,
    /// They are waited for.
    Awaited,
    /// One has failed, and must not.
    Failed(String),
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// A look-up has ended.
    pub(super) fn take_answer(&mut self, id: LookUpId, answer: Result<Answer, Failure>) {
        self.tell_time();
        count(&mut self.counted.look_ups, if answer.is_ok() { "success" } else { "failure" });
        let names = self.state.names();
        let before = names.looked_up(id).and_then(|name| names.places(name)).cloned();
        let Some(told) = self.state.handle_answer(id, answer) else { return };
        self.tell_name(&told, before.as_ref());
        for asking in &mut self.asking {
            asking.names.remove(&told.name);
        }
        if !self.awaiting.is_empty() {
            self.due.names = Some(Instant::now());
        }
    }

    /// Tells who follows what is known of a name now, for each pool that has it.
    fn tell_name(&mut self, told: &Told, before: Option<&Places>) {
        let Told { name, changed, failure } = told;
        let shown = |places: Option<&Places>| {
            let kept = BTreeSet::new();
            let places = places.map(|places| addresses(name, places, &kept)).unwrap_or_default();
            let places: Vec<_> = places.into_iter().map(|place| place.address).collect();
            format!("[{}]", places.join(", "))
        };
        let (from, to) = (shown(before), shown(self.state.names().places(name)));
        let event = match (changed, failure) {
            (Some(changed), _) => {
                let event = Event::new(Kind::NameResolved).from(&from).to(&to);
                match changed.kept.len() {
                    0 => event,
                    kept => event.because(format!("{kept} stay that the answer does not have")),
                }
            }
            (None, Some(failure)) => {
                let why = format!("{}: {}", failure.kind.name(), failure.message);
                Event::new(Kind::NameFailed).to(&to).because(why)
            }
            (None, None) => return,
        };
        for NameUser { service, route, backend, .. } in users(self.state.written(), name) {
            let named = backend.unwrap_or_else(|| name.to_string());
            self.tell(event.clone().of(&service, &route).about_name(&named));
        }
    }

    /// Has names looked up that are due, and takes what they stand for.
    pub(super) async fn follow_names(&mut self, now: Instant) {
        self.tell_time();
        while let Some(effect) = self.state.poll_look_up() {
            self.resolver.order(effect);
        }
        if self.state.has_new_places() {
            self.take_places(now).await;
        }
        self.answer_asking();
        if self.due.names.is_some_and(|at| at <= now) {
            self.due.names = None;
            self.go_on_reloading().await;
        }
    }

    /// Has the file read again, when the names that are new in it have been looked up; whoever has asked is answered then.
    pub(super) async fn begin_reload(
        &mut self,
        request: ReloadRequest,
        by: Author,
        reply: Option<Reply<ReloadAnswer>>,
    ) {
        let until = Instant::now() + FIRST_ANSWERS;
        self.awaiting.push_back(Awaiting { request, by, reply, until });
        if self.awaiting.len() == 1 {
            self.go_on_reloading().await;
        }
    }

    /// Takes what is to be taken, one after the other, as far as names have been looked up.
    async fn go_on_reloading(&mut self) {
        while let Some(first) = self.awaiting.front() {
            let (request, by, until) = (first.request.clone(), first.by.clone(), first.until);
            let answers = self.first_answers(&request, until);
            let taken = match answers {
                FirstAnswers::In => self.configure(&Configure::Reload(request), by).await,
                FirstAnswers::Awaited => {
                    let wake = self.due.names.map_or(until, |at| at.min(until));
                    self.due.names = Some(wake).filter(|wake| *wake > Instant::now());
                    return;
                }
                FirstAnswers::Failed(reason) => self.refuse_reload(request, by, reason),
            };
            self.state.forget_prepared();
            let first = self.awaiting.pop_front();
            // Whoever asked may be gone.
            if let Some(reply) = first.and_then(|first| first.reply) {
                drop(reply.send(taken));
            }
        }
    }

    /// Takes what names stand for, with a look at the machine where that has new addresses.
    async fn take_places(&mut self, now: Instant) {
        let expanded = self.state.expanded(self.state.written());
        let targets = self.targets(&expanded);
        if !targets.iter().all(|target| self.reading.ways.contains_key(target)) {
            if now < self.due.not_before {
                // Reading takes at most a tenth of the time, whatever names do.
                let wake =
                    self.due.names.map_or(self.due.not_before, |at| at.min(self.due.not_before));
                self.due.names = Some(wake);
                return;
            }
            self.read_ways(&targets).await;
        }
        let drains = self.drains();
        let cancelled = self.state.take_places();
        self.end_drains(&cancelled, &drains);
        self.forget_passive();
        self.save();
        self.due.settle = true;
    }

    /// Whether a file may be taken, as far as its names matter.
    fn first_answers(&mut self, request: &ReloadRequest, until: Instant) -> FirstAnswers {
        // Not at each answer: a file of many names would be read as often.
        if !self.state.names().are_prepared() && Instant::now() < until {
            return FirstAnswers::Awaited;
        }
        let written = self.read_file(request);
        let changed = written.ok().and_then(|(_, mut w)| w.base.check(&w.changes).ok());
        // What is wrong with it is told by who takes it.
        let Some(changed) = changed else { return FirstAnswers::In };
        let config = changed.checked.config;
        self.tell_time();
        let may_be_missing = config.settings.dns.on_first_failure == OnFirstFailure::Start;
        if !self.state.prepare_names(&config) {
            while let Some(effect) = self.state.poll_look_up() {
                self.resolver.order(effect);
            }
            let is_late = may_be_missing && until <= Instant::now();
            return if is_late { FirstAnswers::In } else { FirstAnswers::Awaited };
        }
        if may_be_missing {
            return FirstAnswers::In;
        }
        match self.state.names().lacking().next() {
            None => FirstAnswers::In,
            Some((name, failure)) => FirstAnswers::Failed(first_failure(name, failure)),
        }
    }

    /// What is wrong with names: those that stand for nothing.
    pub(super) fn name_reasons(&self) -> impl Iterator<Item = String> {
        let unknown = self.state.names().iter().filter(|(_, known)| known.places().is_empty());
        unknown.filter_map(|(name, known)| {
            let (failures, failure) = known.failures();
            (failures > 0).then(|| first_failure(name, failure))
        })
    }

    /// What is good to know of names: those that cannot be looked up now, and places that are no backends.
    pub(super) fn name_notes(&self) -> impl Iterator<Item = String> {
        let known = self.state.names().iter().filter(|(_, known)| !known.places().is_empty());
        let failing = known.filter_map(|(name, known)| {
            let (failures, failure) = known.failures();
            let failure = failure?;
            Some(match failures {
                0 => format!("{name}: not all is known of it: {}", failure.message),
                _ => format!(
                    "{name}: as last known, since it cannot be looked up: {}",
                    failure.message
                ),
            })
        });
        failing.chain(self.state.left_out().iter().map(ToString::to_string))
    }

    /// All names.
    pub(super) fn names(&self) -> Vec<NameStatus> {
        self.name_statuses(|_| true)
    }

    /// Has names looked up now; answered when that is done.
    pub(super) fn refresh_names(&mut self, text: &str, reply: Reply<Vec<NameStatus>>) {
        self.tell_time();
        let text = text.to_ascii_lowercase();
        let is_meant = |name: &Name| {
            name.text() == text || named(self.state.written(), name).any(|user| user == text)
        };
        let names = self.state.names().iter().map(|(name, _)| name);
        let all: Vec<_> = names.filter(|name| is_meant(name)).cloned().collect();
        if all.is_empty() {
            let known: Vec<_> = self.state.names().iter().map(|(name, _)| name.text()).collect();
            let help = there_are("names", &text, known.iter().map(|name| &**name));
            let problem = ProblemDetails::not_found(format!("no service has the name {text:?}"));
            let problem = problem.with_help(help);
            // Whoever asked may be gone.
            drop(reply.send(Err(problem)));
            return;
        }
        for name in &all {
            self.state.look_up_now(name);
        }
        self.asking.push(Asking { names: all.iter().cloned().collect(), all, reply });
        self.due.names = Some(Instant::now());
    }

    fn answer_asking(&mut self) {
        // What is told is in force, unless the machine has to be read first.
        if self.state.has_new_places() {
            return;
        }
        let is_done = |asking: &mut Asking| {
            // A reload may have taken them away.
            asking.names.retain(|name| self.state.names().places(name).is_some());
            asking.names.is_empty() || asking.reply.is_closed()
        };
        let done: Vec<_> = self.asking.extract_if(.., is_done).collect();
        if done.is_empty() {
            return;
        }
        if self.due.settle
            && let Err(error) = self.settle_maps()
        {
            tracing::warn!(error, "what names stand for is not in the maps");
        }
        for Asking { all, reply, .. } in done {
            drop(reply.send(Ok(self.name_statuses(|name| all.contains(name)))));
        }
    }

    fn name_statuses(&self, is_wanted: impl Fn(&Name) -> bool) -> Vec<NameStatus> {
        let names = self.state.names().iter().filter(|(name, _)| is_wanted(name));
        names.map(|(name, known)| self.name_status(name, known)).collect()
    }

    fn name_status(&self, name: &Name, known: &Resolved) -> NameStatus {
        let (failures, failure) = known.failures();
        let seconds = |time: Duration| time.as_secs_f64();
        NameStatus {
            name: name.to_string(),
            kind: name.kind().to_owned(),
            addresses: addresses(name, known.places(), known.kept()),
            users: users(self.state.written(), name),
            last_resolved_at: known.answered().map(|(at, _)| self.clock.written(at)),
            ttl_seconds: known.answered().and_then(|(_, ttl)| ttl).map(seconds),
            refresh_seconds: known.settings().refresh.map(seconds),
            next_lookup_seconds: known.due().saturating_sub(self.clock.now()).as_secs_f64(),
            consecutive_failures: failures,
            error: failure.map(error),
        }
    }
}

/// Waits for the first answers about the names of a configuration that is to be begun with, and takes them.
///
/// # Errors
///
/// With why not, when one has failed that must not.
pub(super) async fn look_up_first(
    state: &mut State,
    (resolver, answers): (&Resolver, &mut Answers),
) -> Result<(), String> {
    let config = state.written().clone();
    let may_be_missing = config.settings.dns.on_first_failure == OnFirstFailure::Start;
    let until = Instant::now() + FIRST_ANSWERS;
    while !state.prepare_names(&config) {
        while let Some(effect) = state.poll_look_up() {
            resolver.order(effect);
        }
        let answer = if may_be_missing {
            timeout_at(until, answers.recv()).await.ok().flatten()
        } else {
            answers.recv().await
        };
        let Some((id, answer)) = answer else { break };
        if let Some(told) = state.handle_answer(id, answer) {
            tell(&told, state.names().places(&told.name));
        }
    }
    if !may_be_missing && let Some((name, failure)) = state.names().lacking().next() {
        return Err(first_failure(name, failure));
    }
    state.take_places();
    Ok(())
}

/// Looks up the names of a configuration, for a start that others are not to wait for: names and what they stand for, which is nothing
/// for those that could not be looked up in time.
///
/// # Errors
///
/// When names cannot be looked up; and where one stands for nothing, and that is refused.
pub async fn look_up_before(
    config: &Config,
    state_file: &Path,
) -> Result<Vec<(Name, Places)>, StartError> {
    let mut state = State::new(config.clone(), Facts::default());
    let (resolver, mut answers) = Resolver::start().map_err(StartError::Names)?;
    for (name, places) in Kept::read(state_file).names() {
        state.restore_name(&name, places);
    }
    look_up_first(&mut state, (&resolver, &mut answers)).await.map_err(StartError::Name)?;
    let names = state.names().iter();
    Ok(names.map(|(name, known)| (name.clone(), known.places().clone())).collect())
}

/// The addresses that a name stands for.
pub(crate) fn addresses(
    name: &Name,
    places: &Places,
    kept: &BTreeSet<std::net::SocketAddr>,
) -> Vec<PlaceStatus> {
    let address = |place: &std::net::SocketAddr| match name {
        Name::Host(_) => place.ip().to_string(),
        Name::Srv(_) => target::text(*place),
    };
    let status = |(place, part): (&std::net::SocketAddr, &equipoise_core::resolve::Part)| {
        let (address, kept) = (address(place), kept.contains(place));
        PlaceStatus { address, weight: part.weight, priority: part.priority, kept }
    };
    places.iter().map(status).collect()
}

pub(crate) fn error(failure: &Failure) -> NameError {
    let Failure { kind, message } = failure;
    NameError { kind: kind.name().to_owned(), message: message.clone() }
}

fn first_failure(name: &Name, failure: Option<&Failure>) -> String {
    let why = failure.map_or("there is no answer yet", |failure| &failure.message);
    format!("{} {name} stands for no address: {why}", name.kind())
}

/// As operators name the backends of a name.
fn named(config: &Config, name: &Name) -> impl Iterator<Item = String> {
    let pools = config.services.iter().flat_map(equipoise_core::config::Service::pools);
    let named = pools.flat_map(|pool| pool.named).filter(|named| named.name == *name);
    named.map(|named| named.text())
}

fn users(config: &Config, name: &Name) -> Vec<NameUser> {
    let mut users = Vec::new();
    for service in &config.services {
        for pool in service.pools() {
            let user = |role: &str| NameUser {
                service: service.name.clone(),
                route: pool.route.map_or(DEFAULT_ROUTE, Route::name).to_owned(),
                role: role.to_owned(),
                backend: None,
                weight: None,
            };
            if pool.route.is_some_and(|route| route.source_names.contains(name)) {
                users.push(user("source"));
            }
            for named in pool.named.iter().filter(|named| named.name == *name) {
                let (backend, weight) = (Some(named.text()), Some(named.weight));
                users.push(NameUser { backend, weight, ..user("backend") });
            }
        }
    }
    users
}

/// Says in the log what is known of a name before anybody can follow.
fn tell(told: &Told, places: Option<&Places>) {
    let (name, known) = (told.name.text(), places.map_or(0, Places::len));
    match &told.failure {
        Some(Failure { kind, message }) => {
            tracing::warn!(name, known, kind = kind.name(), error = message, "looked up in vain");
        }
        None => tracing::info!(name, known, "looked up"),
    }
}
