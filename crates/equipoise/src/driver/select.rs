//! Which backends an operator means.

use equipoise_core::config::{self, target};
use equipoise_core::id::BackendKey;

use super::Driver;
use crate::admin::ProblemDetails;
use crate::dataplane::DataPlane;
use crate::host::Machine;
use crate::known::there_are;
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
                    let hosts: Vec<_> = BackendKey::all(self.state.config())
                        .map(|(key, _)| key.address.ip().to_string())
                        .collect();
                    let hosts = hosts.iter().map(String::as_str);
                    let help = there_are("addresses of backends", &host.to_string(), hosts);
                    let problem = ProblemDetails::not_found(format!("no backend is on {host}"));
                    return Err(problem.with_help(help));
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
            let help = self.backends_of(service, backend);
            return Err(ProblemDetails::unprocessable(message).with_help(help));
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
            let help = self.backends_of(service, backend);
            return Err(ProblemDetails::not_found(message).with_help(help));
        }
        Ok(found)
    }

    /// A service of the configuration in force.
    pub(super) fn service(&self, name: &str) -> Result<&config::Service, ProblemDetails> {
        let services = &self.state.config().services;
        let found = services.iter().find(|service| service.name == name);
        found.ok_or_else(|| no_service(name, services.iter().map(|service| &*service.name)))
    }

    /// The backends that a service has, for whoever has named another.
    fn backends_of(&self, service: &str, backend: &str) -> String {
        let of = self.all_backends(|key| *key.service == *service);
        let of: Vec<_> = of.iter().map(|key| target::text(key.address)).collect();
        there_are("backends", backend, of.iter().map(String::as_str))
    }

    /// The backends of all pools that are meant, in the order of the file, and then those that a name may bring back.
    pub(super) fn all_backends(&self, is_meant: impl Fn(&BackendKey) -> bool) -> Vec<BackendKey> {
        let all = BackendKey::all(self.state.config()).map(|(key, _)| key);
        all.chain(self.state.absent().cloned()).filter(is_meant).collect()
    }
}

/// There is no service of this name, and these are there.
pub(super) fn no_service<'k>(
    name: &str,
    services: impl IntoIterator<Item = &'k str>,
) -> ProblemDetails {
    ProblemDetails::not_found(format!("there is no service {name:?}"))
        .with_help(there_are("services", name, services))
}
