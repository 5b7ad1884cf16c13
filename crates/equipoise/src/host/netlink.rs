//! The machine behind netlink sockets: one for questions, one for news of links, addresses, routes
//! and rules, one for news of XDP features.
//!
//! A socket that fails is opened anew at the next use, and everything counts as changed then.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use equipoise_core::facts::OwnPorts;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rtnetlink::{Handle, MulticastGroup};

use super::xdp_features::FeatureNews;
use super::{HostError, Machine, Reading, Scope, Way};
use super::{addresses, links, neighbours, routes, xdp_features};

const SETTINGS: &str = "/proc/sys/net";

/// The machine that this process runs on, in its network namespace.
pub struct Netlink {
    handle: Handle,
    news: News,
}

/// The sockets that tell of changes.
struct News {
    routes: BoxStream<'static, ()>,
    features: Option<FeatureNews>,
}

impl Netlink {
    /// Opens the sockets. Needs no privileges; changing anything does.
    ///
    /// # Errors
    ///
    /// When the kernel gives no netlink socket.
    pub fn open() -> Result<Self, HostError> {
        let open = |e: io::Error| HostError::new("netlink socket", &e);
        Ok(Self { handle: questions().map_err(open)?, news: News::open().map_err(open)? })
    }
}

impl News {
    fn open() -> io::Result<Self> {
        const GROUPS: &[MulticastGroup] = &[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ];
        let (connection, _, messages) = rtnetlink::new_multicast_connection(GROUPS)?;
        tokio::spawn(connection);
        Ok(Self {
            // What exactly has changed does not matter: facts are read whole.
            routes: messages.map(|_| ()).boxed(),
            features: FeatureNews::subscribe()?,
        })
    }

    /// False when a socket has failed.
    async fn next(&mut self) -> bool {
        let Some(features) = &mut self.features else {
            return self.routes.next().await.is_some();
        };
        tokio::select! {
            news = self.routes.next() => news.is_some(),
            news = features.next() => news.is_ok(),
        }
    }
}

fn questions() -> io::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}

impl Machine for Netlink {
    async fn read(&mut self, targets: &BTreeSet<IpAddr>) -> Result<Reading, HostError> {
        let mut devices = match links::read(&self.handle).await {
            Err(rtnetlink::Error::RequestFailed) => {
                self.handle = questions().map_err(|e| HostError::new("netlink socket", &e))?;
                links::read(&self.handle).await
            }
            read => read,
        }
        .map_err(|e| HostError::new("listing interfaces", &e))?;
        let features =
            xdp_features::read().map_err(|e| HostError::new("listing XDP features", &e))?;
        if let Some(features) = features {
            for device in devices.values_mut() {
                device.features = Some(features.get(&device.index).copied().unwrap_or_default());
            }
        }
        let own_ports = own_ports(self.setting("ipv4/ip_local_port_range").as_deref());
        let mut reading = Reading { devices, own_ports, ..Reading::default() };
        reading.plain_ways = routes::rules_are_plain(&self.handle)
            .await
            .map_err(|e| HostError::new("listing routing rules", &e))?;
        for &target in targets {
            let failed = |e| HostError::new(format!("route to {target}"), &e);
            let way = routes::way(&self.handle, target).await.map_err(failed)?;
            reading.ways.insert(target, way);
            if reading.plain_ways {
                reading.plain_ways =
                    routes::has_one_path(&self.handle, target).await.map_err(failed)?;
            }
        }
        Ok(reading)
    }

    async fn changed(&mut self) {
        if self.news.next().await {
            return;
        }
        match News::open() {
            Ok(news) => self.news = news,
            Err(error) => {
                tracing::error!(%error, "news of the machine's interfaces no longer arrive; restart equipoise");
                std::future::pending::<()>().await;
            }
        }
    }

    async fn refresh_neighbours(
        &mut self,
        interfaces: &BTreeSet<u32>,
        next_hops: &BTreeSet<(u32, IpAddr)>,
    ) -> Result<usize, HostError> {
        neighbours::refresh(&self.handle, interfaces, next_hops)
            .await
            .map_err(|e| HostError::new("refreshing neighbours", &e))
    }

    async fn add_address(
        &mut self,
        interface: u32,
        address: IpAddr,
        scope: Scope,
    ) -> Result<bool, HostError> {
        addresses::add(&self.handle, (interface, address), scope)
            .await
            .map_err(|e| HostError::new(format!("adding address {address}"), &e))
    }

    async fn remove_address(&mut self, interface: u32, address: IpAddr) -> Result<(), HostError> {
        addresses::remove(&self.handle, interface, address)
            .await
            .map_err(|e| HostError::new(format!("removing address {address}"), &e))
    }

    fn setting(&self, path: &str) -> Option<String> {
        let text = std::fs::read_to_string(setting(path)).ok()?;
        Some(text.trim().to_owned())
    }

    fn set(&mut self, path: &str, value: &str) -> Result<(), HostError> {
        std::fs::write(setting(path), value)
            .map_err(|e| HostError::new(format!("setting {SETTINGS}/{path} to {value}"), &e))
    }
}

/// From the kernel's two numbers; its default where they cannot be read.
fn own_ports(range: Option<&str>) -> OwnPorts {
    let mut numbers = range.into_iter().flat_map(str::split_whitespace).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => OwnPorts(first, last),
        _ => OwnPorts::default(),
    }
}

fn setting(path: &str) -> PathBuf {
    Path::new(SETTINGS).join(path)
}

/// For tests and messages: a way as text.
impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local => f.write_str("this host"),
            Self::Via { interface, next_hop, .. } => {
                write!(f, "{next_hop} on interface {interface}")
            }
            Self::Unreachable => f.write_str("unreachable"),
        }
    }
}
