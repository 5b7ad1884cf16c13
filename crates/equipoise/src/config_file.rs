//! The text of a configuration and the files that it names, read and checked.
//!
//! Everything that takes a configuration takes it from here, so that lists in files are read alike by `check`, `run`,
//! `reload` and `plan`. Knows nothing of what is in them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::{env, fmt, fs};

use equipoise_core::config::{self, Around, Changed, Changes, Checked, Config, OnExit, Problem};

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
    Around { files: &read, names: &names, variables: &|name| env::var(name).ok() }
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
        let once = |path: &Path| {
            let mut files = files.borrow_mut();
            files.entry(path.to_owned()).or_insert_with(|| read(path)).clone()
        };
        let names = |path: &Path| {
            let mut directories = directories.borrow_mut();
            directories.entry(path.to_owned()).or_insert_with(|| names(path)).clone()
        };
        let around = Around { files: &once, names: &names, ..around() };
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

fn read(path: &Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|error| reason(&error))?;
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
