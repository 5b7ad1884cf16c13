//! Making health checks: each a small talk of its own, whose outcome is one fact.
//!
//! [`ask`] makes one check and gives its outcome within the check's timeout, whatever the other end does. [`Prober`] makes
//! many of them at once, on a thread of its own, so that neither the loop nor a slow backend puts any off; a
//! check that nobody waits for any more is dropped, its sockets with it. Knows nothing of thresholds or of what
//! becomes of outcomes.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use equipoise_core::config::HealthCheck;
use equipoise_core::config::health::Question;
use equipoise_core::health::{Failure, FailureKind, Outcome};
use tokio::time::timeout;

mod dns;
mod exec;
mod grpc;
mod http;
mod prober;
mod tcp;
mod tls;
mod udp;

pub use prober::{Outcomes, Prober};

/// Makes a check of what answers at an address.
pub async fn ask(address: SocketAddr, check: &HealthCheck) -> Outcome {
    let began = Instant::now();
    match timeout(check.timeout, answer(address, check)).await {
        Ok(Ok(())) => Ok(began.elapsed()),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(late(check.timeout)),
    }
}

async fn answer(address: SocketAddr, check: &HealthCheck) -> Result<(), Failure> {
    match &check.question {
        Question::Tcp => tcp::check(address).await,
        Question::Http(http) => http::check(address, http).await,
        Question::Https(https) => http::check_tls(address, https).await,
        Question::Grpc(grpc) => grpc::check(address, grpc).await,
        Question::Udp(udp) => udp::check(address, udp).await,
        Question::Dns(dns) => dns::check(address, dns).await,
        Question::Exec(exec) => exec::check(address, exec).await,
    }
}

fn late(timeout: Duration) -> Failure {
    let timeout = humantime::format_duration(timeout);
    Failure::new(FailureKind::Timeout, format!("no answer within {timeout}"))
}

/// Has an exchange over a connection that has to be driven meanwhile.
async fn driven<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
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
