//! The rows of a family, read from the text that scrapes have of them, so that what is pushed can be nothing else than what is scraped.

use super::super::family::Family;

/// A line of a family.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row<'a> {
    /// What stands behind the family's name: `_bucket`, `_sum` or `_count` in histograms, else nothing.
    pub(super) ending: &'a str,
    /// Labels with their values.
    pub(super) labels: Vec<(&'a str, String)>,
    pub(super) value: f64,
}

/// The rows of a family. A line that is none, which families do not have, is left out.
pub(super) fn rows(family: &Family) -> impl Iterator<Item = Row<'_>> {
    family.samples.lines().filter_map(|line| row(line.strip_prefix(family.name)?))
}

fn row(line: &str) -> Option<Row<'_>> {
    let (ending, rest) = line.split_at(line.find(['{', ' '])?);
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    Some(Row { ending, labels, value: value.strip_prefix(' ')?.parse().ok()? })
}

/// Labels up to their brace, and what comes after it.
fn labels(mut text: &str) -> Option<(Vec<(&str, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        let (name, rest) = text.split_once("=\"")?;
        let (value, rest) = quoted(rest)?;
        labels.push((name, value));
        match rest.strip_prefix(',') {
            Some(rest) => text = rest,
            None => return Some((labels, rest.strip_prefix('}')?)),
        }
    }
}

/// A value up to its quote, and what comes after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut signs = text.char_indices();
    while let Some((at, sign)) = signs.next() {
        match sign {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match signs.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            sign => value.push(sign),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::family::Making;
    use super::*;

    fn read(family: &Family) -> Vec<Row<'_>> {
        rows(family).collect()
    }

    #[test]
    fn rows_without_labels_and_numbers_without_end_are_read() {
        let one = |value| Making::gauge("a_b", "A.", []).one(value);
        for value in [0.0, -1.5, 1e300, 1.0 / 3.0, f64::INFINITY, f64::NEG_INFINITY] {
            let row = Row { ending: "", labels: Vec::new(), value };
            assert_eq!(read(&one(value)), [row]);
        }
        assert!(read(&one(f64::NAN))[0].value.is_nan());
    }

    proptest! {
        #[test]
        fn whatever_labels_and_values_a_row_has_are_read(
            written in prop::collection::vec(
                ("[ -~\n\r\\\\\"é{},=]{0,12}", "\\PC{0,8}", any::<f64>()),
                1..5,
            )
        ) {
            let mut family = Making::gauge("a", "A.", ["x", "y_z"]);
            for (x, y, value) in &written {
                family.row([x, y], *value);
            }
            let family = family.finish();
            let read = read(&family);
            prop_assert_eq!(read.len(), written.len());
            for (row, (x, y, value)) in read.into_iter().zip(written) {
                prop_assert_eq!(row.labels, [("x", x), ("y_z", y)]);
                prop_assert!(row.value == value || row.value.is_nan() && value.is_nan());
            }
        }
    }
}
