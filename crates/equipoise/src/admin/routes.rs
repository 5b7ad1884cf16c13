//! The routes below `/api/v1`: each turns a request into one command and its answer into JSON.

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use futures_util::stream;
use serde_json::Value;

use super::{Access, Command, OfPools, ProblemDetails};

mod change;
mod events;
mod limits;
mod names;
mod operate;

use crate::metrics::{self, Exporter};
use crate::status::explain::{ExplainAnswer, ExplainRequest};
use crate::status::health::{BackendHealth, BackendName, HealthFilter, HealthWord, OfRoute};
use crate::status::pool::{EndAnswer, EndRequest, PoolShares};
use crate::status::{
    Flow, FlowFilter, PlanAnswer, PlanRequest, Status, StopAnswer, UpgradeAnswer, UpgradeRequest,
};

/// Flows written at a time: a chunk of about 100 kB.
const CHUNK: usize = 512;

pub(super) fn router(access: Access, exporter: Exporter) -> Router {
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/flows", get(flows).delete(end_flows))
        .route("/api/v1/services/{service}/pools", get(pools))
        .route("/api/v1/services/{service}/pools/recompute", post(recompute))
        .route("/api/v1/config", get(config))
        .route("/api/v1/plan", post(plan))
        .route("/api/v1/explain", post(explain))
        .merge(operate::router())
        .merge(change::router())
        .merge(events::router())
        .merge(limits::router())
        .merge(names::router())
        .route("/api/v1/health", get(health))
        .route("/api/v1/services/{service}/backends/{backend}/health", put(set_health))
        .route("/api/v1/services/{service}/backends/{backend}/health/check", post(check_health))
        .route("/api/v1/upgrade", post(upgrade))
        .route("/api/v1/stop", post(stop))
        .fallback(async || ProblemDetails::not_found("there is no such resource"))
        .method_not_allowed_fallback(async || ProblemDetails::wrong_method())
        .with_state(access)
        .merge(metrics::router("/api/v1/metrics", exporter))
}

async fn status(State(access): State<Access>) -> Result<Json<Status>, ProblemDetails> {
    access.ask(Command::Status).await.map(Json)
}

async fn flows(
    State(access): State<Access>,
    filter: Result<Query<FlowFilter>, QueryRejection>,
) -> Result<Response, ProblemDetails> {
    let Query(filter) = filter?;
    let flows = access.ask(|reply| Command::Flows(filter, reply)).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(array(flows)))
        .into_response())
}

async fn end_flows(
    State(access): State<Access>,
    request: Result<Query<EndRequest>, QueryRejection>,
) -> Result<Json<EndAnswer>, ProblemDetails> {
    let Query(request) = request?;
    access.ask(|reply| Command::EndFlows(request, reply)).await.map(Json)
}

async fn pools(
    State(access): State<Access>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<OfRoute>, QueryRejection>,
) -> Result<Json<Vec<PoolShares>>, ProblemDetails> {
    let (Path(service), Query(OfRoute { route })) = (path?, query?);
    let of = OfPools { service, route };
    access.ask(|reply| Command::Pools(of, reply)).await.map(Json)
}

async fn recompute(
    State(access): State<Access>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<OfRoute>, QueryRejection>,
) -> Result<Json<Vec<PoolShares>>, ProblemDetails> {
    let (Path(service), Query(OfRoute { route })) = (path?, query?);
    let of = OfPools { service, route };
    access.ask(|reply| Command::Recompute(of, reply)).await.map(Json)
}

async fn config(State(access): State<Access>) -> Json<Value> {
    Json(access.snapshot.borrow().config.clone())
}

async fn plan(
    State(access): State<Access>,
    request: Result<Json<PlanRequest>, JsonRejection>,
) -> Result<Json<PlanAnswer>, ProblemDetails> {
    let Json(request) = request?;
    access.ask(|reply| Command::Plan(request, reply)).await.map(Json)
}

async fn explain(
    State(access): State<Access>,
    request: Result<Json<ExplainRequest>, JsonRejection>,
) -> Result<Json<ExplainAnswer>, ProblemDetails> {
    let Json(request) = request?;
    access.ask(|reply| Command::Explain(request, reply)).await.map(Json)
}

async fn health(
    State(access): State<Access>,
    filter: Result<Query<HealthFilter>, QueryRejection>,
) -> Result<Json<Vec<BackendHealth>>, ProblemDetails> {
    let Query(filter) = filter?;
    access.ask(|reply| Command::Health(filter, reply)).await.map(Json)
}

async fn set_health(
    State(access): State<Access>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Result<Json<HealthWord>, JsonRejection>,
) -> Result<Json<Vec<BackendHealth>>, ProblemDetails> {
    let Path((service, backend)) = path?;
    let Json(word) = request?;
    let name = BackendName { service, backend, route: word.route.clone() };
    access.ask(|reply| Command::SetHealth(name, word, reply)).await.map(Json)
}

async fn check_health(
    State(access): State<Access>,
    path: Result<Path<(String, String)>, PathRejection>,
    query: Result<Query<OfRoute>, QueryRejection>,
) -> Result<Json<Vec<BackendHealth>>, ProblemDetails> {
    let Path((service, backend)) = path?;
    let Query(OfRoute { route }) = query?;
    let name = BackendName { service, backend, route };
    access.ask(|reply| Command::CheckHealth(name, reply)).await.map(Json)
}

async fn upgrade(
    State(access): State<Access>,
    request: Result<Json<UpgradeRequest>, JsonRejection>,
) -> Result<Json<UpgradeAnswer>, ProblemDetails> {
    let Json(UpgradeRequest { binary }) = request?;
    if !binary.is_absolute() {
        let message = format!("{} is not the whole path of a binary", binary.display());
        return Err(ProblemDetails::bad_request(message));
    }
    access.ask(|reply| Command::Upgrade(binary, reply)).await.map(Json)
}

async fn stop(State(access): State<Access>) -> Result<Json<StopAnswer>, ProblemDetails> {
    access.ask(Command::Stop).await.map(Json)
}

/// A JSON array, written in chunks, so that a million flows are never one text in memory.
fn array(flows: Vec<Flow>) -> impl stream::Stream<Item = Result<Bytes, serde_json::Error>> {
    let mut flows = flows.into_iter().enumerate().peekable();
    let chunks = std::iter::from_fn(move || {
        flows.peek()?;
        let mut text = Vec::new();
        for (position, flow) in flows.by_ref().take(CHUNK) {
            if position > 0 {
                text.push(b',');
            }
            if let Err(error) = serde_json::to_writer(&mut text, &flow) {
                return Some(Err(error));
            }
        }
        Some(Ok(Bytes::from(text)))
    });
    let bracket = |text: &'static str| std::iter::once(Ok(Bytes::from_static(text.as_bytes())));
    stream::iter(bracket("[").chain(chunks).chain(bracket("]")))
}
