//! `equipoise health`: what is believed of backends and why, and an operator's word about them; `equipoise probe`: one check,
//! here and now, with or without a running instance.

use std::net::SocketAddr;

use equipoise_core::config::{self, HealthCheck, target};
use equipoise_core::health::Outcome;

use super::args::{Global, Health, HealthAction, Probe};
use super::{Exit, Failure, json, print, print_json, table, watch};
use crate::probe::ask;
use crate::status::health::{
    BackendHealth, BackendName, CheckError, HealthFilter, HealthWord, ProbeAnswer,
};

pub(super) async fn health(global: &Global, asked: &Health) -> Result<(), Failure> {
    let client = global.client();
    let Some(action) = &asked.action else {
        let filter = HealthFilter { service: asked.service.clone() };
        return watch::show(asked.watch, async || {
            let backends = client.health(&filter).await?;
            if global.json { json(&backends) } else { Ok(shown(&backends)) }
        })
        .await;
    };
    let backends = match action {
        HealthAction::Set { backend, state, duration } => {
            let word = HealthWord {
                state: *state,
                for_seconds: duration.map(|duration| duration.as_secs_f64()),
                route: backend.route.clone(),
            };
            client.set_health(&name(backend), &word).await?
        }
        HealthAction::Check { backend } => {
            // It is answered when the check has ended.
            global.patient_client().check_health(&name(backend)).await?
        }
    };
    if global.json {
        return print_json(&backends);
    }
    print(&shown(&backends))
}

fn name(backend: &super::args::OneBackend) -> BackendName {
    BackendName {
        service: backend.service.clone(),
        backend: backend.backend.clone(),
        route: backend.route.clone(),
    }
}

fn shown(backends: &[BackendHealth]) -> String {
    let mut table = table(&[
        "SERVICE",
        "ROUTE",
        "BACKEND",
        "HEALTH",
        "BY",
        "WEIGHT",
        "LATENCY",
        "GOOD",
        "BAD",
        "ANSWERS IN",
        "REFUSED",
        "SILENT",
        "RESET",
        "WHY",
    ]);
    for backend in backends {
        let check = backend.check.as_ref();
        let by = match (&backend.manual, check) {
            (Some(manual), _) => match manual.remaining_seconds {
                Some(seconds) => format!("hand, for {seconds:.0}s"),
                None => "hand".to_owned(),
            },
            (None, Some(check)) => check.kind.to_string(),
            (None, None) => "-".to_owned(),
        };
        let error = check.and_then(|check| check.error.as_ref());
        let why = error.map(|error| {
            let what = error.cause.as_ref().unwrap_or(&error.kind);
            format!("{what}: {}", error.message)
        });
        table.add_row([
            backend.service.clone(),
            backend.route.clone(),
            target::text(backend.backend),
            backend.health.to_string(),
            by,
            super::status::weight(backend.effective_weight, backend.configured_weight),
            check.and_then(|check| check.latency_ms).map(milliseconds).unwrap_or_default(),
            check.map(|check| check.successes.to_string()).unwrap_or_default(),
            check.map(|check| check.failures.to_string()).unwrap_or_default(),
            super::status::answers_in(&backend.passive),
            backend.passive.refused.to_string(),
            backend.passive.unanswered.to_string(),
            backend.passive.reset.to_string(),
            why.unwrap_or_default(),
        ]);
    }
    format!("{table}\n")
}

fn milliseconds(latency: f64) -> String {
    format!("{latency:.1} ms")
}

pub(super) async fn probe(global: &Global, asked: &Probe) -> Result<(), Failure> {
    let (address, check) = wanted(asked)?;
    let outcome = ask(address, &check).await;
    let answer = answer(address, &check, outcome);
    if global.json {
        print_json(&answer)?;
    } else {
        print(&in_words(&answer))?;
    }
    if answer.good { Ok(()) } else { Err(Failure::said(Exit::Failed)) }
}

fn answer(address: SocketAddr, check: &HealthCheck, outcome: Outcome) -> ProbeAnswer {
    let kind = check.question.name().to_owned();
    match outcome {
        Ok(latency) => {
            let latency_ms = Some(latency.as_secs_f64() * 1e3);
            ProbeAnswer { kind, address, good: true, latency_ms, error: None }
        }
        Err(failure) => {
            let error = CheckError {
                kind: failure.kind.name().to_owned(),
                message: failure.message,
                cause: None,
            };
            ProbeAnswer { kind, address, good: false, latency_ms: None, error: Some(error) }
        }
    }
}

fn in_words(answer: &ProbeAnswer) -> String {
    let ProbeAnswer { kind, address, .. } = answer;
    match (&answer.error, answer.latency_ms) {
        (Some(error), _) => format!("{kind} {address}: {}: {}\n", error.kind, error.message),
        (None, latency) => {
            format!("{kind} {address}: good in {}\n", milliseconds(latency.unwrap_or_default()))
        }
    }
}

/// Keys whose values are not text.
const OTHERS: [&str; 9] = [
    "command",
    "expected-codes",
    "follow-redirects",
    "headers",
    "healthy-threshold",
    "insecure",
    "port",
    "tls",
    "unhealthy-threshold",
];

/// The check that a command line asks for: what a `health-check` table with the same keys would be.
fn wanted(asked: &Probe) -> Result<(SocketAddr, std::sync::Arc<HealthCheck>), Failure> {
    let usage = |message: String| Failure::new(Exit::Usage, message);
    let mut lines = format!("type = {}\n", quoted(&asked.kind));
    for pair in &asked.keys {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(usage(format!("{pair:?} is not a key and a value: KEY=VALUE")));
        };
        let value = if OTHERS.contains(&key) { value.to_owned() } else { quoted(value) };
        lines.push_str(&format!("{} = {value}\n", quoted(key)));
    }
    let text = format!(
        "[settings]\nexec-checks = true\n[[service]]\nname = \"probe\"\n\
         listen = {{ interfaces = [\"lo\"], port = 1 }}\nbackends = [{{ address = {} }}]\n\
         [service.health-check]\n{lines}",
        quoted(&asked.address)
    );
    let checked = config::parse("probe.toml", &text).map_err(|problems| {
        let told = problems.iter().map(|problem| {
            let key = problem.key.rsplit('.').next().unwrap_or_default();
            let allowed = problem.allowed.as_ref().map(|text| format!(" (allowed: {text})"));
            format!("{key}: {}{}", problem.message, allowed.unwrap_or_default())
        });
        usage(told.collect::<Vec<_>>().join("\n"))
    })?;
    let backend = checked.config.services.into_iter().flat_map(|service| service.backends).next();
    let check = backend.and_then(|backend| Some((backend.address, backend.health_check?)));
    let (address, check) =
        check.ok_or_else(|| usage("a check of type none asks nothing".into()))?;
    let port = check.port.unwrap_or(address.port());
    Ok((SocketAddr::new(address.ip(), port), check))
}

/// As TOML writes text.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(kind: &str, keys: &[&str]) -> Result<(SocketAddr, String), String> {
        let keys = keys.iter().map(|&key| key.to_owned()).collect();
        let asked = Probe { kind: kind.to_owned(), address: "10.0.0.1:80".to_owned(), keys };
        let (address, check) = wanted(&asked).map_err(|failure| failure.message.unwrap())?;
        Ok((address, serde_json::to_string(&check).unwrap()))
    }

    #[test]
    fn keys_are_those_of_a_health_check_table() {
        let keys = ["path=/a\"b", "expected-codes=[200,\"300-399\"]", "timeout=1s", "port=81"];
        let (address, check) = probe("http", &keys).unwrap();
        assert_eq!(address, "10.0.0.1:81".parse().unwrap());
        for part in ["/a\\\"b", "[200,\"300-399\"]", "\"timeout\":\"1s\""] {
            assert!(check.contains(part), "{check}");
        }
        let (_, check) = probe("udp", &["send=123"]).unwrap();
        assert!(check.contains("\"send\":\"123\""), "{check}");
    }

    #[test]
    fn what_is_wrong_is_said_by_its_key() {
        let told = probe("http", &["path=x", "pth=/"]).unwrap_err();
        assert!(told.contains("path: `x` is not a path"), "{told}");
        assert!(told.contains("pth: unknown key"), "{told}");
        assert!(probe("tpc", &[]).unwrap_err().contains("`tcp` is the nearest"));
        assert!(probe("none", &[]).is_err() && probe("tcp", &["path"]).is_err());
    }
}
