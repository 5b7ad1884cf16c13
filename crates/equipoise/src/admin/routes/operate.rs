//! Drains and breakers.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::get;
use serde::{Deserialize, Serialize};

use super::{Route, Sent};
use crate::admin::{Access, Command, ProblemDetails};
use crate::status::Object;
use crate::status::operate::{
    BreakerRequest, BreakerStatus, DrainAnswer, DrainRequest, DrainStatus, DrainsAnswer,
    UndrainRequest,
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        ("/api/v1/drains", get(drains).post(drain).delete(undrain)),
        ("/api/v1/breakers", get(breakers).post(turn)),
    ]
}

#[utoipa::path(get, path = "/api/v1/drains", tag = "backends", summary = "All drains", responses((status = 200, description = "What is asked for", body = DrainsAnswer), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn drains(
    State(access): State<Access>,
) -> Result<Json<DrainsAnswer>, ProblemDetails> {
    access.ask(Command::Drains).await.map(Json)
}

#[utoipa::path(post, path = "/api/v1/drains", tag = "backends", summary = "Gives backends no new flows", request_body = DrainRequest, responses((status = 200, description = "What is asked for", body = DrainAnswer), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn drain(
    State(access): State<Access>,
    request: Sent<DrainRequest>,
) -> Result<Json<DrainAnswer>, ProblemDetails> {
    let Json(Object(request)) = request?;
    access.ask(|reply| Command::Drain(request, reply)).await.map(Json)
}

#[utoipa::path(delete, path = "/api/v1/drains", tag = "backends", summary = "Gives backends new flows again", params(UndrainRequest), responses((status = 200, description = "What is asked for", body = Vec<DrainStatus>), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn undrain(
    State(access): State<Access>,
    request: Result<Query<UndrainRequest>, QueryRejection>,
) -> Result<Json<Vec<DrainStatus>>, ProblemDetails> {
    let Query(request) = request?;
    access.ask(|reply| Command::Undrain(request, reply)).await.map(Json)
}

/// Which breakers are asked for.
#[derive(Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Those of this service alone.
    service: Option<String>,
}

#[utoipa::path(get, path = "/api/v1/breakers", tag = "backends", summary = "Breakers of a service, or of all", params(Wanted), responses((status = 200, description = "What is asked for", body = Vec<BreakerStatus>), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn breakers(
    State(access): State<Access>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Vec<BreakerStatus>>, ProblemDetails> {
    let Query(Wanted { service }) = wanted?;
    access.ask(|reply| Command::Breakers(service, reply)).await.map(Json)
}

#[utoipa::path(post, path = "/api/v1/breakers", tag = "backends", summary = "Opens, closes or resets breakers", request_body = BreakerRequest, responses((status = 200, description = "What is asked for", body = Vec<BreakerStatus>), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn turn(
    State(access): State<Access>,
    request: Sent<BreakerRequest>,
) -> Result<Json<Vec<BreakerStatus>>, ProblemDetails> {
    let Json(Object(request)) = request?;
    access.ask(|reply| Command::TurnBreaker(request, reply)).await.map(Json)
}
