//! Limits of services, and denied prefixes.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::routing::{delete, get, put};
use equipoise_core::config::{Denial, Prefix, RateOf};

use super::change::configure;
use super::{Route, Sent, SentIfAny};
use crate::admin::peer::Peer;
use crate::admin::tag::Tagged;
use crate::admin::{Access, Command, Configure, Expected, ProblemDetails};
use crate::status::Object;
use crate::status::change::ReloadAnswer;
use crate::status::limits::{Denied, DenyRequest, LimitsAnswer, OfService, RateRequest};

pub(super) fn routes() -> Vec<Route> {
    vec![
        ("/api/v1/limits", get(limits)),
        ("/api/v1/services/{service}/limits", delete(clear_all)),
        ("/api/v1/services/{service}/limits/{of}", put(set).delete(clear)),
        ("/api/v1/deny", get(denied)),
        ("/api/v1/deny/{prefix}", put(deny).delete(allow_again)),
    ]
}

#[utoipa::path(get, path = "/api/v1/limits", tag = "limits", summary = "Limits in force, and what they have refused", params(OfService), responses((status = 200, description = "What is asked for", body = LimitsAnswer), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn limits(
    State(access): State<Access>,
    query: Result<Query<OfService>, QueryRejection>,
) -> Result<Json<LimitsAnswer>, ProblemDetails> {
    let Query(OfService { service }) = query?;
    access.ask(|reply| Command::Limits(service, reply)).await.map(Json)
}

#[utoipa::path(put, path = "/api/v1/services/{service}/limits/{of}", tag = "limits", summary = "Gives a service another rate", params(("service" = String, Path, description = "Name of a service"), ("of" = String, Path, pattern = "^per-(source|backend)$", description = "`per-source` or `per-backend`"), ("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]+")$"#, description = "Only if this generation runs: its ETag")), request_body = RateRequest, responses((status = 200, description = "What is asked for", body = ReloadAnswer, headers(("ETag" = String, description = "The generation that runs now"))), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn set(
    State(access): State<Access>,
    (peer, expected): (Peer, Expected),
    path: Result<Path<(String, String)>, PathRejection>,
    request: Sent<RateRequest>,
) -> Result<Tagged<ReloadAnswer>, ProblemDetails> {
    let (Path((service, of)), Json(Object(request))) = (path?, request?);
    let what = Configure::Rates(service, vec![rate_of(&of)?], request);
    configure((&access, peer, expected), what).await
}

#[utoipa::path(delete, path = "/api/v1/services/{service}/limits/{of}", tag = "limits", summary = "Has a service know no such limit", params(("service" = String, Path, description = "Name of a service"), ("of" = String, Path, pattern = "^per-(source|backend)$", description = "`per-source` or `per-backend`"), ("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]+")$"#, description = "Only if this generation runs: its ETag")), responses((status = 200, description = "What is asked for", body = ReloadAnswer, headers(("ETag" = String, description = "The generation that runs now"))), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn clear(
    State(access): State<Access>,
    (peer, expected): (Peer, Expected),
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Tagged<ReloadAnswer>, ProblemDetails> {
    let Path((service, of)) = path?;
    let none = RateRequest { rate: 0, burst: None };
    configure((&access, peer, expected), Configure::Rates(service, vec![rate_of(&of)?], none)).await
}

#[utoipa::path(delete, path = "/api/v1/services/{service}/limits", tag = "limits", summary = "Has a service know no limit of either kind", params(("service" = String, Path, description = "Name of a service"), ("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]+")$"#, description = "Only if this generation runs: its ETag")), responses((status = 200, description = "What is asked for", body = ReloadAnswer, headers(("ETag" = String, description = "The generation that runs now"))), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn clear_all(
    State(access): State<Access>,
    (peer, expected): (Peer, Expected),
    path: Result<Path<String>, PathRejection>,
) -> Result<Tagged<ReloadAnswer>, ProblemDetails> {
    let Path(service) = path?;
    let none = RateRequest { rate: 0, burst: None };
    configure((&access, peer, expected), Configure::Rates(service, RateOf::ALL.into(), none)).await
}

fn rate_of(text: &str) -> Result<RateOf, ProblemDetails> {
    let found = RateOf::ALL.into_iter().find(|of| of.name() == text);
    found.ok_or_else(|| {
        let [source, backend] = RateOf::ALL.map(RateOf::name);
        ProblemDetails::not_found(format!("there is no limit {text:?}: `{source}` or `{backend}`"))
    })
}

#[utoipa::path(get, path = "/api/v1/deny", tag = "limits", summary = "What has been denied since the file was read", responses((status = 200, description = "What is asked for", body = Vec<Denied>), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn denied(
    State(access): State<Access>,
) -> Result<Json<Vec<Denied>>, ProblemDetails> {
    access.ask(Command::Denied).await.map(Json)
}

#[utoipa::path(put, path = "/api/v1/deny/{prefix}", tag = "limits", summary = "Keeps clients out, and ends their flows", params(("prefix" = String, Path, description = "A prefix or an address"), ("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]+")$"#, description = "Only if this generation runs: its ETag")), request_body = Option<DenyRequest>, responses((status = 200, description = "What is asked for", body = ReloadAnswer, headers(("ETag" = String, description = "The generation that runs now"))), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn deny(
    State(access): State<Access>,
    (peer, expected): (Peer, Expected),
    path: Result<Path<String>, PathRejection>,
    SentIfAny(request): SentIfAny<DenyRequest>,
) -> Result<Tagged<ReloadAnswer>, ProblemDetails> {
    let Path(prefix) = path?;
    configure((&access, peer, expected), Configure::Deny(parsed(&prefix)?, request)).await
}

#[utoipa::path(delete, path = "/api/v1/deny/{prefix}", tag = "limits", summary = "Lets them in again", params(("prefix" = String, Path, description = "A prefix or an address"), OfService, ("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]+")$"#, description = "Only if this generation runs: its ETag")), responses((status = 200, description = "What is asked for", body = ReloadAnswer, headers(("ETag" = String, description = "The generation that runs now"))), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn allow_again(
    State(access): State<Access>,
    (peer, expected): (Peer, Expected),
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<OfService>, QueryRejection>,
) -> Result<Tagged<ReloadAnswer>, ProblemDetails> {
    let (Path(prefix), Query(OfService { service })) = (path?, query?);
    let denial = Denial { prefix: parsed(&prefix)?, service: service.as_deref().map(Into::into) };
    configure((&access, peer, expected), Configure::AllowAgain(denial)).await
}

fn parsed(text: &str) -> Result<Prefix, ProblemDetails> {
    text.parse().map_err(|error: equipoise_core::config::NotAPrefix| {
        ProblemDetails::unprocessable(error.to_string())
    })
}
