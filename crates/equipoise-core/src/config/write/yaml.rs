//! A tree as YAML: tables by indentation, lists of plain values in a line, and quotes wherever an older reader could take a text for
//! something else.

use super::{Data, quoted};

pub(super) fn write(data: &Data) -> String {
    match data {
        Data::Table(entries) if !entries.is_empty() => {
            let mut text = String::new();
            table(&mut text, entries, 0);
            text
        }
        other => format!("{}\n", inline(other)),
    }
}

/// The entries of a table, each on a line of its own but for the first, whose indentation is there.
fn table(text: &mut String, entries: &[(String, Data)], depth: usize) {
    for (position, (name, value)) in entries.iter().enumerate() {
        if position > 0 {
            text.push_str(&"  ".repeat(depth));
        }
        text.push_str(&scalar(name));
        text.push(':');
        match value {
            Data::Table(entries) if !entries.is_empty() => {
                text.push('\n');
                text.push_str(&"  ".repeat(depth + 1));
                table(text, entries, depth + 1);
            }
            Data::List(items) if items.iter().any(Data::is_table) => {
                text.push('\n');
                for item in items {
                    text.push_str(&"  ".repeat(depth + 1));
                    text.push_str("- ");
                    match item {
                        Data::Table(entries) if !entries.is_empty() => {
                            table(text, entries, depth + 2);
                        }
                        other => text.push_str(&format!("{}\n", inline(other))),
                    }
                }
            }
            other => text.push_str(&format!(" {}\n", inline(other))),
        }
    }
}

fn inline(value: &Data) -> String {
    match value {
        Data::Bool(value) => value.to_string(),
        Data::Int(value) => value.to_string(),
        Data::Decimal(value) => value.clone(),
        Data::Text(text) => scalar(text),
        Data::List(items) => {
            format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", "))
        }
        Data::Table(entries) => {
            let entry =
                |(name, value): &(String, Data)| format!("{}: {}", scalar(name), inline(value));
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
    }
}

/// A text, without quotes where no reader of any version takes it for anything else.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let inner =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'/' | b'.');
    let is_plain = text.bytes().all(inner)
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is_plain { text.to_owned() } else { quoted(text) }
}
