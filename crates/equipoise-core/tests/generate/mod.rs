//! Configurations at random, from the list of keys: any key, any value of its kind, and what the check says of keys together put right.
//!
//! A key that is new in the list is in them without a word here, as long as it asks nothing of others.

use std::time::Duration;

use equipoise_core::config::keys::{Absent, Kind, Table, all};
use proptest::prelude::*;
use proptest::strategy::Union;
use serde_json::{Map, Value, json};

/// A configuration that passes the check, as JSON.
pub(crate) fn configuration() -> BoxedStrategy<Value> {
    let names = prop::collection::vec("[a-z\"\\\\é${} .#-]{1,8}", 4);
    (table(all()[0], &["include", "settings"]), prop::option::of(table(settings(), &[])), names)
        .prop_map(|(mut file, settings, names)| {
            if let Some(settings) = settings {
                file["settings"] = settings;
            }
            settle(&mut file, &names);
            file
        })
        .boxed()
}

fn settings() -> &'static Table {
    match all()[0].key("settings").unwrap().kind {
        Kind::Table(table) => table,
        _ => panic!("no table"),
    }
}

/// Any keys of a table, and those that it needs.
fn table(table: &'static Table, without: &'static [&'static str]) -> BoxedStrategy<Value> {
    let keys = table.keys.iter().filter(move |key| !without.contains(&key.name));
    let fields: Vec<_> = keys
        .map(|key| {
            let name = key.name.to_owned();
            let value = value(&key.kind);
            let value = match key.absent {
                Absent::Required => value.prop_map(Some).boxed(),
                Absent::Value(_) | Absent::Words(_) => prop::option::weighted(0.3, value).boxed(),
            };
            value.prop_map(move |value| Some((name.clone(), value?)))
        })
        .collect();
    fields
        .prop_map(|fields| Value::Object(fields.into_iter().flatten().collect::<Map<_, _>>()))
        .boxed()
}

fn value(kind: &'static Kind) -> BoxedStrategy<Value> {
    match kind {
        Kind::Boolean => any::<bool>().prop_map(Value::Bool).boxed(),
        &Kind::Number(least, most) => {
            let near = least..=most.min(least.saturating_add(9));
            prop_oneof![Just(least), Just(most), near, least..=most].prop_map(Value::from).boxed()
        }
        &Kind::Decimal(least, most) => prop_oneof![Just(least), Just(most), least..=most]
            .prop_map(|millionths| json!(f64::from(millionths) / 1e6))
            .boxed(),
        &Kind::Duration(least, most) => {
            let (first, last) = (least.as_millis() as u64, most.as_millis() as u64);
            let near = first..=last.min(first + 100_000);
            prop_oneof![Just(first), Just(last), near, first..=last]
                .prop_map(|ms| {
                    humantime::format_duration(Duration::from_millis(ms)).to_string().into()
                })
                .boxed()
        }
        Kind::Word(words) => prop::sample::select(*words).prop_map(Value::from).boxed(),
        Kind::Text(form) => prop::sample::select(form.examples).prop_map(Value::from).boxed(),
        Kind::List(list) => {
            let least = list.least as usize;
            prop::collection::vec(value(&list.of), least..=least + 2).prop_map(Value::from).boxed()
        }
        Kind::Table(inner) => table(inner, &[]),
        Kind::Names(names) => {
            let name = prop::sample::select(names.name.examples).prop_map(str::to_owned);
            prop::collection::btree_map(name, value(&names.of), 0..3)
                .prop_map(|map| json!(map))
                .boxed()
        }
        Kind::Either(kinds) => Union::new(kinds.iter().map(value)).boxed(),
    }
}

/// Puts right what keys ask of each other.
fn settle(file: &mut Value, names: &[String]) {
    if let Some(settings) = file.get_mut("settings") {
        checks(settings);
        if settings.get("backend-interfaces").is_some_and(Value::is_array) {
            settings["backend-interfaces"] = json!(["eth8", "eth0.9"]);
        }
    }
    if let Some(log) = file.get_mut("settings").and_then(|settings| settings.get_mut("access-log"))
    {
        // It goes somewhere, and there is something to be written.
        log["path"] = json!("/var/log/equipoise/access.log");
        file["settings"]["events"] = json!(true);
    }
    let dns = file.get_mut("settings").and_then(|settings| settings.get_mut("dns"));
    if let Some(dns) = dns.and_then(Value::as_object_mut) {
        // No range that is none, and no resolver twice.
        if dns.contains_key("min-ttl") && dns.contains_key("max-ttl") {
            dns.insert("max-ttl".to_owned(), json!("1day"));
        }
        let resolvers = dns.get_mut("resolvers").and_then(Value::as_array_mut);
        resolvers.into_iter().for_each(|resolvers| resolvers.truncate(1));
    }
    let otlp = file.get_mut("settings").and_then(|settings| settings.get_mut("otlp"));
    if let Some(otlp) = otlp.and_then(Value::as_object_mut) {
        // What is secret is not written out again.
        otlp.remove("headers");
    }
    let admin = file.get_mut("settings").and_then(|settings| settings.get_mut("admin"));
    let keys = admin.and_then(|admin| admin.get_mut("keys")).and_then(Value::as_array_mut);
    for (index, key) in keys.into_iter().flatten().enumerate() {
        key["name"] = json!(format!("key-{index}"));
        // A key in the file itself is not written out again.
        let key = key.as_object_mut().unwrap();
        key.remove("key");
        key.entry("key-file").or_insert(json!("/etc/k"));
    }
    // Commands are checks only where that is said.
    file["settings"]["exec-checks"] = json!(true);
    // Backends that step in are of services.
    if let Some(panic) = file["settings"].get_mut("panic").and_then(Value::as_object_mut) {
        panic.remove("fallback-backends");
        if panic.get("policy").is_some_and(|policy| policy == "fallback") {
            panic.remove("policy");
        }
    }
    let services = file["service"].as_array_mut().unwrap();
    for (index, service) in services.iter_mut().enumerate() {
        let name = names.get(index).map_or("", String::as_str);
        service["name"] = json!(format!("{name}{index}"));
        settle_service(service, index);
    }
}

fn settle_service(service: &mut Value, index: usize) {
    // No two services meet.
    service["listen"]["interfaces"] = json!([format!("eth{index}"), format!("br-{index}.7")]);
    let vip =
        service["listen"].get("address").map(|address| address.as_str().unwrap().contains(':'));
    match vip {
        Some(true) => service["listen"]["address"] = json!(format!("2001:db8::10:{index}")),
        Some(false) => service["listen"]["address"] = json!(format!("203.0.113.{index}")),
        None => {
            service.as_object_mut().unwrap().remove("manage-address");
        }
    }
    if let Some(ports) = service["listen"]["port"].as_array_mut() {
        *ports = vec![json!(80), json!(443)];
    }
    if let Some(addresses) = service.get_mut("snat-addresses").and_then(Value::as_array_mut) {
        addresses.dedup();
    }
    checks(service);
    let limits = service.get_mut("limits").and_then(Value::as_object_mut);
    for table in limits.into_iter().flat_map(|limits| limits.values_mut()) {
        if table.is_object() && table.get("rate").is_none() {
            table["rate"] = json!(7);
        }
    }
    let mode = service.get("mode").and_then(Value::as_str).unwrap_or("nat").to_owned();
    let keeps_packets = matches!(mode.as_str(), "dsr" | "ipip" | "gue");
    let v6 = (mode == "dsr").then_some(vip).flatten();
    backends(&mut service["backends"], 0, keeps_packets, v6);
    let routes = service.get_mut("source-route").and_then(Value::as_array_mut);
    for (position, route) in routes.into_iter().flatten().enumerate() {
        route["source"] = match position {
            0 if index.is_multiple_of(2) => json!("192.168.0.0/16"),
            0 => json!(["office.internal", "192.168.0.0/16"]),
            other => json!([format!("172.16.{other}.0/24"), format!("2001:db8:{other}::/48")]),
        };
        checks(route);
        backends(&mut route["backends"], 0, keeps_packets, v6);
        settle_panic(route, 8, (keeps_packets, v6));
    }
    let is_udp = service["listen"].get("protocol").is_some_and(|protocol| protocol == "udp");
    let is_streamed = !keeps_packets && !is_udp;
    if !is_streamed {
        service.as_object_mut().unwrap().remove("name-route");
    }
    let routes = service.get_mut("name-route").and_then(Value::as_array_mut);
    for (position, route) in routes.into_iter().flatten().enumerate() {
        let names = [format!("{position}.Example.com"), format!("*.{position}.a_b.example")];
        let count = route["names"].as_array().unwrap().len().min(2);
        route["names"] = json!(names[..count]);
        checks(route);
        backends(&mut route["backends"], 0, keeps_packets, v6);
        settle_panic(route, 7, (keeps_packets, v6));
    }
    settle_panic(service, 9, (keeps_packets, v6));
    if !is_streamed {
        tell_nobody(service);
    }
}

/// Backends are told nothing where packets go on as they are.
fn tell_nobody(value: &mut Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.remove("proxy-protocol");
        fields.values_mut().for_each(tell_nobody);
    } else if let Some(items) = value.as_array_mut() {
        items.iter_mut().for_each(tell_nobody);
    }
}

/// Backends that step in are there where they are asked for, and nowhere else.
fn settle_panic(of: &mut Value, network: usize, (keeps_packets, v6): (bool, Option<bool>)) {
    let Some(panic) = of.get_mut("panic") else { return };
    let falls_back = panic.get("policy").is_some_and(|policy| policy == "fallback");
    if !falls_back {
        panic.as_object_mut().unwrap().remove("fallback-backends");
        return;
    }
    if panic.get("fallback-backends").is_none() {
        panic["fallback-backends"] = json!([{ "address": "10.0.0.1" }]);
    }
    backends(&mut panic["fallback-backends"], network, keeps_packets, v6);
}

/// Addresses that are no others', weights that are not all 0.
fn backends(list: &mut Value, network: usize, keeps_packets: bool, only_v6: Option<bool>) {
    for (index, backend) in list.as_array_mut().unwrap().iter_mut().enumerate() {
        let written = backend["address"].as_str().unwrap_or_default().to_owned();
        let is_v6 = only_v6.unwrap_or(written.matches(':').count() > 1);
        let host = index + 1;
        let has_port = written.contains("80") && !keeps_packets;
        let fields = backend.as_object_mut().unwrap();
        let is_named = fields.remove("host").is_some();
        let is_srv = fields.remove("srv").is_some() && !keeps_packets;
        if is_named || is_srv {
            fields.remove("address");
            if is_srv || keeps_packets {
                fields.remove("port");
            }
            let name = format!("host-{network}.{host}.internal");
            if is_srv {
                backend["srv"] = json!(format!("_http._tcp.{name}"));
            } else {
                backend["host"] = json!(name);
            }
        } else {
            fields.remove("port");
            fields.remove("refresh");
            backend["address"] = json!(match (is_v6, has_port) {
                (false, false) => format!("10.{network}.0.{host}"),
                (false, true) => format!("10.{network}.0.{host}:8080"),
                (true, false) => format!("2001:db8:{network}::{host}"),
                (true, true) => format!("[2001:db8:{network}::{host}]:8080"),
            });
        }
        if index == 0 && backend.get("weight").is_some_and(|weight| weight == 0) {
            backend["weight"] = json!(1);
        }
        checks(backend);
    }
}

/// What a check needs is with it.
fn checks(of: &mut Value) {
    let Some(check) = of.get_mut("health-check") else { return };
    // Some backends have no port.
    check["port"] = json!(8081);
    match check.get("type").and_then(Value::as_str) {
        Some("dns") => check["query"] = json!("example.com"),
        Some("exec") => check["command"] = json!(["/bin/true", "-x y"]),
        _ => {}
    }
    if check.get("client-certificate").is_some() || check.get("client-key").is_some() {
        check["client-certificate"] = json!("/etc/c.pem");
        check["client-key"] = json!("/etc/k.pem");
    }
    if check.get("command").is_some() {
        check["command"] = json!(["/bin/true", "\"quoted\""]);
    }
}
