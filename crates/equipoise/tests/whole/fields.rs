//! Every field that a request of the admin API has: set to something else than what holds without it, and seen to do what it says.
//!
//! Fields are those of the API's own description, and keys of a service are those of the list that the check reads: one that is new and has no
//! row here is a failed test. A row names the test that sets the field; what no other test sets is set below.

use std::collections::BTreeSet;
use std::path::Path;

use equipoise::running_config;
use equipoise::status::change::AddRequest;
use equipoise::status::health::{BackendName, HealthWord, Word};
use equipoise::status::{BackendStatus, PoolStatus};
use equipoise_core::config::keys::{Kind, Table, all};
use equipoise_core::config::parse;

use super::*;
use operate::FIRST;

/// A field, `Request.field` or `METHOD /path?parameter`, and the test that sets it: a file of this folder, and its name.
type Row = (&'static str, &'static str);

const FIELDS: &[Row] = &[
    ("If-Match", "api.rs change_is_made_only_to_the_configuration_that_it_is_for"),
    (
        "AddRequest.address",
        "changes.rs backend_is_added_and_removed_and_keeps_its_flows_and_others_theirs",
    ),
    ("AddRequest.weight", "fields.rs backend_is_added_with_all_that_can_be_said_of_it"),
    ("AddRequest.route", "fields.rs backend_is_added_with_all_that_can_be_said_of_it"),
    ("AddRequest.max_flows", "fields.rs backend_is_added_with_all_that_can_be_said_of_it"),
    ("AddRequest.backup", "fields.rs backend_is_added_with_all_that_can_be_said_of_it"),
    (
        "WeightRequest.weight",
        "changes.rs weight_is_in_the_maps_when_that_is_answered_and_none_is_no_new_flow",
    ),
    ("WeightRequest.route", "fields.rs backend_is_added_with_all_that_can_be_said_of_it"),
    (
        "Addresses.protocol",
        "../traffic/explain.rs what_is_told_of_addresses_is_where_the_connection_then_goes",
    ),
    (
        "Addresses.source",
        "../traffic/explain.rs what_is_told_of_addresses_is_where_the_connection_then_goes",
    ),
    (
        "Addresses.destination",
        "../traffic/explain.rs what_is_told_of_addresses_is_where_the_connection_then_goes",
    ),
    (
        "ExplainRequest.packet",
        "../traffic/explain.rs what_is_told_of_addresses_is_where_the_connection_then_goes",
    ),
    (
        "ExplainRequest.hex",
        "../traffic/explain.rs a_packet_is_explained_by_what_the_live_program_does_and_nothing_changes",
    ),
    (
        "ExplainRequest.in",
        "../traffic/explain.rs a_packet_is_explained_by_what_the_live_program_does_and_nothing_changes",
    ),
    ("ExplainRequest.sni", "../traffic/streams.rs a_name_leads_to_its_backend_however_it_comes"),
    ("BreakerRequest.service", "operate.rs breakers_are_turned_by_hand"),
    ("BreakerRequest.backend", "operate.rs breakers_are_turned_by_hand"),
    ("BreakerRequest.action", "operate.rs breakers_are_turned_by_hand"),
    ("BreakerRequest.route", "fields.rs what_is_said_of_a_route_is_of_its_pool_alone"),
    (
        "DenyRequest.service",
        "limits.rs what_is_denied_until_a_time_is_let_in_again_then_by_this_process_or_the_next",
    ),
    (
        "DenyRequest.for_seconds",
        "limits.rs what_is_denied_until_a_time_is_let_in_again_then_by_this_process_or_the_next",
    ),
    (
        "DrainRequest.backends",
        "operate.rs drained_backend_is_in_no_slot_when_that_is_answered_and_comes_back",
    ),
    (
        "DrainRequest.timeout",
        "operate.rs time_runs_out_and_flows_are_reset_where_that_is_asked_for",
    ),
    (
        "DrainRequest.on_timeout",
        "operate.rs time_runs_out_and_flows_are_reset_where_that_is_asked_for",
    ),
    (
        "DrainRequest.force",
        "operate.rs last_backend_is_drained_with_a_warning_and_serves_on_unless_that_is_forced",
    ),
    ("DrainRequest.wait", "operate.rs who_waits_is_answered_when_the_last_flow_has_ended"),
    (
        "Selection.service",
        "operate.rs drained_backend_is_in_no_slot_when_that_is_answered_and_comes_back",
    ),
    (
        "Selection.backend",
        "operate.rs drained_backend_is_in_no_slot_when_that_is_answered_and_comes_back",
    ),
    ("Selection.route", "fields.rs what_is_said_of_a_route_is_of_its_pool_alone"),
    ("Selection.host", "operate.rs whole_host_is_drained_and_undrained_at_once"),
    (
        "Selection.self",
        "metrics.rs a_balancer_that_is_drained_or_misses_an_interface_is_alive_and_not_ready",
    ),
    ("HealthWord.state", "health.rs operators_word_is_in_force_when_it_is_answered"),
    ("HealthWord.for_seconds", "health.rs operators_word_is_in_force_when_it_is_answered"),
    ("HealthWord.route", "fields.rs what_is_said_of_a_route_is_of_its_pool_alone"),
    ("PlanRequest.name", "../whole_program.rs plan_tells_the_steps_and_changes_nothing"),
    ("PlanRequest.text", "../whole_program.rs plan_tells_the_steps_and_changes_nothing"),
    (
        "RateRequest.rate",
        "limits.rs rates_are_in_the_maps_when_that_is_answered_and_outlive_reload_and_process",
    ),
    (
        "RateRequest.burst",
        "limits.rs rates_are_in_the_maps_when_that_is_answered_and_outlive_reload_and_process",
    ),
    (
        "ReloadRequest.file",
        "changes.rs reload_tells_what_is_otherwise_and_what_is_wrong_with_its_place",
    ),
    ("ReloadRequest.reset", "api.rs services_are_given_and_taken_away_as_a_file_would_have_them"),
    (
        "ReloadRequest.confirm_seconds",
        "files.rs what_nobody_confirms_goes_again_and_what_somebody_does_stays",
    ),
    (
        "UpgradeRequest.binary",
        "../traffic/restart.rs connections_outlive_an_upgrade_and_a_rollback",
    ),
    (
        "POST /api/v1/services *",
        "fields.rs every_key_of_a_service_does_by_the_api_what_it_does_in_a_file",
    ),
    (
        "PUT /api/v1/services/{service} *",
        "fields.rs every_key_of_a_service_does_by_the_api_what_it_does_in_a_file",
    ),
    (
        "GET /api/v1/breakers?service",
        "fields.rs questions_about_one_service_are_answered_for_it_alone",
    ),
    (
        "GET /api/v1/health?service",
        "fields.rs questions_about_one_service_are_answered_for_it_alone",
    ),
    (
        "GET /api/v1/limits?service",
        "fields.rs questions_about_one_service_are_answered_for_it_alone",
    ),
    (
        "DELETE /api/v1/deny/{prefix}?service",
        "limits.rs what_is_denied_until_a_time_is_let_in_again_then_by_this_process_or_the_next",
    ),
    (
        "DELETE /api/v1/drains?service",
        "operate.rs drained_backend_is_in_no_slot_when_that_is_answered_and_comes_back",
    ),
    (
        "DELETE /api/v1/drains?backend",
        "operate.rs drained_backend_is_in_no_slot_when_that_is_answered_and_comes_back",
    ),
    ("DELETE /api/v1/drains?route", "fields.rs what_is_said_of_a_route_is_of_its_pool_alone"),
    ("DELETE /api/v1/drains?host", "operate.rs whole_host_is_drained_and_undrained_at_once"),
    (
        "DELETE /api/v1/drains?self",
        "metrics.rs a_balancer_that_is_drained_or_misses_an_interface_is_alive_and_not_ready",
    ),
    (
        "DELETE /api/v1/drains?gradual",
        "operate.rs undrained_backend_gets_its_share_bit_by_bit_where_that_is_asked_for",
    ),
    (
        "GET /api/v1/events?follow",
        "events.rs last_events_are_there_for_who_asks_later_from_any_number_on",
    ),
    (
        "GET /api/v1/events?after",
        "events.rs last_events_are_there_for_who_asks_later_from_any_number_on",
    ),
    (
        "GET /api/v1/flows?service",
        "../whole_program.rs flows_are_listed_by_service_backend_and_client",
    ),
    (
        "GET /api/v1/flows?backend",
        "../whole_program.rs flows_are_listed_by_service_backend_and_client",
    ),
    (
        "GET /api/v1/flows?client",
        "../whole_program.rs flows_are_listed_by_service_backend_and_client",
    ),
    ("GET /api/v1/flows?limit", "api.rs flows_come_page_by_page"),
    ("GET /api/v1/flows?offset", "api.rs flows_come_page_by_page"),
    (
        "GET /api/v1/flows/events?service",
        "flow_events.rs a_follower_gets_what_opens_and_closes_from_then_on_and_only_what_it_wants",
    ),
    (
        "GET /api/v1/flows/events?backend",
        "flow_events.rs a_follower_gets_what_opens_and_closes_from_then_on_and_only_what_it_wants",
    ),
    (
        "GET /api/v1/flows/events?client",
        "flow_events.rs a_follower_gets_what_opens_and_closes_from_then_on_and_only_what_it_wants",
    ),
    (
        "GET /api/v1/flows/events?for_seconds",
        "flow_events.rs what_is_followed_for_a_time_ends_with_it",
    ),
    ("DELETE /api/v1/flows?service", "pools.rs flows_are_ended_that_are_asked_for_and_no_others"),
    ("DELETE /api/v1/flows?backend", "pools.rs flows_are_ended_that_are_asked_for_and_no_others"),
    ("DELETE /api/v1/flows?client", "pools.rs flows_are_ended_that_are_asked_for_and_no_others"),
    ("DELETE /api/v1/flows?all", "pools.rs flows_are_ended_that_are_asked_for_and_no_others"),
    ("DELETE /api/v1/flows?reset", "pools.rs flows_are_ended_that_are_asked_for_and_no_others"),
    (
        "DELETE /api/v1/services/{service}/backends/{backend}?route",
        "fields.rs backend_is_added_with_all_that_can_be_said_of_it",
    ),
    (
        "POST /api/v1/services/{service}/backends/{backend}/health/check?route",
        "fields.rs what_is_said_of_a_route_is_of_its_pool_alone",
    ),
    (
        "GET /api/v1/services/{service}/pools?route",
        "fields.rs what_is_said_of_a_route_is_of_its_pool_alone",
    ),
    (
        "POST /api/v1/services/{service}/pools/recompute?route",
        "fields.rs what_is_said_of_a_route_is_of_its_pool_alone",
    ),
    (
        "GET /api/v1/top-talkers?service",
        "../traffic/talkers.rs sources_with_most_are_those_that_have_sent_most",
    ),
    (
        "GET /api/v1/top-talkers?by",
        "../traffic/talkers.rs sources_with_most_are_those_that_have_sent_most",
    ),
    (
        "GET /api/v1/top-talkers?limit",
        "../traffic/talkers.rs sources_with_most_are_those_that_have_sent_most",
    ),
    (
        "GET /api/v1/top-talkers/dropped?service",
        "../traffic/talkers.rs sources_with_most_are_those_that_have_sent_most",
    ),
    (
        "GET /api/v1/top-talkers/dropped?for_seconds",
        "../traffic/talkers.rs sources_with_most_are_those_that_have_sent_most",
    ),
    (
        "GET /api/v1/top-talkers/dropped?limit",
        "../traffic/talkers.rs sources_with_most_are_those_that_have_sent_most",
    ),
    (
        "GET /api/v1/trace?service",
        "../traffic/traced.rs packets_are_told_of_as_they_came_and_as_they_left",
    ),
    (
        "GET /api/v1/trace?reason",
        "../traffic/traced.rs packets_are_told_of_as_they_came_and_as_they_left",
    ),
    (
        "GET /api/v1/trace?rate",
        "../traffic/traced.rs packets_are_told_of_as_they_came_and_as_they_left",
    ),
];

/// The fields of a schema, and of those that are in it.
fn fields(document: &Value, schema: &Value, name: &str, found: &mut BTreeSet<String>) {
    if let Some(part) = schema["$ref"].as_str() {
        let name = part.rsplit('/').next().unwrap();
        let schema = &document["components"]["schemas"][name];
        return fields(document, schema, name, found);
    }
    for part in ["oneOf", "anyOf", "allOf"] {
        for schema in schema[part].as_array().into_iter().flatten() {
            fields(document, schema, name, found);
        }
    }
    if schema["items"].is_object() {
        fields(document, &schema["items"], name, found);
    }
    for (field, inner) in schema["properties"].as_object().into_iter().flatten() {
        found.insert(format!("{name}.{field}"));
        let before = found.len();
        fields(document, inner, &format!("{name}.{field}"), found);
        assert!(inner["properties"].is_null() || found.len() > before);
    }
}

#[tokio::test]
async fn every_field_of_a_request_has_a_test_that_sets_it() {
    let (driver, lab) = Lab::start(CONFIG).await;
    let mut document = Value::Null;
    run(driver, async {
        document = lab.asked("GET /api/v1/openapi.json", "").await.1;
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    let mut found = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let place = format!("{} {path}", method.to_uppercase());
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap();
                match parameter["in"].as_str().unwrap() {
                    "query" => drop(found.insert(format!("{place}?{name}"))),
                    "header" => drop(found.insert(name.to_owned())),
                    // What it is about, and no field of it.
                    "path" => {}
                    other => panic!("{other}"),
                }
            }
            let body = &operation["requestBody"]["content"]["application/json"]["schema"];
            let before = found.len();
            fields(&document, body, &place, &mut found);
            if body["type"] == "object" && found.len() == before {
                found.insert(format!("{place} *"));
            }
        }
    }
    let rows: BTreeSet<String> = FIELDS.iter().map(|(field, _)| (*field).to_owned()).collect();
    assert_eq!(rows, found);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/whole");
    for (field, test) in FIELDS {
        let (file, name) = test.split_once(' ').unwrap();
        let text = fs::read_to_string(folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(text.contains(&format!("fn {name}(")), "{field}: {file} has no test {name}");
    }
}

const OFFICE: &str = "192.168.0.0/16";

/// With a route of its own for an office, to the first backend too.
fn routed() -> String {
    format!(
        "[settings.breaker]\n{}\n[[service.source-route]]\nsource = \"{OFFICE}\"\n\
         backends = [{{ address = \"{FIRST}\" }}, {{ address = \"10.0.0.3:8080\" }}]\n",
        CONFIG.replace(
            "manage-address",
            "algorithm = 'least-connections-weights'\nhealth-check = { interval = '1h' }\nmanage-address"
        )
    )
}

fn of_office() -> BackendName {
    BackendName {
        service: "web".to_owned(),
        backend: FIRST.to_owned(),
        route: Some(OFFICE.to_owned()),
    }
}

#[tokio::test]
async fn backend_is_added_with_all_that_can_be_said_of_it() {
    let (driver, lab) = Lab::start(&routed()).await;
    run(driver, async {
        let request = AddRequest {
            address: "10.0.0.2:9090".to_owned(),
            weight: 7,
            route: Some(OFFICE.to_owned()),
            max_flows: 5,
            backup: true,
        };
        lab.client.add_backend("web", &request).await.unwrap();
        let config = lab.client.config().await.unwrap();
        let service = &config["service"][0];
        assert_eq!(service["backends"].as_array().map(Vec::len), Some(2), "no other pool has it");
        let added = &service["source_route"][0]["backends"][2];
        let said = ["address", "weight", "max_flows", "backup"].map(|key| added[key].clone());
        assert_eq!(said, [json!("10.0.0.2:9090"), json!(7), json!(5), json!(true)]);
        let in_maps = || {
            let plane = lab.plane.borrow();
            let (_, id) = ids(&plane, "10.0.0.2:9090");
            plane.memory.contents().backends[&id].max_flows
        };
        assert_eq!(in_maps(), 5);
        let pools = async || lab.client.status().await.unwrap().services[0].pools.clone();
        let backup = |pools: &[PoolStatus]| pools[1].backends[2].effective_weight;
        assert_eq!(backup(&pools().await), 0.0, "it stands by");
        for name in [FIRST, "10.0.0.3:8080"] {
            let word = HealthWord { state: Word::Down, for_seconds: None, route: None };
            lab.client
                .set_health(&BackendName { backend: name.to_owned(), ..of_office() }, &word)
                .await
                .unwrap();
        }
        assert_eq!(backup(&pools().await), 7.0, "nobody else is left");
        lab.client.set_weight(&of_office(), 9).await.unwrap();
        let weights = |pools: &[PoolStatus]| {
            [0, 1].map(|pool: usize| pools[pool].backends[0].configured_weight.0)
        };
        assert_eq!(weights(&pools().await), [3.0, 9.0]);
        lab.client.remove_backend(&of_office()).await.unwrap();
        let addresses = |pool: &PoolStatus| pool.backends[0].address.to_string();
        let left: Vec<_> = pools().await.iter().map(addresses).collect();
        assert_eq!(left, [FIRST, "10.0.0.3:8080"]);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_is_said_of_a_route_is_of_its_pool_alone() {
    let (driver, lab) = Lab::start(&routed()).await;
    run(driver, async {
        let first = async |told: fn(&BackendStatus) -> String| {
            let pools = lab.client.status().await.unwrap().services.remove(0).pools;
            [0, 1].map(|pool: usize| told(&pools[pool].backends[0]))
        };
        let drain =
            json!({ "backends": [{ "service": "web", "backend": FIRST, "route": OFFICE }] });
        assert_eq!(lab.asked("POST /api/v1/drains", &drain.to_string()).await.0, 200);
        let draining = |backend: &BackendStatus| backend.draining.to_string();
        assert_eq!(first(draining).await, ["false", "true"]);
        let place = "backend=10.0.0.1%3A8080&service=web";
        let wrong = format!("DELETE /api/v1/drains?{place}&route=default");
        assert_eq!(lab.asked(&wrong, "").await.0, 404);
        let right = format!("DELETE /api/v1/drains?{place}&route=192.168.0.0%2F16");
        assert_eq!(lab.asked(&right, "").await.0, 200);
        assert_eq!(first(draining).await, ["false", "false"]);

        let turn = json!({ "service": "web", "backend": FIRST, "route": OFFICE, "action": "open" });
        assert_eq!(lab.asked("POST /api/v1/breakers", &turn.to_string()).await.0, 200);
        assert_eq!(first(|backend| backend.breaker.to_string()).await, ["closed", "open"]);

        let of_backend = "services/web/backends/10.0.0.1%3A8080";
        let word = json!({ "state": "down", "route": OFFICE }).to_string();
        assert_eq!(lab.asked(&format!("PUT /api/v1/{of_backend}/health"), &word).await.0, 200);
        let health = first(|backend| backend.health.to_string()).await;
        assert!(health[0] != "unhealthy" && health[1] == "unhealthy", "{health:?}");
        let check = format!("POST /api/v1/{of_backend}/health/check?route=192.168.0.0%2F16");
        let (code, checked) = lab.asked(&check, "").await;
        assert_eq!((code, checked.as_array().map(Vec::len)), (200, Some(1)), "{checked}");
        assert_eq!(checked[0]["route"], OFFICE);

        for line in ["GET /api/v1/services/web/pools", "POST /api/v1/services/web/pools/recompute"]
        {
            let (_, all) = lab.asked(line, "").await;
            assert_eq!(all.as_array().map(Vec::len), Some(2), "{all}");
            let (_, one) = lab.asked(&format!("{line}?route=192.168.0.0%2F16"), "").await;
            assert_eq!((one.as_array().map(Vec::len), &one[0]["route"]), (Some(1), &json!(OFFICE)));
        }
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn questions_about_one_service_are_answered_for_it_alone() {
    let mail = CONFIG.replace("\"web\"", "\"mail\"").replace("port = 80 ", "port = 25 ");
    let (driver, lab) = Lab::start(&format!("[settings.breaker]\n{CONFIG}{mail}")).await;
    run(driver, async {
        for (question, list) in [("health", ""), ("breakers", ""), ("limits", "/services")] {
            let told = async |query: &str| {
                let (code, answer) = lab.asked(&format!("GET /api/v1/{question}{query}"), "").await;
                assert_eq!(code, 200, "{answer}");
                let rows = answer.pointer(list).unwrap().as_array().unwrap().clone();
                rows.iter().map(|row| row["service"].as_str().unwrap().to_owned()).collect()
            };
            let all: BTreeSet<String> = told("").await;
            assert_eq!(all, names(["mail", "web"]), "{question}");
            let one: BTreeSet<String> = told("?service=mail").await;
            assert_eq!(one, names(["mail"]), "{question}");
        }
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

/// A key by its table and name, where it stands in the service, and a value that is not what holds without it. What else goes with
/// it is in the same table.
type Given = (&'static str, &'static str, &'static str, fn() -> Value);

/// Keys of services that are tried elsewhere: names, which somebody has to answer.
const NAMED: [&str; 4] = ["host", "srv", "port", "refresh"];

fn given() -> Vec<Given> {
    const CHECK: &str = "/health-check";
    let mut all: Vec<Given> = vec![
        ("`service`", "name", "", || json!({ "name": "web" })),
        (
            "`service`",
            "listen",
            "",
            || json!({ "listen": { "interfaces": ["eth0"], "address": "203.0.113.12", "port": 80 } }),
        ),
        ("`service`", "manage-address", "", || json!({ "manage-address": true })),
        ("`service`", "algorithm", "", || json!({ "algorithm": "random" })),
        ("`service`", "affinity", "", || json!({ "affinity": "source-ip" })),
        ("`service`", "affinity-prefix", "", || json!({ "affinity-prefix": { "v4": 24 } })),
        ("`service`", "mode", "", || json!({ "mode": "full-nat" })),
        (
            "`service`",
            "snat-addresses",
            "",
            || json!({ "mode": "full-nat", "snat-addresses": ["10.0.0.254"] }),
        ),
        ("`service`", "mss-clamp", "", || json!({ "mss-clamp": 1200 })),
        ("`service`", "on-backend-down", "", || json!({ "on-backend-down": "reset" })),
        ("`service`", "on-backend-removed", "", || json!({ "on-backend-removed": "reset" })),
        ("`service`", "on-unknown", "", || json!({ "on-unknown": "drop" })),
        ("`service`", "on-empty", "", || json!({ "on-empty": "drop" })),
        ("`service`", "on-full", "", || json!({ "on-full": "drop" })),
        ("`service`", "fragments", "", || json!({ "fragments": "drop" })),
        ("`service`", "max-flows", "", || json!({ "max-flows": 77 })),
        ("`service`", "timeouts", "", || json!({ "timeouts": { "tcp-closing": "7s" } })),
        ("`service`", "limits", "", || json!({ "limits": { "deny": ["10.9.0.0/16"] } })),
        ("`service`", "health-check", "", || json!({ "health-check": { "type": "tcp" } })),
        ("`service`", "recovery", "", || json!({ "recovery": { "mode": "none" } })),
        ("`service`", "panic", "", || json!({ "panic": { "threshold": 30 } })),
        ("`service`", "breaker", "", || json!({ "breaker": {} })),
        ("`service`", "backends", "", || json!({ "backends": [{ "address": "10.0.0.3:80" }] })),
        (
            "`service`",
            "source-route",
            "",
            || json!({ "source-route": [{ "source": "10.1.0.0/16", "backends": [{ "address": "10.0.0.3:80" }] }] }),
        ),
        (
            "`service`",
            "name-route",
            "",
            || json!({ "name-route": [{ "names": ["c"], "backends": [{ "address": "10.0.0.3:80" }] }] }),
        ),
        ("`listen`", "interfaces", "/listen", || json!({ "interfaces": ["eth0", "eth1"] })),
        ("`listen`", "address", "/listen", || json!({ "address": "203.0.113.13" })),
        ("`listen`", "port", "/listen", || json!({ "port": [80, 81] })),
        ("`listen`", "protocol", "/listen", || json!({ "protocol": "both" })),
        ("`affinity-prefix`", "v4", "/affinity-prefix", || json!({ "v4": 16 })),
        ("`affinity-prefix`", "v6", "/affinity-prefix", || json!({ "v6": 48 })),
        ("`timeouts`", "tcp-opening", "/timeouts", || json!({ "tcp-opening": "3s" })),
        ("`timeouts`", "tcp-established", "/timeouts", || json!({ "tcp-established": "1h" })),
        ("`timeouts`", "tcp-closing", "/timeouts", || json!({ "tcp-closing": "3s" })),
        ("`timeouts`", "udp-one-way", "/timeouts", || json!({ "udp-one-way": "3s" })),
        ("`timeouts`", "udp-two-way", "/timeouts", || json!({ "udp-two-way": "3s" })),
        ("`timeouts`", "reset-on-expiry", "/timeouts", || json!({ "reset-on-expiry": true })),
        ("`limits`", "per-source", "/limits", || json!({ "per-source": { "rate": 5 } })),
        ("`limits`", "per-backend", "/limits", || json!({ "per-backend": { "rate": 5 } })),
        ("`limits`", "allow", "/limits", || json!({ "allow": ["192.0.2.0/24"] })),
        ("`limits`", "deny", "/limits", || json!({ "deny": ["192.0.2.0/24"] })),
        ("`per-source`", "rate", "/limits/per-source", || json!({ "rate": 6 })),
        ("`per-source`", "burst", "/limits/per-source", || json!({ "rate": 6, "burst": 99 })),
        (
            "`per-source`",
            "prefix",
            "/limits/per-source",
            || json!({ "rate": 6, "prefix": { "v4": 24 } }),
        ),
        ("`per-backend`", "rate", "/limits/per-backend", || json!({ "rate": 6 })),
        ("`per-backend`", "burst", "/limits/per-backend", || json!({ "rate": 6, "burst": 99 })),
        ("`prefix`", "v4", "/limits/per-source", || json!({ "rate": 6, "prefix": { "v4": 16 } })),
        ("`prefix`", "v6", "/limits/per-source", || json!({ "rate": 6, "prefix": { "v6": 48 } })),
        ("`health-check`", "type", CHECK, || json!({ "type": "http" })),
        ("`health-check`", "port", CHECK, || json!({ "port": 81 })),
        ("`health-check`", "interval", CHECK, || json!({ "interval": "17s" })),
        ("`health-check`", "timeout", CHECK, || json!({ "timeout": "1s" })),
        ("`health-check`", "fast-interval", CHECK, || json!({ "fast-interval": "1s" })),
        ("`health-check`", "healthy-threshold", CHECK, || json!({ "healthy-threshold": 9 })),
        ("`health-check`", "unhealthy-threshold", CHECK, || json!({ "unhealthy-threshold": 9 })),
        ("`health-check`", "method", CHECK, || json!({ "type": "http", "method": "HEAD" })),
        ("`health-check`", "path", CHECK, || json!({ "type": "http", "path": "/up" })),
        ("`health-check`", "host", CHECK, || json!({ "type": "http", "host": "web.example.com" })),
        (
            "`health-check`",
            "headers",
            CHECK,
            || json!({ "type": "http", "headers": { "X-A": "b" } }),
        ),
        (
            "`health-check`",
            "expected-codes",
            CHECK,
            || json!({ "type": "http", "expected-codes": [204] }),
        ),
        (
            "`health-check`",
            "expected-body",
            CHECK,
            || json!({ "type": "http", "expected-body": "up" }),
        ),
        (
            "`health-check`",
            "follow-redirects",
            CHECK,
            || json!({ "type": "http", "follow-redirects": true }),
        ),
        (
            "`health-check`",
            "server-name",
            CHECK,
            || json!({ "type": "https", "server-name": "web.example.com" }),
        ),
        (
            "`health-check`",
            "ca-file",
            CHECK,
            || json!({ "type": "https", "ca-file": "/nosuch.pem" }),
        ),
        ("`health-check`", "insecure", CHECK, || json!({ "type": "https", "insecure": true })),
        (
            "`health-check`",
            "grpc-service",
            CHECK,
            || json!({ "type": "grpc", "grpc-service": "web" }),
        ),
        ("`health-check`", "tls", CHECK, || json!({ "type": "grpc", "tls": true })),
        ("`health-check`", "send", CHECK, || json!({ "type": "udp", "send": "hex:00" })),
        ("`health-check`", "expect", CHECK, || json!({ "type": "udp", "expect": "x" })),
        ("`health-check`", "query", CHECK, || json!({ "type": "dns", "query": "example.com" })),
        (
            "`health-check`",
            "query-type",
            CHECK,
            || json!({ "type": "dns", "query": "example.com", "query-type": "MX" }),
        ),
        (
            "`health-check`",
            "expected-rcode",
            CHECK,
            || json!({ "type": "dns", "query": "example.com", "expected-rcode": "REFUSED" }),
        ),
        (
            "`health-check`",
            "command",
            CHECK,
            || json!({ "type": "exec", "command": ["/bin/true"] }),
        ),
        ("`recovery`", "mode", "/recovery", || json!({ "mode": "none" })),
        (
            "`recovery`",
            "slow-start",
            "/recovery",
            || json!({ "mode": "linear", "slow-start": "9s" }),
        ),
        ("`panic`", "threshold", "/panic", || json!({ "threshold": 50 })),
        ("`panic`", "policy", "/panic", || json!({ "policy": "none" })),
        (
            "`panic`",
            "fallback-backends",
            "/panic",
            || json!({ "policy": "fallback", "fallback-backends": [{ "address": "10.0.0.3:99" }] }),
        ),
        ("`breaker`", "error-threshold", "/breaker", || json!({ "error-threshold": 9 })),
        ("`breaker`", "min-requests", "/breaker", || json!({ "min-requests": 99 })),
        ("`breaker`", "window", "/breaker", || json!({ "window": "9s" })),
        ("`breaker`", "open-for", "/breaker", || json!({ "open-for": "9s" })),
        ("`breaker`", "half-open-successes", "/breaker", || json!({ "half-open-successes": 9 })),
        ("`breaker`", "max-ejected", "/breaker", || json!({ "max-ejected": 9 })),
        (
            "an entry of `backends`",
            "address",
            "/backends/0",
            || json!({ "address": "10.0.0.3:81" }),
        ),
        ("an entry of `backends`", "weight", "/backends/0", || json!({ "weight": 9 })),
        ("an entry of `backends`", "backup", "/backends/0", || json!({ "backup": true })),
        ("an entry of `backends`", "max-flows", "/backends/0", || json!({ "max-flows": 9 })),
        (
            "an entry of `backends`",
            "proxy-protocol",
            "/backends/0",
            || json!({ "proxy-protocol": "v2" }),
        ),
        (
            "an entry of `backends`",
            "health-check",
            "/backends/0",
            || json!({ "health-check": { "type": "http" } }),
        ),
        (
            "an entry of `source-route`",
            "source",
            "/source-route/0",
            || json!({ "source": "10.3.0.0/16" }),
        ),
        (
            "an entry of `source-route`",
            "algorithm",
            "/source-route/0",
            || json!({ "algorithm": "round-robin" }),
        ),
        (
            "an entry of `source-route`",
            "affinity",
            "/source-route/0",
            || json!({ "affinity": "source-ip" }),
        ),
        (
            "an entry of `source-route`",
            "affinity-prefix",
            "/source-route/0",
            || json!({ "affinity-prefix": { "v4": 8 } }),
        ),
        (
            "an entry of `source-route`",
            "health-check",
            "/source-route/0",
            || json!({ "health-check": { "type": "http" } }),
        ),
        (
            "an entry of `source-route`",
            "recovery",
            "/source-route/0",
            || json!({ "recovery": { "mode": "none" } }),
        ),
        (
            "an entry of `source-route`",
            "panic",
            "/source-route/0",
            || json!({ "panic": { "policy": "none" } }),
        ),
        (
            "an entry of `source-route`",
            "breaker",
            "/source-route/0",
            || json!({ "breaker": { "min-requests": 99 } }),
        ),
        (
            "an entry of `source-route`",
            "backends",
            "/source-route/0",
            || json!({ "backends": [{ "address": "10.0.0.3:85" }] }),
        ),
        (
            "an entry of `name-route`",
            "names",
            "/name-route/0",
            || json!({ "names": ["b.example.com", "*.example.com"] }),
        ),
        (
            "an entry of `name-route`",
            "algorithm",
            "/name-route/0",
            || json!({ "algorithm": "round-robin" }),
        ),
        (
            "an entry of `name-route`",
            "affinity",
            "/name-route/0",
            || json!({ "affinity": "source-ip" }),
        ),
        (
            "an entry of `name-route`",
            "affinity-prefix",
            "/name-route/0",
            || json!({ "affinity-prefix": { "v4": 8 } }),
        ),
        (
            "an entry of `name-route`",
            "health-check",
            "/name-route/0",
            || json!({ "health-check": { "type": "http" } }),
        ),
        (
            "an entry of `name-route`",
            "recovery",
            "/name-route/0",
            || json!({ "recovery": { "mode": "none" } }),
        ),
        (
            "an entry of `name-route`",
            "panic",
            "/name-route/0",
            || json!({ "panic": { "policy": "none" } }),
        ),
        (
            "an entry of `name-route`",
            "breaker",
            "/name-route/0",
            || json!({ "breaker": { "min-requests": 99 } }),
        ),
        (
            "an entry of `name-route`",
            "backends",
            "/name-route/0",
            || json!({ "backends": [{ "address": "10.0.0.3:86" }] }),
        ),
    ];
    for key in ["client-certificate", "client-key"] {
        all.push((
            "`health-check`",
            key,
            CHECK,
            || json!({ "type": "https", "client-certificate": "/c.pem", "client-key": "/k.pem" }),
        ));
    }
    all
}

/// The tables that a service has, itself among them.
fn tables(table: &'static Table, found: &mut Vec<&'static Table>) {
    fn of(kind: &'static Kind, found: &mut Vec<&'static Table>) {
        match kind {
            Kind::Table(table) => tables(table, found),
            Kind::List(list) => of(&list.of, found),
            Kind::Either(kinds) => kinds.iter().for_each(|kind| of(kind, found)),
            _ => {}
        }
    }
    if !found.iter().any(|known| std::ptr::eq(*known, table)) {
        found.push(table);
        table.keys.iter().for_each(|key| of(&key.kind, found));
    }
}

fn base() -> Value {
    json!({
        "name": "web",
        "listen": { "interfaces": ["eth0"], "address": "203.0.113.10", "port": 80 },
        "backends": [{ "address": "10.0.0.1:80" }, { "address": "10.0.0.2:80" }],
        "source-route": [{ "source": "10.2.0.0/16", "backends": [{ "address": "10.0.0.3:80" }] }],
        "name-route": [{ "names": ["a.example.com"], "backends": [{ "address": "10.0.0.4:80" }] }],
    })
}

/// The service with these keys in place of what it has at a place, which is made where it is not.
fn with(place: &str, keys: &Value) -> Value {
    let mut service = base();
    let mut at = &mut service;
    for part in place.split('/').filter(|part| !part.is_empty()) {
        at = match part.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[part],
        };
    }
    if at.is_null() {
        *at = json!({});
    }
    for (key, value) in keys.as_object().unwrap() {
        at[key] = value.clone();
    }
    service
}

#[test]
fn every_key_of_a_service_has_a_value_to_be_tried() {
    let mut found = Vec::new();
    let service = all().into_iter().find(|table| table.home == "`service`").unwrap();
    tables(service, &mut found);
    let rows: BTreeSet<_> = given().iter().map(|(home, key, ..)| (*home, *key)).collect();
    for table in found {
        for key in table.keys {
            let is_named = table.home == "an entry of `backends`" && NAMED.contains(&key.name);
            assert_eq!(
                rows.contains(&(table.home, key.name)),
                !is_named,
                "{}: {}",
                table.home,
                key.name
            );
        }
    }
}

#[tokio::test]
async fn every_key_of_a_service_does_by_the_api_what_it_does_in_a_file() {
    let settings = "[settings]\nexec-checks = true\n";
    let (driver, lab) = Lab::start(&format!("{settings}{CONFIG}")).await;
    // What a file with that service comes to.
    let file = |service: &Value| {
        json!({ "settings": { "exec-checks": true }, "service": [service] }).to_string()
    };
    let of_file = |service: &Value| {
        let checked =
            parse("f.json", &file(service)).unwrap_or_else(|problems| panic!("{problems:?}"));
        running_config::to_json(&checked.config)["service"][0].clone()
    };
    run(driver, async {
        for (home, key, place, value) in given() {
            let service = with(place, &value());
            let mut keys = service.clone();
            rename(&mut keys);
            let body = keys.to_string();
            let (code, answer) = lab.asked("PUT /api/v1/services/web", &body).await;
            assert_eq!(code, 200, "{home} {key}: {answer}");
            let runs = lab.client.config().await.unwrap()["service"][0].clone();
            assert_eq!(runs, of_file(&service), "{home} {key}");
            if key != "name" {
                assert_ne!(runs, of_file(&base()), "{home} {key} changes nothing");
            }
            let request = PlanRequest { name: "f.json".to_owned(), text: file(&service) };
            let plan = lab.client.plan(&request).await.unwrap();
            assert_eq!(plan.steps, Vec::<String>::new(), "{home} {key}: the maps have it");
        }
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

/// Keys of requests are in snake case; names of headers are no keys.
fn rename(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(rename),
        Value::Object(entries) => {
            for (key, mut value) in std::mem::take(entries) {
                if key != "headers" {
                    rename(&mut value);
                }
                entries.insert(key.replace('-', "_"), value);
            }
        }
        _ => {}
    }
}
