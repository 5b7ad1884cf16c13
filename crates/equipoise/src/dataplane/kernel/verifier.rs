//! What the kernel's verifier made of the packet programs: of those that an instance has loaded, or of those that one would load,
//! for a try.
//!
//! It refuses a program on whose ways there are more instructions than it is willing to walk; how many it walks differs between kernels.

use std::collections::BTreeMap;

use equipoise_core::config::AttachMode;

use super::KernelError;
use super::load;
use super::pin::Pins;
use super::stages::Group;

/// Instructions that it walks for one program at most: `BPF_COMPLEXITY_LIMIT_INSNS` of linux/bpf.h, from kernel 5.2 on.
pub const LIMIT: u32 = 1_000_000;

/// What it has walked for each program of an instance, by its name; nothing where pins cannot be seen.
pub fn of_instance(instance: &str) -> BTreeMap<String, u32> {
    Pins::of(instance).verified()
}

/// What it walks for each program that devices of these modes get. They are gone when this returns, and have hung nowhere; it takes seconds.
///
/// # Errors
///
/// When the kernel refuses; with the verifier's own log where it was the verifier.
pub fn by_trying(modes: &[AttachMode]) -> Result<BTreeMap<String, u32>, KernelError> {
    // TC hangs beside XDP, too.
    let mut groups = vec![Group::Ingress, Group::Egress];
    for (mode, group) in
        [(AttachMode::Xdp, Group::Native), (AttachMode::XdpGeneric, Group::Generic)]
    {
        if modes.contains(&mode) {
            groups.push(group);
        }
    }
    let ebpf = load::load_for_a_try(&groups)?;
    let programs: Vec<&str> = groups.iter().flat_map(|group| group.programs()).collect();
    load::verified(&ebpf, &programs)
}

/// Tries the programs of another object, which is laid out like the one that is loaded.
///
/// # Errors
///
/// As [`by_trying`].
#[cfg(feature = "kernel-tests")]
pub fn of_object(object: &[u8]) -> Result<(), KernelError> {
    load::load_for_a_try_of(object, &Group::ALL).map(drop)
}
