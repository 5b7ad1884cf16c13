//! The text of EDN to forms, each with its place.
//!
//! All of EDN that is data: `nil`, booleans, numbers, characters, texts, keywords, symbols, lists, vectors, sets, maps, comments, and
//! `#_` for what is not there. Tags are refused, since no key takes what they make. Stops at the first fault. Knows no key.

use std::ops::Range;

use crate::config::problem::Problem;

/// A form and its place.
#[derive(Clone, Debug)]
pub(super) struct Form {
    pub(super) span: Range<usize>,
    pub(super) value: Value,
}

/// What a form is.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Nil,
    Bool(bool),
    /// A whole number; one that is too large is the largest, which is out of any range.
    Int(i128),
    Decimal,
    Text(String),
    Character,
    /// Without its colon.
    Keyword(String),
    Symbol,
    /// A list, a vector or a set.
    List(Vec<Form>),
    /// Names and values, in the order of the text.
    Map(Vec<(Form, Form)>),
}

impl Value {
    /// What it is, in words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "a whole number",
            Self::Decimal => "a decimal number",
            Self::Text(_) => "text",
            Self::Character => "a character",
            Self::Keyword(_) => "a keyword",
            Self::Symbol => "a symbol",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

/// Forms in each other: more than any key needs.
const DEEPEST: usize = 64;

/// Reads the one form of a text.
pub(super) fn read(text: &str) -> Result<Form, Problem> {
    let start = text.strip_prefix('\u{feff}').map_or(0, |rest| text.len() - rest.len());
    let mut reader = Reader { text, at: start };
    let Some(form) = reader.form(0)? else {
        return Err(not_edn(start..start, "there is no value"));
    };
    match reader.form(0)? {
        None => Ok(form),
        Some(second) => {
            Err(not_edn(second.span, "a second value begins here").allowing("one map in a file"))
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl Reader<'_> {
    /// The next form; none at the end of the text, or where something closes.
    fn form(&mut self, depth: usize) -> Result<Option<Form>, Problem> {
        loop {
            self.skip_space();
            let start = self.at;
            if depth > DEEPEST {
                return Err(not_edn(start..start, "this is too deep inside other values"));
            }
            let Some(first) = self.peek() else { return Ok(None) };
            let value = match first {
                ')' | ']' | '}' if depth > 0 => return Ok(None),
                ')' | ']' | '}' => {
                    return Err(not_edn(start..start + 1, &format!("`{first}` closes nothing")));
                }
                '(' => Value::List(self.items(')', depth)?),
                '[' => Value::List(self.items(']', depth)?),
                '{' => self.map(depth)?,
                '"' => Value::Text(self.text()?),
                '\\' => self.character()?,
                '#' => match self.text[start + 1..].chars().next() {
                    Some('{') => {
                        self.at += 1;
                        Value::List(self.items('}', depth)?)
                    }
                    Some('_') => {
                        self.at += 2;
                        if self.form(depth + 1)?.is_none() {
                            return Err(not_edn(start..start + 2, "`#_` stands before nothing"));
                        }
                        continue;
                    }
                    _ => {
                        let word = self.word().to_owned();
                        let problem =
                            not_edn(start..self.at, &format!("the tag `{word}` is not known"));
                        return Err(problem.allowing("values without tags"));
                    }
                },
                _ => {
                    let word = self.word();
                    if word.is_empty() {
                        let end = start + first.len_utf8();
                        return Err(not_edn(start..end, &format!("`{first}` begins nothing")));
                    }
                    scalar(word).ok_or_else(|| {
                        not_edn(start..start + word.len(), &format!("`{word}` is no value"))
                    })?
                }
            };
            return Ok(Some(Form { span: start..self.at, value }));
        }
    }

    /// What stands between an opening sign, which is next, and a closing one.
    fn items(&mut self, close: char, depth: usize) -> Result<Vec<Form>, Problem> {
        let open = self.at;
        self.at += 1;
        let mut items = Vec::new();
        while let Some(form) = self.form(depth + 1)? {
            items.push(form);
        }
        match self.peek() {
            Some(sign) if sign == close => {
                self.at += 1;
                Ok(items)
            }
            Some(sign) => {
                let message = format!("`{sign}` stands where `{close}` belongs");
                Err(not_edn(self.at..self.at + 1, &message))
            }
            None => Err(not_edn(open..open + 1, &format!("what begins here has no `{close}`"))),
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, Problem> {
        let open = self.at;
        let mut items = self.items('}', depth)?.into_iter();
        let mut entries = Vec::with_capacity(items.len() / 2);
        while let Some(name) = items.next() {
            let Some(value) = items.next() else {
                let message = "a name without a value ends this map";
                return Err(not_edn(name.span, message).allowing("names and values in turn"));
            };
            entries.push((name, value));
        }
        debug_assert!(open < self.at);
        Ok(Value::Map(entries))
    }

    fn text(&mut self) -> Result<String, Problem> {
        let open = self.at;
        let mut text = String::new();
        let mut signs = self.text[open + 1..].char_indices();
        while let Some((offset, sign)) = signs.next() {
            let at = open + 1 + offset;
            match sign {
                '"' => {
                    self.at = at + 1;
                    return Ok(text);
                }
                '\\' => {
                    let next = signs.next().map(|(_, sign)| sign);
                    let plain = match next {
                        Some('n') => '\n',
                        Some('t') => '\t',
                        Some('r') => '\r',
                        Some('b') => '\u{8}',
                        Some('f') => '\u{c}',
                        Some(same @ ('"' | '\\')) => same,
                        Some('u') => {
                            let digits: String =
                                signs.by_ref().take(4).map(|(_, sign)| sign).collect();
                            let code = (digits.len() == 4)
                                .then(|| u32::from_str_radix(&digits, 16).ok())
                                .flatten();
                            let Some(sign) = code.and_then(char::from_u32) else {
                                let end = (at + 2 + digits.len()).min(self.text.len());
                                return Err(not_edn(at..end, "`\\u` and no character"));
                            };
                            sign
                        }
                        other => {
                            let message = match other {
                                Some(sign) => format!("`\\{sign}` stands for nothing"),
                                None => "the text ends after `\\`".to_owned(),
                            };
                            return Err(not_edn(at..at + 1, &message));
                        }
                    };
                    text.push(plain);
                }
                sign => text.push(sign),
            }
        }
        Err(not_edn(open..open + 1, "the text that begins here does not end"))
    }

    fn character(&mut self) -> Result<Value, Problem> {
        let start = self.at;
        self.at += 1;
        let Some(first) = self.peek() else {
            return Err(not_edn(start..start + 1, "a character is missing"));
        };
        self.at += first.len_utf8();
        self.word();
        Ok(Value::Character)
    }

    fn skip_space(&mut self) {
        while let Some(sign) = self.peek() {
            if sign == ';' {
                let rest = &self.text[self.at..];
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if sign.is_whitespace() || sign == ',' {
                self.at += sign.len_utf8();
            } else {
                return;
            }
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    /// What comes up to a space or a sign that ends a word.
    fn word(&mut self) -> &str {
        let rest = &self.text[self.at..];
        let ends = |sign: char| sign.is_whitespace() || ",;()[]{}\"\\".contains(sign);
        let length = rest.find(ends).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }
}

fn scalar(word: &str) -> Option<Value> {
    match word {
        "nil" => return Some(Value::Nil),
        "true" => return Some(Value::Bool(true)),
        "false" => return Some(Value::Bool(false)),
        _ => {}
    }
    if let Some(name) = word.strip_prefix(':') {
        let is_name = !name.is_empty() && !name.starts_with([':', '/']);
        return is_name.then(|| Value::Keyword(name.to_owned()));
    }
    let unsigned = word.strip_prefix(['-', '+']).unwrap_or(word);
    if !unsigned.starts_with(|sign: char| sign.is_ascii_digit()) {
        return Some(Value::Symbol);
    }
    let digits = unsigned.strip_suffix('N').unwrap_or(unsigned);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let most = if word.starts_with('-') { i128::MIN } else { i128::MAX };
        let written = word.strip_suffix('N').unwrap_or(word);
        return Some(Value::Int(written.parse().unwrap_or(most)));
    }
    let decimal = unsigned.strip_suffix('M').unwrap_or(unsigned);
    decimal.parse::<f64>().is_ok().then_some(Value::Decimal)
}

fn not_edn(span: Range<usize>, message: &str) -> Problem {
    Problem::new("", Some(span), format!("this is not EDN: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A form as text: what was read, and nothing of how it was written.
    fn shown(form: &Form) -> String {
        let all = |items: &[Form]| items.iter().map(shown).collect::<Vec<_>>().join(" ");
        match &form.value {
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Text(text) => format!("{text:?}"),
            Value::Keyword(name) => format!(":{name}"),
            Value::List(items) => format!("[{}]", all(items)),
            Value::Map(entries) => {
                let entry =
                    |(name, value): &(Form, Form)| format!("{} {}", shown(name), shown(value));
                format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(" "))
            }
            other => other.kind().to_owned(),
        }
    }

    fn told(text: &str) -> String {
        match read(text) {
            Ok(form) => shown(&form),
            Err(problem) => format!("{:?} {}", problem.span.unwrap(), problem.message),
        }
    }

    #[test]
    fn data_of_all_kinds_is_read() {
        for (text, right) in [
            ("{:a 1, :b \"x\"}", "{:a 1 :b \"x\"}"),
            (
                "; first\n[1 -2 +3 4N nil true false 1.5 2M 1e3 sym :k/w \\a \\newline \\(]",
                "[1 -2 3 4 nil true false a decimal number a decimal number a decimal number a symbol :k/w a character a character a character]",
            ),
            ("(1 #_ [2 3] 4 #_5)", "[1 4]"),
            ("#{200 204}", "[200 204]"),
            ("\u{feff} \"é\\n\\u00e9\\\"\\\\\"", "\"é\\né\\\"\\\\\""),
            (
                "99999999999999999999999999999999999999999",
                "170141183460469231731687303715884105727",
            ),
        ] {
            assert_eq!(told(text), right, "{text}");
        }
    }

    #[test]
    fn faults_have_places() {
        for (text, right) in [
            ("", "0..0 this is not EDN: there is no value"),
            ("{:a 1", "0..1 this is not EDN: what begins here has no `}`"),
            ("{:a [1}", "6..7 this is not EDN: `}` stands where `]` belongs"),
            ("]", "0..1 this is not EDN: `]` closes nothing"),
            ("{:a}", "1..3 this is not EDN: a name without a value ends this map"),
            ("{:a \"x}", "4..5 this is not EDN: the text that begins here does not end"),
            ("\"\\q\"", "1..2 this is not EDN: `\\q` stands for nothing"),
            ("\"\\u00\"", "1..6 this is not EDN: `\\u` and no character"),
            ("#inst \"2026\"", "0..5 this is not EDN: the tag `#inst` is not known"),
            ("{} {}", "3..5 this is not EDN: a second value begins here"),
            ("{:a 1x}", "4..6 this is not EDN: `1x` is no value"),
            (":", "0..1 this is not EDN: `:` is no value"),
            ("#_", "0..2 this is not EDN: `#_` stands before nothing"),
        ] {
            assert_eq!(told(text), right, "{text}");
        }
        assert!(told(&"[".repeat(100_000)).ends_with("too deep inside other values"));
        assert!(told(&"#_".repeat(100_000)).ends_with("too deep inside other values"));
    }
}
