//! HTTP for clients that may be slow: what one of them does not send, or does not read, keeps nobody else waiting.
//!
//! Each connection is a task. It has so much time to say all of a request, and its client so much to read on; there are so many at a time,
//! and where one more comes, the oldest that nothing is being done for makes room. So whoever opens connections and says nothing on them
//! holds up neither who asks something nor the program itself.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use body::{Answer, Asked};
use stage::{Stage, Stages};
use stream::Read;

mod body;
mod stage;
mod stream;

/// What to wait after the kernel has refused a connection, as when there are no more files.
const AFTER_REFUSAL: Duration = Duration::from_millis(500);

/// How long clients may take, and how many of them there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For agreeing on TLS.
    pub(crate) agreeing: Duration,
    /// For the head of a request, from the end of the answer before it.
    pub(crate) head: Duration,
    /// For the body of a request.
    pub(crate) body: Duration,
    /// Until some of what has been written is read.
    pub(crate) unread: Duration,
    /// Connections at a time.
    pub(crate) most: usize,
}

/// What clients are told of where nothing else is said.
pub(crate) const PATIENCE: Patience = Patience {
    agreeing: Duration::from_secs(10),
    head: Duration::from_secs(30),
    body: Duration::from_secs(10),
    unread: Duration::from_secs(30),
    most: 256,
};

/// A connection that bytes go over both ways.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A connection that is ready for requests.
pub(crate) type Stream = Box<dyn Duplex>;

/// A connection that has come in.
pub(crate) struct Accepted<P> {
    /// Who it is of.
    pub(crate) by: P,
    /// What has to be agreed before there are requests.
    pub(crate) ready: Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>,
}

/// A way in.
pub(crate) trait Entrance: Send + 'static {
    /// Whom connections are of.
    type Peer: Clone + Send + Sync + 'static;

    /// The next connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<Accepted<Self::Peer>>> + Send;
}

/// Serves what comes in, until it is told to end or nobody is left who could say so. The way in is closed then, and what connections there
/// are is given back, to be waited for.
pub(crate) async fn serve(
    mut entrance: impl Entrance,
    router: Router,
    mut ended: oneshot::Receiver<()>,
    patience: Patience,
) -> Connections {
    let mut connections = Connections::default();
    // One that has come in, and that there may be no room for yet.
    let mut next = None;
    loop {
        if let Some(accepted) = next.take_if(|_| connections.make_room(patience.most)) {
            connections.begin(accepted, router.clone(), patience);
        }
        tokio::select! {
            // A sender that is dropped ends it as well.
            _ = &mut ended => return connections,
            Some(gone) = connections.tasks.join_next_with_id() => connections.forget(gone),
            () = connections.stages.changed(), if next.is_some() => {}
            accepted = entrance.accept(), if next.is_none() => match accepted {
                Ok(accepted) => next = Some(accepted),
                Err(error) => {
                    tracing::debug!(%error, "a connection was not accepted");
                    tokio::select! {
                        _ = &mut ended => return connections,
                        () = sleep(AFTER_REFUSAL) => {}
                    }
                }
            },
        }
    }
}

/// A connection that is served.
struct Held {
    id: Id,
    stage: Arc<Stage>,
    task: AbortHandle,
}

/// Those that are served.
pub(crate) struct Connections {
    tasks: JoinSet<()>,
    /// The oldest first.
    held: VecDeque<Held>,
    stages: Stages,
    /// Whether no more requests are taken.
    ending: watch::Sender<bool>,
}

impl Default for Connections {
    fn default() -> Self {
        let (ending, _) = watch::channel(false);
        Self { tasks: JoinSet::new(), held: VecDeque::new(), stages: Stages::default(), ending }
    }
}

impl Connections {
    /// Lets what has been asked be answered, and no more be asked.
    pub(crate) async fn finish(mut self) {
        self.ending.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }

    /// Makes room for one more, if that can be: the oldest that nothing is done for gives way, else the oldest whose answer is
    /// not read on.
    fn make_room(&mut self, most: usize) -> bool {
        if self.held.len() < most {
            return true;
        }
        let oldest = |is: fn(&Stage) -> bool| self.held.iter().position(|held| is(&held.stage));
        let found = oldest(Stage::is_waiting).or_else(|| oldest(Stage::is_stuck));
        let Some(held) = found.and_then(|index| self.held.remove(index)) else { return false };
        tracing::debug!("a connection has made room for another");
        held.task.abort();
        true
    }

    fn begin<P>(&mut self, accepted: Accepted<P>, router: Router, patience: Patience)
    where
        P: Clone + Send + Sync + 'static,
    {
        let stage = Arc::new(self.stages.first());
        let serving = Serving { router, stage: Arc::clone(&stage), patience };
        let task = self.tasks.spawn(serving.serve(accepted, self.ending.subscribe()));
        self.held.push_back(Held { id: task.id(), stage, task });
    }

    fn forget(&mut self, gone: Result<(Id, ()), JoinError>) {
        let id = gone.map_or_else(|error| error.id(), |(id, ())| id);
        self.held.retain(|held| held.id != id);
    }
}

/// How a connection is served.
struct Serving {
    router: Router,
    stage: Arc<Stage>,
    patience: Patience,
}

impl Serving {
    async fn serve<P>(self, accepted: Accepted<P>, mut ending: watch::Receiver<bool>)
    where
        P: Clone + Send + Sync + 'static,
    {
        let Self { router, stage, patience } = self;
        let Accepted { by, ready } = accepted;
        let stream = match timeout(patience.agreeing, ready).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "agreeing on TLS"),
            Err(_) => return tracing::debug!("agreeing on TLS took too long"),
        };
        let stream = Read::new(stream, Arc::clone(&stage), patience.unread);
        let router = TowerToHyperService::new(router);
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(by.clone()));
            let answering = Arc::clone(&stage);
            let asked = |body| Asked::new(body, Arc::clone(&answering), patience.body);
            answering.answers();
            let answer = router.call(request.map(asked));
            async move {
                let response: Result<Response<_>, Infallible> = answer.await;
                response.map(|response| response.map(|body| Answer::new(body, answering)))
            }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(patience.head);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let outcome = tokio::select! {
            outcome = connection.as_mut() => outcome,
            () = told(&mut ending) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "a connection has ended");
        }
    }
}

/// Comes when no more requests are to be taken.
async fn told(ending: &mut watch::Receiver<bool>) {
    // Whoever could say so may be gone: that is the same.
    drop(ending.wait_for(|is_ending| *is_ending).await);
}

#[cfg(test)]
mod tests;
