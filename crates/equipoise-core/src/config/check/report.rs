//! Walking the tree, and gathering what is wrong on the way.
//!
//! An [`At`] is a value with its path and the place to point at; [`Report`] takes values out of it
//! as what they should be, and notes those that are not. Knows no key.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};

use super::health::CheckDraft;
use super::keys::Table;
use super::nearest::nearest;
use super::panic::PanicDraft;
use crate::config::admin::Secret;
use crate::config::breaker::Thresholds;
use crate::config::file::{Entry, Node, Value};
use crate::config::health::Recovery;
use crate::config::path;
use crate::config::problem::Problem;
use crate::config::texts::Texts;
use crate::config::{Around, Limits};

pub(super) const FILE: &str = "the whole path of a file";

/// A key path and the part of the text to point at when it is spoken of.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: String,
    pub(super) span: Range<usize>,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<'a> {
    pub(super) place: Place,
    node: &'a Node,
}

impl<'a> At<'a> {
    pub(super) fn root(node: &'a Node) -> Self {
        Self { place: Place { key: String::new(), span: node.span.start..node.span.start }, node }
    }

    pub(super) fn is_table(&self) -> bool {
        matches!(self.node.value, Value::Table(_))
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.node.value, Value::Null)
    }

    /// Whether it is a table with this key.
    pub(super) fn has(&self, name: &str) -> bool {
        matches!(&self.node.value, Value::Table(entries) if entries.iter().any(|e| e.name == name))
    }

    pub(super) fn is_text(&self) -> bool {
        match &self.node.value {
            Value::Text(_) => true,
            Value::Given(text) => text.parse::<i128>().is_err(),
            _ => false,
        }
    }

    fn entry(&self, entry: &'a Entry) -> Self {
        let key = path::field(&self.place.key, &entry.name);
        Self { place: Place { key, span: entry.pointed_at().clone() }, node: &entry.node }
    }

    fn item(&self, index: usize, node: &'a Node) -> Self {
        let key = path::item(&self.place.key, index);
        Self { place: Place { key, span: node.span.clone() }, node }
    }
}

/// The entries of a table.
pub(super) struct Fields<'a> {
    table: At<'a>,
    entries: &'a [Entry],
    /// The keys that it may have; none where its names are the user's.
    keys: Option<&'static Table>,
}

impl<'a> Fields<'a> {
    /// A field, by the name of a key of the table.
    pub(super) fn get(&self, name: &str) -> Option<At<'a>> {
        debug_assert!(
            self.keys.is_none_or(|keys| keys.key(name).is_some()),
            "`{name}` is no key of {}",
            self.keys.map_or("", |keys| keys.home),
        );
        let entry = self.entries.iter().find(|entry| entry.name == name)?;
        Some(self.table.entry(entry))
    }

    /// The place of a field's name, for what is not to be pointed at itself.
    pub(super) fn name(&self, name: &str) -> Option<Place> {
        let entry = self.entries.iter().find(|entry| entry.name == name)?;
        let key = path::field(&self.table.place.key, &entry.name);
        Some(Place { key, span: entry.name_span.clone() })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&'a str, At<'a>)> {
        self.entries.iter().map(|entry| (entry.name.as_str(), self.table.entry(entry)))
    }
}

/// What was found so far.
pub(super) struct Report<'t> {
    pub(super) problems: Vec<Problem>,
    pub(super) notes: Vec<Problem>,
    /// Reads the files that the text names.
    pub(super) around: &'t Around<'t>,
    /// The limits that hold for services that say nothing else.
    pub(super) common_limits: Limits,
    /// The health check of services that say nothing else.
    pub(super) common_check: CheckDraft,
    /// How backends get their shares again, in services that say nothing else.
    pub(super) common_recovery: Recovery,
    /// What becomes of pools in trouble, in services that say nothing else.
    pub(super) common_panic: PanicDraft,
    /// When the settings have backends taken out for their failures, where they do.
    pub(super) common_breaker: Option<Thresholds>,
    /// Whether commands are run as health checks.
    pub(super) exec_checks: bool,
    /// Prefixes of all lists so far.
    pub(super) listed: usize,
    /// Routes by source so far.
    pub(super) routes: usize,
    /// Prefixes of all those routes.
    pub(super) routed: usize,
    texts: &'t Texts,
}

impl<'t> Report<'t> {
    pub(super) fn new(texts: &'t Texts, around: &'t Around<'t>) -> Self {
        Self {
            problems: Vec::new(),
            notes: Vec::new(),
            around,
            common_limits: Limits::default(),
            common_check: CheckDraft::default(),
            common_recovery: Recovery::default(),
            common_panic: PanicDraft::default(),
            common_breaker: None,
            exec_checks: false,
            listed: 0,
            routes: 0,
            routed: 0,
            texts,
        }
    }

    pub(super) fn problem(&mut self, place: &Place, message: String, allowed: impl Into<String>) {
        self.problems.push(found(place, message, allowed));
    }

    /// A problem that many values may have by what is around them: told once.
    pub(super) fn once(&mut self, place: &Place, message: &str, allowed: &str) {
        let is_told = |told: &Problem| told.key == place.key && told.message == message;
        if !self.problems.iter().any(is_told) {
            self.problem(place, message.to_owned(), allowed);
        }
    }

    pub(super) fn note(&mut self, place: &Place, message: String, allowed: impl Into<String>) {
        self.notes.push(found(place, message, allowed));
    }

    /// The line of a place, to speak of it in a message about another: `5`, or `5 of a.toml` where that is an included file.
    pub(super) fn line(&self, place: &Place) -> String {
        self.texts.line(place.span.start)
    }

    /// The fields of a table; names that are not known are reported.
    pub(super) fn fields<'a>(&mut self, at: &At<'a>, keys: &'static Table) -> Option<Fields<'a>> {
        let known = || format!("the keys here are {}", quoted(keys.names().into_iter()));
        let fields = Fields { keys: Some(keys), ..self.table(at, known)? };
        for entry in fields.entries {
            if keys.key(&entry.name).is_some() {
                continue;
            }
            let key = path::field(&at.place.key, &entry.name);
            let place = Place { key, span: entry.name_span.clone() };
            let message = format!("unknown key {}", shown(&entry.name));
            self.problem(&place, message, keys.instead_of(&entry.name));
        }
        Some(fields)
    }

    /// The fields of a table whose names are the user's.
    pub(super) fn table<'a>(
        &mut self,
        at: &At<'a>,
        allowed: impl FnOnce() -> String,
    ) -> Option<Fields<'a>> {
        let Value::Table(entries) = &at.node.value else {
            self.wrong_kind(at, "a table", allowed());
            return None;
        };
        Some(Fields { table: at.clone(), entries, keys: None })
    }

    /// A field that has to be there.
    pub(super) fn need<'a>(&mut self, of: &Fields<'a>, name: &str, what: &str) -> Option<At<'a>> {
        if let Some(at) = of.get(name) {
            return Some(at);
        }
        let Place { key, span } = &of.table.place;
        let place = Place { key: path::field(key, name), span: span.clone() };
        self.problem(&place, format!("`{name}` is missing"), what);
        None
    }

    /// The whole path of a file.
    pub(super) fn file(&mut self, at: &At<'_>) -> Option<String> {
        let text = self.text(at, FILE)?;
        if !text.starts_with('/') {
            let message = format!("{} does not name a file by its whole path", shown(text));
            self.problem(&at.place, message, "a path from `/` on");
            return None;
        }
        Some(text.to_owned())
    }

    /// A secret. What is wrong with it is said without it: at this place, in these words, and with what is allowed.
    pub(super) fn secret(
        &mut self,
        at: &At<'_>,
        read: fn(&str) -> Option<Secret>,
        (place, wrong, allowed): (&Place, &str, &str),
    ) -> Option<Secret> {
        if at.is_null() {
            self.text(at, allowed);
            return None;
        }
        let found = at.is_text().then(|| self.text(at, allowed)).flatten().and_then(read);
        if found.is_none() {
            self.problem(place, wrong.to_owned(), allowed);
        }
        found
    }

    pub(super) fn list<'a>(&mut self, at: &At<'a>, allowed: &str) -> Option<Vec<At<'a>>> {
        let Value::List(items) = &at.node.value else {
            self.wrong_kind(at, "a list", allowed);
            return None;
        };
        Some(items.iter().enumerate().map(|(index, node)| at.item(index, node)).collect())
    }

    pub(super) fn text<'a>(&mut self, at: &At<'a>, allowed: &str) -> Option<&'a str> {
        let text = at.node.value.text();
        if text.is_none() {
            self.wrong_kind(at, "text", allowed);
        }
        text
    }

    pub(super) fn boolean(&mut self, at: &At<'_>) -> Option<bool> {
        match &at.node.value {
            Value::Bool(value) => return Some(*value),
            Value::Given(text) => {
                if let Ok(value) = text.parse() {
                    return Some(value);
                }
            }
            _ => {}
        }
        self.wrong_kind(at, "a boolean", "`true` or `false`");
        None
    }

    /// A whole number within a range.
    pub(super) fn number<T>(&mut self, at: &At<'_>, range: &RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i128> + PartialOrd + Display,
    {
        let allowed = || format!("{} to {}", range.start(), range.end());
        let Some(value) = at.node.value.number() else {
            self.wrong_kind(at, "a whole number", allowed());
            return None;
        };
        let within = T::try_from(value).ok().filter(|value| range.contains(value));
        if within.is_none() {
            let message = format!("{} is out of range", shown(&self.raw(at)));
            self.problem(&at.place, message, allowed());
        }
        within
    }

    /// A number within a range, in millionths.
    pub(super) fn millionths(&mut self, at: &At<'_>, range: &RangeInclusive<u32>) -> Option<u32> {
        let [least, most] = [range.start(), range.end()].map(|number| f64::from(*number) / 1e6);
        let allowed = || format!("{least} to {most}");
        let Some(value) = at.node.value.decimal() else {
            self.wrong_kind(at, "a number", allowed());
            return None;
        };
        // What is out of range stays so: the conversion stops at the ends.
        let within = Some((value * 1e6).round() as u32)
            .filter(|found| range.contains(found) && (least..=most).contains(&value));
        if within.is_none() {
            let message = format!("{} is out of range", shown(&self.raw(at)));
            self.problem(&at.place, message, allowed());
        }
        within
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, at: &At<'_>, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        let text = self.text(at, &either(&words))?;
        let choice = choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
        if choice.is_none() {
            let nearest = nearest(text, &words).map(|word| format!("; `{word}` is the nearest"));
            let allowed = either(&words) + &nearest.unwrap_or_default();
            self.problem(&at.place, format!("{} is not known", shown(text)), allowed);
        }
        choice
    }

    /// The text of a value, as it stands in the file; of a variable, what it says.
    fn raw<'a>(&self, at: &At<'a>) -> Cow<'a, str>
    where
        't: 'a,
    {
        match &at.node.value {
            Value::Given(text) => Cow::Borrowed(text),
            _ => Cow::Borrowed(self.texts.whole().get(at.node.span.clone()).unwrap_or_default()),
        }
    }

    fn wrong_kind(&mut self, at: &At<'_>, wanted: &str, allowed: impl Into<String>) {
        let message = match &at.node.value {
            // Under a TOML header, or at the top of the file, the text of a table says little.
            Value::Table(_) => format!("a table where {wanted} belongs"),
            Value::Null => format!("null where {wanted} belongs"),
            value => {
                format!("{} is {} where {wanted} belongs", shown(&self.raw(at)), value.kind())
            }
        };
        self.problem(&at.place, message, allowed);
    }
}

/// Words of a message in quotes: `` `a`, `b` ``.
pub(super) fn quoted<'s>(words: impl Iterator<Item = &'s str>) -> String {
    words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn either(words: &[&str]) -> String {
    match words {
        [most @ .., last] if !most.is_empty() => {
            format!("{} or `{last}`", quoted(most.iter().copied()))
        }
        few => quoted(few.iter().copied()),
    }
}

/// A text of the user's in a message.
pub(super) fn shown(text: &str) -> String {
    if text.is_empty() { "an empty text".to_owned() } else { format!("`{}`", clipped(text)) }
}

/// The start of a text that may be long or of several lines.
pub(super) fn clipped(text: &str) -> String {
    const MOST: usize = 60;
    let line = text.lines().next().unwrap_or_default();
    let mut short: String = line.chars().take(MOST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn found(place: &Place, message: String, allowed: impl Into<String>) -> Problem {
    Problem::new(&place.key, Some(place.span.clone()), message).allowing(allowed)
}
