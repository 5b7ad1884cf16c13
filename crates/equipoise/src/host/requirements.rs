//! What the machine must offer before anything is started: a kernel that is new enough, and the
//! capabilities to use it. Each shortage is one sentence.

use std::fs;

const OLDEST: (u32, u32) = (6, 1);

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Checks this machine and this process.
///
/// # Errors
///
/// A sentence that says what is missing.
pub fn check() -> Result<(), String> {
    of_kernel()?;
    of_process()
}

/// Checks this machine alone.
///
/// # Errors
///
/// As [`check`].
pub fn of_kernel() -> Result<(), String> {
    kernel(read("/proc/sys/kernel/osrelease")?.trim())
}

/// Checks this process alone.
///
/// # Errors
///
/// As [`check`].
pub fn of_process() -> Result<(), String> {
    capabilities(&read("/proc/self/status")?)
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{path} cannot be read ({e}); is /proc mounted?"))
}

fn kernel(release: &str) -> Result<(), String> {
    let (major, minor) = OLDEST;
    match version(release) {
        Some(found) if found >= OLDEST => Ok(()),
        Some(_) => {
            Err(format!("this kernel is {release}; equipoise needs Linux {major}.{minor} or later"))
        }
        None => Err(format!(
            "the kernel's release {release:?} is not understood; Linux {major}.{minor} or later is needed"
        )),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn capabilities(status: &str) -> Result<(), String> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or_default();
    let has = |capability: u32| effective & (1 << capability) != 0;
    let wanted = [
        ("CAP_NET_ADMIN", has(CAP_NET_ADMIN)),
        ("CAP_BPF", has(CAP_BPF) || has(CAP_SYS_ADMIN)),
        ("CAP_PERFMON", has(CAP_PERFMON) || has(CAP_SYS_ADMIN)),
    ];
    let missing: Vec<_> =
        wanted.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("run as root, or with the capabilities that are missing: {}", missing.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_6_1_are_refused_in_one_sentence() {
        assert_eq!(kernel("6.1.0-18-amd64"), Ok(()));
        assert_eq!(kernel("6.18.44-fc-v669"), Ok(()));
        assert_eq!(kernel("10.0"), Ok(()));
        let refused = kernel("5.15.0-generic").unwrap_err();
        assert_eq!(refused, "this kernel is 5.15.0-generic; equipoise needs Linux 6.1 or later");
        assert!(kernel("6.0.19").is_err());
        assert!(kernel("unknown").is_err());
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"), Ok(()));
        let only_net = capabilities("CapEff:\t0000000000001000\n").unwrap_err();
        assert!(only_net.ends_with("missing: CAP_BPF, CAP_PERFMON"), "{only_net}");
        assert!(capabilities("CapEff:\t0000000000000000\n").unwrap_err().contains("CAP_NET_ADMIN"));
        assert!(capabilities("").is_err());
    }

    #[test]
    fn sys_admin_stands_for_bpf_and_perfmon() {
        assert_eq!(capabilities("CapEff:\t0000000000201000\n"), Ok(()));
    }
}
