//! Connections to a port, with or without TLS.
//!
//! The certificate is that of the moment: another one is for connections from then on. Agreeing on TLS is a part of serving a connection, so
//! that one that is slow, or never ends, holds up nobody.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::peer::Peer;
use crate::serving::{Accepted, Entrance, Stream};

/// The certificate of the moment; none for plain connections.
pub(super) type Identity = Option<Arc<ServerConfig>>;

/// A port as a way in.
pub(super) struct Port {
    listener: TcpListener,
    identity: watch::Receiver<Identity>,
}

impl Port {
    /// With the certificates of from now on.
    pub(super) fn new(listener: TcpListener, identity: watch::Receiver<Identity>) -> Self {
        Self { listener, identity }
    }
}

impl Entrance for Port {
    type Peer = Peer;

    async fn accept(&mut self) -> io::Result<Accepted<Peer>> {
        let (stream, from) = self.listener.accept().await?;
        let identity = self.identity.borrow().clone();
        let by = Peer::Address(from.ip().to_canonical());
        Ok(Accepted { by, ready: Box::pin(agreed(stream, identity)) })
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
