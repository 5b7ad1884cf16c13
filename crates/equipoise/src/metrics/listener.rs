//! The listener of metrics: a socket of its own for scrapers, and for who asks whether this balancer is alive and ready.
//!
//! Follows the configuration: another address is another socket, and one that cannot be had is told and tried again.

use std::convert::Infallible;
use std::future::ready as at_once;
use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get};
use equipoise_core::config::Metrics;
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Exporter, Format};
use crate::serving::{Accepted, Entrance, PATIENCE, Stream, serve};

/// Why nobody can scrape.
#[derive(Debug, thiserror::Error)]
#[error("metrics on {address}: {source}{}", hint(*.address, .source))]
pub struct ListenError {
    /// Where.
    address: SocketAddr,
    /// Why not.
    source: io::Error,
}

/// What the kernel does not say itself.
fn hint(address: SocketAddr, source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied if address.port() < 1024 => {
            "; a port below 1024 takes CAP_NET_BIND_SERVICE"
        }
        _ => "",
    }
}

/// What listens, if anything does.
#[derive(Debug)]
pub struct Listener {
    exporter: Exporter,
    serving: Option<Serving>,
}

#[derive(Debug)]
struct Serving {
    wanted: Metrics,
    /// Also ends it by being dropped.
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Nothing listens yet.
    pub fn new(exporter: Exporter) -> Self {
        Self { exporter, serving: None }
    }

    /// Listens as the configuration wants it from now on.
    ///
    /// # Errors
    ///
    /// When the address cannot be had; nothing listens then.
    pub async fn follow(&mut self, wanted: Option<&Metrics>) -> Result<(), ListenError> {
        if self.serving.as_ref().map(|serving| &serving.wanted) == wanted {
            return Ok(());
        }
        if let Some(serving) = self.serving.take() {
            serving.end().await;
        }
        let Some(wanted) = wanted else { return Ok(()) };
        let failed = |source| ListenError { address: wanted.listen, source };
        let listener = TcpListener::bind(wanted.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        tracing::info!(%address, path = wanted.path, "metrics");
        let router = router(&wanted.path, self.exporter.clone());
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(async {
            let connections = serve(Port(listener), router, ended, PATIENCE).await;
            // The port is free; what has been asked is still answered.
            tokio::spawn(connections.finish());
        });
        self.serving = Some(Serving { wanted: wanted.clone(), end, task });
        Ok(())
    }
}

impl Serving {
    /// Ends it, and waits until its address is free.
    async fn end(self) {
        drop(self.end);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "serving metrics");
        }
    }
}

/// A port as a way in for anybody.
struct Port(TcpListener);

impl Entrance for Port {
    type Peer = SocketAddr;

    async fn accept(&mut self) -> io::Result<Accepted<SocketAddr>> {
        let (stream, by) = self.0.accept().await?;
        let stream: Stream = Box::new(stream);
        Ok(Accepted { by, ready: Box::pin(at_once(Ok(stream))) })
    }
}

/// Metrics at a path, and whether this balancer is alive and ready, by any method.
pub fn router(path: &str, exporter: Exporter) -> Router {
    routes((path, any(scrape)), exporter)
}

/// The same among others, where metrics are had as all else is: to have them changes nothing, and so they are got.
pub fn among_others(path: &str, exporter: Exporter) -> Router {
    routes((path, get(scrape)), exporter)
}

fn routes((path, scrape): (&str, MethodRouter<Exporter>), exporter: Exporter) -> Router {
    Router::new()
        .route(path, scrape)
        .route("/health", any(async || "OK\n"))
        .route("/ready", any(ready))
        .with_state(exporter)
}

async fn scrape(State(exporter): State<Exporter>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = Format::accepted(accept);
    let parts = exporter.scrape(format).await;
    let length = parts.iter().map(String::len).sum::<usize>();
    let parts = parts.into_iter().map(Ok::<_, Infallible>);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(format.content_type())),
        (header::CONTENT_LENGTH, HeaderValue::from(length)),
    ];
    (headers, Body::from_stream(stream::iter(parts))).into_response()
}

/// Whoever fails over by it moves new flows away from a balancer that is drained, or that does not get them; those that it has go on.
async fn ready(State(exporter): State<Exporter>) -> Response {
    match exporter.unready().await {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}
