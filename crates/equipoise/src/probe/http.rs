//! The checks of types `http` and `https`: a page, its status and its body.
//!
//! Redirects are answers like others, unless they are to be followed, and then only within the address that is checked: another
//! one says nothing about this.

use std::net::SocketAddr;

use equipoise_core::config::health::{Http, Https};
use equipoise_core::health::{Failure, FailureKind};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, LOCATION, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::tls::{self, Inside};
use super::to::To;
use super::{driven, tcp};

/// Bytes of a body that are looked at.
const BODY: usize = 64 * 1024;
/// Redirects that are followed.
const REDIRECTS: usize = 5;

/// A page.
pub(super) async fn check(to: To<'_>, http: &Http) -> Result<(), Failure> {
    let origin = Origin { scheme: "http", authority: authority(http, to.address, 80) };
    let mut path = http.path.clone();
    for _ in 0..=REDIRECTS {
        let stream = tcp::connect(to).await?;
        let Some(next) = fetch(stream, http, (&origin, &path)).await? else { return Ok(()) };
        path = next;
    }
    Err(too_many())
}

/// A page over TLS.
pub(super) async fn check_tls(to: To<'_>, https: &Https) -> Result<(), Failure> {
    let Https { http, tls } = https;
    let origin = Origin { scheme: "https", authority: authority(http, to.address, 443) };
    let mut path = http.path.clone();
    for _ in 0..=REDIRECTS {
        let stream = tls::connect(to, tls, Inside::Http1).await?;
        let Some(next) = fetch(stream, http, (&origin, &path)).await? else { return Ok(()) };
        path = next;
    }
    Err(too_many())
}

/// What is asked, as a URL has it before the path.
struct Origin {
    scheme: &'static str,
    authority: String,
}

fn authority(http: &Http, address: SocketAddr, usual: u16) -> String {
    let without_port = || match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    };
    let own = || if address.port() == usual { without_port() } else { address.to_string() };
    http.host.clone().unwrap_or_else(own)
}

fn too_many() -> Failure {
    Failure::new(FailureKind::UnexpectedStatus, format!("more than {REDIRECTS} redirects"))
}

/// Asks for a page: good, or the path to go on with.
async fn fetch<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    http: &Http,
    (origin, path): (&Origin, &str),
) -> Result<Option<String>, Failure> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| talk(&error))?;
    let request = request(http, &origin.authority, path)?;
    driven(connection, async {
        let response = sender.send_request(request).await.map_err(|error| talk(&error))?;
        judge(response, http, origin).await
    })
    .await
}

fn request(http: &Http, authority: &str, path: &str) -> Result<Request<Empty<Bytes>>, Failure> {
    let mut request = Request::builder().method(http.method.as_str()).uri(path);
    let names: Vec<_> = http.headers.keys().map(|name| name.to_ascii_lowercase()).collect();
    let usual = [
        (HOST, authority),
        (USER_AGENT, concat!("equipoise/", env!("CARGO_PKG_VERSION"))),
        (CONNECTION, "close"),
    ];
    for (name, value) in
        usual.into_iter().filter(|(name, _)| !names.iter().any(|n| n == name.as_str()))
    {
        request = request.header(name, value);
    }
    for (name, value) in &http.headers {
        request = request.header(name, value);
    }
    request
        .body(Empty::new())
        .map_err(|error| Failure::new(FailureKind::UnexpectedAnswer, format!("asking: {error}")))
}

async fn judge(
    mut response: Response<Incoming>,
    http: &Http,
    origin: &Origin,
) -> Result<Option<String>, Failure> {
    let status = response.status();
    if http.follow_redirects && status.is_redirection() {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        if let Some(location) = location {
            return within(origin, location).map(Some);
        }
    }
    if !http.expected_codes.contains(status.as_u16()) {
        let message = format!("status {}", status.as_u16());
        return Err(Failure::new(FailureKind::UnexpectedStatus, message));
    }
    let mut body = Vec::new();
    while body.len() < BODY {
        let Some(frame) = response.frame().await else { break };
        if let Ok(data) = frame.map_err(|error| talk(&error))?.into_data() {
            body.extend_from_slice(&data);
        }
    }
    let expected = http.expected_body.as_deref().unwrap_or_default();
    if !super::contains(&body, expected.as_bytes()) {
        let message = format!("the body does not contain {expected:?}");
        return Err(Failure::new(FailureKind::UnexpectedAnswer, message));
    }
    Ok(None)
}

/// The path that a redirect leads to.
fn within(origin: &Origin, location: &str) -> Result<String, Failure> {
    let here = format!("{}://{}", origin.scheme, origin.authority);
    let path = location.strip_prefix(&here).unwrap_or(location);
    let path = path.split('#').next().unwrap_or_default();
    match path {
        "" => Ok("/".to_owned()),
        path if path.starts_with('/') && !path.starts_with("//") => Ok(path.to_owned()),
        _ => {
            let message = format!("redirected elsewhere, to {location}");
            Err(Failure::new(FailureKind::UnexpectedStatus, message))
        }
    }
}

/// What an error of a talk says.
pub(crate) fn talk(error: &hyper::Error) -> Failure {
    let source = std::error::Error::source(error);
    match source.and_then(|source| source.downcast_ref()) {
        Some(error) => tcp::failure("talking", error),
        None if error.is_incomplete_message() || error.is_canceled() => {
            Failure::new(FailureKind::ConnectionReset, "the connection was closed")
        }
        None => {
            let more = source.map(|source| format!(": {source}")).unwrap_or_default();
            Failure::new(FailureKind::UnexpectedAnswer, format!("{error}{more}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_followed_within_the_address_alone() {
        let origin = Origin { scheme: "http", authority: "10.0.0.1:8080".to_owned() };
        let path = |location| within(&origin, location).ok();
        assert_eq!(path("/ready?x=1#top").as_deref(), Some("/ready?x=1"));
        assert_eq!(path("http://10.0.0.1:8080/ready").as_deref(), Some("/ready"));
        assert_eq!(path("http://10.0.0.1:8080").as_deref(), Some("/"));
        for elsewhere in [
            "https://10.0.0.1:8080/",
            "http://10.0.0.2/",
            "//x/",
            "ready",
            "http://10.0.0.1:80800/",
        ] {
            assert_eq!(path(elsewhere), None, "{elsewhere}");
        }
    }
}
