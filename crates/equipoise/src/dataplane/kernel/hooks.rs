//! What there is to see of the hooks and of where things are pinned, without an instance: whose programs hang where.
//!
//! Reads alone, but for mounting the BPF file system where somebody asks for it. What cannot be read, for want of capabilities or in an
//! older kernel, is left out.

use aya::programs::{TcAttachType, loaded_programs};

use super::{KernelError, attach, clsact, pin, tcx};

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

impl Hung {
    /// Whether it has the name of one of our programs that packets come to.
    pub fn is_named_as_ours(&self) -> bool {
        [attach::XDP, attach::XDP_GENERIC, attach::IN, attach::OUT].contains(&&*self.name)
    }
}

/// Something that hangs on a device at TC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A program, by a link.
    Link(Hung),
    /// A filter.
    Filter {
        /// The kernel's name of its kind.
        kind: String,
        /// Which of several comes first.
        priority: u16,
        /// The program that it runs; none where it matches without, or its program is of the kind before eBPF.
        program: Option<Hung>,
    },
}

impl Entry {
    /// The program that packets meet there.
    pub fn program(&self) -> Option<&Hung> {
        match self {
            Self::Link(program) => Some(program),
            Self::Filter { program, .. } => program.as_ref(),
        }
    }

    /// Which of several filters comes first; none of a link.
    pub fn priority(&self) -> Option<u16> {
        match self {
            Self::Link(_) => None,
            Self::Filter { priority, .. } => Some(*priority),
        }
    }
}

/// What hangs on a device at TC: coming in, and going out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AtTc {
    /// In their order: links come before filters.
    pub ingress: Vec<Entry>,
    /// In their order.
    pub egress: Vec<Entry>,
    /// Packets that filters have dropped, on either side.
    pub dropped: u32,
}

/// The program with this number.
pub fn program(id: u32) -> Hung {
    let loaded = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    let name = loaded.and_then(|program| program.name_as_str().map(str::to_owned));
    Hung { id, name: name.unwrap_or_default(), instance: pin::instance_of(id) }
}

/// What hangs at TC of the device with this index.
pub fn at_tc(interface: u32) -> AtTc {
    let side =
        |side| {
            let links = tcx::programs(interface, side).unwrap_or_default().into_iter();
            let filters = clsact::filters(interface, side).unwrap_or_default().into_iter();
            let filters = filters.map(|clsact::Found { kind, priority, program: id }| {
                Entry::Filter { kind, priority, program: id.map(program) }
            });
            links.map(|id| Entry::Link(program(id))).chain(filters).collect()
        };
    AtTc {
        ingress: side(TcAttachType::Ingress),
        egress: side(TcAttachType::Egress),
        dropped: clsact::dropped(interface).unwrap_or_default(),
    }
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
