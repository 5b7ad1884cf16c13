//! TOML to a tree.
//!
//! The parser recovers from faults and tells them all. A fault within one value, or a key that
//! stands twice, leaves the rest as it was meant, so the tree is given along with such faults; after
//! any other fault (a bracket that is missing, a key without a value) there is no tree.

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue, Error};

use super::{Entry, Inside, Node, Reading, Value};
use crate::config::problem::Problem;

type Span = std::ops::Range<usize>;

/// Reads TOML.
pub(super) fn read(text: &str) -> Reading {
    let (root, errors) = DeTable::parse_recoverable(text);
    let root = Node { span: 0..0, value: table(root.get_ref()) };
    if errors.is_empty() {
        return Reading::of(root, Vec::new());
    }
    let mut scalars = Vec::new();
    collect_scalars(&root, &mut scalars);
    scalars.sort_by_key(|span| span.start);

    let mut whole = true;
    let mut faults = Vec::with_capacity(errors.len());
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        if error.message().starts_with(DUPLICATE) {
            let name = text.get(span.clone()).unwrap_or_default();
            let message = format!("the key `{name}` stands here a second time");
            faults.push(Problem::new("", Some(span), message).allowing("each key once in a table"));
            continue;
        }
        let value = value_around(&scalars, &span);
        whole &= value.is_some();
        faults.push(fault(text, &error, span, value));
    }
    Reading { root: whole.then_some(root), faults, ignored: Vec::new() }
}

const DUPLICATE: &str = "duplicate key";

/// A fault in words; those that are made most often are said better than the parser can, which
/// takes a word without quotes for a misspelt boolean, number or date.
fn fault(text: &str, error: &Error, span: Span, value: Option<Span>) -> Problem {
    if let Some(value) = value {
        let raw = text.get(value.clone()).unwrap_or_default();
        if raw.is_empty() {
            return Problem::new("", Some(value), "the value is missing".to_owned())
                .allowing("a value after `=`");
        }
        if looks_like_text(raw) {
            return Problem::new("", Some(value), format!("`{raw}` is text without quotes"))
                .allowing(format!("{raw:?}"));
        }
    }
    let (message, expected) = match error.message().split_once(", expected ") {
        Some((message, expected)) => (message, Some(expected)),
        None => (error.message(), None),
    };
    let problem = Problem::new("", Some(span), format!("this is not TOML: {message}"));
    match expected {
        Some("nothing") | None => problem,
        Some(expected) => problem.allowing(expected),
    }
}

/// Whether a value that is none is without quotes and not a number that went wrong.
fn looks_like_text(raw: &str) -> bool {
    let quoted = raw.starts_with(['"', '\'']);
    let starts_number = raw.starts_with(|c: char| c.is_ascii_digit() || c == '+' || c == '-');
    let number = starts_number
        && raw.chars().all(|c| c.is_ascii_hexdigit() || "+-._xo".contains(c))
        && raw.matches('.').count() < 2;
    !quoted && !number
}

/// The value that a fault lies in, if it lies in one.
fn value_around(scalars: &[Span], fault: &Span) -> Option<Span> {
    let after = scalars.partition_point(|span| span.start <= fault.start);
    let nearest = scalars.get(after.checked_sub(1)?)?;
    (fault.end <= nearest.end).then(|| nearest.clone())
}

fn collect_scalars(node: &Node, into: &mut Vec<Span>) {
    match node.value.inside() {
        Inside::List(items) => items.iter().for_each(|item| collect_scalars(item, into)),
        Inside::Table(entries) => {
            entries.iter().for_each(|entry| collect_scalars(&entry.node, into));
        }
        Inside::Nothing => into.push(node.span.clone()),
    }
}

fn table(table: &DeTable<'_>) -> Value {
    let mut entries: Vec<_> = table
        .iter()
        .map(|(name, value)| Entry {
            name: name.get_ref().to_string(),
            name_span: name.span(),
            node: node(value),
        })
        .collect();
    entries.sort_by_key(|entry| entry.name_span.start);
    Value::Table(entries)
}

fn node(from: &Spanned<DeValue<'_>>) -> Node {
    let value = match from.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => Value::int(number.as_str(), number.radix()),
        DeValue::Float(number) => {
            Value::Float(number.as_str().replace('_', "").parse().unwrap_or(f64::NAN))
        }
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(items) => Value::List(items.iter().map(node).collect()),
        DeValue::Table(entries) => table(entries),
    };
    Node { span: from.span(), value }
}
