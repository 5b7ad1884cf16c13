//! Names for backends and sources, told by a real name server on loopback.

use equipoise::events::Kind as Told;
use equipoise::status::change::{ReloadRequest, ReloadResult};
use equipoise::status::names::NameStatus;
use equipoise::status::operate::{DrainRequest, Selection, UndrainRequest};
use equipoise_lab::dns::{Data, DnsServer, Kind, Says};

use super::events::{FOLLOWED, next_of, text};
use super::health::{chosen, name, word};
use super::restart::run_and_kill;
use super::*;
use equipoise::status::health::Word;

const NAME: &str = "api.internal";

fn server() -> DnsServer {
    DnsServer::start([127, 0, 0, 1].into()).unwrap()
}

/// A service with these backends; names are asked for at a server, again and again.
fn config(server: &DnsServer, backends: &str, dns: &str) -> String {
    format!(
        "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], address = '203.0.113.10', port = 80 }}\n\
         backends = [{backends}]\n[settings.dns]\nresolvers = ['{}']\nmin-ttl = '100ms'\n{dns}\n",
        server.address()
    )
}

const API: &str = "{ host = 'api.internal', port = 8080, weight = 60, refresh = '100ms' }";

/// Addresses and effective weights of the backends of a pool.
fn backends(status: &Status, pool: usize) -> Vec<(String, f64)> {
    let backends = status.services[0].pools[pool].backends.iter();
    backends.map(|b| (b.address.to_string(), (b.effective_weight * 1e3).round() / 1e3)).collect()
}

fn are(expected: &[(&str, f64)]) -> Vec<(String, f64)> {
    expected.iter().map(|&(address, weight)| (address.to_owned(), weight)).collect()
}

#[tokio::test]
async fn name_is_resolved_before_packets_flow_and_followed_as_it_changes() {
    let server = server();
    server.host(NAME, &["10.0.0.1", "10.0.0.2"], 1);
    let backends_text = format!("{API}, {{ address = '10.0.0.3:8080', weight = 40 }}");
    let (driver, lab) = Lab::start(&config(&server, &backends_text, "")).await;
    run(driver, async {
        let first = [("10.0.0.3:8080", 40.0), ("10.0.0.1:8080", 30.0), ("10.0.0.2:8080", 30.0)];
        let status = lab.client.status().await.unwrap();
        assert_eq!(backends(&status, 0), are(&first));
        let told = &status.services[0].pools[0].backends;
        assert_eq!(
            (&told[0].names, &told[1].names),
            (&vec![], &vec!["api.internal:8080".to_owned()])
        );
        assert_eq!(chosen(&lab).len(), 3);
        server.host(NAME, &["10.0.0.2", "10.0.0.9", "10.0.0.3"], 1);
        let then = [("10.0.0.3:8080", 60.0), ("10.0.0.2:8080", 20.0), ("10.0.0.9:8080", 20.0)];
        let status = lab.status_when(|status| backends(status, 0) == are(&then)).await;
        assert_eq!(status.services[0].pools[0].backends[0].names, ["api.internal:8080"]);
        assert_eq!(lab.plane.borrow().memory.check_references(), Ok(()));
        // What cannot be looked up stays, for ever, and is told.
        server.forget(NAME);
        let asked = server.asked(NAME);
        let status = lab.status_when(|s| s.notes.iter().any(|note| note.contains(NAME))).await;
        assert_eq!((backends(&status, 0), status.state), (are(&then), Health::Ok));
        let names = lab.client.names().await.unwrap();
        let [NameStatus { consecutive_failures, error, addresses, users, .. }] = &names[..] else {
            panic!("{names:?}")
        };
        assert!(*consecutive_failures > 0 && server.asked(NAME) > asked);
        assert_eq!(error.as_ref().unwrap().kind, "unknown-host");
        assert_eq!(addresses.len(), 3);
        assert_eq!(
            (users[0].backend.as_deref(), users[0].weight),
            (Some("api.internal:8080"), Some(60))
        );
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn unchanged_answer_writes_no_map() {
    let server = server();
    server.host(NAME, &["10.0.0.1", "10.0.0.2"], 1);
    let (driver, lab) = Lab::start(&config(&server, API, "")).await;
    run(driver, async {
        let before = lab.plane.borrow().memory.contents().clone();
        server.host(NAME, &["10.0.0.2", "10.0.0.1"], 1);
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Every(1)));
        let asked = server.asked(NAME) + 6;
        lab.status_when(|status| server.asked(NAME) > asked && status.state == Health::Ok).await;
        assert_eq!(*lab.plane.borrow().memory.contents(), before);
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Never));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn name_that_is_not_known_at_the_start_is_waited_for_or_refused() {
    let server = server();
    let (driver, lab) = Lab::start(&config(&server, API, "")).await;
    run(driver, async {
        let status = lab.client.status().await.unwrap();
        assert_eq!((status.state, backends(&status, 0)), (Health::Degraded, vec![]));
        assert!(status.reasons.iter().any(|r| r.contains("api.internal stands for no address")));
        assert_eq!(chosen(&lab), BTreeSet::new());
        server.host(NAME, &["10.0.0.1"], 1);
        lab.status_when(|s| backends(s, 0) == are(&[("10.0.0.1:8080", 60.0)])).await;
        lab.status_when(|s| s.state == Health::Ok).await;
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    server.forget(NAME);
    let text = config(&server, API, "on-first-failure = 'refuse'");
    let (driver, lab) = Lab::try_start(&text, |_| {}).await;
    let refused = driver.err().unwrap().to_string();
    assert!(
        refused.contains("host api.internal stands for no address: there is no host"),
        "{refused}"
    );
    assert!(lab.plane.borrow().attached.is_empty());
}

#[tokio::test]
async fn reload_waits_for_the_first_answers_and_no_pool_is_empty_meanwhile() {
    let server = server();
    server.host(NAME, &["10.0.0.1"], 1);
    let (driver, lab) = Lab::start(&config(&server, API, "")).await;
    run(driver, async {
        server.says("new.internal", Kind::V4, Says::Silence);
        server.says("new.internal", Kind::V6, Says::Records(Vec::new(), 1));
        let new = "{ host = 'new.internal', port = 8080 }";
        lab.reload(&config(&server, new, ""));
        lab.status_when(|_| server.asked("new.internal") > 0).await;
        let status = lab.client.status().await.unwrap();
        assert_eq!((status.config.generation, backends(&status, 0).len()), (1, 1));
        server.host("new.internal", &["10.0.0.2"], 1);
        let status = lab.status_when(|s| s.config.generation == 2).await;
        assert_eq!(backends(&status, 0), are(&[("10.0.0.2:8080", 1.0)]));
        assert_eq!(lab.client.names().await.unwrap().len(), 1);

        // One that does not answer holds up for a while, and one that must be known for good.
        let lost =
            "{ host = 'lost.internal', port = 8080 }, { host = 'new.internal', port = 8080 }";
        lab.reload(&config(&server, lost, "on-first-failure = 'refuse'"));
        let status = lab.status_when(|s| s.config.last_error.is_some()).await;
        assert!(
            status.config.last_error.unwrap().contains("host lost.internal stands for no address")
        );
        assert_eq!(lab.client.names().await.unwrap().len(), 1);
        let (code, said) = lab.asked("POST /api/v1/reload", "{}").await;
        let error = &said["errors"][0];
        assert_eq!((code, &error["file"]), (422, &json!(lab.path("a.toml"))), "{said}");
        assert!(error["message"].as_str().unwrap().contains("host lost.internal stands for"));
        lab.reload(&config(&server, lost, ""));
        let status = lab.status_when(|s| s.config.generation == 3).await;
        assert_eq!(backends(&status, 0), are(&[("10.0.0.2:8080", 1.0)]));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_runs_again_has_the_addresses_of_its_names_though_nobody_answers() {
    let server = server();
    server.host(NAME, &["10.0.0.1"], 1);
    let (driver, lab) = Lab::start(&config(&server, API, "")).await;
    run(driver, async {
        for kind in [Kind::V4, Kind::V6] {
            server.says(NAME, kind, Says::Silence);
        }
        let within = ReloadRequest { confirm_seconds: Some(0.2), ..ReloadRequest::default() };
        let placed = "{ address = '10.0.0.7:8080' }";
        fs::write(lab.path("a.toml"), config(&server, placed, "")).unwrap();
        lab.client.reload(&within).await.unwrap();
        assert_eq!(lab.client.names().await.unwrap(), []);
        let status = lab.status_when(|status| status.config.generation == 3).await;
        assert_eq!(backends(&status, 0), are(&[("10.0.0.1:8080", 60.0)]));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn name_that_nobody_answers_at_the_start_is_what_it_was_for_the_process_before() {
    let server = server();
    server.host(NAME, &["10.0.0.1", "10.0.0.2"], 1);
    let text = config(&server, API, "on-first-failure = 'refuse'");
    let (driver, lab) = Lab::start(&text).await;
    run_and_kill(driver, async {
        server.host(NAME, &["10.0.0.2", "10.0.0.9"], 1);
        lab.status_when(|s| chosen_of(s) == ["10.0.0.2:8080", "10.0.0.9:8080"]).await;
    })
    .await;
    server.forget(NAME);
    let (driver, lab) = lab.start_again(&text).await;
    run(driver.expect("starts"), async {
        let status = lab.client.status().await.unwrap();
        assert_eq!(chosen_of(&status), ["10.0.0.2:8080", "10.0.0.9:8080"]);
        server.host(NAME, &["10.0.0.3"], 1);
        lab.status_when(|s| chosen_of(s).contains(&"10.0.0.3:8080".to_owned())).await;
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    assert!(!lab.path("state.json").exists(), "what has been stopped knows nothing");
}

fn chosen_of(status: &Status) -> Vec<String> {
    backends(status, 0).into_iter().map(|(address, _)| address).collect()
}

#[tokio::test]
async fn name_is_refreshed_when_that_is_asked_for_and_in_force_when_it_is_answered() {
    let server = server();
    server.host(NAME, &["10.0.0.1"], 3600);
    let slow = "{ host = 'api.internal', port = 8080 }";
    let (driver, lab) = Lab::start(&config(&server, slow, "max-ttl = '1h'")).await;
    run(driver, async {
        server.host(NAME, &["10.0.0.2"], 3600);
        let told = lab.client.refresh_names("API.internal").await.unwrap();
        assert_eq!(told[0].addresses[0].address, "10.0.0.2");
        let status = lab.client.status().await.unwrap();
        assert_eq!(backends(&status, 0), are(&[("10.0.0.2:8080", 1.0)]));
        server.forget(NAME);
        let told = lab.client.refresh_names("api.internal:8080").await.unwrap();
        assert_eq!(told[0].error.as_ref().unwrap().kind, "unknown-host");
        let ClientError::Problem(problem) =
            lab.client.refresh_names("x.internal").await.unwrap_err()
        else {
            panic!()
        };
        assert_eq!(problem.status, 404);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn answer_with_too_few_addresses_takes_half_of_them_at_a_time() {
    let server = server();
    server.host(NAME, &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"], 3600);
    let slow = "{ host = 'api.internal', port = 8080, weight = 4 }";
    let (driver, lab) = Lab::start(&config(&server, slow, "max-ttl = '1h'")).await;
    run(driver, async {
        server.host(NAME, &["10.0.0.4"], 3600);
        let told = lab.client.refresh_names(NAME).await.unwrap();
        assert_eq!(told[0].addresses.iter().map(|a| a.kept).collect::<Vec<_>>(), [true, false]);
        assert_eq!(backends(&lab.client.status().await.unwrap(), 0).len(), 2);
        lab.client.refresh_names(NAME).await.unwrap();
        let status = lab.client.status().await.unwrap();
        assert_eq!(backends(&status, 0), are(&[("10.0.0.4:8080", 4.0)]));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

fn of_backend(backend: &str) -> Selection {
    let (service, backend) = (Some("web".to_owned()), Some(backend.to_owned()));
    Selection { service, backend, ..Selection::default() }
}

fn drain(backend: &str) -> DrainRequest {
    let backends = vec![of_backend(backend)];
    DrainRequest { backends, timeout: None, on_timeout: None, force: false, wait: false }
}

#[tokio::test]
async fn what_is_said_of_a_backend_by_its_name_or_address_stands_when_it_comes_back() {
    let server = server();
    server.host(NAME, &["10.0.0.1", "10.0.0.2"], 3600);
    let slow = "{ host = 'api.internal', port = 8080, weight = 4 }, { address = '10.0.0.3:8080' }";
    let text = config(&server, slow, "max-ttl = '1h'");
    let (driver, lab) = Lab::start(&text).await;
    run(driver, async {
        // All of them by the name.
        let told = lab.client.set_health(&name("api.internal:8080"), &word(Word::Down, None)).await;
        assert_eq!(told.unwrap().len(), 2);
        let weights = |s: &Status| backends(s, 0).iter().map(|(_, w)| *w).collect::<Vec<_>>();
        assert_eq!(weights(&lab.client.status().await.unwrap()), [1.0, 0.0, 0.0]);
        let auto = word(Word::Auto, None);
        lab.client.set_health(&name("api.internal:8080"), &auto).await.unwrap();
        // And one by its address.
        lab.client.drain(&drain("10.0.0.2:8080")).await.unwrap();
        server.host(NAME, &["10.0.0.1"], 3600);
        lab.client.refresh_names(NAME).await.unwrap();
        assert_eq!(backends(&lab.client.status().await.unwrap(), 0).len(), 2);
        assert_eq!(lab.client.drains().await.unwrap().drains.len(), 1);
        server.host(NAME, &["10.0.0.2", "10.0.0.1"], 3600);
        lab.client.refresh_names(NAME).await.unwrap();
        assert_eq!(weights(&lab.client.status().await.unwrap()), [1.0, 2.0, 0.0]);
        // Also while it is away, and in the next process.
        server.host(NAME, &["10.0.0.1"], 3600);
        lab.client.refresh_names(NAME).await.unwrap();
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    let (driver, lab) = Lab::try_start_in(lab.directory, &text).await;
    run(driver.unwrap(), async {
        server.host(NAME, &["10.0.0.1", "10.0.0.2"], 3600);
        lab.client.refresh_names(NAME).await.unwrap();
        let status = lab.client.status().await.unwrap();
        assert_eq!(backends(&status, 0)[2], ("10.0.0.2:8080".to_owned(), 0.0));
        assert_eq!(
            lab.client
                .undrain(&UndrainRequest::of(of_backend("10.0.0.2:8080")))
                .await
                .unwrap()
                .len(),
            1
        );
        // Without the name nothing of it is left.
        lab.client.drain(&drain("10.0.0.2:8080")).await.unwrap();
        lab.reload(&config(&server, "{ address = '10.0.0.3:8080' }", ""));
        lab.status_when(|s| s.config.generation == 2).await;
        assert!(lab.client.drains().await.unwrap().drains.is_empty());
        assert!(lab.client.names().await.unwrap().is_empty());
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    assert!(!lab.path("state.json").exists(), "nothing is left to be kept");
}

#[tokio::test]
async fn hosts_that_are_sources_lead_all_their_addresses_to_the_routes_pool() {
    let server = server();
    server.host("office.example.com", &["198.51.100.7", "198.51.100.8", "2001:db8::7"], 1);
    let text = config(&server, "{ address = '10.0.0.1:8080' }", "").replace(
        "[settings.dns]",
        "[[service.source-route]]\nsource = ['office.example.com', '198.51.100.8']\n\
         backends = [{ address = '10.0.0.2:8080' }]\n[settings.dns]",
    );
    let (driver, lab) = Lab::start(&text).await;
    run(driver, async {
        let routes = || -> Vec<String> {
            let plane = lab.plane.borrow();
            plane.memory.contents().routes.keys().map(ToString::to_string).collect()
        };
        let of = |address: &str| format!("{address} of service 0");
        assert_eq!(routes(), [of("198.51.100.7/32"), of("198.51.100.8/32"), of("2001:db8::7/128")]);
        server.host("office.example.com", &["198.51.100.9", "198.51.100.8"], 1);
        let expected = [of("198.51.100.8/32"), of("198.51.100.9/32")];
        lab.status_when(|_| routes() == expected).await;
        let users = lab.client.names().await.unwrap()[0].users.clone();
        assert_eq!((&*users[0].role, &*users[0].route), ("source", "office.example.com"));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn service_records_give_ports_and_those_of_a_later_priority_stand_by() {
    let server = server();
    let records = vec![
        Data::Service(10, 3, 8080, "a.internal"),
        Data::Service(10, 1, 8081, "b.internal"),
        Data::Service(20, 1, 9090, "b.internal"),
    ];
    server.says("_http._tcp.api.internal", Kind::Srv, Says::Records(records, 1));
    server.host("a.internal", &["10.0.0.1"], 1);
    server.host("b.internal", &["10.0.0.2"], 1);
    let srv = "{ srv = '_http._tcp.api.internal', weight = 8, refresh = '100ms' }";
    let (driver, lab) = Lab::start(&config(&server, srv, "")).await;
    run(driver, async {
        let status = lab.client.status().await.unwrap();
        assert_eq!(
            backends(&status, 0),
            are(&[("10.0.0.1:8080", 6.0), ("10.0.0.2:8081", 2.0), ("10.0.0.2:9090", 0.0)])
        );
        let down = word(Word::Down, None);
        for backend in ["10.0.0.1:8080", "10.0.0.2:8081"] {
            lab.client.set_health(&name(backend), &down).await.unwrap();
        }
        let status = lab.client.status().await.unwrap();
        assert_eq!(backends(&status, 0)[2], ("10.0.0.2:9090".to_owned(), 8.0));
        lab.client.set_health(&name("10.0.0.1:8080"), &word(Word::Auto, None)).await.unwrap();
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_becomes_of_names_is_told_for_each_pool() {
    let server = server();
    server.host(NAME, &["10.0.0.1"], 3600);
    let slow = "{ host = 'api.internal', port = 8080 }";
    let (driver, lab) = Lab::start(&config(&server, slow, "max-ttl = '1h'")).await;
    run(driver, async {
        let mut stream = lab.client.events(FOLLOWED).await.unwrap();
        server.host(NAME, &["10.0.0.1", "10.0.0.2"], 3600);
        lab.client.refresh_names(NAME).await.unwrap();
        let event = next_of(&mut stream, Told::NameResolved).await;
        assert_eq!((text(&event.service), text(&event.backend)), ("web", "api.internal:8080"));
        assert_eq!((text(&event.from), text(&event.to)), ("[10.0.0.1]", "[10.0.0.1, 10.0.0.2]"));
        server.forget(NAME);
        lab.client.refresh_names(NAME).await.unwrap();
        let event = next_of(&mut stream, Told::NameFailed).await;
        assert!(text(&event.why).starts_with("unknown-host: "), "{event:?}");
        assert_eq!(text(&event.to), "[10.0.0.1, 10.0.0.2]");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_a_name_stands_for_has_its_weight_changed_together_and_leaves_together() {
    let server = server();
    server.host(NAME, &["10.0.0.1", "10.0.0.2"], 1);
    let text = config(&server, &format!("{API}, {{ address = '10.0.0.3:8080', weight = 40 }}"), "");
    let (driver, lab) = Lab::start(&text).await;
    run_and_kill(driver, async {
        let answer = lab.client.set_weight(&name("API.internal:8080"), 20).await.unwrap();
        assert_eq!(answer.result, ReloadResult::Applied);
        let status = lab.client.status().await.unwrap();
        let expected = [("10.0.0.3:8080", 40.0), ("10.0.0.1:8080", 10.0), ("10.0.0.2:8080", 10.0)];
        assert_eq!(backends(&status, 0), are(&expected));
        let changes = lab.client.changes().await.unwrap();
        assert_eq!(changes[0].backend.as_deref(), Some("api.internal:8080"));
        // One of them alone has no weight of its own.
        let refused = lab.client.set_weight(&name("10.0.0.1:8080"), 5).await.unwrap_err();
        let ClientError::Problem(problem) = refused else { panic!("{refused}") };
        assert_eq!(problem.status, 409);
        assert!(problem.help.as_deref().unwrap().ends_with("by api.internal:8080"), "{problem:?}");
    })
    .await;
    let (driver, lab) = lab.start_again(&text).await;
    run(driver.expect("starts"), async {
        let status = lab.client.status().await.unwrap();
        assert_eq!(backends(&status, 0)[1].1, 10.0, "kept for the next process");
        lab.client.remove_backend(&name("api.internal:8080")).await.unwrap();
        let status = lab.client.status().await.unwrap();
        assert_eq!(backends(&status, 0), are(&[("10.0.0.3:8080", 40.0)]));
        let request = ReloadRequest { reset: true, ..ReloadRequest::default() };
        lab.client.reload(&request).await.unwrap();
        let status = lab.client.status().await.unwrap();
        assert_eq!(backends(&status, 0)[1].1, 30.0, "as the file says");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}
