//! All keys of a configuration: where each stands, what it takes, what holds without it, what it is for.
//!
//! The one list of them. The check takes its known names and nearest names from here, its tests go through every key; the
//! schema (`schema.rs`), `docs/config.md` and the order in which a configuration is written out come from it. Ranges and
//! words are those of the checks, by reference. Knows nothing of values.

mod admin;
mod health;
mod otlp;
mod policy;
mod service;
mod settings;

use std::ops::RangeInclusive;
use std::time::Duration;

use super::nearest::nearest;
use super::report::quoted;

pub(in crate::config) use admin::{ADMIN, ADMIN_KEY, ADMIN_TLS};
pub(in crate::config) use health::{BREAKER, DRAIN, HEALTH_CHECK, PANIC, RECOVERY};
pub(in crate::config) use otlp::OTLP;
pub(in crate::config) use policy::{LIMITS, PER_BACKEND, PER_SOURCE, SOURCE_PREFIX, TIMEOUTS};
pub(in crate::config) use service::{
    AFFINITY_PREFIX, BACKEND, LISTEN, NAME_ROUTE, SERVICE, SOURCE_ROUTE,
};
pub(in crate::config) use settings::{ACCESS_LOG, DNS, LEAST_CONNECTIONS, LOG, METRICS, SETTINGS};

/// A table of a configuration.
#[derive(Debug)]
pub struct Table {
    /// Where it stands, in words for those who look for it.
    pub home: &'static str,
    /// What it is for, in a sentence.
    pub doc: &'static str,
    /// Its keys, in the order in which they are written.
    pub keys: &'static [Key],
}

/// A key of a table.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What holds without it.
    pub absent: Absent,
    /// What it is for: a sentence or two, with what cannot be said by kinds.
    pub doc: &'static str,
}

/// What holds without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Nothing: it has to be there.
    Required,
    /// The same as with this value, written as in TOML.
    Value(&'static str),
    /// What these words say.
    Words(&'static str),
}

/// What a key takes.
#[derive(Debug)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A whole number, from the one to the other.
    Number(u64, u64),
    /// A number, with a point or without, from so many millionths to so many.
    Decimal(u32, u32),
    /// A duration in words, from the one to the other.
    Duration(Duration, Duration),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A text.
    Text(&'static Form),
    /// A list.
    List(&'static List),
    /// A table.
    Table(&'static Table),
    /// A table whose names are the user's.
    Names(&'static Names),
    /// Any of these.
    Either(&'static [Self]),
}

/// A kind of text.
#[derive(Debug)]
pub struct Form {
    /// What it is, in words.
    pub words: &'static str,
    /// Texts of this kind; the first in any document, all in tests.
    pub examples: &'static [&'static str],
}

/// A list.
#[derive(Debug)]
pub struct List {
    /// Of what.
    pub of: Kind,
    /// Items at least.
    pub least: u32,
    /// Items at most.
    pub most: Option<u32>,
}

/// A table whose names are the user's.
#[derive(Debug)]
pub struct Names {
    /// What the names are, and examples.
    pub name: &'static Form,
    /// What each takes.
    pub of: Kind,
}

/// What stands at the top of a file.
pub static FILE: Table = Table {
    home: "the file itself",
    doc: "What stands at the top of a file.",
    keys: &[
        Key {
            name: "include",
            kind: Kind::Either(&[Kind::Text(&PATTERN), Kind::List(&PATTERNS)]),
            absent: Absent::Value("[]"),
            doc: "Files that are parts of this one, of any format: paths relative to this file, with `*` and `?` in the name of the file. Those of a \
                  pattern are taken in order. Services and lists come one after the other, tables are merged, and a key that two files \
                  give is an error. Included files may include others, 8 deep.",
        },
        Key {
            name: "service",
            kind: Kind::List(&SERVICES),
            absent: Absent::Required,
            doc: "What clients connect to, and where it leads. In TOML, `[[service]]` above each.",
        },
        Key {
            name: "settings",
            kind: Kind::Table(&SETTINGS),
            absent: Absent::Value("{}"),
            doc: "Everything that is not of one service.",
        },
    ],
};

static PATTERN: Form = Form {
    words: "a path, with `*` and `?` in its last part",
    examples: &["conf.d/*.toml", "more.yaml"],
};
static PATTERNS: List = List { of: Kind::Text(&PATTERN), least: 0, most: None };
static SERVICES: List =
    List { of: Kind::Table(&SERVICE), least: 1, most: Some(equipoise_common::limit::SERVICES) };

static NAME_OF_INTERFACE: Form = Form {
    words: "the name of an interface: 1 to 15 bytes without `/`, `:` or space",
    examples: &["eth0", "eth0.100", "br-lan"],
};
static INTERFACES: List = List { of: Kind::Text(&NAME_OF_INTERFACE), least: 1, most: None };
static PREFIX_OR_FILE: Form = Form {
    words: "a prefix, an address, or after an `@` the whole path of a file with one a line",
    examples: &["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"],
};
static PREFIXES: List = List { of: Kind::Text(&PREFIX_OR_FILE), least: 0, most: None };

impl Table {
    /// The key of a name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The names of its keys, by the alphabet.
    pub(super) fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.keys.iter().map(|key| key.name).collect();
        names.sort_unstable();
        names
    }

    /// What to say about a name that is not one of these.
    pub(super) fn instead_of(&self, name: &str) -> String {
        let names = self.names();
        let known = quoted(names.iter().copied());
        if let Some(nearest) = nearest(name, &names) {
            return format!("`{nearest}` is the nearest; the keys here are {known}");
        }
        let homes: Vec<_> = all()
            .into_iter()
            .filter(|table| table.key(name).is_some())
            .map(|table| table.home)
            .collect();
        if !homes.is_empty() {
            return format!("`{name}` in {}; the keys here are {known}", homes.join(" and in "));
        }
        format!("the keys here are {known}")
    }
}

/// All tables, each once, in the order in which one comes to them.
pub fn all() -> Vec<&'static Table> {
    let mut tables = vec![&FILE];
    let mut next = 0;
    while let Some(table) = tables.get(next).copied() {
        for key in table.keys {
            add(&key.kind, &mut tables);
        }
        next += 1;
    }
    tables
}

fn add(kind: &'static Kind, tables: &mut Vec<&'static Table>) {
    match kind {
        Kind::Table(table) if !tables.iter().any(|known| std::ptr::eq(*known, *table)) => {
            tables.push(table);
        }
        Kind::List(list) => add(&list.of, tables),
        Kind::Names(names) => add(&names.of, tables),
        Kind::Either(kinds) => kinds.iter().for_each(|kind| add(kind, tables)),
        Kind::Table(_)
        | Kind::Boolean
        | Kind::Number(..)
        | Kind::Decimal(..)
        | Kind::Duration(..)
        | Kind::Word(_)
        | Kind::Text(_) => {}
    }
}

/// A number within a range that the check has.
macro_rules! number {
    ($range:expr) => {
        $crate::config::check::keys::Kind::Number(*$range.start() as u64, *$range.end() as u64)
    };
}

/// One of the words that the check knows.
macro_rules! word {
    ($choices:expr) => {
        $crate::config::check::keys::Kind::Word(&$crate::config::check::keys::words::<
            _,
            { $choices.len() },
        >(&$choices))
    };
}

use {number, word};

const fn duration(range: &RangeInclusive<Duration>) -> Kind {
    Kind::Duration(*range.start(), *range.end())
}

const fn words<T, const N: usize>(choices: &[(&'static str, T)]) -> [&'static str; N] {
    let mut words = [""; N];
    let mut at = 0;
    while at < N {
        words[at] = choices[at].0;
        at += 1;
    }
    words
}
