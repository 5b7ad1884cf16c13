//! Routes: clients of a service that have backends of their own, by their source or by the server that they name.
//!
//! A service has a pool for all its clients, and one more for each route; what a route does not say of choosing, the
//! service says. Knows what is configured, not how it is looked up.

use std::sync::Arc;

use serde::Serialize;

use super::breaker::Thresholds;
use super::health::{Panic, Recovery};
use super::{Affinity, AffinityPrefix, Algorithm, Backend, List, Name, Named, Protocol, Service};

/// Sources, or names of servers, that have backends of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Route {
    /// Which sources: prefixes that no other route of the service has. The longest that a source is in decides.
    #[serde(skip_serializing_if = "List::is_empty")]
    pub source: List,
    /// Which names, in lower case, that no other route of the service has; `*.` and a name for all that end so, of which the
    /// longest decides. Only sources that have no route are asked for a name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Names whose addresses are among them.
    #[serde(skip)]
    pub source_names: Vec<Name>,
    /// How a backend is picked for a new flow.
    pub algorithm: Algorithm,
    /// Whether clients are kept together.
    pub affinity: Affinity,
    /// How much of a client's address tells it from others, where they are.
    pub affinity_prefix: AffinityPrefix,
    /// The backends of its pool, both families in one list, in the order of the file.
    pub backends: Vec<Backend>,
    /// Those that are configured by a name.
    pub named: Vec<Arc<Named>>,
    /// How a backend that has become healthy gets its share again.
    pub recovery: Recovery,
    /// What becomes of the pool when too few backends are usable.
    pub panic: Panic,
    /// When a backend is taken out for its failures; none for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Thresholds>,
}

impl Route {
    /// What it is called: its first source, as it is written, or its first name.
    pub fn name(&self) -> &str {
        self.source.written.first().or(self.names.first()).map_or("", String::as_str)
    }

    /// Whether it is by the name of a server.
    pub fn is_by_name(&self) -> bool {
        !self.names.is_empty()
    }
}

/// The backends of a service for all its clients, or for those of a route, and how one is picked.
#[derive(Clone, Copy, Debug)]
pub struct Pool<'a> {
    /// The route; none for clients that have none.
    pub route: Option<&'a Route>,
    /// How a backend is picked for a new flow.
    pub algorithm: Algorithm,
    /// Whether clients are kept together.
    pub affinity: Affinity,
    /// How much of a client's address tells it from others, where they are.
    pub affinity_prefix: AffinityPrefix,
    /// The backends.
    pub backends: &'a [Backend],
    /// Those that are configured by a name.
    pub named: &'a [Arc<Named>],
    /// What becomes of it when too few are usable.
    pub panic: Panic,
    /// How a backend that has become healthy gets its share again.
    pub recovery: Recovery,
    /// When a backend is taken out for its failures; none for never.
    pub breaker: Option<Thresholds>,
}

impl Pool<'_> {
    /// Whether weights follow live flows.
    pub fn follows_loads(&self) -> bool {
        self.algorithm == Algorithm::LeastConnectionsWeights && self.affinity == Affinity::None
    }
}

impl Service {
    /// The pool for all clients, and then those of the routes: by source, by name, each in the order of the file.
    pub fn pools<'a>(&'a self) -> impl Iterator<Item = Pool<'a>> {
        let own = Pool {
            route: None,
            algorithm: self.algorithm,
            affinity: self.affinity,
            affinity_prefix: self.affinity_prefix,
            backends: &self.backends,
            named: &self.named,
            panic: self.panic,
            recovery: self.recovery,
            breaker: self.breaker,
        };
        let of = |route: &'a Route| Pool {
            route: Some(route),
            algorithm: route.algorithm,
            affinity: route.affinity,
            affinity_prefix: route.affinity_prefix,
            backends: &route.backends,
            named: &route.named,
            panic: route.panic,
            recovery: route.recovery,
            breaker: route.breaker,
        };
        std::iter::once(own).chain(self.all_routes().map(of))
    }

    /// The routes by source, and then those by name, in the order of the file.
    pub fn all_routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().chain(&self.name_routes)
    }

    /// Whether TCP connections that lead to one of its pools are taken up by this host, and go on from here: those whose
    /// route depends on what they say, and those of which a backend is to be told.
    pub fn is_streamed(&self, pool: &Pool<'_>) -> bool {
        let by_name = match pool.route {
            None => !self.name_routes.is_empty(),
            Some(route) => route.is_by_name(),
        };
        let is_told = || {
            pool.backends.iter().any(|backend| backend.proxy_protocol.is_some())
                || pool.named.iter().any(|named| named.proxy_protocol.is_some())
        };
        self.listen.protocol != Protocol::Udp && (by_name || is_told())
    }

    /// The backends of all its pools; one that is in several pools is there for each.
    pub fn all_backends(&self) -> impl Iterator<Item = &Backend> {
        self.backends.iter().chain(self.all_routes().flat_map(|route| &route.backends))
    }
}
