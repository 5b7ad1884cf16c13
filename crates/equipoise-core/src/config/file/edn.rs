//! EDN of another system to the same tree that all formats give: proxies, targets and settings in its words become services, backends and
//! settings in ours.
//!
//! Nowhere else are its words known. Its files load unchanged, with its defaults; what it says and is unknown, or not served here, is
//! ignored and told. [`keys`] is the list of its keys, `text` reads the text, `form` checks forms by that list, and here they are
//! translated.

mod form;
pub mod keys;
mod service;
mod settings;
mod text;

use std::ops::Range;

pub(in crate::config) use self::service::{REFRESH, is_host_name, is_hostname};

use self::form::Findings;
use self::settings::Settings;
use self::text::{Form, Value as Given};
use super::{Entry, Node, Reading, Value};
use crate::config::problem::Problem;
use crate::config::{path, variables};

/// Reads EDN.
pub(super) fn read(text: &str) -> Reading {
    let root = match text::read(text) {
        Ok(root) => root,
        Err(problem) => return Reading::fault(problem),
    };
    let mut findings = Findings::default();
    findings.table(&root, &mut String::new(), &keys::FILE);
    let node = if findings.faults.is_empty() { Some(file(&root, &mut findings)) } else { None };
    let Findings { faults, ignored } = findings;
    Reading { root: node.filter(|_| faults.is_empty()), faults, ignored }
}

fn file(root: &Form, findings: &mut Findings) -> Node {
    let fields = Fields::of(root, String::new());
    let settings = Settings::read(fields.get("settings").as_ref(), findings);
    let mut entries = Vec::new();
    if let Some(at) = fields.get("proxies") {
        let items = at.items();
        let services = items.iter().map(|at| service::service(at, &settings, findings)).collect();
        entries.push(at.entry("service", Value::List(services)));
    }
    let span = fields.get("settings").map_or(0..0, |at| at.name.clone());
    entries.push(made("settings", span, Value::Table(settings.entries)));
    Node { span: root.span.clone(), value: Value::Table(entries) }
}

/// A form with its key.
struct At<'f> {
    form: &'f Form,
    name: Range<usize>,
    key: String,
}

impl<'f> At<'f> {
    fn text(&self) -> &'f str {
        match &self.form.value {
            Given::Text(text) | Given::Keyword(text) => text,
            _ => "",
        }
    }

    fn number(&self) -> i128 {
        match self.form.value {
            Given::Int(number) => number,
            _ => 0,
        }
    }

    fn is_true(&self) -> bool {
        matches!(self.form.value, Given::Bool(true))
    }

    /// Tells that nobody listens to it. What may be long is pointed at by its name.
    fn ignored(&self, findings: &mut Findings, message: String) {
        let span = match self.form.value {
            Given::Map(_) | Given::List(_) => &self.name,
            _ => &self.form.span,
        };
        findings.ignored.push(Problem::new(&self.key, Some(span.clone()), message));
    }

    /// The same of a secret, which is not pointed at: its name is.
    fn ignored_secret(&self, findings: &mut Findings, message: String) {
        findings.ignored.push(Problem::new(&self.key, Some(self.name.clone()), message));
    }

    /// The items of a list; what is no list is its only item.
    fn items(&self) -> Vec<At<'f>> {
        let Given::List(items) = &self.form.value else {
            return vec![At { form: self.form, name: self.name.clone(), key: self.key.clone() }];
        };
        let item = |(index, form): (usize, &'f Form)| At {
            form,
            name: form.span.clone(),
            key: path::item(&self.key, index),
        };
        items.iter().enumerate().map(item).collect()
    }

    fn fields(&self) -> Fields<'f> {
        Fields::of(self.form, self.key.clone())
    }

    /// An entry of the tree with this place.
    fn entry(&self, name: &str, value: Value) -> Entry {
        let node = Node { span: self.form.span.clone(), value };
        Entry { name: name.to_owned(), name_span: self.name.clone(), node }
    }

    /// A whole number that stays one.
    fn same_number(&self, name: &str) -> Entry {
        self.entry(name, Value::Int(self.number()))
    }

    /// Milliseconds that become a duration in words.
    fn duration(&self, name: &str) -> Entry {
        self.entry(name, Value::Text(words(self.number())))
    }
}

/// The entries of a map.
struct Fields<'f> {
    form: &'f Form,
    key: String,
}

impl<'f> Fields<'f> {
    fn of(form: &'f Form, key: String) -> Self {
        Self { form, key }
    }

    fn get(&self, name: &str) -> Option<At<'f>> {
        let Given::Map(entries) = &self.form.value else { return None };
        let is =
            |(key, _): &&(Form, Form)| matches!(&key.value, Given::Keyword(word) if word == name);
        let (key, form) = entries.iter().find(is)?;
        Some(At { form, name: key.span.clone(), key: path::field(&self.key, name) })
    }
}

/// An entry that the text has not, with a place all the same.
fn made(name: &str, span: Range<usize>, value: Value) -> Entry {
    let node = Node { span: span.clone(), value };
    Entry { name: name.to_owned(), name_span: span, node }
}

/// A text of the file: what looks like a variable here is none there.
fn plain(text: &str) -> Value {
    Value::Text(variables::escape(text))
}

/// Milliseconds in words.
fn words(milliseconds: i128) -> String {
    let milliseconds = u64::try_from(milliseconds).unwrap_or_default();
    humantime::format_duration(std::time::Duration::from_millis(milliseconds)).to_string()
}

/// The keys of a check; the table itself is the caller's.
fn check(at: &At<'_>) -> Vec<Entry> {
    let fields = at.fields();
    let mut entries = Vec::new();
    if let Some(at) = fields.get("type") {
        entries.push(at.entry("type", plain(at.text())));
        // There, redirects are followed.
        if ["http", "https"].contains(&at.text()) {
            let place = at.form.span.clone();
            entries.push(made("follow-redirects", place, Value::Bool(true)));
        }
    }
    if let Some(at) = fields.get("path") {
        entries.push(at.entry("path", plain(at.text())));
    }
    for (name, ours) in [("interval-ms", "interval"), ("timeout-ms", "timeout")] {
        entries.extend(fields.get(name).map(|at| at.duration(ours)));
    }
    for name in ["healthy-threshold", "unhealthy-threshold"] {
        entries.extend(fields.get(name).map(|at| at.same_number(name)));
    }
    if let Some(at) = fields.get("expected-codes") {
        let code =
            |at: &At<'_>| Node { span: at.form.span.clone(), value: Value::Int(at.number()) };
        let codes = at.items().iter().map(code).collect();
        entries.push(at.entry("expected-codes", Value::List(codes)));
    }
    entries
}
