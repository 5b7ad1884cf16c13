//! What of a service reaches into this host: files that are read, and commands that are run.
//!
//! The process may read and run what whoever asks on a port may not, so that this is for its users alone.

use serde_json::Value;

/// Keys of health checks that name a file, or a command.
const KEYS: [&str; 4] = ["ca-file", "client-certificate", "client-key", "command"];

/// Whether a table names a list of prefixes in a file, or has one of these keys, at any depth.
pub(super) fn is_reached_by(table: &Value) -> bool {
    match table {
        Value::String(text) => text.starts_with('@'),
        Value::Array(values) => values.iter().any(is_reached_by),
        Value::Object(table) => table.iter().any(|(key, value)| {
            let is_one = KEYS.contains(&key.replace('_', "-").as_str());
            is_one && !value.is_null() || is_reached_by(value)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
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
        assert!(reload(Some("/b.toml")).reaches_into_host() && !reload(None).reaches_into_host());
        let service = |table: &Value| {
            Configure::Service("a".to_owned(), table.clone(), Existing::Stays).reaches_into_host()
        };
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
    }
}
