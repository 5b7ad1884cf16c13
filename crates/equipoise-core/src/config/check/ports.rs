//! The ports of a listen: one, a list, a range, or all.

use std::collections::BTreeSet;

use super::report::{At, Report, shown};
use super::service::Reach;
use crate::config::Ports;

/// What ports can be.
pub(super) const ALLOWED: &str =
    "1 to 65535, a list of such, a range such as \"8000-8100\", or \"all\"";

/// Checks the ports of a service that is reached so.
pub(super) fn ports(report: &mut Report<'_>, at: &At<'_>, reach: &Reach) -> Option<Ports> {
    if at.is_list() {
        return list(report, at);
    }
    if !at.is_text() {
        return report.number(at, &(1..=u16::MAX)).map(Ports::one);
    }
    let text = report.text(at, ALLOWED)?;
    let Ok(ports) = text.parse() else {
        report.problem(&at.place, format!("{} is no range of ports", shown(text)), ALLOWED);
        return None;
    };
    if ports == Ports::All && matches!(reach, Reach::Own) {
        let message =
            "all ports of the interfaces' own addresses would leave none to this host".to_owned();
        report.problem(&at.place, message, "`address` in `listen`, or a range of ports");
        return None;
    }
    Some(ports)
}

/// Each port once.
fn list(report: &mut Report<'_>, at: &At<'_>) -> Option<Ports> {
    let items = report.list(at, ALLOWED)?;
    if items.is_empty() {
        report.problem(&at.place, "there is no port".to_owned(), "at least one port");
        return None;
    }
    let mut ports = Vec::with_capacity(items.len());
    let mut seen = BTreeSet::new();
    let mut is_right = true;
    for at in &items {
        match report.number(at, &(1..=u16::MAX)) {
            None => is_right = false,
            Some(port) if seen.insert(port) => ports.push(port),
            Some(port) => {
                let message = format!("port {port} is here a second time");
                report.problem(&at.place, message, "each port once");
            }
        }
    }
    // What is left of a list that is partly wrong would not say what it clashes with.
    is_right.then_some(Ports::List(ports))
}
