//! Text to a tree of values, each with its place: the raw configuration.
//!
//! One tree for all kinds of file; the extension of the name picks the reader. A reader gives the
//! tree, and the faults of the text as a text of its kind. It gives no tree where a fault leaves the
//! shape in doubt, so that what is said about the rest is always true. Knows no key.

mod json;
mod toml;
mod yaml;

use std::ops::Range;

use super::problem::Problem;

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML.
    Toml,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

impl Format {
    /// How names of files that can be read end, in words.
    pub const ENDINGS: &str = "`.toml`, `.yaml`, `.yml` or `.json`";

    /// The kind of a file, by the extension of its name.
    pub fn of(name: &str) -> Option<Self> {
        let (_, extension) = name.rsplit_once('.')?;
        let kinds =
            [("toml", Self::Toml), ("json", Self::Json), ("yaml", Self::Yaml), ("yml", Self::Yaml)];
        let is = |(ending, _): &&(&str, Self)| extension.eq_ignore_ascii_case(ending);
        kinds.iter().find(is).map(|(_, kind)| *kind)
    }
}

/// What a reader makes of a text.
pub(super) struct Reading {
    /// The tree, unless a fault leaves its shape in doubt.
    pub(super) root: Option<Node>,
    /// What is wrong with the text as a text of its kind.
    pub(super) faults: Vec<Problem>,
    /// What the text says and nobody listens to.
    pub(super) ignored: Vec<Problem>,
}

impl Reading {
    fn of(root: Node, faults: Vec<Problem>) -> Self {
        Self { root: Some(root), faults, ignored: Vec::new() }
    }

    fn fault(problem: Problem) -> Self {
        Self { root: None, faults: vec![problem], ignored: Vec::new() }
    }
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// All of it in the text; for a TOML table under a header, the header.
    pub(super) span: Range<usize>,
    pub(super) value: Value,
}

impl Node {
    /// Moves all its places.
    pub(super) fn shift(&mut self, by: usize) {
        let shift = |span: &mut Range<usize>| *span = span.start + by..span.end + by;
        shift(&mut self.span);
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.shift(by)),
            Value::Table(entries) => {
                for entry in entries {
                    shift(&mut entry.name_span);
                    entry.node.shift(by);
                }
            }
            Value::Null
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Float
            | Value::Date
            | Value::Text(_)
            | Value::Given(_) => {}
        }
    }
}

/// A value of any kind of file.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// A whole number; one that is too large for this is the largest, which is out of any range.
    Int(i128),
    /// A number with a point or an exponent; no key takes one.
    Float,
    Date,
    Text(String),
    /// A text that was a variable and nothing else, and may stand for other values.
    Given(String),
    List(Vec<Node>),
    /// Entries in the order of the text, each name once.
    Table(Vec<Entry>),
}

impl Value {
    fn int(digits: &str, radix: u32) -> Self {
        let most = if digits.starts_with('-') { i128::MIN } else { i128::MAX };
        Self::Int(i128::from_str_radix(digits, radix).unwrap_or(most))
    }

    /// The kind of value, in words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "a whole number",
            Self::Float => "a decimal number",
            Self::Date => "a date or time",
            Self::Text(_) | Self::Given(_) => "text",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// A name in a table, and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) name_span: Range<usize>,
    pub(super) node: Node,
}

impl Entry {
    /// A scalar is pointed at itself; a list or table, which may be long, by its name.
    pub(super) fn pointed_at(&self) -> &Range<usize> {
        match self.node.value {
            Value::List(_) | Value::Table(_) => &self.name_span,
            Value::Null
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Float
            | Value::Date
            | Value::Text(_)
            | Value::Given(_) => &self.node.span,
        }
    }
}

/// Reads a text as the kind of file that its name says it is.
pub(super) fn read(name: &str, text: &str) -> Reading {
    match Format::of(name) {
        Some(Format::Toml) => toml::read(text),
        Some(Format::Json) => json::read(text),
        Some(Format::Yaml) => yaml::read(text),
        None => Reading::fault(
            Problem::new("", None, format!("`{name}` is not of a kind of file that can be read"))
                .allowing(format!("a name that ends in {}", Format::ENDINGS)),
        ),
    }
}
