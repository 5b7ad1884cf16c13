//! The text of a configuration and the files that it names, read and checked.
//!
//! Everything that takes a configuration takes it from here, so that lists in files are read alike by `check`, `run`,
//! `reload` and `plan`. Knows nothing of what is in them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::{env, fmt, fs};

use equipoise_core::config::{self, Around, Changed, Changes, Checked, Config, OnExit, Problem};
use rustix::fs::OFlags;

/// Checks a text; files that it includes and names are read, and its variables are those of this process.
///
/// # Errors
///
/// All that is wrong, in the order of the text; never nothing.
pub fn parse(name: &str, text: &str) -> Result<Checked, Vec<Problem>> {
    config::parse_with(name, text, &around())
}

/// What a configuration may ask of this machine.
pub fn around() -> Around<'static> {
    Around {
        files: &read,
        names: &names,
        variables: &|name| env::var(name).ok(),
        tells_files: true,
    }
}

fn names(directory: &Path) -> Result<Vec<String>, String> {
    let entries = fs::read_dir(directory).map_err(|error| reason(&error))?;
    let name = |entry: io::Result<fs::DirEntry>| {
        // A name that is no text matches no pattern.
        entry.map(|entry| entry.file_name().into_string().ok()).transpose()
    };
    let names = entries.filter_map(name).collect::<io::Result<_>>();
    names.map_err(|error| reason(&error))
}

/// A text that changes are laid over, with the files that it names as they were when it was first checked: what has
/// become of them since is for a reload.
#[derive(Clone, Default)]
pub struct Base {
    /// Name of the file, whose ending tells its kind.
    pub name: String,
    /// Its text.
    pub text: String,
    /// What `on-exit` is where the text does not say.
    on_exit: Option<OnExit>,
    /// Whether it comes from somebody for whom no files of this host are read.
    is_foreign: bool,
    files: BTreeMap<PathBuf, Result<String, String>>,
    names: BTreeMap<PathBuf, Result<Vec<String>, String>>,
}

/// Without the texts, which may hold keys.
impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Base").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Base {
    /// This text.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), ..Self::default() }
    }

    /// With this `on-exit`, if any, where the text does not say.
    #[must_use]
    pub fn or_on_exit(self, on_exit: Option<OnExit>) -> Self {
        Self { on_exit, ..self }
    }

    /// From somebody for whom no files of this host are read.
    #[must_use]
    pub fn of_a_stranger(self) -> Self {
        Self { is_foreign: true, ..self }
    }

    /// What that is, if anything.
    pub fn on_exit(&self) -> Option<OnExit> {
        self.on_exit
    }

    /// The files that it has named, and the directories that it has looked for files in.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().chain(self.names.keys()).map(PathBuf::as_path)
    }

    /// Checks it with changes laid over it.
    ///
    /// # Errors
    ///
    /// As [`parse`].
    pub fn check(&mut self, changes: &Changes) -> Result<Changed, Vec<Problem>> {
        let files = RefCell::new(std::mem::take(&mut self.files));
        let directories = RefCell::new(std::mem::take(&mut self.names));
        let is_foreign = self.is_foreign;
        let once = |path: &Path| {
            if is_foreign {
                return Err(
                    "it is read for users of this host alone, through the socket".to_owned()
                );
            }
            let mut files = files.borrow_mut();
            files.entry(path.to_owned()).or_insert_with(|| read(path)).clone()
        };
        let names = |path: &Path| {
            if is_foreign {
                return Ok(Vec::new());
            }
            let mut directories = directories.borrow_mut();
            directories.entry(path.to_owned()).or_insert_with(|| names(path)).clone()
        };
        // Whoever asks an instance need not be one who may read all that it may.
        let mut around = Around { files: &once, names: &names, tells_files: false, ..around() };
        if is_foreign {
            // They may be secrets, which the answer would tell.
            around.variables = &|_| None;
        }
        let mut changed = config::parse_changed((&self.name, &self.text), &around, changes);
        if let (Ok(Changed { checked, .. }), Some(on_exit)) = (&mut changed, self.on_exit) {
            set_on_exit(&mut checked.config, on_exit);
        }
        self.files = files.into_inner();
        self.names = directories.into_inner();
        changed
    }
}

/// What whoever starts an instance wants of `on-exit`, where its file says nothing about that.
pub fn set_on_exit(config: &mut Config, on_exit: OnExit) {
    if config.places.text("settings.on-exit").is_none() {
        config.settings.on_exit = on_exit;
    }
}

/// The largest file that is read, bytes: five million prefixes.
const LARGEST: u64 = 1 << 27;

/// The text of a file. One that is none, such as a pipe, is not waited for.
///
/// # Errors
///
/// Why there is none, in words.
pub fn read(path: &Path) -> Result<String, String> {
    let not_blocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(not_blocking).open(path);
    let file = file.map_err(|error| reason(&error))?;
    let about = file.metadata().map_err(|error| reason(&error))?;
    if about.is_dir() {
        return Err(reason(&ErrorKind::IsADirectory.into()));
    }
    if !about.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let mut bytes = Vec::new();
    // What grows meanwhile, or says nothing of its size, ends somewhere, too.
    let read = file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| reason(&error))?;
    if read as u64 > LARGEST {
        return Err(format!("it is larger than {} MiB", LARGEST >> 20));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        ErrorKind::IsADirectory => "it is a directory".to_owned(),
        ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_exit_of_the_file_goes_before_what_the_start_asks_for() {
        let text = "[[service]]\nname = 'web'\nlisten = { interfaces = ['lo'], port = 80 }\n\
                    backends = [{ address = '10.0.0.1:80' }]\n";
        let of = |text: &str, on_exit| {
            let mut base = Base::new("a.toml", text).or_on_exit(on_exit);
            base.check(&Changes::default()).unwrap().checked.config.settings.on_exit
        };
        assert_eq!(of(text, None), OnExit::Detach);
        assert_eq!(of(text, Some(OnExit::Keep)), OnExit::Keep);
        let says = format!("{text}[settings]\non-exit = 'detach'\n");
        assert_eq!(of(&says, Some(OnExit::Keep)), OnExit::Detach);
    }

    #[test]
    fn what_is_no_file_of_a_size_to_be_read_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("text"), "10.0.0.0/8\n").unwrap();
        assert_eq!(read(&at("text")), Ok("10.0.0.0/8\n".to_owned()));
        // Opened for reading, it waits for somebody who writes.
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        assert_eq!(read(&at("pipe")).unwrap_err(), "it is no regular file");
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err(), "it is no regular file");
        assert_eq!(read(directory.path()).unwrap_err(), "it is a directory");
        File::create(at("large")).unwrap().set_len(LARGEST + 1).unwrap();
        assert_eq!(read(&at("large")).unwrap_err(), "it is larger than 128 MiB");
        assert_eq!(read(&at("none")).unwrap_err(), "there is no such file");
    }

    #[test]
    fn files_that_are_named_are_read_once() {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("deny.txt");
        fs::write(&list, "10.0.0.0/8\n").unwrap();
        let text = format!(
            "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['lo'], port = 80 }}\n\
             backends = [{{ address = '10.0.0.1:80' }}]\nlimits = {{ deny = ['@{}'] }}",
            list.display()
        );
        let mut base = Base::new("a.toml", text);
        let mut denied = || {
            let config = base.check(&Changes::default()).unwrap().checked.config;
            config.services[0].policy.limits.clone()
        };
        let before = denied();
        fs::write(&list, "nonsense").unwrap();
        assert_eq!(denied(), before);
    }
}
