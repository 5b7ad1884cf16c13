//! One instance of a name at a time: a lock on a file, held as long as the process lives.
//!
//! The kernel lets go of the lock when the process dies, however it dies, so a file that is left
//! over says nothing. The file is removed at the end; whoever had it open by then notices that
//! its name leads elsewhere, and tries again.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The lock of an instance; given up when dropped.
#[derive(Debug)]
pub struct InstanceLock {
    path: PathBuf,
    file: File,
    made_directory: bool,
    /// Whether it is another process's by now.
    is_left: bool,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("another instance named {instance:?} is running{}", pid_text(*.pid))]
    Held {
        /// Name of the instance.
        instance: String,
        /// Its process, when the file says so.
        pid: Option<u32>,
    },
    /// The file cannot be made or locked.
    #[error("lock file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

impl InstanceLock {
    /// Takes the lock of `instance` in `directory`, which is made when it is not there.
    ///
    /// # Errors
    ///
    /// When another process has it, or the file cannot be made.
    pub fn take(directory: &Path, instance: &str) -> Result<Self, LockError> {
        let path = directory.join(format!("{instance}.lock"));
        let failed = |source| LockError::File { path: path.clone(), source };
        let mut made_directory = false;
        loop {
            made_directory |= make(directory).map_err(failed)?;
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path);
            let mut file = match opened {
                // The holder before us has just removed the directory as well.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(failed)?,
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let instance = instance.to_owned();
                    return Err(LockError::Held { instance, pid: pid(&mut file) });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            // The holder before us may have removed the file between our open and our lock.
            if !still_named(&file, &path) {
                continue;
            }
            let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            written.map_err(failed)?;
            return Ok(Self { path, file, made_directory, is_left: false });
        }
    }
}

impl InstanceLock {
    /// Takes the lock that the process before has handed over: it has never been free.
    ///
    /// # Errors
    ///
    /// When it cannot be written who has it now.
    pub fn adopt(directory: &Path, instance: &str, mut file: File) -> Result<Self, LockError> {
        let path = directory.join(format!("{instance}.lock"));
        let written = file
            .rewind()
            .and_then(|()| file.set_len(0))
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        match written {
            Ok(()) => Ok(Self { path, file, made_directory: true, is_left: false }),
            Err(source) => Err(LockError::File { path, source }),
        }
    }

    /// The file that is locked.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Another process has been handed it, and holds it from here on.
    pub fn leave(mut self) {
        self.is_left = true;
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        // Removed while still locked, so that it is ours that goes.
        if self.is_left || !still_named(&self.file, &self.path) {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the lock file stays");
        }
        if let Some(directory) = self.path.parent().filter(|_| self.made_directory) {
            // It stays when another instance is in it.
            let _: io::Result<()> = fs::remove_dir(directory);
        }
    }
}

/// Makes a directory; false when it is there already.
fn make(directory: &Path) -> io::Result<bool> {
    match fs::DirBuilder::new().mode(0o755).create(directory) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

fn still_named(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(named)) = (file.metadata(), fs::metadata(path)) else {
        return false;
    };
    (ours.dev(), ours.ino()) == (named.dev(), named.ino())
}

fn pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn second_instance_is_told_who_holds_the_lock() {
        let dir = TempDir::new().unwrap();
        let _held = InstanceLock::take(dir.path(), "web").unwrap();
        let refused = InstanceLock::take(dir.path(), "web").unwrap_err();
        let pid = std::process::id();
        assert_eq!(
            refused.to_string(),
            format!("another instance named \"web\" is running (pid {pid})")
        );
        InstanceLock::take(dir.path(), "other").expect("another name is another instance");
    }

    #[test]
    fn lock_is_free_and_its_file_gone_after_the_end() {
        let dir = TempDir::new().unwrap();
        drop(InstanceLock::take(dir.path(), "web").unwrap());
        assert!(!dir.path().join("web.lock").exists());
        InstanceLock::take(dir.path(), "web").unwrap();
    }

    #[test]
    fn directory_that_was_made_goes_with_the_last_instance() {
        let dir = TempDir::new().unwrap();
        let made = dir.path().join("run");
        let first = InstanceLock::take(&made, "first").unwrap();
        let second = InstanceLock::take(&made, "second").unwrap();
        drop(second);
        assert!(made.exists());
        drop(first);
        assert!(!made.exists());
    }

    #[test]
    fn lock_that_is_handed_over_is_never_free_and_goes_with_the_one_who_has_it() {
        let dir = TempDir::new().unwrap();
        let first = InstanceLock::take(dir.path(), "web").unwrap();
        let file = first.file().try_clone().unwrap();
        let second = InstanceLock::adopt(dir.path(), "web", file).unwrap();
        first.leave();
        let refused = InstanceLock::take(dir.path(), "web").unwrap_err();
        assert!(matches!(refused, LockError::Held { pid: Some(_), .. }), "{refused}");
        drop(second);
        InstanceLock::take(dir.path(), "web").unwrap();
    }

    #[test]
    fn file_left_by_a_dead_process_does_not_hold() {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("web.lock"), "1\n").unwrap();
        InstanceLock::take(dir.path(), "web").unwrap();
    }
}
