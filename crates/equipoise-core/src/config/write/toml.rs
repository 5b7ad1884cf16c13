//! A tree as TOML: small tables in a line, services and what is large under headers.

use super::{Data, is_bare, quoted};

/// Longer tables get a header of their own.
const LINE: usize = 110;

pub(super) fn write(data: &Data) -> String {
    let mut text = String::new();
    if let Data::Table(entries) = data {
        table(&mut text, entries, &[]);
    }
    text.trim_start_matches('\n').to_owned()
}

/// The entries of a table whose header is written: first those in a line, as TOML wants it.
fn table(text: &mut String, entries: &[(String, Data)], path: &[String]) {
    let (headed, plain): (Vec<_>, Vec<_>) =
        entries.iter().partition(|(_, value)| needs_header(value, path.is_empty()));
    for (name, value) in plain {
        let name = key(name);
        let line = inline(value);
        match value {
            Data::List(items) if items.iter().any(Data::is_table) || line.len() > LINE => {
                text.push_str(&format!("{name} = [\n"));
                items.iter().for_each(|item| text.push_str(&format!("  {},\n", inline(item))));
                text.push_str("]\n");
            }
            _ => text.push_str(&format!("{name} = {line}\n")),
        }
    }
    for (name, value) in headed {
        let path = [path, &[key(name)]].concat();
        let header = path.join(".");
        match value {
            Data::Table(entries) => {
                text.push_str(&format!("\n[{header}]\n"));
                table(text, entries, &path);
            }
            Data::List(items) => {
                for item in items {
                    text.push_str(&format!("\n[[{header}]]\n"));
                    if let Data::Table(entries) = item {
                        table(text, entries, &path);
                    }
                }
            }
            Data::Bool(_) | Data::Int(_) | Data::Decimal(_) | Data::Text(_) => {}
        }
    }
}

fn needs_header(value: &Data, is_top: bool) -> bool {
    match value {
        Data::Table(entries) => is_top || !entries.is_empty() && inline(value).len() > LINE,
        Data::List(items) => {
            let are_tables = !items.is_empty() && items.iter().all(Data::is_table);
            are_tables && (is_top || items.iter().any(|item| inline(item).len() > LINE))
        }
        Data::Bool(_) | Data::Int(_) | Data::Decimal(_) | Data::Text(_) => false,
    }
}

fn inline(value: &Data) -> String {
    match value {
        Data::Bool(value) => value.to_string(),
        Data::Int(value) => value.to_string(),
        Data::Decimal(value) => value.clone(),
        Data::Text(text) => quoted(text),
        Data::List(items) => {
            format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", "))
        }
        Data::Table(entries) if entries.is_empty() => "{}".to_owned(),
        Data::Table(entries) => {
            let entry =
                |(name, value): &(String, Data)| format!("{} = {}", key(name), inline(value));
            format!("{{ {} }}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
    }
}

fn key(name: &str) -> String {
    if is_bare(name) { name.to_owned() } else { quoted(name) }
}
