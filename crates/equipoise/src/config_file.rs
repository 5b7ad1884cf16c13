//! The text of a configuration and the files that it names, read and checked.
//!
//! Everything that takes a configuration takes it from here, so that lists in files are read alike by `check`, `run`,
//! `reload` and `plan`. Knows nothing of what is in them.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use equipoise_core::config::{self, Checked, Problem};

/// Checks a text; files that it names are read.
///
/// # Errors
///
/// All that is wrong, in the order of the text; never nothing.
pub fn parse(name: &str, text: &str) -> Result<Checked, Vec<Problem>> {
    config::parse_with(name, text, &read)
}

fn read(path: &Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        ErrorKind::IsADirectory => "it is a directory".to_owned(),
        ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        _ => error.to_string(),
    })?;
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())
}
