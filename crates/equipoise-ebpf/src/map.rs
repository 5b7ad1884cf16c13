//! Every map, with its one writing side.
//!
//! "User space" rows are written by the control plane and only read here; "program" rows are
//! written here and only sampled there. Sizes and their reasons are in `equipoise_common::limit`.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, DevMapHash, HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use equipoise_common::key::{FiveTuple, ServiceKey, V4, V6};
use equipoise_common::limit;
use equipoise_common::step::Step;
use equipoise_common::value::{Backend, Flow, Pool, Service, Traffic};
use equipoise_common::verdict::COUNTERS;

use crate::forward::Lookup;

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// 1 in the twin that only explains: it changes no map but [`STEPS`]. Read-only data, so the
/// kernel removes what hangs on it before the program runs.
#[unsafe(no_mangle)]
pub static DRY: Global<u8> = Global::new(0);

/// User space: the layout tag of these maps, checked before pinned ones are taken over.
#[btf_map(name = "LAYOUT")]
pub static LAYOUT: Array<u64, 1> = Array::new();

/// User space: services by IPv4 VIP, interface, port and protocol.
#[btf_map(name = "SERVICES_V4")]
pub static SERVICES_V4: HashMap<
    ServiceKey<V4>,
    Service,
    { limit::SERVICE_KEYS as usize },
    NO_PREALLOC,
> = HashMap::new();

/// User space: services by IPv6 VIP, interface, port and protocol.
#[btf_map(name = "SERVICES_V6")]
pub static SERVICES_V6: HashMap<
    ServiceKey<V6>,
    Service,
    { limit::SERVICE_KEYS as usize },
    NO_PREALLOC,
> = HashMap::new();

/// User space: pools by id; flipped by one store through a memory map.
#[btf_map(name = "POOLS")]
pub static POOLS: Array<Pool, { limit::POOLS as usize }, MMAPABLE> = Array::new();

/// User space: slots of all pools, each the id of a backend; written through a memory map.
#[btf_map(name = "SLOTS")]
pub static SLOTS: Array<u32, { limit::SLOTS as usize }, MMAPABLE> = Array::new();

/// User space: backends by id.
#[btf_map(name = "BACKENDS")]
pub static BACKENDS: Array<Backend, { limit::BACKENDS as usize }> = Array::new();

/// User space: devices that take redirected frames, by index.
#[btf_map(name = "REDIRECTS")]
pub static REDIRECTS: DevMapHash<{ limit::INTERFACES as usize }> = DevMapHash::new();

/// Program: IPv4 flows, both directions, by the five-tuple as it arrives.
#[btf_map(name = "FLOWS_V4")]
pub static FLOWS_V4: LruHashMap<FiveTuple<V4>, Flow<V4>, { limit::FLOWS as usize }> =
    LruHashMap::new();

/// Program: IPv6 flows, both directions, by the five-tuple as it arrives.
#[btf_map(name = "FLOWS_V6")]
pub static FLOWS_V6: LruHashMap<FiveTuple<V6>, Flow<V6>, { limit::FLOWS as usize }> =
    LruHashMap::new();

/// Program: packets by hook and verdict.
#[btf_map(name = "VERDICTS")]
pub static VERDICTS: PerCpuArray<u64, { COUNTERS as usize }> = PerCpuArray::new();

/// Program: traffic by service id; user space zeroes an entry before its id is given out.
#[btf_map(name = "SERVICE_TRAFFIC")]
pub static SERVICE_TRAFFIC: PerCpuArray<Traffic, { limit::SERVICES as usize }> = PerCpuArray::new();

/// Program: traffic by backend id; user space zeroes an entry before its id is given out.
#[btf_map(name = "BACKEND_TRAFFIC")]
pub static BACKEND_TRAFFIC: PerCpuArray<Traffic, { limit::BACKENDS as usize }> = PerCpuArray::new();

/// Program, dry alone: the steps of the last run; the first entry's `first` is their number.
#[btf_map(name = "STEPS")]
pub static STEPS: Array<Step, { limit::STEPS as usize }> = Array::new();

/// Program: where a route look-up is put together.
#[btf_map(name = "LOOKUP")]
pub static LOOKUP: PerCpuArray<Lookup, 1> = PerCpuArray::new();

/// Program: where a new IPv4 flow is put together; the stack is too small for it.
#[btf_map(name = "SCRATCH_V4")]
pub static SCRATCH_V4: PerCpuArray<Flow<V4>, 1> = PerCpuArray::new();

/// Program: where a new IPv6 flow is put together.
#[btf_map(name = "SCRATCH_V6")]
pub static SCRATCH_V6: PerCpuArray<Flow<V6>, 1> = PerCpuArray::new();
