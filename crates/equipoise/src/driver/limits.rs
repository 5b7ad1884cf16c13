//! Limits shown and changed, and prefixes denied for a while or for good.
//!
//! Changes are taken as those of backends are (`changes`). What is denied until a time is let in again by the loop itself; where that
//! cannot be done yet, it is tried again a little later.

use std::collections::BTreeMap;
use std::time::Duration;

use equipoise_common::verdict::Verdict;
use equipoise_core::config::{Denial, Prefix, RateChange, RateKey, RateOf, Service};
use tokio::time::Instant;

use super::Driver;
use super::answer::unreadable;
use super::clock::asked_for;
use crate::admin::{Configure, ProblemDetails};
use crate::dataplane::DataPlane;
use crate::host::Machine;
use crate::status::change::ReloadAnswer;
use crate::status::history::Author;
use crate::status::limits::{
    Denied, DenyRequest, LimitsAnswer, Rate, RateRequest, ServiceLimits, SourceRate,
};

/// When what could not be let in again is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Verdicts of what limits and lists refuse.
const REFUSALS: [Verdict; 4] =
    [Verdict::SourceDenied, Verdict::SourceLimit, Verdict::BackendLimit, Verdict::FlowLimit];

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// The limits of a service, or of all.
    pub(super) fn limits(&self, service: Option<&str>) -> Result<LimitsAnswer, ProblemDetails> {
        let wanted = match service {
            Some(name) => vec![self.service(name)?],
            None => self.state.config().services.iter().collect(),
        };
        let told = wanted.into_iter().map(|service| self.limits_of(service));
        let mut refused: BTreeMap<String, u64> =
            REFUSALS.map(|verdict| (verdict.name().to_owned(), 0)).into();
        for (_, verdict, count) in self.plane.verdicts().map_err(unreadable)? {
            if let Some(sum) = refused.get_mut(verdict.name()) {
                *sum += count;
            }
        }
        for (why, count) in self.refused_streams().1 {
            if let Some(sum) = refused.get_mut(&why) {
                *sum += count;
            }
        }
        Ok(LimitsAnswer { services: told.collect(), refused })
    }

    fn limits_of(&self, service: &Service) -> ServiceLimits {
        let (own, common) = (&service.policy.limits, &self.state.config().settings.limits);
        let rates = own.rates(common);
        let rate = |(rate, burst)| Rate { rate, burst };
        let changed = self.written.changes.rates();
        let changed = changed.filter(|(key, _)| *key.service == *service.name);
        ServiceLimits {
            service: service.name.clone(),
            per_source: rates.source.map(|numbers| SourceRate {
                rate: rate(numbers),
                prefix_v4: rates.prefix_v4,
                prefix_v6: rates.prefix_v6,
            }),
            per_backend: rates.backend.map(rate),
            allowed: own.allow.prefixes.len() + common.allow.prefixes.len(),
            denied: own.deny.prefixes.len() + common.deny.prefixes.len(),
            changed: changed.map(|(key, _)| key.of.name().to_owned()).collect(),
        }
    }

    /// Prefixes that are denied since the file was read.
    pub(super) fn denied(&self) -> Vec<Denied> {
        let now = self.clock.now();
        let told = self.written.changes.denials().map(|(denial, until)| Denied {
            prefix: denial.prefix.to_string(),
            service: denial.service.as_deref().map(str::to_owned),
            until: until.map(|until| self.clock.written(until)),
            remaining_seconds: until.map(|until| until.saturating_sub(now).as_secs_f64()),
        });
        told.collect()
    }

    pub(super) async fn set_rates(
        &mut self,
        service: &str,
        of: &[RateOf],
        request: RateRequest,
    ) -> Result<ReloadAnswer, ProblemDetails> {
        self.service(service)?;
        let RateRequest { rate, burst } = request;
        let change = RateChange { rate, burst };
        let mut changes = self.written.changes.clone();
        for &of in of {
            changes.set_rate(RateKey { service: service.into(), of }, change);
        }
        self.change(changes, format!("limits of {service}: {change}")).await
    }

    pub(super) async fn deny(
        &mut self,
        prefix: Prefix,
        request: &DenyRequest,
    ) -> Result<ReloadAnswer, ProblemDetails> {
        let DenyRequest { service, for_seconds } = request;
        if let Some(name) = service {
            self.service(name)?;
        }
        let time = for_seconds.map(|seconds| asked_for("for_seconds", seconds)).transpose()?;
        let until = time.map(|time| self.clock.now() + time);
        let denial = Denial { prefix, service: service.as_deref().map(Into::into) };
        let mut changes = self.written.changes.clone();
        let what = format!("{denial} is denied");
        changes.deny(denial, until);
        self.change(changes, what).await
    }

    pub(super) async fn allow_again(
        &mut self,
        denial: &Denial,
    ) -> Result<ReloadAnswer, ProblemDetails> {
        let mut changes = self.written.changes.clone();
        if !changes.allow_again(denial) {
            let message = format!("{denial} has not been denied since the file was read");
            let help = "`equipoise deny list` shows what has been; what the file denies is let in again there";
            return Err(ProblemDetails::not_found(message).with_help(help));
        }
        self.change(changes, format!("{denial} is no longer denied")).await
    }

    pub(super) async fn expire(&mut self) -> Result<ReloadAnswer, ProblemDetails> {
        let mut changes = self.written.changes.clone();
        let over: Vec<_> = changes.expire(self.clock.now()).iter().map(Denial::to_string).collect();
        self.change(changes, format!("{}: denied until now", over.join(", "))).await
    }

    /// Lets in again what was denied until now.
    pub(super) async fn follow_denials(&mut self, now: Instant) {
        let end = self.written.changes.next_end();
        let not_before = self.due.denials_not_before;
        self.due.denials = end.map(|moment| self.clock.instant(moment).max(not_before));
        if self.due.denials.is_none_or(|at| at > now) {
            return;
        }
        if self.configure(&Configure::Expire, Author::Deadline).await.is_err() {
            self.due.denials_not_before = Instant::now() + AGAIN;
        }
        // The next one is looked for in the next turn, which comes at once.
    }
}
