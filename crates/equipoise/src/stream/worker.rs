//! The worker: takes up connections, has each go on to a backend, and tells the control plane what becomes of them.
//!
//! It has what it needs from its start on: the listening socket, and a socket that control planes talk to it by, one at a time. Whatever
//! becomes of those, it goes on as its last table says; told to retire, it ends with its last connection.

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep, sleep_until};

use self::shared::Shared;
use super::wire::{self, FromWorker, News, ToWorker};
use crate::privileges;

mod connection;
mod segments;
mod shared;

/// How often it is told how far connections have got.
const TOLD: Duration = Duration::from_secs(1);
/// How long a worker that retires still takes up what had begun to connect: a client that has lost what answers its SYN
/// asks again after 1 s and 3 s.
const LATE: Duration = Duration::from_secs(5);
/// What to wait after the kernel has refused a connection, as when there are no more files.
const AFTER_REFUSAL: Duration = Duration::from_millis(100);
/// News that are sent at once, at most.
const BATCH: usize = 1024;

/// Runs in a process of its own, with the listening socket as its standard input and the socket for control planes as its standard
/// output, until it is told to end.
///
/// # Errors
///
/// When they are not there, or cannot be waited for.
pub fn run_process() -> io::Result<()> {
    use std::os::fd::AsFd as _;
    let listener: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let control: OwnedFd = io::stdout().as_fd().try_clone_to_owned()?;
    // Two files for each of two ways, beside the sockets.
    let limit = getrlimit(Resource::Nofile);
    // Where that is refused, as many as there may be are enough until connections cannot be taken up, which is told.
    let _: rustix::io::Result<()> =
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    // What it may hold is freed when it closes: nobody else has these open.
    let nothing = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    // It reads what anybody sends, and needs none of what its parent may do.
    privileges::give_up()?;
    let shared = Arc::new(Shared::default());
    let told = Arc::clone(&shared);
    // Its standard error is nobody's.
    std::panic::set_hook(Box::new(move |panic| told.warn("a defect", panic)));
    run_with(listener.into(), control.into(), shared)
}

/// Runs on this thread and some more, until it is told to end.
///
/// # Errors
///
/// When a socket cannot be waited for.
pub fn run(listener: StdTcpListener, control: StdUnixListener) -> io::Result<()> {
    run_with(listener, control, Arc::default())
}

fn run_with(
    listener: StdTcpListener,
    control: StdUnixListener,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("equipoise-streams")
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        listener.set_nonblocking(true)?;
        control.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        serve(listener, UnixListener::from_std(control)?, shared).await;
        Ok(())
    });
    // Connections that are left end with it.
    runtime.shutdown_background();
    ended
}

async fn serve(listener: TcpListener, control: UnixListener, shared: Arc<Shared>) {
    let taking = tokio::spawn(take_up(listener, Arc::clone(&shared)));
    let telling = tokio::spawn(tell_progress(Arc::clone(&shared)));
    tokio::select! {
        () = answer(control, &shared) => {}
        () = retire(&shared) => {}
    }
    taking.abort();
    telling.abort();
}

/// Takes up connection after connection.
async fn take_up(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((client, peer)) => {
                tokio::spawn(connection::serve(client, peer, Arc::clone(&shared)));
            }
            Err(error) => {
                shared.warn("connections cannot be taken up", &error);
                sleep(AFTER_REFUSAL).await;
            }
        }
    }
}

async fn tell_progress(shared: Arc<Shared>) {
    let mut ticks = interval(TOLD);
    loop {
        ticks.tick().await;
        shared.tell_progress();
    }
}

/// Until it is to retire, and all that it has taken up is over.
async fn retire(shared: &Shared) {
    shared.is_retiring().await;
    sleep(LATE).await;
    shared.is_idle().await;
}

/// Answers control planes, until one says that it ends now.
async fn answer(control: UnixListener, shared: &Arc<Shared>) {
    let (stop, mut stopped) = mpsc::channel(1);
    loop {
        tokio::select! {
            accepted = control.accept() => match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(talk(stream, Arc::clone(shared), stop.clone()));
                }
                Err(error) => {
                    shared.warn("control planes cannot be answered", &error);
                    sleep(AFTER_REFUSAL).await;
                }
            },
            _ = stopped.recv() => return,
        }
    }
}

async fn talk(stream: UnixStream, shared: Arc<Shared>, stop: mpsc::Sender<()>) {
    let (mut from, to) = stream.into_split();
    // Until whoever talks listens, answers are written here; from then on news alone are.
    let mut to = Some(to);
    let mut telling: Option<JoinHandle<()>> = None;
    let ended = async {
        while let Some(message) = wire::read(&mut from).await? {
            match message {
                ToWorker::Listen => {
                    let (hello, news) = shared.attach();
                    telling = to.take().map(|to| tokio::spawn(tell(to, hello, news)));
                }
                ToWorker::Table(table) => {
                    shared.take(*table);
                    if let Some(to) = &mut to {
                        wire::write(to, &FromWorker::Took).await?;
                    }
                }
                ToWorker::End { connections, why } => shared.end(&connections, why),
                ToWorker::Retire => shared.retire(),
                ToWorker::Stop => end_all(&shared, &stop).await,
            }
        }
        Ok::<(), io::Error>(())
    };
    if let Err(error) = ended.await {
        shared.warn("what the control plane says is not understood", &error);
    }
    if let Some(telling) = telling {
        telling.abort();
    }
}

async fn end_all(shared: &Shared, stop: &mpsc::Sender<()>) {
    shared.end_all();
    let until = Instant::now() + AFTER_REFUSAL;
    tokio::select! {
        () = shared.is_idle() => {}
        () = sleep_until(until) => {}
    }
    // The end is under way where there is no room.
    let _: Result<_, _> = stop.try_send(());
}

async fn tell(mut to: OwnedWriteHalf, hello: Vec<FromWorker>, mut news: mpsc::Receiver<News>) {
    for message in hello {
        if wire::write(&mut to, &message).await.is_err() {
            return;
        }
    }
    let mut batch = Vec::new();
    // Whoever does not listen any more hears everything anew when it comes back.
    while news.recv_many(&mut batch, BATCH).await > 0 {
        let message = FromWorker::News(std::mem::take(&mut batch));
        if wire::write(&mut to, &message).await.is_err() {
            return;
        }
    }
}
