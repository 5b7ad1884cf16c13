//! The object with the packet programs, as it stands in this build.

use std::borrow::Cow;

use super::KernelError;

/// The object; empty when it could not be built.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/equipoise.o"));

/// What to do about an empty object; the build script has found out.
const STUB: Option<&str> = option_env!("EQUIPOISE_EBPF_STUB");

/// Where it says how many bytes of line numbers are in it; the build script has looked.
const LINES_AT: Option<&str> = option_env!("EQUIPOISE_EBPF_LINES_AT");

/// An error that says what to do when this build has no programs in it.
pub(super) fn present() -> Result<(), KernelError> {
    has_programs(OBJECT)
}

/// The same of another object.
pub(super) fn has_programs(object: &[u8]) -> Result<(), KernelError> {
    if object.is_empty() {
        let advice = STUB.unwrap_or("this build has no kernel programs in it");
        return Err(KernelError::Refused(advice.to_owned()));
    }
    Ok(())
}

/// The object, or one laid out like it, without line numbers: they are for the log of a verifier that refuses a program. With them the
/// loader (aya-obj 0.3) copies those of a whole section for each function in it, 240 MB, and the kernel keeps them.
pub(super) fn quick(object: &[u8]) -> Cow<'_, [u8]> {
    let Some(at) = LINES_AT.and_then(|at| at.parse::<usize>().ok()) else {
        return Cow::Borrowed(object);
    };
    let mut quick = object.to_vec();
    if let Some(length) = quick.get_mut(at..at + size_of::<u32>()) {
        length.fill(0);
    }
    Cow::Owned(quick)
}
