//! Secrets out of sight, where parts of a configuration are shown to people.
//!
//! Goes by how the text looks and not by what it means, so that they are out of sight also where the text cannot be read, and also beside what
//! is spoken of. What looks like one and is none is not shown either.

use std::borrow::Cow;

/// Names of keys whose values are secrets, in any format.
const NAMES: [&str; 2] = ["api-key", "key"];
/// What stands for each byte of a secret, so that everything else stays in its place.
const HIDDEN: &str = "*";

/// The text, as long as before, without the values of keys that hold secrets.
pub(super) fn hidden(text: &str) -> Cow<'_, str> {
    let mut shown = Cow::Borrowed(text);
    let mut from = 0;
    while let Some(found) = text[from..].find("key") {
        let (start, end) = (from + found, from + found + "key".len());
        from = end;
        if !is_name(text, start, end) {
            continue;
        }
        let secret = value(text, end);
        from = secret.end.max(end);
        if !secret.is_empty() {
            shown.to_mut().replace_range(secret.clone(), &HIDDEN.repeat(secret.len()));
        }
    }
    shown
}

/// Whether one of the names ends here, and nothing else does.
fn is_name(text: &str, start: usize, end: usize) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    let word = text[..start]
        .rfind(|c| !is_part(c))
        .map_or(0, |at| at + text[at..].chars().next().map_or(0, char::len_utf8));
    NAMES.contains(&&text[word..end]) && !text[end..].starts_with(is_part)
}

/// Where the value is of a name that ends here: in quotes without them, else up to what ends a word. It is on the same line.
fn value(text: &str, end: usize) -> std::ops::Range<usize> {
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
        ] {
            assert_eq!(hidden(text), shown, "{text}");
            assert_eq!(hidden(text).len(), text.len());
        }
        for other in
            ["key-file = '/k'", "keys = ['a']", "monkey = 'a'", "my-key = 'a'", "key_2 = 'a'"]
        {
            assert_eq!(hidden(other), other);
        }
    }
}
