//! Who is at the other end of the admin socket.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::request::Parts;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

use crate::status::history::Author;

/// The user of this host that a connection is of; none where that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(Option<u32>);

impl Peer {
    /// As who has changed a configuration. Whoever is not known is told as nobody of this host.
    pub fn author(self) -> Author {
        /// The number that Linux gives to none.
        const NOBODY_KNOWN: u32 = u32::MAX;
        Author::User { uid: self.0.unwrap_or(NOBODY_KNOWN) }
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|credentials| credentials.uid()))
    }
}

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let known = parts.extensions.get::<ConnectInfo<Self>>();
        Ok(known.map_or(Self(None), |ConnectInfo(peer)| *peer))
    }
}
