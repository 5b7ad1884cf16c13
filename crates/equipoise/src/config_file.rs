//! The text of a configuration and the files that it names, read and checked.
//!
//! Everything that takes a configuration takes it from here, so that lists in files are read alike by `check`, `run`,
//! `reload` and `plan`. Knows nothing of what is in them.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::{env, fs};

use equipoise_core::config::{self, Around, Checked, Problem};

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
