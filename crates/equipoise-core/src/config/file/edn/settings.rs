//! The settings of EDN files to ours, and what they say of every service.

use super::form::Findings;
use super::text::Value as Given;
use super::{At, check, made, plain, words};
use crate::config::admin::Secret;
use crate::config::check::{is_metrics_path, is_origin};
use crate::config::file::{Entry, Node, Value};

/// Where a log is whose path is not whole.
const LOGS: &str = "/var/log/equipoise";

/// What the history calls who has the one key that there is.
const API_KEY: &str = "api-key";

/// Settings, translated.
pub(super) struct Settings {
    pub(super) entries: Vec<Entry>,
    /// How backends are picked.
    pub(super) algorithm: &'static str,
    /// Whether backends are checked.
    pub(super) checks: bool,
    /// How long flows live without a packet: entries for each service.
    pub(super) timeouts: Vec<Entry>,
}

impl Settings {
    /// Reads them; where there are none, all defaults hold.
    pub(super) fn read(at: Option<&At<'_>>, findings: &mut Findings) -> Self {
        let fields = at.map(At::fields);
        let get = |name: &str| fields.as_ref()?.get(name);
        let span = at.map_or(0..0, |at| at.name.clone());
        let mut entries = Vec::new();

        let events = get("stats-enabled");
        let access_log = get("access-log").and_then(|at| access_log(&at, findings));
        // Flows are told where they are to be written.
        let is_on = events.as_ref().is_some_and(At::is_true) || access_log.is_some();
        let place = events.map_or(span.clone(), |at| at.form.span.clone());
        entries.push(made("events", place, Value::Bool(is_on)));

        entries.push(match get("max-connections") {
            Some(at) => at.same_number("max-flows"),
            None => made("max-flows", span.clone(), Value::Int(100_000)),
        });
        if let Some(at) = get("default-drain-timeout-ms") {
            let timeout = at.duration("timeout");
            entries.push(at.entry("drain", Value::Table(vec![timeout])));
        }
        if let Some(at) = get("drain-check-interval-ms") {
            let message = "this has no effect: a drain is over when its last flow is";
            at.ignored(findings, message.to_owned());
        }
        entries.extend(get("rate-limits").map(|at| limits(&at)));
        entries.extend(get("circuit-breaker").and_then(|at| breaker(&at)));

        let checks = get("health-check-enabled").filter(At::is_true);
        let defaults = get("health-check-defaults");
        if let Some(on) = &checks {
            let mut keys = defaults.as_ref().map(check).unwrap_or_default();
            if !keys.iter().any(|entry| entry.name == "type") {
                let place = on.form.span.clone();
                keys.insert(0, made("type", place, Value::Text("tcp".to_owned())));
            }
            let at = defaults.as_ref().unwrap_or(on);
            entries.push(at.entry("health-check", Value::Table(keys)));
        } else if let Some(at) = &defaults {
            unused(at, findings);
        }

        let (algorithm, least) =
            get("load-balancing").map_or(("random", None), |at| balancing(&at));
        entries.extend(least);
        entries.extend(access_log);
        entries.extend(get("metrics").and_then(|at| metrics(&at, findings)));
        entries.extend(get("admin-api").and_then(|at| admin(&at, findings)));
        if let Some(at) = get("cluster")
            && at.fields().get("enabled").as_ref().is_some_and(At::is_true)
        {
            at.ignored(findings, "a cluster is not served yet, and this is ignored".to_owned());
        }
        let timeouts = timeouts(get("connection-timeout-sec").as_ref(), &span);
        Self { entries, algorithm, checks: checks.is_some(), timeouts }
    }
}

/// Tells of a check that nobody makes.
pub(super) fn unused(at: &At<'_>, findings: &mut Findings) {
    let message = "nothing is checked, as `health-check-enabled` is not true, and this is ignored";
    at.ignored(findings, message.to_owned());
}

/// There, metrics are on all addresses.
fn metrics(at: &At<'_>, findings: &mut Findings) -> Option<Entry> {
    let fields = at.fields();
    fields.get("enabled").filter(At::is_true)?;
    let mut entries = Vec::new();
    if let Some(port) = fields.get("port") {
        let listen = format!("0.0.0.0:{}", port.number());
        entries.push(port.entry("listen", Value::Text(listen)));
    }
    if let Some(path) = fields.get("path") {
        if is_metrics_path(path.text()) {
            entries.push(path.entry("path", Value::Text(path.text().to_owned())));
        } else {
            let message = "this is no path for metrics here, and `/metrics` is served";
            path.ignored(findings, message.to_owned());
        }
    }
    Some(at.entry("metrics", Value::Table(entries)))
}

/// There, the API is on all addresses without TLS, and a key may be short. Nobody who reads along or guesses is to come in here.
fn admin(at: &At<'_>, findings: &mut Findings) -> Option<Entry> {
    let fields = at.fields();
    fields.get("enabled").filter(At::is_true)?;
    let port = fields.get("port");
    let mut entries = Vec::new();
    if let Some(key) = fields.get("api-key").filter(|key| !matches!(key.form.value, Given::Nil)) {
        if Secret::new(key.text()).is_none() {
            let message =
                "this key is soon guessed, or is no token of HTTP, and the API is had on no port";
            key.ignored_secret(findings, message.to_owned());
            return None;
        }
        let text = |name: &str, text: &str| key.entry(name, plain(text));
        let all = vec![text("name", API_KEY), text("key", key.text()), text("scope", "write")];
        let node = Node { span: key.form.span.clone(), value: Value::Table(all) };
        entries.push(key.entry("keys", Value::List(vec![node])));
    }
    let place = port.as_ref().unwrap_or(at);
    let listen = format!("127.0.0.1:{}", port.as_ref().map_or(8_081, At::number));
    entries.push(place.entry("listen", Value::Text(listen)));
    let message = "without TLS the API is had on 127.0.0.1 alone, and not on all addresses";
    place.ignored(findings, message.to_owned());
    let origins = fields.get("allowed-origins");
    if let Some(list) = origins.filter(|list| matches!(list.form.value, Given::List(_))) {
        let mut served = Vec::new();
        for origin in list.items() {
            if is_origin(origin.text()) {
                served.push(Node { span: origin.form.span.clone(), value: plain(origin.text()) });
            } else {
                let message = "this is not the origin of a page, and its scripts are refused";
                origin.ignored(findings, message.to_owned());
            }
        }
        entries.push(list.entry("allowed-origins", Value::List(served)));
    }
    Some(at.entry("admin", Value::Table(entries)))
}

/// There, each line goes to standard output and into a file whose path may be short, and flows that open have one, too.
fn access_log(at: &At<'_>, findings: &mut Findings) -> Option<Entry> {
    let fields = at.fields();
    let enabled = fields.get("enabled").filter(At::is_true)?;
    let on = |name: &str| made(name, enabled.form.span.clone(), Value::Bool(true));
    let mut entries = vec![on("stdout"), on("opened")];
    let path = fields.get("path");
    let written = path.as_ref().map_or("logs/access.log", At::text);
    let whole = std::path::Path::new(LOGS).join(written).display().to_string();
    entries.push(match &path {
        Some(at) => at.entry("path", plain(&whole)),
        None => made("path", enabled.form.span.clone(), plain(&whole)),
    });
    if let Some(format) = fields.get("access-log-format").or_else(|| fields.get("format")) {
        entries.push(format.entry("format", Value::Text(format.text().to_owned())));
    }
    for (name, ours) in [("max-file-size-mb", "max-size-mb"), ("max-files", "max-files")] {
        entries.extend(fields.get(name).map(|at| at.same_number(ours)));
    }
    if let Some(at) = fields.get("buffer-size") {
        let message = "this has no effect: the queue has a size of its own";
        at.ignored(findings, message.to_owned());
    }
    Some(at.entry("access-log", Value::Table(entries)))
}

fn limits(at: &At<'_>) -> Entry {
    let fields = at.fields();
    let limit = |name: &str| {
        let at = fields.get(name)?;
        let fields = at.fields();
        let rate = fields.get("requests-per-sec").map(|at| at.same_number("rate"));
        let burst = fields.get("burst").map(|at| at.same_number("burst"));
        Some(at.entry(name, Value::Table(rate.into_iter().chain(burst).collect())))
    };
    let limits = ["per-source", "per-backend"].into_iter().filter_map(limit);
    at.entry("limits", Value::Table(limits.collect()))
}

fn breaker(at: &At<'_>) -> Option<Entry> {
    let fields = at.fields();
    let enabled = fields.get("enabled").filter(At::is_true)?;
    let mut entries = Vec::new();
    for (name, ours) in [
        ("error-threshold-pct", "error-threshold"),
        ("min-requests", "min-requests"),
        ("half-open-requests", "half-open-successes"),
    ] {
        entries.extend(fields.get(name).map(|at| at.same_number(ours)));
    }
    for (name, ours) in [("open-duration-ms", "open-for"), ("window-size-ms", "window")] {
        entries.extend(fields.get(name).map(|at| at.duration(ours)));
    }
    // There, any number of backends may be out at a time.
    entries.push(made("max-ejected", enabled.form.span.clone(), Value::Int(100)));
    Some(at.entry("breaker", Value::Table(entries)))
}

/// The algorithm, and how weights follow live flows. The names with `lb-` win.
fn balancing(at: &At<'_>) -> (&'static str, Option<Entry>) {
    let fields = at.fields();
    let get = |name: &str| fields.get(&format!("lb-{name}")).or_else(|| fields.get(name));
    let algorithm = match get("algorithm").as_ref().map(At::text) {
        Some("least-connections") => "least-connections-weights",
        _ => "random",
    };
    let weighted = get("weighted").map(|at| at.entry("weighted", Value::Bool(at.is_true())));
    let interval = get("update-interval-ms").map(|at| at.duration("update-interval"));
    let entries: Vec<_> = weighted.into_iter().chain(interval).collect();
    let least = at.entry("least-connections", Value::Table(entries));
    (
        algorithm,
        Some(least).filter(|entry| !matches!(&entry.node.value, Value::Table(t) if t.is_empty())),
    )
}

/// There, one time holds for every flow, whatever state it is in; here it is that of flows that are established, and no other is longer.
fn timeouts(at: Option<&At<'_>>, span: &std::ops::Range<usize>) -> Vec<Entry> {
    let seconds = at.map_or(300, At::number);
    let place = at.map_or(span.clone(), |at| at.form.span.clone());
    let timeout = |name: &str| made(name, place.clone(), Value::Text(words(seconds * 1_000)));
    let long = [timeout("tcp-established"), timeout("udp-two-way")];
    let short = [("tcp-opening", 10), ("tcp-closing", 30), ("udp-one-way", 30)];
    let shorter = short.iter().filter(|(_, ours)| seconds < *ours).map(|(name, _)| timeout(name));
    long.into_iter().chain(shorter).collect()
}
