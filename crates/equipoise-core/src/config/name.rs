//! Names that stand for backends and sources: how they are configured, and what a backend knows of the name that it comes of.
//!
//! A name is looked up elsewhere (`resolve.rs`). Knows no addresses.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{HealthCheck, ProxyProtocol, Role, as_text};
use crate::share::Weight;

/// What is looked up, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// A host: its A and AAAA records.
    Host(Arc<str>),
    /// A service: its SRV records, and the A and AAAA records of the hosts that they name.
    Srv(Arc<str>),
}

impl Name {
    /// As it is written.
    pub fn text(&self) -> &str {
        match self {
            Self::Host(text) | Self::Srv(text) => text,
        }
    }

    /// What kind of name it is: the key in the file.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Host(_) => "host",
            Self::Srv(_) => "srv",
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text().serialize(serializer)
    }
}

/// Backends that are configured by a name: one for each place that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: Name,
    /// The port of a host; 0 for the one that the client has sent to. An SRV record tells its own.
    pub port: u16,
    /// Configured weight of all of them together.
    pub weight: u16,
    /// Live flows of each at most; 0 for no limit.
    pub max_flows: u32,
    /// When they are chosen.
    pub role: Role,
    /// From one look-up to the next; none for as long as answers say.
    pub refresh: Option<Duration>,
    /// What they are told before the first byte of a connection; none for nothing.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How they are checked; none where they are not.
    pub health_check: Option<Arc<HealthCheck>>,
}

impl Named {
    /// As operators name it: the host and the port, or the name of SRV records.
    pub fn text(&self) -> String {
        match (&self.name, self.port) {
            (Name::Srv(_), _) | (_, 0) => self.name.to_string(),
            (Name::Host(host), port) => format!("{host}:{port}"),
        }
    }

    /// Where a backend is, of a place that the name stands for.
    pub fn place(&self, mut place: SocketAddr) -> SocketAddr {
        if let Name::Host(_) = self.name {
            place.set_port(self.port);
        }
        place
    }
}

/// Written by serde as the file has it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Written<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    srv: Option<&'a Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    weight: u16,
    max_flows: u32,
    backup: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy_protocol: Option<ProxyProtocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    health_check: Option<&'a HealthCheck>,
}

#[derive(Serialize)]
struct Text(#[serde(serialize_with = "as_text")] Duration);

impl Serialize for Named {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_host = matches!(self.name, Name::Host(_));
        Written {
            host: is_host.then_some(&self.name),
            srv: (!is_host).then_some(&self.name),
            port: (self.port != 0).then_some(self.port),
            weight: self.weight,
            max_flows: self.max_flows,
            backup: self.role == Role::Backup,
            refresh: self.refresh.map(Text),
            proxy_protocol: self.proxy_protocol,
            health_check: self.health_check.as_deref(),
        }
        .serialize(serializer)
    }
}

/// What a backend that comes of names has of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The names, in the order of the file.
    pub names: Vec<Arc<Named>>,
    /// Its part of their weights, with that of the file where it is there by its address too.
    pub weight: Weight,
}

/// How names are looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Dns {
    /// Who is asked; the system's resolvers, hosts file and search domains where there are none.
    pub resolvers: Arc<[SocketAddr]>,
    /// The shortest time that an answer is believed, whatever it says.
    #[serde(serialize_with = "as_text")]
    pub min_ttl: Duration,
    /// The longest.
    #[serde(serialize_with = "as_text")]
    pub max_ttl: Duration,
    /// By how many percent one answer may make the number of addresses smaller, where health does not agree.
    pub max_shrink: u8,
    /// What becomes of a configuration with a name that has never been looked up with success.
    pub on_first_failure: OnFirstFailure,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            resolvers: Arc::default(),
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(300),
            max_shrink: 50,
            on_first_failure: OnFirstFailure::default(),
        }
    }
}

/// What becomes of a configuration with a name that has never been looked up with success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFirstFailure {
    /// It is taken; the name stands for nothing yet.
    #[default]
    Start,
    /// It is refused.
    Refuse,
}
