//! YAML to a tree.
//!
//! YAML 1.2 with its core schema: `yes` and `on` are texts. One document; anchors and aliases are followed, within bounds; what would make a
//! configuration mean what it does not say is a fault: tags, merge keys (`<<`), names that are no texts, and a name that stands twice in
//! a table. The parser stops at its first fault.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use saphyr_parser::{Event, Parser, ScalarStyle, Span as Marked, StrInput, Tag};

use super::{Entry, Node, Reading, Value};
use crate::config::path;
use crate::config::problem::Problem;

type Span = std::ops::Range<usize>;

/// Tables and lists in each other: more than any key needs.
pub(super) const DEEPEST: usize = 64;
/// Values that aliases may stand for, in all.
const REPEATED: usize = 1_000_000;

/// Reads YAML.
pub(super) fn read(text: &str) -> Reading {
    let (mark, rest) = match text.strip_prefix('\u{feff}') {
        Some(rest) => ('\u{feff}'.len_utf8(), rest),
        None => (0, text),
    };
    let mut reader = Reader {
        events: Parser::new_from_str(rest),
        offsets: Offsets::new(rest, mark),
        faults: Vec::new(),
        anchors: BTreeMap::new(),
        repeated: 0,
    };
    match reader.document() {
        Ok(root) => Reading::of(root, reader.faults),
        Err(problem) => Reading::fault(problem),
    }
}

struct Reader<'t> {
    events: Parser<'t, StrInput<'t>>,
    offsets: Offsets,
    /// What is wrong and leaves the shape as it is.
    faults: Vec<Problem>,
    /// What aliases stand for, with the number of values in it.
    anchors: BTreeMap<usize, (Node, usize)>,
    repeated: usize,
}

/// A value, and how many there are in it.
type Counted = (Node, usize);

impl<'t> Reader<'t> {
    /// The one document.
    fn document(&mut self) -> Result<Node, Problem> {
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(_) | Event::Nothing, _) => {}
                (Event::StreamEnd | Event::DocumentEnd, span) => {
                    return Err(not_yaml(span, "there is no value"));
                }
                (event, span) => {
                    let (root, _) = self.node(event, span, &mut String::new(), 0)?;
                    self.end()?;
                    return Ok(root);
                }
            }
        }
    }

    /// Nothing may come after the document.
    fn end(&mut self) -> Result<(), Problem> {
        loop {
            match self.next()? {
                (Event::DocumentEnd | Event::Nothing, _) => {}
                (Event::StreamEnd, _) => return Ok(()),
                (_, span) => {
                    let problem = not_yaml(span, "a second document begins here");
                    return Err(problem.allowing("one document in a file"));
                }
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), Problem> {
        match self.events.next_event() {
            Some(Ok((event, span))) => Ok((event, self.offsets.span(span))),
            Some(Err(error)) => {
                let at = self.offsets.byte(error.marker().index());
                Err(not_yaml(at..at, error.info()))
            }
            None => Ok((Event::StreamEnd, 0..0)),
        }
    }

    fn node(
        &mut self,
        event: Event<'t>,
        span: Span,
        key: &mut String,
        depth: usize,
    ) -> Result<Counted, Problem> {
        if depth > DEEPEST {
            return Err(not_yaml(span, "this is too deep inside other values"));
        }
        match event {
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::Scalar(text, style, anchor, tag) => {
                self.no_tag(tag, &span, key);
                let value = scalar(&text, style);
                let node = Node { span: tight(span, &text, style), value };
                Ok(self.keep(anchor, (node, 1)))
            }
            Event::SequenceStart(anchor, tag) => {
                self.no_tag(tag, &span, key);
                let counted = self.list(span, key, depth)?;
                Ok(self.keep(anchor, counted))
            }
            Event::MappingStart(anchor, tag) => {
                self.no_tag(tag, &span, key);
                let counted = self.table(span, key, depth)?;
                Ok(self.keep(anchor, counted))
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => Err(not_yaml(span, "a value is missing")),
        }
    }

    fn list(&mut self, span: Span, key: &mut String, depth: usize) -> Result<Counted, Problem> {
        let (mut items, mut count, length) = (Vec::new(), 1, key.len());
        loop {
            let (event, place) = self.next()?;
            if event == Event::SequenceEnd {
                let node = Node { span: span.start..place.end, value: Value::List(items) };
                return Ok((node, count));
            }
            path::push_item(key, items.len());
            let (item, inside) = self.node(event, place, key, depth + 1)?;
            key.truncate(length);
            count += inside;
            items.push(item);
        }
    }

    fn table(&mut self, span: Span, key: &mut String, depth: usize) -> Result<Counted, Problem> {
        let (mut entries, mut count, length) = (Vec::new(), 1, key.len());
        let mut seen = BTreeSet::new();
        loop {
            let (event, name_span) = self.next()?;
            if event == Event::MappingEnd {
                let node = Node { span: span.start..name_span.end, value: Value::Table(entries) };
                return Ok((node, count));
            }
            let Event::Scalar(name, style, _, tag) = event else {
                return Err(not_yaml(name_span, "the name of a key is no text"));
            };
            let name_span = tight(name_span, &name, style);
            path::push_field(key, &name);
            self.no_tag(tag, &name_span, key);
            let is_merge = name == "<<" && style == ScalarStyle::Plain;
            let is_new = seen.insert(name.to_string());
            if is_merge || !is_new {
                let (message, allowed) = if is_merge {
                    (
                        "`<<` merges tables, which is not done here".to_owned(),
                        "the keys themselves, or an alias for a whole table",
                    )
                } else {
                    (
                        format!("the key `{name}` stands here a second time"),
                        "each key once in a table",
                    )
                };
                let problem = Problem::new(key, Some(name_span.clone()), message);
                self.faults.push(problem.allowing(allowed));
            }
            let (event, place) = self.next()?;
            let (node, inside) = self.node(event, place, key, depth + 1)?;
            key.truncate(length);
            count += inside;
            if is_new && !is_merge {
                entries.push(Entry { name: name.into_owned(), name_span, node });
            }
        }
    }

    /// What an alias stands for, in the place of the alias.
    fn alias(&mut self, anchor: usize, span: Span) -> Result<Counted, Problem> {
        let Some((node, count)) = self.anchors.get(&anchor) else {
            return Err(not_yaml(span, "this alias stands for what it is in itself"));
        };
        self.repeated += count;
        if self.repeated > REPEATED {
            let message = "the aliases so far stand for too many values";
            return Err(not_yaml(span, message).allowing(format!("at most {REPEATED}")));
        }
        let mut node = node.clone();
        node.each_place(&mut |place| place.clone_from(&span));
        Ok((node, *count))
    }

    fn keep(&mut self, anchor: usize, counted: Counted) -> Counted {
        if anchor > 0 {
            self.anchors.insert(anchor, counted.clone());
        }
        counted
    }

    fn no_tag(&mut self, tag: Option<Cow<'_, Tag>>, span: &Span, key: &str) {
        let Some(tag) = tag else { return };
        let message = format!("the tag `{tag}` is not known");
        let problem = Problem::new(key, Some(span.clone()), message);
        self.faults.push(problem.allowing("values without tags"));
    }
}

/// By the core schema (YAML 1.2.2, 10.3.2).
fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::Text(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = |text: &str, radix| !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits(unsigned, 10) {
        return Value::int(text, 10);
    }
    for (prefix, radix) in [("0o", 8), ("0x", 16)] {
        if let Some(rest) = text.strip_prefix(prefix).filter(|rest| digits(rest, radix)) {
            return Value::int(rest, radix);
        }
    }
    if is_float(unsigned) {
        // What is none, or without end, is none that a key takes.
        Value::Float(text.parse().unwrap_or(f64::NAN))
    } else {
        Value::Text(text.to_owned())
    }
}

fn is_float(text: &str) -> bool {
    if matches!(text, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    is_number && text.parse::<f64>().is_ok()
}

/// A plain scalar without what comes after it.
fn tight(span: Span, text: &str, style: ScalarStyle) -> Span {
    let is_one_line = style == ScalarStyle::Plain && !text.contains('\n');
    if is_one_line && span.len() > text.len() { span.start..span.start + text.len() } else { span }
}

fn not_yaml(span: Span, message: &str) -> Problem {
    Problem::new("", Some(span), format!("this is not YAML: {message}"))
}

/// From characters, which the parser counts, to bytes.
struct Offsets {
    /// Of each character, where not all are of one byte.
    bytes: Option<Vec<usize>>,
    length: usize,
    /// Bytes before the text.
    before: usize,
}

impl Offsets {
    fn new(text: &str, before: usize) -> Self {
        let bytes = (!text.is_ascii()).then(|| text.char_indices().map(|(at, _)| at).collect());
        Self { bytes, length: text.len(), before }
    }

    fn byte(&self, character: usize) -> usize {
        let byte = match &self.bytes {
            Some(bytes) => bytes.get(character).copied().unwrap_or(self.length),
            None => character.min(self.length),
        };
        self.before + byte
    }

    fn span(&self, span: Marked) -> Span {
        let (start, end) = (self.byte(span.start.index()), self.byte(span.end.index()));
        start..end.max(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> &'static str {
        scalar(text, ScalarStyle::Plain).kind()
    }

    #[test]
    fn plain_scalars_are_what_the_core_schema_says() {
        for (text, right) in [
            ("~", "null"),
            ("null", "null"),
            ("true", "a boolean"),
            ("FALSE", "a boolean"),
            ("yes", "text"),
            ("on", "text"),
            ("no", "text"),
            ("80", "a whole number"),
            ("-0", "a whole number"),
            ("+12", "a whole number"),
            ("0x1F", "a whole number"),
            ("0o17", "a whole number"),
            ("0x", "text"),
            ("1_000", "text"),
            ("1.5", "a decimal number"),
            ("1e3", "a decimal number"),
            (".inf", "a decimal number"),
            ("10.0.0.1", "text"),
            ("10.0.0.1:80", "text"),
            ("12:30", "text"),
            ("2026-01-01", "text"),
            ("infinity", "text"),
        ] {
            assert_eq!(kind(text), right, "{text}");
        }
        assert!(matches!(scalar("0123", ScalarStyle::Plain), Value::Int(123)));
        assert!(matches!(scalar("80", ScalarStyle::DoubleQuoted), Value::Text(_)));
    }

    fn told(text: &str) -> Vec<String> {
        let Reading { faults, .. } = read(text);
        faults
            .iter()
            .map(|fault| format!("{:?} {}: {}", fault.span, fault.key, fault.message))
            .collect()
    }

    #[test]
    fn what_would_mean_what_it_does_not_say_is_a_fault_with_its_place() {
        for (text, right) in [
            ("a: 1\nb: {c: 2, c: 3}\n", "Some(15..16) b.c: the key `c` stands here a second time"),
            ("a: !!str 80\n", "Some(3..11) a: the tag `tag:yaml.org,2002:!str` is not known"),
            (
                "a: &x {b: 1}\nc:\n  <<: *x\n",
                "Some(18..20) c.\"<<\": `<<` merges tables, which is not done here",
            ),
            ("a: *x\n", "Some(3..3) : this is not YAML: while parsing node, found unknown anchor"),
            (
                "a: &x [*x]\n",
                "Some(7..9) : this is not YAML: this alias stands for what it is in itself",
            ),
            ("a: 1\n---\nb: 2\n", "Some(5..8) : this is not YAML: a second document begins here"),
            ("# é\n[1, 2]: 3\n", "Some(5..6) : this is not YAML: the name of a key is no text"),
            ("", "Some(0..0) : this is not YAML: there is no value"),
        ] {
            assert_eq!(told(text), [right], "{text:?}");
        }
    }

    #[test]
    fn aliases_stand_for_values_and_may_not_grow_without_bound() {
        let Reading { root, faults, .. } = read("a: &x {b: [1, 2]}\nc: *x\n");
        assert!(faults.is_empty());
        let Value::Table(entries) = root.unwrap().value else { panic!("no table") };
        assert_eq!((entries[1].name.as_str(), entries[1].node.span.clone()), ("c", 21..23));
        assert!(matches!(&entries[1].node.value, Value::Table(inner) if inner[0].name == "b"));
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..10 {
            let inner = vec![format!("*a{}", n - 1); 10].join(", ");
            laughs += &format!("a{n}: &a{n} [{inner}]\n");
        }
        assert!(told(&laughs)[0].ends_with("the aliases so far stand for too many values"));
        let deep = "[".repeat(100_000);
        assert_eq!(told(&deep).len(), 1);
    }

    #[test]
    fn places_are_bytes_also_after_other_characters_and_a_mark() {
        let text = "\u{feff}# é\nname: \"→\"\nport:   80   # x\n";
        let Reading { root, .. } = read(text);
        let Value::Table(entries) = root.unwrap().value else { panic!("no table") };
        assert_eq!(&text[entries[0].node.span.clone()], "\"→\"");
        assert_eq!(&text[entries[1].name_span.clone()], "port");
        assert_eq!(&text[entries[1].node.span.clone()], "80");
    }
}
