//! When backends are taken out for their failures, and how drains go: `breaker` and `drain`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::keys;
use super::policy::duration_in;
use super::report::{At, Fields, Report};
use crate::config::breaker::{Draining, OnTimeout, Thresholds};

pub(super) const WINDOW: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3600);
const WINDOW_ALLOWED: &str = "\"1s\" to \"1h\", such as \"60s\"";
pub(super) const DRAIN: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(7 * 86_400);
const DRAIN_ALLOWED: &str = "\"0s\" to \"7days\", such as \"30s\"";

pub(super) const REQUESTS: RangeInclusive<u32> = 1..=10_000;
pub(super) const SUCCESSES: RangeInclusive<u32> = 1..=100;
pub(super) const ERRORS: RangeInclusive<u8> = 1..=100;
pub(super) const EJECTED: RangeInclusive<u8> = 0..=100;

/// The thresholds of a pool, of which its table and those above say some; none where there is no table.
pub(super) fn of_pool(
    report: &mut Report<'_>,
    fields: &Fields<'_>,
    above: Option<Thresholds>,
) -> Option<Thresholds> {
    let own = fields.get("breaker");
    own.map(|at| breaker(report, &at, above.unwrap_or_default())).or(above)
}

/// A table of thresholds; what it does not say is as above.
pub(super) fn breaker(report: &mut Report<'_>, at: &At<'_>, above: Thresholds) -> Thresholds {
    let mut found = above;
    let Some(fields) = report.fields(at, &keys::BREAKER) else { return found };
    for (name, place, range) in [
        ("min-requests", &mut found.min_requests, REQUESTS),
        ("half-open-successes", &mut found.half_open_successes, SUCCESSES),
    ] {
        if let Some(value) = fields.get(name).and_then(|at| report.number(&at, &range)) {
            *place = value;
        }
    }
    for (name, place, range) in [
        ("error-threshold", &mut found.error_threshold, ERRORS),
        ("max-ejected", &mut found.max_ejected, EJECTED),
    ] {
        if let Some(value) = fields.get(name).and_then(|at| report.number(&at, &range)) {
            *place = value;
        }
    }
    for (name, place) in [("window", &mut found.window), ("open-for", &mut found.open_for)] {
        let at = fields.get(name);
        if let Some(value) = at.and_then(|at| duration_in(report, &at, &WINDOW, WINDOW_ALLOWED)) {
            *place = value;
        }
    }
    found
}

/// How drains go where nothing else is asked for.
pub(super) fn drain(report: &mut Report<'_>, at: &At<'_>) -> Draining {
    let mut found = Draining::default();
    let Some(fields) = report.fields(at, &keys::DRAIN) else { return found };
    let timeout = fields.get("timeout");
    if let Some(value) = timeout.and_then(|at| duration_in(report, &at, &DRAIN, DRAIN_ALLOWED)) {
        found.timeout = value;
    }
    let on_timeout = fields.get("on-timeout");
    if let Some(value) = on_timeout.and_then(|at| report.choice(&at, &OnTimeout::ALL)) {
        found.on_timeout = value;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, parse};

    fn read(service: &str, settings: &str) -> Result<Config, Vec<String>> {
        let text = format!(
            "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], address = '203.0.113.1', port = 80 }}\n\
             backends = [{{ address = '10.0.0.1:80' }}]\n{service}\n{settings}\n"
        );
        let read = parse("equipoise.toml", &text).map(|checked| checked.config);
        read.map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn there_is_no_breaker_unless_a_table_says_so() {
        assert_eq!(read("", "").unwrap().services[0].breaker, None);
        let config = read("[service.breaker]", "").unwrap();
        assert_eq!(config.services[0].breaker, Some(Thresholds::default()));
        assert_eq!(config.settings.breaker, None);
    }

    #[test]
    fn service_says_key_by_key_what_the_settings_do_not() {
        let settings = "[settings.breaker]\nerror-threshold = 20\nwindow = '10s'\nmax-ejected = 0";
        let common = Thresholds {
            error_threshold: 20,
            window: Duration::from_secs(10),
            max_ejected: 0,
            ..Thresholds::default()
        };
        assert_eq!(read("", settings).unwrap().services[0].breaker, Some(common));
        let own = "[service.breaker]\nwindow = '1h'\nmin-requests = 10000\nopen-for = '1s'\nhalf-open-successes = 100";
        let expected = Thresholds {
            window: Duration::from_secs(3600),
            min_requests: 10_000,
            open_for: Duration::from_secs(1),
            half_open_successes: 100,
            ..common
        };
        assert_eq!(read(own, settings).unwrap().services[0].breaker, Some(expected));
    }

    #[test]
    fn drains_are_as_the_settings_say() {
        assert_eq!(read("", "").unwrap().settings.drain, Draining::default());
        let text = "[settings.drain]\ntimeout = '5m'\non-timeout = 'reset'";
        let expected = Draining { timeout: Duration::from_secs(300), on_timeout: OnTimeout::Reset };
        assert_eq!(read("", text).unwrap().settings.drain, expected);
    }

    #[test]
    fn all_that_is_out_of_range_is_told_at_once() {
        let own = "[service.breaker]\nerror-threshold = 0\nmin-requests = 0\nwindow = '1ms'\nopen-for = 5\n\
                   half-open-successes = 101\nmax-ejected = 101\nerrors = 1";
        let problems = read(own, "[settings.drain]\ntimeout = '8days'\non-timeout = 'wait'");
        let problems = problems.unwrap_err();
        assert_eq!(problems.len(), 9, "{problems:#?}");
    }
}
