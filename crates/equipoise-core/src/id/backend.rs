//! Which backend is meant: what facts are gathered under, and what operators name.

use std::net::SocketAddr;
use std::sync::Arc;

use super::RouteName;
use crate::config::{Backend, Config, Pool, Service};

/// What the pool for clients without a route is called.
pub const DEFAULT_ROUTE: &str = "default";

/// A backend of a pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendKey {
    /// The service's name.
    pub service: Arc<str>,
    /// What leads to the pool.
    pub route: RouteName,
    /// Address and port.
    pub address: SocketAddr,
}

impl BackendKey {
    /// The backends of all pools of a configuration, in the order of the file.
    pub fn all(config: &Config) -> impl Iterator<Item = (Self, Member<'_>)> {
        config.services.iter().flat_map(|service| {
            let name: Arc<str> = service.name.as_str().into();
            service.pools().flat_map(move |pool| {
                let route: RouteName = pool.route.map(|route| route.name().into());
                let name = Arc::clone(&name);
                pool.backends.iter().map(move |backend| {
                    let (service_name, route) = (Arc::clone(&name), route.clone());
                    let key = Self { service: service_name, route, address: backend.address };
                    (key, Member { service, pool, backend })
                })
            })
        })
    }

    /// What the route to its pool is called.
    pub fn route_name(&self) -> &str {
        self.route.as_deref().unwrap_or(DEFAULT_ROUTE)
    }
}

/// A backend as it is configured, and where.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its service.
    pub service: &'a Service,
    /// Its pool.
    pub pool: Pool<'a>,
    /// Itself.
    pub backend: &'a Backend,
}
