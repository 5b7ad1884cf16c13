//! `equipoise breaker`: shows breakers, and turns them.

use equipoise_core::config::target;

use super::args::{Breaker, BreakerTurn, Global, Turned};
use super::{Failure, json, table, watch};
use crate::status::operate::{BreakerRequest, BreakerStatus};

pub(super) async fn breaker(global: &Global, asked: &Breaker) -> Result<(), Failure> {
    watch::show(asked.watch, async || {
        let client = global.client();
        let breakers = match &asked.turn {
            None => client.breakers(asked.service.as_deref()).await?,
            Some(BreakerTurn::Open(which)) => client.turn_breaker(&request(which, "open")).await?,
            Some(BreakerTurn::Close(which)) => {
                client.turn_breaker(&request(which, "close")).await?
            }
            Some(BreakerTurn::Reset(which)) => {
                client.turn_breaker(&request(which, "reset")).await?
            }
        };
        if global.json {
            return json(&breakers);
        }
        if breakers.is_empty() {
            return Ok("no service has breakers\n".to_owned());
        }
        Ok(shown(&breakers))
    })
    .await
}

fn request(which: &Turned, action: &str) -> BreakerRequest {
    BreakerRequest {
        service: which.service.clone(),
        backend: which.backend.clone(),
        route: which.route.clone(),
        action: action.to_owned(),
    }
}

fn shown(breakers: &[BreakerStatus]) -> String {
    let mut table = table(&[
        "SERVICE", "ROUTE", "BACKEND", "STATE", "SINCE", "UNTIL", "GOOD", "BAD", "BAD PART",
    ]);
    for breaker in breakers {
        table.add_row([
            breaker.service.clone(),
            breaker.route.clone(),
            target::text(breaker.backend),
            breaker.state.clone(),
            breaker.since.clone(),
            breaker.open_until.clone().unwrap_or_else(|| "-".to_owned()),
            breaker.successes.to_string(),
            breaker.failures.to_string(),
            format!("{:.0} %", breaker.error_rate * 100.0),
        ]);
    }
    format!("{table}\n")
}
