//! The files that the configuration was read from, watched.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Driver, Source};
use crate::config_file::Base;
use crate::dataplane::DataPlane;
use crate::host::Machine;
use crate::watch::Watch;

/// Whether a file that changes is read anew by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watching {
    /// It is.
    Yes,
    /// Only when told to.
    No,
}

/// Watches what a configuration is read from.
pub(super) fn watched(source: &Source, base: &Base, watching: Watching) -> Option<Watch> {
    let Source::File(path) = source else { return None };
    if watching == Watching::No {
        return None;
    }
    match Watch::start(files(path, base)) {
        Ok(watch) => Some(watch),
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "not watched: changes wait for a reload");
            None
        }
    }
}

/// A file, and those that it names.
fn files(path: &Path, base: &Base) -> BTreeSet<PathBuf> {
    std::iter::once(path.to_owned()).chain(base.files().map(Path::to_owned)).collect()
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Watches what has been read last, right or wrong.
    pub(super) fn follow_files(&mut self, path: &Path, base: &Base) {
        let Some(watch) = &mut self.watch else { return };
        if let Err(error) = watch.follow(files(path, base)) {
            tracing::warn!(%error, "not all files of the configuration are watched");
        }
    }
}

/// Waits until a file has changed; for ever where none is watched.
pub(super) async fn changed(watch: &mut Option<Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}
