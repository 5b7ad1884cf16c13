//! Where things are pinned, so that packets flow on without this process.
//!
//! `/sys/fs/bpf/equipoise/INSTANCE/{maps,programs,links}`. Knows the file system, not what the
//! pins mean.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::{KernelError, clsact};

const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";

/// The folder of one instance.
#[derive(Clone)]
pub(super) struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The folder that `instance` has, whether it is there or not.
    pub(super) fn of(instance: &str) -> Self {
        Self { root: Path::new(BPF_FILE_SYSTEM).join("equipoise").join(instance) }
    }

    /// The folder of what decapsulates under this name. No instance is named like that.
    pub(super) fn of_decap(name: &str) -> Self {
        Self { root: Path::new(BPF_FILE_SYSTEM).join("equipoise-decap").join(name) }
    }

    /// Makes the folders, on a BPF file system that is mounted if it is not.
    pub(super) fn prepare(&self) -> Result<(), KernelError> {
        mount_if_missing()?;
        for folder in ["maps", "programs", "links"] {
            let path = self.root.join(folder);
            fs::create_dir_all(&path)
                .map_err(|error| refused(&format!("making {}", path.display()), &error))?;
        }
        Ok(())
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.root.join("programs").join(name)
    }

    /// `what` says which hook; an interface's name may hold characters that BPF paths may not.
    pub(super) fn link(&self, what: &str, interface: u32) -> PathBuf {
        self.root.join("links").join(format!("{what}-{interface}"))
    }

    pub(super) fn exists(&self) -> bool {
        self.root.is_dir()
    }

    /// Removes links first, so that no program runs on maps that are going.
    pub(super) fn remove(&self) -> io::Result<()> {
        for folder in ["links", "programs", "maps"] {
            let path = self.root.join(folder);
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let mut paths =
                entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
            // Filters go before the qdisc that they hang on.
            paths.sort_by_key(|path| path.to_string_lossy().contains("-own-"));
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
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
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

/// Takes the program of a pinned link off its device, and the pin away.
///
/// Removing the pin alone would do, some time later: the kernel lets links go in the background.
/// No packet meets the program once this has returned. A device that is gone is no error.
fn detach(path: &Path) -> io::Result<()> {
    const BPF_OBJ_GET: libc::c_long = 7;
    const BPF_LINK_DETACH: libc::c_long = 34;
    // The parts of `union bpf_attr` that these commands read.
    #[repr(C)]
    struct ByPath {
        path: u64,
        fd: u32,
        flags: u32,
    }
    #[repr(C)]
    struct ByFd {
        link: u32,
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
    let link = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let detach = ByFd { link: link.as_raw_fd() as u32 };
    // The answer does not matter: a link whose device is gone says that it is detached already.
    // SAFETY: a whole attribute with its size.
    unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw const detach, size_of::<ByFd>()) };
    fs::remove_file(path)
}

fn mount_if_missing() -> Result<(), KernelError> {
    /// `BPF_FS_MAGIC` of linux/magic.h.
    const BPF_FS: libc::__fsword_t = 0xcafe_4a11;
    let path = c_path(Path::new(BPF_FILE_SYSTEM));
    // SAFETY: `statfs` is plain data for which zeros are a value.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a NUL-terminated path and a whole `statfs` to fill.
    let result = unsafe { libc::statfs(path.as_ptr(), &raw mut about) };
    if result == 0 && about.f_type == BPF_FS {
        return Ok(());
    }
    fs::create_dir_all(BPF_FILE_SYSTEM)
        .map_err(|error| refused(&format!("making {BPF_FILE_SYSTEM}"), &error))?;
    let (source, kind) = (c"bpffs", c"bpf");
    // SAFETY: NUL-terminated texts; this file system takes no data.
    let result =
        unsafe { libc::mount(source.as_ptr(), path.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    if result != 0 {
        return Err(refused(
            &format!("mounting the BPF file system at {BPF_FILE_SYSTEM}"),
            &io::Error::last_os_error(),
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
