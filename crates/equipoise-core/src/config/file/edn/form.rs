//! Forms against the list of keys: what is unknown, missing, of another kind or out of range.
//!
//! Gives all that is wrong at once; what passes can be read without asking again.

use std::collections::BTreeSet;

use super::keys::{Key, Kind, Table};
use super::text::{Form, Value};
use crate::config::check::nearest::nearest;
use crate::config::path;
use crate::config::problem::Problem;

/// What a look at forms has found.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) faults: Vec<Problem>,
    pub(super) ignored: Vec<Problem>,
}

impl Findings {
    pub(super) fn fault(&mut self, form: &Form, key: &str, message: String, allowed: &str) {
        let problem = Problem::new(key, Some(form.span.clone()), message);
        self.faults.push(problem.allowing(allowed));
    }

    /// Looks at a map.
    pub(super) fn table(&mut self, form: &Form, key: &mut String, table: &'static Table) {
        let Value::Map(entries) = &form.value else {
            self.kind(form, key, "a map");
            return;
        };
        let length = key.len();
        let mut seen = BTreeSet::new();
        for (name_form, value) in entries {
            let Value::Keyword(name) = &name_form.value else {
                let message =
                    format!("{} where the keyword of a key belongs", name_form.value.kind());
                self.fault(name_form, key, message, "keywords, such as `:name`");
                continue;
            };
            path::push_field(key, name);
            if !seen.insert(name) {
                let message = format!("the key `:{name}` stands here a second time");
                self.fault(name_form, key, message, "each key once in a map");
            } else if let Some(known) = table.key(name) {
                match &known.kind {
                    // It is not pointed at: its name is.
                    Kind::Secret(least) => self.secret(name_form, value, key, *least),
                    kind => self.value(value, key, kind),
                }
            } else {
                self.ignored.push(unknown(name_form, key, name, table));
            }
            key.truncate(length);
        }
        for Key { name, default, .. } in table.keys {
            if *default == "required" && !seen.iter().any(|there| there == name) {
                path::push_field(key, name);
                self.fault(form, key, format!("`:{name}` is missing"), "it has no default");
                key.truncate(length);
            }
        }
    }

    /// Nothing of it is told.
    fn secret(&mut self, at: &Form, form: &Form, key: &str, least: usize) {
        let is_secret = match &form.value {
            Value::Nil => true,
            Value::Text(text) => text.chars().count() >= least,
            _ => false,
        };
        if !is_secret {
            let allowed = format!("text of at least {least} characters, or nil");
            self.fault(at, key, "this is no secret".to_owned(), &allowed);
        }
    }

    fn value(&mut self, form: &Form, key: &mut String, kind: &'static Kind) {
        match kind {
            Kind::Boolean if matches!(form.value, Value::Bool(_)) => {}
            Kind::Boolean => self.kind(form, key, "a boolean"),
            Kind::Number(least, most) => {
                let allowed = format!("{least} to {most}");
                match form.value {
                    Value::Int(number)
                        if (i128::from(*least)..=i128::from(*most)).contains(&number) => {}
                    Value::Int(number) => {
                        self.fault(form, key, format!("`{number}` is out of range"), &allowed);
                    }
                    _ => self.kind(form, key, "a whole number"),
                }
            }
            Kind::Word(words) => {
                let allowed = words.iter().map(|word| format!("`:{word}`")).collect::<Vec<_>>();
                let allowed = allowed.join(" or ");
                match &form.value {
                    Value::Keyword(word) | Value::Text(word) => {
                        if !words.contains(&word.as_str()) {
                            self.fault(form, key, format!("`:{word}` is not known"), &allowed);
                        }
                    }
                    _ => self.kind(form, key, "a keyword"),
                }
            }
            Kind::Text => {
                self.text(form, key, |text| !text.trim().is_empty(), "text that is not blank");
            }
            Kind::Path => {
                self.text(form, key, |text| text.starts_with('/'), "text that begins with `/`");
            }
            Kind::Secret(least) => self.secret(form, form, key, *least),
            Kind::Numbers => match &form.value {
                Value::List(items) if items.is_empty() => {
                    self.fault(form, key, "the list is empty".to_owned(), "at least one number");
                }
                Value::List(items) => self.items(items, key, |form, key, this| {
                    if !matches!(form.value, Value::Int(_)) {
                        this.kind(form, key, "a whole number");
                    }
                }),
                _ => self.kind(form, key, "a list of whole numbers"),
            },
            Kind::Texts => match &form.value {
                Value::Nil => {}
                Value::List(items) => self.items(items, key, |form, key, this| {
                    if !matches!(form.value, Value::Text(_)) {
                        this.kind(form, key, "text");
                    }
                }),
                _ => self.kind(form, key, "a list of texts"),
            },
            Kind::Map(table) => self.table(form, key, table),
            Kind::Maps(table, least, most) => match &form.value {
                Value::List(items) if !(*least..=*most).contains(&items.len()) => {
                    let allowed = if *most == usize::MAX {
                        format!("at least {least}")
                    } else {
                        format!("{least} to {most}")
                    };
                    self.fault(
                        form,
                        key,
                        format!("{} maps are not so many", items.len()),
                        &allowed,
                    );
                }
                Value::List(items) => {
                    self.items(items, key, |form, key, this| this.table(form, key, table));
                }
                _ => self.kind(form, key, "a list of maps"),
            },
            Kind::OneOrMore(table) => match &form.value {
                Value::Map(_) => self.table(form, key, table),
                Value::List(items) if !(1..=8).contains(&items.len()) => {
                    self.fault(
                        form,
                        key,
                        format!("{} targets are not so many", items.len()),
                        "1 to 8",
                    );
                }
                Value::List(items) => {
                    self.items(items, key, |form, key, this| this.table(form, key, table));
                }
                _ => self.kind(form, key, "a map, or a list of maps,"),
            },
        }
    }

    fn items(
        &mut self,
        items: &[Form],
        key: &mut String,
        mut each: impl FnMut(&Form, &mut String, &mut Self),
    ) {
        let length = key.len();
        for (index, item) in items.iter().enumerate() {
            path::push_item(key, index);
            each(item, key, self);
            key.truncate(length);
        }
    }

    fn text(&mut self, form: &Form, key: &str, is_right: fn(&str) -> bool, allowed: &str) {
        match &form.value {
            Value::Text(text) if is_right(text) => {}
            Value::Text(text) => self.fault(form, key, format!("{text:?} will not do"), allowed),
            _ => self.kind(form, key, "text"),
        }
    }

    fn kind(&mut self, form: &Form, key: &str, wanted: &str) {
        let message = format!("{} where {wanted} belongs", form.value.kind());
        self.fault(form, key, message, wanted);
    }
}

fn unknown(form: &Form, key: &str, name: &str, table: &Table) -> Problem {
    let names: Vec<_> = table.keys.iter().map(|key| key.name).collect();
    let message = format!("unknown key `:{name}`, which is ignored");
    let problem = Problem::new(key, Some(form.span.clone()), message);
    match nearest(name, &names) {
        Some(nearest) => problem.allowing(format!("`:{nearest}` is the nearest")),
        None => problem,
    }
}
