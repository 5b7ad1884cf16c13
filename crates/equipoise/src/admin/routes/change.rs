//! Configurations taken while running: reloads, and backends changed.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::routing::{get, patch, post};

use super::{Route, Sent, SentIfAny};
use crate::admin::peer::Peer;
use crate::admin::tag::Tagged;
use crate::admin::{Access, Asker, Command, Configure, Expected, ProblemDetails};
use crate::status::Object;
use crate::status::change::{
    AddRequest, ReloadAnswer, ReloadRequest, RuntimeChange, WeightRequest,
};
use crate::status::health::{BackendName, OfRoute};
use crate::status::history::{ConfirmAnswer, HistoryEntry};

pub(super) fn routes() -> Vec<Route> {
    vec![
        ("/api/v1/reload", post(reload)),
        ("/api/v1/confirm", post(confirm)),
        ("/api/v1/history", get(history)),
        ("/api/v1/changes", get(changes)),
        ("/api/v1/services/{service}/backends", post(add)),
        ("/api/v1/services/{service}/backends/{backend}", patch(weigh).delete(remove)),
    ]
}

#[utoipa::path(post, path = "/api/v1/reload", tag = "configuration", summary = "Reads the file again, or another one", params(("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]+")$"#, description = "Only if this generation runs: its ETag")), request_body = Option<ReloadRequest>, responses((status = 200, description = "What is asked for", body = ReloadAnswer, headers(("ETag" = String, description = "The generation that runs now"))), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn reload(
    State(access): State<Access>,
    (peer, expected): (Peer, Expected),
    SentIfAny(request): SentIfAny<ReloadRequest>,
) -> Result<Tagged<ReloadAnswer>, ProblemDetails> {
    configure((&access, peer, expected), Configure::Reload(request)).await
}

#[utoipa::path(get, path = "/api/v1/changes", tag = "configuration", summary = "What is otherwise than the file says", responses((status = 200, description = "What is asked for", body = Vec<RuntimeChange>), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn changes(
    State(access): State<Access>,
) -> Result<Json<Vec<RuntimeChange>>, ProblemDetails> {
    access.ask(Command::Changes).await.map(Json)
}

#[utoipa::path(post, path = "/api/v1/services/{service}/backends", tag = "backends", summary = "Adds a backend to a pool", params(("service" = String, Path, description = "Name of a service"), ("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]+")$"#, description = "Only if this generation runs: its ETag")), request_body = AddRequest, responses((status = 200, description = "What is asked for", body = ReloadAnswer, headers(("ETag" = String, description = "The generation that runs now"))), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn add(
    State(access): State<Access>,
    (peer, expected): (Peer, Expected),
    path: Result<Path<String>, PathRejection>,
    request: Sent<AddRequest>,
) -> Result<Tagged<ReloadAnswer>, ProblemDetails> {
    let (Path(service), Json(Object(request))) = (path?, request?);
    configure((&access, peer, expected), Configure::Add(service, request)).await
}

#[utoipa::path(patch, path = "/api/v1/services/{service}/backends/{backend}", tag = "backends", summary = "Gives a backend another weight", params(("service" = String, Path, description = "Name of a service"), ("backend" = String, Path, description = "Address and port of a backend, as the configuration writes them"), ("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]+")$"#, description = "Only if this generation runs: its ETag")), request_body = WeightRequest, responses((status = 200, description = "What is asked for", body = ReloadAnswer, headers(("ETag" = String, description = "The generation that runs now"))), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn weigh(
    State(access): State<Access>,
    (peer, expected): (Peer, Expected),
    path: Result<Path<(String, String)>, PathRejection>,
    request: Sent<WeightRequest>,
) -> Result<Tagged<ReloadAnswer>, ProblemDetails> {
    let (Path((service, backend)), Json(Object(request))) = (path?, request?);
    let name = BackendName { service, backend, route: request.route.clone() };
    configure((&access, peer, expected), Configure::Weight(name, request)).await
}

#[utoipa::path(delete, path = "/api/v1/services/{service}/backends/{backend}", tag = "backends", summary = "Takes a backend out of its pools", params(("service" = String, Path, description = "Name of a service"), ("backend" = String, Path, description = "Address and port of a backend, as the configuration writes them"), OfRoute, ("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]+")$"#, description = "Only if this generation runs: its ETag")), responses((status = 200, description = "What is asked for", body = ReloadAnswer, headers(("ETag" = String, description = "The generation that runs now"))), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn remove(
    State(access): State<Access>,
    (peer, expected): (Peer, Expected),
    path: Result<Path<(String, String)>, PathRejection>,
    query: Result<Query<OfRoute>, QueryRejection>,
) -> Result<Tagged<ReloadAnswer>, ProblemDetails> {
    let (Path((service, backend)), Query(OfRoute { route })) = (path?, query?);
    configure((&access, peer, expected), Configure::Remove(BackendName { service, backend, route }))
        .await
}

#[utoipa::path(post, path = "/api/v1/confirm", tag = "configuration", summary = "What was taken stays", responses((status = 200, description = "What is asked for", body = ConfirmAnswer), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn confirm(
    State(access): State<Access>,
) -> Result<Json<ConfirmAnswer>, ProblemDetails> {
    access.ask(Command::Confirm).await.map(Json)
}

#[utoipa::path(get, path = "/api/v1/history", tag = "configuration", summary = "Who has changed the configuration, the latest first", responses((status = 200, description = "What is asked for", body = Vec<HistoryEntry>), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn history(
    State(access): State<Access>,
) -> Result<Json<Vec<HistoryEntry>>, ProblemDetails> {
    access.ask(Command::History).await.map(Json)
}

/// Has another configuration taken, and tells what has become of it.
pub(super) async fn configure(
    (access, peer, expected): (&Access, Peer, Expected),
    what: Configure,
) -> Result<Tagged<ReloadAnswer>, ProblemDetails> {
    if !peer.is_of_this_host() && what.reaches_into_host(&access.snapshot.borrow().config) {
        let message =
            "files and commands of this host are named by its users alone, through the socket";
        return Err(ProblemDetails::forbidden(message));
    }
    let asker = Asker { by: peer.author(), expected };
    let answer = access.ask(|reply| Command::Configure(what, asker, reply)).await?;
    Ok(Tagged { generation: answer.generation, answer })
}
