//! One request to a collector: OTLP over HTTP/1.1, plain or over TLS, on a connection of its own.
//!
//! What goes wrong is a sentence that holds no header's value, nor anything that the collector has said.

use std::net::SocketAddr;

use equipoise_core::config::admin::Secret;
use equipoise_core::config::health::Tls;
use equipoise_core::config::otlp::{Host, Otlp};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::admin::from_file;
use crate::probe;
use crate::resolver::look_up;

const PROTOBUF: &str = "application/x-protobuf";
/// Bytes of an answer that are read.
const ANSWER: usize = 64 * 1024;

/// Who is pushed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Collector {
    pub(super) otlp: Otlp,
    /// Who is asked where it is; none for the system's.
    pub(super) resolvers: Vec<SocketAddr>,
}

/// What the value of a header must not be.
const NO_VALUE: &str = "cannot be the value of a header";

/// All that is wrong with the files that are named: the key below `settings.otlp` that names one, and a sentence.
pub(crate) fn faults(otlp: &Otlp) -> Vec<(String, String)> {
    let headers = otlp.header_files.iter().filter_map(|(name, file)| {
        let fault = from_file(file, Secret::of_header, NO_VALUE).err()?;
        Some((format!("header-files.{name}"), fault))
    });
    let collector = Collector { otlp: otlp.clone(), resolvers: Vec::new() };
    let tls = collector.tls().and_then(|tls| probe::tls_fault(&tls));
    headers.chain(tls.map(|fault| ("ca-file".to_owned(), fault))).collect()
}

impl Collector {
    /// Sends metrics, and says how many points of them it has refused.
    ///
    /// # Errors
    ///
    /// When it has taken none, or has not said so in time.
    pub(super) async fn send(&self, metrics: &impl Message) -> Result<u64, String> {
        let limit = self.otlp.timeout;
        let answered = timeout(limit, self.exchange(metrics)).await;
        answered.unwrap_or_else(|_| {
            Err(format!("no answer within {}", humantime::format_duration(limit)))
        })
    }

    async fn exchange(&self, metrics: &impl Message) -> Result<u64, String> {
        let request = self.request(metrics.encode_to_vec())?;
        let mut failure = "its name stands for no address".to_owned();
        for address in self.addresses().await? {
            // One that cannot be reached leaves the others; what one that can be has answered is the answer.
            let failed = if let Some(tls) = self.tls() {
                match probe::connect_tls(address, &tls).await {
                    Ok(stream) => return post(stream, request).await,
                    Err(failure) => failure,
                }
            } else {
                match probe::connect(address).await {
                    Ok(stream) => return post(stream, request).await,
                    Err(failure) => failure,
                }
            };
            failure = failed.message;
        }
        Err(failure)
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let port = self.otlp.endpoint.port;
        match &self.otlp.endpoint.host {
            Host::Address(address) => Ok(vec![SocketAddr::new(*address, port)]),
            Host::Name(name) => {
                let answer = look_up(name, &self.resolvers).await.map_err(|f| f.message)?;
                let places = answer.places.keys();
                Ok(places.map(|place| SocketAddr::new(place.ip(), port)).collect())
            }
        }
    }

    fn tls(&self) -> Option<Tls> {
        let name = match &self.otlp.endpoint.host {
            Host::Name(name) => Some(name.text().to_owned()),
            Host::Address(_) => None,
        };
        self.otlp.endpoint.is_tls.then(|| Tls {
            server_name: name,
            ca_file: self.otlp.ca_file.clone(),
            client_certificate: None,
            client_key: None,
            insecure: false,
        })
    }

    fn request(&self, body: Vec<u8>) -> Result<Request<Full<Bytes>>, String> {
        let Otlp { endpoint, headers, header_files, .. } = &self.otlp;
        let mut request = Request::post(&endpoint.path)
            .header(HOST, endpoint.authority())
            .header(USER_AGENT, concat!("equipoise/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close")
            .header(CONTENT_TYPE, PROTOBUF)
            .body(Full::from(body))
            .map_err(|error| error.to_string())?;
        let read = header_files
            .iter()
            .map(|(name, file)| (name, from_file(file, Secret::of_header, NO_VALUE)));
        let given = headers.iter().map(|(name, value)| (name, Ok(value.clone())));
        for (name, value) in given.chain(read) {
            let value = value?;
            let as_header = HeaderName::try_from(name).ok();
            let as_header = as_header.zip(HeaderValue::from_bytes(value.bytes()).ok());
            let Some((header, mut value)) = as_header else {
                return Err(format!("{name} is no header"));
            };
            value.set_sensitive(true);
            request.headers_mut().insert(header, value);
        }
        Ok(request)
    }
}

async fn post<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<u64, String> {
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| probe::talk(&error).message)?;
    probe::driven(connection, async {
        let response = sender.send_request(request).await;
        judge(response.map_err(|error| probe::talk(&error).message)?).await
    })
    .await
}

/// A redirect is no answer either: what is secret is for this collector alone.
async fn judge(response: Response<Incoming>) -> Result<u64, String> {
    let status = response.status();
    if !status.is_success() {
        return Err(format!("status {}", status.as_u16()));
    }
    let is_told = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == PROTOBUF);
    let body = Limited::new(response.into_body(), ANSWER).collect().await;
    let body = body.map_err(|error| format!("reading the answer: {error}"))?;
    if !is_told {
        return Ok(0);
    }
    // An answer that is none says nothing against what has been taken.
    let answer = ExportMetricsServiceResponse::decode(body.to_bytes()).unwrap_or_default();
    let refused = answer.partial_success.map_or(0, |partly| partly.rejected_data_points);
    Ok(u64::try_from(refused).unwrap_or_default())
}
