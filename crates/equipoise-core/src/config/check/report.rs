//! Walking the tree, and gathering what is wrong on the way.
//!
//! An [`At`] is a value with its path and the place to point at; [`Report`] takes values out of it
//! as what they should be, and notes those that are not. Knows the names of the keys of each table
//! ([`Keys`]), not what they mean.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};

use super::health::CheckDraft;
use super::nearest::nearest;
use crate::config::breaker::Thresholds;
use crate::config::file::{Entry, Node, Value};
use crate::config::path;
use crate::config::problem::Problem;
use crate::config::{Limits, ReadFile};

/// A key path and the part of the text to point at when it is spoken of.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: String,
    pub(super) span: Range<usize>,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<'a> {
    pub(super) place: Place,
    node: &'a Node,
}

impl<'a> At<'a> {
    pub(super) fn root(node: &'a Node) -> Self {
        Self { place: Place { key: String::new(), span: node.span.start..node.span.start }, node }
    }

    pub(super) fn is_table(&self) -> bool {
        matches!(self.node.value, Value::Table(_))
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    pub(super) fn is_text(&self) -> bool {
        matches!(self.node.value, Value::Text(_))
    }

    fn entry(&self, entry: &'a Entry) -> Self {
        let key = path::field(&self.place.key, &entry.name);
        Self { place: Place { key, span: pointed_at(entry).clone() }, node: &entry.node }
    }

    fn item(&self, index: usize, node: &'a Node) -> Self {
        let key = path::item(&self.place.key, index);
        Self { place: Place { key, span: node.span.clone() }, node }
    }
}

/// The places of a tree: all key paths and the part of the text of each.
pub(super) fn places(root: &Node) -> BTreeMap<String, Range<usize>> {
    let mut places = BTreeMap::new();
    add_places(root, &mut String::new(), &mut places);
    places
}

fn add_places(node: &Node, key: &mut String, places: &mut BTreeMap<String, Range<usize>>) {
    let length = key.len();
    match &node.value {
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                path::push_item(key, index);
                places.insert(key.clone(), item.span.clone());
                add_places(item, key, places);
                key.truncate(length);
            }
        }
        Value::Table(entries) => {
            for entry in entries {
                path::push_field(key, &entry.name);
                places.insert(key.clone(), pointed_at(entry).clone());
                add_places(&entry.node, key, places);
                key.truncate(length);
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Float
        | Value::Date
        | Value::Text(_) => {}
    }
}

/// A scalar is pointed at itself; a list or table, which may be long, by its name.
fn pointed_at(entry: &Entry) -> &Range<usize> {
    match entry.node.value {
        Value::List(_) | Value::Table(_) => &entry.name_span,
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Float
        | Value::Date
        | Value::Text(_) => &entry.node.span,
    }
}

/// The keys of a table.
pub(super) struct Keys {
    /// Where the table stands, in words for those who look for it.
    home: &'static str,
    names: &'static [&'static str],
}

impl Keys {
    pub(super) const FILE: Self = Self { home: "the file itself", names: &["service", "settings"] };
    pub(super) const SERVICE: Self = Self {
        home: "`service`",
        names: &[
            "affinity",
            "affinity-prefix",
            "algorithm",
            "backends",
            "breaker",
            "fragments",
            "health-check",
            "limits",
            "listen",
            "manage-address",
            "max-flows",
            "mode",
            "mss-clamp",
            "name",
            "on-backend-down",
            "on-backend-removed",
            "on-empty",
            "on-full",
            "on-unknown",
            "panic",
            "recovery",
            "snat-addresses",
            "source-route",
            "timeouts",
        ],
    };
    pub(super) const SOURCE_ROUTE: Self = Self {
        home: "an entry of `source-route`",
        names: &["affinity", "affinity-prefix", "algorithm", "backends", "health-check", "source"],
    };
    pub(super) const LISTEN: Self =
        Self { home: "`listen`", names: &["address", "interfaces", "port", "protocol"] };
    pub(super) const BACKEND: Self = Self {
        home: "an entry of `backends`",
        names: &[
            "address",
            "backup",
            "health-check",
            "host",
            "max-flows",
            "port",
            "refresh",
            "srv",
            "weight",
        ],
    };
    pub(super) const HEALTH_CHECK: Self = Self {
        home: "`health-check`",
        names: &[
            "ca-file",
            "client-certificate",
            "client-key",
            "command",
            "expect",
            "expected-body",
            "expected-codes",
            "expected-rcode",
            "fast-interval",
            "follow-redirects",
            "grpc-service",
            "headers",
            "healthy-threshold",
            "host",
            "insecure",
            "interval",
            "method",
            "path",
            "port",
            "query",
            "query-type",
            "send",
            "server-name",
            "timeout",
            "tls",
            "type",
            "unhealthy-threshold",
        ],
    };
    pub(super) const BREAKER: Self = Self {
        home: "`breaker`",
        names: &[
            "error-threshold",
            "half-open-successes",
            "max-ejected",
            "min-requests",
            "open-for",
            "window",
        ],
    };
    pub(super) const DRAIN: Self = Self { home: "`drain`", names: &["on-timeout", "timeout"] };
    pub(super) const DNS: Self = Self {
        home: "`dns`",
        names: &["max-shrink", "max-ttl", "min-ttl", "on-first-failure", "resolvers"],
    };
    pub(super) const RECOVERY: Self = Self { home: "`recovery`", names: &["mode", "slow-start"] };
    pub(super) const PANIC: Self =
        Self { home: "`panic`", names: &["fallback-backends", "policy", "threshold"] };
    pub(super) const SETTINGS: Self = Self {
        home: "`settings`",
        names: &[
            "attach",
            "backend-interfaces",
            "breaker",
            "dns",
            "drain",
            "events",
            "exec-checks",
            "health-check",
            "least-connections",
            "limits",
            "max-flows",
            "on-exit",
        ],
    };
    pub(super) const AFFINITY_PREFIX: Self =
        Self { home: "`affinity-prefix`", names: &["v4", "v6"] };
    pub(super) const LEAST_CONNECTIONS: Self =
        Self { home: "`least-connections`", names: &["update-interval", "weighted"] };
    pub(super) const TIMEOUTS: Self = Self {
        home: "`timeouts`",
        names: &[
            "reset-on-expiry",
            "tcp-closing",
            "tcp-established",
            "tcp-opening",
            "udp-one-way",
            "udp-two-way",
        ],
    };
    pub(super) const LIMITS: Self =
        Self { home: "`limits`", names: &["allow", "deny", "per-backend", "per-source"] };
    pub(super) const PER_SOURCE: Self =
        Self { home: "`per-source`", names: &["burst", "prefix", "rate"] };
    pub(super) const PER_BACKEND: Self = Self { home: "`per-backend`", names: &["burst", "rate"] };
    pub(super) const SOURCE_PREFIX: Self = Self { home: "`prefix`", names: &["v4", "v6"] };
    const ALL: [Self; 19] = [
        Self::DNS,
        Self::FILE,
        Self::SERVICE,
        Self::SOURCE_ROUTE,
        Self::AFFINITY_PREFIX,
        Self::LEAST_CONNECTIONS,
        Self::TIMEOUTS,
        Self::LIMITS,
        Self::PER_SOURCE,
        Self::PER_BACKEND,
        Self::SOURCE_PREFIX,
        Self::LISTEN,
        Self::BACKEND,
        Self::HEALTH_CHECK,
        Self::RECOVERY,
        Self::PANIC,
        Self::BREAKER,
        Self::DRAIN,
        Self::SETTINGS,
    ];

    /// What to say about a name that is not one of these.
    fn instead_of(&self, name: &str) -> String {
        let known = quoted(self.names.iter().copied());
        if let Some(nearest) = nearest(name, self.names) {
            return format!("`{nearest}` is the nearest; the keys here are {known}");
        }
        let homes: Vec<_> = Self::ALL
            .iter()
            .filter(|keys| keys.names.contains(&name))
            .map(|keys| keys.home)
            .collect();
        if !homes.is_empty() {
            return format!("`{name}` in {}; the keys here are {known}", homes.join(" and in "));
        }
        format!("the keys here are {known}")
    }
}

/// The entries of a table whose names are known.
pub(super) struct Fields<'a> {
    table: At<'a>,
    entries: &'a [Entry],
}

impl<'a> Fields<'a> {
    pub(super) fn get(&self, name: &str) -> Option<At<'a>> {
        let entry = self.entries.iter().find(|entry| entry.name == name)?;
        Some(self.table.entry(entry))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&'a str, At<'a>)> {
        self.entries.iter().map(|entry| (entry.name.as_str(), self.table.entry(entry)))
    }
}

/// What was found so far.
pub(super) struct Report<'t> {
    pub(super) problems: Vec<Problem>,
    pub(super) notes: Vec<Problem>,
    /// Reads the files that the text names.
    pub(super) files: &'t ReadFile<'t>,
    /// The limits that hold for services that say nothing else.
    pub(super) common_limits: Limits,
    /// The health check of services that say nothing else.
    pub(super) common_check: CheckDraft,
    /// When the settings have backends taken out for their failures, where they do.
    pub(super) common_breaker: Option<Thresholds>,
    /// Whether commands are run as health checks.
    pub(super) exec_checks: bool,
    /// Prefixes of all lists so far.
    pub(super) listed: usize,
    /// Routes by source so far.
    pub(super) routes: usize,
    /// Prefixes of all those routes.
    pub(super) routed: usize,
    text: &'t str,
    line_starts: Vec<usize>,
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str, files: &'t ReadFile<'t>) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        let line_starts = std::iter::once(0).chain(breaks).collect();
        Self {
            problems: Vec::new(),
            notes: Vec::new(),
            files,
            common_limits: Limits::default(),
            common_check: CheckDraft::default(),
            common_breaker: None,
            exec_checks: false,
            listed: 0,
            routes: 0,
            routed: 0,
            text,
            line_starts,
        }
    }

    pub(super) fn problem(&mut self, place: &Place, message: String, allowed: impl Into<String>) {
        self.problems.push(found(place, message, allowed));
    }

    /// A problem that many values may have by what is around them: told once.
    pub(super) fn once(&mut self, place: &Place, message: &str, allowed: &str) {
        let is_told = |told: &Problem| told.key == place.key && told.message == message;
        if !self.problems.iter().any(is_told) {
            self.problem(place, message.to_owned(), allowed);
        }
    }

    pub(super) fn note(&mut self, place: &Place, message: String, allowed: impl Into<String>) {
        self.notes.push(found(place, message, allowed));
    }

    /// The line of a place, to speak of it in a message about another.
    pub(super) fn line(&self, place: &Place) -> usize {
        self.line_starts.partition_point(|start| *start <= place.span.start)
    }

    /// The fields of a table; names that are not known are reported.
    pub(super) fn fields<'a>(&mut self, at: &At<'a>, keys: &Keys) -> Option<Fields<'a>> {
        let known = || format!("the keys here are {}", quoted(keys.names.iter().copied()));
        let fields = self.table(at, known)?;
        for entry in fields.entries {
            if keys.names.contains(&entry.name.as_str()) {
                continue;
            }
            let key = path::field(&at.place.key, &entry.name);
            let place = Place { key, span: entry.name_span.clone() };
            let message = format!("unknown key {}", shown(&entry.name));
            self.problem(&place, message, keys.instead_of(&entry.name));
        }
        Some(fields)
    }

    /// The fields of a table whose names are the user's.
    pub(super) fn table<'a>(
        &mut self,
        at: &At<'a>,
        allowed: impl FnOnce() -> String,
    ) -> Option<Fields<'a>> {
        let Value::Table(entries) = &at.node.value else {
            self.wrong_kind(at, "a table", allowed());
            return None;
        };
        Some(Fields { table: at.clone(), entries })
    }

    /// A field that has to be there.
    pub(super) fn need<'a>(&mut self, of: &Fields<'a>, name: &str, what: &str) -> Option<At<'a>> {
        if let Some(at) = of.get(name) {
            return Some(at);
        }
        let Place { key, span } = &of.table.place;
        let place = Place { key: path::field(key, name), span: span.clone() };
        self.problem(&place, format!("`{name}` is missing"), what);
        None
    }

    pub(super) fn list<'a>(&mut self, at: &At<'a>, allowed: &str) -> Option<Vec<At<'a>>> {
        let Value::List(items) = &at.node.value else {
            self.wrong_kind(at, "a list", allowed);
            return None;
        };
        Some(items.iter().enumerate().map(|(index, node)| at.item(index, node)).collect())
    }

    pub(super) fn text<'a>(&mut self, at: &At<'a>, allowed: &str) -> Option<&'a str> {
        let Value::Text(text) = &at.node.value else {
            self.wrong_kind(at, "text", allowed);
            return None;
        };
        Some(text)
    }

    pub(super) fn boolean(&mut self, at: &At<'_>) -> Option<bool> {
        let Value::Bool(value) = at.node.value else {
            self.wrong_kind(at, "a boolean", "`true` or `false`");
            return None;
        };
        Some(value)
    }

    /// A whole number within a range.
    pub(super) fn number<T>(&mut self, at: &At<'_>, range: &RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i128> + PartialOrd + Display,
    {
        let allowed = || format!("{} to {}", range.start(), range.end());
        let Value::Int(value) = at.node.value else {
            self.wrong_kind(at, "a whole number", allowed());
            return None;
        };
        let within = T::try_from(value).ok().filter(|value| range.contains(value));
        if within.is_none() {
            let message = format!("{} is out of range", shown(self.raw(at)));
            self.problem(&at.place, message, allowed());
        }
        within
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, at: &At<'_>, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        let text = self.text(at, &either(&words))?;
        let choice = choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
        if choice.is_none() {
            let nearest = nearest(text, &words).map(|word| format!("; `{word}` is the nearest"));
            let allowed = either(&words) + &nearest.unwrap_or_default();
            self.problem(&at.place, format!("{} is not known", shown(text)), allowed);
        }
        choice
    }

    /// The text of a value, as it stands in the file.
    fn raw(&self, at: &At<'_>) -> &'t str {
        self.text.get(at.node.span.clone()).unwrap_or_default()
    }

    fn wrong_kind(&mut self, at: &At<'_>, wanted: &str, allowed: impl Into<String>) {
        let message = match &at.node.value {
            // Under a TOML header, or at the top of the file, the text of a table says little.
            Value::Table(_) => format!("a table where {wanted} belongs"),
            Value::Null => format!("null where {wanted} belongs"),
            value => {
                format!("{} is {} where {wanted} belongs", shown(self.raw(at)), value.kind())
            }
        };
        self.problem(&at.place, message, allowed);
    }
}

/// Words of a message in quotes: `` `a`, `b` ``.
fn quoted<'s>(words: impl Iterator<Item = &'s str>) -> String {
    words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn either(words: &[&str]) -> String {
    match words {
        [most @ .., last] if !most.is_empty() => {
            format!("{} or `{last}`", quoted(most.iter().copied()))
        }
        few => quoted(few.iter().copied()),
    }
}

/// A text of the user's in a message.
pub(super) fn shown(text: &str) -> String {
    if text.is_empty() { "an empty text".to_owned() } else { format!("`{}`", clipped(text)) }
}

/// The start of a text that may be long or of several lines.
pub(super) fn clipped(text: &str) -> String {
    const MOST: usize = 60;
    let line = text.lines().next().unwrap_or_default();
    let mut short: String = line.chars().take(MOST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn found(place: &Place, message: String, allowed: impl Into<String>) -> Problem {
    Problem::new(&place.key, Some(place.span.clone()), message).allowing(allowed)
}
