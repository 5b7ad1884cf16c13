//! What `check --host` says of the files that a configuration names: keys, certificates, authorities.
//!
//! They are read as an instance reads them, by whoever asks, who need not be the user that an instance runs as. An instance that cannot read
//! one runs, and says so as a reason: here it is a note.

use std::collections::BTreeSet;

use equipoise_core::config::health::{Grpc, Https, Question, Tls};
use equipoise_core::config::{Backend, Config, Service, problem_at};

use super::check::Findings;
use crate::{admin, metrics, probe};

/// Those that cannot be read, or are not what they should be.
pub fn files(config: &Config) -> Findings {
    let mut notes = Vec::new();
    let mut note = |key: &str, fault| notes.push(problem_at(&config.places, key, fault, None));
    let settings = &config.settings;
    let admin = settings.admin.iter().flat_map(admin::file_faults);
    for (key, fault) in admin {
        note(&format!("settings.admin.{key}"), fault);
    }
    let otlp = settings.otlp.iter().flat_map(metrics::file_faults);
    for (key, fault) in otlp {
        note(&format!("settings.otlp.{key}"), fault);
    }
    // Backends have them from their pool, their service or the settings, as a rule all the same.
    let mut told = BTreeSet::new();
    for (at, service) in config.services.iter().enumerate() {
        let named: BTreeSet<&Tls> = Service::all_backends(service).filter_map(tls).collect();
        for fault in named.into_iter().filter_map(probe::tls_fault) {
            if told.insert(fault.clone()) {
                note(&format!("service[{at}].health-check"), format!("health-check: {fault}"));
            }
        }
    }
    Findings { notes, ..Findings::default() }
}

/// What a backend's check speaks TLS by, if it does.
fn tls(backend: &Backend) -> Option<&Tls> {
    match &backend.health_check.as_ref()?.question {
        Question::Https(Https { tls, .. }) | Question::Grpc(Grpc { tls: Some(tls), .. }) => {
            Some(tls)
        }
        Question::Tcp
        | Question::Http(_)
        | Question::Grpc(_)
        | Question::Udp(_)
        | Question::Dns(_)
        | Question::Exec(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use equipoise_core::config::parse;

    use super::*;

    #[test]
    fn files_that_are_not_there_or_not_what_they_should_be_are_told_with_their_keys() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        fs::write(at("ca.pem"), made.cert.pem()).unwrap();
        fs::write(at("key.pem"), made.signing_key.serialize_pem()).unwrap();
        fs::write(at("key"), "0123456789abcdef\n").unwrap();
        fs::write(at("short"), "0123\n").unwrap();
        let config = |ca: &str, certificate: &str, key: &str| {
            let [ca, certificate, key] = [ca, certificate, key].map(at);
            let text = format!(
                "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], port = 443 }}\n\
                 health-check = {{ type = 'https', ca-file = '{ca}' }}\n\
                 backends = [{{ address = '10.0.0.1:443' }}, {{ address = '10.0.0.2:443' }}]\n\
                 [settings.admin]\ntls = {{ certificate-file = '{certificate}', key-file = '{}' }}\n\
                 keys = [{{ name = 'ops', key-file = '{key}', scope = 'write' }}]\n\
                 [settings.otlp]\nendpoint = 'https://127.0.0.1:4318'\nca-file = '{ca}'\n\
                 header-files = {{ authorization = '{key}' }}\n",
                at("key.pem"),
            );
            parse("a.toml", &text).unwrap_or_else(|problems| panic!("{problems:#?}")).config
        };
        assert_eq!(files(&config("ca.pem", "ca.pem", "key")), Findings::default());
        let found = files(&config("none.pem", "key", "short"));
        assert_eq!(found.problems, []);
        let told: Vec<(&str, &str)> =
            found.notes.iter().map(|note| (&*note.key, &*note.message)).collect();
        let keys: Vec<&str> = told.iter().map(|(key, _)| *key).collect();
        let expected = [
            "settings.admin.keys[0]",
            "settings.admin.tls",
            "settings.otlp.ca-file",
            "service[0].health-check",
        ];
        assert_eq!(keys, expected, "{told:#?}");
        for ((_, message), part) in
            told.iter().zip(["short: its first line", "key: ", "none.pem", "none.pem"])
        {
            assert!(message.contains(part), "{message}");
        }
    }
}
