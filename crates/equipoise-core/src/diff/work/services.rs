//! Services, what leads to them, and what replies of no flow become.

use std::collections::BTreeSet;

use super::Work;
use crate::diff::{Step, sides};
use crate::plan::ServiceKey;

impl Work<'_> {
    pub(super) fn put_policies(&mut self) {
        for (&id, wanted, there) in sides(&self.desired.policies, &self.applied.policies) {
            if let Some(&value) = wanted.filter(|_| wanted != there) {
                self.steps.push(Step::PutPolicy { id, value });
            }
        }
    }

    /// Before the services whose packets look for them. Of a service for one of whose routes there is no pool yet, those
    /// that are shorter wait, too: else sources of the longer one would be led by them meanwhile.
    pub(super) fn put_routes(&mut self) {
        let mut waiting = BTreeSet::new();
        for routed in std::mem::take(&mut self.routes) {
            let pool = self.desired.routes[&routed];
            if waiting.contains(&routed.service) || !self.has_pool(pool) {
                waiting.insert(routed.service);
                self.routes.push(routed);
                continue;
            }
            self.steps.push(Step::PutRoute { routed, pool });
            self.unsettled |= self.applied.routes.contains_key(&routed);
        }
    }

    /// After the services that are no more, and after the routes that come in place of these.
    pub(super) fn remove_routes(&mut self) {
        let mut waiting = self.waiting();
        waiting.extend(self.led());
        for routed in std::mem::take(&mut self.unrouted) {
            if waiting.contains(&routed.service) {
                self.unrouted.push(routed);
                continue;
            }
            self.steps.push(Step::RemoveRoute { routed });
            self.unsettled = true;
        }
    }

    /// Services that have routes still to be put.
    fn waiting(&self) -> BTreeSet<u32> {
        self.routes.iter().map(|routed| routed.service).collect()
    }

    pub(super) fn put_services(&mut self) {
        let routes = self.waiting();
        let waiting = std::mem::take(&mut self.services);
        self.services =
            waiting.into_iter().filter(|&key| !self.put_service(key, &routes)).collect();
    }

    /// False while a pool of it is not there.
    fn put_service(&mut self, key: ServiceKey, waiting: &BTreeSet<u32>) -> bool {
        let value = self.desired.services[&key];
        if !self.has_pool(value.pool) || waiting.contains(&value.id) {
            return false;
        }
        self.steps.push(Step::PutService { key, value });
        self.unsettled |= self.applied.services.contains_key(&key);
        true
    }

    /// What replies of no flow become. Whoever looks one up looks nothing else up, so order does not matter.
    pub(super) fn follow_replies(&mut self) {
        for (&key, wanted, there) in sides(&self.desired.replies, &self.applied.replies) {
            match (wanted, there) {
                (Some(&value), there) if there != Some(&value) => {
                    self.steps.push(Step::PutReply { key, value });
                }
                (None, Some(_)) => self.steps.push(Step::RemoveReply { key }),
                (Some(_), _) | (None, None) => {}
            }
        }
    }

    pub(super) fn remove_services(&mut self) {
        let sides = sides(&self.desired.services, &self.applied.services);
        let mut gone: Vec<ServiceKey> =
            sides.filter(|(_, wanted, _)| wanted.is_none()).map(|(&key, ..)| key).collect();
        gone.sort_by_key(ServiceKey::port_bits);
        self.unsettled |= !gone.is_empty();
        self.steps.extend(gone.into_iter().map(|key| Step::RemoveService { key }));
    }
}
