//! A flow that has opened or closed, as it is told: to whoever follows, and in the access log.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which flows are followed, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct FlowEventsRequest {
    /// Name of the service.
    pub service: Option<String>,
    /// The backend's address and port, as the configuration writes them.
    pub backend: Option<String>,
    /// Prefix or address of clients.
    pub client: Option<String>,
    /// How long they are followed, a year at most; without an end unless given.
    #[param(exclusive_minimum = 0, maximum = 31_536_000)]
    pub for_seconds: Option<f64>,
}

impl FlowEventsRequest {
    /// The longest that they are followed where an end is given.
    pub const LONGEST: f64 = 31_536_000.0;
}

/// A flow that has opened or closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FlowEvent {
    /// When that was read, RFC 3339.
    pub timestamp: String,
    /// `opened` or `closed`.
    #[schema(value_type = String)]
    pub event: Cow<'static, str>,
    /// `tcp` or `udp`.
    #[schema(value_type = String)]
    pub protocol: Cow<'static, str>,
    /// The client.
    pub client: Place,
    /// What it has connected to.
    pub vip: Place,
    /// Where it goes.
    pub backend: Place,
    /// Name of the service; nothing where it is not known any more.
    pub service: Option<String>,
    /// The route that leads to the pool: `default`, or its first source or name.
    pub route: Option<String>,
    /// Who or what has closed it; nothing where it opens.
    #[schema(value_type = Option<String>)]
    pub reason: Option<Cow<'static, str>>,
    /// Its state, of one that has closed before that.
    #[schema(value_type = String)]
    pub state: Cow<'static, str>,
    /// From its opening to its last packet, milliseconds; nothing where it opens.
    pub duration_ms: Option<f64>,
    /// From the client's SYN to the packet that has confirmed the connection, milliseconds.
    pub handshake_ms: Option<f64>,
    /// Packets from the client.
    pub packets_in: u64,
    /// IP bytes from the client.
    pub bytes_in: u64,
    /// Packets to the client.
    pub packets_out: u64,
    /// IP bytes to the client.
    pub bytes_out: u64,
}

/// An address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Place {
    /// Address.
    #[schema(value_type = String)]
    pub ip: IpAddr,
    /// Port.
    pub port: u16,
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        Self { ip: address.ip(), port: address.port() }
    }
}

impl From<Place> for SocketAddr {
    fn from(Place { ip, port }: Place) -> Self {
        Self::new(ip, port)
    }
}
