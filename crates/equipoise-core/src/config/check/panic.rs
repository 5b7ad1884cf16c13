//! How a service's pools leave trouble and what they do in it: `recovery` and `panic`.
//!
//! The backends that step in when a pool panics are checked as others, and become members of each of the service's pools.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use equipoise_common::limit;

use super::health::CheckDraft;
use super::keys;
use super::policy::duration;
use super::report::{Fields, Place, Report};
use super::service::{Backends, backend_drafts};
use crate::config::health::{Panic, PanicPolicy, Recovery, RecoveryMode};
use crate::config::{Role, target};

pub(super) const MODES: [(&str, RecoveryMode); 3] = [
    ("steps", RecoveryMode::Steps),
    ("linear", RecoveryMode::Linear),
    ("none", RecoveryMode::None),
];

pub(super) const POLICIES: [(&str, PanicPolicy); 3] =
    [("all", PanicPolicy::All), ("none", PanicPolicy::None), ("fallback", PanicPolicy::Fallback)];

/// Percent of usable backends; at 100 a whole pool would panic.
pub(super) const THRESHOLD: RangeInclusive<u8> = 0..=99;

/// How a backend that has become healthy gets its share again.
pub(super) fn recovery(report: &mut Report<'_>, fields: &Fields<'_>) -> Recovery {
    let mut recovery = Recovery::default();
    let Some(at) = fields.get("recovery") else { return recovery };
    let Some(fields) = report.fields(&at, &keys::RECOVERY) else { return recovery };
    if let Some(found) = fields.get("mode").and_then(|at| report.choice(&at, &MODES)) {
        recovery.mode = found;
    }
    if let Some(found) = fields.get("slow-start").and_then(|at| duration(report, &at)) {
        recovery.slow_start = found;
    }
    recovery
}

/// What becomes of a pool of which too few backends are usable, and the backends that step in.
pub(super) fn panic(
    report: &mut Report<'_>,
    fields: &Fields<'_>,
    check: &CheckDraft,
) -> (Panic, Backends) {
    let mut panic = Panic::default();
    let Some(at) = fields.get("panic") else { return (panic, Backends::default()) };
    let Some(fields) = report.fields(&at, &keys::PANIC) else {
        return (panic, Backends::default());
    };
    if let Some(found) = fields.get("threshold").and_then(|at| report.number(&at, &THRESHOLD)) {
        panic.threshold = found;
    }
    if let Some(found) = fields.get("policy").and_then(|at| report.choice(&at, &POLICIES)) {
        panic.policy = found;
    }
    let list = fields.get("fallback-backends");
    match (panic.policy, &list) {
        (PanicPolicy::Fallback, None) => {
            let message = "there are no backends to fall back to".to_owned();
            report.problem(&at.place, message, "`fallback-backends`, or another `policy`");
        }
        (PanicPolicy::All | PanicPolicy::None, Some(at)) => {
            let message = "these backends are never chosen".to_owned();
            report.problem(&at.place, message, "`policy = \"fallback\"`, or none of them");
        }
        (PanicPolicy::Fallback, Some(_)) | (PanicPolicy::All | PanicPolicy::None, None) => {}
    }
    let mut fallback = list.map(|at| backend_drafts(report, &at, check)).unwrap_or_default();
    fallback.placed.iter_mut().for_each(|draft| draft.backend.role = Role::Fallback);
    fallback.named.iter_mut().for_each(|draft| draft.named.role = Role::Fallback);
    (panic, fallback)
}

/// Makes the backends that step in members of a pool.
pub(super) fn add_fallback(report: &mut Report<'_>, fallback: &Backends, backends: &mut Backends) {
    let placed = backends.placed.iter().map(|draft| target::text(draft.backend.address));
    let named = backends.named.iter().map(|draft| draft.named.text());
    let there: BTreeSet<_> = placed.chain(named).collect();
    let mut is_new = |text: String, place: &Place| {
        if there.contains(&text) {
            let message = format!("backend `{text}` is in a pool of the service already");
            report.once(place, &message, "backends that no pool of the service has");
        }
        !there.contains(&text)
    };
    for draft in &fallback.placed {
        if is_new(target::text(draft.backend.address), &draft.place) {
            backends.placed.push(draft.clone());
        }
    }
    for draft in &fallback.named {
        if is_new(draft.named.text(), &draft.place) {
            backends.named.push(draft.clone());
        }
    }
    let is_too_long = backends.placed.len() > limit::POOL_BACKENDS as usize;
    if let Some(first) = fallback.placed.first().filter(|_| is_too_long) {
        let message = "with these a pool of the service has too many backends";
        report.once(&first.place, message, &format!("at most {}", limit::POOL_BACKENDS));
    }
}
