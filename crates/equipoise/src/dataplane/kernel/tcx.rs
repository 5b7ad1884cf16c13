//! Which programs hang by links on a side of TC, or on a network namespace, told by their ids alone.
//!
//! `aya` looks each of them up as well, which takes `CAP_SYS_ADMIN`: an instance without it would not find its own, and would take them off
//! and hang up others, with packets in between that no program sees.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya::programs::TcAttachType;

/// Programs at most at one place (`BPF_MPROG_MAX`).
const MOST: usize = 64;

/// The ids of the programs on a side of a device, in their order. Kernels before 6.6 do not know the question (`EINVAL`).
pub(super) fn programs(interface: u32, side: TcAttachType) -> io::Result<Vec<u32>> {
    const INGRESS: u32 = 46;
    const EGRESS: u32 = 47;
    query(interface, if side == TcAttachType::Ingress { INGRESS } else { EGRESS })
}

/// The ids of the programs that choose listening sockets in a network namespace, in their order.
pub(super) fn on_namespace(namespace: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    const SK_LOOKUP: u32 = 36;
    query(namespace.as_raw_fd() as u32, SK_LOOKUP)
}

/// The ids of the programs at a place of this kind.
fn query(place: u32, kind: u32) -> io::Result<Vec<u32>> {
    const BPF_PROG_QUERY: libc::c_long = 16;
    // The part of `union bpf_attr` that this command reads and writes.
    #[repr(C)]
    struct Query {
        place: u32,
        kind: u32,
        flags: u32,
        attach_flags: u32,
        programs: u64,
        count: u32,
        padding: u32,
        program_flags: u64,
        links: u64,
        link_flags: u64,
        revision: u64,
    }
    let mut ids = [0_u32; MOST];
    let mut query = Query {
        place,
        kind,
        flags: 0,
        attach_flags: 0,
        programs: ids.as_mut_ptr() as u64,
        count: MOST as u32,
        padding: 0,
        program_flags: 0,
        links: 0,
        link_flags: 0,
        revision: 0,
    };
    // SAFETY: a whole attribute with its size, and room for as many ids as it says, which outlives the call.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ids[..MOST.min(query.count as usize)].to_vec())
}
