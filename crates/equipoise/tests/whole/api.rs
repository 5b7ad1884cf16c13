//! What programs ask the admin API, request by request: codes, heads, bodies.

use tokio::net::UnixStream;

use super::*;
use operate::{FIRST, SECOND};
use port::{Answer, ask};

impl Lab {
    pub(super) async fn send(&self, line: &str, headers: &str, body: &str) -> Answer {
        let mut stream = UnixStream::connect(self.path("test.sock")).await.unwrap();
        ask(&mut stream, line, &format!("Host: test\r\n{headers}"), body).await
    }

    /// An answer's code and what it says as JSON.
    pub(super) async fn asked(&self, line: &str, body: &str) -> (u16, Value) {
        let (code, head, text) = self.send(line, "", body).await;
        let kind = if code == 200 { "application/json" } else { "application/problem+json" };
        assert!(head.contains(&format!("content-type: {kind}")), "{line}: {head}");
        (
            code,
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}")),
        )
    }
}

#[tokio::test]
async fn services_and_their_backends_are_resources_of_their_own() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let (_, all) = lab.asked("GET /api/v1/services", "").await;
        assert_eq!(all.as_array().map(Vec::len), Some(1));
        let (_, web) = lab.asked("GET /api/v1/services/web", "").await;
        assert_eq!(web, all[0]);
        let (_, routes) = lab.asked("GET /api/v1/services/web/routes", "").await;
        assert_eq!((&routes, &routes[0]["route"]), (&web["pools"], &json!("default")));
        let (_, backends) = lab.asked("GET /api/v1/services/web/backends", "").await;
        assert_eq!(
            (&backends[1]["address"], &backends[1]["route"]),
            (&json!(SECOND), &json!("default"))
        );
        let (_, first) = lab.asked("GET /api/v1/services/web/backends/10.0.0.1%3A8080", "").await;
        assert_eq!(
            (first.as_array().map(Vec::len), &first[0]["address"]),
            (Some(1), &json!(FIRST))
        );
        for missing in [
            "services/mail",
            "services/mail/routes",
            "services/mail/backends",
            "services/web/backends/10.0.0.9%3A80",
            "nothing",
            "services/web/limits/of",
        ] {
            let (code, problem) = lab.asked(&format!("GET /api/v1/{missing}"), "").await;
            let right = if missing.ends_with("of") { 405 } else { 404 };
            assert_eq!((code, &problem["status"]), (right, &json!(right)), "{missing}");
        }
        let (code, head, _) = lab.send("POST /api/v1/config", "", "").await;
        assert!(code == 405 && head.contains("allow: get"), "{head}");
        let (code, head, body) = lab.send("POST /api/v1/metrics", "", "").await;
        assert!(code == 405 && head.contains("allow: get"), "{head}");
        assert!(body.contains("wrong-method"), "{body}");
        let patch = "PATCH /api/v1/services/web/backends/10.0.0.1%3A8080";
        for wrong in ["", "{"] {
            assert_eq!(lab.asked(patch, wrong).await.0, 400, "{wrong}");
        }
        for (wrong, pointer) in [
            ("[]", ""),
            ("{}", ""),
            ("{\"weight\": -1}", "/weight"),
            ("{\"weight\": 1, \"more\": 2}", "/more"),
            ("{\"weight\": 1, \"route\": [1]}", "/route"),
        ] {
            let (code, body) = lab.asked(patch, wrong).await;
            assert_eq!((code, &body["errors"][0]["pointer"]), (422, &json!(pointer)), "{body}");
            assert_eq!(body["errors"][0]["file"], "request", "{body}");
        }
        let nested = r#"{"backends": [{"host": "10.0.0.1"}, {"service": 7}]}"#;
        let (code, body) = lab.asked("POST /api/v1/drains", nested).await;
        let pointer = &body["errors"][0]["pointer"];
        assert_eq!((code, pointer), (422, &json!("/backends/1/service")), "{body}");
        for typo in [
            "DELETE /api/v1/services/web/backends/10.0.0.1%3A8080?rout=api",
            "GET /api/v1/flows?lmit=1",
            "GET /api/v1/health?servce=web",
        ] {
            assert_eq!(lab.asked(typo, "").await.0, 400, "{typo}");
        }
        let gone = lab.asked("DELETE /api/v1/flows?backend=9.9.9.9%3A9", "").await;
        assert_eq!(gone.0, 404, "{}", gone.1);
        let none = lab.asked("DELETE /api/v1/flows?backend=10.0.0.1%3A8080", "").await;
        assert_eq!(none, (200, json!({ "ended": 0 })));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn flows_come_page_by_page() {
    let (driver, lab) = Lab::start(CONFIG).await;
    lab.flows(0, 5);
    run(driver, async {
        let page = async |query: &str| {
            let (code, head, body) = lab.send(&format!("GET /api/v1/flows?{query}"), "", "").await;
            assert!(code == 200 && head.contains("x-total-count: 5"), "{head}");
            let flows: Vec<Value> = serde_json::from_str(&body).unwrap();
            flows.iter().map(|flow| flow["client"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let all = page("").await;
        assert_eq!(all.len(), 5);
        assert_eq!(page("limit=2").await, all[..2]);
        assert_eq!(page("limit=2&offset=4&service=web").await, all[4..]);
        assert_eq!(page("offset=9").await, Vec::<String>::new());
        assert_eq!(lab.asked("GET /api/v1/flows?limit=-1", "").await.0, 400);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn change_is_made_only_to_the_configuration_that_it_is_for() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let (_, head, _) = lab.send("GET /api/v1/config", "", "").await;
        assert!(head.contains("etag: \"1\""), "{head}");
        let patch = "PATCH /api/v1/services/web/backends/10.0.0.1%3A8080";
        let weigh = async |tag: &str, weight: u16| {
            let body = format!("{{\"weight\": {weight}}}");
            lab.send(patch, &format!("If-Match: {tag}\r\n"), &body).await
        };
        let (code, head, _) = weigh("\"1\"", 7).await;
        assert!(code == 200 && head.contains("etag: \"2\""), "{head}");
        let (code, _, body) = weigh("\"1\"", 8).await;
        assert_eq!(code, 412, "{body}");
        assert_eq!(weigh("soon", 8).await.0, 400);
        let backend = || async {
            lab.client.status().await.unwrap().services[0].pools[0].backends[0].configured_weight
        };
        assert_eq!(backend().await.0, 7.0);
        let (code, ..) = lab.send("POST /api/v1/reload", "If-Match: \"1\"\r\n", "{}").await;
        assert_eq!(code, 412);
        for tag in ["*", "\"1\", \"2\""] {
            assert_eq!(weigh(tag, 7).await.0, 200, "{tag}");
        }
        // What was taken back is not told as what runs.
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Every(1)));
        assert_eq!(weigh("\"2\"", 9).await.0, 500);
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Never));
        let (_, head, _) = lab.send("GET /api/v1/config", "", "").await;
        assert!(head.contains("etag: \"2\""), "{head}");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn document_is_for_programs_and_the_page_for_people() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let (_, document) = lab.asked("GET /api/v1/openapi.json", "").await;
        assert!(document["paths"]["/api/v1/services/{service}"]["get"].is_object());
        let (code, head, page) = lab.send("GET /api/v1", "", "").await;
        assert!(code == 200 && head.contains("content-type: text/html"), "{head}");
        assert!(page.contains("/api/v1/services/{service}"), "{page}");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn services_are_given_and_taken_away_as_a_file_would_have_them() {
    let (driver, lab) = Lab::start(CONFIG).await;
    let mail = json!({
        "name": "mail",
        "listen": { "interfaces": ["eth0"], "address": "203.0.113.11", "port": 25 },
        "manage_address": true,
        "on_backend_down": "reset",
        "backends": [{ "address": "10.0.0.3:25", "max_flows": 7 }],
    });
    run(driver, async {
        let body = mail.to_string();
        let (code, answer) = lab.asked("POST /api/v1/services", &body).await;
        assert_eq!((code, &answer["services"]["added"]), (200, &json!(["mail"])), "{answer}");
        let vips =
            names(["203.0.113.10:80/tcp on interface 2", "203.0.113.11:25/tcp on interface 2"]);
        assert_eq!(lab.vips(), vips, "in the maps when that is answered");
        assert_eq!(lab.asked("POST /api/v1/services", &body).await.0, 409);
        let (_, answer) = lab.asked("PUT /api/v1/services/mail", &body).await;
        assert_eq!(answer["result"], "unchanged", "again is the same");
        let weight = "PATCH /api/v1/services/mail/backends/10.0.0.3%3A25";
        assert_eq!(lab.asked(weight, "{\"weight\": 5}").await.0, 200);
        let (_, config) = lab.asked("GET /api/v1/config", "").await;
        assert_eq!(config["service"][1]["backends"][0]["weight"], 5);
        assert_eq!(config["service"][1]["on_backend_down"], "reset");
        // What is wrong is told by its place in the request.
        let mut wrong = mail.clone();
        wrong["listen"]["port"] = json!(0);
        wrong["backends"][0]["max_flow"] = json!(1);
        let (code, problem) = lab.asked("PUT /api/v1/services/mail", &wrong.to_string()).await;
        let pointers: Vec<_> =
            problem["errors"].as_array().unwrap().iter().map(|error| &error["pointer"]).collect();
        let places = [&json!("/backends/0/max_flow"), &json!("/listen/port")];
        assert_eq!((code, &*pointers), (422, &places[..]), "{problem}");
        assert_eq!(problem["errors"][1]["message"], "`0` is out of range");
        for (line, body, right) in [
            ("PUT /api/v1/services/other", &*body, 422),
            ("POST /api/v1/services", "{}", 422),
            ("POST /api/v1/services", "[]", 422),
        ] {
            assert_eq!(lab.asked(line, body).await.0, right, "{line} {body}");
        }
        assert_eq!(lab.asked("DELETE /api/v1/services/other", "").await.0, 404);
        assert_eq!(lab.asked("DELETE /api/v1/services/web", "").await.0, 200);
        assert_eq!(lab.asked("DELETE /api/v1/services/mail", "").await.0, 422, "one is needed");
        let changes = lab.client.changes().await.unwrap();
        let told: Vec<_> = changes.iter().map(|change| change.change.as_str()).collect();
        assert_eq!(told, ["service-given", "service-removed", "weight"]);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    let (driver, lab) = operate::again(lab, CONFIG).await;
    run(driver, async {
        assert_eq!(lab.vips(), names(["203.0.113.11:25/tcp on interface 2"]), "so it was before");
        let (_, answer) = lab.asked("POST /api/v1/reload", "{\"reset\": true}").await;
        assert_eq!(
            (&answer["services"]["added"], &answer["services"]["removed"]),
            (&json!(["web"]), &json!(["mail"]))
        );
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    assert!(!lab.path("state.json").exists(), "nothing is left to be kept");
}
