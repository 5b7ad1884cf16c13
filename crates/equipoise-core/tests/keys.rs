//! The list of keys is what the check reads, and `docs/config.md` says what is in it.
//!
//! `UPDATE_EXPECT=1 cargo test -p equipoise-core --test keys` writes the document anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use equipoise_core::config::keys::{Absent, Form, Key, Kind, Table, all};
use equipoise_core::config::{Problem, parse};
use expect_test::expect_file;
use serde_json::{Value, json};

/// A configuration with a table of each kind, by the way to it.
fn places() -> Vec<(&'static str, Value)> {
    let backend = json!({ "address": "10.0.0.1:80" });
    let of_service = |key: &str, value: Value| {
        let mut file = json!({ "service": [{
            "name": "web",
            "listen": { "interfaces": ["eth0"], "address": "203.0.113.10", "port": 80 },
            "backends": [backend],
        }] });
        if !key.is_empty() {
            file["service"][0][key] = value;
        }
        file
    };
    let of_settings = |key: &str, value: Value| {
        let mut file = of_service("", Value::Null);
        file["settings"] = json!({});
        if !key.is_empty() {
            file["settings"][key] = value;
        }
        file
    };
    let none = || json!({});
    let of_route = |key: &str| {
        let mut route = json!({ "source": "10.0.0.0/8", "backends": [backend] });
        route[key] = none();
        of_service("source-route", json!([route]))
    };
    let of_names = |key: Option<&str>| {
        let mut route = json!({ "names": ["a"], "backends": [backend] });
        if let Some(key) = key {
            route[key] = none();
        }
        of_service("name-route", json!([route]))
    };
    vec![
        ("", of_service("", Value::Null)),
        ("service[0]", of_service("", Value::Null)),
        ("service[0].listen", of_service("", Value::Null)),
        ("service[0].backends[0]", of_service("", Value::Null)),
        ("service[0].affinity-prefix", of_service("affinity-prefix", none())),
        ("service[0].timeouts", of_service("timeouts", none())),
        ("service[0].limits", of_service("limits", none())),
        ("service[0].limits.per-source", of_service("limits", json!({ "per-source": {} }))),
        ("service[0].limits.per-backend", of_service("limits", json!({ "per-backend": {} }))),
        (
            "service[0].limits.per-source.prefix",
            of_service("limits", json!({ "per-source": { "prefix": {} } })),
        ),
        ("service[0].health-check", of_service("health-check", none())),
        ("service[0].backends[0].health-check", {
            let mut file = of_service("", Value::Null);
            file["service"][0]["backends"][0]["health-check"] = none();
            file
        }),
        ("service[0].recovery", of_service("recovery", none())),
        ("service[0].panic", of_service("panic", none())),
        ("service[0].breaker", of_service("breaker", none())),
        (
            "service[0].source-route[0]",
            of_service("source-route", json!([{ "source": "10.0.0.0/8", "backends": [backend] }])),
        ),
        ("service[0].source-route[0].health-check", of_route("health-check")),
        ("service[0].source-route[0].recovery", of_route("recovery")),
        ("service[0].source-route[0].panic", of_route("panic")),
        ("service[0].source-route[0].breaker", of_route("breaker")),
        ("service[0].name-route[0]", of_names(None)),
        ("service[0].name-route[0].health-check", of_names(Some("health-check"))),
        ("service[0].name-route[0].recovery", of_names(Some("recovery"))),
        ("service[0].name-route[0].panic", of_names(Some("panic"))),
        ("service[0].name-route[0].breaker", of_names(Some("breaker"))),
        ("settings", of_settings("", Value::Null)),
        ("settings.health-check", of_settings("health-check", none())),
        ("settings.recovery", of_settings("recovery", none())),
        ("settings.panic", of_settings("panic", none())),
        ("settings.breaker", of_settings("breaker", none())),
        ("settings.drain", of_settings("drain", none())),
        ("settings.metrics", of_settings("metrics", none())),
        ("settings.otlp", of_settings("otlp", json!({ "endpoint": "http://127.0.0.1" }))),
        ("settings.admin", of_settings("admin", none())),
        ("settings.admin.tls", of_settings("admin", json!({ "tls": {} }))),
        (
            "settings.admin.keys[0]",
            of_settings("admin", json!({ "keys": [{ "name": "ci", "key-file": "/k" }] })),
        ),
        ("settings.access-log", of_settings("access-log", json!({ "path": "/var/log/a.log" }))),
        ("settings.log", of_settings("log", none())),
        ("settings.dns", of_settings("dns", none())),
        ("settings.limits", of_settings("limits", none())),
        ("settings.least-connections", of_settings("least-connections", none())),
    ]
}

/// The table that a way leads to.
fn table_of(way: &str) -> &'static Table {
    let mut table = all()[0];
    for part in way.split('.').filter(|part| !part.is_empty()) {
        let name = part.split('[').next().unwrap();
        table = inner(&table.key(name).unwrap_or_else(|| panic!("no key {name}")).kind).unwrap();
    }
    table
}

fn inner(kind: &'static Kind) -> Option<&'static Table> {
    match kind {
        Kind::Table(table) => Some(table),
        Kind::List(list) => inner(&list.of),
        Kind::Either(kinds) => kinds.iter().find_map(inner),
        _ => None,
    }
}

fn at<'v>(file: &'v mut Value, way: &str) -> &'v mut Value {
    let pointer = way.replace('[', ".").replace(']', "");
    let pointer: String =
        pointer.split('.').filter(|p| !p.is_empty()).map(|p| format!("/{p}")).collect();
    file.pointer_mut(&pointer).unwrap_or_else(|| panic!("{way}"))
}

/// What the check says of a key with this value.
fn told(way: &str, file: &Value, key: &str, value: Value) -> Vec<Problem> {
    let mut file = file.clone();
    at(&mut file, way)[key] = value;
    let path = if way.is_empty() { key.to_owned() } else { format!("{way}.{key}") };
    let problems = parse("f.json", &file.to_string()).err().unwrap_or_default();
    problems.into_iter().filter(|problem| problem.key.starts_with(&path)).collect()
}

#[test]
fn every_table_of_the_list_is_tried() {
    let tried: Vec<_> = places().iter().map(|(way, _)| std::ptr::from_ref(table_of(way))).collect();
    for table in all() {
        assert!(tried.contains(&std::ptr::from_ref(table)), "{}", table.home);
    }
}

#[test]
fn check_reads_every_key_of_the_list() {
    for (way, file) in places() {
        for key in table_of(way).keys {
            let problems = told(way, &file, key.name, Value::Null);
            let is_read = |problem: &Problem| problem.message.starts_with("null where ");
            assert!(problems.iter().any(is_read), "{way}: {} is not read: {problems:?}", key.name);
        }
    }
}

#[test]
fn check_knows_no_key_beside_the_list() {
    for (way, file) in places() {
        let problems = told(way, &file, "zzzzzz", json!(1));
        let names = table_of(way).keys.iter().map(|key| format!("`{}`", key.name));
        let allowed = problems[0].allowed.clone().unwrap();
        assert!(problems[0].message.contains("unknown key"), "{way}");
        assert_eq!(allowed.matches('`').count(), 2 * names.clone().count(), "{way}: {allowed}");
        names.for_each(|name| assert!(allowed.contains(&name), "{way}: {name}: {allowed}"));
    }
}

#[test]
fn ranges_and_words_of_the_list_are_those_of_the_check() {
    for (way, file) in places() {
        for key in table_of(way).keys {
            try_kind(way, &file, key, &key.kind);
        }
    }
}

fn try_kind(way: &str, file: &Value, key: &Key, kind: &Kind) {
    let ways = |value: Value| told(way, file, key.name, value);
    let about = |problem: &Problem, word: &str| problem.message.contains(word);
    match kind {
        Kind::Number(least, most) => {
            for good in [*least, *most] {
                let problems = ways(json!(good));
                assert!(!problems.iter().any(|p| about(p, "out of range")), "{way}: {problems:?}");
            }
            let below = least.checked_sub(1).map(|below| json!(below)).unwrap_or(json!(-1));
            for bad in [below, json!(most + 1)] {
                let problems = ways(bad.clone());
                assert!(
                    problems.iter().any(|p| about(p, "out of range")),
                    "{way}: {}: {bad} passes",
                    key.name
                );
            }
        }
        Kind::Decimal(least, most) => {
            let part = |millionths: &u32| f64::from(*millionths) / 1e6;
            for good in [part(least), part(most)] {
                assert_eq!(ways(json!(good)), [], "{way}: {}", key.name);
            }
            for bad in [part(least) / 3.0, part(most) + 1e-6, -1.0] {
                let problems = ways(json!(bad));
                assert!(problems.iter().any(|p| about(p, "out of range")), "{way}: {}", key.name);
            }
        }
        Kind::Duration(least, most) => {
            let text = |duration| json!(humantime::format_duration(duration).to_string());
            for good in [*least, *most] {
                assert_eq!(ways(text(good)), [], "{way}: {}", key.name);
            }
            let millisecond = Duration::from_millis(1);
            let below = least.checked_sub(millisecond);
            for bad in below.into_iter().chain([*most + millisecond]) {
                let problems = ways(text(bad));
                assert!(problems.iter().any(|p| about(p, "out of range")), "{way}: {}", key.name);
            }
        }
        Kind::Word(words) => {
            for word in *words {
                let problems = ways(json!(word));
                assert!(!problems.iter().any(|p| about(p, "not known")), "{way}: {word}");
            }
            let problem = &ways(json!("zzzzzz"))[0];
            let allowed = problem.allowed.clone().unwrap();
            for word in *words {
                assert!(allowed.contains(word), "{way}: {}: {allowed}", key.name);
            }
        }
        Kind::Text(Form { examples, .. }) => {
            for example in *examples {
                let problems = ways(json!(example));
                let is_form = |p: &Problem| p.message.contains(" is not ");
                assert!(!problems.iter().any(is_form), "{way}: {example}: {problems:?}");
            }
        }
        Kind::Boolean => assert_eq!(ways(json!(1)).len(), 1, "{way}: {}", key.name),
        Kind::Either(kinds) => kinds.iter().for_each(|kind| try_kind(way, file, key, kind)),
        Kind::List(list) => {
            if list.least > 0 {
                assert_ne!(ways(json!([])), [], "{way}: {} may be empty", key.name);
            }
        }
        Kind::Table(_) | Kind::Names(_) => {}
    }
}

#[test]
fn defaults_of_the_list_are_those_of_the_check() {
    for (way, file) in places() {
        for key in table_of(way).keys {
            let Absent::Value(text) = key.absent else { continue };
            let mut file = file.clone();
            at(&mut file, way).as_object_mut().unwrap().remove(key.name);
            let without = parse("f.json", &file.to_string());
            let value: BTreeMap<String, Value> = toml::from_str(&format!("v = {text}")).unwrap();
            at(&mut file, way)[key.name] = value["v"].clone();
            let with = parse("f.json", &file.to_string());
            let (Ok(without), Ok(with)) = (without, with) else { panic!("{way}: {}", key.name) };
            assert_eq!(with.config.services, without.config.services, "{way}: {}", key.name);
            assert_eq!(with.config.settings, without.config.settings, "{way}: {}", key.name);
        }
    }
}

#[test]
fn document_lists_every_key() {
    expect_file!["../../../docs/config.md"].assert_eq(&document());
}

const HEAD: &str = "\
# Configuration

Every key, from the list that the check itself reads ([`keys.rs`](../crates/equipoise-core/src/config/check/keys.rs)).
`equipoise schema` prints the same as a JSON Schema, and the guide, from [Configuration files](configuration.md) on, says what goes with what.

The format is that of the file's extension:

| extension | format |
| --- | --- |
| `.toml` | TOML 1.1 |
| `.json` | JSON, strictly: no comments |
| `.yaml`, `.yml` | YAML 1.2, one document. Anchors and aliases are taken, tags and merge keys (`<<`) are not, and only `true`, `false` and `null` are no texts beside numbers |
| `.edn` | EDN, with the keys of [another system](edn.md) |

`equipoise convert IN OUT` translates between them. Durations are texts such as `\"30s\"` or `\"2h 5m\"`. Unknown keys are errors.

## Variables

`${NAME}` in a text is the value of that environment variable, `${NAME:-text}` is `text` where it is not set or empty, and `$${` is `${`. One that is not set
and has no default is an error. A text that is one variable and nothing else may stand for a number or a boolean: `port = \"${PORT:-80}\"`. Names of keys are as they are,
and so are texts of EDN.
";

fn document() -> String {
    let mut text = HEAD.to_owned();
    for table in all() {
        let title = if table.home.contains('`') { table.home } else { "At the top" };
        writeln!(text, "\n## {}\n\n{}\n", heading(title), table.doc).unwrap();
        text.push_str("| key | type and range | default | |\n| --- | --- | --- | --- |\n");
        for key in table.keys {
            let absent = match key.absent {
                Absent::Required => "required".to_owned(),
                Absent::Value(value) => format!("`{value}`"),
                Absent::Words(words) => words.to_owned(),
            };
            let kind = words(&key.kind);
            writeln!(text, "| `{}` | {kind} | {absent} | {} |", key.name, key.doc).unwrap();
        }
    }
    text
}

/// `` an entry of `backends` `` is a section named `backends`.
fn heading(home: &str) -> String {
    home.trim_start_matches("an entry of ").to_owned()
}

fn words(kind: &Kind) -> String {
    match kind {
        Kind::Boolean => "boolean".to_owned(),
        Kind::Number(least, most) => format!("{least} to {most}"),
        Kind::Decimal(least, most) => {
            format!("{} to {}", f64::from(*least) / 1e6, f64::from(*most) / 1e6)
        }
        Kind::Duration(least, most) => {
            let (least, most) =
                (humantime::format_duration(*least), humantime::format_duration(*most));
            format!("duration, {least} to {most}")
        }
        Kind::Word(words) => {
            words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ")
        }
        Kind::Text(form) => form.words.to_owned(),
        Kind::List(list) => {
            let count = match (list.least, list.most) {
                (0, None) => String::new(),
                (0, Some(most)) => format!(", up to {most}"),
                (least, None) => format!(", at least {least}"),
                (least, Some(most)) => format!(", {least} to {most}"),
            };
            format!("list of {}{count}", items(&list.of))
        }
        Kind::Table(table) => format!("table [{0}](#{1})", heading(table.home), anchor(table)),
        Kind::Names(names) => format!("table: {} to {}", names.name.words, words(&names.of)),
        Kind::Either(kinds) => kinds.iter().map(words).collect::<Vec<_>>().join("; or "),
    }
}

fn items(kind: &Kind) -> String {
    match kind {
        Kind::Table(table) => format!("tables [{0}](#{1})", heading(table.home), anchor(table)),
        kind => words(kind),
    }
}

fn anchor(table: &Table) -> String {
    heading(table.home).replace('`', "")
}
