//! A tree as JSON: lists of plain values in a line.

use super::Data;

pub(super) fn write(data: &Data) -> String {
    let mut text = String::new();
    value(&mut text, data, 0);
    text.push('\n');
    text
}

fn value(text: &mut String, data: &Data, depth: usize) {
    match data {
        Data::Bool(value) => text.push_str(&value.to_string()),
        Data::Int(value) => text.push_str(&value.to_string()),
        Data::Decimal(value) => text.push_str(value),
        Data::Text(value) => text.push_str(&string(value)),
        Data::List(items) if !items.iter().any(Data::is_table) => {
            text.push('[');
            for (position, item) in items.iter().enumerate() {
                text.push_str(if position > 0 { ", " } else { "" });
                value(text, item, depth);
            }
            text.push(']');
        }
        Data::List(items) => {
            let each = items.iter().map(|item| (String::new(), item));
            block(text, ('[', ']'), each, depth);
        }
        Data::Table(entries) if entries.is_empty() => text.push_str("{}"),
        Data::Table(entries) => {
            let each = entries.iter().map(|(name, value)| (format!("{}: ", string(name)), value));
            block(text, ('{', '}'), each, depth);
        }
    }
}

fn block<'d>(
    text: &mut String,
    (open, close): (char, char),
    each: impl Iterator<Item = (String, &'d Data)>,
    depth: usize,
) {
    let indent = "  ".repeat(depth + 1);
    text.push(open);
    for (position, (name, item)) in each.enumerate() {
        text.push_str(if position > 0 { ",\n" } else { "\n" });
        text.push_str(&indent);
        text.push_str(&name);
        value(text, item, depth + 1);
    }
    text.push('\n');
    text.push_str(&"  ".repeat(depth));
    text.push(close);
}

fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
