//! A configuration from the flags of a command line: one service, checked as a file is.
//!
//! The flags are laid out as the text of a command line, and the tree is made with places in that
//! text, so that the same checks point at the flag that is wrong.

use super::check::{Verdict, check};
use super::file::{Entry, Node, Value};
use super::problem::settle;
use super::texts::Texts;
use super::{Config, Problem};

/// Checks the one service that `-i IFACE... -p PORT -t ADDR:PORT...` asks for, named `default`.
///
/// The keys of problems are the flags; their places are places in [`flags_text`].
pub fn from_flags(
    interfaces: &[String],
    port: u16,
    targets: &[String],
) -> Result<Config, Vec<Problem>> {
    let (text, root) = lay_out(interfaces, port, targets);
    let texts = Texts::new(&text);
    let Verdict { config, mut problems, .. } =
        check(&texts, &root, &super::Around::files(&super::no_files));
    settle(&texts, &mut problems);
    for problem in &mut problems {
        let flag = FLAGS.iter().find(|(key, _)| problem.key.starts_with(key));
        problem.key = flag.map_or("", |(_, flag)| flag).to_owned();
    }
    config.ok_or(problems)
}

/// The text that problems of [`from_flags`] have their places in.
pub fn flags_text(interfaces: &[String], port: u16, targets: &[String]) -> String {
    lay_out(interfaces, port, targets).0
}

const FLAGS: [(&str, &str); 3] = [
    ("service[0].listen.interfaces", "-i"),
    ("service[0].listen.port", "-p"),
    ("service[0].backends", "-t"),
];

fn lay_out(interfaces: &[String], port: u16, targets: &[String]) -> (String, Node) {
    let mut text = String::new();
    let interfaces = interfaces.iter().map(|name| {
        let span = add(&mut text, "-i", name);
        Node { span, value: Value::Text(name.clone()) }
    });
    let interfaces = list(interfaces.collect());
    let port_span = add(&mut text, "-p", &port.to_string());
    let port = Node { span: port_span, value: Value::Int(port.into()) };
    let backends = targets.iter().map(|target| {
        let span = add(&mut text, "-t", target);
        table(vec![("address", Node { span, value: Value::Text(target.clone()) })])
    });
    let backends = list(backends.collect());
    let name = Node { span: 0..0, value: Value::Text("default".to_owned()) };
    let listen = table(vec![("interfaces", interfaces), ("port", port)]);
    let service = table(vec![("name", name), ("listen", listen), ("backends", backends)]);
    (text, table(vec![("service", list(vec![service]))]))
}

/// Adds a flag to the text; where its value stands.
fn add(text: &mut String, flag: &str, value: &str) -> std::ops::Range<usize> {
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str(flag);
    text.push(' ');
    let start = text.len();
    text.push_str(value);
    start..text.len()
}

fn list(items: Vec<Node>) -> Node {
    Node { span: items.first().map_or(0..0, |item| item.span.clone()), value: Value::List(items) }
}

fn table(fields: Vec<(&str, Node)>) -> Node {
    let span = fields.first().map_or(0..0, |(_, node)| node.span.clone());
    let entry = |(name, node): (&str, Node)| Entry {
        name: name.to_owned(),
        name_span: node.span.clone(),
        node,
    };
    Node { span, value: Value::Table(fields.into_iter().map(entry).collect()) }
}
