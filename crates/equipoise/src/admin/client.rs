//! The client of the admin API, as the commands use it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

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

pub use events::{EventStream, FlowStream, PacketStream, Told, Wanted};

/// Asks a running instance.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    patience: Patience,
}

/// How long an answer may take to begin.
#[derive(Clone, Copy, Debug, Default)]
struct Patience {
    /// That of a question; none for as long as it takes.
    question: Option<Duration>,
    /// That of what is to be done.
    order: Option<Duration>,
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
        self.read(self.send(Method::GET, "status", Bytes::new()).await?).await
    }

    /// The flows that pass `filter`.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn flows(&self, filter: &FlowFilter) -> Result<Vec<Flow>, ClientError> {
        let path = format!("flows?{}", query(filter));
        self.read(self.send(Method::GET, &path, Bytes::new()).await?).await
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
        self.read(self.send(Method::DELETE, &format!("flows?{query}"), Bytes::new()).await?).await
    }

    /// The configuration that runs, as JSON.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn config(&self) -> Result<serde_json::Value, ClientError> {
        self.read(self.send(Method::GET, "config", Bytes::new()).await?).await
    }

    /// What a configuration would change.
    ///
    /// # Errors
    ///
    /// When there is no answer, or the configuration is wrong.
    pub async fn plan(&self, request: &PlanRequest) -> Result<PlanAnswer, ClientError> {
        self.read(self.send(Method::POST, "plan", json(request)?).await?).await
    }

    /// What becomes of a packet.
    ///
    /// # Errors
    ///
    /// When there is no answer, or the packet or the interface is wrong.
    pub async fn explain(&self, request: &ExplainRequest) -> Result<ExplainAnswer, ClientError> {
        self.read(self.send(Method::POST, "explain", json(request)?).await?).await
    }

    /// Gives backends no new flows.
    ///
    /// # Errors
    ///
    /// When there is no answer, a backend is not there, or one is drained already.
    pub async fn drain(&self, request: &DrainRequest) -> Result<DrainAnswer, ClientError> {
        self.read(self.send(Method::POST, "drains", json(request)?).await?).await
    }

    /// Gives backends new flows again.
    ///
    /// # Errors
    ///
    /// When there is no answer, a backend is not there, or none is drained.
    pub async fn undrain(&self, request: &UndrainRequest) -> Result<Vec<DrainStatus>, ClientError> {
        let path = format!("drains?{}", selected(request));
        self.read(self.send(Method::DELETE, &path, Bytes::new()).await?).await
    }

    /// All drains.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn drains(&self) -> Result<DrainsAnswer, ClientError> {
        self.read(self.send(Method::GET, "drains", Bytes::new()).await?).await
    }

    /// The breakers of a service, or of all.
    ///
    /// # Errors
    ///
    /// When there is no answer, or no such service.
    pub async fn breakers(&self, service: Option<&str>) -> Result<Vec<BreakerStatus>, ClientError> {
        let query = pairs(&[("service", service)]);
        self.read(self.send(Method::GET, &format!("breakers?{query}"), Bytes::new()).await?).await
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
        self.read(self.send(Method::POST, "breakers", json(request)?).await?).await
    }

    /// The health of the backends that pass `filter`.
    ///
    /// # Errors
    ///
    /// When there is no answer, or there is no such service.
    pub async fn health(&self, filter: &HealthFilter) -> Result<Vec<BackendHealth>, ClientError> {
        let path = format!("health?{}", pairs(&[("service", filter.service.as_deref())]));
        self.read(self.send(Method::GET, &path, Bytes::new()).await?).await
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
        self.read(self.send(Method::PUT, &health_of(name), json(word)?).await?).await
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
        self.read(self.send(Method::POST, &path, Bytes::new()).await?).await
    }

    /// The names that are looked up.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn names(&self) -> Result<Vec<NameStatus>, ClientError> {
        self.read(self.send(Method::GET, "dns", Bytes::new()).await?).await
    }

    /// Has a name looked up; answered when that is done.
    ///
    /// # Errors
    ///
    /// When there is no answer, or no service has the name.
    pub async fn refresh_names(&self, name: &str) -> Result<Vec<NameStatus>, ClientError> {
        let path = format!("dns/{}/refresh", encode(name));
        self.read(self.send(Method::POST, &path, Bytes::new()).await?).await
    }

    /// Has the file read again, or another one.
    ///
    /// # Errors
    ///
    /// When there is no answer, or the configuration is wrong.
    pub async fn reload(&self, request: &ReloadRequest) -> Result<ReloadAnswer, ClientError> {
        self.read(self.send(Method::POST, "reload", json(request)?).await?).await
    }

    /// Lets what was taken stay.
    ///
    /// # Errors
    ///
    /// When there is no answer, or nothing to be confirmed.
    pub async fn confirm(&self) -> Result<ConfirmAnswer, ClientError> {
        self.read(self.send(Method::POST, "confirm", Bytes::new()).await?).await
    }

    /// Who has changed the configuration, the latest first.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn history(&self) -> Result<Vec<HistoryEntry>, ClientError> {
        self.read(self.send(Method::GET, "history", Bytes::new()).await?).await
    }

    /// What is otherwise than the file says.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn changes(&self) -> Result<Vec<RuntimeChange>, ClientError> {
        self.read(self.send(Method::GET, "changes", Bytes::new()).await?).await
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
        self.read(self.send(Method::PATCH, &path_of(name), json(&request)?).await?).await
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
        self.read(self.send(Method::POST, &path, json(request)?).await?).await
    }

    /// Takes a backend out of its pools.
    ///
    /// # Errors
    ///
    /// When there is no answer, no such backend, or the whole would be wrong.
    pub async fn remove_backend(&self, name: &BackendName) -> Result<ReloadAnswer, ClientError> {
        let path = format!("{}?{}", path_of(name), pairs(&[("route", name.route.as_deref())]));
        self.read(self.send(Method::DELETE, &path, Bytes::new()).await?).await
    }

    /// Runs another binary in place of the process that runs.
    ///
    /// # Errors
    ///
    /// When there is no answer, or the binary has not come to run.
    pub async fn upgrade(&self, request: &UpgradeRequest) -> Result<UpgradeAnswer, ClientError> {
        self.read(self.send(Method::POST, "upgrade", json(request)?).await?).await
    }

    /// Ends the instance; answered when everything is removed.
    ///
    /// # Errors
    ///
    /// When there is no answer, or something could not be removed.
    pub async fn stop(&self) -> Result<StopAnswer, ClientError> {
        self.read(self.send(Method::POST, "stop", Bytes::new()).await?).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let Patience { question, order } = self.patience;
        let patience = if method == Method::GET { question } else { order };
        let answered = self.exchange(method, path, body);
        let Some(within) = patience else { return answered.await };
        let silent = |_| ClientError::Silent { socket: self.socket.clone(), within };
        timeout(within, answered).await.map_err(silent)?
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(e))?;
        let talk = |e: hyper::Error| ClientError::Talk(e.to_string());
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(talk)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/{path}"))
            .header(HOST, "equipoise")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| ClientError::Talk(e.to_string()))?;
        sender.send_request(request).await.map_err(talk)
    }

    async fn read<T: DeserializeOwned>(
        &self,
        response: Response<Incoming>,
    ) -> Result<T, ClientError> {
        let body = whole(self.answered(response).await?).await?;
        serde_json::from_slice(&body).map_err(|e| ClientError::Talk(e.to_string()))
    }

    /// The body of an answer that is no problem.
    async fn answered(&self, response: Response<Incoming>) -> Result<Incoming, ClientError> {
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response.into_body());
        }
        let body = whole(response.into_body()).await?;
        let problem = serde_json::from_slice(&body);
        let problem = problem.map_err(|e| ClientError::Talk(format!("status {status}, {e}")))?;
        Err(ClientError::Problem(Box::new(problem)))
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        let socket = self.socket.clone();
        if matches!(source.kind(), ConnectionRefused | NotFound) {
            return ClientError::NoInstance(socket);
        }
        ClientError::Socket { socket, source }
    }
}

async fn whole(body: Incoming) -> Result<Bytes, ClientError> {
    let body = body.collect().await.map_err(|e| ClientError::Talk(e.to_string()))?;
    Ok(body.to_bytes())
}

fn json<T: Serialize>(value: &T) -> Result<Bytes, ClientError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|e| ClientError::Talk(e.to_string()))
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

/// Those that are given, as a query.
fn pairs(all: &[(&str, Option<&str>)]) -> String {
    let given = all.iter().filter_map(|(key, value)| Some((key, (*value)?)));
    given.map(|(key, value)| format!("{key}={}", encode(value))).collect::<Vec<_>>().join("&")
}

/// The path of a backend.
fn path_of(BackendName { service, backend, .. }: &BackendName) -> String {
    format!("services/{}/backends/{}", encode(service), encode(backend))
}

/// The path of a backend's health.
fn health_of(name: &BackendName) -> String {
    format!("{}/health", path_of(name))
}

/// Percent-encoding of all but the unreserved characters of RFC 3986.
fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(byte as char);
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
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
