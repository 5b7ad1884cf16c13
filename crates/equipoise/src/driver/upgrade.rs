//! Another binary in place of this one, while packets flow: `equipoise upgrade`.
//!
//! The next process makes ready beside this one, which goes on meanwhile. Then this one touches nothing any more until it
//! hears how that has ended: it ends itself, and leaves everything as it is, or the next one is ended, and all that it may have
//! changed is this one's again. Rolling back is the same, with the binary of before.

use std::path::{Path, PathBuf};
use std::time::Duration;

use equipoise_common::limit;
use equipoise_core::diff::Applied;
use tokio::time::{Instant, timeout_at};

use super::keep::Kept;
use super::{Driver, Ending, Source};
use crate::admin::server::AdminSocket;
use crate::admin::{ProblemDetails, Reply};
use crate::apply::Applier;
use crate::dataplane::DataPlane;
use crate::events::{Event, Kind};
use crate::handover::{Successor, Word};
use crate::host::Machine;
use crate::status::UpgradeAnswer;

/// How long the next process may take once everything is its own: maps are read, and programs get their places.
const START_WITHIN: Duration = Duration::from_secs(60);

/// How far another process has come that is to come in place of this one.
pub(crate) const MAKES_READY: &str = "makes-ready";
/// So: this one touches nothing any more.
pub(crate) const TAKES_OVER: &str = "takes-over";
/// So: this one goes on.
pub(crate) const FAILED: &str = "failed";

/// The next process, while it makes ready.
#[derive(Debug)]
pub(super) struct Next {
    process: Successor,
    binary: PathBuf,
    began: Instant,
    reply: Reply<UpgradeAnswer>,
}

impl Next {
    /// It is not to come.
    pub(super) async fn give_up(self) {
        self.process.end().await;
        drop(self.reply.send(Err(ProblemDetails::ending())));
    }
}

/// Another process is in the way of what is asked for.
pub(super) fn makes_ready() -> ProblemDetails {
    ProblemDetails::conflict("another binary is being started already")
        .with_help("`equipoise events --follow` tells what becomes of that")
}

/// What it says; nothing as long as there is none.
pub(super) async fn hear(next: &mut Option<Next>) -> Word {
    match next {
        Some(next) => next.process.hear().await,
        None => std::future::pending().await,
    }
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Starts another binary, to come after this process.
    pub(super) fn upgrade(&mut self, binary: PathBuf, reply: Reply<UpgradeAnswer>) {
        let started = if self.next.is_some() {
            Err(makes_ready())
        } else if self.unconfirmed.is_some() {
            // The next process would know of no way back.
            Err(ProblemDetails::conflict("the configuration waits to be confirmed")
                .with_help("`equipoise confirm`, or wait until it goes back"))
        } else {
            Successor::start(&binary, self.other_file()).map_err(|error| {
                ProblemDetails::unprocessable(format!("starting {}: {error}", binary.display()))
            })
        };
        match started {
            Ok(process) => {
                let pid = process.pid();
                let who = format!("{}, pid {}", binary.display(), pid.unwrap_or_default());
                self.tell(Event::new(Kind::Upgrade).to(MAKES_READY).because(who));
                self.next = Some(Next { process, binary, began: Instant::now(), reply });
            }
            // Whoever asked may be gone.
            Err(problem) => drop(reply.send(Err(problem))),
        }
    }

    /// The file that has come in place of what this process was started with, if one has.
    fn other_file(&self) -> Option<&Path> {
        match &self.source {
            Source::File(path) if self.source != self.started_with => Some(path),
            Source::File(_) | Source::Flags => None,
        }
    }

    /// The next process has said something before anything is its own.
    pub(super) async fn heard(&mut self, word: Word) -> Option<Ending> {
        let mut next = self.next.take()?;
        let reason = match word {
            Word::Failed(reason) => reason,
            Word::Running { .. } => "it runs without having been told to".to_owned(),
            Word::Ready => match self.hand_over(&mut next).await {
                Ok(running) => return Some(ending(next, running)),
                Err(reason) => {
                    next.process.end().await;
                    self.take_back().await;
                    self.refuse(next.reply, &next.binary.display().to_string(), &reason);
                    return None;
                }
            },
        };
        next.process.end().await;
        self.refuse(next.reply, &next.binary.display().to_string(), &reason);
        None
    }

    fn refuse(&mut self, reply: Reply<UpgradeAnswer>, binary: &str, reason: &str) {
        let event = Event::new(Kind::Upgrade).to(FAILED);
        self.tell(event.because(format!("{binary} has not come to run: {reason}")));
        let detail =
            format!("{binary} has not come to run, and the process of before goes on: {reason}");
        drop(reply.send(Err(ProblemDetails::failed(detail))));
        // What has waited for that.
        self.due.settle = true;
    }

    /// Lets go of everything; answers with the version that runs then, and the flows that it still carries over.
    async fn hand_over(&mut self, next: &mut Next) -> Result<(String, u64), String> {
        self.save();
        let why = "it has everything, and attaches its programs";
        self.tell(Event::new(Kind::Upgrade).to(TAKES_OVER).because(why));
        // Two that read events would each have half of them.
        self.events.stop_reading();
        // Two that push would each be taken for the other.
        self.follow_otlp(None).await;
        self.take_stream_news();
        self.keep_counts();
        // A worker tells one process at a time.
        self.streams.let_go();
        // Their addresses are to be had.
        self.follow_metrics(None).await;
        self.follow_admin(None).await;
        next.process.go(self.lock.file()).map_err(|error| error.to_string())?;
        match self.hear_alive(next).await {
            Some(Word::Running { version, to_be_carried }) => Ok((version, to_be_carried)),
            Some(Word::Failed(reason)) => Err(reason),
            Some(Word::Ready) => Err("it makes ready again".to_owned()),
            None => Err(format!("it has not come to run within {START_WITHIN:?}")),
        }
    }

    /// What the next process says, if it does in time. Meanwhile this one is the one that is watched.
    async fn hear_alive(&self, next: &mut Next) -> Option<Word> {
        let until = Instant::now() + START_WITHIN;
        loop {
            let pause = self.supervisor.pause().unwrap_or(START_WITHIN);
            let wake = until.min(Instant::now() + pause);
            match timeout_at(wake, next.process.hear()).await {
                Ok(word) => return Some(word),
                Err(_) if wake == until => return None,
                Err(_) => self.supervisor.alive(),
            }
        }
    }

    /// Everything is this process's own again, whatever the other has come to do.
    async fn take_back(&mut self) {
        (self.managed, self.forwarding) = Kept::read(&self.state_file).machine();
        let maps = self.plane.reclaim();
        if let Ok(found) = &maps {
            self.applier = Applier::new(Applied::found(limit::SLOTS, found.clone()));
            // The other process may have written what it had planned anywhere.
            self.state.compare_all();
        }
        if let Err(error) = maps {
            tracing::error!(%error, "what is in the maps is not known");
        }
        self.begin_exchange();
        self.streams.find().await;
        self.due.settle = true;
        let resumed = self.plane.events().map_err(|error| error.to_string());
        let resumed = resumed.and_then(|source| {
            self.events
                .resume(source, self.access_log.recorder())
                .map_err(|error| error.to_string())
        });
        if let Err(error) = resumed {
            tracing::error!(error, "flow events are not read any more");
        }
        match AdminSocket::take_place(self.server.path()) {
            Ok(listening) => {
                self.server.replace(listening.serve(self.access(), self.exporter.clone()));
            }
            Err(error) => tracing::error!(%error, "the admin socket is another's"),
        }
        self.read_machine().await;
        // Listens and pushes again, too. What is still of the process that was to come next goes with it, or stays and is told.
        self.settle().await;
    }
}

fn ending(next: Next, (version, to_be_carried): (String, u64)) -> Ending {
    let answer = UpgradeAnswer {
        pid: next.process.pid(),
        version,
        previous_version: env!("CARGO_PKG_VERSION").to_owned(),
        to_be_carried,
        took_ms: u64::try_from(next.began.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    Ending::HandedOver(next.reply, answer)
}
