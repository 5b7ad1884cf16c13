//! The maps as user space writes and reads them.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya::Ebpf;
use aya::maps::xdp::DevMapHash;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use equipoise_common::key::{FiveTuple, ServiceKey as Key, V4, V6};
use equipoise_common::limit;
use equipoise_common::value::{Backend, Flow, Pool, Service, Traffic};
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_core::diff::Step;
use equipoise_core::plan::ServiceKey;

use super::KernelError;
use super::pin::refused;

/// All maps that user space touches.
pub(super) struct Tables {
    pub(super) flows_v4: HashMap<MapData, FiveTuple<V4>, Flow<V4>>,
    pub(super) flows_v6: HashMap<MapData, FiveTuple<V6>, Flow<V6>>,
    services_v4: HashMap<MapData, Key<V4>, Service>,
    services_v6: HashMap<MapData, Key<V6>, Service>,
    pools: Mapped,
    slots: Mapped,
    backends: Array<MapData, Backend>,
    redirects: DevMapHash<MapData>,
    verdicts: PerCpuArray<MapData, u64>,
    service_traffic: PerCpuArray<MapData, Traffic>,
    backend_traffic: PerCpuArray<MapData, Traffic>,
    layout: Array<MapData, u64>,
}

impl Tables {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            flows_v4: typed(ebpf, "FLOWS_V4")?,
            flows_v6: typed(ebpf, "FLOWS_V6")?,
            services_v4: typed(ebpf, "SERVICES_V4")?,
            services_v6: typed(ebpf, "SERVICES_V6")?,
            pools: Mapped::new(taken(ebpf, "POOLS")?, size_of::<Pool>() * limit::POOLS as usize)?,
            slots: Mapped::new(taken(ebpf, "SLOTS")?, SLOT * limit::SLOTS as usize)?,
            backends: typed(ebpf, "BACKENDS")?,
            redirects: typed(ebpf, "REDIRECTS")?,
            verdicts: typed(ebpf, "VERDICTS")?,
            service_traffic: typed(ebpf, "SERVICE_TRAFFIC")?,
            backend_traffic: typed(ebpf, "BACKEND_TRAFFIC")?,
            layout: typed(ebpf, "LAYOUT")?,
        })
    }

    pub(super) fn tag(&mut self, layout: u64) -> Result<(), KernelError> {
        self.layout.set(0, layout, 0).map_err(|error| refused("tagging the maps", &error))
    }

    pub(super) fn apply(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::ResetServiceCounters { id, .. } => reset(&mut self.service_traffic, *id),
            Step::ResetBackendCounters { id, .. } => reset(&mut self.backend_traffic, *id),
            Step::PutBackend { id, value } => self.backends.set(*id, value, 0).map_err(io_error),
            Step::RemoveBackend { id } => {
                self.backends.set(*id, Backend::default(), 0).map_err(io_error)
            }
            Step::WriteSlots { run, slots } => self.slots.write_slots(run.offset, slots),
            Step::PutPool { id, value } => self.pools.write_pool(*id, value),
            Step::RemovePool { id } => self.pools.write_pool(*id, &Pool::default()),
            Step::PutService { key, value } => match key {
                ServiceKey::V4(key) => self.services_v4.insert(key, value, 0),
                ServiceKey::V6(key) => self.services_v6.insert(key, value, 0),
            }
            .map_err(io_error),
            Step::RemoveService { key } => match key {
                ServiceKey::V4(key) => self.services_v4.remove(key),
                ServiceKey::V6(key) => self.services_v6.remove(key),
            }
            .map_err(io_error),
            Step::Grace => grace(),
        }
    }

    pub(super) fn allow_redirect(&mut self, index: u32, allowed: bool) -> Result<(), KernelError> {
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

    pub(super) fn verdicts(&self) -> Result<Vec<(Hook, Verdict, u64)>, KernelError> {
        let mut counted = Vec::new();
        for &hook in Hook::ALL {
            for &verdict in Verdict::ALL {
                let index = hook.counter(verdict);
                let cpus = self
                    .verdicts
                    .get(&index, 0)
                    .map_err(|error| refused("reading verdicts", &error))?;
                counted.push((hook, verdict, cpus.iter().sum()));
            }
        }
        Ok(counted)
    }

    pub(super) fn service_traffic(
        &self,
        ids: &[u32],
    ) -> Result<BTreeMap<u32, Traffic>, KernelError> {
        sum(&self.service_traffic, ids)
    }

    pub(super) fn backend_traffic(
        &self,
        ids: &[u32],
    ) -> Result<BTreeMap<u32, Traffic>, KernelError> {
        sum(&self.backend_traffic, ids)
    }
}

/// Elements of an array map are rounded up to 8 bytes.
const SLOT: usize = 8;

/// An array map in our address space.
struct Mapped {
    start: ptr::NonNull<u8>,
    length: NonZeroUsize,
    /// Keeps the map.
    _map: MapData,
}

// SAFETY: the mapping belongs to this value alone and is written through `&mut self`.
unsafe impl Send for Mapped {}
// SAFETY: shared references do not reach the memory.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new(map: Map, length: usize) -> Result<Self, KernelError> {
        let Map::Array(map) = map else {
            return Err(KernelError::Refused(
                "a map that should be an array is not one".to_owned(),
            ));
        };
        let page = 4096;
        let length = length.next_multiple_of(page);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let fd = map.fd().as_fd().as_raw_fd();
        // SAFETY: a new shared mapping of a map made mappable; nothing else is touched.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), length, protection, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(refused("mapping a map into memory", &io::Error::last_os_error()));
        }
        let start = ptr::NonNull::new(start.cast())
            .ok_or_else(|| refused("mapping a map into memory", &"address 0"))?;
        let length = NonZeroUsize::new(length)
            .ok_or_else(|| refused("mapping a map into memory", &"no bytes"))?;
        Ok(Self { start, length, _map: map })
    }

    fn write_slots(&mut self, offset: u32, slots: &[u32]) -> io::Result<()> {
        let first = offset as usize * SLOT;
        let end = first + slots.len() * SLOT;
        if end > self.length.get() {
            return Err(io::Error::other("slots beyond the end of the slot array"));
        }
        for (number, &slot) in slots.iter().enumerate() {
            // SAFETY: inside the mapping (checked above), and aligned to 8 bytes.
            let place = unsafe { self.start.add(first + number * SLOT) }.cast::<u32>();
            // SAFETY: as above; programs may read it at the same time.
            unsafe { AtomicU32::from_ptr(place.as_ptr()) }.store(slot, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Offset and length in one store, which is the flip; after everything that was written before.
    fn write_pool(&mut self, id: u32, pool: &Pool) -> io::Result<()> {
        let at = id as usize * size_of::<Pool>();
        if at + size_of::<Pool>() > self.length.get() {
            return Err(io::Error::other("a pool beyond the end of the pool array"));
        }
        let words = [pool.offset, pool.length, pool.epoch, pool.pick];
        let word = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let halves = [word(words[0], words[1]), word(words[2], words[3])];
        for (number, half) in halves.into_iter().enumerate().rev() {
            // SAFETY: inside the mapping (checked above), and aligned to 8 bytes.
            let place = unsafe { self.start.add(at + number * size_of::<u64>()) }.cast::<u64>();
            // SAFETY: as above; programs may read it at the same time.
            unsafe { AtomicU64::from_ptr(place.as_ptr()) }.store(half, Ordering::Release);
        }
        Ok(())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, unmapped once.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length.get()) };
    }
}

/// Waits until every program that runs now has ended.
///
/// Programs run inside RCU read sections; the global command of `membarrier` waits for all of
/// those (`synchronize_rcu`, kernel/sched/membarrier.c).
fn grace() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: takes plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn reset(map: &mut PerCpuArray<MapData, Traffic>, id: u32) -> io::Result<()> {
    let cpus = nr_cpus().map_err(|(_, error)| error)?;
    let zeros = PerCpuValues::try_from(vec![Traffic::default(); cpus])?;
    map.set(id, zeros, 0).map_err(io_error)
}

fn sum(
    map: &PerCpuArray<MapData, Traffic>,
    ids: &[u32],
) -> Result<BTreeMap<u32, Traffic>, KernelError> {
    let mut sums = BTreeMap::new();
    for &id in ids {
        let cpus = map.get(&id, 0).map_err(|error| refused("reading counters", &error))?;
        let mut sum = Traffic::default();
        for &cpu in cpus.iter() {
            sum += cpu;
        }
        sums.insert(id, sum);
    }
    Ok(sums)
}

fn taken(ebpf: &mut Ebpf, name: &str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or_else(|| refused("loading", &format!("the object has no map {name}")))
}

fn typed<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T, KernelError> {
    taken(ebpf, name)?
        .try_into()
        .map_err(|error: MapError| refused(&format!("using map {name}"), &error))
}

fn io_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        MapError::KeyNotFound => true,
        _ => false,
    }
}
