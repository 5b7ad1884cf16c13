//! Which sources have most: of flows that have opened lately, and of those in the table.

use std::collections::BTreeMap;

use super::Driver;
use super::answer::unreadable;
use super::listing::{names, service_id};
use crate::admin::ProblemDetails;
use crate::dataplane::DataPlane;
use crate::host::Machine;
use crate::status::talkers::{By, ServiceTalkers, TalkersRequest, TopTalkers};
use crate::talkers::Sketch;

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// The sources with most, service by service.
    pub(super) fn talkers(&self, asked: &TalkersRequest) -> Result<TopTalkers, ProblemDetails> {
        let services = self.state.services();
        let wanted = asked.service.as_deref();
        let wanted = wanted.map(|name| service_id(&names(&services), name)).transpose()?;
        let (over_seconds, counted) = match asked.by.unwrap_or_default() {
            By::NewFlows if !self.state.config().settings.events => {
                let message = "new flows are not told of: `events` of the settings is false";
                return Err(ProblemDetails::conflict(message));
            }
            By::NewFlows => {
                let (over, counted) = self.events.sources();
                (Some(over.as_secs_f64()), counted)
            }
            By::LiveFlows => {
                let mut sketches: BTreeMap<u32, Sketch> = BTreeMap::new();
                let all = self.each_flow(&mut |row| {
                    let sketch = sketches.entry(row.service).or_default();
                    sketch.add(row.client.ip().into());
                    true
                });
                all.map_err(unreadable)?;
                let told = |(id, sketch): (u32, Sketch)| (id, (sketch.total(), sketch.talkers()));
                (None, sketches.into_iter().map(told).collect())
            }
        };
        let limit = asked.limit.unwrap_or(TalkersRequest::LIMIT);
        let of_service = |view: &equipoise_core::state::ServiceView<'_>| {
            let id = view.id.filter(|id| wanted.is_none_or(|wanted| wanted == *id))?;
            let (total, talkers) = counted.get(&id)?;
            Some(ServiceTalkers::of(Some(view.service.name.clone()), *total, talkers, limit))
        };
        let services = services.iter().filter_map(of_service).collect();
        Ok(TopTalkers { over_seconds, services, skipped: 0 })
    }
}
