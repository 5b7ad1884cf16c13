//! Configurations taken while running: reloads, and backends changed.

use axum::Json;
use axum::Router;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::routing::{get, patch, post};

use crate::admin::peer::Peer;
use crate::admin::{Access, Command, Configure, ProblemDetails};
use crate::status::change::{
    AddRequest, ReloadAnswer, ReloadRequest, RuntimeChange, WeightRequest,
};
use crate::status::health::{BackendName, OfRoute};
use crate::status::history::{ConfirmAnswer, HistoryEntry};

pub(super) fn router() -> Router<Access> {
    Router::new()
        .route("/api/v1/reload", post(reload))
        .route("/api/v1/confirm", post(confirm))
        .route("/api/v1/history", get(history))
        .route("/api/v1/changes", get(changes))
        .route("/api/v1/services/{service}/backends", post(add))
        .route("/api/v1/services/{service}/backends/{backend}", patch(weigh).delete(remove))
}

async fn reload(
    State(access): State<Access>,
    peer: Peer,
    request: Result<Json<ReloadRequest>, JsonRejection>,
) -> Result<Json<ReloadAnswer>, ProblemDetails> {
    let Json(request) = request?;
    configure((&access, peer), Configure::Reload(request)).await
}

async fn changes(State(access): State<Access>) -> Result<Json<Vec<RuntimeChange>>, ProblemDetails> {
    access.ask(Command::Changes).await.map(Json)
}

async fn add(
    State(access): State<Access>,
    peer: Peer,
    path: Result<Path<String>, PathRejection>,
    request: Result<Json<AddRequest>, JsonRejection>,
) -> Result<Json<ReloadAnswer>, ProblemDetails> {
    let (Path(service), Json(request)) = (path?, request?);
    configure((&access, peer), Configure::Add(service, request)).await
}

async fn weigh(
    State(access): State<Access>,
    peer: Peer,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Result<Json<WeightRequest>, JsonRejection>,
) -> Result<Json<ReloadAnswer>, ProblemDetails> {
    let (Path((service, backend)), Json(request)) = (path?, request?);
    let name = BackendName { service, backend, route: request.route.clone() };
    configure((&access, peer), Configure::Weight(name, request)).await
}

async fn remove(
    State(access): State<Access>,
    peer: Peer,
    path: Result<Path<(String, String)>, PathRejection>,
    query: Result<Query<OfRoute>, QueryRejection>,
) -> Result<Json<ReloadAnswer>, ProblemDetails> {
    let (Path((service, backend)), Query(OfRoute { route })) = (path?, query?);
    configure((&access, peer), Configure::Remove(BackendName { service, backend, route })).await
}

async fn confirm(State(access): State<Access>) -> Result<Json<ConfirmAnswer>, ProblemDetails> {
    access.ask(Command::Confirm).await.map(Json)
}

async fn history(State(access): State<Access>) -> Result<Json<Vec<HistoryEntry>>, ProblemDetails> {
    access.ask(Command::History).await.map(Json)
}

/// Has another configuration taken, and tells what has become of it.
pub(super) async fn configure(
    (access, peer): (&Access, Peer),
    what: Configure,
) -> Result<Json<ReloadAnswer>, ProblemDetails> {
    access.ask(|reply| Command::Configure(what, peer.author(), reply)).await.map(Json)
}
