//! The client of the admin API, as the commands use it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;

use super::ProblemDetails;
use crate::status::change::{
    AddRequest, ReloadAnswer, ReloadRequest, RuntimeChange, WeightRequest,
};
use crate::status::explain::{ExplainAnswer, ExplainRequest};
use crate::status::health::{BackendHealth, BackendName, HealthFilter, HealthWord};
use crate::status::history::{ConfirmAnswer, HistoryEntry};
use crate::status::names::NameStatus;
use crate::status::operate::{
    BreakerRequest, BreakerStatus, DrainAnswer, DrainRequest, DrainStatus, DrainsAnswer,
    UndrainRequest,
};
use crate::status::pool::{EndAnswer, EndRequest};
use crate::status::{
    Flow, FlowFilter, PlanAnswer, PlanRequest, Status, StopAnswer, UpgradeAnswer, UpgradeRequest,
};

mod events;
mod limits;
mod talkers;
mod wire;

use wire::{Patience, encode, pairs};

pub use events::{EventStream, FlowStream, PacketStream, Told, Wanted};

/// Asks a running instance.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    patience: Patience,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Somebody is there, and does not answer.
    #[error("the instance at {} has not answered within {}", socket.display(), humantime::format_duration(*within))]
    Silent {
        /// Where.
        socket: PathBuf,
        /// How long it had.
        within: Duration,
    },
    /// Nobody answers there.
    #[error("no running instance at {}", .0.display())]
    NoInstance(PathBuf),
    /// The socket cannot be used.
    #[error("{}: {source}", socket.display())]
    Socket {
        /// Where.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The talk broke off, or the answer is not understood.
    #[error("talking to the instance: {0}")]
    Talk(String),
    /// The instance says no.
    #[error("{}", .0.detail)]
    Problem(Box<ProblemDetails>),
}

impl Client {
    /// A client of the instance that listens at `socket`, which waits for answers as long as they take.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), patience: Patience::default() }
    }

    /// So, and answers are to begin in this time: those to questions, and those to what is to be done.
    #[must_use]
    pub fn within(self, question: Duration, order: Duration) -> Self {
        Self { patience: Patience { question: Some(question), order: Some(order) }, ..self }
    }

    /// How the instance is.
    ///
    /// # Errors
    ///
    /// When there is no answer; so for all that follow.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.ask(Method::GET, "status").await
    }

    /// The flows that pass `filter`.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn flows(&self, filter: &FlowFilter) -> Result<Vec<Flow>, ClientError> {
        let path = format!("flows?{}", query(filter));
        self.ask(Method::GET, &path).await
    }

    /// Ends flows.
    ///
    /// # Errors
    ///
    /// When there is no answer, or nothing says which flows.
    pub async fn end_flows(&self, request: &EndRequest) -> Result<EndAnswer, ClientError> {
        let EndRequest { service, backend, client, all, reset } = request;
        let set = |is_set: bool| is_set.then_some("true");
        let query = pairs(&[
            ("service", service.as_deref()),
            ("backend", backend.as_deref()),
            ("client", client.as_deref()),
            ("all", set(*all)),
            ("reset", set(*reset)),
        ]);
        self.ask(Method::DELETE, &format!("flows?{query}")).await
    }

    /// The configuration that runs, as JSON.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn config(&self) -> Result<serde_json::Value, ClientError> {
        self.ask(Method::GET, "config").await
    }

    /// What a configuration would change.
    ///
    /// # Errors
    ///
    /// When there is no answer, or the configuration is wrong.
    pub async fn plan(&self, request: &PlanRequest) -> Result<PlanAnswer, ClientError> {
        self.tell(Method::POST, "plan", request).await
    }

    /// What becomes of a packet.
    ///
    /// # Errors
    ///
    /// When there is no answer, or the packet or the interface is wrong.
    pub async fn explain(&self, request: &ExplainRequest) -> Result<ExplainAnswer, ClientError> {
        self.tell(Method::POST, "explain", request).await
    }

    /// Gives backends no new flows.
    ///
    /// # Errors
    ///
    /// When there is no answer, a backend is not there, or one is drained already.
    pub async fn drain(&self, request: &DrainRequest) -> Result<DrainAnswer, ClientError> {
        self.tell(Method::POST, "drains", request).await
    }

    /// Gives backends new flows again.
    ///
    /// # Errors
    ///
    /// When there is no answer, a backend is not there, or none is drained.
    pub async fn undrain(&self, request: &UndrainRequest) -> Result<Vec<DrainStatus>, ClientError> {
        let path = format!("drains?{}", selected(request));
        self.ask(Method::DELETE, &path).await
    }

    /// All drains.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn drains(&self) -> Result<DrainsAnswer, ClientError> {
        self.ask(Method::GET, "drains").await
    }

    /// The breakers of a service, or of all.
    ///
    /// # Errors
    ///
    /// When there is no answer, or no such service.
    pub async fn breakers(&self, service: Option<&str>) -> Result<Vec<BreakerStatus>, ClientError> {
        let query = pairs(&[("service", service)]);
        self.ask(Method::GET, &format!("breakers?{query}")).await
    }

    /// Opens, closes or resets breakers; how they are then.
    ///
    /// # Errors
    ///
    /// When there is no answer, a backend is not there, or it has no breaker.
    pub async fn turn_breaker(
        &self,
        request: &BreakerRequest,
    ) -> Result<Vec<BreakerStatus>, ClientError> {
        self.tell(Method::POST, "breakers", request).await
    }

    /// The health of the backends that pass `filter`.
    ///
    /// # Errors
    ///
    /// When there is no answer, or there is no such service.
    pub async fn health(&self, filter: &HealthFilter) -> Result<Vec<BackendHealth>, ClientError> {
        let path = format!("health?{}", pairs(&[("service", filter.service.as_deref())]));
        self.ask(Method::GET, &path).await
    }

    /// Says how a backend is.
    ///
    /// # Errors
    ///
    /// When there is no answer, or there is no such backend.
    pub async fn set_health(
        &self,
        name: &BackendName,
        word: &HealthWord,
    ) -> Result<Vec<BackendHealth>, ClientError> {
        self.tell(Method::PUT, &health_of(name), word).await
    }

    /// Has a backend checked; answered when that is done.
    ///
    /// # Errors
    ///
    /// When there is no answer, or there is no such backend, or it has no check.
    pub async fn check_health(
        &self,
        name: &BackendName,
    ) -> Result<Vec<BackendHealth>, ClientError> {
        let path =
            format!("{}/check?{}", health_of(name), pairs(&[("route", name.route.as_deref())]));
        self.ask(Method::POST, &path).await
    }

    /// The names that are looked up.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn names(&self) -> Result<Vec<NameStatus>, ClientError> {
        self.ask(Method::GET, "dns").await
    }

    /// Has a name looked up; answered when that is done.
    ///
    /// # Errors
    ///
    /// When there is no answer, or no service has the name.
    pub async fn refresh_names(&self, name: &str) -> Result<Vec<NameStatus>, ClientError> {
        let path = format!("dns/{}/refresh", encode(name));
        self.ask(Method::POST, &path).await
    }

    /// Has the file read again, or another one.
    ///
    /// # Errors
    ///
    /// When there is no answer, or the configuration is wrong.
    pub async fn reload(&self, request: &ReloadRequest) -> Result<ReloadAnswer, ClientError> {
        self.tell(Method::POST, "reload", request).await
    }

    /// Lets what was taken stay.
    ///
    /// # Errors
    ///
    /// When there is no answer, or nothing to be confirmed.
    pub async fn confirm(&self) -> Result<ConfirmAnswer, ClientError> {
        self.ask(Method::POST, "confirm").await
    }

    /// Who has changed the configuration, the latest first.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn history(&self) -> Result<Vec<HistoryEntry>, ClientError> {
        self.ask(Method::GET, "history").await
    }

    /// What is otherwise than the file says.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn changes(&self) -> Result<Vec<RuntimeChange>, ClientError> {
        self.ask(Method::GET, "changes").await
    }

    /// Gives a backend another weight.
    ///
    /// # Errors
    ///
    /// When there is no answer, no such backend, or the whole would be wrong.
    pub async fn set_weight(
        &self,
        name: &BackendName,
        weight: u16,
    ) -> Result<ReloadAnswer, ClientError> {
        let request = WeightRequest { weight, route: name.route.clone() };
        self.tell(Method::PATCH, &path_of(name), &request).await
    }

    /// Adds a backend to a pool of a service.
    ///
    /// # Errors
    ///
    /// When there is no answer, no such pool, or the whole would be wrong.
    pub async fn add_backend(
        &self,
        service: &str,
        request: &AddRequest,
    ) -> Result<ReloadAnswer, ClientError> {
        let path = format!("services/{}/backends", encode(service));
        self.tell(Method::POST, &path, request).await
    }

    /// Takes a backend out of its pools.
    ///
    /// # Errors
    ///
    /// When there is no answer, no such backend, or the whole would be wrong.
    pub async fn remove_backend(&self, name: &BackendName) -> Result<ReloadAnswer, ClientError> {
        let path = format!("{}?{}", path_of(name), pairs(&[("route", name.route.as_deref())]));
        self.ask(Method::DELETE, &path).await
    }

    /// Runs another binary in place of the process that runs.
    ///
    /// # Errors
    ///
    /// When there is no answer, or the binary has not come to run.
    pub async fn upgrade(&self, request: &UpgradeRequest) -> Result<UpgradeAnswer, ClientError> {
        self.tell(Method::POST, "upgrade", request).await
    }

    /// Ends the instance; answered when everything is removed.
    ///
    /// # Errors
    ///
    /// When there is no answer, or something could not be removed.
    pub async fn stop(&self) -> Result<StopAnswer, ClientError> {
        self.ask(Method::POST, "stop").await
    }
}

fn query(filter: &FlowFilter) -> String {
    let FlowFilter { service, backend, client } = filter;
    let all = [("service", service), ("backend", backend), ("client", client)];
    pairs(&all.map(|(key, value)| (key, value.as_deref())))
}

fn selected(request: &UndrainRequest) -> String {
    let UndrainRequest { service, backend, route, host, itself, gradual } = request;
    let host = host.map(|host| host.to_string());
    pairs(&[
        ("service", service.as_deref()),
        ("backend", backend.as_deref()),
        ("route", route.as_deref()),
        ("host", host.as_deref()),
        ("self", itself.then_some("true")),
        ("gradual", gradual.then_some("true")),
    ])
}

/// The path of a backend.
fn path_of(BackendName { service, backend, .. }: &BackendName) -> String {
    format!("services/{}/backends/{}", encode(service), encode(backend))
}

/// The path of a backend's health.
fn health_of(name: &BackendName) -> String {
    format!("{}/health", path_of(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_travel_percent_encoded() {
        let filter = FlowFilter {
            service: Some("a b&c".into()),
            backend: Some("[2001:db8::1]:80".into()),
            client: None,
        };
        assert_eq!(query(&filter), "service=a%20b%26c&backend=%5B2001%3Adb8%3A%3A1%5D%3A80");
    }
}
