//! Families as text: what Prometheus has read since 2014 (0.0.4), or OpenMetrics 1.0 for who asks for it.

use super::family::{Family, Kind};

/// How welcome the first of these ranges is that an `Accept` header names, 0 to 1.
fn quality(header: &str, ranges: &[&str]) -> Option<f32> {
    let of = |wanted: &str| {
        let named = header.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
            let quality = parts.find_map(|part| part.strip_prefix("q=")?.trim().parse().ok());
            is_named.then_some(quality.unwrap_or(1.0))
        });
        named.reduce(f32::max)
    };
    ranges.iter().find_map(|range| of(range))
}

/// How a scrape is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's text, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The one that an `Accept` header prefers (RFC 9110, section 12.5.1); text where it says nothing of either, and OpenMetrics
    /// where both are as welcome, if that is named.
    pub fn accepted(header: Option<&str>) -> Self {
        let header = header.unwrap_or_default();
        let open = quality(header, &["application/openmetrics-text"]);
        let text = quality(header, &["text/plain", "text/*", "*/*"]);
        if open.is_some_and(|open| open > 0.0 && open >= text.unwrap_or_default()) {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    /// Its `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Writes families: what one after the other is the text. A large one is not copied.
    pub(super) fn write(self, families: Vec<Family>) -> Vec<String> {
        let mut parts = Vec::with_capacity(families.len() * 2 + 1);
        for family in families {
            let mut head = String::new();
            // OpenMetrics has no empty lines.
            if self == Self::Text && !parts.is_empty() {
                head.push('\n');
            }
            self.head(&mut head, &family);
            parts.extend([head, family.samples]);
        }
        if self == Self::OpenMetrics {
            parts.push("# EOF\n".to_owned());
        }
        parts
    }

    /// The lines before a family's samples. OpenMetrics calls a counter's family without the ending of its samples, and has quotes
    /// escaped in what is told of it, too (OpenMetrics 1.0, "Counter").
    fn head(self, text: &mut String, family: &Family) {
        let Family { kind, name, help, .. } = family;
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let (name, help) = match self {
            Self::Text => (*name, help),
            Self::OpenMetrics => {
                let is_counter = *kind == Kind::Counter;
                let short = name.strip_suffix("_total").filter(|_| is_counter);
                (short.unwrap_or(name), help.replace('"', "\\\""))
            }
        };
        let kind = kind.name();
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::family::Making;

    #[test]
    fn openmetrics_is_for_who_asks_for_it() {
        let accepted = |header: &str| Format::accepted(Some(header));
        assert_eq!(Format::accepted(None), Format::Text);
        assert_eq!(accepted("*/*"), Format::Text);
        assert_eq!(accepted("text/plain;version=0.0.4;q=0.5, */*;q=0.1"), Format::Text);
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.3";
        assert_eq!(accepted(prometheus), Format::OpenMetrics);
        assert_eq!(accepted("application/openmetrics-text; q=0, */*"), Format::Text);
        let weighed = "text/plain;version=0.0.4;q=1,Application/OpenMetrics-Text;q=0.1";
        assert_eq!(accepted(weighed), Format::Text);
        assert_eq!(accepted("application/openmetrics-text;q=0.1, text/html"), Format::OpenMetrics);
        assert_eq!(accepted("application/openmetrics-text;q=0.2, */*;q=0.3"), Format::Text);
    }

    #[test]
    fn whatever_a_label_says_stays_within_its_quotes() {
        let mut family = Making::counter("a_total", "It \"counts\".", ["x"]);
        family.row(["1\"} 2\n\\"], 3.0);
        let family = family.finish();
        let write =
            |format: Format, times: usize| format.write(vec![family.clone(); times]).concat();
        let sample = "a_total{x=\"1\\\"} 2\\n\\\\\"} 3\n";
        let text = "# HELP a_total It \"counts\".\n# TYPE a_total counter\n".to_owned() + sample;
        assert_eq!(write(Format::Text, 1), text);
        let head = "# HELP a It \\\"counts\\\".\n# TYPE a counter\n";
        let open = format!("{head}{sample}# EOF\n");
        assert_eq!(write(Format::OpenMetrics, 1), open);
        assert_eq!(write(Format::Text, 2), format!("{text}\n{text}"));
    }
}
