//! How pools leave trouble and what they do in it: `recovery` and `panic`.
//!
//! Either may stand in settings, a service and a route, laid over each other key by key. The backends that step in when a pool panics
//! are checked as others, and become members of each pool whose tables say so.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use equipoise_common::limit;

use super::health::CheckDraft;
use super::keys;
use super::policy::duration;
use super::report::{At, Fields, Place, Report};
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

/// How a backend that has become healthy gets its share again; what its table does not say is as above.
pub(super) fn recovery(report: &mut Report<'_>, fields: &Fields<'_>, above: Recovery) -> Recovery {
    let mut recovery = above;
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

/// The tables of `panic` of a pool and around it, as far as they are right.
#[derive(Clone, Default)]
pub(super) struct PanicDraft {
    /// The nearest table; none where there is none at all.
    place: Option<Place>,
    panic: Panic,
    /// Backends that step in, where any table has them.
    fallback: Option<Backends>,
    /// Where the nearest table has them, though they do not step in by what is said there.
    idle: Option<Place>,
}

/// The table of `panic` and those around it, whose draft is `above`; backends that step in are checked as `check` says.
pub(super) fn panic(
    report: &mut Report<'_>,
    fields: &Fields<'_>,
    (check, above): (&CheckDraft, &PanicDraft),
) -> PanicDraft {
    let mut draft = PanicDraft { idle: None, ..above.clone() };
    let Some(at) = fields.get("panic") else { return draft };
    let Some(fields) = report.fields(&at, &keys::PANIC) else { return draft };
    draft.place = Some(at.place.clone());
    if let Some(found) = fields.get("threshold").and_then(|at| report.number(&at, &THRESHOLD)) {
        draft.panic.threshold = found;
    }
    if let Some(found) = fields.get("policy").and_then(|at| report.choice(&at, &POLICIES)) {
        draft.panic.policy = found;
    }
    if let Some(at) = fields.get("fallback-backends") {
        let mut fallback = backend_drafts(report, &at, check);
        fallback.placed.iter_mut().for_each(|draft| draft.backend.role = Role::Fallback);
        fallback.named.iter_mut().for_each(|draft| draft.named.role = Role::Fallback);
        draft.fallback = Some(fallback);
        draft.idle = (draft.panic.policy != PanicPolicy::Fallback).then_some(at.place);
    }
    draft
}

/// The table of `panic` of the settings. Backends that step in are of a service.
pub(super) fn common_panic(report: &mut Report<'_>, fields: &Fields<'_>) -> PanicDraft {
    let above = PanicDraft::default();
    let draft = panic(report, fields, (&CheckDraft::default(), &above));
    let list = fields.get("panic").filter(At::is_table).and_then(|at| {
        let fields = report.table(&at, String::new)?;
        fields.all().find(|(name, _)| *name == "fallback-backends").map(|(_, at)| at)
    });
    if let Some(at) = list {
        let message = "these backends are of no service".to_owned();
        report.problem(&at.place, message, "`fallback-backends` in services or routes");
    }
    PanicDraft { fallback: None, ..draft }
}

impl PanicDraft {
    /// Says that the nearest table has backends that never step in.
    pub(super) fn note_idle(&self, report: &mut Report<'_>) {
        if let Some(place) = &self.idle {
            let message = "these backends are never chosen".to_owned();
            report.problem(place, message, "`policy = \"fallback\"`, or none of them");
        }
    }

    /// What becomes of a pool; the backends that step in become members of it.
    pub(super) fn finish(&self, report: &mut Report<'_>, backends: &mut Backends) -> Panic {
        match (self.panic.policy, &self.fallback, &self.place) {
            (PanicPolicy::Fallback, Some(fallback), _) => add_fallback(report, fallback, backends),
            (PanicPolicy::Fallback, None, Some(place)) => {
                let message = "there are no backends to fall back to";
                report.once(place, message, "`fallback-backends`, or another `policy`");
            }
            (PanicPolicy::Fallback, None, None) | (PanicPolicy::All | PanicPolicy::None, ..) => {}
        }
        self.panic
    }
}

/// Makes the backends that step in members of a pool.
fn add_fallback(report: &mut Report<'_>, fallback: &Backends, backends: &mut Backends) {
    let placed = backends.placed.iter().map(|draft| target::text(draft.backend.address));
    let named = backends.named.iter().map(|draft| draft.named.text());
    let there: BTreeSet<_> = placed.chain(named).collect();
    let mut is_new = |text: String, place: &Place| {
        if there.contains(&text) {
            let message = format!("backend `{text}` is in the pool already");
            report.once(place, &message, "backends that the pool does not have");
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
        let message = "with these a pool has too many backends";
        report.once(&first.place, message, &format!("at most {}", limit::POOL_BACKENDS));
    }
}
