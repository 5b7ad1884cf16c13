//! The routes below `/api/v1`: each turns a request into one command and its answer into JSON.

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, Query, Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use futures_util::{StreamExt as _, stream};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::peer::Peer;
use super::tag::Tagged;
use super::{Access, Command, Listed, Page, ProblemDetails};

mod change;
mod document;
mod events;
mod health;
mod limits;
mod names;
mod operate;
mod services;
mod talkers;
mod trace;

use crate::metrics::{self, Exporter};
use crate::status::explain::{ExplainAnswer, ExplainRequest};
use crate::status::pool::{EndAnswer, EndRequest};
use crate::status::{
    Flow, FlowFilter, FlowQuery, Object, PlanAnswer, PlanRequest, Status, StopAnswer,
    UpgradeAnswer, UpgradeRequest,
};

/// Flows written at a time: a chunk of about 100 kB.
const CHUNK: usize = 512;

/// The object that a request has sent.
type Sent<T> = Result<Json<Object<T>>, JsonRejection>;

/// The object that a request has sent, or what it stands for that nothing was sent.
struct SentIfAny<T>(T);

impl<S: Send + Sync, T: Default + DeserializeOwned> FromRequest<S> for SentIfAny<T> {
    type Rejection = ProblemDetails;

    async fn from_request(request: Request, state: &S) -> Result<Self, ProblemDetails> {
        let (head, body) = request.into_parts();
        let whole = Bytes::from_request(Request::from_parts(head.clone(), body), state).await;
        let whole = whole.map_err(JsonRejection::from)?;
        if whole.is_empty() {
            return Ok(Self(T::default()));
        }
        let request = Request::from_parts(head, Body::from(whole));
        let Json(Object(sent)) = Json::from_request(request, state).await?;
        Ok(Self(sent))
    }
}

/// Where something is to be had, and what answers there, by method.
type Route = (&'static str, MethodRouter<Access>);

pub(super) fn router(access: Access, exporter: Exporter) -> Router {
    let all = all().into_iter();
    all.fold(Router::new(), |router, (path, methods)| router.route(path, methods))
        .with_state(access)
        .merge(metrics::among_others(METRICS, exporter))
        .fallback(async || ProblemDetails::not_found("there is no such resource"))
        .method_not_allowed_fallback(async || ProblemDetails::wrong_method())
}

/// All but that of metrics, which are had in other forms.
fn all() -> Vec<Route> {
    let mut all = vec![
        ("/api/v1/status", get(status)),
        ("/api/v1/flows", get(flows).delete(end_flows)),
        ("/api/v1/config", get(config)),
        ("/api/v1/plan", post(plan)),
        ("/api/v1/explain", post(explain)),
        ("/api/v1/upgrade", post(upgrade)),
        ("/api/v1/stop", post(stop)),
    ];
    all.extend(operate::routes());
    all.extend(change::routes());
    all.extend(events::routes());
    all.extend(health::routes());
    all.extend(limits::routes());
    all.extend(names::routes());
    all.extend(services::routes());
    all.extend(talkers::routes());
    all.extend(trace::routes());
    all.extend(document::routes());
    all
}

const METRICS: &str = "/api/v1/metrics";

#[utoipa::path(get, path = "/api/v1/status", tag = "instance", summary = "How the instance is", responses((status = 200, description = "What is asked for", body = Status), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn status(State(access): State<Access>) -> Result<Json<Status>, ProblemDetails> {
    access.ask(Command::Status).await.map(Json)
}

/// How many there are on all pages.
const TOTAL: HeaderName = HeaderName::from_static("x-total-count");

#[utoipa::path(get, path = "/api/v1/flows", tag = "flows", summary = "Flows, some or all", params(FlowQuery), responses((status = 200, description = "What is asked for", body = Vec<Flow>, headers(("X-Total-Count" = u64, description = "How many there are on all pages"))), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn flows(
    State(access): State<Access>,
    query: Result<Query<FlowQuery>, QueryRejection>,
) -> Result<Response, ProblemDetails> {
    let Query(FlowQuery { service, backend, client, limit, offset }) = query?;
    let filter = FlowFilter { service, backend, client };
    let page = Page { offset: offset as usize, limit: limit.map(|limit| limit as usize) };
    let (Listed { flows, total }, place) = access.list(filter, page).await?;
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let head = [kind, (TOTAL, HeaderValue::from(total))];
    // Its place is another's when all of it is read, or nobody reads it any more.
    let written = array(flows).inspect(move |_| _ = &place);
    Ok((head, Body::from_stream(written)).into_response())
}

#[utoipa::path(delete, path = "/api/v1/flows", tag = "flows", summary = "Ends flows", params(EndRequest), responses((status = 200, description = "What is asked for", body = EndAnswer), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn end_flows(
    State(access): State<Access>,
    request: Result<Query<EndRequest>, QueryRejection>,
) -> Result<Json<EndAnswer>, ProblemDetails> {
    let Query(request) = request?;
    access.ask(|reply| Command::EndFlows(request, reply)).await.map(Json)
}

#[utoipa::path(get, path = "/api/v1/config", tag = "configuration", summary = "The configuration that runs, without keys", responses((status = 200, description = "What is asked for", body = Value, headers(("ETag" = String, description = "Its generation"))), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn config(State(access): State<Access>) -> Tagged<Value> {
    let snapshot = access.snapshot.borrow();
    Tagged { generation: snapshot.generation, answer: snapshot.config.clone() }
}

#[utoipa::path(post, path = "/api/v1/plan", tag = "configuration", summary = "What a configuration would change", request_body = PlanRequest, responses((status = 200, description = "What is asked for", body = PlanAnswer), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn plan(
    State(access): State<Access>,
    peer: Peer,
    request: Sent<PlanRequest>,
) -> Result<Json<PlanAnswer>, ProblemDetails> {
    let Json(Object(request)) = request?;
    access.ask(|reply| Command::Plan(request, peer, reply)).await.map(Json)
}

#[utoipa::path(post, path = "/api/v1/explain", tag = "flows", summary = "What becomes of a packet", request_body = ExplainRequest, responses((status = 200, description = "What is asked for", body = ExplainAnswer), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn explain(
    State(access): State<Access>,
    request: Sent<ExplainRequest>,
) -> Result<Json<ExplainAnswer>, ProblemDetails> {
    let Json(Object(request)) = request?;
    access.ask(|reply| Command::Explain(request, reply)).await.map(Json)
}

#[utoipa::path(post, path = "/api/v1/upgrade", tag = "instance", summary = "Runs another binary in place of this process; by the socket alone", request_body = UpgradeRequest, responses((status = 200, description = "What is asked for", body = UpgradeAnswer), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn upgrade(
    State(access): State<Access>,
    request: Sent<UpgradeRequest>,
) -> Result<Json<UpgradeAnswer>, ProblemDetails> {
    let Json(Object(UpgradeRequest { binary })) = request?;
    if !binary.is_absolute() {
        let message = format!("{} is not the whole path of a binary", binary.display());
        return Err(ProblemDetails::unprocessable(message));
    }
    access.ask(|reply| Command::Upgrade(binary, reply)).await.map(Json)
}

#[utoipa::path(post, path = "/api/v1/stop", tag = "instance", summary = "Ends the instance and removes everything of it", responses((status = 200, description = "What is asked for", body = StopAnswer), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn stop(State(access): State<Access>) -> Result<Json<StopAnswer>, ProblemDetails> {
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
