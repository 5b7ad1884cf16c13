//! One change to the maps: what the data plane is asked to do.
//!
//! A step names what is to be there, not how it is written. The kernel's maps and the maps in
//! memory both take these, one at a time, each whole or not at all.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use equipoise_common::key::{Address, V4, V6};
use equipoise_common::value::{Backend, Pick, Pool, Service};

use super::Run;
use crate::plan::ServiceKey;

/// One change to the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// All counters of this service become 0: the id has a new holder.
    ResetServiceCounters {
        /// The service.
        id: u32,
        /// Which holder of the id this is; of no interest to the maps.
        term: u32,
    },
    /// All counters of this backend become 0: the id has a new holder.
    ResetBackendCounters {
        /// The backend.
        id: u32,
        /// Which holder of the id this is; of no interest to the maps.
        term: u32,
    },
    /// The entry of a backend is set.
    PutBackend {
        /// Its index.
        id: u32,
        /// Its value.
        value: Backend,
    },
    /// Slots are written to a run that no packet reads.
    WriteSlots {
        /// Where to.
        run: Run,
        /// Backend ids, as many as the run is long.
        slots: Arc<[u32]>,
    },
    /// The entry of a pool is set: from here on packets read its run.
    PutPool {
        /// Its key.
        id: u32,
        /// Its value.
        value: Pool,
    },
    /// The entry of a service key is set: from here on packets to it are balanced.
    PutService {
        /// Its key.
        key: ServiceKey,
        /// Its value.
        value: Service,
    },
    /// The entry of a service key is removed.
    RemoveService {
        /// Its key.
        key: ServiceKey,
    },
    /// The entry of a pool is removed.
    RemovePool {
        /// Its key.
        id: u32,
    },
    /// The entry of a backend is zeroed.
    RemoveBackend {
        /// Its index.
        id: u32,
    },
    /// Every packet that was in the program when this step began has left it when it ends.
    Grace,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ResetServiceCounters { id, .. } => write!(f, "reset counters of service {id}"),
            Self::ResetBackendCounters { id, .. } => write!(f, "reset counters of backend {id}"),
            Self::PutBackend { id, value } => {
                let (address, service) = (address(value), value.service);
                write!(f, "put backend {id}: {address} of service {service}")
            }
            Self::WriteSlots { run, .. } => write!(f, "write slots {run}"),
            Self::PutPool { id, value } => {
                let (run, epoch) = (Run::of(value), value.epoch);
                write!(f, "put pool {id}: slots {run}, {}, epoch {epoch}", pick(value.pick))
            }
            Self::PutService { key, value } => {
                write!(f, "put service {key}: service {}, pool {}", value.id, value.pool)
            }
            Self::RemoveService { key } => write!(f, "remove service {key}"),
            Self::RemovePool { id } => write!(f, "remove pool {id}"),
            Self::RemoveBackend { id } => write!(f, "remove backend {id}"),
            Self::Grace => f.write_str("wait for packets in flight"),
        }
    }
}

/// The entry does not say its family; no IPv6 host has an address of zeros after the first 32 bits.
fn address(backend: &Backend) -> SocketAddr {
    let narrow = V4::unpack(backend.address);
    let address = if narrow.pack() == backend.address {
        IpAddr::from(narrow)
    } else {
        IpAddr::from(V6::unpack(backend.address))
    };
    SocketAddr::new(address, backend.port.get())
}

fn pick(number: u32) -> &'static str {
    if number == Pick::Random as u32 { "random" } else { "hash" }
}
