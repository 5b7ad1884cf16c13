//! The event loop: facts, commands and signals in; steps, attachments and answers out.
//!
//! Owns everything that changes. Each turn takes what is ready, then makes the data plane as the
//! latest plan wants it, once: start, reload, retry and a change of the machine are this one path
//! (`Driver::settle`). What cannot be done now is told in the status and tried again, later and
//! later. Generic over the data plane and the machine, so that all of it runs in memory.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use equipoise_core::facts::Moment;
use equipoise_core::health::{Outcome, ProbeId};
use equipoise_core::plan::Crowded;
use equipoise_core::resolve::{Answer, Failure, LookUpId};
use equipoise_core::state::State;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::access_log::AccessLog;
use crate::admin::listener;
use crate::admin::lock::InstanceLock;
use crate::admin::server::Server;
use crate::admin::{Access, Asker, Command, Configure, ProblemDetails, Reply, Snapshot};
use crate::apply::Applier;
use crate::dataplane::DataPlane;
use crate::dataplane::kernel::Part;
use crate::events::{Event as Told, Events, Kind};
use crate::handover::Word;
use crate::host::addresses::Managed;
use crate::host::forwarding::Forwarding;
use crate::host::{Machine, Reading};
use crate::metrics;
use crate::probe::{Outcomes, Prober};
use crate::resolver::{Answers, Resolver};
use crate::status::change::ReloadRequest;
use crate::status::history::Author;
use crate::status::{StopAnswer, UpgradeAnswer};
use crate::stream::Keeper;
use crate::watch::Watch;

mod answer;
mod breakers;
mod changes;
mod clock;
mod counts;
mod drains;
mod effect;
mod ending;
mod events;
mod explain;
mod files;
mod flow_events;
mod health;
mod history;
mod interfaces;
mod keep;
mod limits;
mod listing;
mod load;
mod loads;
mod names;
mod passive;
mod ports;
mod push;
mod reading;
mod reasons;
mod reload;
mod resize;
mod rollback;
mod select;
mod services;
mod settle;
mod shares;
mod start;
mod streams;
mod supervisor;
mod talkers;
mod tell;
mod trace;
mod trouble;
pub(crate) mod upgrade;
mod wake;

pub use ending::EndError;
pub use files::Watching;
pub(crate) use interfaces::wanted_here;
pub use keep::{path as state_file, release_left};
pub use listing::parse_prefix;
pub use names::look_up_before;
pub(crate) use names::{addresses, error as name_error};
pub use reading::targets;
pub use start::{Place, Start, StartError};
pub use supervisor::Supervisor;
pub use wake::{SignalHandle, Signals};

use answer::FlowSample;
use changes::Written;
use clock::Clock;
use counts::Counted;
use drains::Waiter;
use events::EventTask;
use explain::Asked;
use health::Waiting;
use history::History;
use interfaces::Interfaces;
use keep::Kept;
use load::Load;
use names::{Asking, Awaiting};
use passive::Passive;
use rollback::Unconfirmed;
use tell::Lasting;
use trace::Onlooker;
use trouble::{Topic, Troubles};
use upgrade::{Next, hear};
use wake::{BURST, Due, RESTING, SWEEP, SWEEP_PARTS, Signalled};

/// Where the configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, read again at each reload.
    File(PathBuf),
    /// The command line.
    Flags,
}

/// A running instance.
pub struct Driver<M, P> {
    instance: String,
    source: Source,
    /// Where it came from when this process was started.
    started_with: Source,
    written: Written,
    /// The files that it was read from, where they are watched.
    watch: Option<Watch>,
    history: History,
    /// What runs only for a while, unless that is confirmed.
    unconfirmed: Option<Unconfirmed>,
    clock: Clock,
    machine: M,
    plane: P,
    applier: Applier,
    state: State,
    reading: Reading,
    interfaces: Interfaces,
    forwarding: Forwarding,
    managed: Managed,
    troubles: Troubles,
    /// When weights that follow live flows were made anew.
    weighed: Option<Moment>,
    /// Backends at which source ports run out.
    crowded: Vec<Crowded>,
    generation: Generation,
    flows: Option<FlowSample>,
    /// Where events are told, and what of that still lasts.
    told: Events,
    lasting: Lasting,
    events: EventTask,
    /// Who takes up connections.
    streams: Keeper,
    /// What traffic has said of backends.
    passive: Passive,
    counted: Counted,
    load: Load,
    prober: Prober,
    outcomes: Outcomes,
    /// Who has asked for checks whose outcomes are not in.
    waiting: Vec<Waiting>,
    resolver: Resolver,
    answers: Answers,
    /// Who has asked for look-ups whose answers are not in.
    asking: Vec<Asking>,
    /// Reloads that wait for first answers about names, in order.
    awaiting: VecDeque<Awaiting>,
    /// The thread that explains packets, once there has been something to explain.
    explainer: Option<std::sync::mpsc::Sender<Asked>>,
    /// Who is told of packets.
    onlooker: Option<Onlooker>,
    /// Whether programs that others have come in place of are still to go.
    is_exchanging: bool,
    /// Who waits for drains.
    waiters: Vec<Waiter>,
    /// Whether this balancer itself is drained.
    is_drained: bool,
    /// Where that, and all drains, are kept for the next process, and what is there.
    state_file: PathBuf,
    kept: Kept,
    due: Due,
    supervisor: Supervisor,
    signals: Signals,
    commands: mpsc::Receiver<Command>,
    /// What the admin API asks by.
    admin: mpsc::Sender<Command>,
    /// Who is to come after this process, while it makes ready.
    next: Option<Next>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    server: Server,
    /// The admin API on a port.
    port: listener::Listener,
    metrics: metrics::Listener,
    exporter: metrics::Exporter,
    pusher: metrics::Pusher,
    /// The log of flows.
    access_log: AccessLog,
    lock: InstanceLock,
}

/// Which configuration runs.
#[derive(Clone, Debug)]
struct Generation {
    number: u64,
    loaded_at: SystemTime,
    last_error: Option<String>,
}

/// Something that wakes the loop.
enum Event {
    End,
    Reload(Author),
    Command(Command),
    Machine,
    Probed(Vec<(ProbeId, Outcome)>),
    Answered(LookUpId, Result<Answer, Failure>),
    Next(Word),
    /// The access log's files may have been moved.
    Reopen,
    /// What is wrong with the access log has changed.
    AccessLog,
    /// Somebody who takes up connections is gone.
    Streams,
    Timer,
}

/// Why the loop ends.
enum Ending {
    /// A signal: as the configuration says.
    Signal,
    /// A command: everything goes.
    Stop(Reply<StopAnswer>),
    /// Another process has everything.
    HandedOver(Reply<UpgradeAnswer>, UpgradeAnswer),
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// What asks this instance, as the admin API does.
    pub fn access(&self) -> Access {
        Access::new(self.admin.clone(), self.snapshot.subscribe())
    }

    /// Flows that are still to be carried over to other tables.
    pub fn to_be_carried(&self) -> u64 {
        self.plane.occupancy().to_be_carried
    }

    /// Runs until a signal or a command ends it, and cleans up.
    ///
    /// # Errors
    ///
    /// When something of ours could not be removed.
    pub async fn run(mut self) -> Result<(), EndError> {
        self.tell(Told::new(Kind::Started));
        self.supervisor.ready(self.generation.number);
        self.show_life(Instant::now());
        let ending = loop {
            if let Some(ending) = self.turn().await {
                break ending;
            }
        };
        self.end(ending).await
    }

    /// Waits for something to happen, takes all that is ready, and settles once.
    async fn turn(&mut self) -> Option<Ending> {
        let event = self.next_event().await;
        if let Some(ending) = self.handle(event).await {
            return Some(ending);
        }
        while let Ok(command) = self.commands.try_recv() {
            if let Some(ending) = self.handle(Event::Command(command)).await {
                return Some(ending);
            }
        }
        while let Ok(ended) = self.outcomes.try_recv() {
            self.take_outcomes(ended);
        }
        while let Ok((id, answer)) = self.answers.try_recv() {
            self.take_answer(id, answer);
        }
        self.catch_up().await;
        None
    }

    async fn next_event(&mut self) -> Event {
        let wake = self.due.earliest(self.troubles.retry_at());
        tokio::select! {
            asked = self.signals.next() => match asked {
                Signalled::End => Event::End,
                Signalled::Reload => Event::Reload(Author::Signal),
                Signalled::Reopen => Event::Reopen,
            },
            () = self.access_log.changed() => Event::AccessLog,
            () = self.streams.changed() => Event::Streams,
            () = files::changed(&mut self.watch) => Event::Reload(Author::File),
            Some(command) = self.commands.recv() => Event::Command(command),
            Some(ended) = self.outcomes.recv() => Event::Probed(ended),
            Some((id, answer)) = self.answers.recv() => Event::Answered(id, answer),
            word = hear(&mut self.next) => Event::Next(word),
            () = self.machine.changed() => Event::Machine,
            () = sleep_until(wake) => Event::Timer,
        }
    }

    async fn handle(&mut self, event: Event) -> Option<Ending> {
        match event {
            Event::End => return Some(Ending::Signal),
            // Whoever has done that sees in the status, and in the log, what has become of it.
            Event::Reload(by) => self.begin_reload(ReloadRequest::default(), by, None).await,
            Event::Machine => {
                // Counted from the first news of a burst, so that a steady stream cannot put it off.
                let at = (Instant::now() + BURST).max(self.due.not_before);
                self.due.reading.get_or_insert(at);
            }
            Event::Probed(ended) => self.take_outcomes(ended),
            Event::Answered(id, answer) => self.take_answer(id, answer),
            Event::Reopen => self.access_log.reopen(),
            Event::AccessLog => self.look_again(),
            Event::Streams => self.due.settle |= self.streams.is_broken(),
            Event::Timer => {}
            Event::Next(word) => return self.heard(word).await,
            Event::Command(Command::Upgrade(binary, reply)) => self.upgrade(binary, reply),
            Event::Command(Command::Stop(reply)) => return Some(Ending::Stop(reply)),
            Event::Command(Command::Configure(what, Asker { by, expected }, reply)) => {
                let running = self.generation.number;
                match what {
                    _ if !expected.is_met_by(running) => {
                        let message =
                            format!("generation {running} runs, and not the one that was meant");
                        drop(reply.send(Err(ProblemDetails::stale(message))));
                    }
                    Configure::Reload(request) => {
                        self.begin_reload(request, by, Some(reply)).await;
                    }
                    // Whoever asked may be gone.
                    what => drop(reply.send(self.configure(&what, by).await)),
                }
            }
            Event::Command(Command::Trace(filter, reply)) => {
                drop(reply.send(self.trace(&filter).await));
            }
            Event::Command(command) => self.answer(command),
        }
        None
    }

    /// Does all that is due.
    async fn catch_up(&mut self) {
        let now = Instant::now();
        if self.due.reading.is_some_and(|at| at <= now) {
            self.due.reading = None;
            self.read_machine().await;
        }
        let retry = self.troubles.retry_at().is_some_and(|at| at <= now);
        if retry && self.troubles.has(&Topic::Machine) {
            self.read_machine().await;
        }
        self.follow_confirmation(now).await;
        self.follow_denials(now).await;
        self.follow_names(now).await;
        self.follow_loads(now);
        self.count_drained(now);
        self.follow_health(now);
        if self.due.settle || retry {
            self.settle().await;
        }
        if retry && self.troubles.has(&Topic::Size) {
            self.due.size = Some(now);
        }
        if self.due.size.is_some() {
            self.follow_size(now).await;
        }
        if self.due.neighbours <= now {
            self.refresh_neighbours().await;
        }
        if self.due.sweep <= now {
            self.due.sweep = now + SWEEP;
            self.sweep(Part::OneOf(SWEEP_PARTS));
            self.take_stream_news();
            self.follow_trace().await;
            self.watch_ports();
            self.take_connections();
        }
        if self.due.resting <= now {
            self.due.resting = now + RESTING;
            self.ask_for_resting_ids();
        }
        self.tell_lasting();
        self.follow_load(now);
        self.follow_counts(now);
        if self.due.life.is_some_and(|at| at <= now) {
            self.show_life(now);
        }
    }

    fn show_life(&mut self, now: Instant) {
        self.supervisor.alive();
        self.due.life = self.supervisor.pause().map(|pause| now + pause);
    }

    /// Ends the flows that are past their time, and closes those whose backend has gone.
    fn sweep(&mut self, part: Part) {
        let expiry = self.plane.sweep(part);
        if expiry.ended + expiry.closed > 0 {
            let (ended, closed) = (expiry.ended, expiry.closed);
            tracing::debug!(ended, closed, "flows ended");
        }
        self.events.tell(expiry.events);
    }

    /// Lets ids that no flow names any more be given out again. Only while the maps are as
    /// planned: a packet could open a flow with a resting id otherwise.
    fn ask_for_resting_ids(&mut self) {
        if self.due.settle || self.troubles.has(&Topic::Maps) {
            return;
        }
        let Some(mark) = self.state.resting() else {
            return;
        };
        let mut named = self.plane.named();
        self.streams.mirror().each(|_, row| {
            named.services.insert(row.flow.service);
            named.backends.insert(row.flow.backend);
            true
        });
        self.state.handle_named(mark, &named);
        self.due.settle = true;
    }
}
