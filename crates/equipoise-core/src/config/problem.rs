//! What is wrong with a configuration, and where.
//!
//! A [`Problem`] carries its key path, its span in the text, and line and column counted from that
//! span. Problems are found in any order; [`arrange`] puts them in the order of the text and counts
//! their lines and columns in one pass over it. Knows nothing of files or of how problems are shown.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// One thing that is wrong with a configuration, or worth a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the key (`service[0].listen.port`); empty for the text as a whole.
    pub key: String,
    /// Where it stands in the text, in bytes.
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
        Self { key: key.to_owned(), span, message, allowed: None, line: 1, column: 1 }
    }

    /// The same problem with what is allowed.
    pub(super) fn allowing(self, allowed: impl Into<String>) -> Self {
        Self { allowed: Some(allowed.into()), ..self }
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

/// A problem with a key of a configuration that was read from `text`: for checks that come after
/// reading, such as those of the machine. A key that does not stand in the text has the place of
/// the nearest one around it that does.
pub fn problem_at(
    places: &BTreeMap<String, Range<usize>>,
    text: &str,
    key: &str,
    message: impl Into<String>,
    allowed: Option<String>,
) -> Problem {
    let mut around = key;
    let span = loop {
        if let Some(span) = places.get(around) {
            break span.clone();
        }
        let Some(end) = around.rfind(['.', '[']) else { break 0..0 };
        around = &around[..end];
    };
    let mut problems = vec![Problem { allowed, ..Problem::new(key, Some(span), message.into()) }];
    arrange(text, &mut problems);
    problems.remove(0)
}

/// Puts problems in the order of the text and counts their lines and columns.
pub(super) fn arrange(text: &str, problems: &mut [Problem]) {
    for span in problems.iter_mut().filter_map(|problem| problem.span.as_mut()) {
        span.start = text.floor_char_boundary(span.start);
        span.end = text.ceil_char_boundary(span.end).max(span.start);
    }
    problems.sort_by(|a, b| (a.start(), &a.key).cmp(&(b.start(), &b.key)));
    let (mut offset, mut line, mut column) = (0, 1, 1);
    for problem in problems {
        let start = problem.start();
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
        arrange(text, &mut problems);
        let places: Vec<_> = problems.iter().map(|p| (p.line, p.column)).collect();
        assert_eq!(places, [(1, 1), (2, 11)]);
    }

    #[test]
    fn spans_that_cut_a_character_or_leave_the_text_are_widened_or_cut_to_fit() {
        let mut problems = vec![Problem::new("", Some(1..99), "odd".into())];
        arrange("é", &mut problems);
        assert_eq!(problems[0].span, Some(0..2));
    }

    #[test]
    fn a_key_that_is_not_in_the_text_has_the_place_of_the_nearest_one_around_it() {
        let text = "[settings]\n";
        let places = BTreeMap::from([("settings".to_owned(), 1..9)]);
        for key in ["settings.attach", "settings.attach.\"eth0.100\"", "settings"] {
            let problem = problem_at(&places, text, key, "no", None);
            assert_eq!((problem.span, problem.column), (Some(1..9), 2), "{key}");
        }
        let problem = problem_at(&places, text, "service[0].name", "no", Some("yes".into()));
        assert_eq!(problem.to_string(), "1:1: service[0].name: no (allowed: yes)");
    }
}
