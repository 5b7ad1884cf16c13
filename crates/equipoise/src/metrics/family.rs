//! A family of metrics and its rows.
//!
//! So many rows at most: beyond that, what can be added up is added up in one row whose labels say so, and the rest is left out. A
//! configuration of any size has a scrape of bounded size.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// Rows of a family at most.
const ROWS: usize = 20_000;

/// What stands in place of each label of the row for the rest.
pub(super) const REST: &str = "_rest";

/// A family that is being made.
pub(super) struct Family<const LABELS: usize> {
    kind: MetricType,
    name: &'static str,
    help: &'static str,
    labels: [&'static str; LABELS],
    rows: Vec<Metric>,
    /// The sum of the rows that found no room.
    rest: Option<f64>,
    adds_up: bool,
}

impl<const LABELS: usize> Family<LABELS> {
    /// Of numbers that never fall; its name ends in `_total`.
    pub(super) fn counter(
        name: &'static str,
        help: &'static str,
        labels: [&'static str; LABELS],
    ) -> Self {
        let kind = MetricType::COUNTER;
        Self { kind, name, help, labels, rows: Vec::new(), rest: None, adds_up: true }
    }

    /// Of numbers that are what they are now.
    pub(super) fn gauge(
        name: &'static str,
        help: &'static str,
        labels: [&'static str; LABELS],
    ) -> Self {
        let kind = MetricType::GAUGE;
        Self { kind, name, help, labels, rows: Vec::new(), rest: None, adds_up: false }
    }

    /// As [`Self::gauge`], of numbers whose sum says something.
    pub(super) fn sum(
        name: &'static str,
        help: &'static str,
        labels: [&'static str; LABELS],
    ) -> Self {
        Self { adds_up: true, ..Self::gauge(name, help, labels) }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, values: [&str; LABELS], value: f64) {
        if self.rows.len() < ROWS {
            let row = self.metric(values, value);
            self.rows.push(row);
        } else if self.adds_up {
            *self.rest.get_or_insert_default() += value;
        }
    }

    /// The family as it is written.
    pub(super) fn finish(mut self) -> MetricFamily {
        if let Some(rest) = self.rest {
            let row = self.metric([REST; LABELS], rest);
            self.rows.push(row);
        }
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind);
        family.set_metric(self.rows);
        family
    }

    fn metric(&self, values: [&str; LABELS], value: f64) -> Metric {
        let labels = self.labels.iter().zip(values).map(|(name, value)| {
            let mut label = LabelPair::default();
            label.set_name((*name).to_owned());
            label.set_value(value.to_owned());
            label
        });
        let mut metric = Metric::from_label(labels.collect());
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_added_up_or_left_out() {
        let fill = |mut family: Family<1>| {
            for number in 0..ROWS + 3 {
                family.row([&number.to_string()], 2.0);
            }
            family.finish()
        };
        let counted = fill(Family::counter("a_total", "A.", ["x"]));
        let last = counted.get_metric().last().unwrap();
        assert_eq!(counted.get_metric().len(), ROWS + 1);
        assert_eq!(last.get_label()[0].value(), REST);
        assert!((last.get_counter().get_value() - 6.0).abs() < 1e-9);
        assert_eq!(fill(Family::gauge("b", "B.", ["x"])).get_metric().len(), ROWS);
        assert_eq!(fill(Family::sum("c", "C.", ["x"])).get_metric().len(), ROWS + 1);
    }
}
