//! The documents against an instance: the page of the admin API is what it says of itself, and commands that are shown are taken.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use blocks::{Document, Step, ours};
use expect_test::expect_file;

use super::*;

const HEAD: &str = "\
# Admin API

HTTP and JSON on the instance's socket, for its user alone, and with `[settings.admin]` on a port: [Admin API on a port](admin.md) says who may ask what there.
This page is made of the document that an instance gives at `/api/v1/openapi.json` (OpenAPI 3.1): `UPDATE_EXPECT=1 cargo test -p equipoise --test whole_program` writes it anew.

```sh
curl --silent --fail --unix-socket /run/equipoise/default.sock http://localhost/api/v1/status
curl --silent --fail --unix-socket /run/equipoise/default.sock http://localhost/api/v1/services/web
curl --silent --fail --unix-socket /run/equipoise/default.sock --request PATCH --json '{\"weight\": 0}' http://localhost/api/v1/services/web/backends/10.0.0.12%3A8080
```

Names of keys are those of the [configuration](config.md) in snake case. In a path, a backend is percent-encoded. Errors are problem details (RFC 9457, `application/problem+json`), with every problem and its JSON pointer in
`errors`. A change with `If-Match: \"7\"` is made only while generation 7 runs; `GET /api/v1/config` has that as its `ETag`.
";

/// A type in words: a schema's name as a link, what a list is of, what else there may be.
fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        return format!("[{name}](#{})", name.to_lowercase());
    }
    for key in ["oneOf", "anyOf", "allOf"] {
        if let Some(of) = schema[key].as_array() {
            let kinds: Vec<_> = of.iter().map(kind).filter(|kind| kind != "null").collect();
            return kinds.join(" or ");
        }
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
        return values.join(", ");
    }
    let one = |name: &str| match name {
        "array" => format!("list of {}", kind(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("object of {} by name", kind(&schema["additionalProperties"]))
        }
        name => name.to_owned(),
    };
    match &schema["type"] {
        Value::String(name) => one(name),
        Value::Array(names) => {
            let names = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            names.map(one).collect::<Vec<_>>().join(" or ")
        }
        _ => "anything".to_owned(),
    }
}

/// Words in a cell of a table.
fn cell(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
        .replace('<', "\\<")
}

/// What is said of a field: by its schema, or where it may be absent, by what it is otherwise.
fn description(of: &Value) -> &Value {
    let parts = of["oneOf"].as_array().into_iter().flatten();
    let all = std::iter::once(of).chain(parts).map(|part| &part["description"]);
    all.into_iter().find(|description| description.is_string()).unwrap_or(&Value::Null)
}

fn operation(text: &mut String, method: &str, path: &str, operation: &Value) {
    writeln!(text, "\n### `{} {path}`\n\n{}.", method.to_uppercase(), cell(&operation["summary"]))
        .unwrap();
    if operation["description"].is_string() {
        writeln!(text, "\n{}", cell(&operation["description"])).unwrap();
    }
    let mut rows = String::new();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let is_required = if parameter["required"] == true { ", required" } else { "" };
        let (name, place) = (cell(&parameter["name"]), cell(&parameter["in"]));
        let (of, what) = (kind(&parameter["schema"]), cell(&parameter["description"]));
        writeln!(rows, "| `{name}` | {place} | {of}{is_required} | {what} |").unwrap();
    }
    let content = |value: &Value| {
        let content = value["content"].as_object().into_iter().flatten();
        content
            .map(|(name, of)| format!("{} (`{name}`)", kind(&of["schema"])))
            .collect::<Vec<_>>()
            .join(", ")
    };
    if operation["requestBody"].is_object() {
        writeln!(rows, "| | body | {} | |", content(&operation["requestBody"])).unwrap();
    }
    if !rows.is_empty() {
        write!(text, "\n| asked with | where | type | |\n| --- | --- | --- | --- |\n{rows}")
            .unwrap();
    }
    text.push_str("\n| answer | type | |\n| --- | --- | --- |\n");
    for (code, response) in operation["responses"].as_object().unwrap() {
        writeln!(text, "| {code} | {} | {} |", content(response), cell(&response["description"]))
            .unwrap();
    }
}

/// What values of a type are made of.
fn form(text: &mut String, schema: &Value) {
    let list = |name: &str| schema[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let (parts, kinds) = (list("allOf"), list("oneOf"));
    if parts.is_empty() && !kinds.iter().any(|kind| kind["properties"].is_object()) {
        if schema["properties"].is_object() {
            fields(text, schema);
        } else {
            writeln!(text, "\nIt is {}.", kind(schema)).unwrap();
        }
        return;
    }
    for part in parts {
        if part["properties"].is_object() {
            fields(text, part);
        } else {
            writeln!(text, "\nIt has all that {} has.", kind(part)).unwrap();
        }
    }
    for kind in kinds {
        writeln!(text, "\nOne kind of it: {}", cell(&kind["description"])).unwrap();
        fields(text, kind);
    }
}

/// The table of an object's fields.
fn fields(text: &mut String, schema: &Value) {
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().collect();
    text.push_str("\n| field | type | |\n| --- | --- | --- |\n");
    for (field, of) in schema["properties"].as_object().into_iter().flatten() {
        let is_required =
            if required.iter().any(|name| *name == field) { "" } else { ", may be absent" };
        writeln!(text, "| `{field}` | {}{is_required} | {} |", kind(of), cell(description(of)))
            .unwrap();
    }
}

fn page(document: &Value) -> String {
    let mut by_tag: BTreeMap<&str, Vec<(&str, &str, &Value)>> = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let tag = operation["tags"][0].as_str().unwrap();
            by_tag.entry(tag).or_default().push((method, path, operation));
        }
    }
    let mut text = HEAD.to_owned();
    for (tag, operations) in by_tag {
        writeln!(text, "\n## About {tag}").unwrap();
        for (method, path, of) in operations {
            operation(&mut text, method, path, of);
        }
    }
    text.push_str("\n## Types\n");
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        writeln!(text, "\n### {name}\n\n{}", cell(&schema["description"])).unwrap();
        form(&mut text, schema);
    }
    text
}

#[tokio::test]
async fn api_md_is_what_the_admin_api_says_of_itself() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let (code, _, text) = lab.send("GET /api/v1/openapi.json", "", "").await;
        assert_eq!(code, 200);
        expect_file!["../../../../docs/api.md"]
            .assert_eq(&page(&serde_json::from_str(&text).unwrap()));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

/// The first words of commands that are tried elsewhere: they start, end or replace processes, read files, need the kernel, wait for what does
/// not come here, or have a terminal of their own.
const ELSEWHERE: [&str; 18] = [
    "run",
    "decap",
    "stop",
    "upgrade",
    "doctor",
    "top",
    "trace",
    "capture",
    "explain",
    "check",
    "plan",
    "convert",
    "import",
    "wait",
    "schema",
    "man",
    "completions",
    "help",
];

#[tokio::test]
async fn commands_that_documents_show_are_taken_by_an_instance() {
    let text = "
[[service]]
name = \"web\"
listen = { interfaces = [\"eth0\"], address = \"203.0.113.10\", port = 80 }
backends = [{ address = \"10.0.0.11:8080\" }, { address = \"10.0.0.12:8080\" }, { address = \"10.0.0.13:8080\" }]
[service.breaker]
";
    let (driver, lab) = Lab::start(text).await;
    run(driver, async {
        let (mut taken, mut wrong) = (0, Vec::new());
        for document in Document::all() {
            for (line, command) in shown(&document) {
                for words in ours(&command) {
                    let line = format!("{}:{line}: {command}", document.path);
                    match lab.refusal(words).await {
                        Some(None) => taken += 1,
                        Some(Some(said)) => wrong.push(format!("{line}\n{said}")),
                        None => {}
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(taken > 50, "{taken}");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

fn shown(document: &Document) -> Vec<(usize, String)> {
    let typed = |step| match step {
        Step::Type { line, command, .. } => Some((line, command)),
        Step::Write { .. } => None,
    };
    document.steps().into_iter().filter_map(typed).collect()
}

impl Lab {
    /// Why the instance refuses a command as wrong, if it does; none where it is not tried here.
    async fn refusal(&self, mut words: Vec<String>) -> Option<Option<String>> {
        let first = words
            .iter()
            .skip(1)
            .find(|word| !word.starts_with('-') && !["edge", "default"].contains(&&***word));
        let first = first.cloned().unwrap_or_default();
        let has_file = words
            .iter()
            .skip(1)
            .any(|word| word.contains(".toml") || word.contains(".yaml") || word.contains('$'));
        let is_of_network = first == "dns" && words.iter().any(|word| word == "lookup");
        let goes_on =
            words.iter().any(|word| word == "--follow" || word == "--watch" || word == "-w");
        if ELSEWHERE.contains(&&*first) || has_file || is_of_network || goes_on {
            return None;
        }
        if first == "probe" {
            // Nobody is there: the answer is a bad one, and the keys are right.
            words
                .iter_mut()
                .filter(|word| word.starts_with("10.0.0."))
                .for_each(|word| *word = "127.0.0.1:1".to_owned());
        }
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_equipoise"));
        command.arg("--socket").arg(self.path("test.sock")).args(&words[1..]);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // Its backends are made of memory, and nothing checks them.
        let is_unchecked = said.contains("has no health check");
        let is_taken = matches!(output.status.code(), Some(0 | 1 | 3 | 5)) || is_unchecked;
        Some((!is_taken).then(|| said.into_owned()))
    }
}
