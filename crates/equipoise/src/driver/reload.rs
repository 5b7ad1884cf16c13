//! Another configuration for a running instance, by the same plan and the same steps.
//!
//! A file that is bad in itself, on this machine, or in what cannot change while running changes
//! nothing: it is said in the log and stays in the status until a good one is taken.

use std::sync::Arc;
use std::time::SystemTime;

use equipoise_core::config::{self, Config, Problem};
use equipoise_core::diff::diff;
use equipoise_core::dump::dump;

use super::names::FirstAnswers;
use super::{Driver, Source};
use crate::admin::problem::ConfigError;
use crate::admin::{ProblemDetails, Snapshot};
use crate::dataplane::DataPlane;
use crate::host::{Machine, check};
use crate::status::{PlanAnswer, PlanRequest};
use crate::{config_file, running_config};

/// What has become of a configuration.
enum Taken {
    /// It is in force.
    Now,
    /// It is the one in force.
    Same,
    /// It waits for something.
    Later,
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Reads the file again.
    pub(super) async fn reload(&mut self) {
        match self.try_reload().await {
            // It is taken when the first answers about its names are in.
            Ok(Taken::Later) => {}
            Ok(Taken::Now) => {
                self.generation.number += 1;
                self.generation.loaded_at = SystemTime::now();
                self.generation.last_error = None;
                tracing::info!(generation = self.generation.number, "configuration taken");
            }
            Ok(Taken::Same) => {
                self.generation.last_error = None;
                tracing::info!("configuration unchanged");
            }
            Err(reason) => {
                self.awaiting = None;
                self.state.forget_prepared();
                tracing::error!(reason, "configuration refused; nothing has changed");
                self.generation.last_error = Some(reason);
            }
        }
    }

    async fn try_reload(&mut self) -> Result<Taken, String> {
        let Source::File(path) = &self.source else {
            return Err("there is no file to read: the configuration came from flags".to_owned());
        };
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| format!("{name}: {e}"))?;
        let checked =
            config_file::parse(&name, &text).map_err(|problems| in_words(&name, &problems))?;
        let config = checked.config;
        match self.first_answers(&config) {
            FirstAnswers::In => {}
            FirstAnswers::Awaited => return Ok(Taken::Later),
            FirstAnswers::Failed(reason) => return Err(reason),
        }
        let targets = self.targets(&self.state.expanded(&config));
        let reading = self.machine.read(&targets).await.map_err(|e| e.to_string())?;
        let findings = check::check(&config, &text, &reading);
        if !findings.problems.is_empty() {
            return Err(in_words(&name, &findings.problems));
        }
        self.changeable(&config, &name, &text)?;
        for note in checked.notes.iter().chain(&findings.notes) {
            tracing::warn!(file = name, "{note}");
        }
        let running = self.state.written();
        if (&running.services, &running.settings) == (&config.services, &config.settings) {
            self.state.forget_prepared();
            return Ok(Taken::Same);
        }
        let drains = self.drains();
        let cancelled = self.state.handle_config(config);
        self.end_drains(&cancelled, &drains);
        self.state.handle_facts(reading.facts());
        self.reading = reading;
        self.due.settle = true;
        self.snapshot.send_replace(Arc::new(Snapshot {
            config: running_config::to_json(self.state.written()),
        }));
        Ok(Taken::Now)
    }

    fn changeable(&self, config: &Config, name: &str, text: &str) -> Result<(), String> {
        let (runs, asked) = (self.state.config().settings.max_flows, config.settings.max_flows);
        if runs == asked {
            return Ok(());
        }
        let message =
            format!("the flow table holds {runs} flows and cannot change to {asked} while running");
        let allowed = Some(format!("{runs}, or a restart"));
        let problem =
            config::problem_at(&config.places, text, "settings.max-flows", message, allowed);
        Err(in_words(name, &[problem]))
    }

    /// What a configuration would change; nothing is changed.
    pub(super) fn plan(&self, request: &PlanRequest) -> Result<PlanAnswer, ProblemDetails> {
        let PlanRequest { name, text } = request;
        let checked =
            config_file::parse(name, text).map_err(|problems| bad_config(name, &problems))?;
        let findings = check::check(&checked.config, text, &self.reading);
        if !findings.problems.is_empty() {
            return Err(bad_config(name, &findings.problems));
        }
        let mut state = self.state.clone();
        state.handle_config(checked.config);
        state.plan();
        let desired = state.planned();
        let difference = diff(self.applier.applied(), desired);
        let notes = checked.notes.iter().chain(&findings.notes).map(ToString::to_string);
        Ok(PlanAnswer {
            running: true,
            steps: difference.steps.iter().map(ToString::to_string).collect(),
            notes: notes
                .chain(desired.notes.iter().map(ToString::to_string))
                .chain(difference.unplaced.iter().map(ToString::to_string))
                .collect(),
            dump: dump(desired, state.facts()),
        })
    }
}

fn bad_config(name: &str, problems: &[Problem]) -> ProblemDetails {
    ProblemDetails::bad_config(in_words(name, problems), ConfigError::all(name, problems))
}

fn in_words(name: &str, problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{name}:{problem}")).collect::<Vec<_>>().join("; ")
}
