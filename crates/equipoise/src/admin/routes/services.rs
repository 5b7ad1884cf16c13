//! Services, their pools and their backends.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use equipoise_core::config::target;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Route;
use super::change::configure;
use crate::admin::peer::Peer;
use crate::admin::tag::Tagged;
use crate::admin::{Access, Command, Configure, Existing, Expected, OfPools, ProblemDetails};
use crate::running_config;
use crate::status::change::ReloadAnswer;
use crate::status::health::OfRoute;
use crate::status::pool::PoolShares;
use crate::status::{BackendStatus, PoolStatus, ServiceStatus};

pub(super) fn routes() -> Vec<Route> {
    vec![
        ("/api/v1/services", get(services).post(add)),
        ("/api/v1/services/{service}", get(service).put(give).delete(remove)),
        ("/api/v1/services/{service}/routes", get(routes_of)),
        ("/api/v1/services/{service}/backends", get(backends)),
        ("/api/v1/services/{service}/backends/{backend}", get(backend)),
        ("/api/v1/services/{service}/pools", get(pools)),
        ("/api/v1/services/{service}/pools/recompute", post(recompute)),
    ]
}

/// A backend in a pool.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BackendOfPool {
    /// The route that leads to the pool: `default`, or its first source or name.
    route: String,
    /// How it is there.
    #[serde(flatten)]
    backend: BackendStatus,
}

#[utoipa::path(get, path = "/api/v1/services", tag = "services", summary = "All services", responses((status = 200, description = "What is asked for", body = Vec<ServiceStatus>), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn services(
    State(access): State<Access>,
) -> Result<Json<Vec<ServiceStatus>>, ProblemDetails> {
    Ok(Json(access.ask(Command::Status).await?.services))
}

#[utoipa::path(get, path = "/api/v1/services/{service}", tag = "services", summary = "A service", params(("service" = String, Path, description = "Name of a service")), responses((status = 200, description = "What is asked for", body = ServiceStatus), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn service(
    State(access): State<Access>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<ServiceStatus>, ProblemDetails> {
    let Path(name) = path?;
    find(&access, &name).await.map(Json)
}

#[utoipa::path(get, path = "/api/v1/services/{service}/routes", tag = "services", summary = "Its routes, each with its pool", params(("service" = String, Path, description = "Name of a service")), responses((status = 200, description = "What is asked for", body = Vec<PoolStatus>), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn routes_of(
    State(access): State<Access>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Vec<PoolStatus>>, ProblemDetails> {
    let Path(name) = path?;
    Ok(Json(find(&access, &name).await?.pools))
}

#[utoipa::path(get, path = "/api/v1/services/{service}/backends", tag = "backends", summary = "Backends of all pools of a service", params(("service" = String, Path, description = "Name of a service")), responses((status = 200, description = "What is asked for", body = Vec<BackendOfPool>), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn backends(
    State(access): State<Access>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Vec<BackendOfPool>>, ProblemDetails> {
    let Path(name) = path?;
    Ok(Json(members(find(&access, &name).await?)))
}

#[utoipa::path(get, path = "/api/v1/services/{service}/backends/{backend}", tag = "backends", summary = "A backend, in each pool that has it", params(("service" = String, Path, description = "Name of a service"), ("backend" = String, Path, description = "Address and port of a backend, as the configuration writes them")), responses((status = 200, description = "What is asked for", body = Vec<BackendOfPool>), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn backend(
    State(access): State<Access>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<Vec<BackendOfPool>>, ProblemDetails> {
    let Path((name, wanted)) = path?;
    let mut found = members(find(&access, &name).await?);
    found.retain(|BackendOfPool { backend, .. }| {
        target::text(backend.address) == wanted || backend.names.contains(&wanted)
    });
    if found.is_empty() {
        let message = format!("service {name:?} has no backend {wanted}");
        return Err(ProblemDetails::not_found(message));
    }
    Ok(Json(found))
}

async fn find(access: &Access, name: &str) -> Result<ServiceStatus, ProblemDetails> {
    let services = access.ask(Command::Status).await?.services;
    let found = services.into_iter().find(|service| service.name == name);
    found.ok_or_else(|| ProblemDetails::not_found(format!("there is no service {name:?}")))
}

/// The backends of all pools of a service.
fn members(service: ServiceStatus) -> Vec<BackendOfPool> {
    let of_pool = |PoolStatus { route, backends, .. }| {
        backends
            .into_iter()
            .map(move |backend| BackendOfPool { route: String::clone(&route), backend })
    };
    service.pools.into_iter().flat_map(of_pool).collect()
}

#[utoipa::path(get, path = "/api/v1/services/{service}/pools", tag = "services", summary = "What the backends of its pools get", params(("service" = String, Path, description = "Name of a service"), OfRoute), responses((status = 200, description = "What is asked for", body = Vec<PoolShares>), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn pools(
    State(access): State<Access>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<OfRoute>, QueryRejection>,
) -> Result<Json<Vec<PoolShares>>, ProblemDetails> {
    let (Path(service), Query(OfRoute { route })) = (path?, query?);
    let of = OfPools { service, route };
    access.ask(|reply| Command::Pools(of, reply)).await.map(Json)
}

#[utoipa::path(post, path = "/api/v1/services/{service}/pools/recompute", tag = "services", summary = "Makes weights that follow live flows anew", params(("service" = String, Path, description = "Name of a service"), OfRoute), responses((status = 200, description = "What is asked for", body = Vec<PoolShares>), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn recompute(
    State(access): State<Access>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<OfRoute>, QueryRejection>,
) -> Result<Json<Vec<PoolShares>>, ProblemDetails> {
    let (Path(service), Query(OfRoute { route })) = (path?, query?);
    let of = OfPools { service, route };
    access.ask(|reply| Command::Recompute(of, reply)).await.map(Json)
}

#[utoipa::path(post, path = "/api/v1/services", tag = "services", summary = "Adds a service: a table of the configuration, with keys in snake case", params(("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]+")$"#, description = "Only if this generation runs: its ETag")), request_body = Object, responses((status = 200, description = "What is asked for", body = ReloadAnswer, headers(("ETag" = String, description = "The generation that runs now"))), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn add(
    State(access): State<Access>,
    (peer, expected): (Peer, Expected),
    request: Result<Json<Map<String, Value>>, JsonRejection>,
) -> Result<Tagged<ReloadAnswer>, ProblemDetails> {
    let Json(table) = request?;
    let Some(name) = table.get("name").and_then(Value::as_str).map(str::to_owned) else {
        return Err(ProblemDetails::unprocessable("name: the service has none, or it is no text"));
    };
    give_as(&access, (peer, expected), (name, table, Existing::Stays)).await
}

#[utoipa::path(put, path = "/api/v1/services/{service}", tag = "services", summary = "Has a service be this: a table of the configuration, with keys in snake case", params(("service" = String, Path, description = "Name of a service"), ("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]+")$"#, description = "Only if this generation runs: its ETag")), request_body = Object, responses((status = 200, description = "What is asked for", body = ReloadAnswer, headers(("ETag" = String, description = "The generation that runs now"))), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn give(
    State(access): State<Access>,
    (peer, expected): (Peer, Expected),
    path: Result<Path<String>, PathRejection>,
    request: Result<Json<Map<String, Value>>, JsonRejection>,
) -> Result<Tagged<ReloadAnswer>, ProblemDetails> {
    let (Path(name), Json(mut table)) = (path?, request?);
    let own = table.entry("name").or_insert_with(|| Value::from(&*name));
    if own.as_str() != Some(&name) {
        let message = format!("name: {own} is not the name {name:?} of the resource");
        return Err(ProblemDetails::unprocessable(message));
    }
    give_as(&access, (peer, expected), (name, table, Existing::IsReplaced)).await
}

async fn give_as(
    access: &Access,
    (peer, expected): (Peer, Expected),
    (name, table, existing): (String, Map<String, Value>, Existing),
) -> Result<Tagged<ReloadAnswer>, ProblemDetails> {
    let table = running_config::from_json(Value::Object(table));
    configure((access, peer, expected), Configure::Service(name, table, existing)).await
}

#[utoipa::path(delete, path = "/api/v1/services/{service}", tag = "services", summary = "Takes a service away", params(("service" = String, Path, description = "Name of a service"), ("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]+")$"#, description = "Only if this generation runs: its ETag")), responses((status = 200, description = "What is asked for", body = ReloadAnswer, headers(("ETag" = String, description = "The generation that runs now"))), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn remove(
    State(access): State<Access>,
    (peer, expected): (Peer, Expected),
    path: Result<Path<String>, PathRejection>,
) -> Result<Tagged<ReloadAnswer>, ProblemDetails> {
    let Path(name) = path?;
    configure((&access, peer, expected), Configure::WithoutService(name)).await
}
