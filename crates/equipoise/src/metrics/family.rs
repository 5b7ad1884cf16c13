//! A family of metrics and its rows, which are text as soon as they are known: a scrape of ten thousand backends is a few hundred
//! thousand lines.
//!
//! So many lines at most: beyond that, what can be added up is added up in one row whose labels say so, and the rest is left out. A
//! configuration of any size has a scrape of bounded size.

use std::fmt::Write as _;

use super::histogram::Histogram;

/// Lines of a family at most.
pub(super) const LINES: usize = 20_000;

/// Room for a line of most families, bytes: a name, three labels and a number.
const LINE: usize = 112;

/// What stands in place of each label of the row for the rest.
pub(super) const REST: &str = "_rest";

/// What kind of numbers a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They never fall; its name ends in `_total`.
    Counter,
    /// They are what they are now.
    Gauge,
    /// Values by bounds, which never fall either.
    Histogram,
}

impl Kind {
    /// In a word, as scrapers know it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A family as it is written.
#[derive(Clone, Debug)]
pub struct Family {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// The names of its labels.
    pub labels: Vec<&'static str>,
    /// Its lines.
    pub(super) samples: String,
    /// Where the lines for the rest begin in it, if there are any: they are the last.
    pub(super) rest: Option<usize>,
}

impl Family {
    /// Whether there is anything in it.
    pub(super) fn has_rows(&self) -> bool {
        !self.samples.is_empty()
    }
}

/// Labels with their values, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Labels(String);

impl Labels {
    pub(super) fn of<const COUNT: usize>(names: [&str; COUNT], values: [&str; COUNT]) -> Self {
        let mut text = String::new();
        for (name, value) in names.into_iter().zip(values) {
            push(&mut text, name, value);
        }
        Self(text)
    }

    /// With one more.
    pub(super) fn and(&self, name: &str, value: &str) -> Self {
        let mut text = self.0.clone();
        push(&mut text, name, value);
        Self(text)
    }
}

fn push(text: &mut String, name: &str, value: &str) {
    if !text.is_empty() {
        text.push(',');
    }
    text.push_str(name);
    text.push_str("=\"");
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        text.push_str(&rest[..at]);
        text.push_str(match rest.as_bytes()[at] {
            b'\n' => "\\n",
            b'"' => "\\\"",
            _ => "\\\\",
        });
        rest = &rest[at + 1..];
    }
    text.push_str(rest);
    text.push('"');
}

/// A family that is being made.
pub(super) struct Making<const LABELS: usize> {
    family: Family,
    labels: [&'static str; LABELS],
    lines: usize,
    adds_up: bool,
    /// The sum of the rows that found no room.
    rest: Option<f64>,
    /// So, of histograms.
    rest_of_histograms: Option<Histogram>,
    /// The label of each bound of its histograms, which are all of one kind, and of all values.
    bounds: Vec<String>,
}

impl<const LABELS: usize> Making<LABELS> {
    fn new(
        kind: Kind,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; LABELS],
    ) -> Self {
        let labels_of_all = labels.to_vec();
        let samples = String::new();
        let family = Family { kind, name, help, labels: labels_of_all, samples, rest: None };
        Self {
            family,
            labels,
            lines: 0,
            adds_up: false,
            rest: None,
            rest_of_histograms: None,
            bounds: Vec::new(),
        }
    }

    /// Of numbers that never fall; its name ends in `_total`.
    pub(super) fn counter(
        name: &'static str,
        help: &'static str,
        labels: [&'static str; LABELS],
    ) -> Self {
        Self { adds_up: true, ..Self::new(Kind::Counter, name, help, labels) }
    }

    /// Of numbers that are what they are now.
    pub(super) fn gauge(
        name: &'static str,
        help: &'static str,
        labels: [&'static str; LABELS],
    ) -> Self {
        Self::new(Kind::Gauge, name, help, labels)
    }

    /// As [`Self::gauge`], of numbers whose sum says something.
    pub(super) fn sum(
        name: &'static str,
        help: &'static str,
        labels: [&'static str; LABELS],
    ) -> Self {
        Self { adds_up: true, ..Self::gauge(name, help, labels) }
    }

    /// Of values by bounds.
    pub(super) fn histogram(
        name: &'static str,
        help: &'static str,
        labels: [&'static str; LABELS],
    ) -> Self {
        Self { adds_up: true, ..Self::new(Kind::Histogram, name, help, labels) }
    }

    /// With room for so many lines: text that grows is copied, and memory is asked for, again and again.
    pub(super) fn of_lines(mut self, lines: usize) -> Self {
        self.family.samples.reserve(lines.min(LINES) * LINE);
        self
    }

    /// Adds a row.
    pub(super) fn row(&mut self, values: [&str; LABELS], value: f64) {
        self.of(&Labels::of(self.labels, values), value);
    }

    /// Adds a row with labels that are text already.
    pub(super) fn of(&mut self, labels: &Labels, value: f64) {
        if self.lines < LINES {
            self.line("", [&labels.0, ""], value);
        } else if self.adds_up {
            *self.rest.get_or_insert_default() += value;
        }
    }

    /// Adds a row of what is so (1), or is not (0).
    pub(super) fn flag(&mut self, values: [&str; LABELS], is_so: bool) {
        self.row(values, f64::from(u8::from(is_so)));
    }

    /// Adds the rows of a histogram.
    pub(super) fn values(&mut self, labels: &Labels, histogram: &Histogram) {
        let lines = histogram.up_to().count() + 3;
        if self.lines + lines <= LINES {
            self.all_of(labels, histogram);
            return;
        }
        match &mut self.rest_of_histograms {
            // One family has one kind of bounds.
            Some(rest) => drop(rest.add(histogram)),
            rest => *rest = Some(histogram.clone()),
        }
    }

    fn all_of(&mut self, labels: &Labels, histogram: &Histogram) {
        let mut bounds = std::mem::take(&mut self.bounds);
        if bounds.is_empty() {
            // As OpenMetrics has numbers: with a point.
            bounds.extend(histogram.up_to().map(|(bound, _)| format!("le=\"{bound:?}\"")));
            bounds.push("le=\"+Inf\"".to_owned());
        }
        let count = histogram.count();
        let counts = histogram.up_to().map(|(_, count)| count).chain([count]);
        for (bound, count) in bounds.iter().zip(counts) {
            self.line("_bucket", [&labels.0, bound], count as f64);
        }
        self.bounds = bounds;
        self.line("_sum", [&labels.0, ""], histogram.sum());
        self.line("_count", [&labels.0, ""], count as f64);
    }

    /// The family as it is written.
    pub(super) fn finish(mut self) -> Family {
        let rest = Labels::of(self.labels, [REST; LABELS]);
        let is_any = self.rest.is_some() || self.rest_of_histograms.is_some();
        self.family.rest = is_any.then_some(self.family.samples.len());
        if let Some(value) = self.rest {
            self.line("", [&rest.0, ""], value);
        }
        if let Some(histogram) = self.rest_of_histograms.take() {
            self.all_of(&rest, &histogram);
        }
        self.family
    }

    fn line(&mut self, ending: &str, [labels, more]: [&str; 2], value: f64) {
        self.lines += 1;
        let samples = &mut self.family.samples;
        samples.push_str(self.family.name);
        samples.push_str(ending);
        if !labels.is_empty() || !more.is_empty() {
            samples.push('{');
            samples.push_str(labels);
            if !labels.is_empty() && !more.is_empty() {
                samples.push(',');
            }
            samples.push_str(more);
            samples.push('}');
        }
        samples.push(' ');
        number(samples, value);
        samples.push('\n');
    }
}

pub(super) fn number(text: &mut String, value: f64) {
    /// Whole numbers up to here are as exact as integers, which are written in a fifth of the time.
    const EXACT: f64 = (1_u64 << f64::MANTISSA_DIGITS) as f64;
    let written = if value.fract() == 0.0 && (0.0..EXACT).contains(&value) {
        text.push_str(itoa::Buffer::new().format(value as u64));
        return;
    } else if value == f64::INFINITY {
        text.write_str("+Inf")
    } else if value == f64::NEG_INFINITY {
        text.write_str("-Inf")
    } else {
        write!(text, "{value}")
    };
    // Memory refuses nothing.
    let _: std::fmt::Result = written;
}

impl Making<0> {
    /// With its one row.
    pub(super) fn one(mut self, value: f64) -> Family {
        self.row([], value);
        self.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::histogram::SECONDS;
    use super::*;

    fn lines(family: &Family) -> usize {
        family.samples.lines().count()
    }

    #[test]
    fn what_finds_no_room_is_added_up_or_left_out() {
        let fill = |mut family: Making<1>| {
            for number in 0..LINES + 3 {
                family.row([&number.to_string()], 2.0);
            }
            family.finish()
        };
        let counted = fill(Making::counter("a_total", "A.", ["x"]));
        assert_eq!(lines(&counted), LINES + 1);
        assert!(counted.samples.ends_with("a_total{x=\"_rest\"} 6\n"));
        assert_eq!(lines(&fill(Making::gauge("b", "B.", ["x"]))), LINES);
        assert_eq!(lines(&fill(Making::sum("c", "C.", ["x"]))), LINES + 1);
    }

    #[test]
    fn histograms_that_find_no_room_are_added_up() {
        let mut family = Making::histogram("a_seconds", "A.", ["x"]);
        let mut histogram = Histogram::new(SECONDS);
        histogram.observe(1.0);
        for number in 0..LINES / 15 + 2 {
            family.values(&Labels::of(["x"], [&number.to_string()]), &histogram);
        }
        let samples = family.finish().samples;
        assert_eq!(samples.lines().count(), (LINES / 15 + 1) * 15);
        let last: Vec<_> = samples.lines().rev().take(8).collect();
        assert_eq!(
            last[..3],
            [
                "a_seconds_count{x=\"_rest\"} 2",
                "a_seconds_sum{x=\"_rest\"} 2",
                "a_seconds_bucket{x=\"_rest\",le=\"+Inf\"} 2",
            ]
        );
        assert_eq!(
            last[6..],
            [
                "a_seconds_bucket{x=\"_rest\",le=\"1.0\"} 2",
                "a_seconds_bucket{x=\"_rest\",le=\"0.5\"} 0",
            ]
        );
    }

    #[test]
    fn numbers_without_end_have_the_words_of_scrapers() {
        let mut text = String::new();
        for value in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1.5e9, 0.001, 0.0, -2.0, 1e17] {
            number(&mut text, value);
            text.push(' ');
        }
        assert_eq!(text, "+Inf -Inf NaN 1500000000 0.001 0 -2 100000000000000000 ");
    }
}
