//! What is otherwise between two running configurations, key by key.
//!
//! Services are the same by their names, backends by their addresses and routes by their sources or their first names, wherever they stand in the file.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::status::history::Difference;

/// What tells the items of a list apart, the first that all of them have.
const IDENTITIES: [&str; 4] = ["name", "address", "source", "names"];

/// What is otherwise, in the order of the keys.
pub fn differences(before: &Value, after: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(String::new(), (Some(before), Some(after)), &mut found);
    found
}

fn compare(key: String, sides: (Option<&Value>, Option<&Value>), found: &mut Vec<Difference>) {
    let (before, after) = sides;
    if before == after {
        return;
    }
    match (before, after) {
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
            for name in names {
                let dot = if key.is_empty() { "" } else { "." };
                let key = format!("{key}{dot}{name}");
                compare(key, (before.get(name), after.get(name)), found);
            }
        }
        (Some(Value::Array(one)), Some(Value::Array(other))) if identity(one, other).is_some() => {
            let identity = identity(one, other).unwrap_or_default();
            let name = |item: &Value| match &item[identity] {
                Value::Array(names) if identity == "names" => {
                    names.first().map(in_words).unwrap_or_default()
                }
                value => in_words(value),
            };
            let names: Vec<_> = one.iter().chain(other).map(name).collect();
            let mut told = BTreeSet::new();
            for wanted in names.iter().filter(|wanted| told.insert(*wanted)) {
                let of = |items: &[Value]| items.iter().find(|item| name(item) == *wanted).cloned();
                let (before, after) = (of(one), of(other));
                compare(format!("{key}[{wanted}]"), (before.as_ref(), after.as_ref()), found);
            }
        }
        (before, after) => {
            found.push(Difference { key, before: before.cloned(), after: after.cloned() });
        }
    }
}

fn identity(one: &[Value], other: &[Value]) -> Option<&'static str> {
    let is_of = |key: &&str| one.iter().chain(other).all(|item| item.get(*key).is_some());
    let is_any = !one.is_empty() || !other.is_empty();
    IDENTITIES.into_iter().find(is_of).filter(|_| is_any)
}

fn in_words(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn items_are_told_by_their_names_wherever_they_stand() {
        let backend = |address: &str, weight: u32| json!({ "address": address, "weight": weight });
        let service =
            |name: &str, backends: &[Value]| json!({ "name": name, "backends": backends });
        let (one, two) = (backend("10.0.0.1:80", 1), backend("10.0.0.2:80", 1));
        let before = json!({
            "service": [service("web", &[one.clone(), two.clone()]), service("old", &[])],
            "settings": { "events": true },
        });
        let after = json!({
            "service": [service("new", &[]), service("web", &[two, backend("10.0.0.1:80", 5)])],
            "settings": { "events": true },
        });
        let found = differences(&before, &after);
        let told: Vec<_> = found.iter().map(|found| &*found.key).collect();
        assert_eq!(
            told,
            ["service[web].backends[10.0.0.1:80].weight", "service[old]", "service[new]"]
        );
        assert_eq!((&found[0].before, &found[0].after), (&Some(json!(1)), &Some(json!(5))));
        assert_eq!((&found[1].after, &found[2].before), (&None, &None));
        assert_eq!(differences(&before, &before), []);
    }

    #[test]
    fn routes_by_name_are_told_by_their_first_names() {
        let route = |names: &[&str], weight: u32| json!({ "names": names, "backends": [{ "address": "10.0.0.1:80", "weight": weight }] });
        let before = json!({ "name_route": [route(&["a", "b"], 1), route(&["c"], 1)] });
        let after = json!({ "name_route": [route(&["c"], 2), route(&["a", "d"], 1)] });
        let told: Vec<_> = differences(&before, &after).into_iter().map(|d| d.key).collect();
        assert_eq!(told, ["name_route[a].names", "name_route[c].backends[10.0.0.1:80].weight"]);
    }
}
