//! Where things are pinned, so that packets flow on without this process.
//!
//! `/sys/fs/bpf/equipoise/INSTANCE/{maps,programs,links}`. Knows the file system, not what the
//! pins mean.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use aya::programs::ProgramInfo;

use super::{KernelError, clsact};

const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";

/// The link that is no device's.
pub(super) const OF_NAMESPACE: &str = "take";

/// The folder of one instance.
///
/// Programs, and the maps that say where they go on, are pinned under another number than those that are still in force
/// while a process takes over, and get their names when that is done.
#[derive(Clone)]
pub(super) struct Pins {
    root: PathBuf,
    /// 0 for the plain names.
    turn: u32,
}

impl Pins {
    /// The folder that `instance` has, whether it is there or not.
    pub(super) fn of(instance: &str) -> Self {
        Self::at(Path::new(BPF_FILE_SYSTEM).join("equipoise").join(instance))
    }

    /// The folder of what decapsulates under this name. No instance is named like that.
    pub(super) fn of_decap(name: &str) -> Self {
        Self::at(Path::new(BPF_FILE_SYSTEM).join("equipoise-decap").join(name))
    }

    fn at(root: PathBuf) -> Self {
        Self { root, turn: 0 }
    }

    /// Makes the folders, on a BPF file system that is mounted if it is not.
    pub(super) fn prepare(&self) -> Result<(), KernelError> {
        mount_if_missing()?;
        for folder in ["maps", "programs", "links"] {
            let path = self.root.join(folder);
            let made = fs::create_dir_all(&path).or_else(|error| match error.kind() {
                // Another instance that ends has taken away the folder of all, which was empty still.
                io::ErrorKind::NotFound => fs::create_dir_all(&path),
                _ => Err(error),
            });
            made.map_err(|error| {
                let hint = match error.kind() {
                    io::ErrorKind::PermissionDenied => {
                        "; root makes that folder, and gives it to the user of the instance"
                    }
                    _ => "",
                };
                refused(&format!("making {}", path.display()), &format!("{error}{hint}"))
            })?;
        }
        Ok(())
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    /// Memory that the kernel says maps take, bytes, by name; what cannot be asked is left out.
    pub(super) fn map_memory(&self) -> BTreeMap<String, u64> {
        let names = self.names("maps").unwrap_or_default();
        names.into_iter().filter_map(|name| Some((name.clone(), self.memory_of(&name)?))).collect()
    }

    fn memory_of(&self, name: &str) -> Option<u64> {
        // By its pin: by its id it is for those with more capabilities than this process keeps.
        let map = MapData::from_pin(self.map(name)).ok()?;
        let number = map.fd().as_fd().as_raw_fd();
        let told = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
        let line = told.lines().find_map(|line| line.strip_prefix("memlock:"))?;
        line.trim().parse().ok()
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.root.join("programs").join(self.turned(name))
    }

    /// Instructions that the verifier has gone through for each program, by its name; what cannot be asked is left out.
    pub(super) fn verified(&self) -> BTreeMap<String, u32> {
        let names = self.names("programs").unwrap_or_default();
        let count = |name: String| {
            let info = ProgramInfo::from_pin(self.program(&name)).ok()?;
            Some((name, info.verified_instruction_count()?))
        };
        names.into_iter().filter_map(count).collect()
    }

    /// A map that is of programs, and goes with them.
    pub(super) fn stages(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(self.turned(name))
    }

    fn turned(&self, name: &str) -> String {
        if self.turn == 0 { name.to_owned() } else { format!("{name}-{}", self.turn) }
    }

    /// The same, for programs that come in place of those that are there.
    pub(super) fn next_turn(mut self) -> io::Result<Self> {
        let names = [self.names("programs")?, self.names("maps")?].concat();
        let turns = names.iter().filter_map(|name| Some(turn(name)?.1));
        self.turn = turns.max().unwrap_or(0) + 1;
        Ok(self)
    }

    /// The same folder under the names of programs that were in force before.
    pub(super) fn before(&self) -> Self {
        Self::at(self.root.clone())
    }

    /// Programs of this turn get their names, in place of those before, which nothing runs any more. Programs that have no successor go,
    /// but those that are still needed.
    pub(super) fn settle(&mut self, is_needed: impl Fn(&str) -> bool) -> io::Result<()> {
        if self.turn == 0 {
            return Ok(());
        }
        for folder in ["programs", "maps"] {
            let path = self.root.join(folder);
            let names = self.names(folder)?;
            let is_ours =
                |name: &&String| turn(name).is_some_and(|(_, number)| number == self.turn);
            for name in names.iter().filter(is_ours) {
                let (plain, _) = turn(name).unwrap_or((name, 0));
                fs::rename(path.join(name), path.join(plain))?;
            }
            // And those of turns that came to nothing.
            let named = |name: &str| names.iter().any(|n| turn(n) == Some((name, self.turn)));
            let is_over = |name: &&String| match turn(name) {
                Some((_, number)) => number != self.turn,
                None => folder == "programs" && !named(name) && !is_needed(name),
            };
            for name in names.iter().filter(is_over) {
                fs::remove_file(path.join(name))?;
            }
        }
        self.turn = 0;
        Ok(())
    }

    /// What has been pinned in this turn goes.
    pub(super) fn forget_turn(&self) -> io::Result<()> {
        for folder in ["programs", "maps"] {
            for name in self.names(folder)? {
                if self.turn > 0 && turn(&name).is_some_and(|(_, number)| number == self.turn) {
                    fs::remove_file(self.root.join(folder).join(name))?;
                }
            }
        }
        Ok(())
    }

    /// Programs and maps whose names begin like this go.
    pub(super) fn remove_beginning(&self, beginning: &str) -> io::Result<()> {
        for folder in ["programs", "maps"] {
            for name in self.names(folder)? {
                if name.starts_with(beginning) {
                    fs::remove_file(self.root.join(folder).join(name))?;
                }
            }
        }
        Ok(())
    }

    /// Programs, and then maps, whose names begin like this get them without that, in place of what has those.
    pub(super) fn rename_beginning(&self, beginning: &str) -> io::Result<()> {
        for folder in ["programs", "maps"] {
            let path = self.root.join(folder);
            for name in self.names(folder)? {
                if let Some(plain) = name.strip_prefix(beginning) {
                    fs::rename(path.join(&name), path.join(plain))?;
                }
            }
        }
        Ok(())
    }

    /// Maps of these names go.
    pub(super) fn remove_maps(&self, which: impl Fn(&str) -> bool) -> io::Result<()> {
        for name in self.names("maps")?.iter().filter(|name| which(name)) {
            fs::remove_file(self.map(name))?;
        }
        Ok(())
    }

    /// Whether there is a program or a map whose name begins like this.
    pub(super) fn has_beginning(&self, beginning: &str) -> io::Result<bool> {
        let names = [self.names("programs")?, self.names("maps")?].concat();
        Ok(names.iter().any(|name| name.starts_with(beginning)))
    }

    /// What stands for attachments: filters before the qdisc that they hang on.
    pub(super) fn links(&self) -> io::Result<Vec<PathBuf>> {
        let mut names = self.names("links")?;
        names.sort_by_key(|name| name.contains("-own-"));
        Ok(names.into_iter().map(|name| self.root.join("links").join(name)).collect())
    }

    /// Those of a device.
    pub(super) fn links_of(&self, interface: u32) -> io::Result<Vec<PathBuf>> {
        let mut links = self.links()?;
        let end = format!("-{interface}");
        links.retain(|path| path.to_string_lossy().ends_with(&end));
        Ok(links)
    }

    fn names(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.root.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    /// `what` says which hook; an interface's name may hold characters that BPF paths may not.
    pub(super) fn link(&self, what: &str, interface: u32) -> PathBuf {
        self.root.join("links").join(format!("{what}-{interface}"))
    }

    /// What stands for the program on the network namespace.
    pub(super) fn link_of_namespace(&self) -> PathBuf {
        self.root.join("links").join(OF_NAMESPACE)
    }

    /// Whether this is the folder of that instance.
    pub(super) fn is_of(&self, instance: &str) -> bool {
        self.root.file_name().is_some_and(|name| name == instance)
    }

    /// Whether anything is there. An empty folder is only what root has made for an instance.
    pub(super) fn exists(&self) -> bool {
        fs::read_dir(&self.root).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Removes links first, so that no program runs on maps that are going.
    pub(super) fn remove(&self) -> io::Result<()> {
        for folder in ["links", "programs", "maps"] {
            let path = self.root.join(folder);
            if !path.is_dir() {
                continue;
            }
            let paths = match folder {
                "links" => self.links()?,
                _ => self.names(folder)?.into_iter().map(|name| path.join(name)).collect(),
            };
            for path in paths {
                if folder == "links" { release(&path)? } else { fs::remove_file(path)? }
            }
            fs::remove_dir(&path)?;
        }
        fs::remove_dir(&self.root)?;
        // Other instances may live beside this one.
        if let Some(parent) = self.root.parent() {
            match fs::remove_dir(parent) {
                Ok(()) => {}
                // Nor is it this user's to remove where root has made it for a service; and the last but one may just have gone, too.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::DirectoryNotEmpty
                            | io::ErrorKind::PermissionDenied
                            | io::ErrorKind::NotFound
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The plain name and the number of what is pinned under a number.
fn turn(name: &str) -> Option<(&str, u32)> {
    let (plain, number) = name.rsplit_once('-')?;
    Some((plain, number.parse().ok()?))
}

/// Takes off what a pin among the links stands for, and the pin away.
pub(super) fn release(path: &Path) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with(clsact::MARK) {
        clsact::release(path)?;
        return fs::remove_file(path);
    }
    detach(path)
}

/// What is pinned there.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    const BPF_OBJ_GET: libc::c_long = 7;
    // The part of `union bpf_attr` that this command reads.
    #[repr(C)]
    struct ByPath {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let name = c_path(path);
    let get = ByPath { path: name.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: a whole attribute with its size; the path outlives the call.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const get, size_of::<ByPath>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Takes the program of a pinned link off what it hangs on, and the pin away.
///
/// Removing the pin alone would do, some time later: the kernel lets links go in the background.
/// No packet meets the program once this has returned. A device that is gone is no error.
fn detach(path: &Path) -> io::Result<()> {
    const BPF_LINK_DETACH: libc::c_long = 34;
    // The part of `union bpf_attr` that this command reads.
    #[repr(C)]
    struct ByFd {
        link: u32,
    }
    let link = open(path)?;
    let detach = ByFd { link: link.as_raw_fd() as u32 };
    // The answer does not matter: a link whose device is gone says that it is detached already.
    // SAFETY: a whole attribute with its size.
    unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw const detach, size_of::<ByFd>()) };
    fs::remove_file(path)
}

/// The instance that has pinned a program, by the program's id.
pub(super) fn instance_of(program: u32) -> Option<String> {
    let instances = fs::read_dir(Path::new(BPF_FILE_SYSTEM).join("equipoise")).ok()?;
    let has_it = |pins: &Pins| {
        let names = pins.names("programs").unwrap_or_default();
        let paths = names.iter().map(|name| pins.root.join("programs").join(name));
        paths.into_iter().any(|path| ProgramInfo::from_pin(path).is_ok_and(|p| p.id() == program))
    };
    let mut names = instances.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.find(|name| has_it(&Pins::of(name)))
}

/// Whether there is a BPF file system where we look for one.
pub(super) fn is_mounted() -> bool {
    /// `BPF_FS_MAGIC` of linux/magic.h.
    const BPF_FS: libc::__fsword_t = 0xcafe_4a11;
    let path = c_path(Path::new(BPF_FILE_SYSTEM));
    // SAFETY: `statfs` is plain data for which zeros are a value.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a NUL-terminated path and a whole `statfs` to fill.
    let result = unsafe { libc::statfs(path.as_ptr(), &raw mut about) };
    result == 0 && about.f_type == BPF_FS
}

pub(super) fn mount_if_missing() -> Result<(), KernelError> {
    if is_mounted() {
        return Ok(());
    }
    let path = c_path(Path::new(BPF_FILE_SYSTEM));
    fs::create_dir_all(BPF_FILE_SYSTEM)
        .map_err(|error| refused(&format!("making {BPF_FILE_SYSTEM}"), &error))?;
    let (source, kind) = (c"bpffs", c"bpf");
    // SAFETY: NUL-terminated texts; this file system takes no data.
    let result =
        unsafe { libc::mount(source.as_ptr(), path.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    if result != 0 {
        let error = io::Error::last_os_error();
        let hint = match error.raw_os_error() {
            Some(libc::EPERM) => "; that takes CAP_SYS_ADMIN: have root mount it before the start",
            _ => "",
        };
        return Err(refused(
            &format!("mounting the BPF file system at {BPF_FILE_SYSTEM}"),
            &format!("{error}{hint}"),
        ));
    }
    tracing::info!(path = BPF_FILE_SYSTEM, "mounted the BPF file system");
    Ok(())
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

pub(super) fn refused(what: &str, error: &dyn std::fmt::Display) -> KernelError {
    KernelError::Refused(format!("{what}: {error}"))
}
