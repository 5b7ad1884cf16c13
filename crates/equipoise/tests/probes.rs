//! Each type of health check against a real server, on loopback.

#[path = "probes/http.rs"]
mod http;
#[path = "probes/many.rs"]
mod many;
#[path = "probes/plain.rs"]
mod plain;
#[path = "probes/rpc.rs"]
mod rpc;

use std::net::SocketAddr;
use std::sync::Arc;

use equipoise::probe::ask;
use equipoise_core::config::{HealthCheck, parse};
use equipoise_core::health::FailureKind;

/// The check that these lines of a `health-check` table make.
fn check(lines: &str) -> Arc<HealthCheck> {
    let text = format!(
        "[settings]\nexec-checks = true\n[[service]]\nname = 'web'\n\
         listen = {{ interfaces = ['lo'], port = 80 }}\nbackends = [{{ address = '127.0.0.1:1' }}]\n\
         [service.health-check]\n{lines}\n"
    );
    let checked = parse("test.toml", &text).unwrap_or_else(|problems| panic!("{problems:?}"));
    checked.config.services[0].backends[0].health_check.clone().unwrap()
}

/// Why a check fails.
async fn fails(address: SocketAddr, lines: &str) -> (FailureKind, String) {
    match ask(address, &check(lines)).await {
        Ok(_) => panic!("it has passed: {lines}"),
        Err(failure) => (failure.kind, failure.message),
    }
}

async fn passes(address: SocketAddr, lines: &str) {
    if let Err(failure) = ask(address, &check(lines)).await {
        panic!("{failure:?}: {lines}");
    }
}

/// A port of loopback where nobody listens.
fn nobody() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}
