//! Text to a tree of values, each with its place: the raw configuration.
//!
//! One tree for all kinds of file; the extension of the name picks the reader. A reader gives the
//! tree, and the faults of the text as a text of its kind. It gives no tree where a fault leaves the
//! shape in doubt, so that what is said about the rest is always true. Knows no key.

pub(super) mod edn;
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
    /// EDN of another system.
    Edn,
}

impl Format {
    /// How names of files that can be read end, in words.
    pub const ENDINGS: &str = "`.toml`, `.yaml`, `.yml`, `.json` or `.edn`";

    /// The kind of a file, by the extension of its name.
    pub fn of(name: &str) -> Option<Self> {
        let (_, extension) = name.rsplit_once('.')?;
        let kinds = [
            ("toml", Self::Toml),
            ("json", Self::Json),
            ("yaml", Self::Yaml),
            ("yml", Self::Yaml),
            ("edn", Self::Edn),
        ];
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
        self.each_place(&mut |span| *span = span.start + by..span.end + by);
    }

    /// Shows its place, and all places in it.
    fn each_place(&mut self, show: &mut dyn FnMut(&mut Range<usize>)) {
        show(&mut self.span);
        match self.value.inside_mut() {
            InsideMut::List(items) => items.iter_mut().for_each(|item| item.each_place(show)),
            InsideMut::Table(entries) => {
                for entry in entries {
                    show(&mut entry.name_span);
                    entry.node.each_place(show);
                }
            }
            InsideMut::Nothing => {}
        }
    }
}

/// What is in a value.
pub(super) enum Inside<'a> {
    List(&'a [Node]),
    Table(&'a [Entry]),
    /// It is a scalar.
    Nothing,
}

/// As [`Inside`], to be changed.
pub(super) enum InsideMut<'a> {
    List(&'a mut [Node]),
    Table(&'a mut [Entry]),
    Nothing,
}

/// A value of any kind of file.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// A whole number; one that is too large for this is the largest, which is out of any range.
    Int(i128),
    /// A number with a point or an exponent.
    Float(f64),
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

    /// What is in it.
    pub(super) fn inside(&self) -> Inside<'_> {
        match self {
            Self::List(items) => Inside::List(items),
            Self::Table(entries) => Inside::Table(entries),
            Self::Null
            | Self::Bool(_)
            | Self::Int(_)
            | Self::Float(_)
            | Self::Date
            | Self::Text(_)
            | Self::Given(_) => Inside::Nothing,
        }
    }

    /// So, to be changed.
    pub(super) fn inside_mut(&mut self) -> InsideMut<'_> {
        match self {
            Self::List(items) => InsideMut::List(items),
            Self::Table(entries) => InsideMut::Table(entries),
            Self::Null
            | Self::Bool(_)
            | Self::Int(_)
            | Self::Float(_)
            | Self::Date
            | Self::Text(_)
            | Self::Given(_) => InsideMut::Nothing,
        }
    }

    /// The whole number that it is, written out or by a variable.
    pub(super) fn number(&self) -> Option<i128> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Given(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// The number that it is, whole or not, written out or by a variable; none for one that is none.
    pub(super) fn decimal(&self) -> Option<f64> {
        let decimal = match self {
            Self::Int(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            Self::Given(text) => text.parse().ok(),
            _ => None,
        };
        decimal.filter(|number| number.is_finite())
    }

    /// The text that it is, written out or by a variable.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Given(text) => Some(text),
            _ => None,
        }
    }

    /// The kind of value, in words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "a whole number",
            Self::Float(_) => "a decimal number",
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
        match self.node.value.inside() {
            Inside::List(_) | Inside::Table(_) => &self.name_span,
            Inside::Nothing => &self.node.span,
        }
    }
}

/// Reads a text as the kind of file that its name says it is.
pub(super) fn read(name: &str, text: &str) -> Reading {
    match Format::of(name) {
        Some(Format::Toml) => toml::read(text),
        Some(Format::Json) => json::read(text),
        Some(Format::Yaml) => yaml::read(text),
        Some(Format::Edn) => edn::read(text),
        None => Reading::fault(
            Problem::new("", None, format!("`{name}` is not of a kind of file that can be read"))
                .allowing(format!("a name that ends in {}", Format::ENDINGS)),
        ),
    }
}
