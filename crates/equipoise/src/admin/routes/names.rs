//! Names that are looked up.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::routing::{get, post};

use super::Route;
use crate::admin::{Access, Command, ProblemDetails};
use crate::status::names::NameStatus;

pub(super) fn routes() -> Vec<Route> {
    vec![("/api/v1/dns", get(names)), ("/api/v1/dns/{name}/refresh", post(refresh))]
}

#[utoipa::path(get, path = "/api/v1/dns", tag = "names", summary = "Names that are looked up", responses((status = 200, description = "What is asked for", body = Vec<NameStatus>), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn names(
    State(access): State<Access>,
) -> Result<Json<Vec<NameStatus>>, ProblemDetails> {
    access.ask(Command::Names).await.map(Json)
}

#[utoipa::path(post, path = "/api/v1/dns/{name}/refresh", tag = "names", summary = "Looks a name up now", params(("name" = String, Path, description = "The name")), responses((status = 200, description = "What is asked for", body = Vec<NameStatus>), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn refresh(
    State(access): State<Access>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Vec<NameStatus>>, ProblemDetails> {
    let Path(name) = name?;
    access.ask(|reply| Command::RefreshNames(name, reply)).await.map(Json)
}
