//! The configuration that runs, written out: as JSON for programs, as a file for people.
//!
//! The file's form is the configuration's own, with every default filled in, so that what
//! `equipoise config` prints can be run again. JSON has the same shape with its keys in snake case.

mod difference;

pub use difference::differences;
use equipoise_core::config::admin::Secret;
use equipoise_core::config::{self, Config, Format, Problem};
use serde_json::{Map, Value};

use crate::config_file;

/// Keys below these are names of interfaces, of headers and of attributes, and stay as they are.
const NAMES: [&str; 5] = ["attach", "headers", "header-files", "header_files", "attributes"];

/// As JSON: keys in snake case.
pub fn to_json(config: &Config) -> Value {
    renamed(config::written(config), &|name| name.replace('-', "_"))
}

/// As a TOML file, from what [`to_json`] has made.
pub fn to_toml(json: Value) -> String {
    config::from_json(renamed(json, &|name| name.replace('_', "-")), Format::Toml)
}

/// In place of keys and headers that are not told: a text that is good for either, and is nobody's.
const STAND_IN: &str = "a-text-that-is-not-told";

/// The configuration that [`to_json`] has told of. Its secrets are others: it is for looking at, and not for running.
///
/// # Errors
///
/// What is not understood of it: what another version has told, or files that it names and that have changed.
pub fn read_back(mut json: Value) -> Result<Config, Vec<Problem>> {
    if let Some(settings) = json.get_mut("settings") {
        stand_in(settings);
    }
    config_file::parse("running.toml", &to_toml(json)).map(|checked| checked.config)
}

fn stand_in(value: &mut Value) {
    match value {
        Value::String(text) if text == Secret::HIDDEN => STAND_IN.clone_into(text),
        Value::Array(items) => items.iter_mut().for_each(stand_in),
        Value::Object(entries) => entries.values_mut().for_each(stand_in),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Keys of JSON as those of a file.
pub fn from_json(json: Value) -> Value {
    renamed(json, &|name| name.replace('_', "-"))
}

fn renamed(value: Value, name: &impl Fn(&str) -> String) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(|item| renamed(item, name)).collect(),
        Value::Object(entries) => {
            let entry = |(key, value): (String, Value)| {
                let value =
                    if NAMES.contains(&key.as_str()) { value } else { renamed(value, name) };
                (name(&key), value)
            };
            Value::Object(entries.into_iter().map(entry).collect::<Map<_, _>>())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use equipoise_core::config::parse;
    use serde_json::json;

    const FILE: &str = r#"
        [[service]]
        name = "web"
        listen = { interfaces = ["eth_0"], address = "192.0.2.1", port = 80 }
        backends = [
          { address = "10.0.0.1:8080", weight = 3, max-flows = 9 }, { address = "[2001:db8::1]:8080" },
          { address = "10.0.0.3:53", backup = true, health-check = { type = "dns", query = "example.com" } },
          { address = "10.0.0.4:53", health-check = { type = "udp", send = "hex:00", expect = "x" } },
          { address = "10.0.0.5:53", health-check = { type = "grpc", tls = true, insecure = true } },
          { address = "10.0.0.6:53", health-check = { type = "grpc", grpc-service = "web" } },
          { address = "10.0.0.7:53", health-check = { type = "exec", command = ["/bin/true", "-x"] } },
          { address = "10.0.0.8:53", health-check = { type = "https", ca-file = "/ca.pem" } },
          { address = "10.0.0.9:53", health-check = { type = "none" } },
          { address = "10.0.0.2" },
          { host = "api.internal", port = 8080, refresh = "30s", max-flows = 4 }, { srv = "_a._tcp.api.internal", backup = true },
        ]
        health-check = { type = "http", port = 8081, expected-codes = ["200-299", 404], headers = { X_a-b = "c" }, interval = "1s 500ms" }
        recovery = { mode = "linear", slow-start = "1m" }
        panic = { threshold = 7, policy = "fallback", fallback-backends = [{ address = "10.0.9.1:80", weight = 2 }, { host = "last", port = 80 }] }
        on-backend-down = "reselect"
        on-backend-removed = "reset"
        on-unknown = "drop"
        on-empty = "pass"
        on-full = "drop"
        fragments = "hash"
        max-flows = 20
        mode = "full-nat"
        snat-addresses = ["192.0.2.9"]
        mss-clamp = 1400
        limits = { per-source = { rate = 100, prefix = { v6 = 48 } }, per-backend = { rate = 5, burst = 7 }, deny = ["10.0.0.0/8", "::1"] }
        timeouts = { tcp-opening = "3s", udp-two-way = "2m 500ms", reset-on-expiry = true }
        [[service.source-route]]
        source = ["192.168.0.0/16", "office.example.com", "2001:db8::/32"]
        algorithm = "random"
        backends = [{ address = "10.0.0.1:8080", max-flows = 5, proxy-protocol = "v2" }]
        [[service.name-route]]
        names = ["API.example.com", "*.a_b.example"]
        affinity = "source-ip"
        backends = [{ host = "api.internal", port = 8080, proxy-protocol = "v2" }]
        [[service]]
        name = "range"
        listen = { interfaces = ["eth_0"], port = "8000-8100" }
        backends = [{ address = "2001:db8::1" }]
        affinity = "source-ip"
        affinity-prefix = { v4 = 24 }
        breaker = { min-requests = 5 }
        [[service]]
        name = "list"
        listen = { interfaces = ["eth_0"], port = [80, 443] }
        algorithm = "least-connections"
        breaker = { error-threshold = 20 }
        backends = [{ address = "2001:db8::1" }]
        [settings]
        attach = { default = "tc", eth_0 = "xdp" }
        backend-interfaces = ["eth1"]
        events = false
        breaker = { window = "10s", max-ejected = 0 }
        drain = { timeout = "5m", on-timeout = "reset" }
        exec-checks = true
        limits = { per-backend = { rate = 9 }, allow = ["::/0"] }
        least-connections = { update-interval = "500ms", weighted = false }
        dns = { resolvers = ["10.0.0.53"], min-ttl = "2s", max-ttl = "1m", max-shrink = 9, on-first-failure = "refuse" }
        metrics = { listen = "[::1]:9100", path = "/m" }
        otlp = { endpoint = "https://otel:4318", interval = "1m", timeout = "3s", header-files = { X_a-b = "/k" }, attributes = { "a_b-c.d" = "e" }, ca-file = "/ca.pem" }
    "#;

    #[test]
    fn what_is_printed_is_the_same_configuration_again() {
        let config = parse("a.toml", FILE).unwrap().config;
        let printed = to_toml(to_json(&config));
        let again = parse("b.toml", &printed).unwrap().config;
        assert_eq!(again.services, config.services);
        assert_eq!(again.settings, config.settings);
    }

    #[test]
    fn what_hides_its_secrets_is_read_back_with_others() {
        let secret = "0123456789abcdef-very-secret";
        let headers = format!("headers = {{ X_a-b = '{secret}' }}");
        let file = FILE.replace("header-files = { X_a-b = \"/k\" }", &headers);
        let admin =
            format!("admin = {{ keys = [{{ name = 'ci', key = '{secret}', scope = 'write' }}] }}");
        let config = parse("a.toml", &format!("{file}{admin}\n")).unwrap().config;
        let told = to_json(&config);
        assert!(!told.to_string().contains(secret), "{told}");
        let again = read_back(told.clone()).unwrap();
        assert_eq!(again.services, config.services);
        assert_eq!(to_json(&again), told);
        assert_ne!(again.settings.admin, config.settings.admin);
    }

    #[test]
    fn json_keys_are_snake_case_and_names_of_interfaces_stay() {
        let json = to_json(&parse("a.toml", FILE).unwrap().config);
        assert_eq!(json["settings"]["max_flows"], 1_000_000);
        assert_eq!(json["settings"]["attach"], json!({ "default": "tc", "eth_0": "xdp" }));
        assert_eq!(json["service"][0]["manage_address"], false);
        assert_eq!(json["service"][0]["listen"]["protocol"], "tcp");
        assert_eq!(json["service"][0]["backends"][0]["max_flows"], 9);
        let route = &json["service"][0]["source_route"][0];
        assert_eq!(
            route["source"],
            json!(["192.168.0.0/16", "office.example.com", "2001:db8::/32"])
        );
        assert_eq!(route["backends"][0]["max_flows"], 5);
        let named = &json["service"][0]["name_route"][0];
        assert_eq!(named["names"], json!(["api.example.com", "*.a_b.example"]));
        assert_eq!(route["backends"][0]["proxy_protocol"], "v2");
        assert_eq!(named["backends"][0]["proxy_protocol"], "v2");
        let backend = &json["service"][0]["backends"][0];
        assert_eq!(backend["health_check"]["expected_codes"], json!(["200-299", 404]));
        assert_eq!(backend["health_check"]["headers"], json!({ "X_a-b": "c" }));
        let fallback = &json["service"][0]["panic"]["fallback_backends"];
        assert_eq!(fallback.as_array().map(Vec::len), Some(2));
        assert_eq!(json["service"][0]["on_backend_down"], "reselect");
        assert_eq!(json["service"][0]["timeouts"]["tcp_established"], "2h 5m");
        assert_eq!(json["service"][0]["timeouts"]["reset_on_expiry"], true);
        let source = json!({ "rate": 100, "prefix": { "v6": 48 } });
        assert_eq!(json["service"][0]["limits"]["per_source"], source);
        assert_eq!(json["settings"]["limits"]["allow"], json!(["::/0"]));
        let otlp = &json["settings"]["otlp"];
        assert_eq!(otlp["header_files"], json!({ "x_a-b": "/k" }));
        assert_eq!(otlp["attributes"], json!({ "a_b-c.d": "e" }));
    }
}
