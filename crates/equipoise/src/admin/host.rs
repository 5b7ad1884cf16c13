//! What of a service reaches into this host: files that are read, and commands that are run.
//!
//! The process may read and run what whoever asks on a port may not, so that this is for its users alone. What they have
//! given to a service stays there, whoever changes the rest of it.

use std::collections::BTreeSet;

use serde_json::Value;

/// Keys of health checks that name a file, or a command.
const KEYS: [&str; 4] = ["ca-file", "client-certificate", "client-key", "command"];

/// What a table names of this host, at any depth: lists of prefixes in files, and the values of these keys with the keys.
pub(super) fn named_by(table: &Value) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    gather(table, &mut named);
    named
}

/// What the service of this name names of this host in a configuration.
pub(super) fn named_by_service(config: &Value, name: &str) -> BTreeSet<String> {
    let services = config.get("service").and_then(Value::as_array);
    let service = services.into_iter().flatten().find(|service| service["name"] == name);
    service.map(named_by).unwrap_or_default()
}

fn gather(table: &Value, named: &mut BTreeSet<String>) {
    match table {
        Value::String(text) if text.starts_with('@') => {
            named.insert(text.clone());
        }
        Value::Array(values) => values.iter().for_each(|value| gather(value, named)),
        Value::Object(table) => {
            for (key, value) in table {
                let key = key.replace('_', "-");
                if KEYS.contains(&key.as_str()) && !value.is_null() {
                    named.insert(format!("{key} {value}"));
                }
                gather(value, named);
            }
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admin::{Configure, Existing};
    use crate::status::change::ReloadRequest;

    #[test]
    fn files_are_named_by_reloads_lists_and_checks_and_commands_by_checks() {
        let reload = |file: Option<&str>| {
            let file = file.map(str::to_owned);
            Configure::Reload(ReloadRequest { file, ..ReloadRequest::default() })
        };
        let none = Value::Null;
        assert!(reload(Some("/b.toml")).reaches_into_host(&none));
        assert!(!reload(None).reaches_into_host(&none));
        let within = |table: &Value, running: &Value| {
            let table = table.clone();
            Configure::Service("a".to_owned(), table, Existing::Stays).reaches_into_host(running)
        };
        let service = |table: &Value| within(table, &none);
        let check = |check: Value| json!({ "backends": [{ "address": "10.0.0.1:1", "health_check": check }] });
        for table in [
            json!({ "limits": { "deny": ["10.0.0.0/8", "@/etc/deny.txt"] } }),
            json!({ "source_route": [{ "source": "@/etc/office.txt" }] }),
            check(json!({ "type": "exec", "command": ["/bin/true"] })),
            check(json!({ "type": "https", "ca_file": "/etc/ca.pem" })),
            check(
                json!({ "type": "https", "client-certificate": "/a.pem", "client-key": "/a.key" }),
            ),
        ] {
            assert!(service(&table), "{table}");
        }
        for table in [
            json!({ "name": "a@b", "limits": { "deny": ["10.0.0.0/8"] } }),
            check(json!({ "type": "https", "path": "/command", "ca_file": null })),
        ] {
            assert!(!service(&table), "{table}");
        }
        let own =
            |path: &str| check(json!({ "type": "https", "ca_file": path, "client_key": null }));
        let running = |name: &str| {
            let mut table = own("/etc/ca.pem");
            table["name"] = json!(name);
            json!({ "service": [{ "name": "b" }, table] })
        };
        assert!(!within(&own("/etc/ca.pem"), &running("a")), "it is there already");
        assert!(within(&own("/etc/shadow"), &running("a")));
        assert!(within(&own("/etc/ca.pem"), &running("c")), "another's");
        let other_key = check(json!({ "type": "https", "client_certificate": "/etc/ca.pem" }));
        assert!(within(&other_key, &running("a")));
    }
}
