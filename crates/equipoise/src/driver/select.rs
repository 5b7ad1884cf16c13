//! Which backends an operator means.

use equipoise_core::config::{self, target};
use equipoise_core::id::BackendKey;

use super::Driver;
use crate::admin::ProblemDetails;
use crate::dataplane::DataPlane;
use crate::host::Machine;
use crate::status::operate::Selection;

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// The backends that are meant; at least one.
    pub(super) fn select(&self, selection: &Selection) -> Result<Vec<BackendKey>, ProblemDetails> {
        let Selection { service, backend, route, host, .. } = selection;
        match (service, backend, host) {
            (Some(service), Some(backend), None) => {
                self.backends(service, backend, route.as_deref())
            }
            (None, None, Some(host)) => {
                let found = self.all_backends(|key| key.address.ip() == *host);
                if found.is_empty() {
                    return Err(ProblemDetails::not_found(format!("no backend is on {host}")));
                }
                Ok(found)
            }
            _ => Err(ProblemDetails::unprocessable(
                "a service and a backend are to be named, or a host, or this balancer itself",
            )),
        }
    }

    /// A backend of a service by its address, or all of a name, in all pools that have them, or in that of a route.
    pub(super) fn backends(
        &self,
        service: &str,
        backend: &str,
        route: Option<&str>,
    ) -> Result<Vec<BackendKey>, ProblemDetails> {
        self.service(service)?;
        let named = self.state.named(&backend.to_ascii_lowercase());
        let address = target::parse(backend);
        if address.is_none() && named.is_empty() && !backend.contains('.') {
            let message = format!("{backend:?} is no address with a port, and no name");
            return Err(ProblemDetails::unprocessable(message));
        }
        let is_meant = |key: &BackendKey| {
            *key.service == *service
                && (Some(key.address) == address || named.contains(key))
                && route.is_none_or(|route| route == key.route_name())
        };
        let found = self.all_backends(is_meant);
        if found.is_empty() {
            let place = route.map(|route| format!(", route {route:?}")).unwrap_or_default();
            let message = format!("service {service:?}{place} has no backend {backend}");
            return Err(ProblemDetails::not_found(message));
        }
        Ok(found)
    }

    /// A service of the configuration in force.
    pub(super) fn service(&self, name: &str) -> Result<&config::Service, ProblemDetails> {
        let services = &self.state.config().services;
        let found = services.iter().find(|service| service.name == name);
        found.ok_or_else(|| ProblemDetails::not_found(format!("there is no service {name:?}")))
    }

    /// The backends of all pools that are meant, in the order of the file, and then those that a name may bring back.
    pub(super) fn all_backends(&self, is_meant: impl Fn(&BackendKey) -> bool) -> Vec<BackendKey> {
        let all = BackendKey::all(self.state.config()).map(|(key, _)| key);
        all.chain(self.state.absent().cloned()).filter(is_meant).collect()
    }
}
