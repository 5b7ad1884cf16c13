//! Errors on HTTP: problem details as of RFC 9457.

use std::error::Error as _;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use equipoise_core::config::Problem;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A problem, as an answer carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemDetails {
    /// What kind of problem, as a URI reference.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words; the same for every problem of the kind.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This problem in words.
    pub detail: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub help: Option<Box<str>>,
    /// All problems of a configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ConfigError>,
}

/// A problem of a configuration, with its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// Path of the key.
    pub key: String,
    /// The key as a JSON pointer (RFC 6901).
    pub pointer: String,
    /// What is wrong.
    pub message: String,
    /// What is allowed instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
}

impl ConfigError {
    /// Of a file as a whole.
    pub fn whole(file: &str, message: &str) -> Self {
        Self {
            file: file.to_owned(),
            line: 1,
            column: 1,
            key: String::new(),
            pointer: String::new(),
            message: message.to_owned(),
            allowed: None,
        }
    }

    /// All problems of a file, as an answer carries them.
    pub fn all(file: &str, problems: &[Problem]) -> Vec<Self> {
        let error = |problem: &Problem| Self {
            file: problem.file_or(file).to_owned(),
            line: problem.line,
            column: problem.column,
            key: problem.key.clone(),
            pointer: pointer(&problem.key),
            message: problem.message.clone(),
            allowed: problem.allowed.clone(),
        };
        problems.iter().map(error).collect()
    }
}

/// What a problem is in that no file has.
const REQUEST: &str = "request";
/// What the names of all kinds begin with.
const KINDS: &str = "urn:equipoise:problem:";
/// The kind of a problem with a configuration that could not be applied, and is taken back.
pub const ROLLED_BACK: &str = "rolled-back";

impl ProblemDetails {
    /// A configuration could not be applied: what ran before runs again.
    pub fn rolled_back(detail: impl Into<String>, errors: Vec<ConfigError>) -> Self {
        Self { errors, ..Self::of(StatusCode::INTERNAL_SERVER_ERROR, ROLLED_BACK, detail) }
    }

    /// The same, where all of it is about a part of a configuration that was the request: with the places that its keys have there, in
    /// the names that requests have for them.
    #[must_use]
    pub fn within(self, part: &str) -> Self {
        let inside = |error: &ConfigError| {
            let rest = error.key.strip_prefix(part)?;
            let key = rest.strip_prefix('.').unwrap_or(rest).replace('-', "_");
            let pointer = pointer(&key);
            Some(ConfigError {
                file: REQUEST.to_owned(),
                line: 1,
                column: 1,
                key,
                pointer,
                ..error.clone()
            })
        };
        let Some(errors) = self.errors.iter().map(inside).collect::<Option<Vec<_>>>() else {
            return self;
        };
        if errors.is_empty() {
            return self;
        }
        let told = |error: &ConfigError| format!("{}: {}", error.key, error.message);
        let detail = errors.iter().map(told).collect::<Vec<_>>().join("; ");
        Self { detail, errors, ..self }
    }

    /// With what to do next.
    #[must_use]
    pub fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into().into()), ..self }
    }

    /// Whether it is a problem of this kind.
    pub fn is_of(&self, kind: &str) -> bool {
        self.kind.strip_prefix(KINDS) == Some(kind)
    }

    /// There is no such thing.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::of(StatusCode::NOT_FOUND, "not-found", detail)
    }

    /// The request has not the form that is described.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::of(StatusCode::BAD_REQUEST, "bad-request", detail)
    }

    /// Nobody knows who asks.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::of(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }

    /// Who asks may not.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::of(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// Who asks has tried too often.
    pub fn too_many(detail: impl Into<String>) -> Self {
        Self::of(StatusCode::TOO_MANY_REQUESTS, "too-many", detail)
    }

    /// Another configuration runs than the one that was meant.
    pub fn stale(detail: impl Into<String>) -> Self {
        Self::of(StatusCode::PRECONDITION_FAILED, "stale", detail)
    }

    /// The configuration in the request is wrong.
    pub fn bad_config(detail: impl Into<String>, errors: Vec<ConfigError>) -> Self {
        Self { errors, ..Self::of(StatusCode::UNPROCESSABLE_ENTITY, "bad-config", detail) }
    }

    /// The request has the form that is described, and means nothing, or contradicts itself.
    pub fn unprocessable(detail: impl Into<String>) -> Self {
        Self::of(StatusCode::UNPROCESSABLE_ENTITY, "unprocessable", detail)
    }

    /// It contradicts what is so already.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::of(StatusCode::CONFLICT, "conflict", detail)
    }

    /// It was right and did not work.
    pub fn failed(detail: impl Into<String>) -> Self {
        Self::of(StatusCode::INTERNAL_SERVER_ERROR, "failed", detail)
    }

    /// There is no room for it now.
    pub fn busy(detail: impl Into<String>) -> Self {
        Self::of(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
    }

    /// The instance is ending.
    pub fn ending() -> Self {
        Self::of(StatusCode::SERVICE_UNAVAILABLE, "ending", "the instance is ending")
    }

    /// The route is there, with another method.
    pub fn wrong_method() -> Self {
        Self::of(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", "this resource has no such method")
    }

    fn of(status: StatusCode, kind: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("{KINDS}{kind}"),
            title: status.canonical_reason().unwrap_or(kind).to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            help: None,
            errors: Vec::new(),
        }
    }
}

/// A request whose path or query is not what is asked for.
macro_rules! refused {
    ($($rejection:ident)+) => {
        $(impl From<$rejection> for ProblemDetails {
            fn from(rejection: $rejection) -> Self {
                Self::bad_request(rejection.body_text())
            }
        })+
    };
}

refused! { PathRejection QueryRejection }

/// A body that is not what is asked for, with its place there where it is JSON.
impl From<JsonRejection> for ProblemDetails {
    fn from(rejection: JsonRejection) -> Self {
        let detail = rejection.body_text();
        match rejection.status() {
            StatusCode::UNPROCESSABLE_ENTITY => {
                let errors = wrong_in_body(&rejection).into_iter().collect();
                Self { errors, ..Self::unprocessable(detail) }
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                Self::of(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported", detail)
            }
            StatusCode::PAYLOAD_TOO_LARGE => {
                Self::of(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
            }
            _ => Self::bad_request(detail),
        }
    }
}

/// What is wrong in a body, and where.
fn wrong_in_body(rejection: &JsonRejection) -> Option<ConfigError> {
    let mut source = rejection.source();
    let found = loop {
        let error = source?;
        match error.downcast_ref::<serde_path_to_error::Error<serde_json::Error>>() {
            Some(found) => break found,
            None => source = error.source(),
        }
    };
    let key = found.path().to_string();
    // What is wrong with all of it has no key, which is written as a point.
    let key = if key == "." { String::new() } else { key };
    let at = found.inner();
    Some(ConfigError {
        line: at.line(),
        column: at.column(),
        pointer: pointer(&key),
        key,
        ..ConfigError::whole(REQUEST, &at.to_string())
    })
}

impl IntoResponse for ProblemDetails {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

/// `service[0].listen.port` as `/service/0/listen/port`. Names in quotes may hold any character.
fn pointer(key: &str) -> String {
    let mut pointer = String::new();
    let mut quoted = false;
    for c in key.chars() {
        if pointer.is_empty() {
            pointer.push('/');
        }
        match c {
            '"' => quoted = !quoted,
            '.' | '[' if !quoted => pointer.push('/'),
            ']' if !quoted => {}
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            c => pointer.push(c),
        }
    }
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::extract::{FromRequest as _, Request};
    use serde_json::Value;

    #[tokio::test]
    async fn what_is_no_json_of_a_size_to_be_read_has_a_status_of_its_own() {
        let sent = async |kind: &str, body: String| {
            let request = Request::post("/").header(header::CONTENT_TYPE, kind);
            let request = request.body(Body::from(body)).unwrap();
            let refused = Json::<Value>::from_request(request, &()).await.unwrap_err();
            ProblemDetails::from(refused).status
        };
        assert_eq!(sent("text/plain", "{}".to_owned()).await, 415);
        assert_eq!(sent("application/json", " ".repeat(3 << 20)).await, 413);
        assert_eq!(sent("application/json", "{".to_owned()).await, 400);
    }

    #[test]
    fn keys_become_json_pointers() {
        assert_eq!(pointer("service[0].listen.interfaces[1]"), "/service/0/listen/interfaces/1");
        assert_eq!(pointer("settings.attach.\"eth0.100\""), "/settings/attach/eth0.100");
        assert_eq!(pointer(""), "");
    }
}
