//! Whole services given and taken away while the program runs, as other changes are (`changes`).
//!
//! What is wrong with a service that is given is told with its place in the request, not in a file that does not have it.

use equipoise_core::config::ServiceChange;
use serde_json::Value;

use super::Driver;
use super::select::no_service;
use crate::admin::{Existing, ProblemDetails};
use crate::dataplane::DataPlane;
use crate::host::Machine;
use crate::status::change::ReloadAnswer;

impl<M: Machine, P: DataPlane> Driver<M, P> {
    pub(super) async fn set_service(
        &mut self,
        name: &str,
        table: &Value,
        existing: Existing,
    ) -> Result<ReloadAnswer, ProblemDetails> {
        let services = &self.state.written().services;
        let at = services.iter().position(|service| service.name == name);
        if at.is_some() && existing == Existing::Stays {
            return Err(ProblemDetails::conflict(format!("there is already a service {name:?}")));
        }
        // One that is new comes after all others.
        let at = at.unwrap_or(services.len());
        let mut changes = self.written.changes.clone();
        changes.set_service(name, ServiceChange::Given(table.clone()));
        let taken = self.change(changes, format!("service {name} is given")).await;
        taken.map_err(|problem| problem.within(&format!("service[{at}]")))
    }

    pub(super) async fn remove_service(
        &mut self,
        name: &str,
    ) -> Result<ReloadAnswer, ProblemDetails> {
        let services = &self.state.written().services;
        if !services.iter().any(|service| service.name == name) {
            return Err(no_service(name, services.iter().map(|service| &*service.name)));
        }
        let mut changes = self.written.changes.clone();
        changes.set_service(name, ServiceChange::Removed);
        self.change(changes, format!("service {name} is removed")).await
    }
}
