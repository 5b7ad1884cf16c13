//! Looking at a tree of values and changing it, where it has the shape that it should have. Where it has not, nothing is changed:
//! the check tells what is wrong. What is put into a tree has the place of what it is put into. Knows no key.

use crate::config::file::{Entry, Node, Value};

/// A value under a name, at the place of the value.
pub(super) fn entry(name: &str, node: Node) -> Entry {
    Entry { name: name.to_owned(), name_span: node.span.clone(), node }
}

/// What a table has under a name.
pub(super) fn value<'a>(table: &'a Node, name: &str) -> Option<&'a Value> {
    let Value::Table(entries) = &table.value else { return None };
    entries.iter().find(|entry| entry.name == name).map(|entry| &entry.node.value)
}

/// The text that a table has under a name.
pub(super) fn text<'a>(table: &'a Node, name: &str) -> Option<&'a str> {
    value(table, name)?.text()
}

/// What a table has under a name, to be changed.
pub(super) fn field<'a>(table: &'a mut Node, name: &str) -> Option<&'a mut Node> {
    let Value::Table(entries) = &mut table.value else { return None };
    entries.iter_mut().find(|entry| entry.name == name).map(|entry| &mut entry.node)
}

/// What is in a list.
pub(super) fn items(list: &mut Node) -> Option<&mut Vec<Node>> {
    match &mut list.value {
        Value::List(items) => Some(items),
        _ => None,
    }
}

/// What leads there from a table by these names.
pub(super) fn down<'a>(table: &'a Node, names: &[&str]) -> Option<&'a Node> {
    names.iter().try_fold(table, |table, name| {
        let Value::Table(entries) = &table.value else { return None };
        entries.iter().find(|entry| entry.name == *name).map(|entry| &entry.node)
    })
}

/// So, to be changed; what is not there is made, tables on the way and `last` at the end. None where something else stands in the way.
pub(super) fn made<'a>(table: &'a mut Node, names: &[&str], last: Value) -> Option<&'a mut Node> {
    let Some((name, rest)) = names.split_first() else { return Some(table) };
    let span = table.span.clone();
    let Value::Table(entries) = &mut table.value else { return None };
    let at = entries.iter().position(|entry| entry.name == *name).unwrap_or_else(|| {
        let value = if rest.is_empty() { last.clone() } else { Value::Table(Vec::new()) };
        entries.push(entry(name, Node { span, value }));
        entries.len() - 1
    });
    made(&mut entries[at].node, rest, last)
}

/// Puts a number into a table, in place of what stands there under that name.
pub(super) fn put(table: &mut Node, name: &str, number: i128) {
    if let Some(node) = made(table, &[name], Value::Null) {
        // As text, so that a message about it shows it: it stands nowhere in the file.
        node.value = Value::Given(number.to_string());
    }
}

/// The table of a service.
pub(super) fn service<'a>(root: &'a mut Node, name: &str) -> Option<&'a mut Node> {
    let services = items(field(root, "service")?)?;
    services.iter_mut().find(|service| text(service, "name") == Some(name))
}
