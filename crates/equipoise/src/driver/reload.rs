//! Another configuration for a running instance, by the same plan and the same steps.
//!
//! A file that is bad in itself, on this machine, or in what cannot change while running changes
//! nothing: it is said in the log and stays in the status until a good one is taken.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use equipoise_core::config::{Changed, Changes, Config, Problem, Service, problem_at};
use equipoise_core::diff::diff;
use equipoise_core::dump::dump;

use super::changes::{Written, asked};
use super::clock::asked_for;
use super::counts::count;
use super::{Driver, Source};
use crate::admin::peer::Peer;
use crate::admin::problem::{ConfigError, ROLLED_BACK};
use crate::admin::{Configure, ProblemDetails};
use crate::config_file;
use crate::config_file::Base;
use crate::dataplane::DataPlane;
use crate::events::{Event, Kind};
use crate::host::{Machine, Reading, check};
use crate::status::change::{ReloadAnswer, ReloadRequest, ReloadResult, ServiceChanges};
use crate::status::history::Author;
use crate::status::{PlanAnswer, PlanRequest};

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Reads the file again, or another one.
    pub(super) async fn reload(
        &mut self,
        request: &ReloadRequest,
    ) -> Result<ReloadAnswer, ProblemDetails> {
        let taken = self.try_reload(request).await;
        self.note_reload(&taken);
        taken
    }

    /// Takes note of how a reload went.
    fn note_reload(&mut self, taken: &Result<ReloadAnswer, ProblemDetails>) {
        self.tell_taken(taken, "the file has been read");
        self.generation.last_error = taken.as_ref().err().map(|problem| problem.detail.clone());
    }

    /// Has a reload come to nothing.
    pub(super) fn refuse_reload(
        &mut self,
        request: ReloadRequest,
        by: Author,
        reason: String,
    ) -> Result<ReloadAnswer, ProblemDetails> {
        let before = self.snapshot.borrow().config.clone();
        let file = self.file_of(&request);
        let file = file.map_or_else(|| self.written.base.name.clone(), |f| f.display().to_string());
        let errors = vec![ConfigError::whole(&file, &reason)];
        let refused = Err(ProblemDetails::bad_config(reason, errors));
        self.note_reload(&refused);
        self.remember(by, &asked(&Configure::Reload(request)), &before, &refused);
        refused
    }

    async fn try_reload(
        &mut self,
        request: &ReloadRequest,
    ) -> Result<ReloadAnswer, ProblemDetails> {
        let (path, written) = self.read_file(request)?;
        let within = request.confirm_seconds.map(|seconds| asked_for("confirm_seconds", seconds));
        let within = within.transpose()?;
        let name = written.base.name.clone();
        self.port.look_again();
        let taken = self.take(written, within).await;
        // Where nothing else has changed, files of keys and certificates may have.
        let admin = self.state.config().settings.admin.clone();
        self.follow_admin(admin.as_ref()).await;
        // Also where the maps do not follow yet.
        if self.written.base.name == name {
            let base = self.written.base.clone();
            self.follow_files(&path, &base);
            self.source = Source::File(path);
        }
        taken
    }

    /// The file that is to be read; none where the configuration came from flags, and no other one is asked for.
    fn file_of(&self, request: &ReloadRequest) -> Option<PathBuf> {
        match (&request.file, &self.source) {
            (Some(file), _) => Some(PathBuf::from(file)),
            (None, Source::File(path)) => Some(path.clone()),
            (None, Source::Flags) => None,
        }
    }

    /// What is written in the file, or in another one.
    pub(super) fn read_file(
        &self,
        request: &ReloadRequest,
    ) -> Result<(PathBuf, Written), ProblemDetails> {
        let Some(path) = self.file_of(request) else {
            let message = "there is no file to read: the configuration came from flags";
            return Err(ProblemDetails::unprocessable(message));
        };
        if path.is_relative() {
            let message = format!("{} is not a whole path", path.display());
            return Err(ProblemDetails::unprocessable(message));
        }
        let name = path.display().to_string();
        let text = config_file::read(&path).map_err(|reason| {
            let message = format!("{name}: {reason}");
            ProblemDetails::bad_config(message.clone(), vec![ConfigError::whole(&name, &message)])
        })?;
        let changes = if request.reset { Changes::default() } else { self.written.changes.clone() };
        let base = Base::new(&*name, text).or_on_exit(self.written.base.on_exit());
        Ok((path, Written { base, changes }))
    }

    /// Takes what is written, if it is right, and makes the maps that. Where that cannot be done, or nobody confirms it
    /// within a time that is asked for, what ran before runs again.
    pub(super) async fn take(
        &mut self,
        mut written: Written,
        confirm_within: Option<Duration>,
    ) -> Result<ReloadAnswer, ProblemDetails> {
        let found = checked_whole(&mut written);
        // Its parts may be right one day. Of another file that is refused, nobody waits for that.
        if matches!(&self.source, Source::File(path) if *path == Path::new(&written.base.name)) {
            self.follow_files(Path::new(&written.base.name), &written.base);
        }
        let Changed { checked, changes } = found?;
        let Base { name, .. } = &written.base;
        let config = checked.config;
        let targets = self.targets(&self.state.expanded(&config));
        let reading = self.machine.read(&targets).await;
        let reading = reading.map_err(|error| ProblemDetails::failed(error.to_string()))?;
        let findings = check::check(&config, &reading);
        if !findings.problems.is_empty() {
            return Err(bad_config(name, &findings.problems));
        }
        for note in checked.ignored.iter().chain(&checked.notes).chain(&findings.notes) {
            tracing::warn!(file = note.file_or(name), "{note}");
        }
        for change in written.changes.missing_in(&changes) {
            tracing::info!(change, "changed while running; given up, as the file says");
        }
        let name = name.clone();
        let before = std::mem::replace(&mut self.written, Written { changes, ..written });
        let services = differing(&self.state.written().services, &config.services);
        let running = self.state.written();
        let is_new = (&running.services, &running.settings) != (&config.services, &config.settings);
        let steps = self.applier.steps();
        if is_new {
            self.take_config((config, reading), before, (&name, confirm_within)).await?;
        } else {
            self.save();
        }
        Ok(ReloadAnswer {
            result: if is_new { ReloadResult::Applied } else { ReloadResult::Unchanged },
            generation: self.generation.number,
            steps: self.applier.steps() - steps,
            services,
            errors: Vec::new(),
        })
    }

    async fn take_config(
        &mut self,
        (config, reading): (Config, Reading),
        before: Written,
        (name, confirm_within): (&str, Option<Duration>),
    ) -> Result<(), ProblemDetails> {
        let (before, wrong_before, drains) = (self.before(before), self.wrong(), self.drains());
        let generation = self.generation.clone();
        self.generation.number += 1;
        self.generation.loaded_at = SystemTime::now();
        // What may run again keeps what is known of its names.
        let unconfirmed = self.unconfirmed.as_ref().map(|unconfirmed| &unconfirmed.before.config);
        self.state.keep_names([&before.config].into_iter().chain(unconfirmed));
        let cancelled = self.state.handle_config(config);
        self.state.handle_facts(reading.facts());
        self.reading = reading;
        self.publish();
        // Before any command of this turn: what is called taken is in force.
        self.settle().await;
        if let Some((key, reason)) = self.persist(&wrong_before).await {
            let places = &self.state.written().places;
            let problem = problem_at(places, key, &*reason, None);
            self.generation = generation;
            self.roll_back(before).await;
            let message = format!("it cannot be applied, and what ran before runs again: {reason}");
            let errors = ConfigError::all(name, &[problem]);
            return Err(ProblemDetails::rolled_back(message, errors));
        }
        self.end_drains(&cancelled, &drains);
        self.forget_passive();
        if let Some(within) = confirm_within {
            self.expect_confirmation(within, before);
        }
        self.forget_names();
        Ok(())
    }

    /// Tells what has become of a configuration.
    pub(super) fn tell_taken(&mut self, taken: &Result<ReloadAnswer, ProblemDetails>, what: &str) {
        count(&mut self.counted.reloads, result_of(taken));
        let event = match taken {
            Ok(ReloadAnswer { result: ReloadResult::Applied, generation, .. }) => {
                Event::new(Kind::ConfigApplied).to(&generation.to_string()).because(what)
            }
            Ok(_) => return tracing::info!(what, "configuration unchanged"),
            Err(problem) => Event::new(Kind::ConfigRejected).because(&*problem.detail),
        };
        self.tell(event);
    }

    /// What a configuration would change; nothing is changed.
    pub(super) fn plan(
        &self,
        request: &PlanRequest,
        by: &Peer,
    ) -> Result<PlanAnswer, ProblemDetails> {
        let PlanRequest { name, text } = request;
        let base = Base::new(&**name, &**text);
        let mut base = if by.is_of_this_host() { base } else { base.of_a_stranger() };
        let changed = base.check(&Changes::default());
        let Changed { checked, .. } = changed.map_err(|problems| bad_config(name, &problems))?;
        let findings = check::check(&checked.config, &self.reading);
        if !findings.problems.is_empty() {
            return Err(bad_config(name, &findings.problems));
        }
        let mut state = self.state.clone();
        state.handle_config(checked.config);
        state.plan();
        let desired = state.planned();
        let difference = diff(self.applier.applied(), desired);
        let notes = checked
            .ignored
            .iter()
            .chain(&checked.notes)
            .chain(&findings.notes)
            .map(ToString::to_string);
        Ok(PlanAnswer {
            running: true,
            steps: difference.steps.iter().map(ToString::to_string).collect(),
            effect: self.effect(state.config(), desired),
            notes: notes
                .chain(desired.notes.iter().map(ToString::to_string))
                .chain(difference.unplaced.iter().map(ToString::to_string))
                .collect(),
            dump: dump(desired, state.facts()),
        })
    }
}

/// What has become of a configuration, in a word.
fn result_of(taken: &Result<ReloadAnswer, ProblemDetails>) -> &'static str {
    match taken {
        Ok(ReloadAnswer { result, .. }) => match result {
            ReloadResult::Applied => "applied",
            ReloadResult::Unchanged => "unchanged",
            ReloadResult::Rejected => "rejected",
            ReloadResult::RolledBack => "rolled_back",
        },
        Err(problem) if problem.kind.ends_with(ROLLED_BACK) => "rolled_back",
        Err(_) => "rejected",
    }
}

/// What is written as a whole, with what has been changed.
fn checked_whole(written: &mut Written) -> Result<Changed, ProblemDetails> {
    let problems = match written.base.check(&written.changes) {
        Ok(changed) => return Ok(changed),
        Err(problems) => problems,
    };
    // Where the file is wrong by itself, that is what there is to say.
    let problems = match written.base.check(&Changes::default()) {
        Ok(_) => problems,
        Err(own) => return Err(bad_config(&written.base.name, &own)),
    };
    let problem = bad_config(&written.base.name, &problems);
    let detail = format!("with what has been changed while running: {}", problem.detail);
    Err(ProblemDetails { detail, ..problem })
}

fn bad_config(name: &str, problems: &[Problem]) -> ProblemDetails {
    ProblemDetails::bad_config(all_in_words(name, problems), ConfigError::all(name, problems))
}

fn all_in_words(name: &str, problems: &[Problem]) -> String {
    let told = |problem: &Problem| format!("{}:{problem}", problem.file_or(name));
    problems.iter().map(told).collect::<Vec<_>>().join("; ")
}

/// What has become of services.
fn differing(before: &[Service], after: &[Service]) -> ServiceChanges {
    let by_name = |services: &'_ [Service]| -> BTreeMap<String, usize> {
        services.iter().enumerate().map(|(at, service)| (service.name.clone(), at)).collect()
    };
    let (there, here) = (by_name(before), by_name(after));
    let mut changes = ServiceChanges::default();
    for service in after {
        match there.get(&service.name) {
            None => changes.added.push(service.name.clone()),
            Some(&at) if before[at] != *service => changes.changed.push(service.name.clone()),
            Some(_) => {}
        }
    }
    let gone = before.iter().filter(|service| !here.contains_key(&service.name));
    changes.removed = gone.map(|service| service.name.clone()).collect();
    changes
}
