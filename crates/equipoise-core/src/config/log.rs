//! Where flows are written, and how what happens is logged.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

/// A log of flows, a line each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AccessLog {
    /// How a line is written.
    pub format: LineFormat,
    /// The file; none for no file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Whether standard output gets each line, too.
    pub stdout: bool,
    /// How large the file may grow before it is put aside, in units of 1 048 576 bytes.
    pub max_size_mb: u32,
    /// Files put aside that are kept.
    pub max_files: u32,
    /// The part of flows that get a line.
    pub sample: Sample,
    /// Whether a flow gets a line when it opens, too.
    pub opened: bool,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            format: LineFormat::Json,
            path: None,
            stdout: false,
            max_size_mb: 100,
            max_files: 10,
            sample: Sample::ALL,
            opened: false,
        }
    }
}

/// How a flow is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LineFormat {
    /// An object of JSON.
    #[default]
    Json,
    /// In the common log format of web servers, as far as that fits.
    Clf,
}

/// A part of all, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample(pub u32);

impl Sample {
    /// All of them.
    pub const ALL: Self = Self(1_000_000);

    /// The part, up to 1.
    pub fn part(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}

impl Serialize for Sample {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.part())
    }
}

/// How what happens is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Log {
    /// What is worth a line.
    pub level: Level,
    /// How it is written; none for what fits where it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
}

/// What is worth a line: so much and what is worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// What was refused, or stops.
    Error,
    /// What works and should be looked at.
    Warn,
    /// What has changed for an operator.
    #[default]
    Info,
    /// What is done for that.
    Debug,
    /// Each step.
    Trace,
}

impl Level {
    /// All of them by their words, from the quietest.
    pub const ALL: [(&str, Self); 5] = [
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];

    /// In a word.
    pub const fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }
}

/// How what happens is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Lines for people, on standard error.
    Text,
    /// An object of JSON each, on standard error.
    Json,
    /// Records of systemd's journal, with fields of their own.
    Journald,
}
