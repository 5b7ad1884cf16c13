//! The start: first the machine, then the maps, then the programs, then the socket.
//!
//! No packet meets a program before the maps are right. A failure at any point takes back all
//! that was done before it, so that nothing is left half-started.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use equipoise_common::limit;
use equipoise_core::config::{Changed, Changes, Config, Name};
use equipoise_core::diff::Applied;
use equipoise_core::facts::Facts;
use equipoise_core::resolve::Places;
use equipoise_core::state::{Beginning, State};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::changes::Written;
use super::clock::Clock;
use super::counts::Counted;
use super::events::EventTask;
use super::files::{self, Watching};
use super::health::in_words;
use super::history::History;
use super::interfaces::{self, Interfaces};
use super::keep::Kept;
use super::load::Load;
use super::names::look_up_first;
use super::passive::Passive;
use super::streams;
use super::supervisor::Supervisor;
use super::tell::Lasting;
use super::trouble::Troubles;
use super::{Driver, Due, Generation, Signals, Source, targets};
use crate::access_log::AccessLog;
use crate::admin::listener;
use crate::admin::lock::InstanceLock;
use crate::admin::server::{AdminSocket, SocketError};
use crate::admin::{Access, Snapshot};
use crate::apply::Applier;
use crate::config_file::Base;
use crate::dataplane::kernel::KernelError;
use crate::dataplane::{DataPlane, StepError};
use crate::events::Events;
use crate::host::addresses::Managed;
use crate::host::forwarding::{Forwarding, Wanted};
use crate::host::{HostError, Machine, Reading, check};
use crate::metrics::{self, Exporter};
use crate::probe::{Outcomes, Prober};
use crate::resolver::{Answers, Resolver};
use crate::running_config;
use crate::stream::{How, Keeper};

/// Commands that wait at most; more wait at their sockets.
const COMMANDS: usize = 64;

/// What an instance is started with.
pub struct Start<M, P> {
    /// Its name.
    pub instance: String,
    /// The signals that end it.
    pub signals: Signals,
    /// The lock on its name.
    pub lock: InstanceLock,
    /// Where its socket is to be.
    pub socket: PathBuf,
    /// Where what outlives the process is kept.
    pub state_file: PathBuf,
    /// Where the configuration comes from.
    pub source: Source,
    /// What it was read from, for changes to be laid over.
    pub base: Base,
    /// Whether its files are watched.
    pub watching: Watching,
    /// The configuration, checked against the machine.
    pub config: Config,
    /// The machine.
    pub machine: M,
    /// The data plane: new, or what an earlier process has left.
    pub plane: P,
    /// Whether a process that runs has let go of everything for this one.
    pub place: Place,
    /// Names that have been looked up already: [`super::look_up_before`].
    pub looked_up: Vec<(Name, Places)>,
    /// How connections are taken up that this host takes up itself.
    pub streams: How,
    /// Who is told that it is ready, alive and ending.
    pub supervisor: Supervisor,
}

/// Whose place an instance takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nobody's who runs.
    Free,
    /// That of a process which runs until this one does.
    OfAnother,
}

/// Why an instance does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The machine cannot be read, or refuses an address or a setting.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The maps cannot be filled.
    #[error(transparent)]
    Maps(#[from] StepError),
    /// An interface cannot be attached.
    #[error("interface {name} cannot be attached: {reason}")]
    Interface {
        /// Its name.
        name: String,
        /// Why not.
        reason: String,
    },
    /// The data plane does not give its flow events.
    #[error(transparent)]
    Plane(#[from] KernelError),
    /// Flow events cannot be waited for.
    #[error("waiting for flow events: {0}")]
    Events(#[source] std::io::Error),
    /// Flows cannot be written.
    #[error("starting the access log: {0}")]
    AccessLog(#[source] std::io::Error),
    /// Health checks cannot be made.
    #[error("starting health checks: {0}")]
    Checks(#[source] std::io::Error),
    /// Names cannot be looked up.
    #[error("starting look-ups of names: {0}")]
    Names(#[source] std::io::Error),
    /// A name stands for nothing, and that is refused.
    #[error("{0}; `on-first-failure` is \"refuse\"")]
    Name(String),
    /// The admin socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Starts an instance: when this returns, packets flow.
    ///
    /// # Errors
    ///
    /// When anything fails; nothing is left then.
    pub async fn start(start: Start<M, P>) -> Result<Self, StartError> {
        let Start { instance, signals, lock, socket, source, base, config, place, .. } = start;
        let (mut machine, mut plane, state_file) = (start.machine, start.plane, start.state_file);
        // Before it is first looked at whether all is right: what changes from here on is heard of.
        let watch = files::watched(&source, &base, start.watching);
        let streams = Keeper::new(&socket, start.streams);
        let mut begun =
            Begun { looked_up: start.looked_up, ..Begun::new(Kept::read(&state_file), streams) };
        let from = (config, base);
        match begun.all(&mut machine, &mut plane, from, (&socket, place, &state_file)).await {
            Ok(running) => {
                let state = running.state;
                let (flows, bytes) = (state.config().settings.max_flows, plane.occupancy().memory);
                tracing::info!(
                    flows,
                    megabytes = bytes.div_ceil(1_000_000),
                    "flow tables, for each family"
                );
                let (sender, commands) = mpsc::channel(COMMANDS);
                let snapshot = Arc::new(Snapshot {
                    config: running_config::to_json(state.written()),
                    generation: running.generation,
                });
                let (publish, snapshot) = watch::channel(snapshot);
                let access = Access::new(sender.clone(), snapshot);
                let exporter = Exporter::new(access.again());
                let port = listener::Listener::new(access.again(), exporter.clone());
                let metrics = metrics::Listener::new(exporter.clone());
                let pusher = metrics::Pusher::new(exporter.clone(), instance.clone());
                let server = running.listening.serve(access, exporter.clone());
                let mut driver = Self {
                    instance,
                    started_with: source.clone(),
                    source,
                    written: running.written,
                    watch,
                    history: History::default(),
                    unconfirmed: None,
                    clock: begun.clock,
                    machine,
                    plane,
                    applier: begun.applier,
                    state,
                    reading: running.reading,
                    interfaces: begun.interfaces,
                    forwarding: begun.forwarding,
                    managed: begun.managed,
                    troubles: Troubles::default(),
                    weighed: None,
                    crowded: Vec::new(),
                    generation: Generation {
                        number: running.generation,
                        loaded_at: SystemTime::now(),
                        last_error: None,
                    },
                    flows: None,
                    told: Events::default(),
                    lasting: Lasting::default(),
                    events: running.events,
                    streams: begun.streams,
                    passive: Passive::new(),
                    counted: Counted::default(),
                    load: Load::since(begun.clock.now()),
                    prober: running.prober,
                    outcomes: running.outcomes,
                    waiting: Vec::new(),
                    resolver: running.resolver,
                    answers: running.answers,
                    asking: Vec::new(),
                    awaiting: VecDeque::new(),
                    explainer: None,
                    onlooker: None,
                    is_exchanging: false,
                    waiters: Vec::new(),
                    is_drained: begun.kept.itself,
                    state_file,
                    kept: begun.kept,
                    due: Due::at_start(),
                    supervisor: start.supervisor,
                    signals,
                    commands,
                    admin: sender,
                    next: None,
                    snapshot: publish,
                    server,
                    port,
                    metrics,
                    exporter,
                    pusher,
                    access_log: running.access_log,
                    lock,
                };
                let wanted = driver.state.config().settings.metrics.clone();
                driver.follow_metrics(wanted.as_ref()).await;
                let wanted = driver.state.config().settings.admin.clone();
                driver.follow_admin(wanted.as_ref()).await;
                driver.follow_access_log();
                if begun.has_inherited {
                    driver.take_counts();
                }
                driver.start_streams().await;
                let wanted = driver.state.config().settings.otlp.clone();
                driver.follow_otlp(wanted.as_ref()).await;
                driver.troubles.schedule(Instant::now());
                Ok(driver)
            }
            Err(error) => {
                begun.streams.give_up().await;
                if let Err(error) = plane.abandon() {
                    tracing::error!(%error, "something is left after the failed start");
                }
                // What is in force again goes on needing it.
                if !begun.has_inherited {
                    begun.managed.release(&mut machine).await;
                    begun.forwarding.release(&mut machine);
                    begun.kept.note_machine(&begun.managed, &begun.forwarding);
                    begun.kept.save(&state_file);
                }
                Err(error)
            }
        }
    }
}

/// What runs once all has been done.
struct Running {
    written: Written,
    generation: u64,
    state: State,
    reading: Reading,
    listening: AdminSocket,
    events: EventTask,
    access_log: AccessLog,
    prober: Prober,
    outcomes: Outcomes,
    resolver: Resolver,
    answers: Answers,
}

/// What has been done so far.
struct Begun {
    clock: Clock,
    kept: Kept,
    applier: Applier,
    interfaces: Interfaces,
    forwarding: Forwarding,
    managed: Managed,
    streams: Keeper,
    /// Whether the data plane is one that an earlier process has left.
    has_inherited: bool,
    looked_up: Vec<(Name, Places)>,
}

impl Begun {
    fn new(kept: Kept, streams: Keeper) -> Self {
        let (managed, forwarding) = kept.machine();
        Self {
            clock: Clock::start(),
            kept,
            applier: Applier::default(),
            interfaces: Interfaces::default(),
            forwarding,
            managed,
            streams,
            has_inherited: false,
            looked_up: Vec::new(),
        }
    }

    /// The configuration with what has been changed while an earlier process ran. Where that does not go with the file any more, the
    /// file alone is better than no start.
    async fn changed<M: Machine>(
        &self,
        machine: &mut M,
        config: Config,
        mut base: Base,
    ) -> Result<(Config, Written), StartError> {
        let mut kept = self.kept.changes();
        kept.expire(self.clock.now());
        if kept.is_empty() {
            return Ok((config, Written { base, changes: kept }));
        }
        let problems = match base.check(&kept) {
            Ok(Changed { checked, changes }) => {
                let reading = machine.read(&targets(&checked.config)).await?;
                let found = check::check(&checked.config, &reading);
                if found.problems.is_empty() {
                    let count = changes.len();
                    tracing::info!(count, "changed while running, as before");
                    return Ok((checked.config, Written { base, changes }));
                }
                found.problems
            }
            Err(problems) => problems,
        };
        for problem in problems {
            tracing::error!(%problem, "what was changed while running does not go with the file, and is dropped");
        }
        Ok((config, Written { base, changes: Changes::default() }))
    }

    async fn all<M: Machine, P: DataPlane>(
        &mut self,
        machine: &mut M,
        plane: &mut P,
        (config, base): (Config, Base),
        (socket, place, state_file): (&Path, Place, &Path),
    ) -> Result<Running, StartError> {
        let found = plane.found()?;
        self.has_inherited = found.is_some();
        let (config, written) = self.changed(machine, config, base).await?;
        let seed = RandomState::new().build_hasher().finish();
        let beginning = Beginning { now: self.clock.now(), seed, ..Beginning::default() };
        let mut state = State::begun(config, Facts::default(), beginning);
        let (resolver, mut answers) = Resolver::start().map_err(StartError::Names)?;
        for (name, places) in self.kept.names() {
            if state.restore_name(&name, places) {
                tracing::info!(name = name.text(), "known from before, until it is answered");
            }
        }
        for (name, places) in self.looked_up.drain(..) {
            state.note_looked_up(&name, places);
        }
        look_up_first(&mut state, (&resolver, &mut answers)).await.map_err(StartError::Name)?;
        if let Some(found) = &found {
            state.take_over(found);
        }
        let targets = targets(state.config());
        let before = machine.read(&targets).await?;
        self.managed.follow(machine, state.config(), &before).await?;
        // Again, with the addresses that have just been added.
        let reading = machine.read(&targets).await?;
        let wanted = Wanted::new(state.config(), interfaces::wanted_here(state.config(), &reading));
        self.forwarding.follow(machine, &wanted, &reading)?;
        state.handle_facts(reading.facts());
        self.kept.note_machine(&self.managed, &self.forwarding);
        let generation = self.kept.take_generation(self.has_inherited);
        self.kept.save(state_file);
        for (key, drain) in self.kept.drains() {
            if state.restore_drain(&key, drain) {
                tracing::info!(backend = in_words(&key), "drained, as before");
            }
        }
        for (key, word) in self.kept.words() {
            if word.until.is_none_or(|until| until > beginning.now)
                && state.handle_manual(&key, Some(word))
            {
                tracing::info!(
                    backend = in_words(&key),
                    down = word.is_down,
                    "health set by hand, as before"
                );
            }
        }
        for (key, lasting) in self.kept.health() {
            if state.restore_health(&key, lasting) {
                let verdict = lasting.verdict.name();
                tracing::info!(backend = in_words(&key), verdict, "health as before");
            }
        }
        for (key, lasting) in self.kept.breakers() {
            if state.restore_breaker(&key, lasting) {
                let breaker = lasting.state.name();
                tracing::info!(backend = in_words(&key), breaker, "breaker as before");
            }
        }
        if let Some(found) = found {
            self.applier = Applier::new(Applied::found(limit::SLOTS, found));
            // Weights that follow live flows are what they were, and not what they would be without any.
            state.plan();
            let live = |id| (id, plane.live_flows(id));
            state.handle_loads(state.followed().into_iter().map(live).collect());
        }
        let converged = self.applier.converge(plane, state.plan())?;
        tracing::info!(steps = converged.steps, "applied");
        plane.observe(state.config().settings.observe)?;
        self.interfaces.follow(plane, state.config(), &reading);
        if let Some((name, reason)) = self.interfaces.failed().first_key_value() {
            return Err(StartError::Interface { name: name.clone(), reason: reason.clone() });
        }
        let access_log = AccessLog::start().map_err(StartError::AccessLog)?;
        let events = EventTask::start(plane.events()?, access_log.recorder());
        let events = events.map_err(StartError::Events)?;
        let (prober, outcomes) = Prober::start().map_err(StartError::Checks)?;
        let listening = match place {
            Place::Free => AdminSocket::bind(socket).await?,
            Place::OfAnother => AdminSocket::take_place(socket)?,
        };
        self.streams.find().await;
        // Before what leads connections to the process before goes.
        let begun = streams::begin(&mut self.streams, plane, state.config()).await;
        let told = self.streams.tell(streams::table(&state)).map_err(|error| error.to_string());
        if let Err(error) = begun.and(told) {
            tracing::error!(error, "connections are not taken up yet");
        }
        plane.conclude()?;
        Ok(Running {
            written,
            generation,
            state,
            reading,
            listening,
            events,
            access_log,
            prober,
            outcomes,
            resolver,
            answers,
        })
    }
}
