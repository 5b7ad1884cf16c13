//! Prefixes of which lists of sources say something.

use std::collections::BTreeSet;

use super::Work;
use crate::diff::{Step, sides};
use crate::plan::Rule;

impl Work<'_> {
    /// Before the policies that make the programs look for them.
    pub(super) fn put_access(&mut self) {
        for (&listed, wanted, there) in sides(&self.desired.access, &self.applied.access) {
            if let Some(&rule) = wanted.filter(|_| wanted != there) {
                self.steps.push(Step::PutAccess { listed, rule });
                // A packet that was let in may still open its flow, which is to be ended as well.
                self.unsettled |= rule == Rule::Deny;
            }
        }
    }

    /// After the policies, which may have kept out what is in no list, and the services that are no more.
    pub(super) fn remove_access(&mut self) {
        let led = self.led();
        for listed in std::mem::take(&mut self.unlisted) {
            let is_asked = listed.service.map_or(!led.is_empty(), |id| led.contains(&id));
            if is_asked {
                self.unlisted.push(listed);
                continue;
            }
            self.steps.push(Step::RemoveAccess { listed });
            self.unsettled = true;
        }
    }

    /// Services that keys still lead to which are to lead to others as soon as these can be put.
    pub(super) fn led(&self) -> BTreeSet<u32> {
        let there = self.services.iter().filter_map(|key| self.applied.services.get(key));
        there.map(|service| service.id).collect()
    }
}
