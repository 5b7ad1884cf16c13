//! Making health checks: each a small talk of its own, whose outcome is one fact.
//!
//! [`ask`] makes one check and gives its outcome within the check's timeout, whatever the other end does; [`ask_both`] makes it
//! the way the packets go as well, for backends that get those as they are. [`Prober`] makes many of them at once, on a thread of its own, so that neither the loop nor a slow backend puts any off; a
//! check that nobody waits for any more is dropped, its sockets with it. Knows nothing of thresholds or of what
//! becomes of outcomes.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use equipoise_core::config::HealthCheck;
use equipoise_core::config::health::{Question, Tls};
use equipoise_core::health::{Failure, FailureKind, Outcome};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

mod both;
mod dns;
mod exec;
mod grpc;
mod http;
mod prober;
mod tcp;
mod tls;
mod to;
mod udp;

pub use both::ask_both;
pub use prober::{Outcomes, Prober};
pub use to::Vip;

pub(crate) use http::talk;
pub(crate) use tls::fault as tls_fault;

use to::To;

/// Makes a check of what answers at an address.
pub async fn ask(address: SocketAddr, check: &HealthCheck) -> Outcome {
    ask_at(address, None, check).await.outcome
}

/// How a check has ended.
struct Answered {
    outcome: Outcome,
    /// Whether anything has come back but a refusal.
    is_reached: bool,
}

async fn ask_at(address: SocketAddr, vip: Option<Vip>, check: &HealthCheck) -> Answered {
    let reached = AtomicBool::new(false);
    let to = To::new(address, vip, &reached);
    let began = Instant::now();
    let outcome = match timeout(check.timeout, answer(to, check)).await {
        Ok(Ok(())) => Ok(began.elapsed()),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(late(check.timeout)),
    };
    Answered { outcome, is_reached: reached.load(Ordering::Relaxed) }
}

async fn answer(to: To<'_>, check: &HealthCheck) -> Result<(), Failure> {
    match &check.question {
        Question::Tcp => tcp::check(to).await,
        Question::Http(http) => http::check(to, http).await,
        Question::Https(https) => http::check_tls(to, https).await,
        Question::Grpc(grpc) => grpc::check(to, grpc).await,
        Question::Udp(udp) => udp::check(to, udp).await,
        Question::Dns(dns) => dns::check(to, dns).await,
        Question::Exec(exec) => exec::check(to.address, exec).await,
    }
}

/// A connection to who is no backend.
pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    tcp::connect(To::new(address, None, &AtomicBool::new(false))).await
}

/// So, over TLS, with HTTP/1.1 inside.
pub(crate) async fn connect_tls(
    address: SocketAddr,
    tls: &Tls,
) -> Result<TlsStream<TcpStream>, Failure> {
    let reached = AtomicBool::new(false);
    tls::connect(To::new(address, None, &reached), tls, tls::Inside::Http1).await
}

fn late(timeout: Duration) -> Failure {
    let timeout = humantime::format_duration(timeout);
    Failure::new(FailureKind::Timeout, format!("no answer within {timeout}"))
}

/// Has an exchange over a connection that has to be driven meanwhile.
pub(crate) async fn driven<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    let mut exchange = pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => return answer,
        // What it has received before its end is still to be read.
        _ = connection => {}
    }
    exchange.await
}

/// Whether some bytes have others in them.
fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || bytes.windows(wanted.len()).any(|window| window == wanted)
}
