//! The JSON Schema of a configuration, made from the list of keys.
//!
//! For editors, and for programs that write configurations. It says of each key by itself what the check says; what the check says
//! of keys together, and of texts beyond their kind, it does not know. A text with `${NAME}` is let pass anywhere.

use serde_json::{Map, Value, json};

use super::keys::{Absent, Key, Kind, List, Table, all};

/// The schema (draft 2020-12), of JSON and of TOML and YAML alike.
pub fn schema() -> Value {
    let tables = all();
    let mut definitions = Map::new();
    let mut root = Value::Null;
    for (position, table) in tables.iter().enumerate() {
        let described = describe(table);
        if position == 0 {
            root = described;
        } else {
            definitions.insert(name(table), described);
        }
    }
    definitions.insert(VARIABLE.to_owned(), json!({ "type": "string", "pattern": "\\$\\{" }));
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("Configuration of Equipoise");
    root["$defs"] = Value::Object(definitions);
    root
}

const VARIABLE: &str = "variable";

/// Tables are known by where they stand: `` an entry of `backends` `` is `backends`.
fn name(table: &Table) -> String {
    table.home.split('`').nth(1).unwrap_or(table.home).to_owned()
}

fn describe(table: &Table) -> Value {
    let property = |key: &Key| {
        let mut property = kind(&key.kind);
        property["description"] = json!(key.doc);
        if let Absent::Value(text) = key.absent
            && let Some(value) = default(text)
        {
            property["default"] = value;
        }
        (key.name.to_owned(), property)
    };
    let required = table.keys.iter().filter(|key| key.absent == Absent::Required);
    // Parts of a whole may be in files that are included.
    let is_file = table.keys.iter().any(|key| key.name == "include");
    let required: Vec<_> = required.map(|key| key.name).filter(|_| !is_file).collect();
    let mut described = json!({
        "type": "object",
        "description": table.doc,
        "properties": table.keys.iter().map(property).collect::<Map<_, _>>(),
        "additionalProperties": false,
    });
    if !required.is_empty() {
        described["required"] = json!(required);
    }
    described
}

/// The value of a default, which is written as in TOML.
fn default(text: &str) -> Option<Value> {
    let mut table: Map<String, Value> = toml::from_str(&format!("value = {text}")).ok()?;
    table.remove("value")
}

fn kind(of: &Kind) -> Value {
    let variable = json!({ "$ref": format!("#/$defs/{VARIABLE}") });
    match of {
        Kind::Boolean => json!({ "anyOf": [{ "type": "boolean" }, variable] }),
        Kind::Number(least, most) => {
            let number = json!({ "type": "integer", "minimum": least, "maximum": most });
            json!({ "anyOf": [number, variable] })
        }
        Kind::Decimal(least, most) => {
            let [least, most] = [least, most].map(|millionths| f64::from(*millionths) / 1e6);
            let number = json!({ "type": "number", "minimum": least, "maximum": most });
            json!({ "anyOf": [number, variable] })
        }
        Kind::Duration(least, most) => json!({
            "type": "string",
            "format": "duration-in-words",
            "$comment": format!("{} to {}", words(*least), words(*most)),
        }),
        Kind::Word(words) => json!({ "anyOf": [{ "enum": words }, variable] }),
        Kind::Text(form) => json!({
            "type": "string",
            "$comment": form.words,
            "examples": form.examples,
        }),
        Kind::List(List { of, least, most }) => {
            let mut list = json!({ "type": "array", "items": kind(of) });
            if *least > 0 {
                list["minItems"] = json!(least);
            }
            if let Some(most) = most {
                list["maxItems"] = json!(most);
            }
            list
        }
        Kind::Table(table) => json!({ "$ref": format!("#/$defs/{}", name(table)) }),
        Kind::Names(names) => json!({
            "type": "object",
            "propertyNames": { "$comment": names.name.words },
            "additionalProperties": kind(&names.of),
        }),
        Kind::Either(kinds) => json!({ "anyOf": kinds.iter().map(kind).collect::<Vec<_>>() }),
    }
}

fn words(duration: std::time::Duration) -> String {
    humantime::format_duration(duration).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn tables_have_names_of_their_own() {
        let names: BTreeSet<_> = all().into_iter().map(name).collect();
        assert_eq!(names.len(), all().len());
    }

    #[test]
    fn every_key_is_described_and_every_reference_leads_somewhere() {
        let schema = schema();
        let of = |table: &str, key: &str| schema["$defs"][table]["properties"][key].clone();
        assert_eq!(of("breaker", "min-requests")["anyOf"][0]["maximum"], 10_000);
        assert_eq!(of("settings", "max-flows")["default"], 1_000_000);
        assert_eq!(of("service", "affinity-prefix")["default"], json!({ "v4": 32, "v6": 128 }));
        assert_eq!(schema["properties"]["service"]["items"]["$ref"], "#/$defs/service");
        assert_eq!(schema["$defs"]["listen"]["required"], json!(["interfaces", "port"]));
        let text = schema.to_string();
        for reference in text.split("\"$ref\":\"#/$defs/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schema["$defs"].get(name).is_some(), "{name}");
        }
        for table in all() {
            for key in table.keys {
                assert!(
                    matches!(key.absent, Absent::Value(text) if default(text).is_some())
                        || !matches!(key.absent, Absent::Value(_)),
                    "{}",
                    key.name
                );
            }
        }
    }
}
