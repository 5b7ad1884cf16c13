//! Families as OTLP has them: metrics with their points, in requests of a bounded size.
//!
//! A counter is a sum, and a histogram a histogram, both counted from a start on; what is so now is a gauge. Names are those of scrapes.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::super::family::{Family, Kind};
use super::rows::{Row, rows};

/// Points of a request at most: a megabyte or two, which collectors and what is before them take.
const POINTS: usize = 4_000;

/// When it was counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Nanoseconds since the Unix epoch; 0 where that is not known.
    since: u64,
    now: u64,
}

impl Times {
    /// Counted from then until now; none where it is not known from when.
    pub(super) fn new(since: Option<SystemTime>, now: SystemTime) -> Self {
        let nanoseconds = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_nanos()).unwrap_or_default()
        };
        Self { since: since.map(nanoseconds).unwrap_or_default(), now: nanoseconds(now) }
    }
}

/// A text by its name.
pub(super) fn attribute(name: &str, value: String) -> KeyValue {
    let value = Some(AnyValue { value: Some(any_value::Value::StringValue(value)) });
    KeyValue { key: name.to_owned(), value, ..KeyValue::default() }
}

/// All families in requests, each made when it is asked for.
pub(super) fn requests(
    families: &[Family],
    resource: &Resource,
    times: Times,
) -> impl Iterator<Item = ExportMetricsServiceRequest> {
    batches(families, times, POINTS).map(|metrics| {
        let scope = InstrumentationScope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let scope = ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() };
        let of_resource = ResourceMetrics {
            resource: Some(resource.clone()),
            scope_metrics: vec![scope],
            ..ResourceMetrics::default()
        };
        ExportMetricsServiceRequest { resource_metrics: vec![of_resource] }
    })
}

/// Metrics with so many points at most together; a family may be in several.
fn batches(families: &[Family], times: Times, most: usize) -> impl Iterator<Item = Vec<Metric>> {
    let pieces = families.iter().flat_map(move |family| pieces(family, times, most));
    let mut pieces = pieces.peekable();
    std::iter::from_fn(move || {
        let (mut points, first) = pieces.next()?;
        let mut batch = vec![first];
        while let Some((more, metric)) = pieces.next_if(|(more, _)| points + more <= most) {
            points += more;
            batch.push(metric);
        }
        Some(batch)
    })
}

/// A family in metrics with so many points at most each, and how many those are.
fn pieces(family: &Family, times: Times, most: usize) -> Vec<(usize, Metric)> {
    let temporality = AggregationTemporality::Cumulative.into();
    let with = |data| Metric {
        name: family.name.to_owned(),
        description: family.help.to_owned(),
        unit: unit(family.name).to_owned(),
        data: Some(data),
        ..Metric::default()
    };
    let numbers =
        |since| -> Vec<_> { rows(family).map(|row| number(row, (since, times.now))).collect() };
    let pieces = match family.kind {
        // It is so now, whenever that began.
        Kind::Gauge => {
            chunked(&numbers(0), most, |data_points| metric::Data::Gauge(Gauge { data_points }))
        }
        Kind::Counter => chunked(&numbers(times.since), most, |data_points| {
            let aggregation_temporality = temporality;
            metric::Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic: true })
        }),
        Kind::Histogram => chunked(&histograms(family, times), most, |data_points| {
            metric::Data::Histogram(Histogram { data_points, aggregation_temporality: temporality })
        }),
    };
    pieces.into_iter().map(|(points, data)| (points, with(data))).collect()
}

/// Points in data with so many at most each, and how many those are.
fn chunked<P: Clone>(
    points: &[P],
    most: usize,
    data: impl Fn(Vec<P>) -> metric::Data,
) -> Vec<(usize, metric::Data)> {
    points.chunks(most).map(|points| (points.len(), data(points.to_vec()))).collect()
}

fn number(row: Row<'_>, (start_time_unix_nano, time_unix_nano): (u64, u64)) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(row.labels),
        start_time_unix_nano,
        time_unix_nano,
        value: Some(number_data_point::Value::AsDouble(row.value)),
        ..NumberDataPoint::default()
    }
}

/// Each from its buckets, which come first and hold all that are up to their bound, its sum and its count.
fn histograms(family: &Family, times: Times) -> Vec<HistogramDataPoint> {
    let mut points = Vec::new();
    let mut point = HistogramDataPoint::default();
    let mut up_to_before = 0;
    for Row { ending, mut labels, value } in rows(family) {
        match ending {
            "_bucket" => {
                let bound = labels.pop().and_then(|(_, bound)| bound.parse::<f64>().ok());
                let up_to = value as u64;
                point.bucket_counts.push(up_to.saturating_sub(up_to_before));
                point.explicit_bounds.extend(bound.filter(|bound| bound.is_finite()));
                up_to_before = up_to;
            }
            "_sum" => point.sum = Some(value),
            _ => {
                point.count = value as u64;
                point.attributes = attributes(labels);
                point.start_time_unix_nano = times.since;
                point.time_unix_nano = times.now;
                points.push(std::mem::take(&mut point));
                up_to_before = 0;
            }
        }
    }
    points
}

fn attributes(labels: Vec<(&str, String)>) -> Vec<KeyValue> {
    labels.into_iter().map(|(name, value)| attribute(name, value)).collect()
}

/// What a name says of its numbers, as UCUM has it.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::family::{Labels, Making};
    use super::super::super::histogram::{self, SECONDS};
    use super::*;

    fn times() -> Times {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        Times::new(Some(at(5)), at(7))
    }

    fn only(family: Family) -> Metric {
        let mut batches: Vec<_> = batches(&[family], times(), POINTS).collect();
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [1]);
        batches.remove(0).remove(0)
    }

    fn double(point: &NumberDataPoint) -> f64 {
        match point.value {
            Some(number_data_point::Value::AsDouble(value)) => value,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_counter_is_a_sum_that_never_falls_from_its_start_on() {
        let mut family = Making::counter("a_total", "It counts.", ["x"]);
        family.row(["1\n\""], 3.0);
        family.row(["2"], 0.0);
        let metric = only(family.finish());
        let said = (&*metric.name, &*metric.description, &*metric.unit);
        assert_eq!(said, ("a_total", "It counts.", ""));
        let Some(metric::Data::Sum(sum)) = metric.data else { panic!("{metric:?}") };
        assert!(sum.is_monotonic);
        assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Cumulative);
        let [first, second] = &sum.data_points[..] else { panic!("{sum:?}") };
        assert_eq!(first.attributes, [attribute("x", "1\n\"".to_owned())]);
        assert_eq!((double(first), double(second)), (3.0, 0.0));
        let times = (first.start_time_unix_nano, first.time_unix_nano);
        assert_eq!(times, (5_000_000_000, 7_000_000_000));
    }

    #[test]
    fn a_gauge_has_no_start() {
        let metric = only(Making::gauge("a_seconds", "A.", []).one(-1.5));
        assert_eq!(metric.unit, "s");
        let Some(metric::Data::Gauge(gauge)) = metric.data else { panic!("{metric:?}") };
        let [point] = &gauge.data_points[..] else { panic!("{gauge:?}") };
        assert_eq!((double(point), point.attributes.len()), (-1.5, 0));
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (0, 7_000_000_000));
    }

    #[test]
    fn a_histogram_has_a_bucket_between_each_two_bounds_and_one_over_all() {
        let mut family = Making::histogram("a_seconds", "A.", ["x"]);
        let mut values = histogram::Histogram::new(SECONDS);
        [0.0005, 0.002, 0.003, 7.0, 99.0].iter().for_each(|value| values.observe(*value));
        family.values(&Labels::of(["x"], ["one"]), &values);
        family.values(&Labels::of(["x"], ["two"]), &histogram::Histogram::new(SECONDS));
        let metric = only(family.finish());
        let Some(metric::Data::Histogram(histogram)) = metric.data else { panic!("{metric:?}") };
        assert_eq!(histogram.aggregation_temporality(), AggregationTemporality::Cumulative);
        let [one, two] = &histogram.data_points[..] else { panic!("{histogram:?}") };
        assert_eq!(one.explicit_bounds, SECONDS);
        assert_eq!(one.bucket_counts, [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((one.count, one.sum), (5, Some(values.sum())));
        assert_eq!(one.attributes, [attribute("x", "one".to_owned())], "without the bound");
        assert_eq!(one.start_time_unix_nano, 5_000_000_000);
        assert_eq!(two.bucket_counts, [0; 13]);
        assert_eq!((two.count, two.sum), (0, Some(0.0)));
        assert_eq!(two.explicit_bounds, SECONDS);
    }

    #[test]
    fn requests_are_of_bounded_size_and_have_each_point_once() {
        let rows = |name, count: usize| {
            let mut family = Making::counter(name, "A.", ["x"]);
            (0..count).for_each(|number| family.row([&number.to_string()], 1.0));
            family.finish()
        };
        let families =
            [rows("a_total", 7), rows("b_total", 0), rows("c_total", 2), rows("d_total", 3)];
        let batches: Vec<_> = batches(&families, times(), 3).collect();
        let points = |metric: &Metric| match &metric.data {
            Some(metric::Data::Sum(sum)) => sum.data_points.len(),
            other => panic!("{other:?}"),
        };
        let told: Vec<Vec<_>> = batches
            .iter()
            .map(|batch| batch.iter().map(|metric| (&*metric.name, points(metric))).collect())
            .collect();
        let expected: [&[(&str, usize)]; 4] = [
            &[("a_total", 3)],
            &[("a_total", 3)],
            &[("a_total", 1), ("c_total", 2)],
            &[("d_total", 3)],
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_start_that_is_not_known_is_none() {
        let times = Times::new(None, UNIX_EPOCH + Duration::from_nanos(9));
        assert_eq!((times.since, times.now), (0, 9));
    }

    #[test]
    fn units_are_those_of_the_names() {
        for (name, expected) in [
            ("lb_uptime_seconds", "s"),
            ("lb_bytes_total", "By"),
            ("lb_backend_flow_bytes", "By"),
            ("lb_up", ""),
            ("lb_packets_total", ""),
        ] {
            assert_eq!(unit(name), expected, "{name}");
        }
    }
}
