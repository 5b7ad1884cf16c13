//! Health checks as they are configured: what a backend is asked, how often, and what is believed of the answers.
//!
//! Everything is resolved here: what settings, service, route and backend say has been merged key by key, and a backend
//! without a check has none. Knows nothing of how anything is asked.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::as_text;

/// How a backend is checked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct HealthCheck {
    /// What it is asked.
    #[serde(flatten)]
    pub question: Question,
    /// The port that is asked; none for the backend's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// From one check to the next.
    #[serde(serialize_with = "as_text")]
    pub interval: Duration,
    /// How long an answer may take.
    #[serde(serialize_with = "as_text")]
    pub timeout: Duration,
    /// From one check to the next while the verdict may change; counts only where it is shorter than `interval`.
    #[serde(serialize_with = "as_text")]
    pub fast_interval: Duration,
    /// Good answers in a row that make it healthy.
    pub healthy_threshold: u32,
    /// Bad answers in a row that make it unhealthy.
    pub unhealthy_threshold: u32,
}

/// What a backend is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Question {
    /// To accept a connection.
    Tcp,
    /// For a page.
    Http(Http),
    /// For a page, over TLS.
    Https(Https),
    /// Whether a service of its is serving, by `grpc.health.v1`.
    Grpc(Grpc),
    /// To answer a datagram.
    Udp(Udp),
    /// For a name.
    Dns(Dns),
    /// Not it but a command of this host is asked.
    Exec(Exec),
}

impl Question {
    /// Its name in the file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(_) => "http",
            Self::Https(_) => "https",
            Self::Grpc(_) => "grpc",
            Self::Udp(_) => "udp",
            Self::Dns(_) => "dns",
            Self::Exec(_) => "exec",
        }
    }

    /// Whether it goes to the backend in packets, and so can go to a VIP at it.
    pub fn is_by_packets(&self) -> bool {
        match self {
            Self::Exec(_) => false,
            Self::Tcp | Self::Http(_) | Self::Https(_) | Self::Grpc(_) => true,
            Self::Udp(_) | Self::Dns(_) => true,
        }
    }

    /// Whether it is asked in datagrams: whoever does not listen says so by ICMP alone.
    pub fn is_in_datagrams(&self) -> bool {
        match self {
            Self::Udp(_) | Self::Dns(_) => true,
            Self::Tcp | Self::Http(_) | Self::Https(_) | Self::Grpc(_) | Self::Exec(_) => false,
        }
    }
}

/// A page, and what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Http {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// What `Host` says; none for the address that is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Further headers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Status codes that are good.
    pub expected_codes: Codes,
    /// What the body must contain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_body: Option<String>,
    /// Whether redirects to the same address are followed.
    pub follow_redirects: bool,
}

/// A page over TLS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Https {
    /// The page.
    #[serde(flatten)]
    pub http: Http,
    /// The TLS.
    #[serde(flatten)]
    pub tls: Tls,
}

/// TLS, and who is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tls {
    /// The name that is asked for and that the certificate must have; none for the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// File of the authorities that are believed; none for those of this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// File of the certificate that is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<String>,
    /// File of its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<String>,
    /// Whether any certificate will do.
    pub insecure: bool,
}

/// A service of `grpc.health.v1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Grpc {
    /// The service's name; empty for the server as a whole.
    pub grpc_service: String,
    /// Over TLS; none for plain HTTP/2.
    #[serde(flatten, serialize_with = "serialize_tls")]
    pub tls: Option<Tls>,
}

/// A datagram, and what is expected of the answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Udp {
    /// What is sent.
    pub send: Payload,
    /// What the answer must contain; none for any answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<Payload>,
}

/// A name to be looked up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Dns {
    /// The name.
    pub query: String,
    /// Of which records.
    pub query_type: RecordType,
    /// The answer's code.
    pub expected_rcode: Rcode,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Exec {
    /// Program and arguments; good when it ends with 0.
    pub command: Vec<String>,
}

/// Status codes: ranges of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Codes(pub Vec<(u16, u16)>);

impl Codes {
    /// Whether a code is one of them.
    pub fn contains(&self, code: u16) -> bool {
        self.0.iter().any(|&(first, last)| (first..=last).contains(&code))
    }
}

impl Default for Codes {
    fn default() -> Self {
        Self([200, 201, 202, 204].map(|code| (code, code)).into())
    }
}

impl Serialize for Codes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Written {
            One(u16),
            Range(String),
        }
        serializer.collect_seq(self.0.iter().map(|&(first, last)| {
            if first == last {
                Written::One(first)
            } else {
                Written::Range(format!("{first}-{last}"))
            }
        }))
    }
}

/// Bytes of a datagram: text, or after `hex:` digits.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Payload {
    /// As it is written.
    pub written: String,
    /// What it says.
    pub bytes: Vec<u8>,
}

impl Payload {
    /// What a text says; nothing where the digits are none.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = match text.strip_prefix("hex:") {
            None => text.as_bytes().to_vec(),
            Some(digits) => {
                let digits: Vec<u8> =
                    digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
                if !digits.len().is_multiple_of(2) {
                    return None;
                }
                let byte = |pair: &[u8]| {
                    let text = std::str::from_utf8(pair).ok()?;
                    let is_digits = pair.iter().all(u8::is_ascii_hexdigit);
                    u8::from_str_radix(text, 16).ok().filter(|_| is_digits)
                };
                digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>()?
            }
        };
        Some(Self { written: text.to_owned(), bytes })
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.written)
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal, $number:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum $name {
            $($(#[$of])* #[serde(rename = $word)] $variant = $number,)+
        }

        impl $name {
            /// All, by their words in the file.
            pub const ALL: &[(&'static str, Self)] = &[$(($word, Self::$variant)),+];

            /// On the wire.
            pub fn number(self) -> u16 {
                self as u16
            }
        }
    };
}

words! {
    /// Types of DNS records.
    RecordType {
        /// IPv4 addresses.
        A = "A", 1;
        /// Name servers.
        Ns = "NS", 2;
        /// Another name.
        Cname = "CNAME", 5;
        /// The start of a zone.
        Soa = "SOA", 6;
        /// Names of addresses.
        Ptr = "PTR", 12;
        /// Mail servers.
        Mx = "MX", 15;
        /// Text.
        Txt = "TXT", 16;
        /// IPv6 addresses.
        Aaaa = "AAAA", 28;
        /// Services.
        Srv = "SRV", 33;
    }
}

words! {
    /// Codes of DNS answers.
    Rcode {
        /// It is answered.
        NoError = "NOERROR", 0;
        /// The question is not understood.
        FormErr = "FORMERR", 1;
        /// The server cannot answer.
        ServFail = "SERVFAIL", 2;
        /// There is no such name.
        NxDomain = "NXDOMAIN", 3;
        /// The server does not do that.
        NotImp = "NOTIMP", 4;
        /// The server does not want to.
        Refused = "REFUSED", 5;
    }
}

/// How a backend that has become healthy gets its share again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recovery {
    /// In which manner.
    pub mode: RecoveryMode,
    /// How long a linear one takes.
    #[serde(serialize_with = "as_text")]
    pub slow_start: Duration,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { mode: RecoveryMode::Steps, slow_start: Duration::from_secs(30) }
    }
}

/// In which manner a backend gets its share again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecoveryMode {
    /// A quarter more with each good check.
    #[default]
    Steps,
    /// More and more with time.
    Linear,
    /// At once.
    None,
}

/// What becomes of a pool of which too few backends are usable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Panic {
    /// Percent of the backends that are usable, at or below which this is so; under 100.
    pub threshold: u8,
    /// What becomes of it.
    pub policy: PanicPolicy,
}

/// What becomes of a pool of which too few backends are usable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PanicPolicy {
    /// Health is ignored.
    #[default]
    All,
    /// It has no backend to choose.
    None,
    /// Other backends take its place.
    Fallback,
}

fn serialize_tls<S: Serializer>(tls: &Option<Tls>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Written<'a> {
        tls: bool,
        #[serde(flatten, skip_serializing_if = "Option::is_none")]
        how: Option<&'a Tls>,
    }
    Written { tls: tls.is_some(), how: tls.as_ref() }.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_text_or_digits() {
        let bytes = |text| Payload::parse(text).map(|payload| payload.bytes);
        assert_eq!(bytes("PING\n"), Some(b"PING\n".to_vec()));
        assert_eq!(bytes("hex:00 ff0A"), Some(vec![0, 255, 10]));
        assert_eq!(bytes("hex:"), Some(vec![]));
        for wrong in ["hex:0", "hex:0g", "hex:+1", "hex:é"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn codes_are_numbers_and_ranges() {
        let codes = Codes(vec![(200, 299), (404, 404)]);
        assert!(codes.contains(200) && codes.contains(299) && codes.contains(404));
        assert!(!codes.contains(300) && !codes.contains(199));
        assert_eq!(serde_json::to_string(&codes).unwrap(), r#"["200-299",404]"#);
        assert_eq!(serde_json::to_string(&Codes::default()).unwrap(), "[200,201,202,204]");
    }
}
