//! The text of a configuration, and the name to call it by.
//!
//! Reads a file whole and says in one sentence why it cannot. Knows nothing of what is in it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A text that a configuration is read from.
#[derive(Debug)]
pub(super) struct Text {
    /// The path as it was given, or what stands in for one.
    pub(super) name: String,
    pub(super) text: String,
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("there is no file {}", .0.display())]
    Missing(PathBuf),
    #[error("{} is a directory, not a configuration file", .0.display())]
    Directory(PathBuf),
    #[error("{} may not be read by this user", .0.display())]
    Denied(PathBuf),
    #[error("{} is not UTF-8 text: byte {offset} (line {line}) is part of no character", .path.display())]
    NotText { path: PathBuf, offset: usize, line: usize },
    #[error("{} cannot be read: {source}", .path.display())]
    Failed { path: PathBuf, source: io::Error },
}

impl Text {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Self, Unreadable> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
        if let Err(source) = read {
            let path = path.to_owned();
            return Err(match source.kind() {
                io::ErrorKind::NotFound => Unreadable::Missing(path),
                io::ErrorKind::IsADirectory => Unreadable::Directory(path),
                io::ErrorKind::PermissionDenied => Unreadable::Denied(path),
                _ => Unreadable::Failed { path, source },
            });
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let offset = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1;
            Unreadable::NotText { path: path.to_owned(), offset, line }
        })?;
        Ok(Self { name: path.display().to_string(), text })
    }

    /// The text that stands in for a file when the configuration came from flags.
    pub(super) fn of_flags(text: String) -> Self {
        Self { name: "command line".to_owned(), text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &Path) -> String {
        Text::read(path).unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_read_whole_and_named_as_it_was_given() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        std::fs::write(&path, "name = \"é\"\n").unwrap();
        let text = Text::read(&path).unwrap();
        assert_eq!(
            (text.name, text.text),
            (path.display().to_string(), "name = \"é\"\n".to_owned())
        );
    }

    #[test]
    fn what_cannot_be_read_is_said_in_one_sentence() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let shown = |name: &str| at(name).display().to_string();
        assert_eq!(refusal(&at("none.toml")), format!("there is no file {}", shown("none.toml")));
        assert_eq!(
            refusal(directory.path()),
            format!("{} is a directory, not a configuration file", directory.path().display())
        );
        std::fs::write(at("a.toml"), b"# one\n# \xff\n").unwrap();
        assert_eq!(
            refusal(&at("a.toml")),
            format!(
                "{} is not UTF-8 text: byte 8 (line 2) is part of no character",
                shown("a.toml")
            )
        );
        let through_a_file = at("a.toml").join("b.toml");
        assert!(refusal(&through_a_file).contains("cannot be read: "), "{through_a_file:?}");
    }

    #[test]
    fn a_file_that_is_forbidden_is_told_from_one_that_is_missing() {
        let error = Unreadable::Denied("/etc/equipoise/equipoise.toml".into());
        assert_eq!(error.to_string(), "/etc/equipoise/equipoise.toml may not be read by this user");
    }
}
