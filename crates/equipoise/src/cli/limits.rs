//! `equipoise limits` and `deny`: how many new flows, and from whom.

use std::time::Duration;

use super::args::{Deny, DenyAction, Global, Limits, LimitsAction};
use super::{Exit, Failure, change, json, print, print_json, table, watch};
use crate::status::limits::{Denied, DenyRequest, LimitsAnswer, Rate, RateRequest};

pub(super) async fn limits(global: &Global, asked: &Limits) -> Result<(), Failure> {
    let client = global.client();
    match &asked.action {
        None => {
            watch::show(asked.watch, async || {
                let answer = client.limits(asked.service.as_deref()).await?;
                if global.json { json(&answer) } else { Ok(shown(&answer)) }
            })
            .await
        }
        Some(LimitsAction::Set { service, of, rate, burst }) => {
            let request = RateRequest { rate: *rate, burst: *burst };
            change::told(global, client.set_rate(service, (*of).into(), request).await).await
        }
        Some(LimitsAction::Clear { service, of }) => {
            change::told(global, client.clear_rate(service, of.map(Into::into)).await).await
        }
    }
}

pub(super) async fn deny(global: &Global, asked: &Deny) -> Result<(), Failure> {
    let client = global.client();
    let is_prefix = |prefix: &str| match prefix.parse::<equipoise_core::config::Prefix>() {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(Exit::Usage, error.to_string())),
    };
    match &asked.action {
        DenyAction::Add { prefix, service, duration } => {
            is_prefix(prefix)?;
            let for_seconds = duration.map(|duration| duration.as_secs_f64());
            let request = DenyRequest { service: service.clone(), for_seconds };
            change::told(global, client.deny(prefix, &request).await).await
        }
        DenyAction::Remove { prefix, service } => {
            is_prefix(prefix)?;
            change::told(global, client.allow_again(prefix, service.as_deref()).await).await
        }
        DenyAction::List => {
            let denied = client.denied().await?;
            if global.json { print_json(&denied) } else { print(&shown_denied(&denied)) }
        }
    }
}

fn shown(answer: &LimitsAnswer) -> String {
    let mut limits = table(&[
        "SERVICE",
        "PER SOURCE",
        "A SOURCE IS",
        "PER BACKEND",
        "ALLOWED",
        "DENIED",
        "CHANGED",
    ]);
    let rate = |Rate { rate, burst }: Rate| format!("{rate}/s, {burst} at once");
    let none = || "-".to_owned();
    for service in &answer.services {
        let source = service.per_source.map(|source| (rate(source.rate), source));
        let (per_source, is) = source.map_or_else(
            || (none(), none()),
            |(text, source)| (text, format!("/{}, /{}", source.prefix_v4, source.prefix_v6)),
        );
        limits.add_row([
            service.service.clone(),
            per_source,
            is,
            service.per_backend.map_or_else(none, rate),
            service.allowed.to_string(),
            service.denied.to_string(),
            if service.changed.is_empty() { none() } else { service.changed.join(", ") },
        ]);
    }
    let mut refused = table(&["REFUSED BY", "PACKETS"]);
    for (verdict, count) in &answer.refused {
        refused.add_row([verdict.clone(), count.to_string()]);
    }
    format!("{limits}\n\n{refused}\n")
}

fn shown_denied(denied: &[Denied]) -> String {
    if denied.is_empty() {
        return "nothing has been denied since the file was read\n".to_owned();
    }
    let mut rows = table(&["PREFIX", "SERVICE", "UNTIL", "LEFT"]);
    for Denied { prefix, service, until, remaining_seconds } in denied {
        let left = remaining_seconds.map(|seconds| {
            let left = Duration::from_secs(seconds.ceil() as u64);
            humantime::format_duration(left).to_string()
        });
        rows.add_row([
            prefix.clone(),
            service.clone().unwrap_or_else(|| "all".to_owned()),
            until.clone().unwrap_or_else(|| "-".to_owned()),
            left.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    format!("{rows}\n")
}
