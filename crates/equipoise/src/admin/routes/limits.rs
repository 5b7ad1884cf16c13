//! Limits of services, and denied prefixes.

use axum::Json;
use axum::Router;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::routing::{delete, get, put};
use equipoise_core::config::{Denial, Prefix, RateOf};

use super::change::configure;
use crate::admin::peer::Peer;
use crate::admin::{Access, Command, Configure, ProblemDetails};
use crate::status::change::ReloadAnswer;
use crate::status::limits::{Denied, DenyRequest, LimitsAnswer, OfService, RateRequest};

pub(super) fn router() -> Router<Access> {
    Router::new()
        .route("/api/v1/limits", get(limits))
        .route("/api/v1/services/{service}/limits", delete(clear_all))
        .route("/api/v1/services/{service}/limits/{of}", put(set).delete(clear))
        .route("/api/v1/deny", get(denied))
        .route("/api/v1/deny/{prefix}", put(deny).delete(allow_again))
}

async fn limits(
    State(access): State<Access>,
    query: Result<Query<OfService>, QueryRejection>,
) -> Result<Json<LimitsAnswer>, ProblemDetails> {
    let Query(OfService { service }) = query?;
    access.ask(|reply| Command::Limits(service, reply)).await.map(Json)
}

async fn set(
    State(access): State<Access>,
    peer: Peer,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Result<Json<RateRequest>, JsonRejection>,
) -> Result<Json<ReloadAnswer>, ProblemDetails> {
    let (Path((service, of)), Json(request)) = (path?, request?);
    let what = Configure::Rates(service, vec![rate_of(&of)?], request);
    configure((&access, peer), what).await
}

async fn clear(
    State(access): State<Access>,
    peer: Peer,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<ReloadAnswer>, ProblemDetails> {
    let Path((service, of)) = path?;
    let none = RateRequest { rate: 0, burst: None };
    configure((&access, peer), Configure::Rates(service, vec![rate_of(&of)?], none)).await
}

async fn clear_all(
    State(access): State<Access>,
    peer: Peer,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<ReloadAnswer>, ProblemDetails> {
    let Path(service) = path?;
    let none = RateRequest { rate: 0, burst: None };
    configure((&access, peer), Configure::Rates(service, RateOf::ALL.into(), none)).await
}

fn rate_of(text: &str) -> Result<RateOf, ProblemDetails> {
    let found = RateOf::ALL.into_iter().find(|of| of.name() == text);
    found.ok_or_else(|| {
        let [source, backend] = RateOf::ALL.map(RateOf::name);
        ProblemDetails::not_found(format!("there is no limit {text:?}: `{source}` or `{backend}`"))
    })
}

async fn denied(State(access): State<Access>) -> Result<Json<Vec<Denied>>, ProblemDetails> {
    access.ask(Command::Denied).await.map(Json)
}

async fn deny(
    State(access): State<Access>,
    peer: Peer,
    path: Result<Path<String>, PathRejection>,
    request: Result<Json<DenyRequest>, JsonRejection>,
) -> Result<Json<ReloadAnswer>, ProblemDetails> {
    let (Path(prefix), Json(request)) = (path?, request?);
    configure((&access, peer), Configure::Deny(parsed(&prefix)?, request)).await
}

async fn allow_again(
    State(access): State<Access>,
    peer: Peer,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<OfService>, QueryRejection>,
) -> Result<Json<ReloadAnswer>, ProblemDetails> {
    let (Path(prefix), Query(OfService { service })) = (path?, query?);
    let denial = Denial { prefix: parsed(&prefix)?, service: service.as_deref().map(Into::into) };
    configure((&access, peer), Configure::AllowAgain(denial)).await
}

fn parsed(text: &str) -> Result<Prefix, ProblemDetails> {
    text.parse().map_err(|error: equipoise_core::config::NotAPrefix| {
        ProblemDetails::bad_request(error.to_string())
    })
}
