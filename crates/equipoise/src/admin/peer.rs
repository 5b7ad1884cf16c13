//! Who is at the other end of a connection to the admin API.

use std::convert::Infallible;
use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::extract::connect_info::ConnectInfo;
use axum::http::request::Parts;

use crate::status::history::Author;

/// Who a connection, or a request on it, is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A user of this host, by the socket; none where that is not known.
    User(Option<u32>),
    /// Whoever is at this address.
    Address(IpAddr),
    /// Whoever has the key of this name.
    Key(String),
}

impl Peer {
    /// Whether it is a user of this host, who has come by the socket.
    pub fn is_of_this_host(&self) -> bool {
        matches!(self, Self::User(_))
    }

    /// As who has changed a configuration. Whoever is not known is told as nobody of this host.
    pub fn author(self) -> Author {
        /// The number that Linux gives to none.
        const NOBODY_KNOWN: u32 = u32::MAX;
        match self {
            Self::User(uid) => Author::User { uid: uid.unwrap_or(NOBODY_KNOWN) },
            Self::Address(address) => Author::Address { address },
            Self::Key(name) => Author::Key { name },
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let known = parts.extensions.get::<ConnectInfo<Self>>();
        Ok(known.map_or(Self::User(None), |ConnectInfo(peer)| peer.clone()))
    }
}
