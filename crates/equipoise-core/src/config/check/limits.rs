//! The keys of `limits`: rates, and lists of prefixes.
//!
//! What is said for all services has been checked before, so that a service may leave out what is said there.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use equipoise_common::bucket::{MAX_BURST, MAX_RATE};
use equipoise_common::limit;

use super::keys;
use super::prefixes::{self, Item};
use super::report::{At, Fields, Report};
use crate::config::{Limits, List, RateLimit, SourceLimit, SourcePrefix};

pub(super) const RATE: RangeInclusive<u32> = 0..=MAX_RATE;
pub(super) const BURST: RangeInclusive<u32> = 1..=MAX_BURST;
pub(super) const PREFIX_V4: RangeInclusive<u8> = 0..=32;
pub(super) const PREFIX_V6: RangeInclusive<u8> = 0..=128;

/// Whose limits they are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// A service's; those of the settings are known.
    Service,
    /// The settings'.
    Settings,
}

/// Checks limits; what is wrong and reported is left out.
pub(super) fn limits(report: &mut Report<'_>, at: &At<'_>, owner: Owner) -> Limits {
    let mut limits = Limits::default();
    let Some(fields) = report.fields(at, &keys::LIMITS) else { return limits };
    let common = report.common_limits.clone();
    if let Some(at) = fields.get("per-source")
        && let Some(fields) = report.fields(&at, &keys::PER_SOURCE)
    {
        limits.per_source = SourceLimit {
            limit: rate(report, &fields),
            prefix: fields.get("prefix").map(|at| prefix(report, &at)).unwrap_or_default(),
        };
        if owner == Owner::Service {
            need_rate(report, &at, limits.per_source.limit, common.per_source.limit);
        }
    }
    if let Some(at) = fields.get("per-backend")
        && let Some(fields) = report.fields(&at, &keys::PER_BACKEND)
    {
        limits.per_backend = rate(report, &fields);
        if owner == Owner::Service {
            need_rate(report, &at, limits.per_backend, common.per_backend);
        }
    }
    if let Some(at) = fields.get("deny") {
        limits.deny = list(report, &at);
    }
    if let Some(at) = fields.get("allow") {
        limits.allow = list(report, &at);
        let List { written, prefixes } = &limits.allow;
        // Whether all or none are let in then, nobody could tell.
        if !written.is_empty() && prefixes.is_empty() && !is_wrong(report, &at) {
            let message = "nothing in this list is a prefix".to_owned();
            report.problem(&at.place, message, "at least one prefix, or no list");
        }
    }
    limits
}

fn rate(report: &mut Report<'_>, fields: &Fields<'_>) -> RateLimit {
    RateLimit {
        rate: fields.get("rate").and_then(|at| report.number(&at, &RATE)),
        burst: fields.get("burst").and_then(|at| report.number(&at, &BURST)),
    }
}

/// A table that limits nothing is not what was meant.
fn need_rate(report: &mut Report<'_>, at: &At<'_>, own: RateLimit, common: RateLimit) {
    if own.rate.or(common.rate).is_none() && !is_wrong(report, at) {
        let message = "there is no `rate`, here or in `settings.limits`".to_owned();
        let allowed = format!("`rate`: {} to {} in a second", RATE.start(), RATE.end());
        report.problem(&at.place, message, allowed);
    }
}

/// Whether something in this value has been reported.
fn is_wrong(report: &Report<'_>, at: &At<'_>) -> bool {
    // The latest are those of this value.
    report.problems.last().is_some_and(|problem| problem.key.starts_with(&at.place.key))
}

fn prefix(report: &mut Report<'_>, at: &At<'_>) -> SourcePrefix {
    let Some(fields) = report.fields(at, &keys::SOURCE_PREFIX) else {
        return SourcePrefix::default();
    };
    SourcePrefix {
        v4: fields.get("v4").and_then(|at| report.number(&at, &PREFIX_V4)),
        v6: fields.get("v6").and_then(|at| report.number(&at, &PREFIX_V6)),
    }
}

fn list(report: &mut Report<'_>, at: &At<'_>) -> List {
    let items = report.list(at, "a list such as [\"10.0.0.0/8\"]").unwrap_or_default();
    let (mut written, mut prefixes) = (Vec::new(), BTreeSet::new());
    for Item { text, prefixes: more, .. } in
        items.iter().filter_map(|at| prefixes::item(report, at))
    {
        written.push(text);
        prefixes.extend(more);
    }
    const MOST: usize = limit::CONFIGURED_ACCESS as usize;
    let before = report.listed;
    report.listed += prefixes.len();
    if before <= MOST && report.listed > MOST {
        let message = match prefixes.len() {
            1 => "with this one there are too many".to_owned(),
            more => format!("with these {more} prefixes there are too many"),
        };
        report.problem(&at.place, message, format!("at most {MOST} in all lists together"));
    }
    List { written, prefixes: prefixes.into_iter().collect() }
}
