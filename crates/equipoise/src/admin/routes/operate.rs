//! Drains and breakers.

use axum::Json;
use axum::Router;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::routing::get;
use serde::{Deserialize, Serialize};

use super::ask;
use crate::admin::{Access, Command, ProblemDetails};
use crate::status::operate::{
    BreakerRequest, BreakerStatus, DrainAnswer, DrainRequest, DrainStatus, DrainsAnswer,
    UndrainRequest,
};

pub(super) fn router() -> Router<Access> {
    Router::new()
        .route("/api/v1/drains", get(drains).post(drain).delete(undrain))
        .route("/api/v1/breakers", get(breakers).post(turn))
}

async fn drains(State(access): State<Access>) -> Result<Json<DrainsAnswer>, ProblemDetails> {
    ask(&access, Command::Drains).await.map(Json)
}

async fn drain(
    State(access): State<Access>,
    request: Result<Json<DrainRequest>, JsonRejection>,
) -> Result<Json<DrainAnswer>, ProblemDetails> {
    let Json(request) = request?;
    ask(&access, |reply| Command::Drain(request, reply)).await.map(Json)
}

async fn undrain(
    State(access): State<Access>,
    request: Result<Query<UndrainRequest>, QueryRejection>,
) -> Result<Json<Vec<DrainStatus>>, ProblemDetails> {
    let Query(request) = request?;
    ask(&access, |reply| Command::Undrain(request, reply)).await.map(Json)
}

/// Which breakers are asked for.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    service: Option<String>,
}

async fn breakers(
    State(access): State<Access>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Vec<BreakerStatus>>, ProblemDetails> {
    let Query(Wanted { service }) = wanted?;
    ask(&access, |reply| Command::Breakers(service, reply)).await.map(Json)
}

async fn turn(
    State(access): State<Access>,
    request: Result<Json<BreakerRequest>, JsonRejection>,
) -> Result<Json<Vec<BreakerStatus>>, ProblemDetails> {
    let Json(request) = request?;
    ask(&access, |reply| Command::TurnBreaker(request, reply)).await.map(Json)
}
