//! The routes of a service, by source and by the name of a server: each right in itself, and no two for the same prefix or name.
//!
//! Knows one service at a time.

use std::collections::BTreeMap;

use equipoise_common::limit;

use super::affinity::{self, Choosing, Handed};
use super::health::{self, CheckDraft};
use super::panic::{self, PanicDraft};
use super::prefixes::{self, Item, TOLD};
use super::report::{At, Fields, Place, Report};
use super::service::{Backends, backend_drafts};
use super::{breaker, keys, named, stream};
use crate::config::breaker::Thresholds;
use crate::config::health::{Panic, Recovery};
use crate::config::{List, Name, Prefix, Route};

const SOURCE: &str = "a prefix such as \"192.168.0.0/16\", an address, the name of a host, a file such as \"@/etc/equipoise/office.txt\", or a list of them";

/// A route as far as it is right.
pub(super) struct RouteDraft {
    pub(super) place: Place,
    pub(super) head: Head,
    choosing: Choosing,
    /// What it has of its service.
    pub(super) handed: Handed,
    pub(super) backends: Backends,
    recovery: Recovery,
    pub(super) panic: Panic,
    breaker: Option<Thresholds>,
}

/// Which clients a route is for.
pub(super) enum Head {
    /// Those of these sources; and names whose addresses are among them.
    Sources(List, Vec<Name>),
    /// Those that name one of these servers.
    Names(Vec<String>),
}

/// By what the routes of a list are told from each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// By where clients are.
    Source,
    /// By the server that they name.
    Name,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Source, Self::Name];

    /// The key of their list.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Source => "source-route",
            Self::Name => "name-route",
        }
    }
}

/// What a service says for routes that say nothing else.
#[derive(Clone, Copy)]
pub(super) struct Above<'a> {
    pub(super) choosing: Choosing,
    pub(super) check: &'a CheckDraft,
    pub(super) recovery: Recovery,
    pub(super) panic: &'a PanicDraft,
    pub(super) breaker: Option<Thresholds>,
}

impl RouteDraft {
    pub(super) fn is_by_name(&self) -> bool {
        matches!(self.head, Head::Names(_))
    }

    /// The route.
    pub(super) fn finish(self) -> Route {
        let (backends, named) = self.backends.finish();
        let (source, source_names, names) = match self.head {
            Head::Sources(source, names) => (source, names, Vec::new()),
            Head::Names(names) => (List::default(), Vec::new(), names),
        };
        Route {
            source,
            names,
            source_names,
            algorithm: self.choosing.algorithm,
            affinity: self.choosing.affinity,
            affinity_prefix: self.choosing.affinity_prefix,
            backends,
            named,
            recovery: self.recovery,
            panic: self.panic,
            breaker: self.breaker,
        }
    }
}

/// Checks the routes of a service; what they do not say is as it is `above`.
pub(super) fn all(
    report: &mut Report<'_>,
    fields: &Fields<'_>,
    above: Above<'_>,
) -> Vec<RouteDraft> {
    let mut seen = Seen::default();
    let mut routes = Vec::new();
    for kind in Kind::ALL {
        let Some(at) = fields.get(kind.key()) else { continue };
        let items = items(report, &at, kind);
        routes.extend(items.iter().filter_map(|at| route(report, (at, kind), above, &mut seen)));
    }
    routes
}

/// The routes of a list, counted.
fn items<'a>(report: &mut Report<'_>, at: &At<'a>, kind: Kind) -> Vec<At<'a>> {
    const MOST: usize = limit::SOURCE_ROUTES as usize;
    let header = kind.key();
    let allowed =
        format!("a list of tables: in TOML, `[[service.{header}]]` above each, below its service");
    let items = report.list(at, &allowed).unwrap_or_default();
    let before = report.routes;
    report.routes += items.len();
    if before <= MOST && report.routes > MOST {
        let message = format!("with these {} routes there are too many", items.len());
        report.problem(&at.place, message, format!("at most {MOST} in all services together"));
    }
    items
}

/// What has a route already, and where.
#[derive(Default)]
pub(super) struct Seen {
    prefixes: BTreeMap<Prefix, Place>,
    hosts: BTreeMap<Name, Place>,
    /// Names of servers.
    pub(super) servers: BTreeMap<String, Place>,
    /// What routes by source are called.
    pub(super) called: BTreeMap<String, Place>,
}

fn route(
    report: &mut Report<'_>,
    (at, kind): (&At<'_>, Kind),
    above: Above<'_>,
    seen: &mut Seen,
) -> Option<RouteDraft> {
    let (fields, head) = match kind {
        Kind::Source => {
            let fields = report.fields(at, &keys::SOURCE_ROUTE)?;
            let source = report.need(&fields, "source", SOURCE);
            let source = source.map(|at| source_list(report, &at, seen));
            let (source, names) = source.unwrap_or_default();
            if let Some(first) = source.written.first() {
                seen.called.entry(first.clone()).or_insert_with(|| at.place.clone());
            }
            (fields, Head::Sources(source, names))
        }
        Kind::Name => {
            let fields = report.fields(at, &keys::NAME_ROUTE)?;
            let names = report.need(&fields, "names", stream::NAMES);
            let names = names.map(|at| stream::names(report, &at, seen)).unwrap_or_default();
            (fields, Head::Names(names))
        }
    };
    let check = fields.get("health-check").map(|at| health::check(report, &at, above.check));
    let check = check.as_ref().unwrap_or(above.check);
    let list = report.need(&fields, "backends", "at least one backend");
    let mut backends = list.map(|at| backend_drafts(report, &at, check)).unwrap_or_default();
    let choosing = affinity::choosing(report, &fields, above.choosing);
    affinity::note_unused(report, &fields, choosing.affinity, &[]);
    let handed = Handed::to(&fields, choosing.affinity);
    let recovery = panic::recovery(report, &fields, above.recovery);
    let panic = panic::panic(report, &fields, (check, above.panic));
    panic.note_idle(report);
    let panic = panic.finish(report, &mut backends);
    let breaker = breaker::of_pool(report, &fields, above.breaker);
    let place = at.place.clone();
    Some(RouteDraft { place, head, choosing, handed, backends, recovery, panic, breaker })
}

/// The sources of a route: one, or a list.
fn source_list(report: &mut Report<'_>, at: &At<'_>, seen: &mut Seen) -> (List, Vec<Name>) {
    let items =
        if at.is_text() { vec![at.clone()] } else { report.list(at, SOURCE).unwrap_or_default() };
    let problems = report.problems.len();
    let (mut written, mut found, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for at in &items {
        if let Some(name) = host_name(report, at) {
            written.push(name.text().to_owned());
            if let Some(first) = seen.hosts.get(&name) {
                let message =
                    format!("`{name}` has a route already, on line {}", report.line(first));
                report.problem(&at.place, message, "each name once in a service");
                continue;
            }
            seen.hosts.insert(name.clone(), at.place.clone());
            names.push(name);
            continue;
        }
        let Some(Item { place, text, prefixes }) = prefixes::item(report, at) else { continue };
        written.push(text);
        let mut again = 0;
        for prefix in prefixes {
            if let Some(first) = seen.prefixes.get(&prefix) {
                again += 1;
                if again <= TOLD {
                    let line = report.line(first);
                    let message = format!("`{prefix}` has a route already, on line {line}");
                    report.problem(&place, message, "each prefix once in a service");
                }
                continue;
            }
            seen.prefixes.insert(prefix, place.clone());
            found.push(prefix);
        }
        if again > TOLD {
            let message = format!("{} more prefixes have a route already", again - TOLD);
            report.problem(&place, message, "each prefix once in a service");
        }
    }
    let is_wrong = report.problems.len() > problems || !(at.is_list() || at.is_text());
    if found.is_empty() && names.is_empty() && !is_wrong {
        let message = "nothing here is a prefix".to_owned();
        report.problem(&at.place, message, "at least one prefix");
    }
    // What is wrong already is told by itself.
    if let (false, Some(at), Some(first)) = (is_wrong, items.first(), written.first()) {
        stream::is_called(report, at, (first, seen));
    }
    count(report, at, found.len());
    found.sort_unstable();
    (List { written, prefixes: found.into() }, names)
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

/// The name that a source is, if it is one.
fn host_name(report: &mut Report<'_>, at: &At<'_>) -> Option<Name> {
    if !at.is_text() {
        return None;
    }
    let text = report.text(at, SOURCE)?;
    named::is_host(text).then(|| Name::Host(text.to_ascii_lowercase().into()))
}
