//! Health checks, from the keys of up to four tables: settings, service, route, backend.
//!
//! Each table is a [`CheckDraft`], right in itself as far as it goes; drafts are laid over each other key by key, the
//! nearest wins, and what comes out for a backend is a whole check, or none.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::keys;
use super::policy::duration_in;
use super::report::{At, Place, Report, shown};
use crate::config::health::{
    Codes, Dns, Exec, Grpc, HealthCheck, Http, Https, Payload, Question, Rcode, RecordType, Tls,
    Udp,
};

pub(super) const INTERVAL: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);
const INTERVAL_ALLOWED: &str = "\"100ms\" to \"1h\", such as \"10s\"";
pub(super) const TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(300);
const TIMEOUT_ALLOWED: &str = "\"10ms\" to \"5m\", such as \"3s\"";
pub(super) const THRESHOLD: RangeInclusive<u32> = 1..=100;
const CODES_ALLOWED: &str = "a list of codes and ranges of them, such as [200, \"300-399\"]";
const PAYLOAD_ALLOWED: &str = "text, or \"hex:\" and pairs of digits";

/// The type of a check.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Http,
    Https,
    Grpc,
    Udp,
    Dns,
    Exec,
    None,
}

pub(super) const KINDS: [(&str, Kind); 8] = [
    ("tcp", Kind::Tcp),
    ("http", Kind::Http),
    ("https", Kind::Https),
    ("grpc", Kind::Grpc),
    ("udp", Kind::Udp),
    ("dns", Kind::Dns),
    ("exec", Kind::Exec),
    ("none", Kind::None),
];

/// A table of a check, as far as it is right.
#[derive(Clone, Default)]
pub(super) struct CheckDraft {
    /// The nearest table; none where there is none at all.
    place: Option<Place>,
    kind: Option<Kind>,
    port: Option<u16>,
    interval: Option<Duration>,
    timeout: Option<Duration>,
    fast_interval: Option<Duration>,
    healthy: Option<u32>,
    unhealthy: Option<u32>,
    method: Option<String>,
    path: Option<String>,
    host: Option<String>,
    headers: Option<BTreeMap<String, String>>,
    codes: Option<Codes>,
    body: Option<String>,
    redirects: Option<bool>,
    server_name: Option<String>,
    ca_file: Option<String>,
    client_certificate: Option<String>,
    client_key: Option<String>,
    insecure: Option<bool>,
    grpc_service: Option<String>,
    tls: Option<bool>,
    send: Option<Payload>,
    expect: Option<Payload>,
    query: Option<String>,
    query_type: Option<RecordType>,
    rcode: Option<Rcode>,
    command: Option<Vec<String>>,
}

/// The check of a table and of those around it, whose draft is `above`.
pub(super) fn check(report: &mut Report<'_>, at: &At<'_>, above: &CheckDraft) -> CheckDraft {
    let mut draft = above.clone();
    let Some(fields) = report.fields(at, &keys::HEALTH_CHECK) else { return draft };
    draft.place = Some(at.place.clone());
    for (name, at) in fields.all() {
        draft.take(report, name, &at);
    }
    draft
}

impl CheckDraft {
    /// Takes a key; what is wrong is reported and leaves what is above.
    fn take(&mut self, report: &mut Report<'_>, name: &str, at: &At<'_>) {
        match name {
            "type" => put(&mut self.kind, report.choice(at, &KINDS)),
            "port" => put(&mut self.port, report.number(at, &(1..=u16::MAX))),
            "interval" => {
                put(&mut self.interval, duration_in(report, at, &INTERVAL, INTERVAL_ALLOWED));
            }
            "fast-interval" => {
                put(&mut self.fast_interval, duration_in(report, at, &INTERVAL, INTERVAL_ALLOWED));
            }
            "timeout" => put(&mut self.timeout, duration_in(report, at, &TIMEOUT, TIMEOUT_ALLOWED)),
            "healthy-threshold" => put(&mut self.healthy, report.number(at, &THRESHOLD)),
            "unhealthy-threshold" => put(&mut self.unhealthy, report.number(at, &THRESHOLD)),
            "method" => put(&mut self.method, method(report, at)),
            "path" => put(&mut self.path, path(report, at)),
            "host" => put(&mut self.host, header_value(report, at, "a host name")),
            "headers" => put(&mut self.headers, headers(report, at)),
            "expected-codes" => put(&mut self.codes, codes(report, at)),
            "expected-body" => put(&mut self.body, filled(report, at, "text of the body")),
            "follow-redirects" => put(&mut self.redirects, report.boolean(at)),
            "server-name" => put(&mut self.server_name, filled(report, at, "a host name")),
            "ca-file" => put(&mut self.ca_file, filled(report, at, "a PEM file")),
            "client-certificate" => {
                put(&mut self.client_certificate, filled(report, at, "a PEM file"));
            }
            "client-key" => put(&mut self.client_key, filled(report, at, "a PEM file")),
            "insecure" => put(&mut self.insecure, report.boolean(at)),
            "grpc-service" => {
                let service = report.text(at, "the name of a service");
                put(&mut self.grpc_service, service.map(str::to_owned));
            }
            "tls" => put(&mut self.tls, report.boolean(at)),
            "send" => put(&mut self.send, payload(report, at)),
            "expect" => put(&mut self.expect, payload(report, at)),
            // One that is wrong is there: it is not to be missed as well.
            "query" => self.query = Some(query(report, at).unwrap_or_default()),
            "query-type" => put(&mut self.query_type, report.choice(at, RecordType::ALL)),
            "expected-rcode" => put(&mut self.rcode, report.choice(at, Rcode::ALL)),
            "command" => self.command = Some(command(report, at).unwrap_or_default()),
            // Reported as unknown.
            _ => {}
        }
    }

    /// The check of a backend; what is missing is reported, once for all backends that miss it.
    pub(super) fn finish(
        &self,
        report: &mut Report<'_>,
        backend: &Place,
        port: u16,
    ) -> Option<Arc<HealthCheck>> {
        let place = self.place.clone()?;
        let kind = self.kind.unwrap_or(Kind::Tcp);
        if kind == Kind::None {
            return None;
        }
        if port == 0 && self.port.is_none() && kind != Kind::Exec {
            let message = "a backend without a port is checked, and on which is not said";
            report.once(backend, message, "`port` in `health-check`, or `type = \"none\"`");
        }
        let tls = self.tls(report, &place, kind);
        let question = match kind {
            Kind::Tcp => Question::Tcp,
            Kind::Http => Question::Http(self.http()),
            Kind::Https => Question::Https(Https { http: self.http(), tls }),
            Kind::Grpc => Question::Grpc(Grpc {
                grpc_service: self.grpc_service.clone().unwrap_or_default(),
                tls: self.tls.unwrap_or_default().then_some(tls),
            }),
            Kind::Udp => Question::Udp(Udp {
                send: self.send.clone().unwrap_or_default(),
                expect: self.expect.clone(),
            }),
            Kind::Dns => Question::Dns(self.dns(report, &place)?),
            Kind::Exec => Question::Exec(self.exec(report, &place)?),
            Kind::None => return None,
        };
        let interval = self.interval.unwrap_or(Duration::from_secs(10));
        Some(Arc::new(HealthCheck {
            question,
            port: self.port,
            interval,
            timeout: self.timeout.unwrap_or(Duration::from_secs(3)),
            fast_interval: self.fast_interval.unwrap_or(Duration::from_secs(2)),
            healthy_threshold: self.healthy.unwrap_or(2),
            unhealthy_threshold: self.unhealthy.unwrap_or(3),
        }))
    }

    fn http(&self) -> Http {
        Http {
            method: self.method.clone().unwrap_or_else(|| "GET".to_owned()),
            path: self.path.clone().unwrap_or_else(|| "/health".to_owned()),
            host: self.host.clone(),
            headers: self.headers.clone().unwrap_or_default(),
            expected_codes: self.codes.clone().unwrap_or_default(),
            expected_body: self.body.clone(),
            follow_redirects: self.redirects.unwrap_or_default(),
        }
    }

    fn tls(&self, report: &mut Report<'_>, place: &Place, kind: Kind) -> Tls {
        let is_used = kind == Kind::Https || kind == Kind::Grpc && self.tls == Some(true);
        if is_used && self.client_certificate.is_some() != self.client_key.is_some() {
            let message = "a client certificate goes with its key, and one of them is missing";
            report.once(place, message, "`client-certificate` and `client-key`, or neither");
        }
        Tls {
            server_name: self.server_name.clone(),
            ca_file: self.ca_file.clone(),
            client_certificate: self.client_certificate.clone(),
            client_key: self.client_key.clone(),
            insecure: self.insecure.unwrap_or_default(),
        }
    }

    fn dns(&self, report: &mut Report<'_>, place: &Place) -> Option<Dns> {
        let Some(query) = self.query.clone() else {
            let message = "a check of type `dns` has no `query`";
            report.once(place, message, "a name to be looked up, such as \"example.com\"");
            return None;
        };
        Some(Dns {
            query,
            query_type: self.query_type.unwrap_or(RecordType::A),
            expected_rcode: self.rcode.unwrap_or(Rcode::NoError),
        })
    }

    fn exec(&self, report: &mut Report<'_>, place: &Place) -> Option<Exec> {
        if !report.exec_checks {
            let message = "commands are not run as checks unless that is asked for";
            report.once(place, message, "`exec-checks = true` in `settings`, or another `type`");
        }
        let Some(command) = self.command.clone() else {
            let message = "a check of type `exec` has no `command`";
            report.once(place, message, "a program and its arguments, such as [\"/bin/true\"]");
            return None;
        };
        Some(Exec { command })
    }
}

/// What is right takes the place of what was there.
fn put<T>(place: &mut Option<T>, found: Option<T>) {
    if found.is_some() {
        *place = found;
    }
}

fn filled(report: &mut Report<'_>, at: &At<'_>, allowed: &str) -> Option<String> {
    let text = report.text(at, allowed)?;
    if text.is_empty() {
        report.problem(&at.place, "this is empty".to_owned(), allowed);
        return None;
    }
    Some(text.to_owned())
}

fn method(report: &mut Report<'_>, at: &At<'_>) -> Option<String> {
    const ALLOWED: &str = "a method of HTTP, such as \"GET\"";
    let text = report.text(at, ALLOWED)?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_uppercase()) {
        report.problem(&at.place, format!("{} is not a method", shown(text)), ALLOWED);
        return None;
    }
    Some(text.to_owned())
}

fn path(report: &mut Report<'_>, at: &At<'_>) -> Option<String> {
    const ALLOWED: &str = "a path that begins with `/`, such as \"/health\"";
    let text = report.text(at, ALLOWED)?;
    if !text.starts_with('/') || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        report.problem(&at.place, format!("{} is not a path", shown(text)), ALLOWED);
        return None;
    }
    Some(text.to_owned())
}

fn header_value(report: &mut Report<'_>, at: &At<'_>, allowed: &str) -> Option<String> {
    let text = report.text(at, allowed)?;
    if text.is_empty() || !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        report.problem(&at.place, format!("{} cannot be in a header", shown(text)), allowed);
        return None;
    }
    Some(text.to_owned())
}

fn headers(report: &mut Report<'_>, at: &At<'_>) -> Option<BTreeMap<String, String>> {
    const ALLOWED: &str = "a table of headers, such as { X-Check = \"yes\" }";
    let fields = report.table(at, || ALLOWED.to_owned())?;
    let mut headers = BTreeMap::new();
    for (name, at) in fields.all() {
        let of_names = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || !name.bytes().all(of_names) {
            report.problem(&at.place, format!("{} is not a header", shown(name)), ALLOWED);
            continue;
        }
        if let Some(value) = header_value(report, &at, "the value of a header") {
            headers.insert(name.to_owned(), value);
        }
    }
    Some(headers)
}

fn codes(report: &mut Report<'_>, at: &At<'_>) -> Option<Codes> {
    const RANGE: RangeInclusive<u16> = 100..=599;
    let items = report.list(at, CODES_ALLOWED)?;
    if items.is_empty() {
        report.problem(&at.place, "there is no code".to_owned(), CODES_ALLOWED);
        return None;
    }
    let problems = report.problems.len();
    let mut codes = Vec::new();
    for at in &items {
        if !at.is_text() {
            codes.extend(report.number(at, &RANGE).map(|code| (code, code)));
            continue;
        }
        let Some(text) = report.text(at, CODES_ALLOWED) else { continue };
        let number = |text: &str| text.parse().ok().filter(|code| RANGE.contains(code));
        let range = match text.split_once('-') {
            Some((first, last)) => number(first).zip(number(last)),
            None => number(text).map(|code: u16| (code, code)),
        };
        match range.filter(|(first, last)| first <= last) {
            Some(range) => codes.push(range),
            None => {
                let message = format!("{} is not a range of codes", shown(text));
                report.problem(&at.place, message, "codes from 100 to 599, such as \"200-299\"");
            }
        }
    }
    (report.problems.len() == problems).then_some(Codes(codes))
}

fn payload(report: &mut Report<'_>, at: &At<'_>) -> Option<Payload> {
    let text = report.text(at, PAYLOAD_ALLOWED)?;
    let payload = Payload::parse(text);
    if payload.is_none() {
        report.problem(&at.place, format!("{} is not digits", shown(text)), PAYLOAD_ALLOWED);
    }
    payload
}

/// RFC 1035: labels of 1 to 63 bytes, 253 in all.
fn query(report: &mut Report<'_>, at: &At<'_>) -> Option<String> {
    const ALLOWED: &str = "a name to be looked up, such as \"example.com\"";
    let text = report.text(at, ALLOWED)?;
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let is_root = text == ".";
    if !is_root && (name.len() > 253 || !name.split('.').all(is_label)) {
        report.problem(&at.place, format!("{} is not a name of DNS", shown(text)), ALLOWED);
        return None;
    }
    Some(text.to_owned())
}

fn command(report: &mut Report<'_>, at: &At<'_>) -> Option<Vec<String>> {
    const ALLOWED: &str = "a program by its whole path and its arguments, such as [\"/bin/true\"]";
    let items = report.list(at, ALLOWED)?;
    let words: Option<Vec<String>> =
        items.iter().map(|at| report.text(at, ALLOWED).map(str::to_owned)).collect();
    let words = words?;
    if !words.first().is_some_and(|program| program.starts_with('/')) {
        report.problem(&at.place, "there is no program by its whole path".to_owned(), ALLOWED);
        return None;
    }
    Some(words)
}
