//! The routes of a service by source, each right in itself, and no two for the same prefix.
//!
//! Knows one service at a time.

use std::collections::BTreeMap;

use equipoise_common::limit;

use super::affinity::{self, Choosing};
use super::health::{self, CheckDraft};
use super::keys;
use super::prefixes::{self, Item, TOLD};
use super::report::{At, Place, Report, shown};
use super::service::{BackendDraft, backend_drafts, finished};
use crate::config::{List, Prefix, Route};

const SOURCE: &str = "a prefix such as \"192.168.0.0/16\", an address, a file such as \"@/etc/equipoise/office.txt\", or a list of them";

/// A route as far as it is right.
pub(super) struct RouteDraft {
    pub(super) place: Place,
    pub(super) source: List,
    choosing: Choosing,
    pub(super) backends: Vec<BackendDraft>,
}

impl RouteDraft {
    /// The route.
    pub(super) fn finish(self) -> Route {
        Route {
            source: self.source,
            algorithm: self.choosing.algorithm,
            affinity: self.choosing.affinity,
            affinity_prefix: self.choosing.affinity_prefix,
            backends: finished(self.backends),
        }
    }
}

/// Checks the routes of a service; what they do not say of choosing is as it is `above`.
pub(super) fn all(
    report: &mut Report<'_>,
    at: &At<'_>,
    above: (Choosing, &CheckDraft),
) -> Vec<RouteDraft> {
    const ALLOWED: &str =
        "a list of tables: in TOML, `[[service.source-route]]` above each, below its service";
    let items = report.list(at, ALLOWED).unwrap_or_default();
    const MOST: usize = limit::SOURCE_ROUTES as usize;
    let before = report.routes;
    report.routes += items.len();
    if before <= MOST && report.routes > MOST {
        let message = format!("with these {} routes there are too many", items.len());
        report.problem(&at.place, message, format!("at most {MOST} in all services together"));
    }
    let mut seen = BTreeMap::new();
    items.iter().filter_map(|at| route(report, at, above, &mut seen)).collect()
}

fn route(
    report: &mut Report<'_>,
    at: &At<'_>,
    (choosing, above_check): (Choosing, &CheckDraft),
    seen: &mut BTreeMap<Prefix, Place>,
) -> Option<RouteDraft> {
    let fields = report.fields(at, &keys::SOURCE_ROUTE)?;
    let source = report.need(&fields, "source", SOURCE);
    let source = source.map(|at| source_list(report, &at, seen)).unwrap_or_default();
    let check = fields.get("health-check").map(|at| health::check(report, &at, above_check));
    let check = check.as_ref().unwrap_or(above_check);
    let list = report.need(&fields, "backends", "at least one backend");
    let backends = list.map(|at| backend_drafts(report, &at, check)).unwrap_or_default();
    let choosing = affinity::choosing(report, &fields, choosing);
    Some(RouteDraft { place: at.place.clone(), source, choosing, backends })
}

/// The sources of a route: one, or a list.
fn source_list(report: &mut Report<'_>, at: &At<'_>, seen: &mut BTreeMap<Prefix, Place>) -> List {
    let items =
        if at.is_text() { vec![at.clone()] } else { report.list(at, SOURCE).unwrap_or_default() };
    let problems = report.problems.len();
    let (mut written, mut found) = (Vec::new(), Vec::new());
    for at in &items {
        if is_host_name(report, at) {
            continue;
        }
        let Some(Item { place, text, prefixes }) = prefixes::item(report, at) else { continue };
        written.push(text);
        let mut again = 0;
        for prefix in prefixes {
            if let Some(first) = seen.get(&prefix) {
                again += 1;
                if again <= TOLD {
                    let line = report.line(first);
                    let message = format!("`{prefix}` has a route already, on line {line}");
                    report.problem(&place, message, "each prefix once in a service");
                }
                continue;
            }
            seen.insert(prefix, place.clone());
            found.push(prefix);
        }
        if again > TOLD {
            let message = format!("{} more prefixes have a route already", again - TOLD);
            report.problem(&place, message, "each prefix once in a service");
        }
    }
    let is_wrong = report.problems.len() > problems || !(at.is_list() || at.is_text());
    if found.is_empty() && !is_wrong {
        let message = "nothing here is a prefix".to_owned();
        report.problem(&at.place, message, "at least one prefix");
    }
    count(report, at, found.len());
    found.sort_unstable();
    List { written, prefixes: found.into() }
}

fn count(report: &mut Report<'_>, at: &At<'_>, prefixes: usize) {
    const MOST: usize = limit::CONFIGURED_ROUTES as usize;
    let before = report.routed;
    report.routed += prefixes;
    if before <= MOST && report.routed > MOST {
        let message = match prefixes {
            1 => "with this one there are too many".to_owned(),
            more => format!("with these {more} prefixes there are too many"),
        };
        report.problem(&at.place, message, format!("at most {MOST} in all routes together"));
    }
}

/// Reports a source that is a name, whose addresses nobody looks up.
fn is_host_name(report: &mut Report<'_>, at: &At<'_>) -> bool {
    if !at.is_text() {
        return false;
    }
    let Some(text) = report.text(at, SOURCE) else { return false };
    let is_of_names = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_name = text.bytes().all(is_of_names) && text.bytes().any(|b| b.is_ascii_alphabetic());
    if is_name {
        let message =
            format!("{} is a host name, and names of sources are not looked up", shown(text));
        report.problem(&at.place, message, SOURCE);
    }
    is_name
}
