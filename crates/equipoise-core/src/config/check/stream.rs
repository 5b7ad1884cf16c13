//! What connections that this host takes up itself ask of a service: names of servers that can be names, and packets that come to
//! this host and go on from it.
//!
//! Knows one service at a time.

use super::report::{At, Fields, Report, shown};
use super::route::Seen;
use super::service::Draft;
use crate::config::{Protocol, ProxyProtocol};
use crate::id::DEFAULT_ROUTE;

pub(super) const NAMES: &str =
    "a list of names of servers, such as [\"api.example.com\", \"*.example.com\"]";
const NAME: &str = "letters, digits, `-`, `.` and `_`, from a letter or digit to a letter or digit, such as \"api.example.com\"; or `*.` before such a name";
pub(super) const PROXY_PROTOCOLS: [(&str, ProxyProtocol); 1] = [("v2", ProxyProtocol::V2)];

/// The names of a route, in lower case.
pub(super) fn names(report: &mut Report<'_>, at: &At<'_>, seen: &mut Seen) -> Vec<String> {
    let items = report.list(at, NAMES).unwrap_or_default();
    if at.is_list() && items.is_empty() {
        report.problem(&at.place, "there is no name".to_owned(), "at least one name");
    }
    let mut names = Vec::new();
    for (position, at) in items.iter().enumerate() {
        let Some(text) = report.text(at, NAME) else { continue };
        let name = text.to_ascii_lowercase();
        if let Err(why) = is_name(&name) {
            report.problem(&at.place, format!("{} {why}", shown(text)), NAME);
        } else if let Some(first) = seen.servers.get(&name) {
            let message = format!("`{name}` has a route already, on line {}", report.line(first));
            report.problem(&at.place, message, "each name once in a service");
        } else {
            // A route is called by its first name, as others are by their first source.
            if position == 0 {
                is_called(report, at, (&name, seen));
            }
            seen.servers.insert(name.clone(), at.place.clone());
            names.push(name);
        }
    }
    names
}

/// A route is to be found by what it is called: its first name or source.
pub(super) fn is_called(report: &mut Report<'_>, at: &At<'_>, (name, seen): (&str, &Seen)) {
    const ALLOWED: &str = "another name first";
    if let Some(other) = seen.called.get(name) {
        let line = report.line(other);
        let message = format!("the `source-route` of line {line} is called `{name}` as well");
        report.problem(&at.place, message, ALLOWED);
    } else if name == DEFAULT_ROUTE {
        let message = format!("`{name}` is what clients without a route have");
        report.problem(&at.place, message, ALLOWED);
    }
}

/// Whether a text in lower case can be the name of a server, or of all that end so; else what is wrong with it.
pub(in crate::config) fn is_name(text: &str) -> Result<(), &'static str> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_of_names = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let ends = [name.bytes().next(), name.bytes().next_back()];
    if name.contains('*') {
        Err("has a `*` elsewhere than in `*.` before a name")
    } else if !name.bytes().all(is_of_names) {
        Err("has signs that no name has")
    } else if !ends.iter().flatten().all(u8::is_ascii_alphanumeric) || name.is_empty() {
        Err("does not begin and end with a letter or digit")
    } else if name.len() > 253 {
        Err("is longer than 253 signs")
    } else if name.split('.').any(str::is_empty) {
        Err("has two points with nothing between them")
    } else if name.split('.').any(|label| label.len() > 63) {
        Err("has a part of more than 63 signs")
    } else {
        Ok(())
    }
}

/// Connections are taken up here only where packets come here and replies come back, and there are none in UDP.
pub(super) fn check(report: &mut Report<'_>, fields: &Fields<'_>, draft: &Draft) {
    let Some(key) = draft.streams() else { return };
    let is_udp = draft.listen.as_ref().is_some_and(|l| l.protocol == Some(Protocol::Udp));
    let listen = fields.get("listen").filter(|at| is_udp && at.is_table());
    let listen = listen.and_then(|at| report.table(&at, String::new));
    if let Some(at) = listen.and_then(|listen| listen.get("protocol")) {
        let message = format!("`{key}` is of TCP connections, and `udp` has none");
        report.problem(&at.place, message, format!("`tcp` or `both`, or no `{key}`"));
    }
    let mode = draft.delivery.mode;
    if let Some(at) = fields.get("mode").filter(|_| mode.keeps_packets()) {
        let message = format!(
            "with `{key}` this host takes up connections itself, and in mode `{mode}` they are the backends'"
        );
        report.problem(&at.place, message, format!("`nat` or `full-nat`, or no `{key}`"));
    }
}
