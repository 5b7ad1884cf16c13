//! What has become of packets, as data: for `--json` and for people.

use std::collections::BTreeMap;

use equipoise_common::decap::Verdict;
use equipoise_common::verdict::Hook;
use serde::Serialize;

use crate::status::InterfaceStatus;

/// How a process that decapsulates is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It runs.
    Running,
    /// It has taken its programs off.
    Ended,
}

/// A process that decapsulates, and its counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How it is.
    pub state: State,
    /// Its name.
    pub instance: String,
    /// Its process.
    pub pid: u32,
    /// Where its programs hang, or hung.
    pub interfaces: Vec<InterfaceStatus>,
    /// Packets by verdict, over all hooks.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// Packets by hook and verdict; those that are 0 are left out.
    pub hooks: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
}

impl Report {
    pub(super) fn new(
        state: State,
        instance: &str,
        interfaces: Vec<InterfaceStatus>,
        counts: &[(Hook, Verdict, u64)],
    ) -> Self {
        let mut verdicts = BTreeMap::new();
        let mut hooks: BTreeMap<_, BTreeMap<_, _>> =
            Hook::ALL.iter().map(|hook| (hook.name(), BTreeMap::new())).collect();
        for &(hook, verdict, count) in counts {
            *verdicts.entry(verdict.name()).or_default() += count;
            if count > 0 {
                hooks.entry(hook.name()).or_default().insert(verdict.name(), count);
            }
        }
        let (instance, pid) = (instance.to_owned(), std::process::id());
        Self { state, instance, pid, interfaces, verdicts, hooks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_up_over_hooks_and_zeros_are_left_out_of_each() {
        let counts = [(Hook::Xdp, Verdict::Gue, 2), (Hook::Ingress, Verdict::Gue, 3)];
        let report = Report::new(State::Running, "default", Vec::new(), &counts);
        assert_eq!(report.verdicts["gue"], 5);
        assert_eq!(report.hooks["tc-ingress"]["gue"], 3);
        assert!(report.hooks["tc-egress"].is_empty());
    }
}
