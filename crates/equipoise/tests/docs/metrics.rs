//! `docs/metrics.md` is written from the families themselves, and what is shipped for Grafana and Prometheus asks for nothing else:
//! every family and label that it names is one of these.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use equipoise::metrics::{Kind, catalogue};
use expect_test::expect_file;
use serde_json::Value;

const HEAD: &str = "\
# Metrics

`[settings.metrics]` listens for scrapers (`listen`, by default `0.0.0.0:9090`; `path`, by default `/metrics`). Text 0.0.4, or OpenMetrics 1.0 for who asks
for it by `Accept`. Beside it are `/health`, which answers while the process does, and `/ready`, which answers 503 while this balancer is drained (`drain --self`), or does not see the packets of clients because an interface of theirs is not attached.

Labels never hold addresses of clients. A family has 20000 lines at most: rows beyond that are added up in one whose labels are `_rest`, where a sum says something, and
left out elsewhere. A source that fails loses its own families alone, and is counted. Counters go on over reloads, and over restarts for as long as the programs are kept
(`on-exit = \"keep\"`, upgrades), those of `_rest` rows for as long as the process is there; of a process that was killed, those that the programs do not count go on from up to 10 seconds before.

[packaging/grafana/equipoise.json](../packaging/grafana/equipoise.json) is a dashboard, [packaging/prometheus/equipoise.rules.yml](../packaging/prometheus/equipoise.rules.yml) has alerts.
Times are seconds, sizes bytes; bytes of traffic are IP bytes.

## Pushed

```toml
[settings.otlp]                # nothing is pushed unless the table is there
endpoint = \"https://otel.example.com:4318/v1/metrics\"
interval = \"10s\"
timeout = \"5s\"                 # of a request, from the look-up of the name on
headers = { X-Tenant = \"ops\" }
header-files = { Authorization = \"/etc/equipoise/otlp.key\" }   # the first line, such as `Bearer ...`
attributes = { \"service.instance.id\" = \"lb-1\", \"deployment.environment.name\" = \"production\" }
ca-file = \"/etc/equipoise/otel-ca.pem\"                          # = the authorities of this host
```

pushes all families that a scrape has to a collector of OpenTelemetry, by OTLP 1 over HTTP as protobuf, whether or not `[settings.metrics]` is there. A thread without any capability does
that beside the packets' way and the loop. A counter is a monotonic sum, a histogram a histogram with the same bounds, both cumulative; what is so now is a gauge. Names are those below, with
`_total`, and labels are attributes of points. Both are counted from `start_time_unix_nano` on, which is the same for as long as counters go on, also over a restart, and 0 where a process before has not left it.

The resource is `service.name` (`equipoise`), `service.version`, `service.instance.id` (the name of the instance), `host.name`, and what `attributes` says, which goes first. Instances of the same name on several hosts
need a `service.instance.id` each: many a store of metrics tells instances apart by nothing else.

A request has 4000 points at most; what is more comes in several, one after the other. Redirects are not followed, so that what is secret is for this collector alone. A push that fails, or is not answered in time, is not made again: the next, an interval later, has all that it had. It is
counted (`lb_otlp_pushes_total`, with `result` one of `success`, `partial` and `failure`), and the log has a line where the outcome is another than before; `status` is not `degraded` by it. What headers say is in no log and no answer. All of it is followed at
a reload; files of headers are read at each push, and those of authorities once a minute.

## Families

| family | type | labels | |
| --- | --- | --- | --- |
";

#[test]
fn document_lists_every_family() {
    let mut text = HEAD.to_owned();
    let mut families = catalogue();
    families.sort_by_key(|family| family.name);
    for family in families {
        let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, labels) = (family.name, family.kind.name(), labels.join(", "));
        writeln!(text, "| `{name}` | {kind} | {labels} | {} |", family.help).unwrap();
    }
    expect_file!["../../../../docs/metrics.md"].assert_eq(&text);
}

#[test]
fn families_are_named_as_scrapers_expect() {
    let mut names = BTreeSet::new();
    for family in catalogue() {
        assert!(names.insert(family.name), "{} twice", family.name);
        assert!(family.name.starts_with("lb_"), "{}", family.name);
        assert_eq!(
            family.kind == Kind::Counter,
            family.name.ends_with("_total"),
            "{}",
            family.name
        );
        assert!(!family.help.is_empty() && family.help.ends_with('.'), "{}", family.name);
        assert!(!family.labels.contains(&"client"), "{}", family.name);
    }
    // Those that were promised.
    for name in [
        "lb_up",
        "lb_info",
        "lb_algorithm",
        "lb_backend_connections",
        "lb_connections_active",
        "lb_bytes_total",
        "lb_packets_total",
        "lb_backend_health",
        "lb_dns_resolution_status",
        "lb_health_check_latency_seconds",
        "lb_backend_latency_seconds",
        "lb_circuit_breaker_state",
        "lb_circuit_breaker_error_rate",
        "lb_cluster_up",
    ] {
        assert!(names.contains(name), "{name}");
    }
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging").join(name)
}

/// The samples that there may be, each with its labels.
fn samples() -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut samples = BTreeMap::new();
    for family in catalogue() {
        // What a scraper adds by itself.
        let labels = family.labels.iter().copied().chain(["instance", "job"]);
        let labels: BTreeSet<_> = labels.collect();
        if family.kind == Kind::Histogram {
            let bucket = labels.iter().copied().chain(["le"]).collect();
            samples.insert(format!("{}_bucket", family.name), bucket);
            samples.insert(format!("{}_sum", family.name), labels.clone());
            samples.insert(format!("{}_count", family.name), labels);
        } else {
            samples.insert(family.name.to_owned(), labels);
        }
    }
    samples
}

/// The words of an expression, without what is in quotes.
fn words(expression: &str) -> Vec<String> {
    let plain: String = expression.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    plain.split(|c| !is_word(c)).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Functions, units and the like of the language.
const LANGUAGE: [&str; 14] = [
    "sum",
    "by",
    "on",
    "offset",
    "unless",
    "rate",
    "increase",
    "histogram_quantile",
    "group_left",
    "label_values",
    "__rate_interval",
    "5m",
    "10m",
    "0",
];

/// Checks that an expression asks for what there is.
fn check(expression: &str) {
    let samples = samples();
    let words = words(expression);
    let asked: Vec<_> = words.iter().filter(|word| word.starts_with("lb_")).collect();
    assert!(!asked.is_empty(), "{expression}");
    let labels: BTreeSet<_> = asked
        .iter()
        .flat_map(|name| samples.get(*name).unwrap_or_else(|| panic!("{name} in {expression}")))
        .collect();
    for word in words.iter().filter(|word| !word.starts_with("lb_")) {
        let is_number = word.chars().all(|c| c.is_ascii_digit());
        let is_known = LANGUAGE.contains(&word.as_str()) || labels.contains(&word.as_str());
        assert!(is_number || is_known, "{word} in {expression}");
    }
}

#[test]
fn dashboard_asks_for_what_there_is() {
    let text = fs::read_to_string(shipped("grafana/equipoise.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 20);
    let mut places = BTreeSet::new();
    for panel in panels {
        assert!(places.insert(panel["gridPos"].to_string()), "{panel}");
        for target in panel["targets"].as_array().unwrap() {
            check(target["expr"].as_str().unwrap());
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["definition"].as_str() {
            check(query);
        }
    }
}

#[test]
fn alerts_ask_for_what_there_is() {
    let text = fs::read_to_string(shipped("prometheus/equipoise.rules.yml")).unwrap();
    let expressions: Vec<_> =
        text.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert!(expressions.len() > 10);
    assert_eq!(expressions.len(), text.matches("- alert: ").count());
    expressions.into_iter().for_each(check);
    // What an alert says of itself is a label of what it asks for.
    for alert in text.split("- alert: ").skip(1) {
        let expression = alert.lines().find_map(|line| line.trim().strip_prefix("expr: ")).unwrap();
        let samples = samples();
        let asked = words(expression).into_iter().filter_map(|word| samples.get(&word).cloned());
        let labels: BTreeSet<_> = asked.flatten().collect();
        for used in alert.split("$labels.").skip(1) {
            let label = used.split([' ', '}']).next().unwrap();
            assert!(labels.contains(label), "{label} in {alert}");
        }
    }
}
