//! Where the admin API is to be had beside its socket, and who may use it there.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Serialize, Serializer};

/// A listener of the admin API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Admin {
    /// Address and port.
    pub listen: SocketAddr,
    /// Who it shows itself to be; none for plain HTTP, which there is on loopback alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<AdminTls>,
    /// Who may use it; none for everybody, which there is on loopback alone.
    pub keys: Vec<AdminKey>,
    /// Origins of pages whose scripts may use it.
    pub allowed_origins: Vec<String>,
}

impl Default for Admin {
    fn default() -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 8081));
        Self { listen, tls: None, keys: Vec::new(), allowed_origins: Vec::new() }
    }
}

/// Files in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AdminTls {
    /// The certificate, and those that lead to its authority.
    pub certificate_file: String,
    /// Its private key.
    pub key_file: String,
}

/// A key that whoever has it may use the API with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AdminKey {
    /// What the history calls who has it.
    pub name: String,
    /// The key itself.
    #[serde(flatten)]
    pub secret: KeySource,
    /// What may be done with it.
    pub scope: Scope,
}

/// Where a key stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeySource {
    /// In the configuration.
    Key(Secret),
    /// In the first line of a file.
    KeyFile(String),
}

/// What may be done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Asking alone.
    Read,
    /// Everything.
    Write,
}

/// A text that is told nobody: neither when a configuration is written out, nor in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// What is written in its place: no key, so that nobody takes it for one.
    pub const HIDDEN: &str = "<hidden>";
    /// Characters of a key at least.
    pub const LEAST: usize = 16;
    /// At most.
    pub const MOST: usize = 512;

    /// A key; none for a text that is none: what is no token of HTTP (RFC 9110 section 11.2), or is soon guessed.
    pub fn new(text: &str) -> Option<Self> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        let is_key = (Self::LEAST..=Self::MOST).contains(&text.len()) && text.bytes().all(is_plain);
        is_key.then(|| Self(text.to_owned()))
    }

    /// The value of a header; none for a text that cannot be one: empty or with spaces around it, longer than servers take, or with
    /// what is no sign of ASCII; or what is written in place of one.
    pub fn of_header(text: &str) -> Option<Self> {
        let is_plain = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        let is_value = (1..=4_096).contains(&text.len()) && text.trim() == text;
        let is_value = is_value && text != Self::HIDDEN && text.bytes().all(is_plain);
        is_value.then(|| Self(text.to_owned()))
    }

    /// The text itself, for a file that is made of another one.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// The text itself, to be compared with, or sent to who is to have it.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Self::HIDDEN)
    }
}
