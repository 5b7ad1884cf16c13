//! An XDP program of somebody else's: two instructions that pass every packet, and hang on a device as long as they are held.
//!
//! For seeing what becomes of a balancer where another program is in its way.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context, Result};

use crate::link;
use crate::netns::Netns;

/// A program that hangs on a device; it goes when this does.
#[derive(Debug)]
pub struct Passing {
    _link: OwnedFd,
}

impl Passing {
    /// Hangs it on a device, in the stack, where every device has room for one.
    pub fn on(netns: &Netns, device: &str) -> Result<Self> {
        let index = link::index(netns, device)?;
        let hung = netns.run(|| hang(index));
        Ok(Self { _link: hung.with_context(|| format!("a program on {device}"))? })
    }
}

fn hang(index: u32) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_LINK_CREATE: libc::c_long = 28;
    const PROGRAM_XDP: u32 = 6;
    const ATTACH_XDP: u32 = 37;
    const IN_THE_STACK: u32 = 1 << 1;
    // `r0 = XDP_PASS; exit`
    const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    // The parts of `union bpf_attr` that these commands read.
    #[repr(C)]
    struct Load {
        kind: u32,
        instructions: u32,
        code: u64,
        license: u64,
        log: [u64; 2],
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
    }
    #[repr(C)]
    struct Create {
        program: u32,
        device: u32,
        kind: u32,
        flags: u32,
    }
    let license = c"Apache-2.0";
    let load = Load {
        kind: PROGRAM_XDP,
        instructions: PASS.len() as u32,
        code: PASS.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log: [0; 2],
        kernel_version: 0,
        flags: 0,
        name: *b"somebody_elses\0\0",
    };
    // SAFETY: a whole attribute with its size; instructions and license outlive the call.
    let program =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    let program = owned(program)?;
    let create = Create {
        program: program.as_raw_fd() as u32,
        device: index,
        kind: ATTACH_XDP,
        flags: IN_THE_STACK,
    };
    // SAFETY: a whole attribute with its size.
    let link = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const create, size_of::<Create>())
    };
    owned(link)
}

fn owned(answer: libc::c_long) -> io::Result<OwnedFd> {
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(answer as i32) })
}
