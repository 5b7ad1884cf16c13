//! The health of backends.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::routing::{get, post, put};

use super::{Route, Sent};
use crate::admin::{Access, Command, ProblemDetails};
use crate::status::Object;
use crate::status::health::{BackendHealth, BackendName, HealthFilter, HealthWord, OfRoute};

pub(super) fn routes() -> Vec<Route> {
    vec![
        ("/api/v1/health", get(health)),
        ("/api/v1/services/{service}/backends/{backend}/health", put(set_health)),
        ("/api/v1/services/{service}/backends/{backend}/health/check", post(check_health)),
    ]
}

#[utoipa::path(get, path = "/api/v1/health", tag = "backends", summary = "What is believed of the health of backends", params(HealthFilter), responses((status = 200, description = "What is asked for", body = Vec<BackendHealth>), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn health(
    State(access): State<Access>,
    filter: Result<Query<HealthFilter>, QueryRejection>,
) -> Result<Json<Vec<BackendHealth>>, ProblemDetails> {
    let Query(filter) = filter?;
    access.ask(|reply| Command::Health(filter, reply)).await.map(Json)
}

#[utoipa::path(put, path = "/api/v1/services/{service}/backends/{backend}/health", tag = "backends", summary = "An operator says how a backend is", params(("service" = String, Path, description = "Name of a service"), ("backend" = String, Path, description = "Address and port of a backend, as the configuration writes them")), request_body = HealthWord, responses((status = 200, description = "What is asked for", body = Vec<BackendHealth>), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn set_health(
    State(access): State<Access>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Sent<HealthWord>,
) -> Result<Json<Vec<BackendHealth>>, ProblemDetails> {
    let Path((service, backend)) = path?;
    let Json(Object(word)) = request?;
    let name = BackendName { service, backend, route: word.route.clone() };
    access.ask(|reply| Command::SetHealth(name, word, reply)).await.map(Json)
}

#[utoipa::path(post, path = "/api/v1/services/{service}/backends/{backend}/health/check", tag = "backends", summary = "Checks a backend now", params(("service" = String, Path, description = "Name of a service"), ("backend" = String, Path, description = "Address and port of a backend, as the configuration writes them"), OfRoute), responses((status = 200, description = "What is asked for", body = Vec<BackendHealth>), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn check_health(
    State(access): State<Access>,
    path: Result<Path<(String, String)>, PathRejection>,
    query: Result<Query<OfRoute>, QueryRejection>,
) -> Result<Json<Vec<BackendHealth>>, ProblemDetails> {
    let Path((service, backend)) = path?;
    let Query(OfRoute { route }) = query?;
    let name = BackendName { service, backend, route };
    access.ask(|reply| Command::CheckHealth(name, reply)).await.map(Json)
}
