//! The way back to the configuration that ran before: where another one cannot be applied, and where nobody confirms it.
//!
//! What is taken is tried a few times, since a machine may need a moment. If something is wrong then that was not before, the
//! last good configuration is taken again, by the same plan and steps, with the drains and words about backends that
//! the other one did not have.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use equipoise_core::config::Config;
use equipoise_core::drain::Drain;
use equipoise_core::health::Manual;
use equipoise_core::id::BackendKey;
use tokio::time::{Instant, sleep};

use super::changes::Written;
use super::trouble::Topic;
use super::{Driver, Source};
use crate::admin::{ProblemDetails, Snapshot};
use crate::dataplane::DataPlane;
use crate::host::Machine;
use crate::running_config;
use crate::status::change::ReloadAnswer;
use crate::status::history::{Author, ConfirmAnswer};

/// How often what cannot be applied is tried again.
const TRIES: u32 = 3;
/// The time between.
const BETWEEN: Duration = Duration::from_millis(50);

/// What ran before another configuration was taken.
#[derive(Debug)]
pub(super) struct Before {
    /// As it was written.
    pub(super) config: Config,
    source: Source,
    written: Written,
    drains: Vec<(BackendKey, Drain)>,
    words: Vec<(BackendKey, Manual)>,
}

/// A configuration that goes again unless it is confirmed.
#[derive(Debug)]
pub(super) struct Unconfirmed {
    pub(super) until: Instant,
    pub(super) before: Before,
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// What runs now, made of this.
    pub(super) fn before(&self, written: Written) -> Before {
        Before {
            config: self.state.written().clone(),
            source: self.source.clone(),
            written,
            drains: self.state.drains().iter().map(|(key, drain)| (key.clone(), *drain)).collect(),
            words: self.state.words().map(|(key, word)| (key.clone(), word)).collect(),
        }
    }

    /// What is wrong by now.
    pub(super) fn wrong(&self) -> BTreeSet<Topic> {
        self.troubles.topics().cloned().collect()
    }

    /// Tries again to do what has just been taken, while something is wrong that was not before, or the maps are: whether they were
    /// or not, what is taken is to be in them. What is still wrong then: the key that it is about, if it is about one, and in words.
    pub(super) async fn persist(
        &mut self,
        wrong_before: &BTreeSet<Topic>,
    ) -> Option<(&'static str, String)> {
        let wrong = |driver: &Self| {
            let mut topics = driver.troubles.topics();
            let is_new = |topic: &&Topic| **topic == Topic::Maps || !wrong_before.contains(*topic);
            let topic = topics.find(is_new)?;
            Some((topic.key(), driver.troubles.reason(topic)?.to_owned()))
        };
        for _ in 0..TRIES {
            wrong(self)?;
            sleep(BETWEEN).await;
            self.settle().await;
        }
        wrong(self)
    }

    /// Takes again what ran before.
    pub(super) async fn roll_back(&mut self, before: Before) {
        let Before { config, source, written, drains, words } = before;
        (self.source, self.written) = (source, written);
        self.state.handle_config(config);
        self.forget_names();
        for (key, drain) in drains {
            if !self.state.drains().is_drained(&key) {
                self.state.restore_drain(&key, drain);
            }
        }
        let held: BTreeSet<_> = self.state.words().map(|(key, _)| key.clone()).collect();
        for (key, word) in words.into_iter().filter(|(key, _)| !held.contains(key)) {
            self.state.handle_manual(&key, Some(word));
        }
        self.publish();
        if let Source::File(path) = &self.source {
            let (path, base) = (path.clone(), self.written.base.clone());
            self.follow_files(&path, &base);
        }
        self.due.settle = true;
        // Its own addresses' ways; a machine that cannot be read is a trouble of its own.
        self.read_machine().await;
        self.settle().await;
        self.save();
    }

    /// Tells others which configuration runs.
    pub(super) fn publish(&self) {
        let config = running_config::to_json(self.state.written());
        let generation = self.generation.number;
        self.snapshot.send_replace(Arc::new(Snapshot { config, generation }));
    }

    /// Keeps what is known of the names of a configuration that may run again, and of no other.
    pub(super) fn forget_names(&mut self) {
        let before = self.unconfirmed.as_ref().map(|unconfirmed| &unconfirmed.before.config);
        self.state.keep_names(before);
    }

    /// The configuration that runs goes again at a time, unless that is confirmed before.
    pub(super) fn expect_confirmation(&mut self, within: Duration, before: Before) {
        // What ran before the first one that nobody has confirmed is what is known to be good.
        let before = self.unconfirmed.take().map_or(before, |unconfirmed| unconfirmed.before);
        let until = Instant::now() + within;
        self.due.confirmation = Some(until);
        self.unconfirmed = Some(Unconfirmed { until, before });
    }

    /// What runs stays.
    pub(super) fn confirm(&mut self) -> Result<ConfirmAnswer, ProblemDetails> {
        self.due.confirmation = None;
        if self.unconfirmed.take().is_none() {
            let help = "only what `equipoise reload --confirm TIME` has taken waits for that; `equipoise history` shows what became of it";
            return Err(
                ProblemDetails::conflict("there is nothing to be confirmed").with_help(help)
            );
        }
        self.forget_names();
        tracing::info!(generation = self.generation.number, "confirmed");
        Ok(ConfirmAnswer { generation: self.generation.number })
    }

    /// Takes back what nobody has confirmed in time.
    pub(super) async fn follow_confirmation(&mut self, now: Instant) {
        let Some(Unconfirmed { before, .. }) = self.unconfirmed.take_if(|one| one.until <= now)
        else {
            return;
        };
        self.due.confirmation = None;
        let number = self.generation.number;
        let message =
            format!("nobody has confirmed generation {number}: what ran before runs again");
        tracing::warn!("{message}");
        let config = self.snapshot.borrow().config.clone();
        self.generation.number += 1;
        self.generation.loaded_at = SystemTime::now();
        self.roll_back(before).await;
        self.generation.last_error = Some(message.clone());
        let taken: Result<ReloadAnswer, _> = Err(ProblemDetails::rolled_back(message, Vec::new()));
        self.remember(Author::Deadline, "not confirmed", &config, &taken);
    }
}
