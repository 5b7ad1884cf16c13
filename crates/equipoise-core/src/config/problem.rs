//! What is wrong with a configuration, and where.
//!
//! A [`Problem`] carries its key path, its span in the text, and line and column counted from that
//! span. Problems are found in any order, with places in all texts; [`arrange`] puts them in that order, and [`settle`] says which
//! file each is in, and counts lines and columns in one pass. Knows nothing of how problems are shown.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::file::{Node, Value};
use super::path;
use super::texts::{Included, Texts};

/// One thing that is wrong with a configuration, or worth a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the key (`service[0].listen.port`); empty for the text as a whole.
    pub key: String,
    /// The file that it stands in, where that is one that another includes.
    pub file: Option<Arc<Included>>,
    /// Where it stands in the text of its file, in bytes.
    pub span: Option<Range<usize>>,
    /// What is wrong, with the offending value.
    pub message: String,
    /// What is allowed instead.
    pub allowed: Option<String>,
    /// Line of the place, from 1.
    pub line: usize,
    /// Column of the place in characters, from 1.
    pub column: usize,
}

impl Problem {
    /// A problem whose line and column are not counted yet.
    pub(super) fn new(key: &str, span: Option<Range<usize>>, message: String) -> Self {
        Self { key: key.to_owned(), file: None, span, message, allowed: None, line: 1, column: 1 }
    }

    /// The same problem with what is allowed.
    pub(super) fn allowing(self, allowed: impl Into<String>) -> Self {
        Self { allowed: Some(allowed.into()), ..self }
    }

    /// The name of its file, where that of the file that includes others is known.
    pub fn file_or<'a>(&'a self, name: &'a str) -> &'a str {
        self.file.as_ref().map_or(name, |file| &file.name)
    }

    /// Moves its place.
    pub(super) fn shift(&mut self, by: usize) {
        let span = self.span.get_or_insert(0..0);
        *span = span.start + by..span.end + by;
    }

    fn start(&self) -> usize {
        self.span.as_ref().map_or(0, |span| span.start)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.message)?;
        self.allowed.as_ref().map_or(Ok(()), |allowed| write!(f, " (allowed: {allowed})"))
    }
}

/// Where the keys of a configuration stand, by their paths (`service[0].listen.interfaces[1]`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    spans: BTreeMap<String, Range<usize>>,
    texts: Arc<Texts>,
}

impl Places {
    /// The places of a tree that was read from texts.
    pub(super) fn new(root: &Node, texts: &Texts) -> Self {
        let mut spans = BTreeMap::new();
        add_places(root, &mut String::new(), &mut spans);
        Self { spans, texts: Arc::new(texts.clone()) }
    }

    /// The text of a key: a value, or the name of a list or table.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.texts.whole().get(self.spans.get(key)?.clone())
    }

    /// The names of the files that were read beside the first.
    pub fn included(&self) -> impl Iterator<Item = &str> {
        self.texts.included().map(|file| file.name.as_str())
    }
}

fn add_places(node: &Node, key: &mut String, places: &mut BTreeMap<String, Range<usize>>) {
    let length = key.len();
    match &node.value {
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                path::push_item(key, index);
                places.insert(key.clone(), item.span.clone());
                add_places(item, key, places);
                key.truncate(length);
            }
        }
        Value::Table(entries) => {
            for entry in entries {
                path::push_field(key, &entry.name);
                places.insert(key.clone(), entry.pointed_at().clone());
                add_places(&entry.node, key, places);
                key.truncate(length);
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Float
        | Value::Date
        | Value::Text(_)
        | Value::Given(_) => {}
    }
}

/// A problem with a key of a configuration: for checks that come after reading, such as those of the
/// machine. A key that does not stand in the text has the place of the nearest one around it that does.
pub fn problem_at(
    places: &Places,
    key: &str,
    message: impl Into<String>,
    allowed: Option<String>,
) -> Problem {
    let mut around = key;
    let span = loop {
        if let Some(span) = places.spans.get(around) {
            break span.clone();
        }
        let Some(end) = around.rfind(['.', '[']) else { break 0..0 };
        around = &around[..end];
    };
    let mut problems = vec![Problem { allowed, ..Problem::new(key, Some(span), message.into()) }];
    settle(&places.texts, &mut problems);
    problems.remove(0)
}

/// Puts problems in the order of the texts.
pub(super) fn arrange(texts: &Texts, problems: &mut [Problem]) {
    let text = texts.whole();
    for span in problems.iter_mut().filter_map(|problem| problem.span.as_mut()) {
        span.start = text.floor_char_boundary(span.start);
        span.end = text.ceil_char_boundary(span.end).max(span.start);
    }
    problems.sort_by(|a, b| (a.start(), &a.key).cmp(&(b.start(), &b.key)));
}

/// Puts problems in the order of the texts, and says of each where it is in its own.
pub(super) fn settle(texts: &Texts, problems: &mut [Problem]) {
    arrange(texts, problems);
    let text = texts.whole();
    let (mut begin, mut offset, mut line, mut column) = (0, 0, 1, 1);
    for problem in problems {
        let start = problem.start();
        let (file, range) = texts.file(start);
        if range.start != begin {
            (begin, offset, line, column) = (range.start, range.start, 1, 1);
        }
        for c in text[offset..start].chars() {
            if c == '\n' {
                line += 1;
                column = 1;
            } else {
                column += 1;
            }
        }
        offset = start;
        problem.line = line;
        problem.column = column;
        problem.file = file.cloned();
        if let Some(span) = &mut problem.span {
            *span = span.start - range.start..span.end.min(range.end) - range.start;
        }
    }
}

/// Whether one of some arranged faults, each within a value or a name, is where a problem is.
pub(super) fn any_meets(faults: &[Problem], problem: &Problem) -> bool {
    let Some(span) = &problem.span else { return false };
    let after = faults.partition_point(|fault| fault.start() <= span.end);
    let nearest = after.checked_sub(1).and_then(|last| faults[last].span.as_ref());
    nearest.is_some_and(|fault| span.start <= fault.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_lines_count_from_one() {
        let text = "a = 1\r\nname = \"é→b\" # x\n";
        let at = text.find('b').unwrap();
        let mut problems = vec![
            Problem::new("b", Some(at..at + 1), "second".into()),
            Problem::new("a", Some(0..1), "first".into()),
        ];
        settle(&Texts::new(text), &mut problems);
        let places: Vec<_> = problems.iter().map(|p| (p.line, p.column)).collect();
        assert_eq!(places, [(1, 1), (2, 11)]);
    }

    #[test]
    fn spans_that_cut_a_character_or_leave_the_text_are_widened_or_cut_to_fit() {
        let mut problems = vec![Problem::new("", Some(1..99), "odd".into())];
        settle(&Texts::new("é"), &mut problems);
        assert_eq!(problems[0].span, Some(0..2));
    }

    #[test]
    fn a_key_that_is_not_in_the_text_has_the_place_of_the_nearest_one_around_it() {
        let text = "[settings]\n";
        let places = Places {
            spans: BTreeMap::from([("settings".to_owned(), 1..9)]),
            texts: Arc::new(Texts::new(text)),
        };
        for key in ["settings.attach", "settings.attach.\"eth0.100\"", "settings"] {
            let problem = problem_at(&places, key, "no", None);
            assert_eq!((problem.span, problem.column), (Some(1..9), 2), "{key}");
        }
        let problem = problem_at(&places, "service[0].name", "no", Some("yes".into()));
        assert_eq!(problem.to_string(), "1:1: service[0].name: no (allowed: yes)");
    }
}
