//! The keys of `[settings.admin]`.
//!
//! Beyond loopback, whoever can reach it is not known: there it is served over TLS to those with a key, or not at all. No message
//! holds a text that is meant to be a key.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::keys;
use super::report::{At, FILE, Fields, Report, shown};
use crate::config::admin::{Admin, AdminKey, AdminTls, KeySource, Scope, Secret};

const LISTEN: &str = "an address and a port, such as `127.0.0.1:8081` or `[::1]:8081`";
const NAME: &str = "a name of 1 to 64 letters, digits, `-`, `_`, `.` and `@`";
const KEY: &str = "16 to 512 letters, digits and `-._~+/=`, or `key-file`";
const ORIGIN: &str =
    "the origin of a page, such as \"https://ops.example.com\" or \"http://localhost:3000\"";
pub(super) const SCOPE: [(&str, Scope); 2] = [("read", Scope::Read), ("write", Scope::Write)];
/// More keys than that are better kept by somebody else.
pub(super) const MOST_KEYS: usize = 100;

/// Checks them; what is wrong and reported has its default, or is left out.
pub(super) fn admin(report: &mut Report<'_>, at: &At<'_>) -> Admin {
    let mut found = Admin::default();
    let Some(fields) = report.fields(at, &keys::ADMIN) else { return found };
    if let Some(at) = fields.get("listen")
        && let Some(text) = report.text(&at, LISTEN)
    {
        match text.parse::<SocketAddr>() {
            Ok(listen) if listen.port() != 0 => found.listen = listen,
            _ => {
                report.problem(&at.place, format!("{} cannot be listened on", shown(text)), LISTEN);
            }
        }
    }
    let (tls_at, keys_at) = (fields.get("tls"), fields.get("keys"));
    let has_keys = keys_at.is_some();
    found.tls = tls_at.as_ref().and_then(|at| tls(report, at));
    if let Some(at) = keys_at {
        found.keys = all_keys(report, &at);
    }
    if let Some(at) = fields.get("allowed-origins") {
        found.allowed_origins = origins(report, &at);
    }
    if !found.listen.ip().is_loopback() {
        let place = fields.get("listen").map_or_else(|| at.place.clone(), |at| at.place);
        let beyond = |what: &str| {
            format!(
                "{} is not loopback, and there is no {what}: anybody could read along or come in",
                found.listen
            )
        };
        if tls_at.is_none() {
            report.problem(&place, beyond("`tls`"), "`tls` and `keys`, or an address of loopback");
        }
        if !has_keys || (found.keys.is_empty() && report.problems.is_empty()) {
            report.problem(&place, beyond("key"), "`tls` and `keys`, or an address of loopback");
        }
    }
    found
}

fn tls(report: &mut Report<'_>, at: &At<'_>) -> Option<AdminTls> {
    let fields = report.fields(at, &keys::ADMIN_TLS)?;
    let certificate_file = report.need(&fields, "certificate-file", FILE);
    let key_file = report.need(&fields, "key-file", FILE);
    let certificate_file = certificate_file.and_then(|at| report.file(&at));
    let key_file = key_file.and_then(|at| report.file(&at));
    Some(AdminTls { certificate_file: certificate_file?, key_file: key_file? })
}

fn all_keys(report: &mut Report<'_>, at: &At<'_>) -> Vec<AdminKey> {
    let items = report.list(at, "a list of tables").unwrap_or_default();
    if items.len() > MOST_KEYS {
        let message = format!("{} keys are too many", items.len());
        report.problem(&at.place, message, format!("at most {MOST_KEYS}"));
    }
    let (mut names, mut found) = (BTreeSet::new(), Vec::new());
    for at in &items {
        let Some(fields) = report.fields(at, &keys::ADMIN_KEY) else { continue };
        let name = report.need(&fields, "name", NAME).and_then(|at| {
            let text = report.text(&at, NAME)?;
            if !is_name(text) {
                report.problem(&at.place, format!("{} is no name of a key", shown(text)), NAME);
                return None;
            }
            if !names.insert(text.to_owned()) {
                let message = format!("another key has the name {}", shown(text));
                report.problem(&at.place, message, "a name of its own for each");
            }
            Some(text.to_owned())
        });
        let scope = fields.get("scope").map(|at| report.choice(&at, &SCOPE));
        let scope = scope.unwrap_or(Some(Scope::Read));
        let secret = source(report, &fields);
        if let (Some(name), Some(scope), Some(secret)) = (name, scope, secret) {
            found.push(AdminKey { name, secret, scope });
        }
    }
    found
}

fn source(report: &mut Report<'_>, fields: &Fields<'_>) -> Option<KeySource> {
    match (fields.get("key"), fields.get("key-file")) {
        (Some(at), None) => secret(report, fields, &at).map(KeySource::Key),
        (None, Some(at)) => report.file(&at).map(KeySource::KeyFile),
        (None, None) => {
            report.need(fields, "key-file", FILE);
            None
        }
        (Some(key), Some(file_at)) => {
            secret(report, fields, &key);
            report.file(&file_at);
            let message = "the key is given twice".to_owned();
            report.problem(&file_at.place, message, "one of `key` and `key-file`");
            None
        }
    }
}

/// What is wrong with it is said without it, and at its name.
fn secret(report: &mut Report<'_>, fields: &Fields<'_>, at: &At<'_>) -> Option<Secret> {
    let place = fields.name("key").unwrap_or_else(|| at.place.clone());
    let wrong = "this is not a key, or one that is soon guessed";
    report.secret(at, Secret::new, (&place, wrong, KEY))
}

fn origins(report: &mut Report<'_>, at: &At<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for at in report.list(at, "a list of origins").unwrap_or_default() {
        let Some(text) = report.text(&at, ORIGIN) else { continue };
        if is_origin(text) {
            found.push(text.to_owned());
        } else {
            report.problem(&at.place, format!("{} is not an origin", shown(text)), ORIGIN);
        }
    }
    found
}

fn is_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    (1..=64).contains(&text.len()) && text.chars().all(is_plain)
}

/// As browsers write one (RFC 6454 section 6.2): in lower case, without a path.
pub(in crate::config) fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._:[]".contains(c);
    host.is_some_and(|host| !host.is_empty() && host.chars().all(is_plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{parse, written};

    const KEY_TEXT: &str = "0123456789abcdef-very-secret";

    fn read(settings: &str) -> Result<Option<Admin>, Vec<String>> {
        let text = format!(
            "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], address = '203.0.113.1', port = 80 }}\n\
             backends = [{{ address = '10.0.0.1:80' }}]\n{settings}\n"
        );
        let read = parse("equipoise.toml", &text).map(|checked| checked.config);
        if let Ok(config) = &read {
            let told = format!("{:?} {}", config.settings, written(config));
            assert!(!told.contains("very-secret"), "{told}");
        }
        let read = read.map(|config| config.settings.admin);
        read.map_err(|problems| {
            let told: Vec<_> =
                problems.iter().map(|p| format!("{}: {}", p.key, p.message)).collect();
            assert!(!told.concat().contains("very-secret"), "{told:?}");
            told
        })
    }

    #[test]
    fn nobody_listens_unless_the_table_is_there_and_then_on_loopback() {
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("[settings.admin]"), Ok(Some(Admin::default())));
        assert!(Admin::default().listen.ip().is_loopback());
    }

    #[test]
    fn all_that_is_said_arrives() {
        let text = format!(
            "[settings.admin]\nlisten = '203.0.113.1:8443'\n\
             tls = {{ certificate-file = '/c.pem', key-file = '/k.pem' }}\n\
             keys = [{{ name = 'ci', key = '{KEY_TEXT}', scope = 'write' }}, {{ name = 'grafana', key-file = '/g' }}]\n\
             allowed-origins = ['https://ops.example.com', 'http://localhost:3000']"
        );
        let found = read(&text).unwrap().unwrap();
        let tls = AdminTls { certificate_file: "/c.pem".to_owned(), key_file: "/k.pem".to_owned() };
        assert_eq!(found.tls, Some(tls));
        let KeySource::Key(key) = &found.keys[0].secret else { panic!("it is in the file") };
        assert_eq!(key.bytes(), KEY_TEXT.as_bytes());
        assert_eq!(found.keys[1].secret, KeySource::KeyFile("/g".to_owned()));
        let scopes: Vec<_> = found.keys.iter().map(|key| key.scope).collect();
        assert_eq!(scopes, [Scope::Write, Scope::Read], "no more than is asked for");
        assert_eq!(found.allowed_origins, ["https://ops.example.com", "http://localhost:3000"]);
    }

    #[test]
    fn beyond_loopback_there_is_no_way_without_tls_and_keys() {
        let tls = "tls = { certificate-file = '/c.pem', key-file = '/k.pem' }\n";
        let keys = format!("keys = [{{ name = 'ci', key = '{KEY_TEXT}' }}]\n");
        for address in ["203.0.113.1:8081", "0.0.0.0:8081", "[::]:8081"] {
            let with =
                |more: &str| read(&format!("[settings.admin]\nlisten = '{address}'\n{more}"));
            assert_eq!(with("").unwrap_err().len(), 2);
            assert_eq!(with(tls).unwrap_err().len(), 1);
            assert_eq!(with(&keys).unwrap_err().len(), 1);
            assert_eq!(with(&format!("{tls}keys = []")).unwrap_err().len(), 1);
            assert!(with(&format!("{tls}{keys}")).is_ok());
        }
        for address in ["127.0.0.1:8081", "127.9.9.9:8081", "[::1]:8081"] {
            assert!(read(&format!("[settings.admin]\nlisten = '{address}'")).is_ok());
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_the_key() {
        for wrong in [
            "listen = ':8081'",
            "listen = '127.0.0.1:0'",
            "tls = { certificate-file = '/c.pem' }",
            "tls = { certificate-file = 'c.pem', key-file = '/k.pem' }",
            "keys = [{ name = 'ci' }]",
            "keys = [{ key = '0123456789abcdef-very-secret' }]",
            "keys = [{ name = 'c i', key = '0123456789abcdef-very-secret' }]",
            "keys = [{ name = 'ci', key = 'very-secret' }]",
            "keys = [{ name = 'ci', key = '0123456789abcdef very-secret' }]",
            "keys = [{ name = 'ci', key = '<hidden>' }]",
            "keys = [{ name = 'ci', key = 12345678901234567890 }]",
            "keys = [{ name = 'ci', key = '0123456789abcdef-very-secret', key-file = '/k' }]",
            "keys = [{ name = 'ci', key-file = '/a' }, { name = 'ci', key-file = '/b' }]",
            "keys = [{ name = 'ci', key-file = '/a', scope = 'all' }]",
            "allowed-origins = ['*']",
            "allowed-origins = ['https://ops.example.com/']",
            "allowed-origins = ['null']",
        ] {
            let problems = read(&format!("[settings.admin]\n{wrong}")).unwrap_err();
            assert_eq!(problems.len(), 1, "{wrong}: {problems:?}");
            assert!(!problems[0].contains("1234567890"), "{problems:?}");
        }
    }
}
