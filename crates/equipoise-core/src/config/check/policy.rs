//! The keys of a service that say how its flows are treated.
//!
//! Each has a default, so that what is wrong and reported leaves a policy that can be used.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::keys;
use super::limits::{self, Owner};
use super::report::{At, Fields, Report, shown};
use crate::config::{
    Fragments, OnBackendDown, OnBackendRemoved, OnEmpty, OnFull, OnUnknown, Policy, Timeouts,
};

/// Live flows of a service or of a backend.
pub(super) const MAX_FLOWS: RangeInclusive<u32> = 0..=64_000_000;

/// The programs' clock has a millisecond, and tells times apart for 26 days.
pub(super) const TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(7 * 24 * 60 * 60);
const TIMEOUT_ALLOWED: &str = "\"100ms\" to \"7days\", such as \"30s\" or \"2h 5m\"";

pub(super) const DOWN: [(&str, OnBackendDown); 3] = [
    ("keep", OnBackendDown::Keep),
    ("reset", OnBackendDown::Reset),
    ("reselect", OnBackendDown::Reselect),
];
pub(super) const REMOVED: [(&str, OnBackendRemoved); 2] =
    [("keep", OnBackendRemoved::Keep), ("reset", OnBackendRemoved::Reset)];
pub(super) const UNKNOWN: [(&str, OnUnknown); 3] =
    [("hash", OnUnknown::Hash), ("reset", OnUnknown::Reset), ("drop", OnUnknown::Drop)];
pub(super) const EMPTY: [(&str, OnEmpty); 3] =
    [("reset", OnEmpty::Reset), ("drop", OnEmpty::Drop), ("pass", OnEmpty::Pass)];
pub(super) const FULL: [(&str, OnFull); 2] = [("hash", OnFull::Hash), ("drop", OnFull::Drop)];

pub(super) const FRAGMENTS: [(&str, Fragments); 3] =
    [("track", Fragments::Track), ("hash", Fragments::Hash), ("drop", Fragments::Drop)];

/// How a service treats its flows.
pub(super) fn policy(report: &mut Report<'_>, fields: &Fields<'_>) -> Policy {
    let limits = fields.get("limits").map(|at| limits::limits(report, &at, Owner::Service));
    let mut choice = Choice { report, fields };
    Policy {
        on_backend_down: choice.of("on-backend-down", &DOWN),
        on_backend_removed: choice.of("on-backend-removed", &REMOVED),
        on_unknown: choice.of("on-unknown", &UNKNOWN),
        on_empty: choice.of("on-empty", &EMPTY),
        on_full: choice.of("on-full", &FULL),
        fragments: choice.of("fragments", &FRAGMENTS),
        max_flows: fields
            .get("max-flows")
            .and_then(|at| max_flows(report, &at))
            .unwrap_or_default(),
        timeouts: fields.get("timeouts").map(|at| timeouts(report, &at)).unwrap_or_default(),
        limits: limits.unwrap_or_default(),
    }
}

/// A limit of live flows; 0 for none.
pub(super) fn max_flows(report: &mut Report<'_>, at: &At<'_>) -> Option<u32> {
    report.number(at, &MAX_FLOWS)
}

struct Choice<'r, 't, 'f> {
    report: &'r mut Report<'t>,
    fields: &'r Fields<'f>,
}

impl Choice<'_, '_, '_> {
    fn of<T: Copy + Default>(&mut self, name: &str, choices: &[(&str, T)]) -> T {
        let at = self.fields.get(name);
        at.and_then(|at| self.report.choice(&at, choices)).unwrap_or_default()
    }
}

fn timeouts(report: &mut Report<'_>, at: &At<'_>) -> Timeouts {
    let mut timeouts = Timeouts::default();
    let Some(fields) = report.fields(at, &keys::TIMEOUTS) else { return timeouts };
    for (name, timeout) in [
        ("tcp-opening", &mut timeouts.tcp_opening),
        ("tcp-established", &mut timeouts.tcp_established),
        ("tcp-closing", &mut timeouts.tcp_closing),
        ("udp-one-way", &mut timeouts.udp_one_way),
        ("udp-two-way", &mut timeouts.udp_two_way),
    ] {
        if let Some(found) = fields.get(name).and_then(|at| duration(report, &at)) {
            *timeout = found;
        }
    }
    if let Some(found) = fields.get("reset-on-expiry").and_then(|at| report.boolean(&at)) {
        timeouts.reset_on_expiry = found;
    }
    timeouts
}

pub(super) fn duration(report: &mut Report<'_>, at: &At<'_>) -> Option<Duration> {
    duration_in(report, at, &TIMEOUT, TIMEOUT_ALLOWED)
}

/// A duration within a range, which is `allowed` in words.
pub(super) fn duration_in(
    report: &mut Report<'_>,
    at: &At<'_>,
    range: &RangeInclusive<Duration>,
    allowed: &str,
) -> Option<Duration> {
    let text = report.text(at, allowed)?;
    let Ok(duration) = humantime::parse_duration(text) else {
        let message = format!("{} is not a duration", shown(text));
        report.problem(&at.place, message, allowed);
        return None;
    };
    if !range.contains(&duration) {
        report.problem(&at.place, format!("{} is out of range", shown(text)), allowed);
        return None;
    }
    Some(duration)
}
