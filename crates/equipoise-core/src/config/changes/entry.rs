//! Which backend of a pool a change is about: as the file has it, by its address or by a name.

use std::net::SocketAddr;
use std::sync::Arc;

use super::tree::{items, text, value};
use crate::config::file::{Node, Value};
use crate::config::target;
use crate::id::{BackendKey, DEFAULT_ROUTE, RouteName};

/// A backend of a pool, as the file has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolEntry {
    /// Name of the service.
    pub service: Arc<str>,
    /// The route that leads to the pool; none for that of all clients.
    pub route: RouteName,
    /// What is there.
    pub at: EntryAt,
}

/// What a backend is written by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryAt {
    /// Its address, and its port if it has one of its own.
    Address(SocketAddr),
    /// All that a name stands for: a host with its port, or the name of SRV records, in lower case.
    Name(Arc<str>),
}

impl EntryAt {
    /// From what operators write.
    pub fn parse(text: &str) -> Self {
        let name = || Self::Name(text.to_ascii_lowercase().into());
        target::parse(text).map_or_else(name, Self::Address)
    }

    /// As operators write it.
    pub fn text(&self) -> String {
        match self {
            Self::Address(address) => target::text(*address),
            Self::Name(name) => name.as_ref().to_owned(),
        }
    }

    /// Whether this is what an entry of a list of backends has.
    fn is(&self, entry: &Node) -> bool {
        match self {
            Self::Address(address) => {
                text(entry, "address").and_then(target::parse) == Some(*address)
            }
            Self::Name(name) => written(entry).is_some_and(|text| text == **name),
        }
    }

    /// Where in a list it is.
    pub(super) fn position(&self, list: &mut Node) -> Option<usize> {
        items(list)?.iter().position(|entry| self.is(entry))
    }
}

/// The name that an entry has, as operators write it.
fn written(entry: &Node) -> Option<String> {
    if let Some(srv) = text(entry, "srv") {
        return Some(srv.to_ascii_lowercase());
    }
    let host = text(entry, "host")?.to_ascii_lowercase();
    let port = value(entry, "port").and_then(Value::number);
    Some(port.map_or_else(|| host.clone(), |port| format!("{host}:{port}")))
}

impl PoolEntry {
    /// The route's name in words.
    pub fn route_name(&self) -> &str {
        self.route.as_deref().unwrap_or(DEFAULT_ROUTE)
    }
}

impl From<BackendKey> for PoolEntry {
    fn from(BackendKey { service, route, address }: BackendKey) -> Self {
        Self { service, route, at: EntryAt::Address(address) }
    }
}
