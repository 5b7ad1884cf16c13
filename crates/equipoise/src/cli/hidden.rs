//! Secrets out of sight, where parts of a configuration are shown to people.
//!
//! Secrets are the values of keys of that name, and of headers, which may have a password or a token in them.
//! Goes by how the text looks and not by what it means, so that they are out of sight also where the text cannot be read, and also beside what
//! is spoken of. What looks like one and is none is not shown either.

use std::borrow::Cow;
use std::ops::Range;

/// Names of keys whose values are secrets, in any format.
const NAMES: [&str; 2] = ["api-key", "key"];
/// What holds further ones, by names of all kinds.
const HEADERS: &str = "headers";
/// What stands for each byte of a secret, so that everything else stays in its place.
const HIDDEN: &str = "*";

/// The text, as long as before, without the values of keys that hold secrets.
pub(super) fn hidden(text: &str) -> Cow<'_, str> {
    let keys = ends_of(text, "key").filter(|&end| NAMES.contains(&word(text, end)));
    let headers = ends_of(text, HEADERS).filter(|&end| word(text, end) == HEADERS);
    let secrets = keys.map(|end| value(text, end)).chain(headers.flat_map(|end| each(text, end)));
    let mut shown = Cow::Borrowed(text);
    for secret in secrets.filter(|secret| !secret.is_empty()) {
        let stars = HIDDEN.repeat(secret.len());
        shown.to_mut().replace_range(secret, &stars);
    }
    shown
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '-' || c == '_'
}

/// Where words end that end so.
fn ends_of<'a>(text: &'a str, what: &'a str) -> impl Iterator<Item = usize> + 'a {
    let ends = text.match_indices(what).map(|(at, _)| at + what.len());
    ends.filter(|&end| !text[end..].starts_with(is_part))
}

/// The word that ends here.
fn word(text: &str, end: usize) -> &str {
    text[..end].rsplit(|c| !is_part(c)).next().unwrap_or_default()
}

/// The values of all that is said under a name that ends here.
fn each(text: &str, end: usize) -> Vec<Range<usize>> {
    let mut values = Vec::new();
    // In JSON the name itself is in quotes.
    let mut at = end + usize::from(text[end..].starts_with(['"', '\'']));
    let end = end_of_table(text, end);
    // A value may go on beyond what looked like the end of the table.
    let next = |at: usize| text.get(at..end).and_then(|rest| rest.find(['=', ':', '"', '\'']));
    while let Some(found) = next(at) {
        at += found;
        if text[at..].starts_with(['=', ':']) {
            let value = whole_value(text, at + 1);
            // A table has its values further on.
            let is_one = value.start < end && !text[value.start..].starts_with('{');
            at += 1;
            if is_one && !value.is_empty() {
                // Past the quote that closes it.
                at = value.end + usize::from(text[value.end..].starts_with(['"', '\'']));
                values.push(value);
            }
        } else {
            // A name in quotes.
            let quote = &text[at..=at];
            at = text[at + 1..end].find(quote).map_or(end, |close| at + 1 + close + 1);
        }
    }
    values
}

/// Where what is said under a name that ends here is over: a table within a line, a line, a section, or as many lines as are
/// further in.
fn end_of_table(text: &str, end: usize) -> usize {
    let rest = text[end..].trim_start_matches(['"', '\'', ' ', '\t', '=', ':']);
    let start = text.len() - rest.len();
    let find = |from: usize, what: &str| text[from..].find(what).map_or(text.len(), |at| from + at);
    if rest.starts_with('{') {
        return find(start, "}");
    }
    if text[end..].starts_with(']') {
        return find(end, "\n[");
    }
    if !rest.starts_with(['\n', '\r']) {
        return find(end, "\n");
    }
    let inside = |line: &str| line.len() - line.trim_start().len();
    let own = inside(text[..end].rsplit('\n').next().unwrap_or_default());
    let mut over = find(end, "\n");
    for line in text[over..].split_inclusive('\n').skip(1) {
        if !line.trim().is_empty() && inside(line) <= own {
            break;
        }
        over += line.len();
    }
    over
}

/// As [`value`], with what comes after a space where nothing is quoted and there is no end of a table.
fn whole_value(text: &str, end: usize) -> Range<usize> {
    let found = value(text, end);
    if text[..found.start].ends_with(['"', '\'']) {
        return found;
    }
    let line = text[found.start..].find(['\n', ',', '}']).map_or(text.len(), |at| found.start + at);
    found.start..line
}

/// Where the value is of a name that ends here: in quotes without them, else up to what ends a word. It is on the same line.
fn value(text: &str, end: usize) -> Range<usize> {
    let line = text[end..].find('\n').map_or(text.len(), |at| end + at);
    let is_between = |c: char| c.is_whitespace() || matches!(c, '=' | ':');
    // In JSON the name itself is in quotes.
    let rest = text[end..line].strip_prefix(['"', '\'']).unwrap_or(&text[end..line]);
    let rest = rest.trim_start_matches(is_between);
    let start = line - rest.len();
    let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        let word = rest.find(|c: char| c.is_whitespace() || ",]}".contains(c));
        return start..word.map_or(line, |at| start + at);
    };
    let inside = start + quote.len_utf8();
    let mut is_escaped = false;
    let close = text[inside..line].char_indices().find(|(_, c)| {
        let closes = *c == quote && !is_escaped;
        is_escaped = *c == '\\' && quote == '"' && !is_escaped;
        closes
    });
    inside..close.map_or(line, |(at, _)| inside + at)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    #[test]
    fn values_of_secrets_are_out_of_sight_in_every_format_and_the_rest_stays_in_its_place() {
        for (text, shown) in [
            ("key = \"abc\", name = 'ci'", "key = \"***\", name = 'ci'"),
            ("{ key='a c' }", "{ key='***' }"),
            ("key = \"a\\\"b\" # and more", "key = \"****\" # and more"),
            ("- key: abc\n  name: ci", "- key: ***\n  name: ci"),
            ("[{key: abc, name: ci}]", "[{key: ***, name: ci}]"),
            ("{\"key\": \"abc\"}", "{\"key\": \"***\"}"),
            ("{:api-key \"abc\" :port 1}", "{:api-key \"***\" :port 1}"),
            ("{:api-key abc}", "{:api-key ***}"),
            ("key = 123\n", "key = ***\n"),
            ("key = \"cut off", "key = \"*******"),
            ("grüße, key = 'ä'", "grüße, key = '**'"),
            ("key = 'a'\nkey = 'b'", "key = '*'\nkey = '*'"),
            ("key", "key"),
            ("key =", "key ="),
            (
                "headers = { X-A = \"abc\", 'b:c' = 'd e' }, path = \"/\"",
                "headers = { X-A = \"***\", 'b:c' = '***' }, path = \"/\"",
            ),
            (
                "[settings.otlp.headers]\nx-a = \"b c\"\n\n[settings.log]\nlevel = \"info\"\n",
                "[settings.otlp.headers]\nx-a = \"***\"\n\n[settings.log]\nlevel = \"info\"\n",
            ),
            ("otlp.headers.x-a = \"b c\"\npath = 1", "otlp.headers.x-a = \"***\"\npath = 1"),
            (
                "otlp:\n  headers:\n    x-a: Bearer abc\n    b: \"c\"\n  interval: 1s\n",
                "otlp:\n  headers:\n    x-a: **********\n    b: \"*\"\n  interval: 1s\n",
            ),
            (
                "{\"headers\": {\"x-a\": \"abc\"}, \"path\": \"/\"}",
                "{\"headers\": {\"x-a\": \"***\"}, \"path\": \"/\"}",
            ),
        ] {
            assert_eq!(hidden(text), shown, "{text}");
            assert_eq!(hidden(text).len(), text.len());
        }
        for other in [
            "key-file = '/k'",
            "header-files = { a = '/k' }",
            "keys = ['a']",
            "monkey = 'a'",
            "my-key = 'a'",
            "key_2 = 'a'",
        ] {
            assert_eq!(hidden(other), other);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_as_long_as_before(
            parts in vec(select(vec![
                "headers", "key", "api-key", "=", ":", "{", "}", "[", "]", "\"", "'", "\\", "\n", "\r", " ", ",", ".", "a", "ä",
            ]), 0..30),
        ) {
            let text = parts.concat();
            prop_assert_eq!(hidden(&text).len(), text.len());
        }
    }
}
