//! Breakers in the loop: shown, and turned by hand.

use equipoise_core::id::BackendKey;
use equipoise_core::state::Turn;

use super::Driver;
use crate::admin::ProblemDetails;
use crate::dataplane::DataPlane;
use crate::host::Machine;
use crate::status::operate::{BreakerRequest, BreakerStatus};

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// The breakers of a service, or of all.
    pub(super) fn breakers(
        &self,
        service: Option<&str>,
    ) -> Result<Vec<BreakerStatus>, ProblemDetails> {
        if let Some(name) = service {
            self.service(name)?;
        }
        let is_meant = |key: &BackendKey| service.is_none_or(|name| *key.service == *name);
        let keys = self.all_backends(is_meant);
        Ok(keys.iter().filter_map(|key| self.breaker_status(key)).collect())
    }

    /// Turns breakers; answers with how they are then.
    pub(super) fn turn_breaker(
        &mut self,
        request: &BreakerRequest,
    ) -> Result<Vec<BreakerStatus>, ProblemDetails> {
        let turn = match &*request.action {
            "open" => Turn::Open,
            "close" => Turn::Close,
            "reset" => Turn::Reset,
            other => {
                let message = format!("action {other:?} is none of open, close and reset");
                return Err(ProblemDetails::unprocessable(message));
            }
        };
        let keys = self.backends(&request.service, &request.backend, request.route.as_deref())?;
        self.tell_time();
        let mut is_any = false;
        for key in &keys {
            let Some(change) = self.state.handle_breaker(key, turn) else { continue };
            is_any = true;
            if let Some(change) = change {
                self.tell_turned(key, &change, "by hand");
            }
        }
        if !is_any {
            let message = format!("service {:?} has no breakers", request.service);
            let help = "`breaker` of the service, or of the settings, gives it some; `equipoise drain` takes a backend out by hand";
            return Err(ProblemDetails::not_found(message).with_help(help));
        }
        self.settle_maps().map_err(ProblemDetails::failed)?;
        Ok(keys.iter().filter_map(|key| self.breaker_status(key)).collect())
    }

    fn breaker_status(&self, key: &BackendKey) -> Option<BreakerStatus> {
        let standing = self.state.breaker(key)?;
        let (successes, failures) = standing.counts;
        let all = successes + failures;
        Some(BreakerStatus {
            service: key.service.to_string(),
            route: key.route_name().to_owned(),
            backend: key.address,
            state: standing.state.name().to_owned(),
            since: self.clock.written(standing.since),
            open_until: standing.open_until.map(|until| self.clock.written(until)),
            successes,
            failures,
            error_rate: if all == 0 { 0.0 } else { failures as f64 / all as f64 },
        })
    }
}
