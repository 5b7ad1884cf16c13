//! What has been measured, for people, for programs, and against its limits.

use std::fmt::Write as _;
use std::fs;
use std::path::Path as File;
use std::process::ExitCode;

use equipoise::dataplane::kernel::Subject;
use equipoise_common::flow::{Set, sets_for};
use equipoise_common::verdict::Hook;
use serde_json::{Value, json};

use crate::world::{Kind, Path};

/// Figures of one thing, a round each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spread(Vec<f64>);

impl Spread {
    pub(crate) fn add(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// Least, median and most.
    fn three(&self) -> [f64; 3] {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        [0, last / 2, last].map(|index| sorted.get(index).copied().unwrap_or(f64::NAN))
    }

    fn median(&self) -> f64 {
        self.three()[1]
    }

    /// Round by round.
    fn with(&self, other: &Self, of: impl Fn(f64, f64) -> f64) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, other)| of(*one, *other)).collect())
    }

    fn shown(&self, digits: usize) -> String {
        let [least, median, most] = self.three();
        format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
    }

    fn json(&self) -> Value {
        let [min, median, max] = self.three();
        json!({ "median": median, "min": min, "max": max })
    }
}

/// What a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) residents: u32,
}

impl Row {
    fn family(self) -> &'static str {
        if self.kind.is_v6 { "IPv6" } else { "IPv4" }
    }

    fn hook(self) -> &'static str {
        if self.kind.hook == Hook::Xdp { "XDP" } else { "TC" }
    }
}

struct Measured {
    row: Row,
    /// Over the empty program, ns.
    net: Vec<(Subject, Spread)>,
    /// The parse-only program with all that making a packet costs, ns.
    floor: Spread,
    /// The whole program against that, with the same.
    ratio: Spread,
}

impl Measured {
    /// What a line of memory costs over the parse-only program, ns.
    fn line(&self) -> Option<f64> {
        let of = |wanted| self.net.iter().find(|(subject, _)| *subject == wanted);
        let ((_, touched), (_, parsed)) = of(Subject::Touched).zip(of(Subject::Parsed))?;
        Some(touched.median() - parsed.median())
    }
}

struct Pair {
    row: Row,
    parsed: Spread,
    whole: Spread,
    /// Of the two in one round.
    share: Spread,
}

/// All figures of a run.
#[derive(Default)]
pub(crate) struct Report {
    paths: Vec<Measured>,
    pairs: Vec<Pair>,
    /// Flows, and milliseconds to list, copy and end them.
    tables: Vec<(u32, [Spread; 3])>,
}

impl Report {
    pub(crate) fn path(&mut self, row: Row, subjects: &[Subject], spreads: &[Spread]) {
        let of = |wanted: Subject| {
            let at = subjects.iter().position(|subject| *subject == wanted);
            &spreads[at.expect("every kind has these")]
        };
        let (empty, parsed, whole) = (of(Subject::Empty), of(Subject::Parsed), of(Subject::Whole));
        let net = subjects
            .iter()
            .zip(spreads)
            .map(|(subject, spread)| (*subject, spread.with(empty, |one, empty| one - empty)))
            .collect();
        let ratio = whole.with(parsed, |whole, parsed| whole / parsed);
        self.paths.push(Measured { row, net, floor: parsed.clone(), ratio });
    }

    pub(crate) fn two_cpus(&mut self, row: Row, [parsed, whole]: [Spread; 2]) {
        let share = whole.with(&parsed, |whole, parsed| whole / parsed);
        self.pairs.push(Pair { row, parsed, whole, share });
    }

    pub(crate) fn tables(&mut self, flows: u32, spreads: [Spread; 3]) {
        self.tables.push((flows, spreads));
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from(
            "| packet | resident flows | ns over the empty program: median (least to most) | of it parsed, one line touched, found, routed, rewritten | times the parse-only program |\n\
             | --- | ---: | ---: | --- | ---: |\n",
        );
        for Measured { row, net, ratio, .. } in &self.paths {
            let of = |wanted: Subject| net.iter().find(|(subject, _)| *subject == wanted);
            let whole = of(Subject::Whole).map(|(_, spread)| spread.shown(0)).unwrap_or_default();
            let parts: Vec<String> = Subject::PARTS[1..6]
                .iter()
                .filter_map(|part| of(*part))
                .map(|(_, spread)| format!("{:.0}", spread.median()))
                .collect();
            let _ = writeln!(
                text,
                "| {} {} {} | {} | {whole} | {} | {:.2} |",
                row.family(),
                row.hook(),
                row.kind.path.name(),
                row.residents,
                parts.join(", "),
                ratio.median()
            );
        }
        text.push_str(&self.beside_lru());
        text.push_str(
            "\n| two CPUs against one, established, XDP | resident flows | parse-only | whole | share |\n\
             | --- | ---: | ---: | ---: | ---: |\n",
        );
        for Pair { row, parsed, whole, share } in &self.pairs {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                row.family(),
                row.residents,
                parsed.shown(2),
                whole.shown(2),
                share.shown(2)
            );
        }
        text.push_str(
            "\n| flows of IPv4 | list, ms | copy into another table, ms | end when past their time, ms | bytes a flow, IPv4 and IPv6 |\n\
             | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for (flows, [list, copy, expire]) in &self.tables {
            let _ = writeln!(
                text,
                "| {flows} | {} | {} | {} | {:.0}, {:.0} |",
                list.shown(1),
                copy.shown(1),
                expire.shown(1),
                bytes::<8>(*flows),
                bytes::<16>(*flows)
            );
        }
        text
    }

    /// Our table and the kernel's LRU hash, each alone, on the same packets at XDP: over the parse-only program.
    fn beside_lru(&self) -> String {
        let mut text = String::from(
            "\n| in the table alone, over the parse-only program | resident flows | ours, ns | LRU hash, ns | LRU hash against ours |\n\
             | --- | ---: | ---: | ---: | ---: |\n",
        );
        let pairs = [
            (Path::Established, "found and noted", Subject::Found, Subject::LruFound),
            (Path::New, "opened, both directions", Subject::Opened, Subject::LruOpened),
        ];
        for Measured { row, net, .. } in self.paths.iter().filter(|m| m.row.kind.hook == Hook::Xdp)
        {
            let of = |wanted: Subject| net.iter().find(|(subject, _)| *subject == wanted);
            let over_parsed = |wanted| {
                let ((_, whole), (_, parsed)) = of(wanted).zip(of(Subject::Parsed))?;
                Some(whole.with(parsed, |whole, parsed| whole - parsed))
            };
            for (_, what, ours, theirs) in pairs.iter().filter(|pair| pair.0 == row.kind.path) {
                let Some((ours, theirs)) = over_parsed(*ours).zip(over_parsed(*theirs)) else {
                    continue;
                };
                let ratio = theirs.with(&ours, |theirs, ours| theirs / ours);
                let _ = writeln!(
                    text,
                    "| {} {what} | {} | {} | {} | {} |",
                    row.family(),
                    row.residents,
                    ours.shown(0),
                    theirs.shown(0),
                    ratio.shown(2)
                );
            }
        }
        text
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let paths: Vec<Value> = self
            .paths
            .iter()
            .map(|Measured { row, net, ratio, .. }| {
                let parts: serde_json::Map<String, Value> = net
                    .iter()
                    .map(|(subject, spread)| (format!("{subject:?}").to_lowercase(), spread.json()))
                    .collect();
                json!({
                    "family": row.family(),
                    "hook": row.hook(),
                    "packet": row.kind.path.name(),
                    "resident_flows": row.residents,
                    "ns_over_empty": parts,
                    "times_parse_only": ratio.json(),
                })
            })
            .collect();
        let pairs: Vec<Value> = self
            .pairs
            .iter()
            .map(|Pair { row, parsed, whole, share }| {
                json!({
                    "family": row.family(),
                    "resident_flows": row.residents,
                    "parse_only": parsed.json(),
                    "whole": whole.json(),
                    "share": share.json(),
                })
            })
            .collect();
        let tables: Vec<Value> = self
            .tables
            .iter()
            .map(|(flows, [list, copy, expire])| {
                json!({
                    "flows": flows,
                    "list_ms": list.json(),
                    "copy_ms": copy.json(),
                    "expire_ms": expire.json(),
                    "bytes_per_flow": { "ipv4": bytes::<8>(*flows), "ipv6": bytes::<16>(*flows) },
                })
            })
            .collect();
        let [machine, kernel] = machine();
        json!({
            "machine": machine, "kernel": kernel,
            "paths": paths, "two_cpus": pairs, "tables": tables,
        })
    }

    /// Puts the tables between their marks in a file of figures.
    pub(crate) fn write_into(&self, file: &File) {
        const BEGIN: &str = "<!-- bench programs -->\n";
        const END: &str = "<!-- end of bench programs -->\n";
        let failed = |error: std::io::Error| -> String { panic!("{}: {error}", file.display()) };
        let text = fs::read_to_string(file).unwrap_or_else(failed);
        let parts = text
            .split_once(BEGIN)
            .and_then(|(before, rest)| rest.split_once(END).map(|(_, after)| (before, after)));
        let Some((before, after)) = parts else {
            panic!("{}: there is no {BEGIN} before {END}", file.display());
        };
        let [machine, kernel] = machine();
        let head = format!("`cargo xtask bench programs` on {machine}, Linux {kernel}:\n");
        let new = format!("{before}{BEGIN}\n{head}\n{}\n{END}{after}", self.table());
        if let Err(error) = fs::write(file, new) {
            failed(error);
        }
    }

    /// A failure where a kind of packet costs more than its limit allows.
    pub(crate) fn verdict(&self) -> ExitCode {
        let mut code = ExitCode::SUCCESS;
        for Measured { row, floor, ratio, .. } in &self.paths {
            let Some((times, lines)) = limit(*row) else { continue };
            // Neighbours that empty the caches make each line slower, and nothing else.
            let same = self.paths.iter().filter(|other| other.row.residents == row.residents);
            let line = same.filter_map(Measured::line).fold(0.0, f64::max);
            let limit = times + lines * line / floor.median();
            if ratio.median() > limit {
                eprintln!(
                    "{row:?}: {} times the parse-only program, of {limit:.2} allowed where a line of memory costs {line:.0} ns",
                    ratio.shown(2)
                );
                code = ExitCode::FAILURE;
            }
        }
        code
    }
}

/// What the whole program may cost, times what the parse-only one costs in the same run, and how many lines of memory more, by what
/// one costs in that run. Twice what was measured, and more: neighbours on the machine do not make it that. None where
/// memory decides, which differs between machines.
fn limit(row: Row) -> Option<(f64, f64)> {
    let limit = match row.kind.path {
        Path::Established => (9.0, 2.0),
        Path::Reply => (25.0, 4.0),
        Path::New => (110.0, 24.0),
        Path::NotOurs => (2.0, 0.0),
    };
    (row.residents <= 1_000).then_some(limit)
}

/// Bytes of memory that a flow takes in a table for so many.
fn bytes<const SLOT: usize>(flows: u32) -> f64 {
    f64::from(sets_for(flows)) * size_of::<Set<u64, SLOT>>() as f64 / f64::from(flows)
}

/// The machine and its kernel.
fn machine() -> [String; 2] {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let models: Vec<&str> = processors
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map(|(_, name)| name.trim())
        .collect();
    let model = models.first().copied().unwrap_or("an unknown processor");
    [format!("{} × {model}", models.len()), read("/proc/sys/kernel/osrelease").trim().to_owned()]
}
