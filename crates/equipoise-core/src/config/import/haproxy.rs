//! Files of HAProxy: what it does with TCP as it comes, and by the server that TLS names. What else it reads of the stream (HTTP, the PROXY
//! protocol) is told to be left out.
//!
//! HAProxy connects from its own address, so that services are `full-nat` here, unless it takes the client's (`usesrc clientip`).

mod front;
mod server;
mod sni;

use std::collections::BTreeMap;

use super::words::words;
use super::{Draft, Notes};

pub(super) fn read(text: &str, notes: &mut Notes<'_>) -> Vec<Draft> {
    let sections = sections(text, notes);
    let backends: BTreeMap<&str, &Section> = sections
        .iter()
        .filter(|section| matches!(section.kind, "backend" | "listen"))
        .map(|section| (section.name.as_str(), section))
        .collect();
    let mut drafts = Vec::new();
    let mut used = Vec::new();
    for section in &sections {
        match section.kind {
            "frontend" | "listen" if section.is_tcp() => {
                drafts.extend(front::services(section, &backends, &mut used, notes));
            }
            "frontend" | "listen" => {
                notes.add(section.line, "connections are passed on as they are: HTTP is not read");
            }
            "global" | "backend" => {}
            other => notes.add(section.line, format!("`{other}` has no counterpart")),
        }
    }
    let is_unused = |section: &&Section| section.kind == "backend" && !used.contains(&section.name);
    for section in sections.iter().filter(is_unused) {
        notes.add(section.line, "no frontend that was carried over leads here");
    }
    drafts
}

/// A line: its number and its words.
#[derive(Clone, Debug)]
struct Line {
    number: usize,
    words: Vec<String>,
}

impl Line {
    fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", String::as_str)
    }

    /// The word after a name.
    fn after(&self, name: &str) -> Option<&str> {
        let at = self.words.iter().position(|word| word == name)?;
        self.words.get(at + 1).map(String::as_str)
    }
}

/// A section, with the defaults that hold for it.
#[derive(Debug)]
struct Section {
    line: usize,
    kind: &'static str,
    name: String,
    /// Of the defaults, of which those of the section win.
    defaults: Vec<Line>,
    lines: Vec<Line>,
}

impl Section {
    /// The last line that begins so, or that of the defaults.
    fn get(&self, name: &str) -> Option<&Line> {
        let is = |line: &&Line| line.word(0) == name;
        self.lines.iter().rfind(is).or_else(|| self.defaults.iter().rfind(is))
    }

    /// The last line that begins with two words.
    fn get_two(&self, name: &str, second: &str) -> Option<&Line> {
        let is = |line: &&Line| line.word(0) == name && line.word(1) == second;
        self.lines.iter().rfind(is).or_else(|| self.defaults.iter().rfind(is))
    }

    fn is_tcp(&self) -> bool {
        self.get("mode").is_none_or(|line| line.word(1) == "tcp")
    }
}

const KINDS: [&str; 14] = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "resolvers",
    "peers",
    "userlist",
    "program",
    "mailers",
    "cache",
    "ring",
    "http-errors",
    "log-forward",
];

fn sections(text: &str, notes: &mut Notes<'_>) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    // Unnamed ones hold for what comes after them; named ones for those that ask for them.
    let mut named: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    let mut current: Vec<Line> = Vec::new();
    let mut in_defaults: Option<String> = None;
    for (number, written) in (1..).zip(text.lines()) {
        let words = words(written, &['#']);
        let Some(first) = words.first() else { continue };
        let kind = KINDS.iter().find(|kind| *kind == first);
        let Some(kind) = kind else {
            let line = Line { number, words };
            match (&in_defaults, sections.last_mut()) {
                (Some(name), _) => named.entry(name.clone()).or_default().push(line),
                (None, Some(section)) => section.lines.push(line),
                (None, None) => notes.add(number, "this is in no section"),
            }
            continue;
        };
        let from = words.iter().position(|word| word == "from").and_then(|at| words.get(at + 1));
        if *kind == "defaults" {
            let name = words.get(1).filter(|word| *word != "from").cloned();
            let name = name.unwrap_or_else(|| format!("line {number}"));
            let base = from.and_then(|from| named.get(from)).cloned().unwrap_or_default();
            named.insert(name.clone(), base);
            in_defaults = Some(name);
            continue;
        }
        if let Some(name) = in_defaults.take() {
            current = named.get(&name).cloned().unwrap_or_default();
        }
        let defaults = match from {
            Some(from) => named.get(from).cloned().unwrap_or_default(),
            None => current.clone(),
        };
        let name = words.get(1).cloned().unwrap_or_default();
        sections.push(Section { line: number, kind, name, defaults, lines: Vec::new() });
    }
    sections
}

/// A time, of milliseconds where no unit is written.
fn time(text: &str) -> Option<String> {
    let digits = text.trim_end_matches(|sign: char| sign.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let milliseconds = match &text[digits.len()..] {
        "us" => number / 1_000,
        "" | "ms" => number,
        "s" => number.checked_mul(1_000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        "d" => number.checked_mul(86_400_000)?,
        _ => return None,
    };
    let duration = std::time::Duration::from_millis(milliseconds);
    Some(humantime::format_duration(duration).to_string())
}
