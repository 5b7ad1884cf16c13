//! `equipoise wait`: until so many backends of a service are healthy, by checks or by hand.
//!
//! A backend of several pools of the service counts once, and one without checks does not: nothing is known of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};

use super::args::{Global, Wait};
use super::{Exit, Failure, print, print_json};
use crate::status::health::{BackendHealth, HealthFilter};

/// From one look to the next.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a look may take at least.
const LOOK: Duration = Duration::from_secs(1);

pub(super) async fn wait(global: &Global, asked: &Wait) -> Result<(), Failure> {
    let client = global.patient_client();
    let Wait { service, healthy: wanted, timeout } = asked;
    let filter = HealthFilter { service: Some(service.clone()) };
    let until = Instant::now() + *timeout;
    let after = humantime::format_duration(*timeout);
    loop {
        // One look at least, however short the time is.
        let patience = until.max(Instant::now() + LOOK);
        let Ok(backends) = timeout_at(patience, client.health(&filter)).await else {
            let message = format!("the instance does not answer, after {after}");
            return Err(Failure::new(Exit::InVain, message));
        };
        let backends = backends?;
        let healthy = healthy(&backends).len();
        if healthy >= *wanted {
            return said(global, asked, healthy);
        }
        if Instant::now() >= until {
            let message = format!(
                "{healthy} backends of service {service} are healthy after {after}, not {wanted}"
            );
            let help = format!("`equipoise health {service}` says why the others are not");
            return Err(Failure::new(Exit::InVain, message).with_help(help));
        }
        sleep(PAUSE).await;
    }
}

fn healthy(backends: &[BackendHealth]) -> BTreeSet<SocketAddr> {
    let healthy = backends.iter().filter(|backend| backend.health == "healthy");
    healthy.map(|backend| backend.backend).collect()
}

fn said(global: &Global, asked: &Wait, healthy: usize) -> Result<(), Failure> {
    if global.json {
        return print_json(&json!({ "service": asked.service, "healthy": healthy }));
    }
    print(&format!("{healthy} backends of service {} are healthy\n", asked.service))
}
