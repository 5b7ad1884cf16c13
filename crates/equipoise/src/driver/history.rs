//! Who has changed the configuration, when, and what was otherwise by it.
//!
//! The latest ones are kept in memory; the log has them all.

use std::collections::VecDeque;
use std::time::SystemTime;

use serde_json::Value;

use super::Driver;
use crate::admin::ProblemDetails;
use crate::admin::problem::ROLLED_BACK;
use crate::dataplane::DataPlane;
use crate::host::Machine;
use crate::running_config::differences;
use crate::status::change::{ReloadAnswer, ReloadResult};
use crate::status::history::{Author, HistoryEntry};

/// So many are kept.
const KEPT: usize = 100;
/// Of each, so many things that were otherwise.
const TOLD: usize = 200;

/// The latest changes, the oldest first.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<HistoryEntry>);

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Remembers what has become of a configuration, where it was not what ran already.
    pub(super) fn remember(
        &mut self,
        by: Author,
        what: &str,
        before: &Value,
        taken: &Result<ReloadAnswer, ProblemDetails>,
    ) {
        let (result, error) = match taken {
            Ok(ReloadAnswer { result: ReloadResult::Unchanged, .. }) => return,
            Ok(answer) => (answer.result, None),
            Err(problem) if problem.is_of(ROLLED_BACK) => {
                (ReloadResult::RolledBack, Some(problem.detail.clone()))
            }
            Err(problem) => (ReloadResult::Rejected, Some(problem.detail.clone())),
        };
        let mut changes = differences(before, &self.snapshot.borrow().config);
        let more = changes.len().saturating_sub(TOLD);
        changes.truncate(TOLD);
        let History(entries) = &mut self.history;
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(HistoryEntry {
            at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            by,
            what: what.to_owned(),
            result,
            generation: self.generation.number,
            error,
            changes,
            more,
        });
    }

    /// What is remembered, the latest first.
    pub(super) fn history(&self) -> Vec<HistoryEntry> {
        self.history.0.iter().rev().cloned().collect()
    }
}
