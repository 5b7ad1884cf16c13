//! An instance inside another program: Equipoise as a library.
//!
//! A [`Balancer`] runs on a thread of its own, with a runtime of its own, in the network namespace of the thread that starts it; whoever
//! has it asks it from any runtime. It changes nothing of the process: it hears no signals, sets up no log (its news are events of
//! `tracing`, and [`Balancer::events`]), and takes no privileges away. So there may be several in one process, each by its name. Beside
//! this way in, an instance answers on its socket as any other does: the commands of `equipoise` work with it.
//!
//! Other modules of this crate are what it is made of, and may change with any version.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use equipoise_core::config::{Config, Problem};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::admin::lock::{InstanceLock, LockError};
use crate::admin::peer::Peer;
use crate::admin::{Access, Asker, Command, Configure, Expected, Page, ProblemDetails};
use crate::config_file::Base;
use crate::dataplane::DataPlane;
use crate::dataplane::kernel::{Clock, Eviction, Kernel, KernelError, Options, TcWay};
use crate::driver::{
    Driver, EndError, Place, SignalHandle, Signals, Source, Start, StartError, Supervisor,
    Watching, state_file, targets,
};
use crate::events::Subscription;
use crate::flow_events::FlowFollower;
use crate::host::{HostError, Machine, Netlink, check, requirements};
use crate::status::change::ReloadAnswer;
use crate::status::history::Author;
use crate::status::operate::{
    DrainAnswer, DrainRequest, DrainStatus, DrainsAnswer, UndrainRequest,
};
use crate::status::{Flow, FlowFilter, PlanAnswer, PlanRequest, Status};
use crate::stream::How;

mod configuration;

pub use configuration::Configuration;

/// Where sockets and locks are, unless another directory is asked for.
const RUN_DIRECTORY: &str = "/run/equipoise";

/// What an instance is started with.
#[derive(Clone, Debug)]
pub struct Builder {
    configuration: Configuration,
    instance: String,
    run_directory: PathBuf,
    state_file: Option<PathBuf>,
}

impl Builder {
    /// The name of the instance: 1 to 64 letters, digits, `-` or `_`; `default` unless another is given. No two that run may have
    /// the same.
    #[must_use]
    pub fn instance(self, name: impl Into<String>) -> Self {
        Self { instance: name.into(), ..self }
    }

    /// Where its socket (`NAME.sock`) and its lock are; `/run/equipoise` unless another is given.
    #[must_use]
    pub fn run_directory(self, directory: impl Into<PathBuf>) -> Self {
        Self { run_directory: directory.into(), ..self }
    }

    /// Where what outlives it is kept; `/var/lib/equipoise/NAME/state.json` unless another is given.
    #[must_use]
    pub fn state_file(self, file: impl Into<PathBuf>) -> Self {
        Self { state_file: Some(file.into()), ..self }
    }

    /// Starts it on the kernel and the machine: when this returns, packets flow.
    ///
    /// # Errors
    ///
    /// When anything fails; nothing is left then. What it needs is told in `docs/privileges.md`.
    pub async fn start(self) -> Result<Balancer, BalancerError> {
        requirements::check().map_err(BalancerError::Unfit)?;
        let instance = self.instance.clone();
        self.start_on(move |config| {
            let options = Options {
                instance: &instance,
                max_flows: config.settings.max_flows,
                tc: TcWay::default(),
                clock: Clock::default(),
                eviction: Eviction::default(),
            };
            Ok((Netlink::open()?, Kernel::load(&options)?))
        })
        .await
    }

    /// Starts it on another machine and data plane, such as those in memory ([`crate::host::simulated`],
    /// [`crate::dataplane::simulated`]). They are made on the thread of the instance, and taken back by what they do when dropped where
    /// the start fails before they are used.
    ///
    /// # Errors
    ///
    /// As [`Builder::start`], and what `make` says.
    pub async fn start_on<M, P, F>(self, make: F) -> Result<Balancer, BalancerError>
    where
        M: Machine + 'static,
        P: DataPlane + 'static,
        F: FnOnce(&Config) -> Result<(M, P), BalancerError> + Send + 'static,
    {
        let config = self.configuration.clone().check().map_err(BalancerError::Config)?;
        let instance = self.instance.clone();
        let socket = self.run_directory.join(format!("{instance}.sock"));
        let (signals, end) = Signals::of_handle();
        let (tell_start, started) = oneshot::channel();
        let (tell_end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(BalancerError::Thread)?;
        let begin = move || {
            runtime.block_on(async {
                match self.begin(config, signals, make).await {
                    Ok(driver) => {
                        // One that nobody waits for any more ends, since its handle is gone.
                        let _: Result<(), _> = tell_start.send(Ok(driver.access()));
                        // Nobody may ask how it has ended.
                        let _: Result<(), _> = tell_end.send(driver.run().await);
                    }
                    Err(error) => drop(tell_start.send(Err(error))),
                }
            });
        };
        let name = "equipoise".to_owned();
        thread::Builder::new().name(name).spawn(begin).map_err(BalancerError::Thread)?;
        let access = started.await.map_err(|_| BalancerError::Gone)??;
        Ok(Balancer { instance, socket, access, end, ended })
    }

    async fn begin<M, P, F>(
        self,
        config: Config,
        signals: Signals,
        make: F,
    ) -> Result<Driver<M, P>, BalancerError>
    where
        M: Machine,
        P: DataPlane,
        F: FnOnce(&Config) -> Result<(M, P), BalancerError>,
    {
        let Self { configuration, instance, run_directory, state_file: file } = self;
        let lock = InstanceLock::take(&run_directory, &instance)?;
        let (mut machine, plane) = make(&config)?;
        let reading = machine.read(&targets(&config)).await;
        let fits = reading.map_err(BalancerError::Host).and_then(|reading| {
            let found = check::check(&config, &reading);
            if found.problems.is_empty() {
                Ok(())
            } else {
                Err(BalancerError::Config(found.problems))
            }
        });
        if let Err(error) = fits {
            if let Err(error) = plane.abandon() {
                tracing::warn!(%error, "something of a start that has come to nothing stays");
            }
            return Err(error);
        }
        let start = Start {
            looked_up: Vec::new(),
            signals,
            lock,
            socket: run_directory.join(format!("{instance}.sock")),
            state_file: file.unwrap_or_else(|| state_file(&instance)),
            instance,
            source: Source::Flags,
            base: configuration.base,
            watching: Watching::No,
            config,
            machine,
            plane,
            place: Place::Free,
            streams: How::Threads,
            supervisor: Supervisor::None,
        };
        Ok(Driver::start(start).await?)
    }
}

/// A running instance.
///
/// What is dropped ends as a signal would end it: by `on-exit` of its configuration, packets flow on (`keep`) or everything is removed
/// (`detach`), on its own thread, without being waited for.
///
/// ```no_run
/// # async fn run() -> Result<(), equipoise::BalancerError> {
/// use equipoise::{Balancer, Configuration};
///
/// let text = std::fs::read_to_string("web.toml").expect("a file");
/// let balancer = Balancer::builder(Configuration::toml(text)).instance("web").start().await?;
/// println!("{} services", balancer.status().await?.services.len());
/// balancer.stop().await
/// # }
/// ```
#[derive(Debug)]
pub struct Balancer {
    instance: String,
    socket: PathBuf,
    access: Access,
    end: SignalHandle,
    ended: oneshot::Receiver<Result<(), EndError>>,
}

/// Why there is no instance, or no answer of one.
#[derive(Debug, thiserror::Error)]
pub enum BalancerError {
    /// The configuration is wrong, in itself or on this machine: all that is.
    #[error("the configuration is wrong: {}", said(.0))]
    Config(Vec<Problem>),
    /// The kernel is too old, or this process may do too little.
    #[error("{0}")]
    Unfit(String),
    /// Another instance has the name.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The machine cannot be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The kernel refuses the data plane.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// It does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// There is no thread, or no runtime, to be had.
    #[error("the thread of an instance: {0}")]
    Thread(#[source] io::Error),
    /// It runs, and says no.
    #[error("{}", .0.detail)]
    Refused(Box<ProblemDetails>),
    /// Not everything could be removed at its end.
    #[error(transparent)]
    End(#[from] EndError),
    /// It has ended, or its thread has panicked.
    #[error("the instance has ended")]
    Gone,
}

impl From<ProblemDetails> for BalancerError {
    fn from(problem: ProblemDetails) -> Self {
        Self::Refused(Box::new(problem))
    }
}

fn said(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Balancer {
    /// An instance that is to be started on a configuration.
    pub fn builder(configuration: impl Into<Configuration>) -> Builder {
        Builder {
            configuration: configuration.into(),
            instance: "default".to_owned(),
            run_directory: RUN_DIRECTORY.into(),
            state_file: None,
        }
    }

    /// Its name.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Where it answers, too.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// How it is, with its services, pools and backends.
    ///
    /// # Errors
    ///
    /// When it has ended; so for all that follow.
    pub async fn status(&self) -> Result<Status, BalancerError> {
        Ok(self.access.ask(Command::Status).await?)
    }

    /// The configuration that runs, as JSON, with every default filled in.
    pub fn config(&self) -> Value {
        self.access.snapshot.borrow().config.clone()
    }

    /// The flows that pass a filter.
    ///
    /// # Errors
    ///
    /// When the flow table cannot be read.
    pub async fn flows(&self, filter: FlowFilter) -> Result<Vec<Flow>, BalancerError> {
        let ask = |reply| Command::Flows(filter, Page::default(), reply);
        Ok(self.access.ask(ask).await?.flows)
    }

    /// What another configuration would change; nothing is changed.
    ///
    /// # Errors
    ///
    /// When it is wrong.
    pub async fn plan(&self, configuration: Configuration) -> Result<PlanAnswer, BalancerError> {
        let Base { name, text, .. } = configuration.base;
        let request = PlanRequest { name, text };
        Ok(self.access.ask(|reply| Command::Plan(request, Peer::User(None), reply)).await?)
    }

    /// Takes another configuration: when this returns, it is in force, and no flow has been broken that it does not break.
    ///
    /// # Errors
    ///
    /// When it is wrong, or cannot be applied: what ran before runs then.
    pub async fn reload(
        &self,
        configuration: impl Into<Configuration>,
    ) -> Result<ReloadAnswer, BalancerError> {
        let what = Configure::Text(configuration.into().base);
        let by = Author::User { uid: rustix::process::geteuid().as_raw() };
        let asker = Asker { by, expected: Expected::default() };
        Ok(self.access.ask(|reply| Command::Configure(what, asker, reply)).await?)
    }

    /// Gives backends no new flows. Answers when that is so or, where the request waits, when it is over.
    ///
    /// # Errors
    ///
    /// When there are no such backends, or nobody else could have their flows.
    pub async fn drain(&self, request: DrainRequest) -> Result<DrainAnswer, BalancerError> {
        Ok(self.access.ask(|reply| Command::Drain(request, reply)).await?)
    }

    /// Gives drained backends new flows again.
    ///
    /// # Errors
    ///
    /// When there are no such backends.
    pub async fn undrain(
        &self,
        request: UndrainRequest,
    ) -> Result<Vec<DrainStatus>, BalancerError> {
        Ok(self.access.ask(|reply| Command::Undrain(request, reply)).await?)
    }

    /// All drains.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub async fn drains(&self) -> Result<DrainsAnswer, BalancerError> {
        Ok(self.access.ask(Command::Drains).await?)
    }

    /// What changes, from the event after this number on: 0 for all that are still known.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub async fn events(&self, after: u64) -> Result<Subscription, BalancerError> {
        Ok(self.access.ask(|reply| Command::Events(after, reply)).await?)
    }

    /// Flows that pass a filter, as they open and close from now on.
    ///
    /// # Errors
    ///
    /// When there is no such service or backend, nothing is told of flows (`events` of the settings), or it has ended.
    pub async fn flow_events(&self, filter: FlowFilter) -> Result<FlowFollower, BalancerError> {
        Ok(self.access.ask(|reply| Command::FlowEvents(filter, reply)).await?)
    }

    /// Anything that the admin API can ask.
    pub fn access(&self) -> Access {
        self.access.clone()
    }

    /// Detaches and removes everything, and waits until that is done.
    ///
    /// # Errors
    ///
    /// When something of it is still there.
    pub async fn stop(self) -> Result<(), BalancerError> {
        self.access.ask(Command::Stop).await?;
        self.wait().await
    }

    /// Ends it as a signal would, by `on-exit` of its configuration, and waits until it has ended.
    ///
    /// # Errors
    ///
    /// When something of it is still there that should not be.
    pub async fn end(self) -> Result<(), BalancerError> {
        let Self { end, ended, .. } = self;
        end.end();
        ended.await.map_err(|_| BalancerError::Gone)?.map_err(BalancerError::End)
    }

    /// Waits until it has ended, by whatever: a command on its socket can have it end.
    ///
    /// # Errors
    ///
    /// When something of it is still there that should not be.
    pub async fn wait(self) -> Result<(), BalancerError> {
        // Its handle is held meanwhile: dropped, it would end the instance.
        let Self { end: _held, ended, .. } = self;
        ended.await.map_err(|_| BalancerError::Gone)?.map_err(BalancerError::End)
    }
}
