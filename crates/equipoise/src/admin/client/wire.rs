//! Requests and answers of the client, as they travel.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{Client, ClientError};

/// How long an answer may take to begin.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Patience {
    /// That of a question; none for as long as it takes.
    pub(super) question: Option<Duration>,
    /// That of what is to be done.
    pub(super) order: Option<Duration>,
}

impl Client {
    /// What is answered where nothing is sent beside the path.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<T, ClientError> {
        self.read(self.send(method, path, Bytes::new()).await?).await
    }

    /// What is answered where this is sent.
    pub(super) async fn tell<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| ClientError::Talk(e.to_string()))?;
        self.read(self.send(method, path, body.into()).await?).await
    }

    /// An answer that is to be read piece by piece.
    pub(super) async fn open(&self, path: &str) -> Result<Incoming, ClientError> {
        self.answered(self.send(Method::GET, path, Bytes::new()).await?).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let Patience { question, order } = self.patience;
        let patience = if method == Method::GET { question } else { order };
        let answered = self.exchange(method, path, body);
        let Some(within) = patience else { return answered.await };
        let silent = |_| ClientError::Silent { socket: self.socket.clone(), within };
        timeout(within, answered).await.map_err(silent)?
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(e))?;
        let talk = |e: hyper::Error| ClientError::Talk(e.to_string());
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(talk)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/{path}"))
            .header(HOST, "equipoise")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| ClientError::Talk(e.to_string()))?;
        sender.send_request(request).await.map_err(talk)
    }

    async fn read<T: DeserializeOwned>(
        &self,
        response: Response<Incoming>,
    ) -> Result<T, ClientError> {
        let body = whole(self.answered(response).await?).await?;
        serde_json::from_slice(&body).map_err(|e| ClientError::Talk(e.to_string()))
    }

    /// The body of an answer that is no problem.
    async fn answered(&self, response: Response<Incoming>) -> Result<Incoming, ClientError> {
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response.into_body());
        }
        let body = whole(response.into_body()).await?;
        let problem = serde_json::from_slice(&body);
        let problem = problem.map_err(|e| ClientError::Talk(format!("status {status}, {e}")))?;
        Err(ClientError::Problem(Box::new(problem)))
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        let socket = self.socket.clone();
        if matches!(source.kind(), ConnectionRefused | NotFound) {
            return ClientError::NoInstance(socket);
        }
        ClientError::Socket { socket, source }
    }
}

async fn whole(body: Incoming) -> Result<Bytes, ClientError> {
    let body = body.collect().await.map_err(|e| ClientError::Talk(e.to_string()))?;
    Ok(body.to_bytes())
}

/// Those that are given, as a query.
pub(super) fn pairs(all: &[(&str, Option<&str>)]) -> String {
    let given = all.iter().filter_map(|(key, value)| Some((key, (*value)?)));
    given.map(|(key, value)| format!("{key}={}", encode(value))).collect::<Vec<_>>().join("&")
}

/// What is written as it is; all else is percent-encoded (RFC 3986, section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text as a part of a path or a query.
pub(super) fn encode(text: &str) -> impl Display {
    utf8_percent_encode(text, UNRESERVED)
}
