//! What a plan has to say to its operator: what could not be placed, or leads nowhere.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::health::PanicPolicy;
use crate::config::target;
use crate::id::{Family, RouteName};

/// Something that works less than the configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A listening interface does not exist; when it appears, the service is reached there.
    NoInterface {
        /// The service.
        service: Arc<str>,
        /// The interface.
        interface: String,
    },
    /// A service is on an interface's own addresses, and it has none.
    NoAddress {
        /// The service.
        service: Arc<str>,
        /// The interface.
        interface: String,
    },
    /// Clients of this family reach the service, and no backend of the family can be chosen.
    NoBackend {
        /// The service.
        service: Arc<str>,
        /// The family.
        family: Family,
    },
    /// All service ids or pool ids are in use, or rest until no flow names them.
    NoIds {
        /// The service, which is left out.
        service: Arc<str>,
    },
    /// All backend ids are in use, or rest until no flow names them.
    NoBackendIds {
        /// The service.
        service: Arc<str>,
        /// The backends that are left out.
        left_out: Vec<SocketAddr>,
    },
    /// The service map of a family is full.
    NoKeys {
        /// The service.
        service: Arc<str>,
        /// The family.
        family: Family,
        /// How many keys are left out.
        left_out: usize,
    },
    /// All ids of pools are in use or resting: clients of a route are led as those without one.
    NoRouteIds {
        /// The service.
        service: Arc<str>,
        /// The route.
        route: Arc<str>,
    },
    /// Packets to a backend need an address of ours as their source, and there is none: it has no route, or is on this host.
    NoSourceAddress {
        /// The service.
        service: Arc<str>,
        /// The backends.
        backends: Vec<SocketAddr>,
    },
    /// Too few backends of a pool are usable.
    Panic {
        /// The service.
        service: Arc<str>,
        /// What leads to the pool.
        route: RouteName,
        /// Of which family its backends are.
        family: Family,
        /// What becomes of new flows.
        policy: PanicPolicy,
    },
    /// So many pools and backends that shares are not right to 1 %.
    CoarseShares {
        /// Slots that a backend of average weight has at least.
        slots: u32,
    },
}

impl Note {
    /// Whether ids that have rested would help.
    pub fn is_about_ids(&self) -> bool {
        match self {
            Self::NoIds { .. } | Self::NoRouteIds { .. } | Self::NoBackendIds { .. } => true,
            Self::NoInterface { .. }
            | Self::NoAddress { .. }
            | Self::NoBackend { .. }
            | Self::NoKeys { .. }
            | Self::NoSourceAddress { .. }
            | Self::Panic { .. }
            | Self::CoarseShares { .. } => false,
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoInterface { service, interface } => {
                write!(f, "service {service}: interface {interface} does not exist")
            }
            Self::NoAddress { service, interface } => {
                write!(f, "service {service}: interface {interface} has no address")
            }
            Self::NoBackend { service, family } => write!(
                f,
                "service {service}: reachable by {family}, without an {family} backend to choose"
            ),
            Self::NoIds { service } => {
                write!(f, "service {service}: left out, as all ids are in use or resting")
            }
            Self::NoRouteIds { service, route } => write!(
                f,
                "service {service}: route {route} left out, as all ids are in use or resting"
            ),
            Self::NoBackendIds { service, left_out } => {
                let count = left_out.len();
                write!(
                    f,
                    "service {service}: {count} backends left out, as all ids are in use or resting"
                )?;
                left_out
                    .first()
                    .map_or(Ok(()), |first| write!(f, " (the first: {})", target::text(*first)))
            }
            Self::NoKeys { service, family, left_out } => write!(
                f,
                "service {service}: {left_out} addresses and ports left out, as the {family} service map is full"
            ),
            Self::NoSourceAddress { service, backends } => {
                let backends: Vec<_> =
                    backends.iter().map(|backend| target::text(*backend)).collect();
                write!(
                    f,
                    "service {service}: no address of this host's own leads to {}",
                    backends.join(", ")
                )
            }
            Self::Panic { service, route, family, policy } => {
                write!(f, "service {service}")?;
                route.as_ref().map_or(Ok(()), |route| write!(f, ", route {route}"))?;
                let what = match policy {
                    PanicPolicy::All => "health is ignored",
                    PanicPolicy::None => "new flows find none",
                    PanicPolicy::Fallback => "new flows go to the fallback backends",
                };
                write!(f, ": too few {family} backends are usable, so {what}")
            }
            Self::CoarseShares { slots } => write!(
                f,
                "so many backends in all that one of average weight has {slots} slots, not 100: shares are coarse"
            ),
        }
    }
}
