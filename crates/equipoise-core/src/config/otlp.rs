//! Where metrics are pushed to.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::admin::Secret;
use super::as_text;
use super::name::Name;

/// A collector that metrics are pushed to, by OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Otlp {
    /// The collector.
    pub endpoint: Endpoint,
    /// How often they are pushed.
    #[serde(serialize_with = "as_text")]
    pub interval: Duration,
    /// How long the collector may take for an answer, from the look-up of its name on.
    #[serde(serialize_with = "as_text")]
    pub timeout: Duration,
    /// What requests say beside what all of them say, by names in lower case.
    pub headers: BTreeMap<String, Secret>,
    /// So, where the value is the first line of a file.
    pub header_files: BTreeMap<String, String>,
    /// What is told of this instance beside what is told anyway, or in its place.
    pub attributes: BTreeMap<String, String>,
    /// File of the authorities that are believed; none for those of this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

impl Otlp {
    /// One with all the rest at its default.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            headers: BTreeMap::new(),
            header_files: BTreeMap::new(),
            attributes: BTreeMap::new(),
            ca_file: None,
        }
    }
}

/// The URL of a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it is talked to over TLS.
    pub is_tls: bool,
    /// Where it is.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// What is asked for there.
    pub path: String,
}

/// Where a collector is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// At an address.
    Address(IpAddr),
    /// Where a name says.
    Name(Name),
}

impl Endpoint {
    /// The path of metrics (OTLP 1.5, "OTLP/HTTP Request").
    const PATH: &str = "/v1/metrics";

    /// Reads one; none for a text that is none, or that holds what is not for URLs: a password, or a question that may be one.
    pub(super) fn parse(text: &str, is_host: fn(&str) -> bool) -> Option<Self> {
        let (is_tls, rest) = match text.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("http://")?),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, Self::PATH),
        };
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte);
        if !path.bytes().all(is_plain) {
            return None;
        }
        let usual = if is_tls { 443 } else { 80 };
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                let port = if port.is_empty() { None } else { Some(port.strip_prefix(':')?) };
                (Host::Address(IpAddr::V6(host.parse().ok()?)), port)
            }
            None => {
                let (host, port) = match authority.split_once(':') {
                    Some((host, port)) => (host, Some(port)),
                    None => (authority, None),
                };
                let named =
                    || is_host(host).then(|| Name::Host(Arc::from(host.to_ascii_lowercase())));
                let address = host.parse().ok().map(|address| Host::Address(IpAddr::V4(address)));
                (address.or_else(|| named().map(Host::Name))?, port)
            }
        };
        let port = match port {
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().ok()?,
            Some(_) => return None,
            None => usual,
        };
        (port != 0).then(|| Self { is_tls, host, port, path: path.to_owned() })
    }

    /// Host and port, as `Host` has them: without a port that is the usual one.
    pub fn authority(&self) -> String {
        let host = match &self.host {
            Host::Address(IpAddr::V6(address)) => format!("[{address}]"),
            Host::Address(IpAddr::V4(address)) => address.to_string(),
            Host::Name(name) => name.text().to_owned(),
        };
        let usual = if self.is_tls { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
