//! What a scenario is answered with.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use equipoise_core::breaker;
use equipoise_core::config::health::Question;
use equipoise_core::config::{Config, Name};
use equipoise_core::health::Change;
use equipoise_core::id::BackendKey;
use equipoise_core::resolve::Told;
use equipoise_core::state::State;

/// A backend of a pool.
pub(super) fn named(key: &BackendKey) -> String {
    let route = key.route.as_deref().map(|route| format!(" from {route}")).unwrap_or_default();
    format!("{}{route} {}", key.service, key.address)
}

/// What is asked, and what is expected of the answer.
pub(super) fn question(question: &Question) -> String {
    let name = question.name();
    match question {
        Question::Http(http) => format!("{name} {} {}", http.method, http.path),
        Question::Https(https) => format!("{name} {} {}", https.http.method, https.http.path),
        _ => name.to_owned(),
    }
}

/// A verdict that has changed, for each backend.
pub(super) fn changed(change: &Change) -> Vec<String> {
    let (before, now) = (change.before.name(), change.verdict.name());
    let why = change.error.as_ref();
    let why = why.map(|why| format!(", {}: {}", why.kind.name(), why.message)).unwrap_or_default();
    change.backends.iter().map(|key| format!("{}: {before} -> {now}{why}", named(key))).collect()
}

/// A breaker that has changed.
pub(super) fn turned(key: &BackendKey, change: &breaker::Change) -> String {
    let until = change
        .open_until
        .map(|until| format!(", {:.0} % failures, until {until:?}", 100.0 * change.error_rate));
    let (from, to) = (change.from.name(), change.to.name());
    format!("{}: breaker {from} -> {to}{}", named(key), until.unwrap_or_default())
}

/// What an answer has brought, if that is anything.
pub(super) fn answered(told: &Told) -> Option<String> {
    let places = |name: &str, places: &BTreeSet<SocketAddr>| {
        let places: Vec<_> = places.iter().map(|place| place_of(&told.name, place)).collect();
        if places.is_empty() { String::new() } else { format!(" {name} {}", places.join(" ")) }
    };
    let mut line = format!("{}:", told.name);
    if let Some(changed) = &told.changed {
        line += &places("added", &changed.added);
        line += &places("removed", &changed.removed);
        line += &places("kept", &changed.kept);
    }
    if let Some(failure) = &told.failure {
        let _ = write!(line, " {}: {}", failure.kind.name(), failure.message);
    }
    (told.changed.is_some() || told.failure.is_some()).then_some(line)
}

fn place_of(name: &Name, place: &SocketAddr) -> String {
    match name {
        Name::Host(_) => place.ip().to_string(),
        Name::Srv(_) => place.to_string(),
    }
}

/// How far each drain has got.
pub(super) fn drains(state: &State) -> String {
    let mut text = String::new();
    for (key, drain) in state.drains().iter() {
        let (name, address, status) = (&key.service, key.address, drain.status.name());
        let route = key.route.as_deref().map(|route| format!(" from {route}"));
        let route = route.unwrap_or_default();
        let (flows, first) = (drain.flows, drain.initial_flows);
        let _ = writeln!(text, "{name}{route} {address}: {status}, {flows} of {first} flows");
    }
    if text.is_empty() { "none\n".to_owned() } else { text }
}

/// What is believed of each backend.
pub(super) fn health(state: &mut State) -> String {
    let mut text = String::new();
    state.plan();
    for service in state.services() {
        for pool in &service.pools {
            let route = pool.pool.route.map(|route| format!(" from {}", route.name()));
            for backend in &pool.backends {
                let (name, weight) = (&service.service.name, backend.effective_weight);
                let (address, health) = (backend.address, backend.health);
                let route = route.as_deref().unwrap_or_default();
                let _ = write!(text, "{name}{route} {address}: {health}, weight {weight}");
                if backend.breaker != "closed" {
                    let _ = write!(text, ", breaker {}", backend.breaker);
                }
                text.push_str(if backend.is_drained { ", drained\n" } else { "\n" });
            }
        }
    }
    text
}

/// What checks have said of each backend.
pub(super) fn checks(state: &State) -> String {
    let mut text = String::new();
    for key in keys(state.config()) {
        let standing = state.standing(&key);
        let Some((target, record)) = standing.checked else {
            let _ = writeln!(text, "{}: none", named(&key));
            continue;
        };
        let asked = question(&target.check.question);
        let (good, bad) = (record.successes, record.failures);
        let _ = write!(text, "{}: {asked} {}", named(&key), target.address);
        let _ = write!(text, ", {}, {good} good, {bad} bad", record.verdict.name());
        if let Some(at) = record.checked_at {
            let _ = write!(text, ", last at {at:?}");
        }
        if let Some(latency) = record.latency {
            let _ = write!(text, ", answered within {latency:?}");
        }
        if let Some(error) = &record.error {
            let _ = write!(text, ", {}: {}", error.kind.name(), error.message);
        }
        text.push('\n');
    }
    text
}

/// What each breaker lets through, and why.
pub(super) fn breakers(now: Duration, state: &State) -> String {
    let mut text = String::new();
    for key in keys(state.config()) {
        let Some(standing) = state.breaker(&key) else { continue };
        let (good, bad) = standing.counts;
        let _ = write!(text, "{}: {}", named(&key), standing.state.name());
        let _ = write!(text, " for {:?}", now.saturating_sub(standing.since));
        if let Some(until) = standing.open_until {
            let _ = write!(text, ", until {until:?}");
        }
        let _ = writeln!(text, ", {good} good, {bad} bad");
    }
    if text.is_empty() { "none\n".to_owned() } else { text }
}

fn keys(config: &Config) -> Vec<BackendKey> {
    BackendKey::all(config).map(|(key, _)| key).collect()
}

/// What is known of names.
pub(super) fn known(now: Duration, state: &State) -> String {
    let mut text = String::new();
    for (name, known) in state.names().iter() {
        let places: Vec<_> = known.places().keys().map(|place| place_of(name, place)).collect();
        let _ = write!(text, "{name}: [{}]", places.join(", "));
        if let Some((at, ttl)) = known.answered() {
            let _ = write!(text, ", answered at {at:?}");
            let _ = ttl.map(|ttl| write!(text, " for {ttl:?}"));
        }
        if let (failures, Some(failure)) = known.failures() {
            let _ = write!(text, ", {failures} failures: {}", failure.kind.name());
        }
        // A tenth more or less is by chance.
        let next = known.due().saturating_sub(now).as_secs_f64();
        let _ = writeln!(text, ", next in some {:.0} s", next.round());
    }
    if text.is_empty() { "none\n".to_owned() } else { text }
}
