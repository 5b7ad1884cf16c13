//! Says when a configuration's files have changed, once each time, when whoever writes them seems to be done.
//!
//! A path is what its parts make it: a name in a directory, or a link to somewhere else, as Kubernetes swaps the one that all
//! files of a configuration go through. So each directory is watched that a path leads by, for the names in it that do,
//! and the way is looked up again with each change. Editors rename a new file over the old one, which is there whole at once;
//! who writes into the file itself may take his time. Knows nothing of what is in the files.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// After a file has been written to: longer than anybody takes between two halves.
const WRITTEN: Duration = Duration::from_millis(500);
/// After names have changed: a few of them go together.
const RENAMED: Duration = Duration::from_millis(50);
/// Links that a path may lead by, as the kernel has it.
const LINKS: u32 = 40;

/// What is watched, and what has been heard.
#[derive(Debug)]
pub struct Watch {
    watcher: RecommendedWatcher,
    news: mpsc::UnboundedReceiver<notify::Result<Event>>,
    files: BTreeSet<PathBuf>,
    /// Names that matter, in their directories.
    places: BTreeSet<PathBuf>,
    /// Directories in which all do.
    whole: BTreeSet<PathBuf>,
    /// Those that the kernel watches.
    directories: BTreeSet<PathBuf>,
    due: Option<Instant>,
}

impl Watch {
    /// Watches these files; a directory stands for all that is in it.
    ///
    /// # Errors
    ///
    /// When the kernel gives no watch.
    pub fn start(files: BTreeSet<PathBuf>) -> notify::Result<Self> {
        let (sender, news) = mpsc::unbounded_channel();
        // Nobody listens when the instance is ending.
        let tell = move |event| drop(sender.send(event));
        let watcher = notify::recommended_watcher(tell)?;
        let mut watch = Self {
            watcher,
            news,
            files,
            places: BTreeSet::new(),
            whole: BTreeSet::new(),
            directories: BTreeSet::new(),
            due: None,
        };
        watch.look_up()?;
        Ok(watch)
    }

    /// Watches these files from now on. What has happened to those that are new before this is told as a change.
    ///
    /// # Errors
    ///
    /// When the kernel gives no watch.
    pub fn follow(&mut self, files: BTreeSet<PathBuf>) -> notify::Result<()> {
        if files == self.files {
            return Ok(());
        }
        if !files.is_subset(&self.files) {
            self.put_off(RENAMED);
        }
        self.files = files;
        self.look_up()
    }

    /// Waits until something has changed and has been quiet since. May be given up and called again.
    pub async fn changed(&mut self) {
        loop {
            let due = self.due;
            let quiet = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(news) = self.news.recv() => self.hear(&news),
                () = quiet => {
                    self.due = None;
                    return;
                }
            }
        }
    }

    fn hear(&mut self, news: &notify::Result<Event>) {
        let wait = match news {
            Ok(event) if event.need_rescan() => Some(RENAMED),
            Ok(event) if event.paths.iter().any(|path| self.matters(path)) => quiet_after(event),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, "watching the configuration");
                Some(RENAMED)
            }
        };
        let Some(wait) = wait else { return };
        self.put_off(wait);
        // A way that leads elsewhere now has other places.
        if let Err(error) = self.look_up() {
            tracing::warn!(%error, "watching the configuration");
        }
    }

    fn matters(&self, path: &Path) -> bool {
        let is_inside = || path.parent().is_some_and(|parent| self.whole.contains(parent));
        self.places.contains(path) || is_inside()
    }

    /// Never sooner than what has been heard before asks for.
    fn put_off(&mut self, wait: Duration) {
        let at = Instant::now() + wait;
        self.due = Some(self.due.map_or(at, |due| due.max(at)));
    }

    /// Finds the places that the files are reached by, and watches the directories of those.
    fn look_up(&mut self) -> notify::Result<()> {
        let mut places = BTreeSet::new();
        let ends = self.files.iter().map(|file| follow_path(file, &mut places));
        let whole: BTreeSet<PathBuf> = ends.filter(|end| end.is_dir()).collect();
        let parents = places.iter().filter_map(|place| place.parent()).map(Path::to_owned);
        let directories: BTreeSet<_> = parents.chain(whole.iter().cloned()).collect();
        for gone in self.directories.difference(&directories) {
            // It may be there no more.
            drop(self.watcher.unwatch(gone));
        }
        let mut failed = None;
        let mut watched = BTreeSet::new();
        for directory in directories {
            // Again where it was watched before: another one may have come in its place.
            match self.watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => drop(watched.insert(directory)),
                Err(error) if is_missing(&error) => {}
                Err(error) => failed = Some(error),
            }
        }
        (self.places, self.whole, self.directories) = (places, whole, watched);
        failed.map_or(Ok(()), Err)
    }
}

/// How long it is to be quiet after this; none where nothing is otherwise by it.
fn quiet_after(event: &Event) -> Option<Duration> {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(WRITTEN),
        EventKind::Access(_) => None,
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => Some(RENAMED),
        // What has just been made is still to be written.
        EventKind::Create(_) | EventKind::Modify(_) | EventKind::Any | EventKind::Other => {
            Some(WRITTEN)
        }
    }
}

fn is_missing(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound | notify::ErrorKind::WatchNotFound => true,
        notify::ErrorKind::Io(error) => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Adds every name in a directory that a path leads by, links and what they lead to included, and answers where it ends.
fn follow_path(path: &Path, places: &mut BTreeSet<PathBuf>) -> PathBuf {
    let mut rest: Vec<OsString> = parts(path);
    let mut here = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == ".." {
            here.pop();
            continue;
        }
        let place = here.join(&name);
        let target = fs::read_link(&place);
        places.insert(place.clone());
        match target {
            Ok(target) => {
                links += 1;
                if links > LINKS {
                    break;
                }
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                rest.extend(parts(&target));
            }
            Err(_) => here = place,
        }
    }
    here
}

/// The parts of a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let named = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut parts: Vec<_> = named.collect();
    parts.reverse();
    parts
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;
    use tokio::time::timeout;

    use super::*;

    /// A watch on `a.toml` in a folder of its own.
    fn watched() -> (TempDir, PathBuf, Watch) {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("a.toml");
        fs::write(&file, "1").unwrap();
        let watch = Watch::start([file.clone()].into()).unwrap();
        (folder, file, watch)
    }

    async fn is_told(watch: &mut Watch) -> bool {
        timeout(Duration::from_secs(10), watch.changed()).await.is_ok()
    }

    async fn is_quiet(watch: &mut Watch) -> bool {
        timeout(WRITTEN * 2, watch.changed()).await.is_err()
    }

    #[tokio::test]
    async fn file_that_is_written_in_two_halves_is_told_once_and_whole() {
        let (_folder, file, mut watch) = watched();
        let halves = async {
            fs::write(&file, "first half").unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            fs::write(&file, "first half, second half").unwrap();
        };
        let told = async {
            assert!(is_told(&mut watch).await);
            fs::read_to_string(&file).unwrap()
        };
        let ((), text) = tokio::join!(halves, told);
        assert_eq!(text, "first half, second half");
        assert!(is_quiet(&mut watch).await);
    }

    #[tokio::test]
    async fn file_that_is_renamed_over_the_old_one_is_told_of_again_and_again() {
        let (folder, file, mut watch) = watched();
        for round in 0..3 {
            let new = folder.path().join("a.toml.new");
            fs::write(&new, format!("{round}")).unwrap();
            fs::rename(&new, &file).unwrap();
            assert!(is_told(&mut watch).await, "round {round}");
        }
        fs::remove_file(&file).unwrap();
        assert!(is_told(&mut watch).await);
        fs::write(&file, "back").unwrap();
        assert!(is_told(&mut watch).await);
    }

    #[tokio::test]
    async fn reading_and_other_files_are_no_change() {
        let (folder, file, mut watch) = watched();
        fs::read_to_string(&file).unwrap();
        fs::write(folder.path().join("b.toml"), "2").unwrap();
        assert!(is_quiet(&mut watch).await);
    }

    /// As Kubernetes mounts a configuration map: the file is a link through a link that is swapped.
    #[tokio::test]
    async fn swapped_link_is_told_each_time() {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        let version = |number: u32| {
            fs::create_dir(at(&format!("..{number}"))).unwrap();
            fs::write(at(&format!("..{number}/a.toml")), format!("{number}")).unwrap();
            symlink(format!("..{number}"), at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
        };
        version(1);
        symlink("..data/a.toml", at("a.toml")).unwrap();
        let mut watch = Watch::start([at("a.toml")].into()).unwrap();
        for number in 2..5 {
            version(number);
            assert!(is_told(&mut watch).await, "version {number}");
            assert_eq!(fs::read_to_string(at("a.toml")).unwrap(), number.to_string());
            fs::remove_dir_all(at(&format!("..{}", number - 1))).unwrap();
        }
    }

    #[tokio::test]
    async fn folder_that_comes_in_the_place_of_another_is_watched() {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        let file = at("conf/a.toml");
        let mut watch = Watch::start([file.clone()].into()).unwrap();
        fs::create_dir(at("conf")).unwrap();
        assert!(is_told(&mut watch).await);
        fs::write(&file, "1").unwrap();
        assert!(is_told(&mut watch).await);
        fs::rename(at("conf"), at("old")).unwrap();
        fs::create_dir(at("conf")).unwrap();
        assert!(is_told(&mut watch).await);
        fs::write(&file, "2").unwrap();
        assert!(is_told(&mut watch).await);
    }

    #[tokio::test]
    async fn directory_stands_for_all_that_is_in_it_and_files_can_be_others() {
        let (folder, file, mut watch) = watched();
        let inside = folder.path().join("conf.d");
        fs::create_dir(&inside).unwrap();
        watch.follow([file.clone(), inside.clone()].into()).unwrap();
        assert!(is_told(&mut watch).await, "what was there before may have changed");
        fs::write(inside.join("b.toml"), "1").unwrap();
        assert!(is_told(&mut watch).await);
        watch.follow([file].into()).unwrap();
        fs::write(inside.join("b.toml"), "2").unwrap();
        assert!(is_quiet(&mut watch).await);
    }
}
