//! Where metrics are to be had.

use std::net::{Ipv4Addr, SocketAddr};

use serde::Serialize;

/// A listener for who scrapes metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Metrics {
    /// Address and port.
    pub listen: SocketAddr,
    /// The path that is scraped.
    pub path: String,
}

impl Default for Metrics {
    fn default() -> Self {
        let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9090));
        Self { listen, path: "/metrics".to_owned() }
    }
}
