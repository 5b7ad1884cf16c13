//! Backends, and the addresses that their clients get.

use std::collections::BTreeSet;

use equipoise_common::value;

use super::Work;
use crate::diff::{Step, sides};
use crate::plan::BackendPlan;

impl Work<'_> {
    pub(super) fn put_backends(&mut self) {
        let (applied, desired) = (self.applied, self.desired);
        for (&id, wanted, there) in sides(&desired.service_holders, &applied.service_holders) {
            if let Some(&holder) = wanted.filter(|_| wanted != there) {
                self.steps.push(Step::ResetServiceCounters { id, holder });
            }
        }
        for (&id, wanted, there) in sides(&desired.backends, &applied.backend_holders) {
            if let Some(backend) = wanted.filter(|b| !b.is_gone() && there != Some(&b.holder)) {
                self.steps.push(Step::ResetBackendCounters { id, holder: backend.holder });
            }
        }
        for (&id, wanted, there) in sides(&desired.backends, &applied.backends) {
            let is_next = |b: &&BackendPlan| {
                !b.is_gone() && there != Some(&b.value) && !has_fallen(there, &b.value)
            };
            if let Some(backend) = wanted.filter(is_next) {
                self.steps.push(Step::PutBackend { id, value: backend.value });
            }
        }
    }

    /// Before the backends that say how many there are.
    pub(super) fn put_snat(&mut self) {
        for (&key, wanted, there) in sides(&self.desired.snat, &self.applied.snat) {
            if let Some(&value) = wanted.filter(|_| wanted != there) {
                self.steps.push(Step::PutSnat { key, value });
            }
        }
        let (desired, applied) = (&self.desired.hairpins, &self.applied.hairpins);
        self.steps.extend(desired.difference(applied).map(|&key| Step::PutHairpin { key }));
        self.steps.extend(applied.difference(desired).map(|&key| Step::RemoveHairpin { key }));
    }

    /// After the backends that have said so; those that stay as they are still do.
    pub(super) fn remove_snat(&mut self, needed: &BTreeSet<u32>) {
        for (&key, wanted, there) in sides(&self.desired.snat, &self.applied.snat) {
            let backend = (key >> 32) as u32;
            if wanted.is_none() && there.is_some() && !needed.contains(&backend) {
                self.steps.push(Step::RemoveSnat { key });
            }
        }
    }

    /// Removes what no slot names any more, or leaves it to its flows.
    pub(super) fn remove_backends(&mut self, needed: &BTreeSet<u32>) {
        for (&id, wanted, there) in sides(&self.desired.backends, &self.applied.backends) {
            let Some(there) = there.filter(|_| !needed.contains(&id)) else { continue };
            match wanted {
                None => self.steps.push(Step::RemoveBackend { id }),
                // Flows are told only when the slots do not lead there any more: they would choose it again.
                Some(plan)
                    if (plan.is_gone() && plan.value != *there)
                        || has_fallen(Some(there), &plan.value) =>
                {
                    self.steps.push(Step::PutBackend { id, value: plan.value });
                }
                Some(_) => {}
            }
        }
    }
}

/// Whether a backend that stays has gone down since.
fn has_fallen(there: Option<&value::Backend>, wanted: &value::Backend) -> bool {
    let holder = |b: &value::Backend| (b.state, b.address, b.port, b.service);
    there.is_some_and(|there| {
        holder(there) == holder(wanted) && there.generation != wanted.generation
    })
}
