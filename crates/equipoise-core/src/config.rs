//! The checked configuration: what the rest of the program may rely on.
//!
//! [`parse`] turns the text of a file into a [`Config`] or into *all* of its problems, each with
//! its place. A `Config` in hand is valid in itself; whether this machine can serve it is asked
//! later, with facts. Knows nothing of files, of the machine or of the data plane.

pub mod admin;
pub mod breaker;
pub mod changes;
mod check;
mod convert;
mod delivery;
mod file;
mod flags;
pub mod health;
pub mod import;
mod limits;
pub mod log;
mod metrics;
mod name;
pub mod otlp;
mod parts;
mod path;
mod ports;
mod problem;
mod route;
mod schema;
mod service;
mod settings;
mod texts;
mod variables;
mod write;
mod written;

use std::path::Path;
use std::time::Duration;

use serde::{Serialize, Serializer};

pub use admin::Admin;
pub use changes::{
    Change, Changes, Denial, EntryAt, NewBackend, PoolEntry, RateChange, RateKey, RateOf,
    ServiceChange,
};
pub use check::{keys, nearest::nearest};
pub use convert::{Converted, Ignored, convert, from_json, write};
pub use delivery::{Delivery, Mode, MssClamp};
pub use file::Format;
pub use file::edn::keys as edn_keys;
pub use flags::{flags_text, from_flags};
pub use health::HealthCheck;
pub use limits::{Limits, List, NotAPrefix, Prefix, RateLimit, Rates, SourceLimit, SourcePrefix};
pub use log::{AccessLog, Log};
pub use metrics::Metrics;
pub use name::{Dns, Name, Named, OnFirstFailure, Origin};
pub use otlp::Otlp;
pub use ports::{Ports, target};
pub use problem::{Places, Problem, problem_at};
pub use route::{Pool, Route};
pub use schema::schema;
pub use service::{
    Affinity, AffinityPrefix, Algorithm, Backend, Fragments, Listen, OnBackendDown,
    OnBackendRemoved, OnEmpty, OnFull, OnUnknown, Policy, Protocol, ProxyProtocol, Role, Service,
    Timeouts,
};
pub use settings::{Attach, AttachMode, BackendInterfaces, LeastConnections, OnExit, Settings};
pub use texts::Included;
pub use variables::Variables;
pub use written::written;

/// A configuration that passed, and what is worth a warning.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// What works less than it seems to, in the order of the text.
    pub notes: Vec<Problem>,
    /// What the text says and nobody listens to: keys that are unknown or not served, where the format lets them be. In the
    /// order of the text.
    pub ignored: Vec<Problem>,
}

/// Reads a file that a configuration names; answers with why it cannot, in words.
pub type ReadFile<'a> = dyn Fn(&Path) -> Result<String, String> + 'a;

/// Lists the names in a directory; answers with why it cannot, in words.
pub type ReadNames<'a> = dyn Fn(&Path) -> Result<Vec<String>, String> + 'a;

/// What a configuration may ask of the machine that it is read on.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    /// Files that it includes, and files of prefixes.
    pub files: &'a ReadFile<'a>,
    /// Names in directories that it includes files of.
    pub names: &'a ReadNames<'a>,
    /// Environment variables in its texts.
    pub variables: &'a Variables<'a>,
    /// Whether who hears what is wrong may read the files as well. Otherwise, nothing is told that looks like no prefix: what is no
    /// list at all may hold secrets.
    pub tells_files: bool,
}

impl<'a> Around<'a> {
    /// There are files, and nothing else.
    pub fn files(files: &'a ReadFile<'a>) -> Self {
        Self { files, names: &no_names, variables: &no_variables, tells_files: true }
    }
}

/// Reads and checks the text of a file, whose kind is the extension of its name, and which asks for nothing around it.
///
/// On failure: all that is wrong, in the order of the text; never nothing.
pub fn parse(name: &str, text: &str) -> Result<Checked, Vec<Problem>> {
    parse_with(name, text, &Around::files(&no_files))
}

/// As [`parse`], of a text that may include files, name others and have variables.
pub fn parse_with(name: &str, text: &str, around: &Around<'_>) -> Result<Checked, Vec<Problem>> {
    parse_changed((name, text), around, &Changes::default()).map(|changed| changed.checked)
}

/// A configuration with the changes that have been made since it was written.
#[derive(Clone, Debug)]
pub struct Changed {
    /// With the changes.
    pub checked: Checked,
    /// Those that hold: the file says something else, and has what they are about.
    pub changes: Changes,
}

/// As [`parse_with`], with changes laid over what the text says.
pub fn parse_changed(
    (name, text): (&str, &str),
    around: &Around<'_>,
    changes: &Changes,
) -> Result<Changed, Vec<Problem>> {
    check_parts(parts::read(name, text, around), around, changes)
}

/// Checks what was read.
fn check_parts(
    whole: parts::Whole,
    around: &Around<'_>,
    changes: &Changes,
) -> Result<Changed, Vec<Problem>> {
    let parts::Whole { texts, root, mut faults, mut ignored } = whole;
    let Some(mut root) = root else {
        problem::settle(&texts, &mut faults);
        return Err(faults);
    };
    variables::expand(&mut root, "", around.variables, &mut faults);
    let changes = changes.lay_over(&mut root);
    let check::Verdict { config, problems, mut notes } = check::check(&texts, &root, around);
    if let (Some(config), []) = (config, faults.as_slice()) {
        problem::settle(&texts, &mut notes);
        problem::settle(&texts, &mut ignored);
        return Ok(Changed { checked: Checked { config, notes, ignored }, changes });
    }
    problem::arrange(&texts, &mut faults);
    // What stands where the text itself is at fault was not meant as it was read.
    let meant = |problem: &Problem| !problem::any_meets(&faults, problem);
    let meant: Vec<_> = problems.into_iter().filter(meant).collect();
    faults.extend(meant);
    problem::settle(&texts, &mut faults);
    Err(faults)
}

/// For texts that name no files.
fn no_files(_: &Path) -> Result<String, String> {
    Err("files are not read here".to_owned())
}

/// For texts that include none.
fn no_names(_: &Path) -> Result<Vec<String>, String> {
    Err("directories are not read here".to_owned())
}

/// For texts without variables.
fn no_variables(_: &str) -> Option<String> {
    None
}

/// A whole, valid configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Config {
    /// The services, in the order of the file; at least one.
    pub services: Vec<Service>,
    /// Everything that is not of one service.
    pub settings: Settings,
    /// Where each key stands in the text.
    #[serde(skip)]
    pub places: Places,
}

/// Durations are written as they are read.
fn as_text<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}
