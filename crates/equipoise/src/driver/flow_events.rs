//! Flows as they open and close: who writes them, who follows them, and whose they are.

use std::sync::Arc;

use equipoise_core::id::BackendKey;

use super::Driver;
use super::listing::names;
use crate::admin::ProblemDetails;
use crate::dataplane::DataPlane;
use crate::flow_events::{FlowFollower, Owner, Wanted};
use crate::host::Machine;
use crate::status::FlowFilter;

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Writes flows as the configuration says.
    pub(super) fn follow_access_log(&mut self) {
        let wanted = self.state.config().settings.access_log.as_ref();
        self.access_log.follow(wanted);
        self.name_flows();
    }

    /// Who writes or follows flows knows whose they are.
    fn name_flows(&self) {
        if self.access_log.is_on() {
            let named = |(key, id): (BackendKey, u32)| {
                (id, Owner { service: Arc::clone(&key.service), route: key.route_name().into() })
            };
            self.access_log.know(self.state.holders(|_| true).into_iter().map(named));
        }
    }

    /// Flows that pass a filter, as they open and close from now on.
    pub(super) fn follow_flows(&self, asked: &FlowFilter) -> Result<FlowFollower, ProblemDetails> {
        if !self.state.config().settings.events {
            let message = "flows are not told of: `events` of the settings is false";
            return Err(ProblemDetails::conflict(message));
        }
        let services = self.state.services();
        let filter = self.filter(asked, &names(&services))?;
        filter.is_of_something(&services)?;
        let (service, ends) = (asked.service.clone(), filter.ends);
        let follower = self.access_log.followed(Wanted { service, ends });
        // Nobody may have asked for that until now.
        self.name_flows();
        Ok(follower)
    }
}
