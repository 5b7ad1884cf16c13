//! Making health checks: each a small talk of its own, whose outcome is one fact.
//!
//! [`ask`] makes one check and gives its outcome within the check's timeout, whatever the other end does. [`Prober`] makes
//! many of them at once, on a thread of its own, so that neither the loop nor a slow backend puts any off; a
//! check that nobody waits for any more is dropped, its sockets with it. Knows nothing of thresholds or of what
//! becomes of outcomes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use equipoise_core::config::HealthCheck;
use equipoise_core::config::health::Question;
use equipoise_core::health::{Failure, FailureKind, Outcome};
use tokio::time::timeout;

mod prober;
mod tcp;

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
        other => Err(Failure::new(FailureKind::Io, format!("no checks of type {}", other.name()))),
    }
}

fn late(timeout: Duration) -> Failure {
    let timeout = humantime::format_duration(timeout);
    Failure::new(FailureKind::Timeout, format!("no answer within {timeout}"))
}
