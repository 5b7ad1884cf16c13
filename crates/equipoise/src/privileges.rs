//! What a process and its threads may do, given up as soon as nothing needs it any more.
//!
//! Capabilities are those of a thread, and threads that it starts have the same. So a thread that talks to the outside gives up its
//! own when it begins, and the thread with the loop once the instance runs. For whom that is: the binary. An application that has an
//! instance as a library keeps what it has. What each capability is for is told in `docs/privileges.md`.

use std::io;

use rustix::process::geteuid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// What an instance needs while it runs, whoever runs it.
const NEEDED: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW);

/// What root's instances need besides: files that are another user's, and commands of checks that become another user.
const OF_ROOT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID);

/// This thread, and what it starts from here on, keep what a running instance needs, and get nothing more by running another
/// program. What is kept goes on to the next process of an upgrade.
///
/// # Errors
///
/// When the kernel refuses.
pub fn settle() -> io::Result<()> {
    let wanted = if geteuid().is_root() { NEEDED.union(OF_ROOT) } else { NEEDED };
    let kept = capabilities(None)?.permitted.intersection(wanted);
    // Which itself needs one that is not kept.
    for other in CapabilitySet::all().difference(wanted).iter() {
        // One that this kernel does not know is in no set.
        if capability_is_in_bounding_set(other).unwrap_or(false)
            && remove_capability_from_bounding_set(other).is_err()
        {
            // Whoever may not shrink the bounding set gains nothing by it either, with no new privileges.
            break;
        }
    }
    clear_ambient_capability_set()?;
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept })?;
    for capability in kept.iter() {
        configure_capability_in_ambient_set(capability, true)?;
    }
    set_no_new_privs(true)?;
    Ok(())
}

/// This thread, and what it starts, keep these capabilities of those that it has; programs that it runs get none, unless root runs them.
pub(crate) fn keep_only(wanted: CapabilitySet) {
    let wanted = if geteuid().is_root() { wanted.union(OF_ROOT) } else { wanted };
    let reduced = capabilities(None).and_then(|sets| {
        let kept = sets.permitted.intersection(wanted);
        clear_ambient_capability_set()?;
        let inheritable = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })
    });
    if let Err(error) = reduced {
        tracing::warn!(%error, "a thread keeps capabilities that it does not need");
    }
}

/// This process, while it has no other thread, keeps no capability, and gets none by running another program.
pub(crate) fn give_up() -> io::Result<()> {
    let none = CapabilitySet::empty();
    clear_ambient_capability_set()?;
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_that_gives_up_its_capabilities_has_none_and_others_keep_theirs() {
        let before = capabilities(None).unwrap();
        let inside = std::thread::spawn(|| {
            keep_only(CapabilitySet::NET_ADMIN);
            capabilities(None).unwrap()
        });
        let inside = inside.join().unwrap();
        let of_user = if geteuid().is_root() { OF_ROOT } else { CapabilitySet::empty() };
        let allowed = before.permitted.intersection(CapabilitySet::NET_ADMIN.union(of_user));
        assert_eq!((inside.permitted, inside.effective), (allowed, allowed));
        assert_eq!(capabilities(None).unwrap(), before);
    }

    #[test]
    fn thread_that_gives_up_keeps_nothing() {
        let inside = std::thread::spawn(|| {
            give_up().unwrap();
            capabilities(None).unwrap()
        });
        let inside = inside.join().unwrap();
        let none = CapabilitySet::empty();
        assert_eq!((inside.permitted, inside.effective, inside.inheritable), (none, none, none));
    }

    #[test]
    fn settled_thread_keeps_what_an_instance_needs_and_hands_it_on() {
        let settled = std::thread::spawn(|| {
            settle().unwrap();
            let told = std::process::Command::new("cat").arg("/proc/self/status").output().unwrap();
            (capabilities(None).unwrap(), String::from_utf8(told.stdout).unwrap())
        });
        let (sets, child) = settled.join().unwrap();
        assert!(NEEDED.union(OF_ROOT).contains(sets.permitted), "{sets:?}");
        assert!(!sets.permitted.contains(CapabilitySet::SYS_ADMIN));
        let value = |name: &str| {
            let line = child.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().to_owned()
        };
        assert_eq!(value("NoNewPrivs:"), "1");
        assert_eq!(value("CapPrm:"), format!("{:016x}", sets.permitted.bits()));
    }
}
