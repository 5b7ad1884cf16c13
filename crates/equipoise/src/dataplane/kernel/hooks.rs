//! What there is to see of the hooks and of where things are pinned, without an instance: whose programs hang where.
//!
//! Reads alone, but for mounting the BPF file system where somebody asks for it. What cannot be read, for want of capabilities or in an
//! older kernel, is left out.

use aya::programs::{TcAttachType, loaded_programs};

use super::{KernelError, pin, tcx};

/// A program of somebody's that hangs on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hung {
    /// The kernel's number for it.
    pub id: u32,
    /// Its name; empty where it has none, or it cannot be read.
    pub name: String,
    /// The instance of ours that has pinned it; none for another's.
    pub instance: Option<String>,
}

/// Who hangs on a device at TC by links: coming in, and going out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AtTc {
    /// In their order.
    pub ingress: Vec<Hung>,
    /// In their order.
    pub egress: Vec<Hung>,
}

/// The program with this number.
pub fn program(id: u32) -> Hung {
    let loaded = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    let name = loaded.and_then(|program| program.name_as_str().map(str::to_owned));
    Hung { id, name: name.unwrap_or_default(), instance: pin::instance_of(id) }
}

/// The programs at TC of the device with this index.
pub fn at_tc(interface: u32) -> AtTc {
    let side = |side| {
        let ids = tcx::programs(interface, side).unwrap_or_default();
        ids.into_iter().map(program).collect()
    };
    AtTc { ingress: side(TcAttachType::Ingress), egress: side(TcAttachType::Egress) }
}

/// Whether the BPF file system is mounted.
pub fn pins_are_mounted() -> bool {
    pin::is_mounted()
}

/// Mounts the BPF file system at `/sys/fs/bpf`, if it is not there.
///
/// # Errors
///
/// When the kernel refuses it: that takes `CAP_SYS_ADMIN`.
pub fn mount_pins() -> Result<(), KernelError> {
    pin::mount_if_missing()
}
