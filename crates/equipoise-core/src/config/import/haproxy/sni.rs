//! Conditions of HAProxy on the server that a TLS connection names.

use super::super::{Notes, Route, Who};
use super::Line;
use crate::config::check::is_server_name;

/// `req.ssl_sni -i api.example.com`, and with `-m end .example.com` all names that end so. Here names are the same whatever their case.
pub(super) fn names(words: &[String]) -> Option<Vec<String>> {
    let (first, rest) = words.split_first()?;
    let fetch = first.strip_suffix(",lower").unwrap_or(first);
    if !matches!(fetch, "req.ssl_sni" | "req_ssl_sni") {
        return None;
    }
    let (mut is_end, mut rest) = (false, rest);
    loop {
        rest = match rest {
            [flag, more @ ..] if flag == "-i" => more,
            [flag, method, more @ ..] if flag == "-m" && matches!(&**method, "str" | "end") => {
                is_end = method == "end";
                more
            }
            [flag, more @ ..] if flag == "--" => {
                rest = more;
                break;
            }
            _ => break,
        };
    }
    let name = |text: &String| {
        let text = text.to_ascii_lowercase();
        // Of names that end otherwise than at a point there is no list.
        let name =
            if is_end { format!("*{}", Some(&text).filter(|t| t.starts_with('.'))?) } else { text };
        (is_server_name(&name).is_ok() && name.starts_with("*.") == is_end).then_some(name)
    };
    let names: Vec<_> = rest.iter().map(name).collect::<Option<_>>()?;
    (!names.is_empty()).then_some(names)
}

/// `req.ssl_hello_type 1`: that a name has come, which is waited for here too.
pub(super) fn is_hello(words: &[String]) -> bool {
    matches!(words, [fetch, kind] if matches!(&**fetch, "req.ssl_hello_type" | "req_ssl_hello_type") && kind == "1")
}

/// `tcp-request content accept if { req.ssl_hello_type 1 }`.
pub(super) fn waits(line: &Line) -> bool {
    match line.words.get(2..) {
        Some([accept, keyword, open, inner @ .., close]) => {
            (&**accept, &**keyword, &**open, &**close) == ("accept", "if", "{", "}")
                && is_hello(inner)
        }
        _ => false,
    }
}

/// Those of some names that no route has yet: the first one decides there, and here the one with the longest name.
pub(super) fn left(
    names: &[String],
    before: &[Route],
    (line, notes): (&Line, &mut Notes<'_>),
) -> Option<Vec<String>> {
    let taken = before.iter().flat_map(|route| match &route.who {
        Who::Names(names) => names.as_slice(),
        Who::Sources(_) => &[],
    });
    let mut taken: Vec<&str> = taken.map(String::as_str).collect();
    let mut left = Vec::new();
    for name in names {
        let is_in =
            |of: &&str| name == of || of.strip_prefix('*').is_some_and(|end| name.ends_with(end));
        if taken.iter().any(is_in) {
            notes.add(line.number, format!("`{name}` is led elsewhere already"));
        } else {
            left.push(name.clone());
            taken.push(name);
        }
    }
    (!left.is_empty()).then_some(left)
}
