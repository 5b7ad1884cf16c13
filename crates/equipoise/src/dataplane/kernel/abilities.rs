//! What the running kernel can do of what the packet programs need: asked for each thing by itself, and not by the kernel's version,
//! since distributions carry things back and leave things out.
//!
//! A thing is tried where nothing hangs on it: programs of two instructions, maps of one entry, all gone when this returns.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

use aya::maps::MapType;
use aya::programs::{ProgramType, TcAttachType};
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};

use super::tcx;

/// Something that the kernel can do, or cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ability {
    /// What.
    pub what: &'static str,
    /// What is done where it cannot; none where nothing runs without.
    pub instead: Option<&'static str>,
    /// Whether it can, or why that cannot be told.
    pub found: Result<bool, String>,
}

const MAPS: [(&str, MapType); 8] = [
    ("array maps for each CPU", MapType::PerCpuArray),
    ("hash maps", MapType::Hash),
    ("hash maps of devices", MapType::DevMapHash),
    ("hash maps that forget the oldest", MapType::LruHash),
    ("maps of programs", MapType::ProgramArray),
    ("maps of prefixes", MapType::LpmTrie),
    ("maps of sockets", MapType::SockMap),
    ("ring buffers", MapType::RingBuf),
];

const OF_XDP: [(&str, BpfHelper); 7] = [
    ("the coarse clock, in XDP", BpfHelper::BPF_FUNC_ktime_get_coarse_ns),
    ("look-ups of routes, in XDP", BpfHelper::BPF_FUNC_fib_lookup),
    ("look-ups of TCP sockets, in XDP", BpfHelper::BPF_FUNC_skc_lookup_tcp),
    ("look-ups of UDP sockets, in XDP", BpfHelper::BPF_FUNC_sk_lookup_udp),
    ("redirecting, in XDP", BpfHelper::BPF_FUNC_redirect_map),
    ("room for headers, in XDP", BpfHelper::BPF_FUNC_xdp_adjust_head),
    ("the length of packets in several buffers, in XDP", BpfHelper::BPF_FUNC_xdp_get_buff_len),
];

const OF_TC: [(&str, BpfHelper); 5] = [
    ("the coarse clock, at TC", BpfHelper::BPF_FUNC_ktime_get_coarse_ns),
    ("look-ups of routes, at TC", BpfHelper::BPF_FUNC_fib_lookup),
    ("look-ups of TCP sockets, at TC", BpfHelper::BPF_FUNC_skc_lookup_tcp),
    ("redirecting to neighbours, at TC", BpfHelper::BPF_FUNC_redirect_neigh),
    ("room for headers, at TC", BpfHelper::BPF_FUNC_skb_adjust_room),
];

/// Asks for all of them. Takes `CAP_BPF`, `CAP_NET_ADMIN` and `CAP_PERFMON`, and some milliseconds.
pub fn abilities() -> Vec<Ability> {
    let needed = |what, found| Ability { what, instead: None, found };
    let mut all = vec![
        needed("XDP programs", program(ProgramType::Xdp)),
        needed("TC programs", program(ProgramType::SchedClassifier)),
        needed("XDP for packets in several buffers", frags()),
    ];
    let map = |map| is_map_supported(map).map_err(|error| told(&error));
    all.extend(MAPS.map(|(what, kind)| needed(what, map(kind))));
    let xdp = |helper| is_helper_supported(ProgramType::Xdp, helper).map_err(|e| told(&e));
    all.extend(OF_XDP.map(|(what, of)| needed(what, xdp(of))));
    let tc =
        |helper| is_helper_supported(ProgramType::SchedClassifier, helper).map_err(|e| told(&e));
    all.extend(OF_TC.map(|(what, of)| needed(what, tc(of))));
    all.push(Ability {
        what: "programs that choose listening sockets",
        instead: Some("connections are not taken up here: no routes by name, no backends that are told of clients"),
        found: program(ProgramType::SkLookup),
    });
    all.push(Ability {
        what: "links at TC (TCX)",
        instead: Some("filters on a clsact qdisc take their place"),
        found: links_at_tc(),
    });
    all
}

fn program(kind: ProgramType) -> Result<bool, String> {
    is_program_supported(kind).map_err(|error| told(&error))
}

/// Whether programs hang there does not matter: kernels without such links do not know the question.
fn links_at_tc() -> Result<bool, String> {
    /// The index of `lo`, in every namespace.
    const LOOPBACK: u32 = 1;
    match tcx::programs(LOOPBACK, TcAttachType::Ingress) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

/// A program that passes every packet, and is declared to bear such packets.
fn frags() -> Result<bool, String> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const XDP: u32 = 6;
    const HAS_FRAGS: u32 = 1 << 5;
    // `r0 = XDP_PASS; exit`
    const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    // The part of `union bpf_attr` that the command reads of those that do not say more.
    #[repr(C)]
    struct Load {
        kind: u32,
        instructions: u32,
        code: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    let license = c"Apache-2.0";
    let load = Load {
        kind: XDP,
        instructions: PASS.len() as u32,
        code: PASS.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: HAS_FRAGS,
    };
    // SAFETY: a whole attribute with its size; instructions and license outlive the call.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    if fd >= 0 {
        // SAFETY: the kernel has just given it to us.
        drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINVAL) => Ok(false),
        _ => Err(error.to_string()),
    }
}

/// The last of its causes, which is what the kernel has said.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
