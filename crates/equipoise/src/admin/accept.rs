//! Connections to a port, with or without TLS.
//!
//! Each agrees on TLS in a task of its own, so that one that is slow, or never ends, holds up nobody; there are so many at a time, and
//! each has so much time. The certificate is that of the moment: another one is for connections from then on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// How long agreeing on TLS may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections that agree on TLS at a time; others wait in the kernel.
const AT_ONCE: usize = 256;
/// What to wait after the kernel has refused a connection, as when there are no more files.
const AFTER_REFUSAL: Duration = Duration::from_millis(500);

/// The certificate of the moment; none for plain connections.
pub(super) type Identity = Option<Arc<ServerConfig>>;

/// A connection that bytes go over both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

type Stream = Box<dyn Duplex>;

/// Connections that are ready to be served.
#[derive(Debug)]
pub struct Incoming {
    address: SocketAddr,
    ready: mpsc::Receiver<(Stream, SocketAddr)>,
    task: JoinHandle<()>,
}

impl Incoming {
    /// Accepts the connections of a listener.
    ///
    /// # Errors
    ///
    /// When it has no address.
    pub(super) fn new(
        listener: TcpListener,
        identity: watch::Receiver<Identity>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(1);
        let task = tokio::spawn(accept(listener, identity, sender));
        Ok(Self { address, ready, task })
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener for Incoming {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The task ends with this alone.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

async fn accept(
    listener: TcpListener,
    identity: watch::Receiver<Identity>,
    ready: mpsc::Sender<(Stream, SocketAddr)>,
) {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection to the admin API was not accepted");
                sleep(AFTER_REFUSAL).await;
                continue;
            }
        };
        let (identity, ready) = (identity.borrow().clone(), ready.clone());
        tokio::spawn(async move {
            match timeout(PATIENCE, agreed(stream, identity)).await {
                Ok(Ok(stream)) => drop(ready.send((stream, from)).await),
                Ok(Err(error)) => tracing::debug!(%from, %error, "agreeing on TLS"),
                Err(_) => tracing::debug!(%from, "agreeing on TLS took too long"),
            }
            drop(permit);
        });
    }
}

async fn agreed(stream: TcpStream, identity: Identity) -> io::Result<Stream> {
    // Answers are small, and nobody is to wait for more of them.
    stream.set_nodelay(true)?;
    match identity {
        None => Ok(Box::new(stream)),
        Some(config) => Ok(Box::new(TlsAcceptor::from(config).accept(stream).await?)),
    }
}
