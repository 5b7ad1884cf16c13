//! Which CPU a thread runs on, for tests and measurements that depend on it.

/// Keeps this thread on one CPU, and those that it starts from now on.
///
/// # Panics
///
/// When there is no such CPU.
pub fn pin(cpu: usize) {
    // SAFETY: a set of CPUs is plain bits, for which zeros are a value: an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: a whole set, and a number that is checked against its size.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is whole and outlives the call; 0 is this thread.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    assert_eq!(result, 0, "CPU {cpu}: {}", std::io::Error::last_os_error());
}
