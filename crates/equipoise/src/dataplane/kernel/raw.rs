//! What is asked of the kernel by hand: values of maps whose size is not known when this is built, and another program for a link.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::Path;

use aya::Pod;
use aya::maps::MapData;

/// The first so many entries of a pinned array, as far as there are any: of each what `T` has of it, and zeros where it is longer.
pub(super) fn heads<T: Pod + Default>(path: &Path, count: u32) -> io::Result<Vec<T>> {
    let map = MapData::from_pin(path).map_err(io::Error::other)?;
    let info = map.info().map_err(io::Error::other)?;
    if info.key_size() != 4 {
        return Err(io::Error::other("it is no array"));
    }
    let mut value = vec![0; info.value_size().next_multiple_of(8) as usize];
    let fd = map.fd().as_fd().as_raw_fd();
    let entry = |id| {
        look_up(fd, id, &mut value)?;
        Ok(head(&value[..info.value_size() as usize]))
    };
    (0..count.min(info.max_entries())).map(entry).collect()
}

/// As many of these bytes as it has.
fn head<T: Pod>(bytes: &[u8]) -> T {
    let mut value = MaybeUninit::<T>::zeroed();
    let length = bytes.len().min(size_of::<T>());
    // SAFETY: no more bytes than either has, and they do not overlap.
    unsafe { value.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), length) };
    // SAFETY: all bytes have been written, and any are a value (`Pod`).
    unsafe { value.assume_init() }
}

fn look_up(map: i32, key: u32, value: &mut [u8]) -> io::Result<()> {
    const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
    // The part of `union bpf_attr` that this command reads.
    #[repr(C)]
    struct Element {
        map: u32,
        reserved: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let key = &raw const key as u64;
    let element =
        Element { map: map as u32, reserved: 0, key, value: value.as_mut_ptr() as u64, flags: 0 };
    // SAFETY: a whole attribute with its size; key and value are as long as the map's, and outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_ELEM, &raw const element, size_of::<Element>())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts a program into a link, in place of the one that is there.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_LINK_UPDATE: libc::c_long = 29;
    // The part of `union bpf_attr` that this command reads.
    #[repr(C)]
    struct Update {
        link: u32,
        program: u32,
        flags: u32,
        before: u32,
    }
    let (link, program) = (link.as_raw_fd() as u32, program.as_raw_fd() as u32);
    let update = Update { link, program, flags: 0, before: 0 };
    // SAFETY: a whole attribute with its size.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_LINK_UPDATE, &raw const update, size_of::<Update>())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use equipoise_common::value::Traffic;

    use super::*;

    #[test]
    fn shorter_values_end_in_zeros_and_longer_ones_are_cut() {
        let word = |number: u64| number.to_ne_bytes();
        let bytes: Vec<u8> = (1..=8).flat_map(word).collect();
        let longer = head::<Traffic>(&bytes);
        assert_eq!((longer.new_flows, longer.ports_changed), (1, 6));
        let shorter = head::<Traffic>(&bytes[..16]);
        assert_eq!(shorter, Traffic { new_flows: 1, packets_in: 2, ..Traffic::default() });
    }
}
