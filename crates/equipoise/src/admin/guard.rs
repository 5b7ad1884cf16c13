//! Who may ask what over a port: keys and their scopes, origins of scripts, and how often a wrong key may be tried.
//!
//! Asked for each request, on connections that are there already too, so that a key that is taken away opens nothing any more. Without keys, which
//! there is on loopback alone, a page in a browser of this host must not get in: requests of scripts are refused unless their origin is
//! allowed, and so are names of hosts that could be anybody's (DNS rebinding).

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::body::Body;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::uri::Authority;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use equipoise_common::bucket::{Bucket, Rate, Taken};
use equipoise_core::config::admin::Scope;
use futures_util::StreamExt as _;
use subtle::ConstantTimeEq;
use tokio::sync::watch;
use tokio::time::Instant;

use super::ProblemDetails;
use super::peer::Peer;
use super::secrets::Known;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// What scripts of other origins may ask, and see of an answer.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE, OPTIONS");
const HEADERS: HeaderValue =
    HeaderValue::from_static("Authorization, Content-Type, If-Match, X-API-Key");
const EXPOSED: HeaderValue = HeaderValue::from_static("ETag, X-Total-Count");
/// Wrong keys that an address may try: so many at once, and then one in a second.
const GUESSES: Rate = Rate { rate: 1, burst: 10 };
/// Addresses are told apart by so many buckets; those that share one share its guesses.
const BUCKETS: usize = 1024;

/// What tells nobody more than that there is a balancer, and whether it takes new flows.
const OPEN: [&str; 2] = ["/health", "/ready"];
/// What can be asked without changing anything, though it has a body.
const QUESTIONS: [&str; 1] = ["/api/v1/explain"];
/// What runs a program of this host's choice or looks into packets, and so is for users of this host alone.
const LOCAL: [(Method, &str); 3] = [
    (Method::POST, "/api/v1/upgrade"),
    (Method::GET, "/api/v1/trace"),
    (Method::GET, "/api/v1/top-talkers/dropped"),
];

/// Who may come in.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// None for everybody.
    pub(super) keys: Vec<Known>,
    /// Origins of pages whose scripts may ask.
    pub(super) origins: Vec<String>,
}

/// What requests are let through by.
#[derive(Clone)]
pub(super) struct Gate {
    rules: watch::Receiver<Option<Arc<Rules>>>,
    guesses: Arc<Guesses>,
}

impl Gate {
    /// One that follows these rules as they change; without any, nobody comes in.
    pub(super) fn new(rules: watch::Receiver<Option<Arc<Rules>>>) -> Self {
        Self { rules, guesses: Arc::default() }
    }
}

/// Wrong keys, by who has tried them.
struct Guesses {
    began: Instant,
    hasher: RandomState,
    buckets: Vec<Bucket<AtomicU64>>,
}

impl Default for Guesses {
    fn default() -> Self {
        let bucket = || Bucket::new(AtomicU64::new(0), AtomicU64::new(0));
        Self {
            began: Instant::now(),
            hasher: RandomState::new(),
            buckets: std::iter::repeat_with(bucket).take(BUCKETS).collect(),
        }
    }
}

impl Guesses {
    fn bucket(&self, from: IpAddr) -> &Bucket<AtomicU64> {
        // Whoever has one address of IPv6 has its whole network.
        let network = match from {
            IpAddr::V4(v4) => u128::from(u32::from(v4)),
            IpAddr::V6(v6) => u128::from(v6) >> 64 << 64,
        };
        &self.buckets[self.hasher.hash_one(network) as usize % BUCKETS]
    }

    fn now(&self) -> u64 {
        // Not 0, at which a bucket that has never been asked was.
        1 + u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX >> 1)
    }

    /// Whether it may not try any more.
    fn is_over(&self, from: IpAddr) -> bool {
        !self.bucket(from).would_take(GUESSES, self.now())
    }

    fn count(&self, from: IpAddr) {
        // Whether there was one left has been asked.
        let _: Taken = self.bucket(from).take(GUESSES, self.now());
    }
}

/// Lets a request through, or answers it.
pub(super) async fn guard(
    State(gate): State<Gate>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let rules = gate.rules.borrow().clone();
    let Some(rules) = rules else { return ProblemDetails::ending().into_response() };
    let origin = request.headers().get(header::ORIGIN).cloned();
    let is_allowed = origin.as_ref().is_none_or(|origin| rules.allows(origin));
    if !is_allowed {
        return ProblemDetails::forbidden("scripts of this origin are not let in").into_response();
    }
    let mut response = match rules.admit(&gate.guesses, &peer, &request) {
        _ if request.method() == Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        Ok(known) => {
            if let Some(known) = known {
                let peer = Peer::Key(known.name.clone());
                request.extensions_mut().insert(ConnectInfo(peer));
            }
            let known = known.cloned();
            while_admitted(next.run(request).await, gate.rules.clone(), known)
        }
        Err(refusal) => refusal.into_response(),
    };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    // Also without an origin: what is kept of this answer is for no page that has one.
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Origin"));
    response
}

/// An answer without an end has one when whoever has asked is not let in any more: without the key that was shown, or at all.
fn while_admitted(
    response: Response,
    mut rules: watch::Receiver<Option<Arc<Rules>>>,
    known: Option<Known>,
) -> Response {
    let kind = response.headers().get(header::CONTENT_TYPE);
    if !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
        return response;
    }
    let over = async move {
        while rules.changed().await.is_ok() {
            let now = rules.borrow_and_update().clone();
            if !now.is_some_and(|rules| rules.still_admit(known.as_ref())) {
                return;
            }
        }
    };
    response.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(over))))
}

/// Why a request is not let through.
enum Refusal {
    /// Without keys, it is not for this host by a name that is nobody else's.
    NotThisHost,
    /// It is for users of this host alone.
    Local,
    /// The key of this name is for asking alone.
    ForAsking(String),
    /// There is no key, or a wrong one.
    Unknown,
    /// There have been too many wrong ones.
    TooMany,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (problem, header) = match self {
            Self::NotThisHost => {
                let message = "without keys, only this host by its address or as localhost";
                (ProblemDetails::forbidden(message), None)
            }
            Self::Local => {
                let message = "this is for users of this host alone, by the socket";
                (ProblemDetails::forbidden(message), None)
            }
            Self::ForAsking(name) => {
                (ProblemDetails::forbidden(format!("the key {name:?} is for asking alone")), None)
            }
            Self::Unknown => {
                let scheme = HeaderValue::from_static("Bearer realm=\"equipoise\"");
                let problem = ProblemDetails::unauthorized("the key is wrong or missing");
                (problem, Some((header::WWW_AUTHENTICATE, scheme)))
            }
            Self::TooMany => {
                let wait = Some((header::RETRY_AFTER, HeaderValue::from_static("1")));
                (ProblemDetails::too_many("too many wrong keys"), wait)
            }
        };
        let mut response = problem.into_response();
        response.headers_mut().extend(header);
        response
    }
}

impl Rules {
    fn allows(&self, origin: &HeaderValue) -> bool {
        self.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())
    }

    /// Whether a question that was let in by this key, or without any, would be now.
    fn still_admit(&self, known: Option<&Known>) -> bool {
        match known {
            Some(known) => self.find(known.secret.bytes()).is_some(),
            None => self.keys.is_empty(),
        }
    }

    /// The key of a request that may be answered, where there are keys.
    fn admit(
        &self,
        guesses: &Guesses,
        peer: &Peer,
        request: &Request,
    ) -> Result<Option<&Known>, Refusal> {
        let path = request.uri().path();
        let known = if self.keys.is_empty() {
            if !is_this_host(request) {
                return Err(Refusal::NotThisHost);
            }
            None
        } else {
            Some(self.known(guesses, peer, request.headers())?)
        };
        // A head is asked for as the whole is.
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        if LOCAL.iter().any(|(of, place)| (of, *place) == (method, path)) {
            return Err(Refusal::Local);
        }
        let is_question = *method == Method::GET || QUESTIONS.contains(&path);
        match known {
            Some(Known { name, scope: Scope::Read, .. }) if !is_question => {
                Err(Refusal::ForAsking(name.clone()))
            }
            known => Ok(known),
        }
    }

    fn known(
        &self,
        guesses: &Guesses,
        peer: &Peer,
        headers: &HeaderMap,
    ) -> Result<&Known, Refusal> {
        let from = match peer {
            Peer::Address(address) => Some(*address),
            Peer::User(_) | Peer::Key(_) => None,
        };
        // Before it is looked at: otherwise, guessing would go on, and the right one be told from the wrong ones.
        if from.is_some_and(|from| guesses.is_over(from)) {
            return Err(Refusal::TooMany);
        }
        let presented = presented(headers);
        if let Some(known) = presented.and_then(|text| self.find(text)) {
            return Ok(known);
        }
        if let (Some(_), Some(from)) = (presented, from) {
            guesses.count(from);
            tracing::warn!(%from, "a wrong key for the admin API");
        }
        Err(Refusal::Unknown)
    }

    /// The key that this is. All are looked at, whichever it is, and each to its end.
    fn find(&self, text: &[u8]) -> Option<&Known> {
        let mut found = None;
        for known in &self.keys {
            if bool::from(known.secret.bytes().ct_eq(text)) {
                found = Some(known);
            }
        }
        found
    }
}

/// What is shown as a key.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let bearer = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).and_then(|text| {
        let (scheme, token) = text.split_at_checked(SCHEME.len())?;
        scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim_ascii())
    });
    bearer.or_else(|| headers.get(API_KEY).map(HeaderValue::as_bytes))
}

/// Whether a request says that it is for this host by what nobody else can have a name of.
fn is_this_host(request: &Request) -> bool {
    let host = request.uri().authority().map(Authority::as_str);
    let header = || request.headers().get(header::HOST)?.to_str().ok();
    let Some(host) = host.or_else(header) else { return true };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}
