//! Keeps workers: starts one where there is something to take up, tells it how connections go on, and hears from all that there are.
//!
//! Each control plane starts a worker of its own; those of processes before it get no new connections from then on, and end with
//! their last one. Workers are found by their sockets, in a directory beside the instance's own socket.

use std::fs::Permissions;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncRead;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Command;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::mirror::{Mirror, Number};
use super::table::Table;
use super::wire::{self, FromWorker, News, Refused, ToWorker, Total};
use super::worker;

/// What makes a process a worker: a subcommand that nobody else gives.
pub const COMMAND: &str = "stream-worker";
/// Connections that wait to be taken up, at most; the system's own limit may be lower.
const BACKLOG: i32 = 65_535;
/// How long a worker may take to begin, and to end.
const WITHIN: Duration = Duration::from_secs(5);

/// What a worker runs as.
#[derive(Clone, Debug)]
pub enum How {
    /// A process of this binary, which knows the subcommand [`COMMAND`].
    Process(PathBuf),
    /// Threads of this process: connections end with it.
    Threads,
}

/// Why connections are not taken up.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// There is no listening socket.
    #[error("making a socket for connections that are taken up: {0}")]
    Listen(#[source] io::Error),
    /// There is no worker.
    #[error("starting a worker for connections that are taken up: {0}")]
    Start(#[source] io::Error),
    /// It does not take what it is to know.
    #[error("telling the worker that takes up connections how they go on: {0}")]
    Table(#[source] io::Error),
    /// The data plane does not lead them there.
    #[error("leading connections to the worker that takes them up: {0}")]
    Lead(String),
}

/// A worker that tells us what it does.
#[derive(Debug)]
struct Worker {
    id: u32,
    pid: u32,
    socket: PathBuf,
    tell: mpsc::UnboundedSender<ToWorker>,
    task: JoinHandle<()>,
    /// Where tables are put, and taken before anything is led by them.
    tables: Option<StdUnixStream>,
}

impl Worker {
    fn put(&mut self, table: &ToWorker) -> io::Result<()> {
        let stream = match self.tables.take() {
            Some(stream) => stream,
            None => StdUnixStream::connect(&self.socket)?,
        };
        stream.set_read_timeout(Some(WITHIN))?;
        stream.set_write_timeout(Some(WITHIN))?;
        match wire::ask(&stream, table)? {
            FromWorker::Took => {
                self.tables = Some(stream);
                Ok(())
            }
            FromWorker::Hello { .. } | FromWorker::News(_) => {
                Err(io::Error::other("its answer is none that is known"))
            }
        }
    }
}

/// Keeps the workers of an instance.
#[derive(Debug)]
pub struct Keeper {
    place: PathBuf,
    how: How,
    mirror: Mirror,
    /// The one that takes up what comes.
    current: Option<Worker>,
    /// Those of before.
    others: Vec<Worker>,
    /// What the current one was last told.
    told: Option<Table>,
    gone: Arc<Notify>,
}

impl Keeper {
    /// Of the instance with this socket; workers have theirs in a directory beside it.
    pub fn new(socket: &Path, how: How) -> Self {
        Self {
            place: place(socket),
            how,
            mirror: Mirror::default(),
            current: None,
            others: Vec::new(),
            told: None,
            gone: Arc::default(),
        }
    }

    /// What there is to know of connections.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// Takes up with the workers that there are.
    pub async fn find(&mut self) {
        for socket in sockets(&self.place) {
            let Ok(stream) = UnixStream::connect(&socket).await else {
                // Nobody is there any more.
                let _: io::Result<()> = std::fs::remove_file(&socket);
                continue;
            };
            match self.hear((socket, stream)).await {
                Ok(worker) => self.others.push(worker),
                Err(error) => tracing::warn!(%error, "a worker of before does not answer"),
            }
        }
    }

    /// There is a worker, to whose listening socket connections are led by `lead`.
    ///
    /// # Errors
    ///
    /// When nobody takes them up; those of before go on.
    pub async fn begin(
        &mut self,
        lead: impl FnOnce(BorrowedFd<'_>) -> Result<(), String>,
    ) -> Result<(), StreamError> {
        self.others.retain(|worker| !worker.task.is_finished());
        if self.is_broken() {
            (self.current, self.told) = (None, None);
        }
        if self.current.is_none() {
            self.current = Some(self.start(lead).await?);
        }
        Ok(())
    }

    /// Connections go on as the table says from here on; waits until the worker has it, which takes it milliseconds.
    ///
    /// # Errors
    ///
    /// When it does not take it in time.
    pub fn tell(&mut self, table: Table) -> Result<(), StreamError> {
        let Some(worker) = &mut self.current else { return Ok(()) };
        if self.told.as_ref() == Some(&table) {
            return Ok(());
        }
        let message = ToWorker::Table(Box::new(table.clone()));
        if let Err(error) = worker.put(&message) {
            worker.tables = None;
            self.told = None;
            return Err(StreamError::Table(error));
        }
        self.told = Some(table);
        Ok(())
    }

    /// Those of before take up nothing any more, and the current one neither where there is nothing to take up.
    pub fn retire(&mut self) {
        if self.told.as_ref().is_some_and(Table::is_empty) {
            self.others.extend(self.current.take());
            self.told = None;
        }
        for worker in &self.others {
            // One that is gone takes up nothing.
            let _: Result<_, _> = worker.tell.send(ToWorker::Retire);
        }
    }

    async fn start(
        &self,
        lead: impl FnOnce(BorrowedFd<'_>) -> Result<(), String>,
    ) -> Result<Worker, StreamError> {
        let listener = listener().map_err(StreamError::Listen)?;
        let (socket, control) = self.control().map_err(StreamError::Start)?;
        let own = listener.try_clone().map_err(StreamError::Listen)?;
        let begun = self.run((own, control), &socket).await;
        let worker = begun.inspect_err(|_| drop(std::fs::remove_file(&socket)));
        let worker = worker.map_err(StreamError::Start)?;
        if let Err(error) = lead(listener.as_fd()) {
            // One that is gone is as good as stopped.
            let _: Result<_, _> = worker.tell.send(ToWorker::Stop);
            return Err(StreamError::Lead(error));
        }
        tracing::info!(pid = worker.pid, "connections are taken up");
        Ok(worker)
    }

    async fn run(
        &self,
        (listener, control): (TcpListener, UnixListener),
        socket: &Path,
    ) -> io::Result<Worker> {
        match &self.how {
            How::Process(binary) => {
                let mut child = Command::new(binary)
                    .arg(COMMAND)
                    .stdin(Stdio::from(OwnedFd::from(listener)))
                    .stdout(Stdio::from(OwnedFd::from(control)))
                    // What it has to say comes to us; it may live longer than who reads what we say.
                    .stderr(Stdio::null())
                    // It is not for it what a terminal, or who watches over this process, has to say to this process.
                    .process_group(0)
                    .env_remove("NOTIFY_SOCKET")
                    .env_remove("WATCHDOG_PID")
                    .spawn()?;
                // For as long as this process is its parent.
                tokio::spawn(async move { drop(child.wait().await) });
            }
            How::Threads => {
                let run = move || {
                    if let Err(error) = worker::run(listener, control) {
                        tracing::error!(%error, "connections are not taken up any more");
                    }
                };
                let name = "equipoise-streams".to_owned();
                std::thread::Builder::new().name(name).spawn(run)?;
            }
        }
        let stream = UnixStream::connect(socket).await?;
        self.hear((socket.to_owned(), stream)).await
    }

    /// The socket for control planes, under a name of its own.
    fn control(&self) -> io::Result<(PathBuf, UnixListener)> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        std::fs::create_dir_all(&self.place)?;
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let socket = self.place.join(format!("{}-{number}.sock", std::process::id()));
            match UnixListener::bind(&socket) {
                Ok(listener) => {
                    std::fs::set_permissions(&socket, Permissions::from_mode(0o600))?;
                    return Ok((socket, listener));
                }
                // Of an earlier process that had this number.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Hears from a worker, from its first word on.
    async fn hear(&self, (socket, stream): (PathBuf, UnixStream)) -> io::Result<Worker> {
        let (mut from, mut to) = stream.into_split();
        timeout(WITHIN, wire::write(&mut to, &ToWorker::Listen)).await??;
        let Begun { id, pid, over, open } = timeout(WITHIN, Begun::read(&mut from)).await??;
        self.mirror.begin(id, over, open);
        let (tell, words) = mpsc::unbounded_channel();
        let ears = Ears { id, mirror: self.mirror.clone(), gone: Arc::clone(&self.gone) };
        let task = tokio::spawn(ears.run(socket.clone(), (from, to), words));
        Ok(Worker { id, pid, socket, tell, task, tables: None })
    }

    /// Waits until a worker is gone. Cancel-safe.
    pub async fn changed(&self) {
        self.gone.notified().await;
    }

    /// Whether the worker that takes up what comes is gone.
    pub fn is_broken(&self) -> bool {
        self.current.as_ref().is_some_and(|worker| worker.task.is_finished())
    }

    /// Ends these connections, for a reason as a number.
    pub fn end(&self, ended: &[Number], why: u32) {
        for worker in self.current.iter().chain(&self.others) {
            let of_it = ended.iter().filter(|number| number.worker == worker.id);
            let connections: Vec<u64> = of_it.map(|number| number.connection).collect();
            if !connections.is_empty() {
                // One that is gone has ended them.
                let _: Result<_, _> = worker.tell.send(ToWorker::End { connections, why });
            }
        }
    }

    /// Hears no worker any more: they go on, and another process hears them.
    pub fn let_go(&mut self) {
        for worker in self.current.take().into_iter().chain(self.others.drain(..)) {
            worker.task.abort();
        }
        self.told = None;
        self.mirror.let_go();
    }

    /// Ends the worker of our own, and lets those of before go on.
    pub async fn give_up(&mut self) {
        let others = std::mem::take(&mut self.others);
        for worker in &others {
            worker.task.abort();
        }
        self.stop().await;
    }

    /// Ends all workers, and their connections.
    pub async fn stop(&mut self) {
        for worker in self.current.take().into_iter().chain(std::mem::take(&mut self.others)) {
            // One that is gone is not to be told.
            let _: Result<_, _> = worker.tell.send(ToWorker::Stop);
            let is_other = worker.pid != std::process::id();
            if timeout(WITHIN, worker.task).await.is_err() && is_other {
                kill(worker.pid);
            }
            // It may be gone already.
            let _: io::Result<()> = std::fs::remove_file(&worker.socket);
        }
        // There may have been none.
        let _: io::Result<()> = std::fs::remove_dir(&self.place);
    }
}

/// Ends the workers that an instance without a process has left; says whether there were any.
pub async fn stop_left(socket: &Path) -> bool {
    let mut keeper = Keeper::new(socket, How::Threads);
    keeper.find().await;
    let is_any = !keeper.others.is_empty();
    keeper.stop().await;
    is_any
}

fn place(socket: &Path) -> PathBuf {
    socket.with_extension("streams")
}

fn sockets(place: &Path) -> Vec<PathBuf> {
    // Where there is no directory there are no workers.
    let Ok(entries) = std::fs::read_dir(place) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself.
        let _: rustix::io::Result<()> = kill_process(pid, Signal::KILL);
    }
}

/// A socket for both families, where the system has IPv6, that is reached by nobody who is not led there.
fn listener() -> io::Result<TcpListener> {
    listener_of(Domain::IPV6).or_else(|_| listener_of(Domain::IPV4))
}

fn listener_of(domain: Domain) -> io::Result<TcpListener> {
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    let loopback = if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
        socket.set_freebind_v6(true)?;
        // An address of IPv6 alone would make a socket for IPv6 alone of it (`inet6_bind` of the kernel).
        SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 0))
    } else {
        socket.set_freebind_v4(true)?;
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    };
    socket.bind(&loopback.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What a worker says first: who it is, and all that there is to tell.
struct Begun {
    id: u32,
    pid: u32,
    /// What is over: what has been moved, and what was refused.
    over: (Vec<Total>, Vec<Refused>),
    open: Vec<News>,
}

impl Begun {
    async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let hello = wire::read(from).await?;
        let Some(FromWorker::Hello { id, pid, totals, refused }) = hello else {
            return Err(io::Error::other("its first word is none that is known"));
        };
        let Some(FromWorker::News(open)) = wire::read(from).await? else {
            return Err(io::Error::other("it does not say which connections it has"));
        };
        Ok(Self { id, pid, over: (totals, refused), open })
    }
}

/// What hears a worker.
struct Ears {
    id: u32,
    mirror: Mirror,
    gone: Arc<Notify>,
}

impl Ears {
    async fn run(
        self,
        socket: PathBuf,
        (mut from, mut to): (OwnedReadHalf, OwnedWriteHalf),
        mut words: mpsc::UnboundedReceiver<ToWorker>,
    ) {
        let mut unsaid = None;
        loop {
            tokio::select! {
                () = self.listen(&mut from) => {}
                () = say(&mut to, &mut words, &mut unsaid) => {}
            }
            // We may have fallen behind; then it has everything anew.
            match self.again(&socket).await {
                Ok(stream) => (from, to) = stream.into_split(),
                Err(_) => break,
            }
        }
        self.mirror.end(self.id);
        // Nobody else has this name.
        let _: io::Result<()> = std::fs::remove_file(&socket);
        self.gone.notify_one();
    }

    async fn again(&self, socket: &Path) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(socket).await?;
        wire::write(&mut stream, &ToWorker::Listen).await?;
        let Begun { id, over, open, .. } = Begun::read(&mut stream).await?;
        if id != self.id {
            return Err(io::Error::other("another one"));
        }
        self.mirror.begin(id, over, open);
        Ok(stream)
    }

    async fn listen(&self, from: &mut OwnedReadHalf) {
        while let Ok(Some(message)) = wire::read(from).await {
            match message {
                FromWorker::News(news) => self.mirror.take(self.id, news),
                FromWorker::Hello { .. } | FromWorker::Took => {}
            }
        }
    }
}

/// Says word after word; one that could not be said stays in `unsaid`.
async fn say(
    to: &mut OwnedWriteHalf,
    words: &mut mpsc::UnboundedReceiver<ToWorker>,
    unsaid: &mut Option<ToWorker>,
) {
    loop {
        if unsaid.is_none() {
            *unsaid = words.recv().await;
        }
        let Some(word) = &*unsaid else {
            // Whoever has no more to say still listens.
            return std::future::pending().await;
        };
        if wire::write(to, word).await.is_err() {
            return;
        }
        *unsaid = None;
    }
}
