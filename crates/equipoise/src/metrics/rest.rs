//! What rows for the rest stood at, so that they never fall.
//!
//! A backend that leaves, or that finds room for a row of its own, takes what it has counted out of the sum of those that have found none. A
//! counter that falls is taken for one that has begun anew, and all that it says for new.

use std::collections::HashMap;

use super::family::{Family, Kind, number};

/// Rows for the rest, by all that stands before their numbers.
#[derive(Debug, Default)]
pub(super) struct Rests(HashMap<String, Stood>);

/// A row as it was last.
#[derive(Clone, Copy, Debug, Default)]
struct Stood {
    /// The sum that was read.
    read: f64,
    /// What has gone out of it until then.
    gone: f64,
}

impl Rests {
    /// Has the rows for the rest of a family tell no less than before.
    pub(super) fn hold(&mut self, family: &mut Family) {
        let Some(at) = family.rest.filter(|_| family.kind != Kind::Gauge) else { return };
        // The largest of the bounds until now: sums of values up to a bound never fall from one bound to the next.
        let mut below: f64 = 0.0;
        for line in family.samples.split_off(at).lines() {
            let Some((row, value)) = line.rsplit_once(' ') else { continue };
            let held = self.held(row, value.parse().unwrap_or_default());
            let held = match family.kind {
                Kind::Histogram if row.contains("_sum{") => held,
                Kind::Histogram => {
                    below = below.max(held);
                    below
                }
                Kind::Counter | Kind::Gauge => held,
            };
            family.samples.push_str(row);
            family.samples.push(' ');
            number(&mut family.samples, held);
            family.samples.push('\n');
        }
    }

    fn held(&mut self, row: &str, read: f64) -> f64 {
        let stood = match self.0.get_mut(row) {
            Some(stood) => stood,
            None => self.0.entry(row.to_owned()).or_default(),
        };
        stood.gone += (stood.read - read).max(0.0);
        stood.read = read;
        read + stood.gone
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::family::{LINES, Labels, Making, REST};
    use super::super::histogram::{Histogram, SECONDS};
    use super::*;

    /// The rows for the rest, by what stands before their numbers.
    fn rest(family: &Family) -> BTreeMap<String, f64> {
        let lines = family.samples.lines().filter(|line| line.contains(REST));
        let parts = lines.map(|line| line.rsplit_once(' ').unwrap());
        parts.map(|(row, value)| (row.to_owned(), value.parse().unwrap())).collect()
    }

    fn counted(rows: usize, each: f64) -> Family {
        let mut making = Making::counter("a_total", "A.", ["x"]);
        for number in 0..rows {
            making.row([&number.to_string()], each);
        }
        making.finish()
    }

    #[test]
    fn what_leaves_is_not_taken_off_and_what_comes_is_added() {
        let mut rests = Rests::default();
        let mut told = |rows: usize, each: f64| {
            let mut family = counted(rows, each);
            rests.hold(&mut family);
            rest(&family).into_values().next()
        };
        assert_eq!(told(LINES + 3, 2.0), Some(6.0));
        assert_eq!(told(LINES + 1, 2.0), Some(6.0), "two have left");
        assert_eq!(told(LINES + 1, 5.0), Some(9.0), "one has counted");
        assert_eq!(told(LINES, 5.0), None);
        assert_eq!(told(LINES + 1, 1.0), Some(9.0), "another one");
        assert_eq!(told(LINES + 1, 1.5), Some(9.5));
    }

    #[test]
    fn bounds_of_a_histogram_stay_in_order_and_none_falls() {
        let mut rests = Rests::default();
        let mut before: BTreeMap<String, f64> = BTreeMap::new();
        let lines = LINES / 15;
        for of_rest in [[0.001, 0.001], [100.0, 0.3], [0.3, 0.001], [100.0, 100.0]] {
            let mut making = Making::histogram("a_seconds", "A.", ["x"]);
            let histogram = |values: &[f64]| {
                let mut histogram = Histogram::new(SECONDS);
                values.iter().for_each(|value| histogram.observe(*value));
                histogram
            };
            for number in 0..lines {
                making.values(&Labels::of(["x"], [&number.to_string()]), &histogram(&[]));
            }
            for value in of_rest {
                making.values(&Labels::of(["x"], ["more"]), &histogram(&[value]));
            }
            let mut family = making.finish();
            rests.hold(&mut family);
            let now = rest(&family);
            let buckets: Vec<f64> = family
                .samples
                .lines()
                .filter(|line| line.contains(REST) && line.contains("_bucket"))
                .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
                .collect();
            assert!(!buckets.is_empty() && buckets.is_sorted(), "{buckets:?}");
            let count = now["a_seconds_count{x=\"_rest\"}"];
            assert_eq!(buckets.last(), Some(&count));
            for (row, value) in &before {
                assert!(now[row] >= *value, "{row}: {value} and then {}", now[row]);
            }
            before = now;
        }
    }

    #[test]
    fn sums_of_what_there_is_now_fall() {
        let mut rests = Rests::default();
        for (rows, sum) in [(LINES + 3, 6.0), (LINES + 1, 2.0)] {
            let mut making = Making::sum("a", "A.", ["x"]);
            for number in 0..rows {
                making.row([&number.to_string()], 2.0);
            }
            let mut family = making.finish();
            rests.hold(&mut family);
            assert_eq!(rest(&family).into_values().next(), Some(sum));
        }
    }
}
