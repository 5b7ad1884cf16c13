//! The check of type `grpc`: `grpc.health.v1.Health/Check`, over plain HTTP/2 or TLS.
//!
//! The request has one text and the answer one number, so they are put together and taken apart here, as
//! <https://protobuf.dev/programming-guides/encoding> has it.

use equipoise_core::config::health::Grpc;
use equipoise_core::health::{Failure, FailureKind};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::header::{CONTENT_TYPE, HeaderMap, TE};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use super::http::talk;
use super::tls::{self, Inside};
use super::to::To;
use super::{driven, tcp};

/// Bytes of an answer, at most.
const ANSWER: usize = 64 * 1024;
/// Of `ServingStatus`.
const SERVING: u64 = 1;

/// Good when the service is serving.
pub(super) async fn check(to: To<'_>, grpc: &Grpc) -> Result<(), Failure> {
    match &grpc.tls {
        Some(tls) => {
            let name = tls.server_name.clone().unwrap_or_else(|| to.address.to_string());
            let stream = tls::connect(to, tls, Inside::Http2).await?;
            call(stream, &format!("https://{name}"), &grpc.grpc_service).await
        }
        None => {
            let stream = tcp::connect(to).await?;
            call(stream, &format!("http://{}", to.address), &grpc.grpc_service).await
        }
    }
}

async fn call<S>(stream: S, origin: &str, service: &str) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| talk(&error))?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{origin}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(Full::new(Bytes::from(asked(service))))
        .map_err(|error| unexpected(format!("asking: {error}")))?;
    driven(connection, async {
        let response = sender.send_request(request).await.map_err(|error| talk(&error))?;
        if response.status() != StatusCode::OK {
            let message = format!("status {}", response.status().as_u16());
            return Err(Failure::new(FailureKind::UnexpectedStatus, message));
        }
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER).collect().await;
        let body: Collected<Bytes> = body.map_err(|error| unexpected(error.to_string()))?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        // An answer without a body has them among its headers.
        for headers in [&head.headers, &trailers] {
            refused(headers)?;
        }
        match serving(&body.to_bytes()) {
            Some(SERVING) => Ok(()),
            Some(2) => Err(unexpected("not serving")),
            Some(status) => Err(unexpected(format!("serving status {status}"))),
            None => Err(unexpected("the answer is not understood")),
        }
    })
    .await
}

fn unexpected(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::UnexpectedAnswer, message)
}

/// `HealthCheckRequest` behind its length.
fn asked(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        // Field 1, bytes.
        message.push(1 << 3 | 2);
        let mut length = service.len();
        while length > 0x7f {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.append(&mut message);
    framed
}

/// Whether the call itself was refused.
fn refused(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(status) => {
            let more = text("grpc-message").map(|more| format!(": {more}")).unwrap_or_default();
            Err(unexpected(format!("grpc status {status}{more}")))
        }
    }
}

/// The status of a `HealthCheckResponse` behind its length; a field that is 0 is not there.
fn serving(framed: &[u8]) -> Option<u64> {
    let (&[0, a, b, c, d], message) = framed.split_first_chunk()? else { return None };
    let message = message.get(..u32::from_be_bytes([a, b, c, d]) as usize)?;
    let Some((&tag, rest)) = message.split_first() else { return Some(0) };
    // Field 1, a number.
    if tag != 1 << 3 {
        return None;
    }
    let mut value = 0;
    for (place, byte) in rest.iter().enumerate().take(9) {
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_protobuf_has_them() {
        assert_eq!(asked(""), [0, 0, 0, 0, 0]);
        assert_eq!(asked("ab"), [0, 0, 0, 0, 4, 10, 2, b'a', b'b']);
        let long = asked(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 10, 0xac, 2]);
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(serving(&[0, 0, 0, 0, 3, 8, 0x81, 1]), Some(129));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Some(0));
        for wrong in [&[][..], &[0, 0, 0, 0, 2, 8], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 1, 16]] {
            assert_eq!(serving(wrong), None, "{wrong:?}");
        }
    }
}
