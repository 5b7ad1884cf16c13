//! Every map, with its one writing side.
//!
//! Sizes and their reasons are in `equipoise_common::decap`. Nothing here is pinned: the maps go with the programs.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{HashMap, LpmTrie, PerCpuArray};
use aya_ebpf::macros::btf_map;
use equipoise_common::decap::{self, COUNTERS, Interface, Place, Vip};

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// The UDP port of GUE, in network order. Read-only data: the program has it as a constant.
#[unsafe(no_mangle)]
pub static PORT: Global<u16> = Global::new(decap::PORT.to_be());

/// 1 when encapsulated packets are taken from anybody.
#[unsafe(no_mangle)]
pub static FROM_ANYBODY: Global<u8> = Global::new(1);

/// User space: interfaces that programs hang on, by index.
#[btf_map(name = "INTERFACES")]
pub static INTERFACES: HashMap<u32, Interface, { decap::INTERFACES as usize }, NO_PREALLOC> =
    HashMap::new();

/// User space: addresses that encapsulated packets come to, by interface.
#[btf_map(name = "OWN")]
pub static OWN: HashMap<Place, u32, { decap::ADDRESSES as usize }, NO_PREALLOC> = HashMap::new();

/// User space: addresses that inner packets are for.
#[btf_map(name = "VIPS")]
pub static VIPS: HashMap<Place, Vip, { decap::VIPS as usize }, NO_PREALLOC> = HashMap::new();

/// User space: prefixes that outer sources must be in, unless anybody may send.
#[btf_map(name = "SOURCES")]
pub static SOURCES: LpmTrie<[u32; 5], u32, { decap::SOURCES as usize }> = LpmTrie::new();

/// Program: packets by hook and verdict.
#[btf_map(name = "VERDICTS")]
pub static VERDICTS: PerCpuArray<u64, { COUNTERS as usize }> = PerCpuArray::new();
