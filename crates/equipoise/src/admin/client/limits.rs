//! Limits, denied prefixes and pools, as the commands ask for them.

use equipoise_core::config::RateOf;
use hyper::Method;

use super::wire::{encode, pairs};
use super::{Client, ClientError};
use crate::status::change::ReloadAnswer;
use crate::status::limits::{Denied, DenyRequest, LimitsAnswer, RateRequest};
use crate::status::pool::PoolShares;

impl Client {
    /// The limits of a service, or of all.
    ///
    /// # Errors
    ///
    /// When there is no answer, or no such service.
    pub async fn limits(&self, service: Option<&str>) -> Result<LimitsAnswer, ClientError> {
        let path = format!("limits?{}", pairs(&[("service", service)]));
        self.ask(Method::GET, &path).await
    }

    /// Gives a service another rate.
    ///
    /// # Errors
    ///
    /// When there is no answer, no such service, or the whole would be wrong.
    pub async fn set_rate(
        &self,
        service: &str,
        of: RateOf,
        request: RateRequest,
    ) -> Result<ReloadAnswer, ClientError> {
        let path = format!("services/{}/limits/{}", encode(service), of.name());
        self.tell(Method::PUT, &path, &request).await
    }

    /// Has a service know no such limit, or none at all.
    ///
    /// # Errors
    ///
    /// When there is no answer, or no such service.
    pub async fn clear_rate(
        &self,
        service: &str,
        of: Option<RateOf>,
    ) -> Result<ReloadAnswer, ClientError> {
        let of = of.map(|of| format!("/{}", of.name())).unwrap_or_default();
        let path = format!("services/{}/limits{of}", encode(service));
        self.ask(Method::DELETE, &path).await
    }

    /// Prefixes that are denied since the file was read.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn denied(&self) -> Result<Vec<Denied>, ClientError> {
        self.ask(Method::GET, "deny").await
    }

    /// Denies clients of a prefix, and ends their flows.
    ///
    /// # Errors
    ///
    /// When there is no answer, it is no prefix, or there is no such service.
    pub async fn deny(
        &self,
        prefix: &str,
        request: &DenyRequest,
    ) -> Result<ReloadAnswer, ClientError> {
        let path = format!("deny/{}", encode(prefix));
        self.tell(Method::PUT, &path, request).await
    }

    /// Lets them in again.
    ///
    /// # Errors
    ///
    /// When there is no answer, or nothing has denied them since the file was read.
    pub async fn allow_again(
        &self,
        prefix: &str,
        service: Option<&str>,
    ) -> Result<ReloadAnswer, ClientError> {
        let path = format!("deny/{}?{}", encode(prefix), pairs(&[("service", service)]));
        self.ask(Method::DELETE, &path).await
    }

    /// What the backends of the pools of a service get, or of one of them.
    ///
    /// # Errors
    ///
    /// When there is no answer, or no such pool.
    pub async fn pools(
        &self,
        service: &str,
        route: Option<&str>,
    ) -> Result<Vec<PoolShares>, ClientError> {
        let path = format!("services/{}/pools?{}", encode(service), pairs(&[("route", route)]));
        self.ask(Method::GET, &path).await
    }

    /// So, after weights that follow live flows have been made anew.
    ///
    /// # Errors
    ///
    /// When there is no answer, no such pool, or its weights do not follow live flows.
    pub async fn recompute(
        &self,
        service: &str,
        route: Option<&str>,
    ) -> Result<Vec<PoolShares>, ClientError> {
        let query = pairs(&[("route", route)]);
        let path = format!("services/{}/pools/recompute?{query}", encode(service));
        self.ask(Method::POST, &path).await
    }
}
