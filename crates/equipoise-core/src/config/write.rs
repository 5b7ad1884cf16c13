//! A tree to the text of a file: TOML, JSON, YAML.
//!
//! Keys come in the order of the list of keys, so that two configurations that say the same are written alike. What is written says
//! neither more nor less than the tree. Knows no key beyond its place in the list.

pub(super) mod edn;
mod json;
mod toml;
mod yaml;

use super::file::{Entry, Node, Value};
use super::keys::{FILE, Kind, SERVICE, Table};
use super::variables;

/// What can be written: a tree without places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Bool(bool),
    Int(i128),
    /// A number with a point, as it is written.
    Decimal(String),
    Text(String),
    List(Vec<Self>),
    Table(Vec<(String, Self)>),
}

impl Data {
    /// A tree of a file; nothing where it holds what no key takes.
    pub(super) fn of(node: &Node) -> Option<Self> {
        Some(match &node.value {
            Value::Bool(value) => Self::Bool(*value),
            Value::Int(value) => Self::Int(*value),
            Value::Text(text) | Value::Given(text) => Self::Text(text.clone()),
            Value::List(items) => Self::List(items.iter().map(Self::of).collect::<Option<_>>()?),
            Value::Table(entries) => {
                let entry = |entry: &Entry| Some((entry.name.clone(), Self::of(&entry.node)?));
                Self::Table(entries.iter().map(entry).collect::<Option<_>>()?)
            }
            Value::Float(value) if value.is_finite() => Self::decimal(*value),
            Value::Null | Value::Float(_) | Value::Date => return None,
        })
    }

    /// A tree of JSON, whose texts have no variables; what is null is left out.
    pub(super) fn of_json(value: serde_json::Value) -> Option<Self> {
        Some(match value {
            serde_json::Value::Null => return None,
            serde_json::Value::Bool(value) => Self::Bool(value),
            serde_json::Value::Number(number) => match number.as_i128() {
                Some(whole) => Self::Int(whole),
                None => Self::decimal(number.as_f64()?),
            },
            serde_json::Value::String(text) => Self::Text(variables::escape(&text)),
            serde_json::Value::Array(items) => {
                Self::List(items.into_iter().filter_map(Self::of_json).collect())
            }
            serde_json::Value::Object(entries) => {
                let entry = |(name, value)| Some((name, Self::of_json(value)?));
                Self::Table(entries.into_iter().filter_map(entry).collect())
            }
        })
    }

    /// Without an exponent, which not every reader of YAML takes for a number.
    fn decimal(value: f64) -> Self {
        let text = value.to_string();
        Self::Decimal(if text.contains('.') { text } else { text + ".0" })
    }

    /// With keys in the order of the list of keys.
    pub(super) fn ordered(mut self) -> Self {
        self.order(&Kind::Table(&FILE));
        self
    }

    /// So, where it is the table of a service.
    pub(super) fn ordered_service(mut self) -> Self {
        self.order(&Kind::Table(&SERVICE));
        self
    }

    fn order(&mut self, kind: &Kind) {
        match (self, kind) {
            (Self::Table(entries), Kind::Table(table)) => order(entries, table),
            (Self::Table(entries), Kind::Names(names)) => {
                entries.iter_mut().for_each(|(_, value)| value.order(&names.of));
            }
            (Self::List(items), Kind::List(list)) => {
                items.iter_mut().for_each(|item| item.order(&list.of));
            }
            (value, Kind::Either(kinds)) => kinds.iter().for_each(|kind| value.order(kind)),
            _ => {}
        }
    }

    fn is_table(&self) -> bool {
        matches!(self, Self::Table(_))
    }
}

fn order(entries: &mut [(String, Data)], table: &Table) {
    let position = |name: &str| table.keys.iter().position(|key| key.name == name);
    entries.sort_by_key(|(name, _)| position(name).unwrap_or(usize::MAX));
    for (name, value) in entries {
        if let Some(key) = table.key(name) {
            value.order(&key.kind);
        }
    }
}

/// As TOML.
pub(super) fn toml(data: &Data) -> String {
    toml::write(data)
}

/// As JSON.
pub(super) fn json(data: &Data) -> String {
    json::write(data)
}

/// As YAML.
pub(super) fn yaml(data: &Data) -> String {
    yaml::write(data)
}

/// A text in double quotes, as TOML and YAML have them.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if is_printable(c) => quoted.push(c),
            c => quoted.push_str(&match u32::from(c) {
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    quoted.push('"');
    quoted
}

/// What may stand in a text as it is (YAML 1.2.2, 5.1); the stricter of the formats.
fn is_printable(c: char) -> bool {
    let is_odd = matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}');
    !c.is_control() && !is_odd
}

/// Whether a name may stand without quotes in TOML.
fn is_bare(name: &str) -> bool {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !name.is_empty() && name.bytes().all(bare)
}
