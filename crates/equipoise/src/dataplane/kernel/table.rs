//! The maps as user space writes and reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::xdp::DevMapHash;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use equipoise_common::access::AccessKey;
use equipoise_common::filter;
use equipoise_common::key::{HostKey, PortsKey, ServiceKey as Key, V4, V6};
use equipoise_common::limit;
use equipoise_common::trace::Wanted;
use equipoise_common::value::{
    Backend, Host, Layout, Policy, Pool, Reply, Service, Shortcuts, Snat, Traffic,
};
use equipoise_core::diff::Step;

use super::KernelError;
use super::access::AccessList;
use super::flow::Live;
use super::mapped::Mapped;
use super::pin::{Pins, refused};

/// All maps that user space touches.
pub(super) struct Tables {
    pub(super) flows: Flows,
    pub(super) handshakes: Mapped,
    pub(super) services_v4: HashMap<MapData, Key<V4>, Service>,
    pub(super) services_v6: HashMap<MapData, Key<V6>, Service>,
    pub(super) ports_v4: LpmTrie<MapData, PortsKey<V4>, Service>,
    pub(super) ports_v6: LpmTrie<MapData, PortsKey<V6>, Service>,
    pub(super) addresses: Mapped,
    pub(super) pools: Mapped,
    pub(super) slots: Mapped,
    pub(super) policies: Array<MapData, Policy>,
    pub(super) access: AccessList,
    pub(super) routes: LpmTrie<MapData, AccessKey, u32>,
    pub(super) backend_tokens: Array<MapData, [u64; 2]>,
    pub(super) replies_v4: HashMap<MapData, Key<V4>, Reply>,
    pub(super) replies_v6: HashMap<MapData, Key<V6>, Reply>,
    pub(super) backends: Array<MapData, Backend>,
    pub(super) snat: HashMap<MapData, u64, Snat>,
    pub(super) hairpins: HashMap<MapData, HostKey, u32>,
    /// As they are in the map, by id.
    pub(super) known_backends: Vec<Backend>,
    /// As they are in the map, by service id.
    pub(super) known_policies: Vec<Policy>,
    redirects: DevMapHash<MapData>,
    hosts: HashMap<MapData, u32, Host>,
    pub(super) pressure: PerCpuArray<MapData, u64>,
    pub(super) verdicts: PerCpuArray<MapData, u64>,
    pub(super) service_traffic: PerCpuArray<MapData, Traffic>,
    pub(super) backend_traffic: PerCpuArray<MapData, Traffic>,
    layout: Array<MapData, Layout>,
    pub(super) holders: HashMap<MapData, u64, u64>,
    /// Devices that the programs have been told about by this process.
    told: BTreeSet<u32>,
    /// As they are in the map, of pools.
    pub(super) known_pools: BTreeMap<u32, u64>,
    clock: Array<MapData, u64>,
    shortcuts: Array<MapData, u64>,
    moving: Array<MapData, u64>,
    trace_wanted: Array<MapData, Wanted>,
    /// A step of several writes that has been refused, and how many of these are made.
    pub(super) begun: Option<(Step, usize)>,
}

/// The flow tables, and the counts of what lives in them.
pub(super) struct Flows {
    pub(super) v4: Mapped,
    pub(super) v6: Mapped,
    pub(super) live: Live,
}

impl Flows {
    /// Those of an object, of so many sets each.
    pub(super) fn take(ebpf: &mut Ebpf, sets: u32) -> Result<Self, KernelError> {
        let sets = sets as usize;
        let mut mapped = |name: &str, length| Mapped::new(taken(ebpf, name)?, length);
        Ok(Self {
            v4: mapped("FLOWS_V4", sets * SET_V4)?,
            v6: mapped("FLOWS_V6", sets * SET_V6)?,
            live: Live {
                tables: mapped("LIVE", size_of::<u64>() * limit::LIVE as usize)?,
                services: mapped("LIVE_SERVICES", size_of::<u64>() * limit::SERVICES as usize)?,
                backends: mapped("LIVE_BACKENDS", size_of::<u64>() * limit::BACKENDS as usize)?,
                closing: mapped("LIVE_CLOSING", size_of::<u64>() * limit::BACKENDS as usize)?,
            },
        })
    }

    /// Those that are pinned, of so many sets each, under names that begin like this.
    pub(super) fn pinned(pins: &Pins, beginning: &str, sets: u32) -> Result<Self, KernelError> {
        let sets = sets as usize;
        let mapped = |name: &str, length| {
            let map = MapData::from_pin(pins.map(name))
                .map_err(|error| refused(&format!("opening {name}"), &error))?;
            Mapped::new(Map::Array(map), length)
        };
        let own = |name: &str, length| mapped(&format!("{beginning}{name}"), length);
        Ok(Self {
            v4: own("FLOWS_V4", sets * SET_V4)?,
            v6: own("FLOWS_V6", sets * SET_V6)?,
            live: Live {
                tables: own("LIVE", size_of::<u64>() * limit::LIVE as usize)?,
                services: mapped("LIVE_SERVICES", size_of::<u64>() * limit::SERVICES as usize)?,
                backends: mapped("LIVE_BACKENDS", size_of::<u64>() * limit::BACKENDS as usize)?,
                closing: mapped("LIVE_CLOSING", size_of::<u64>() * limit::BACKENDS as usize)?,
            },
        })
    }
}

impl Tables {
    pub(super) fn take(ebpf: &mut Ebpf, sets: u32) -> Result<Self, KernelError> {
        let flows = Flows::take(ebpf, sets)?;
        let handshakes =
            Mapped::new(taken(ebpf, "HANDSHAKES")?, size_of::<u64>() * limit::BACKENDS as usize)?;
        Ok(Self {
            flows,
            handshakes,
            policies: typed(ebpf, "POLICIES")?,
            access: AccessList::new(typed(ebpf, "ACCESS")?),
            routes: typed(ebpf, "ROUTES")?,
            backend_tokens: typed(ebpf, "BACKEND_TOKENS")?,
            replies_v4: typed(ebpf, "REPLIES_V4")?,
            replies_v6: typed(ebpf, "REPLIES_V6")?,
            known_backends: vec![Backend::default(); limit::BACKENDS as usize],
            known_policies: vec![Policy::default(); limit::SERVICES as usize],
            pressure: typed(ebpf, "PRESSURE")?,
            services_v4: typed(ebpf, "SERVICES_V4")?,
            services_v6: typed(ebpf, "SERVICES_V6")?,
            ports_v4: typed(ebpf, "PORTS_V4")?,
            ports_v6: typed(ebpf, "PORTS_V6")?,
            addresses: Mapped::new(
                taken(ebpf, "ADDRESSES")?,
                size_of::<u64>() * filter::WORDS as usize,
            )?,
            pools: Mapped::new(taken(ebpf, "POOLS")?, size_of::<Pool>() * limit::POOLS as usize)?,
            slots: Mapped::new(taken(ebpf, "SLOTS")?, SLOT * limit::SLOTS as usize)?,
            backends: typed(ebpf, "BACKENDS")?,
            snat: typed(ebpf, "SNAT")?,
            hairpins: typed(ebpf, "HAIRPINS")?,
            redirects: typed(ebpf, "REDIRECTS")?,
            hosts: typed(ebpf, "HOSTS")?,
            verdicts: typed(ebpf, "VERDICTS")?,
            service_traffic: typed(ebpf, "SERVICE_TRAFFIC")?,
            backend_traffic: typed(ebpf, "BACKEND_TRAFFIC")?,
            layout: typed(ebpf, "LAYOUT")?,
            holders: typed(ebpf, "HOLDERS")?,
            told: BTreeSet::new(),
            known_pools: BTreeMap::new(),
            clock: typed(ebpf, "CLOCK")?,
            shortcuts: typed(ebpf, "SHORTCUTS")?,
            moving: typed(ebpf, "MOVING")?,
            trace_wanted: typed(ebpf, "TRACE_WANTED")?,
            begun: None,
        })
    }

    /// Which packets are told of, by programs that do.
    pub(super) fn want_traced(&mut self, wanted: &Wanted) -> Result<(), KernelError> {
        self.trace_wanted
            .set(0, wanted, 0)
            .map_err(|error| refused("telling which packets are wanted", &error))
    }

    /// Has the programs on the tables with this secret leave what they do not find to those on others; 0 for none.
    pub(super) fn leave_what_is_missing(&mut self, seed: u64) -> Result<(), KernelError> {
        self.moving.set(0, seed, 0).map_err(|error| refused("carrying flows over", &error))
    }

    pub(super) fn tag(&mut self, layout: Layout) -> Result<(), KernelError> {
        self.layout.set(0, layout, 0).map_err(|error| refused("tagging the maps", &error))
    }

    pub(super) fn set_time(&mut self, nanoseconds: u64) -> Result<(), KernelError> {
        self.clock.set(0, nanoseconds, 0).map_err(|error| refused("setting the clock", &error))
    }

    pub(super) fn allow_shortcuts(&mut self, shortcuts: Shortcuts) -> Result<(), KernelError> {
        self.shortcuts
            .set(0, shortcuts as u64, 0)
            .map_err(|error| refused("keeping next hops", &error))
    }

    /// How long a backend takes on average to answer a SYN; none before it has answered any.
    pub(super) fn handshake(&self, id: u32) -> Option<Duration> {
        let word = self.handshakes.word(id as usize * size_of::<u64>())?;
        let nanoseconds = word.load(Ordering::Relaxed);
        (nanoseconds != 0).then(|| Duration::from_nanos(nanoseconds))
    }

    /// How services treat their flows, by id.
    pub(super) fn policies(&self) -> &[Policy] {
        &self.known_policies
    }

    /// The backends, by id.
    pub(super) fn backends(&self) -> &[Backend] {
        &self.known_backends
    }

    /// Knows all addresses that another data plane knows.
    pub(super) fn know_all(&self, other: &Self) {
        for at in (0..filter::WORDS as usize).map(|word| word * size_of::<u64>()) {
            if let (Some(mine), Some(others)) = (self.addresses.word(at), other.addresses.word(at))
            {
                mine.fetch_or(others.load(Ordering::SeqCst), Ordering::SeqCst);
            }
        }
    }

    pub(super) fn allow_redirect(&mut self, index: u32, allowed: bool) -> Result<(), KernelError> {
        self.told.insert(index);
        let what = |error: &dyn std::fmt::Display| {
            refused(&format!("redirecting to interface {index}"), error)
        };
        if allowed {
            return self.redirects.insert(index, index, None, 0).map_err(|error| what(&error));
        }
        match self.redirects.remove(index) {
            Err(error) if !is_missing(&error) => Err(what(&error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(super) fn answer_from(
        &mut self,
        index: u32,
        host: Option<Host>,
    ) -> Result<(), KernelError> {
        self.told.insert(index);
        let done = match host {
            Some(host) => self.hosts.insert(index, host, 0),
            None => self.hosts.remove(&index),
        };
        match done {
            Err(error) if host.is_some() || !is_missing(&error) => {
                Err(refused(&format!("answering on interface {index}"), &error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// What the programs have been told about devices by an earlier process, and not by this one, is true no more.
    pub(super) fn forget_devices(&mut self) {
        let is_old = |index: &u32| !self.told.contains(index);
        let redirects: Vec<u32> =
            self.redirects.keys().filter_map(Result::ok).filter(is_old).collect();
        let hosts: Vec<u32> = self.hosts.keys().filter_map(Result::ok).filter(is_old).collect();
        for index in redirects {
            if let Err(error) = self.allow_redirect(index, false) {
                tracing::warn!(interface = index, %error, "an old entry stays");
            }
        }
        for index in hosts {
            if let Err(error) = self.answer_from(index, None) {
                tracing::warn!(interface = index, %error, "an old entry stays");
            }
        }
    }
}

/// Elements of an array map are rounded up to 8 bytes.
pub(super) const SLOT: usize = 8;

/// Bytes of a set of flows.
pub(super) const SET_V4: usize = 16 * 64;
pub(super) const SET_V6: usize = 16 * 128;

/// A word's low and high halves.
pub(super) fn words(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// Waits until every program that runs now has ended.
///
/// Programs run inside RCU read sections; the global command of `membarrier` waits for all of
/// those (`synchronize_rcu`, kernel/sched/membarrier.c).
///
/// # Errors
///
/// With a kernel that was started with `nohz_full`, which has no such command.
pub(super) fn grace() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: takes plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::EINVAL) => io::Error::other(
            "this kernel does not tell when packet programs have ended (membarrier(2)), as it was started with nohz_full, which is not supported",
        ),
        _ => error,
    })
}

fn taken(ebpf: &mut Ebpf, name: &str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or_else(|| refused("loading", &format!("the object has no map {name}")))
}

pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<T, KernelError> {
    taken(ebpf, name)?
        .try_into()
        .map_err(|error: MapError| refused(&format!("using map {name}"), &error))
}

pub(super) fn io_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

pub(super) fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        MapError::KeyNotFound => true,
        _ => false,
    }
}
