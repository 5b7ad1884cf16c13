//! The keys of `[settings.otlp]`.
//!
//! No message holds the value of a header, nor an endpoint that is none: it may have a password in it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::keys;
use super::named::is_host;
use super::policy::duration_in;
use super::report::{At, Fields, Report, shown};
use crate::config::admin::Secret;
use crate::config::otlp::{Endpoint, Otlp};

/// More often, making them costs more than who reads them has of it.
pub(super) const INTERVAL: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3_600);
const INTERVAL_ALLOWED: &str = "1s to 1h";
pub(super) const TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(60);
const TIMEOUT_ALLOWED: &str = "100ms to 1m";

const ENDPOINT: &str = "a URL such as \"http://127.0.0.1:4318/v1/metrics\", of `http` or `https`, without a name of a user and without `?`: keys are for `headers`";
const HEADERS: &str = "a table of headers, such as { X-Api-Key = \"...\" }";
const VALUE: &str = "1 to 4096 letters, digits, signs and spaces within, or `header-files`";
const FILES: &str = "a table of headers, such as { Authorization = \"/etc/equipoise/otlp.key\" }";
const ATTRIBUTES: &str = "a table of attributes, such as { \"service.instance.id\" = \"lb-1\" }";

/// What all requests say themselves, and what HTTP itself needs.
const OURS: [&str; 5] =
    ["connection", "content-length", "content-type", "host", "transfer-encoding"];

/// Checks them; nothing without an endpoint, and what else is wrong and reported has its default, or is left out.
pub(super) fn otlp(report: &mut Report<'_>, at: &At<'_>) -> Option<Otlp> {
    let fields = report.fields(at, &keys::OTLP)?;
    let endpoint = report.need(&fields, "endpoint", ENDPOINT);
    let endpoint = endpoint.and_then(|at| self::endpoint(report, &at));
    let interval = fields.get("interval");
    let interval = interval.and_then(|at| duration_in(report, &at, &INTERVAL, INTERVAL_ALLOWED));
    let timeout = fields.get("timeout");
    let timeout = timeout.and_then(|at| duration_in(report, &at, &TIMEOUT, TIMEOUT_ALLOWED));
    let headers = headers(report, &fields);
    let header_files = header_files(report, &fields, &headers);
    let attributes = fields.get("attributes").map(|at| attributes(report, &at));
    let ca_file = fields.get("ca-file").and_then(|at| report.file(&at));
    let usual = Otlp::new(endpoint?);
    Some(Otlp {
        interval: interval.unwrap_or(usual.interval),
        timeout: timeout.unwrap_or(usual.timeout),
        headers,
        header_files,
        attributes: attributes.unwrap_or_default(),
        ca_file,
        ..usual
    })
}

fn endpoint(report: &mut Report<'_>, at: &At<'_>) -> Option<Endpoint> {
    let found = Endpoint::parse(report.text(at, ENDPOINT)?, is_host);
    if found.is_none() {
        let message = "this is no URL of a collector".to_owned();
        report.problem(&at.place, message, ENDPOINT);
    }
    found
}

/// The name in lower case, where it can be one.
fn header(report: &mut Report<'_>, name: &str, at: &At<'_>, allowed: &str) -> Option<String> {
    let of_names = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let lower = name.to_ascii_lowercase();
    let message = if name.is_empty() || !name.bytes().all(of_names) {
        format!("{} is not a header", shown(name))
    } else if OURS.contains(&lower.as_str()) {
        format!("`{name}` is what the balancer itself says")
    } else {
        return Some(lower);
    };
    report.problem(&at.place, message, allowed);
    None
}

fn headers(report: &mut Report<'_>, fields: &Fields<'_>) -> BTreeMap<String, Secret> {
    let mut found = BTreeMap::new();
    let Some(at) = fields.get("headers") else { return found };
    if !at.is_table() && !at.is_null() {
        // What stands there instead may be what is secret.
        report.problem(&at.place, "this is no table of headers".to_owned(), HEADERS);
        return found;
    }
    let Some(headers) = report.table(&at, || HEADERS.to_owned()) else { return found };
    for (name, at) in headers.all() {
        let known = header(report, name, &at, HEADERS);
        let wrong = (&at.place, "this cannot be in a header", VALUE);
        let value = report.secret(&at, Secret::of_header, wrong);
        if let (Some(lower), Some(value)) = (known, value)
            && found.insert(lower, value).is_some()
        {
            twice(report, name, &at);
        }
    }
    found
}

fn header_files(
    report: &mut Report<'_>,
    fields: &Fields<'_>,
    beside: &BTreeMap<String, Secret>,
) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let Some(at) = fields.get("header-files") else { return found };
    let Some(files) = report.table(&at, || FILES.to_owned()) else { return found };
    for (name, at) in files.all() {
        let known = header(report, name, &at, FILES);
        let file = report.file(&at);
        if let (Some(lower), Some(file)) = (known, file) {
            let is_there = beside.contains_key(&lower);
            if found.insert(lower, file).is_some() || is_there {
                twice(report, name, &at);
            }
        }
    }
    found
}

fn twice(report: &mut Report<'_>, name: &str, at: &At<'_>) {
    let message = format!("`{name}` is given twice");
    report.problem(&at.place, message, "each header once, in `headers` or in `header-files`");
}

fn attributes(report: &mut Report<'_>, at: &At<'_>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let Some(attributes) = report.table(at, || ATTRIBUTES.to_owned()) else { return found };
    for (name, at) in attributes.all() {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = format!("{} is no name of an attribute", shown(name));
            report.problem(&at.place, message, ATTRIBUTES);
        }
        if let Some(text) = report.text(&at, "a text") {
            found.insert(name.to_owned(), text.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::otlp::Host;
    use crate::config::{parse, written};

    fn read(settings: &str) -> Result<Option<Otlp>, Vec<String>> {
        let text = format!(
            "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], address = '203.0.113.1', port = 80 }}\n\
             backends = [{{ address = '10.0.0.1:80' }}]\n{settings}\n"
        );
        let read = parse("equipoise.toml", &text).map(|checked| checked.config);
        if let Ok(config) = &read {
            let told = format!("{:?} {}", config.settings, written(config));
            assert!(!told.contains("very-secret"), "{told}");
        }
        let read = read.map(|config| config.settings.otlp);
        read.map_err(|problems| {
            let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
            assert!(!told.concat().contains("very-secret"), "{told:?}");
            told
        })
    }

    fn endpoint(text: &str) -> Option<String> {
        Endpoint::parse(text, is_host).map(|endpoint| endpoint.to_string())
    }

    #[test]
    fn nothing_is_pushed_unless_the_table_is_there() {
        assert_eq!(read(""), Ok(None));
        let found = read("[settings.otlp]\nendpoint = 'http://127.0.0.1:4318/v1/metrics'");
        let found = found.unwrap().unwrap();
        assert_eq!(found, Otlp::new(found.endpoint.clone()));
        assert_eq!(found.endpoint.host, Host::Address("127.0.0.1".parse().unwrap()));
        assert_eq!((found.interval.as_secs(), found.timeout.as_secs()), (10, 5));
    }

    #[test]
    fn all_that_is_said_arrives() {
        let text = "[settings.otlp]\nendpoint = 'https://Collector.example.com/otlp'\n\
                    interval = '1m'\ntimeout = '2s'\nca-file = '/ca.pem'\n\
                    headers = { X-Api-Key = 'a very-secret one' }\n\
                    header-files = { Authorization = '/etc/key' }\n\
                    attributes = { 'service.instance.id' = 'lb-1' }";
        let found = read(text).unwrap().unwrap();
        assert_eq!(found.endpoint.to_string(), "https://collector.example.com/otlp");
        assert_eq!((found.endpoint.is_tls, found.endpoint.port), (true, 443));
        assert_eq!((found.interval.as_secs(), found.timeout.as_secs()), (60, 2));
        assert_eq!(found.headers["x-api-key"].bytes(), b"a very-secret one");
        assert_eq!(found.header_files["authorization"], "/etc/key");
        assert_eq!(found.attributes["service.instance.id"], "lb-1");
        assert_eq!(found.ca_file.as_deref(), Some("/ca.pem"));
    }

    #[test]
    fn a_path_and_a_port_that_are_not_said_are_the_usual_ones() {
        let read = |text: &str| endpoint(text).unwrap();
        assert_eq!(read("http://10.0.0.1"), "http://10.0.0.1/v1/metrics");
        assert_eq!(read("http://10.0.0.1:80/"), "http://10.0.0.1/");
        assert_eq!(read("https://[::1]:4318"), "https://[::1]:4318/v1/metrics");
        assert_eq!(read("https://[::1]:443/a/b-c"), "https://[::1]/a/b-c");
        assert_eq!(read("http://otel:65535/x"), "http://otel:65535/x");
    }

    #[test]
    fn what_is_no_url_of_a_collector_is_refused() {
        for wrong in [
            "",
            "127.0.0.1:4318",
            "grpc://127.0.0.1:4317",
            "http://",
            "http:///v1/metrics",
            "http://:4318",
            "http://a:0",
            "http://a:65536",
            "http://a:+1",
            "http://a:",
            "http://[::1",
            "http://[::1]4318",
            "http://[10.0.0.1]",
            "http://::1/",
            "http://10.0.0.1.2.3/",
            "http://user:very-secret@a/",
            "http://a/?key=very-secret",
            "http://a/#x",
            "http://a/ b",
            "http://a/\r\nX: y",
            "HTTP://a/",
        ] {
            assert_eq!(endpoint(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_what_is_secret() {
        let good = "endpoint = 'http://127.0.0.1:4318'\n";
        for wrong in [
            "",
            "endpoint = 'http://user:very-secret@a'",
            "endpoint = 'http://a/?key=very-secret'",
            &format!("{good}interval = '1ms'"),
            &format!("{good}timeout = '2m'"),
            &format!("{good}ca-file = 'ca.pem'"),
            &format!("{good}headers = {{ X = \"very-secret\\r\\nY: z\" }}"),
            &format!("{good}headers = {{ X = ' very-secret' }}"),
            &format!("{good}headers = {{ X = '' }}"),
            &format!("{good}headers = {{ X = '<hidden>' }}"),
            &format!("{good}headers = {{ X = 7 }}"),
            &format!("{good}headers = 'very-secret'"),
            &format!("{good}headers = ['very-secret']"),
            &format!("{good}headers = {{ 'X:' = 'very-secret' }}"),
            &format!("{good}headers = {{ Content-Type = 'very-secret' }}"),
            &format!("{good}headers = {{ X = 'very-secret', x = 'very-secret' }}"),
            &format!("{good}headers = {{ X = 'very-secret' }}\nheader-files = {{ x = '/k' }}"),
            &format!("{good}header-files = {{ X = '/k', x = '/l' }}"),
            &format!("{good}header-files = {{ X = 'k' }}"),
            &format!("{good}header-files = {{ Host = '/k' }}"),
            &format!("{good}attributes = {{ 'a b' = 'c' }}"),
            &format!("{good}attributes = {{ a = 1 }}"),
        ] {
            let problems = read(&format!("[settings.otlp]\n{wrong}")).unwrap_err();
            assert_eq!(problems.len(), 1, "{wrong}: {problems:?}");
        }
    }
}
