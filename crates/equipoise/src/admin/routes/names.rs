//! Names that are looked up.

use axum::Json;
use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::routing::{get, post};

use crate::admin::{Access, Command, ProblemDetails};
use crate::status::names::NameStatus;

pub(super) fn router() -> Router<Access> {
    Router::new()
        .route("/api/v1/dns", get(names))
        .route("/api/v1/dns/{name}/refresh", post(refresh))
}

async fn names(State(access): State<Access>) -> Result<Json<Vec<NameStatus>>, ProblemDetails> {
    access.ask(Command::Names).await.map(Json)
}

async fn refresh(
    State(access): State<Access>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Vec<NameStatus>>, ProblemDetails> {
    let Path(name) = name?;
    access.ask(|reply| Command::RefreshNames(name, reply)).await.map(Json)
}
