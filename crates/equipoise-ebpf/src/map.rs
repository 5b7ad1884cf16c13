//! Every map, with its one writing side.
//!
//! "User space" rows are written by the control plane and only read here; "program" rows are
//! written here and only sampled there. Sizes and their reasons are in `equipoise_common::limit`.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{
    Array, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf, SockMap,
};
use aya_ebpf::macros::btf_map;
use equipoise_common::access::{Access, AccessKey, SourceKey};
use equipoise_common::bucket::{Bucket, ERROR_KINDS};
use equipoise_common::filter;
use equipoise_common::flow::Set;
use equipoise_common::flow::count::PRESSURES;
use equipoise_common::key::{HostKey, PortsKey, ServiceKey, V4, V6};
use equipoise_common::limit;
use equipoise_common::probe::AnswerKey;
use equipoise_common::step::Step;
use equipoise_common::trace::{Traced, Wanted};
use equipoise_common::value::{Backend, Host, Layout, Policy, Pool, Reply, Service, Snat, Traffic};
use equipoise_common::verdict::COUNTERS;

use crate::fragment::{First, PacketKey};
use crate::route::{self, Lookup, NextHop};
use crate::slow::Work;
use crate::word::Shared;

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// 1 in the twin that only explains: it changes no map but [`STEPS`]. Read-only data, so the
/// kernel removes what hangs on it before the program runs.
#[unsafe(no_mangle)]
pub static DRY: Global<u8> = Global::new(0);

/// Sets of each flow table. Numbers like this one are read-only data: the program has them as constants.
#[unsafe(no_mangle)]
pub static SETS: Global<u32> = Global::new(8);

/// The secret that keys the hash of the flow tables.
#[unsafe(no_mangle)]
pub static SEED: Global<u64> = Global::new(0);

/// Sets of each table of [`OTHER_V4`] and [`OTHER_V6`]; 0 where there are none.
#[unsafe(no_mangle)]
pub static OTHER_SETS: Global<u32> = Global::new(0);

/// The secret that keys their hash.
#[unsafe(no_mangle)]
pub static OTHER_SEED: Global<u64> = Global::new(0);

/// 1 while somebody is told of packets ([`TRACED`]).
#[unsafe(no_mangle)]
pub static TRACE: Global<u8> = Global::new(0);

/// 1 where packets are decided about and counted, and go on as they have come.
#[unsafe(no_mangle)]
pub static OBSERVE: Global<u8> = Global::new(0);

/// Live flows of each flow table at most.
#[unsafe(no_mangle)]
pub static MAX_FLOWS: Global<u32> = Global::new(1);

/// 0 in tests alone, where the oldest flow gives way whatever it is, as in a table that knows no classes: to show
/// what that leads to.
#[unsafe(no_mangle)]
pub static SPARES_CONFIRMED: Global<u8> = Global::new(1);

/// 1 where tests set the time: [`CLOCK`] is the clock then.
#[unsafe(no_mangle)]
pub static TEST_CLOCK: Global<u8> = Global::new(0);

/// User space, tests alone: nanoseconds.
#[btf_map(name = "CLOCK")]
pub static CLOCK: Array<u64, 1> = Array::new();

/// User space: what these maps are like, checked before pinned ones are taken over.
#[btf_map(name = "LAYOUT")]
pub static LAYOUT: Array<Layout, 1> = Array::new();

/// User space: who holds each id ([`equipoise_common::value::Kind::key`]), for the next process.
#[btf_map(name = "HOLDERS")]
pub static HOLDERS: HashMap<u64, u64, { limit::HOLDERS as usize }, NO_PREALLOC> = HashMap::new();

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

/// User space: services on ranges of ports, by IPv4 VIP, interface, protocol and the first bits of the port.
#[btf_map(name = "PORTS_V4")]
pub static PORTS_V4: LpmTrie<PortsKey<V4>, Service, { limit::PORTS_KEYS as usize }> =
    LpmTrie::new();

/// User space: services on ranges of ports, by IPv6 VIP, interface, protocol and the first bits of the port.
#[btf_map(name = "PORTS_V6")]
pub static PORTS_V6: LpmTrie<PortsKey<V6>, Service, { limit::PORTS_KEYS as usize }> =
    LpmTrie::new();

/// User space: pools by id; flipped by one store through a memory map.
#[btf_map(name = "POOLS")]
pub static POOLS: Array<Pool, { limit::POOLS as usize }, MMAPABLE> = Array::new();

/// User space: slots of all pools, each the id of a backend; written through a memory map.
#[btf_map(name = "SLOTS")]
pub static SLOTS: Array<u32, { limit::SLOTS as usize }, MMAPABLE> = Array::new();

/// Program: how many flows this CPU has picked a slot for by turns, by pool.
#[btf_map(name = "TURNS")]
pub static TURNS: PerCpuArray<u64, { limit::POOLS as usize }> = PerCpuArray::new();

/// User space: backends by id.
#[btf_map(name = "BACKENDS")]
pub static BACKENDS: Array<Backend, { limit::BACKENDS as usize }> = Array::new();

/// User space: addresses of ours that packets to a backend may come from, and the VIP that it is checked at, by
/// [`Snat::key`].
#[btf_map(name = "SNAT")]
pub static SNAT: HashMap<u64, Snat, { limit::SNAT as usize }, NO_PREALLOC> = HashMap::new();

/// User space: addresses of backends that are reached by us, and so need help to reach each other through a VIP.
#[btf_map(name = "HAIRPINS")]
pub static HAIRPINS: HashMap<HostKey, u32, { limit::BACKENDS as usize }, NO_PREALLOC> =
    HashMap::new();

/// User space: devices that take redirected frames, by index.
#[btf_map(name = "REDIRECTS")]
pub static REDIRECTS: DevMapHash<{ limit::INTERFACES as usize }> = DevMapHash::new();

/// User space, by setting bits through a memory map: addresses of VIPs and backends.
#[btf_map(name = "ADDRESSES")]
pub static ADDRESSES: Array<u64, { filter::WORDS as usize }, MMAPABLE> = Array::new();

/// User space: how services treat their flows, by service id.
#[btf_map(name = "POLICIES")]
pub static POLICIES: Array<Policy, { limit::SERVICES as usize }> = Array::new();

/// User space: prefixes of sources that are allowed or denied, by list and prefix.
#[btf_map(name = "ACCESS")]
pub static ACCESS: LpmTrie<AccessKey, Access, { limit::ACCESS as usize }, NO_PREALLOC> =
    LpmTrie::new();

/// User space: the pools of sources that have a route, by service and prefix.
#[btf_map(name = "ROUTES")]
pub static ROUTES: LpmTrie<AccessKey, u32, { limit::ROUTES as usize }, NO_PREALLOC> =
    LpmTrie::new();

/// Program: tokens of sources, by service and prefix.
#[btf_map(name = "SOURCES")]
pub static SOURCES: LruHashMap<SourceKey, Bucket<Shared>, { limit::SOURCES as usize }> =
    LruHashMap::new();

/// Program; user space empties an entry before its id is given out: tokens of backends, by id.
#[btf_map(name = "BACKEND_TOKENS")]
pub static BACKEND_TOKENS: Array<Bucket<Shared>, { limit::BACKENDS as usize }> = Array::new();

/// Program: tokens of ICMP errors, by kind.
#[btf_map(name = "ERROR_TOKENS")]
pub static ERROR_TOKENS: Array<Bucket<Shared>, { ERROR_KINDS as usize }> = Array::new();

/// User space: what replies of no flow become, by the backend's IPv4 address, port (0 for a range of them) and protocol.
#[btf_map(name = "REPLIES_V4")]
pub static REPLIES_V4: HashMap<ServiceKey<V4>, Reply, { limit::BACKENDS as usize }, NO_PREALLOC> =
    HashMap::new();

/// User space: what replies of no flow become, by the backend's IPv6 address, port (0 for a range of them) and protocol.
#[btf_map(name = "REPLIES_V6")]
pub static REPLIES_V6: HashMap<ServiceKey<V6>, Reply, { limit::BACKENDS as usize }, NO_PREALLOC> =
    HashMap::new();

/// Program; user space ends flows in it: IPv4 flows, an entry for each direction.
#[btf_map(name = "FLOWS_V4")]
pub static FLOWS_V4: Array<Set<Shared, 8>, 8, MMAPABLE> = Array::new();

/// Program; user space ends flows in it: IPv6 flows, an entry for each direction.
#[btf_map(name = "FLOWS_V6")]
pub static FLOWS_V6: Array<Set<Shared, 16>, 8, MMAPABLE> = Array::new();

/// The other program's [`FLOWS_V4`], while flows are carried over from it to ours: whose names are taken.
#[btf_map(name = "OTHER_V4")]
pub static OTHER_V4: Array<Set<Shared, 8>, 1, MMAPABLE> = Array::new();

/// As [`OTHER_V4`].
#[btf_map(name = "OTHER_V6")]
pub static OTHER_V6: Array<Set<Shared, 16>, 1, MMAPABLE> = Array::new();

/// User space: the secret of the flow tables that flows are carried over from; 0 while they are not. Programs on these leave
/// what they do not find to those on the others.
#[btf_map(name = "MOVING")]
pub static MOVING: Array<u64, 1> = Array::new();

/// Program: a word of each CPU that says nothing.
#[btf_map(name = "FENCE")]
pub static FENCE: PerCpuArray<Shared, 1> = PerCpuArray::new();

/// Both, by exact additions: live flows of each table, at multiples of 8 so that no two share a cache line.
#[btf_map(name = "LIVE")]
pub static LIVE: Array<Shared, { limit::LIVE as usize }, MMAPABLE> = Array::new();

/// Both, by exact additions: live flows by service id.
#[btf_map(name = "LIVE_SERVICES")]
pub static LIVE_SERVICES: Array<Shared, { limit::SERVICES as usize }, MMAPABLE> = Array::new();

/// Both, by exact additions: live flows by backend id.
#[btf_map(name = "LIVE_BACKENDS")]
pub static LIVE_BACKENDS: Array<Shared, { limit::BACKENDS as usize }, MMAPABLE> = Array::new();

/// Both, by exact additions: of those, flows that are over and wait for what may still come.
#[btf_map(name = "LIVE_CLOSING")]
pub static LIVE_CLOSING: Array<Shared, { limit::BACKENDS as usize }, MMAPABLE> = Array::new();

/// Program; user space empties an entry before its id is given out: how long a backend takes to answer a SYN, in nanoseconds
/// and on average, by id; 0 before it has answered any.
#[btf_map(name = "HANDSHAKES")]
pub static HANDSHAKES: Array<Shared, { limit::BACKENDS as usize }, MMAPABLE> = Array::new();

/// Program: what became of flows under pressure.
#[btf_map(name = "PRESSURE")]
pub static PRESSURE: PerCpuArray<u64, { PRESSURES as usize }> = PerCpuArray::new();

/// Program: when a packet was last decided without being remembered, and when a check was last sent to a VIP, in
/// ticks + 1; 0 for never.
#[btf_map(name = "STATELESS")]
pub static STATELESS: Array<u64, 2> = Array::new();

/// Program: the backend's address, by what a VIP answers a check with.
#[btf_map(name = "PROBED")]
pub static PROBED: LruHashMap<AnswerKey, V6, { limit::PROBED as usize }> = LruHashMap::new();

/// Program: flows that have opened and closed ([`equipoise_common::event::Event`]), taken up by user space.
#[btf_map(name = "EVENTS")]
pub static EVENTS: RingBuf<(), { limit::EVENTS as usize }> = RingBuf::new();

/// User space: which packets are told of.
#[btf_map(name = "TRACE_WANTED")]
pub static TRACE_WANTED: Array<Wanted, 1> = Array::new();

/// Program: packets that are told of.
#[btf_map(name = "TRACED")]
pub static TRACED: RingBuf<(), { limit::TRACED as usize }> = RingBuf::new();

/// Program: the packet that this CPU is at.
#[btf_map(name = "TRACING")]
pub static TRACING: PerCpuArray<Traced, 1> = PerCpuArray::new();

/// Program: when a packet was last told of on this CPU, in nanoseconds, and how many have not been since.
#[btf_map(name = "LAST")]
pub static LAST: PerCpuArray<[u64; 2], 1> = PerCpuArray::new();

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

/// Program: next hops by backend id, then of replies by where their flow's entry is, kept for a moment; the last one is for
/// what is not kept.
#[btf_map(name = "NEXT_HOP")]
pub static NEXT_HOP: PerCpuArray<NextHop, { route::ASKED as usize + 1 }> = PerCpuArray::new();

/// User space: for which packets ways are kept, a [`equipoise_common::value::Shortcuts`] as a number.
#[btf_map(name = "SHORTCUTS")]
pub static SHORTCUTS: Array<u64, 1> = Array::new();

/// Program: what is handed on about an IPv4 packet; the stack is too small for it.
#[btf_map(name = "WORK_V4")]
pub static WORK_V4: PerCpuArray<Work<V4>, 1> = PerCpuArray::new();

/// Program: what is handed on about an IPv6 packet.
#[btf_map(name = "WORK_V6")]
pub static WORK_V6: PerCpuArray<Work<V6>, 1> = PerCpuArray::new();

/// User space: the programs of the stages at XDP, in the driver and in the stack.
#[btf_map(name = "STAGES_XDP")]
pub static STAGES_XDP: ProgramArray<10> = ProgramArray::new();

/// User space: the programs of the stages at TC, where packets come in and where they go out.
#[btf_map(name = "STAGES_TC")]
pub static STAGES_TC: ProgramArray<10> = ProgramArray::new();

/// Program: what has been made of the first fragments of IPv4 packets.
#[btf_map(name = "FRAGMENTS_V4")]
pub static FRAGMENTS_V4: LruHashMap<PacketKey<V4>, First<V4>, { limit::FRAGMENTS as usize }> =
    LruHashMap::new();

/// Program: what has been made of the first fragments of IPv6 packets.
#[btf_map(name = "FRAGMENTS_V6")]
pub static FRAGMENTS_V6: LruHashMap<PacketKey<V6>, First<V6>, { limit::FRAGMENTS as usize }> =
    LruHashMap::new();

/// User space: the sockets that take up connections of pools that are streamed, for IPv4 and for IPv6. The kernel takes out
/// those that are closed.
#[btf_map(name = "LISTENERS")]
pub static LISTENERS: SockMap<2> = SockMap::new();

/// User space: this host's own addresses by interface, from which it answers.
#[btf_map(name = "HOSTS")]
pub static HOSTS: HashMap<u32, Host, { limit::INTERFACES as usize }, NO_PREALLOC> = HashMap::new();
