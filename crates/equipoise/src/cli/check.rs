//! `equipoise check`: what is wrong with a configuration, and with `--host` what this machine has
//! to say to it.

use std::path::{Path, PathBuf};

use equipoise_core::config::{Checked, Config, Problem};
use serde::Serialize;

use super::args::{Check, Global};
use super::source::{Text, Unreadable};
use super::{Exit, Failure, print, print_json, report};
use crate::admin::problem::ConfigError;
use crate::config_file;
use crate::dataplane::kernel::abilities;
use crate::driver::targets;
use crate::host::{Machine, Netlink, advice, check, files, requirements};

/// A configuration and the text that it was read from.
pub(super) struct Loaded {
    pub(super) config: Config,
    pub(super) text: Text,
    pub(super) notes: Vec<Problem>,
}

/// What is said of a file in JSON.
#[derive(Serialize)]
pub(super) struct Answer {
    valid: bool,
    errors: Vec<ConfigError>,
    notes: Vec<ConfigError>,
}

impl Answer {
    pub(super) fn new(name: &str, problems: &[Problem], notes: &[Problem]) -> Self {
        Self {
            valid: problems.is_empty(),
            errors: ConfigError::all(name, problems),
            notes: ConfigError::all(name, notes),
        }
    }
}

pub(super) async fn check(global: &Global, asked: &Check) -> Result<(), Failure> {
    let path = file(global, asked.file.as_ref())?;
    let text = read(&path)?;
    let (problems, notes) = match config_file::parse(&text.name, &text.text) {
        Err(problems) => (problems, Vec::new()),
        Ok(checked) if asked.strict && !checked.ignored.is_empty() => {
            (checked.ignored, checked.notes)
        }
        Ok(checked) if asked.host => {
            let mut machine = Netlink::open().map_err(Failure::failed)?;
            let reading = machine.read(&targets(&checked.config)).await.map_err(Failure::failed)?;
            let config = &checked.config;
            let found = check::check(config, &reading)
                .and(advice::sizes(config, &reading))
                .and(files::files(config))
                .and(advice::privileges(config, requirements::check().err()))
                .and(advice::kernel(config, &abilities()));
            (found.problems, [checked.ignored, checked.notes, found.notes].concat())
        }
        Ok(checked) => (Vec::new(), [checked.ignored, checked.notes].concat()),
    };
    if global.json {
        print_json(&Answer::new(&text.name, &problems, &notes))?;
    } else {
        report::notes(&text, &notes);
        report::problems(&text, &problems);
    }
    if !problems.is_empty() {
        return Err(Failure::said(Exit::Usage));
    }
    if global.json { Ok(()) } else { print(&format!("{}: ok\n", text.name)) }
}

/// Reads and checks a file; says what is wrong with it.
pub(super) fn load(global: &Global, file: Option<&PathBuf>) -> Result<Loaded, Failure> {
    let path = self::file(global, file)?;
    let text = read(&path)?;
    match config_file::parse(&text.name, &text.text) {
        Ok(Checked { config, notes, ignored }) => {
            Ok(Loaded { config, text, notes: [ignored, notes].concat() })
        }
        Err(problems) => {
            report::problems(&text, &problems);
            Err(Failure::said(Exit::Usage))
        }
    }
}

/// The file that a command is about.
fn file(global: &Global, file: Option<&PathBuf>) -> Result<PathBuf, Failure> {
    match (file, &global.config) {
        (Some(_), Some(_)) => {
            Err(Failure::new(Exit::Usage, "the file is named twice, with -c and without"))
        }
        (Some(file), None) => Ok(file.clone()),
        (None, _) => Ok(global.config()),
    }
}

pub(super) fn read(path: &Path) -> Result<Text, Failure> {
    Text::read(path).map_err(|error| {
        let failure = Failure::new(Exit::Usage, error.to_string());
        match error {
            Unreadable::Missing(_) => failure.with_help(
                "a file is named by its path, or by -c; `equipoise run -i IFACE -p PORT -t ADDR:PORT` needs none",
            ),
            _ => failure,
        }
    })
}
