//! Environment variables in texts: `${NAME}`, `${NAME:-default}`, and `$${` for what is none.
//!
//! Every text of a tree is looked through; what a variable says is text, whatever it looks like. A text that is one variable and
//! nothing else may stand for a number or a boolean, and is marked so. Knows no key, and asks nobody but its caller for values.

use super::file::{Node, Value};
use super::path;
use super::problem::Problem;

/// The value of an environment variable, if it is set.
pub type Variables<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Puts values in the place of variables; those that have none are faults.
///
/// `key` is the path of the tree itself.
pub(super) fn expand(
    root: &mut Node,
    key: &str,
    variables: &Variables<'_>,
    faults: &mut Vec<Problem>,
) {
    visit(root, &mut key.to_owned(), &mut |node, key| {
        let Value::Text(text) = &node.value else { return };
        if !text.contains('$') {
            return;
        }
        match expanded(text, variables) {
            Ok(Expanded { text, is_variable: true }) => node.value = Value::Given(text),
            Ok(Expanded { text, is_variable: false }) => node.value = Value::Text(text),
            Err((message, allowed)) => {
                faults.push(Problem::new(key, Some(node.span.clone()), message).allowing(allowed));
            }
        }
    });
}

/// A text as it is written where variables are known.
pub(super) fn escape(text: &str) -> String {
    text.replace("${", "$${")
}

struct Expanded {
    text: String,
    is_variable: bool,
}

/// A text with values; or why it has none, and what would be right.
fn expanded(text: &str, variables: &Variables<'_>) -> Result<Expanded, (String, String)> {
    let mut out = String::with_capacity(text.len());
    let mut is_variable = false;
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = from.strip_prefix("$${") {
            out.push_str("${");
            rest = after;
            continue;
        }
        let Some(inner) = from.strip_prefix("${") else {
            out.push('$');
            rest = &from[1..];
            continue;
        };
        let Some((inner, after)) = inner.split_once('}') else {
            let message = "a variable begins here with `${` and does not end".to_owned();
            return Err((message, "`${NAME}`, `${NAME:-text}`, or `$${` for `${`".to_owned()));
        };
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        out.push_str(&value(name, default, variables)?);
        is_variable = from.len() == text.len() && after.is_empty();
        rest = after;
    }
    out.push_str(rest);
    Ok(Expanded { text: out, is_variable })
}

fn value(
    name: &str,
    default: Option<&str>,
    variables: &Variables<'_>,
) -> Result<String, (String, String)> {
    let of_names = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_name = !name.is_empty()
        && name.bytes().all(of_names)
        && !name.starts_with(|first: char| first.is_ascii_digit());
    if !is_name {
        let message = format!("`{name}` is not the name of a variable");
        return Err((message, "letters, digits and `_`, or `$${` for `${`".to_owned()));
    }
    match (variables(name), default) {
        (Some(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => {
            let message = format!("the environment variable `{name}` is not set");
            Err((message, format!("a value for it, or `${{{name}:-text}}`")))
        }
    }
}

/// Shows every node of a tree, with its path.
fn visit(node: &mut Node, key: &mut String, show: &mut dyn FnMut(&mut Node, &str)) {
    show(node, key);
    let length = key.len();
    match &mut node.value {
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                path::push_item(key, index);
                visit(item, key, show);
                key.truncate(length);
            }
        }
        Value::Table(entries) => {
            for entry in entries {
                path::push_field(key, &entry.name);
                visit(&mut entry.node, key, show);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(name: &str) -> Option<String> {
        match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            "ODD" => Some("${A} }".to_owned()),
            _ => None,
        }
    }

    fn text(text: &str) -> String {
        expanded(text, &variables).map(|found| found.text).unwrap_or_else(|(why, _)| why)
    }

    #[test]
    fn variables_have_values_and_what_is_none_stays() {
        for (written, right) in [
            ("", ""),
            ("$", "$"),
            ("5 $ and $A", "5 $ and $A"),
            ("${A}", "one"),
            ("a${A}b${A}", "aoneboned".trim_end_matches('d')),
            ("$${A}", "${A}"),
            ("$$${A}", "$${A}"),
            ("$${A}${A}", "${A}one"),
            ("${EMPTY}", ""),
            ("${EMPTY:-x}", "x"),
            ("${B:-}", ""),
            ("${B:-a:-b $ {}", "a:-b $ {"),
            ("${ODD}", "${A} }"),
            ("${B}", "the environment variable `B` is not set"),
            ("${A", "a variable begins here with `${` and does not end"),
            ("${}", "`` is not the name of a variable"),
            ("${1A}", "`1A` is not the name of a variable"),
            ("${A-x}", "`A-x` is not the name of a variable"),
        ] {
            assert_eq!(text(written), right, "{written}");
        }
    }

    #[test]
    fn what_is_escaped_is_itself_again() {
        for plain in ["${A}", "$${A}", "a$${${", "$", "$$"] {
            assert_eq!(text(&escape(plain)), plain, "{plain}");
        }
    }

    #[test]
    fn only_a_text_that_is_one_variable_stands_for_other_values() {
        let is = |text: &str| expanded(text, &variables).is_ok_and(|found| found.is_variable);
        assert!(is("${A}") && is("${B:-80}"));
        for text in ["a", "${A}0", "0${A}", "${A}${A}", "$${A}", "${A} "] {
            assert!(!is(text), "{text}");
        }
    }
}
