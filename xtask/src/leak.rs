//! What the kernel tiers could leave on the machine, before and after.
//!
//! The kernel takes namespaces, programs and maps down a while after their last user: a comparison
//! waits for that, for a bounded time. Only what is new counts; what others had stays theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use equipoise_lab::Netns;
use equipoise_lab::wait::wait_for;

const BPFFS: &str = "/sys/fs/bpf";
/// How long the kernel may take to clear up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that there is of each kind.
#[derive(Debug)]
pub(crate) struct Traces {
    kinds: BTreeMap<&'static str, BTreeSet<String>>,
    bpffs: Bpffs,
}

impl Traces {
    /// Looks at the machine; needs root.
    pub(crate) fn take() -> Result<Self> {
        Ok(Self { kinds: look()?, bpffs: Bpffs::look()? })
    }

    /// Looks again; an error that lists whatever is there now and was not then.
    pub(crate) fn compare(&self) -> Result<()> {
        let mut left = BTreeMap::new();
        let clean = wait_for(PATIENCE, "the machine to be as it was", || match self.left() {
            Ok(now) => {
                left = now;
                left.is_empty().then_some(Ok(()))
            }
            Err(error) => Some(Err(error)),
        });
        match clean {
            Ok(outcome) => return outcome,
            Err(_) if left.is_empty() => return Ok(()),
            Err(_) => {}
        }
        for (kind, things) in &left {
            for thing in things {
                println!("left behind: {kind}: {}", describe(kind, thing));
            }
        }
        bail!("{} things are left behind", left.values().map(BTreeSet::len).sum::<usize>())
    }

    fn left(&self) -> Result<BTreeMap<&'static str, BTreeSet<String>>> {
        // First the pins: a file system that is taken away would hide them.
        let mut left = self.exceeding(look()?);
        if !left.contains_key(PINS) {
            self.bpffs.restore()?;
            left = self.exceeding(look()?);
        }
        Ok(left)
    }

    fn exceeding(
        &self,
        now: BTreeMap<&'static str, BTreeSet<String>>,
    ) -> BTreeMap<&'static str, BTreeSet<String>> {
        let exceeding = now.into_iter().map(|(kind, things)| {
            let before = self.kinds.get(kind);
            let new =
                things.into_iter().filter(|thing| !before.is_some_and(|old| old.contains(thing)));
            (kind, new.collect::<BTreeSet<_>>())
        });
        exceeding.filter(|(_, things)| !things.is_empty()).collect()
    }
}

/// Whether the BPF file system was mounted: what mounts it for us must not outlast us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bpffs {
    /// It was, and stays.
    Mounted,
    /// It was not.
    Absent,
}

impl Bpffs {
    /// How it is now.
    pub(crate) fn look() -> Result<Self> {
        let mounted = mounts()?.contains(&format!("{BPFFS} bpf"));
        Ok(if mounted { Self::Mounted } else { Self::Absent })
    }

    /// Unmounts it where it was not mounted, as long as nothing is pinned there.
    pub(crate) fn restore(self) -> Result<()> {
        let now = Self::look()?;
        if now == self || now == Self::Absent || !files_below(Path::new(BPFFS)).is_empty() {
            return Ok(());
        }
        let place = CString::new(BPFFS)?;
        // SAFETY: the path is a C string that outlives the call.
        if unsafe { libc::umount2(place.as_ptr(), 0) } != 0 {
            return Err(io::Error::last_os_error()).context("unmounting /sys/fs/bpf");
        }
        Ok(())
    }
}

const PINS: &str = "pin";
const PROGRAMS: &str = "BPF program";
const MAPS: &str = "BPF map";
const LINKS: &str = "BPF link";

fn look() -> Result<BTreeMap<&'static str, BTreeSet<String>>> {
    Ok(BTreeMap::from([
        ("named network namespace", names_in("/run/netns")),
        ("network device", names_in("/sys/class/net")),
        ("qdisc", qdiscs()?),
        (PROGRAMS, ids(Walk::Program)?),
        (MAPS, ids(Walk::Map)?),
        (LINKS, ids(Walk::Link)?),
        (PINS, files_below(Path::new(BPFFS))),
        ("process", processes()?),
        ("mount", mounts()?),
        ("file", own_files()),
        ("system setting", settings()?),
    ]))
}

/// Commands of bpf(2) that walk over identifiers.
#[derive(Clone, Copy)]
enum Walk {
    Program = 11,
    Map = 12,
    Link = 31,
}

/// All identifiers of a kind.
fn ids(walk: Walk) -> Result<BTreeSet<String>> {
    /// The part of `union bpf_attr` for these commands.
    #[repr(C)]
    struct Attributes {
        start: u32,
        next: u32,
        flags: u32,
    }
    let mut attributes = Attributes { start: 0, next: 0, flags: 0 };
    let mut found = BTreeSet::new();
    loop {
        // SAFETY: the attributes are ours, as large as said, and outlive the call.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                walk as libc::c_long,
                &raw mut attributes,
                size_of::<Attributes>(),
            )
        };
        if answer != 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::NotFound {
                return Ok(found);
            }
            return Err(error).context("listing BPF objects (root is needed)");
        }
        found.insert(attributes.next.to_string());
        attributes.start = attributes.next;
    }
}

/// A thing with whatever more there is to say about it.
fn describe(kind: &str, thing: &str) -> String {
    let object = match kind {
        PROGRAMS => "prog",
        MAPS => "map",
        LINKS => "link",
        _ => return thing.to_owned(),
    };
    // Where there is no bpftool the number must do.
    let output = Command::new("bpftool").args([object, "show", "id", thing]).output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    if text.is_empty() {
        thing.to_owned()
    } else {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// Queueing disciplines of the host's devices.
fn qdiscs() -> Result<BTreeSet<String>> {
    let shown = Netns::current()?.output("tc", &["qdisc", "show"])?;
    let lines =
        shown.lines().map(|line| line.split(" refcnt").next().unwrap_or(line).trim().to_owned());
    Ok(lines.collect())
}

/// Processes of the product, by id: those of tests have longer names.
fn processes() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        // It may be gone by now.
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if id.bytes().all(|byte| byte.is_ascii_digit()) && name.trim() == "equipoise" {
            found.insert(id);
        }
    }
    Ok(found)
}

/// Mount points with the kind of file system.
fn mounts() -> Result<BTreeSet<String>> {
    let text = fs::read_to_string("/proc/self/mounts")?;
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some(format!("{} {}", words.next()?, words.next()?))
    });
    Ok(lines.collect())
}

/// Sockets, states and drafts of the product.
fn own_files() -> BTreeSet<String> {
    let mut found = files_below(Path::new("/run/equipoise"));
    found.append(&mut files_below(Path::new("/var/lib/equipoise")));
    let temporary = std::env::temp_dir();
    let ours = names_in(&temporary.to_string_lossy());
    let ours = ours.into_iter().filter(|name| name.starts_with("equipoise"));
    found.extend(ours.map(|name| temporary.join(name).display().to_string()));
    found
}

/// What labs change inside their namespaces and never outside.
fn settings() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        // IPv6 may be absent.
        let value = fs::read_to_string(format!("/proc/sys/{key}")).unwrap_or_default();
        found.insert(format!("{key} = {}", value.trim()));
    }
    Ok(found)
}

/// Names in a directory; none where there is no such directory.
fn names_in(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Everything below a directory, directories included.
fn files_below(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        // The kernel's own, in every BPF file system.
        if path.ends_with("bpf/maps.debug") || path.ends_with("bpf/progs.debug") {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.append(&mut files_below(&path));
        }
        found.insert(path.display().to_string());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(of: &[(&'static str, &[&str])]) -> BTreeMap<&'static str, BTreeSet<String>> {
        let kinds = of.iter();
        kinds
            .map(|(kind, things)| (*kind, things.iter().map(|thing| (*thing).to_owned()).collect()))
            .collect()
    }

    #[test]
    fn only_what_is_new_counts() {
        let before = Traces {
            kinds: traces(&[("device", &["lo", "eth0"]), ("pin", &[])]),
            bpffs: Bpffs::Mounted,
        };
        assert_eq!(before.exceeding(traces(&[("device", &["lo"]), ("pin", &[])])), traces(&[]));
        assert_eq!(
            before.exceeding(traces(&[("device", &["lo", "eth0", "front"]), ("pin", &["/a"])])),
            traces(&[("device", &["front"]), ("pin", &["/a"])])
        );
    }

    #[test]
    fn a_directory_that_does_not_exist_holds_nothing() {
        assert_eq!(files_below(Path::new("/nonexistent")), BTreeSet::new());
    }
}
