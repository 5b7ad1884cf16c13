//! JSON to a tree.
//!
//! Strict JSON (RFC 8259), so that every other tool reads the file as well: no comments, no trailing
//! commas; a name that stands twice in an object is a fault, and a byte-order mark at the start is
//! not. The parser stops at its first fault.

use std::borrow::Cow;
use std::collections::BTreeSet;

use jsonc_parser::ParseOptions;
use jsonc_parser::ast;
use jsonc_parser::common::Ranged as _;
use serde::de::IgnoredAny;

use super::{Entry, Node, Reading, Value};
use crate::config::path;
use crate::config::problem::Problem;

type Span = std::ops::Range<usize>;

/// Reads JSON.
pub(super) fn read(text: &str) -> Reading {
    // As many spaces as the mark has bytes, so that all places stay.
    let text = match text.strip_prefix('\u{feff}') {
        Some(rest) => Cow::Owned(format!("   {rest}")),
        None => Cow::Borrowed(text),
    };
    let parsed = match jsonc_parser::parse_to_ast(&text, &Default::default(), &STRICT) {
        Ok(parsed) => parsed,
        Err(error) => {
            let range = error.range();
            return Reading::fault(not_json(range.start..range.end, &error.kind().to_string()));
        }
    };
    let Some(value) = parsed.value else {
        return Reading::fault(not_json(0..0, "there is no value"));
    };
    // What the parser above lets pass: control characters in strings, other kinds of space.
    if let Err(error) = serde_json::from_str::<IgnoredAny>(&text) {
        let at = offset(&text, error.line(), error.column());
        let words = error.to_string();
        let message = words.split_once(" at line ").map_or(words.as_str(), |(message, _)| message);
        return Reading::fault(not_json(at..at, message));
    }
    let mut faults = Vec::new();
    let root = node(&value, &Trail::Root, &mut faults);
    Reading::of(root, faults)
}

const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

fn not_json(span: Span, message: &str) -> Problem {
    let mut chars = message.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    let message: String = first.into_iter().chain(chars).collect();
    Problem::new("", Some(span), format!("this is not JSON: {message}"))
}

/// The offset of a line and a column in bytes, both from 1.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (before + column.saturating_sub(1)).min(text.len())
}

/// The way to a value, written as a path only for a fault: most values have none.
enum Trail<'a> {
    Root,
    Field(&'a Trail<'a>, &'a str),
    Item(&'a Trail<'a>, usize),
}

impl Trail<'_> {
    fn path(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Field(table, name) => path::field(&table.path(), name),
            Self::Item(list, index) => path::item(&list.path(), *index),
        }
    }
}

fn node(from: &ast::Value<'_>, trail: &Trail<'_>, faults: &mut Vec<Problem>) -> Node {
    let range = from.range();
    let value = match from {
        ast::Value::NullKeyword(_) => Value::Null,
        ast::Value::BooleanLit(value) => Value::Bool(value.value),
        ast::Value::NumberLit(number) => match number.value {
            decimal if decimal.contains(['.', 'e', 'E']) => {
                Value::Float(decimal.parse().unwrap_or(f64::NAN))
            }
            whole => Value::int(whole, 10),
        },
        ast::Value::StringLit(text) => Value::Text(text.value.to_string()),
        ast::Value::Array(array) => {
            let items = array.elements.iter().enumerate();
            Value::List(items.map(|(i, item)| node(item, &Trail::Item(trail, i), faults)).collect())
        }
        ast::Value::Object(object) => table(object, trail, faults),
    };
    Node { span: range.start..range.end, value }
}

fn table(object: &ast::Object<'_>, trail: &Trail<'_>, faults: &mut Vec<Problem>) -> Value {
    let mut seen = BTreeSet::new();
    let mut entries = Vec::with_capacity(object.properties.len());
    for property in &object.properties {
        let (ast::ObjectPropName::String(ast::StringLit { range, .. })
        | ast::ObjectPropName::Word(ast::WordLit { range, .. })) = &property.name;
        let name = property.name.as_str().to_owned();
        let name_span = range.start..range.end;
        let trail = Trail::Field(trail, &name);
        if !seen.insert(name.clone()) {
            let message = format!("the key `{name}` stands here a second time");
            let problem = Problem::new(&trail.path(), Some(name_span), message);
            faults.push(problem.allowing("each key once in an object"));
            continue;
        }
        let node = node(&property.value, &trail, faults);
        entries.push(Entry { name, name_span, node });
    }
    Value::Table(entries)
}
