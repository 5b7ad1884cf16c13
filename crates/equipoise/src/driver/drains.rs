//! Drains in the loop: begun, undone, counted, and told to who waits.
//!
//! A drain is in the maps before it is answered: from then on the backend gets no new flow. Its live flows are counted again
//! and again until it is over.

use std::time::Duration;

use equipoise_core::config::breaker::OnTimeout;
use equipoise_core::drain::{Drain, Pace, Request, Status};
use equipoise_core::id::BackendKey;
use tokio::time::Instant;

use super::Driver;
use super::clock::millis;
use super::health::in_words;
use super::trouble::Topic;
use crate::admin::{ProblemDetails, Reply};
use crate::dataplane::DataPlane;
use crate::events::{Event, Kind};
use crate::host::Machine;
use crate::status::Decimal;
use crate::status::operate::{
    DrainAnswer, DrainRequest, DrainStatus, DrainsAnswer, UndrainRequest,
};

/// How often the live flows of drained backends are counted.
const COUNTED: Duration = Duration::from_millis(100);
/// What who waits is told when this process ends; the drain itself goes on.
const INTERRUPTED: &str = "interrupted";

/// Who waits for drains.
#[derive(Debug)]
pub(super) struct Waiter {
    answer: DrainAnswer,
    reply: Reply<DrainAnswer>,
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Drains what is meant, and answers when that is in the maps, or when it is over.
    pub(super) fn drain(&mut self, request: &DrainRequest, reply: Reply<DrainAnswer>) {
        match self.try_drain(request) {
            Ok(answer) if request.wait && !answer.drains.iter().all(is_over) => {
                self.waiters.push(Waiter { answer, reply });
            }
            answer => drop(reply.send(answer)),
        }
    }

    fn try_drain(&mut self, request: &DrainRequest) -> Result<DrainAnswer, ProblemDetails> {
        let settings = self.state.config().settings.drain;
        let asked = Request {
            timeout: request.timeout.as_deref().map_or(Ok(settings.timeout), timeout)?,
            on_timeout: request
                .on_timeout
                .as_deref()
                .map_or(Ok(settings.on_timeout), on_timeout)?,
            is_forced: request.force,
        };
        let (itself, others): (Vec<_>, Vec<_>) =
            request.backends.iter().partition(|selection| selection.itself);
        let mut keys = Vec::new();
        for selection in others {
            keys.extend(self.select(selection)?);
        }
        keys.sort();
        keys.dedup();
        if keys.is_empty() && itself.is_empty() {
            return Err(ProblemDetails::unprocessable("nothing is named that is to be drained"));
        }
        let drained: Vec<_> =
            keys.iter().filter(|key| self.state.drains().is_drained(key)).map(in_words).collect();
        if !drained.is_empty() {
            // Nothing is begun where not all can be.
            let message = format!("already drained: {}", drained.join(", "));
            let help = "`equipoise drains` shows how far that is, and `equipoise undrain` ends it";
            return Err(ProblemDetails::conflict(message).with_help(help));
        }
        let lacking = self.lacking();
        for key in &keys {
            let flows = self.open_flows(key);
            // Whether it is drained has just been asked.
            if self.state.handle_drain(key, asked).is_ok() {
                let event = Event::new(Kind::DrainBegun).about(key);
                self.tell(event.because(format!("by hand, with {flows} live flows")));
            }
        }
        self.is_drained |= !itself.is_empty();
        self.due.drains = Some(Instant::now() + COUNTED);
        self.follow_drains()?;
        // Until now a packet may have opened one more flow.
        for key in &keys {
            let flows = self.open_flows(key);
            if let Some(status) = self.state.handle_drain_in_force(key, flows) {
                self.tell_drained(key, status, flows);
            }
        }
        self.save();
        let warnings = self.lacking().into_iter().filter(|pool| !lacking.contains(pool));
        let warnings: Vec<_> = warnings
            .map(|pool| {
                let then =
                    if request.force { "it has no backend" } else { "as its panic policy says" };
                format!("no backend is left in {pool}: {then}")
            })
            .collect();
        let drains = keys.iter().filter_map(|key| self.drain_status(key)).collect();
        Ok(DrainAnswer { drains, last: !warnings.is_empty(), warnings })
    }

    /// Ends drains; who waits for them is told so.
    pub(super) fn undrain(
        &mut self,
        request: &UndrainRequest,
    ) -> Result<Vec<DrainStatus>, ProblemDetails> {
        let selection = request.selection();
        if selection.itself {
            self.is_drained = false;
            self.save();
            return Ok(Vec::new());
        }
        let pace = if request.gradual { Pace::Gradual } else { Pace::AtOnce };
        self.tell_time();
        let mut ended = Vec::new();
        for key in self.select(&selection)? {
            let Some(mut status) = self.drain_status(&key) else { continue };
            let Some(how) = self.state.handle_undrain(&key, pace) else { continue };
            self.tell(Event::new(Kind::Undrained).about(&key).from(how.name()).because("by hand"));
            how.name().clone_into(&mut status.status);
            ended.push(status);
        }
        if ended.is_empty() {
            let help = "`equipoise drains` lists what is";
            return Err(ProblemDetails::not_found("it is not drained").with_help(help));
        }
        self.follow_drains()?;
        // Who gets its share bit by bit gets more soon.
        self.due.health = Some(Instant::now());
        self.tell_waiters(&ended);
        Ok(ended)
    }

    /// All drains.
    pub(super) fn drains(&self) -> DrainsAnswer {
        let keys: Vec<_> = self.state.drains().iter().map(|(key, _)| key.clone()).collect();
        let drains = keys.iter().filter_map(|key| self.drain_status(key)).collect();
        DrainsAnswer { itself: self.is_drained, drains }
    }

    /// Why new flows had better go elsewhere: this balancer is drained, or does not see packets of some service's clients.
    pub(super) fn unready(&self) -> Option<String> {
        if self.is_drained {
            return Some("drained".to_owned());
        }
        let config = self.state.config();
        let mut clients = config.services.iter().flat_map(|service| &service.listen.interfaces);
        // Which one is for those who may see the status.
        let is_missing = clients.any(|name| self.interfaces.failed().contains_key(name));
        is_missing.then(|| "an interface is not attached".to_owned())
    }

    /// Counts the live flows of drained backends, if that is due.
    pub(super) fn count_drained(&mut self, now: Instant) {
        if self.due.drains.is_none_or(|at| at > now) {
            return;
        }
        let waiting: Vec<_> = self.state.drains().waiting().cloned().collect();
        self.due.drains = (!waiting.is_empty()).then(|| now + COUNTED);
        if self.troubles.has(&Topic::Maps) {
            // While the maps do not follow, new flows may come.
            return;
        }
        self.tell_time();
        let mut over = Vec::new();
        for key in waiting {
            let flows = self.open_flows(&key);
            let Some(status) = self.state.handle_drained_flows(&key, flows) else { continue };
            self.tell_drained(&key, status, flows);
            over.extend(self.drain_status(&key));
        }
        if over.is_empty() {
            return;
        }
        if let Err(error) = self.follow_drains() {
            tracing::warn!(error = error.detail, "a drain is not in the maps");
        }
        self.tell_waiters(&over);
    }

    fn tell_drained(&mut self, key: &BackendKey, status: Status, flows: u64) {
        let event = Event::new(Kind::DrainEnded).about(key).to(status.name());
        self.tell(match status {
            Status::TimedOut => event.because(format!("{flows} live flows are left")),
            _ => event.because("its last flow has ended"),
        });
    }

    /// Backends that have left took their drains with them.
    pub(super) fn end_drains(&mut self, cancelled: &[BackendKey], before: &DrainsAnswer) {
        let is_cancelled = |status: &DrainStatus| {
            cancelled.iter().any(|key| is_of(status, key)) && !is_over(status)
        };
        let mut ended: Vec<_> =
            before.drains.iter().filter(|status| is_cancelled(status)).cloned().collect();
        for key in cancelled {
            let event = Event::new(Kind::DrainEnded).about(key).to(Status::Cancelled.name());
            self.tell(event.because("it has left the configuration"));
        }
        for status in &mut ended {
            Status::Cancelled.name().clone_into(&mut status.status);
        }
        self.tell_waiters(&ended);
        self.save();
    }

    /// Who still waits is told that this process ends; the drains go on.
    pub(super) fn interrupt_waiters(&mut self) {
        for Waiter { mut answer, reply } in self.waiters.drain(..) {
            for status in answer.drains.iter_mut().filter(|status| !is_over(status)) {
                INTERRUPTED.clone_into(&mut status.status);
            }
            // Whoever asked may be gone.
            let _: Result<(), _> = reply.send(Ok(answer));
        }
    }

    /// Tells who waits of drains that are over, if those were the last they waited for.
    fn tell_waiters(&mut self, over: &[DrainStatus]) {
        for waiter in &mut self.waiters {
            for status in &mut waiter.answer.drains {
                let same = |other: &&DrainStatus| {
                    (&other.service, &other.route, other.backend)
                        == (&status.service, &status.route, status.backend)
                };
                if let Some(found) = over.iter().find(same) {
                    *status = found.clone();
                }
            }
        }
        let (done, waiting) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter| waiter.answer.drains.iter().all(is_over));
        self.waiters = waiting;
        let done: Vec<Waiter> = done;
        for Waiter { answer, reply } in done {
            // Whoever asked may be gone.
            let _: Result<(), _> = reply.send(Ok(answer));
        }
    }

    /// Makes the maps what follows from a change of drains, and keeps it for the next start.
    fn follow_drains(&mut self) -> Result<(), ProblemDetails> {
        let maps = self.settle_maps();
        self.save();
        maps.map_err(ProblemDetails::failed)
    }

    /// Pools in which no backend is in.
    fn lacking(&self) -> Vec<String> {
        let mut lacking = Vec::new();
        for view in self.state.services() {
            for pool in &view.pools {
                let is_served = pool.backends.iter().any(|b| b.effective_weight.parts() > 0);
                if pool.panics || !is_served {
                    let route = pool.pool.route.map(|route| format!(" from {}", route.name()));
                    lacking.push(format!("{}{}", view.service.name, route.unwrap_or_default()));
                }
            }
        }
        lacking
    }

    /// Flows that a drain waits for: what is over, and is kept for packets that come late, is not worth waiting for.
    fn open_flows(&self, key: &BackendKey) -> u64 {
        self.state.backend_id(key).map_or(0, |id| self.open_flows_of(id))
    }

    fn drain_status(&self, key: &BackendKey) -> Option<DrainStatus> {
        let Drain { request, begun, initial_flows, status, .. } = *self.state.drains().get(key)?;
        let all = self.state.backend_id(key).map_or(0, |id| self.live_flows(id));
        let live_flows = self.open_flows(key);
        Some(DrainStatus {
            service: key.service.to_string(),
            route: key.route_name().to_owned(),
            backend: key.address,
            status: status.name().to_owned(),
            started_at: self.clock.written(begun),
            elapsed_ms: millis(self.clock.now().saturating_sub(begun)),
            timeout_ms: millis(request.timeout),
            on_timeout: request.on_timeout.name().to_owned(),
            forced: request.is_forced,
            configured_weight: Decimal(
                self.state.configured_weight(key).unwrap_or_default().value(),
            ),
            initial_flows,
            live_flows,
            closing_flows: all.saturating_sub(live_flows),
        })
    }
}

fn is_of(status: &DrainStatus, key: &BackendKey) -> bool {
    (&*status.service, &*status.route, status.backend)
        == (&*key.service, key.route_name(), key.address)
}

/// Whether who waits for it has its answer.
fn is_over(status: &DrainStatus) -> bool {
    status.status != Status::Draining.name()
}

fn timeout(text: &str) -> Result<Duration, ProblemDetails> {
    humantime::parse_duration(text).map_err(|_| {
        ProblemDetails::unprocessable(format!(
            "timeout {text:?} is not a duration, such as \"60s\""
        ))
    })
}

fn on_timeout(text: &str) -> Result<OnTimeout, ProblemDetails> {
    let found = OnTimeout::ALL.iter().find(|(name, _)| *name == text);
    found.map(|(_, found)| *found).ok_or_else(|| {
        ProblemDetails::unprocessable(format!(
            "on_timeout {text:?} is neither \"keep\" nor \"reset\""
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_words_are_told() {
        assert!(timeout("60 parsecs").is_err() && timeout("60s").is_ok());
        assert!(on_timeout("wait").is_err() && on_timeout("reset").is_ok());
    }
}
