//! The size of every map, with its reason.

/// Bytes of the ring buffer of packets that are told of: 800 of them. A power of two.
pub const TRACED: u32 = 1 << 18;

/// Keys of services, one family: 1000 services with ten addresses or interfaces each, with room.
pub const SERVICE_KEYS: u32 = 16_384;
/// Keys of ranges of ports, one family: a range is up to 30 of them, most a few. Taken from memory as they come.
pub const PORTS_KEYS: u32 = 65_536;
/// Services; each has one set of counters per CPU.
pub const SERVICES: u32 = 4_096;
/// Pools: two (IPv4 and IPv6) for each service and route.
pub const POOLS: u32 = 16_384;
/// Routes that services may have in all: what [`POOLS`] leaves beside two for each service.
pub const SOURCE_ROUTES: u32 = (POOLS - 2 * SERVICES) / 2;
/// Backends over all pools: 1000 services with ten each, or eight pools of 4096, and as much
/// again for ids that rest while a flow may still name them.
pub const BACKENDS: u32 = 65_536;
/// Ids whose holders are kept: all there are. Taken from memory as they come.
pub const HOLDERS: u32 = SERVICES + POOLS + BACKENDS;
/// Slots over all pools. 8 bytes each in the kernel: 32 MiB, allocated at once. Room for two full
/// sets of runs, since a new run is written before the old one is given up.
pub const SLOTS: u32 = 4_194_304;
/// Flows when the configuration does not say.
pub const FLOWS: u32 = 1_000_000;
/// Words of the counts of live flows: two for each family's table, 8 words apart.
pub const LIVE: u32 = 32;
/// Bytes of the buffer of flow events: some 6 000 events, what a burst of 50 000 new flows a second leaves
/// unread in a tenth of a second.
pub const EVENTS: u32 = 1 << 20;
/// Next hops of backends that each CPU keeps, a power of two: 64 bytes each, an eighth of a small second-level cache.
pub const NEXT_HOPS: u32 = 1_024;
/// Next hops of flows' replies that each CPU keeps, a power of two: with a thousand busy flows, four in five find theirs.
pub const REPLY_HOPS: u32 = 2_048;
/// Slots that a new flow looks at before it finds all backends at their limits.
pub const BACKEND_TRIES: u32 = 16;
/// Packets whose fragments are under way, of each family; the longest unused give way. 100 bytes each, so 1.6 MB and
/// 2 MB: at a thousand such packets a second, what a receiver keeps for 15 s (RFC 791) and no more.
pub const FRAGMENTS: u32 = 16_384;
/// Checks under way that go by a VIP; those that were silent longest give way. 120 bytes each.
pub const PROBED: u32 = 16_384;
/// Devices that the packet programs redirect to.
pub const INTERFACES: u32 = 1_024;
/// Sources whose new flows are counted at a time; the one that was silent longest gives way, and begins anew.
pub const SOURCES: u32 = 65_536;
/// Prefixes that are allowed or denied, over all services: 100 000 of a long list, and as many again while it is
/// replaced by another.
pub const ACCESS: u32 = 262_144;
/// Prefixes that a configuration may allow and deny, over all services.
pub const CONFIGURED_ACCESS: u32 = 131_072;
/// Prefixes of sources that routes lead by, over all services: 100 000 of a long list, and as many again while it is
/// replaced by another. Taken from memory as they come.
pub const ROUTES: u32 = 262_144;
/// Prefixes that a configuration may lead by, over all services.
pub const CONFIGURED_ROUTES: u32 = 131_072;
/// Steps that a dry run can tell.
pub const STEPS: u32 = 64;
/// Source ports tried for a flow whose own is taken at its backend, its own included. The verifier walks
/// each try: 8 cost it 205 000 instructions of its million, 16 cost 355 000 (kernel 6.18).
pub const PORT_TRIES: u32 = 8;
/// How often so many are tried: with 64, one new flow in a thousand finds none where 90 of 100 are taken.
pub const PORT_ROUNDS: u32 = 8;
/// Addresses of ours for packets to backends, over all of those: one for each, and sixteen for some.
pub const SNAT: u32 = 131_072;
/// Addresses of ours that a service may name.
pub const SNAT_ADDRESSES: u32 = 16;
/// Backends of one pool at most.
pub const POOL_BACKENDS: u32 = 16_384;
/// IPv6 extension headers walked before a packet is passed as it is.
pub const EXTENSION_HEADERS: u32 = 8;
