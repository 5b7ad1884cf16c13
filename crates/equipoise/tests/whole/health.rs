//! Health checks of real listeners on loopback, and what operators say.

use std::net::{SocketAddr, TcpListener};

use equipoise::status::health::{BackendHealth, BackendName, HealthFilter, HealthWord, Word};

use super::*;

pub(super) fn listen() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (listener.local_addr().unwrap(), listener)
}

pub(super) fn checked(backends: &[SocketAddr]) -> String {
    let backends: Vec<_> = backends.iter().map(|b| format!("{{ address = '{b}' }}")).collect();
    format!(
        "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], address = '203.0.113.10', port = 80 }}\n\
         backends = [{}]\n[service.health-check]\ntype = 'tcp'\ninterval = '100ms'\n",
        backends.join(", ")
    )
}

/// The ids that slots name.
pub(super) fn chosen(lab: &Lab) -> BTreeSet<u32> {
    let plane = lab.plane.borrow();
    let memory = &plane.memory;
    let slots = memory.contents().pools.keys().filter_map(|&pool| memory.slots(pool));
    slots.flatten().copied().collect()
}

fn states(status: &Status) -> Vec<(String, f64)> {
    let backends = status.services[0].pools[0].backends.iter();
    backends.map(|backend| (backend.health.to_string(), backend.effective_weight)).collect()
}

fn are(expected: &[(&str, f64)]) -> Vec<(String, f64)> {
    expected.iter().map(|&(health, weight)| (health.to_owned(), weight)).collect()
}

pub(super) fn name(backend: &str) -> BackendName {
    BackendName { service: "web".to_owned(), backend: backend.to_owned(), route: None }
}

pub(super) fn word(state: Word, for_seconds: Option<f64>) -> HealthWord {
    HealthWord { state, for_seconds, route: None }
}

#[tokio::test]
async fn failing_check_takes_slots_away_and_passing_it_gives_them_back() {
    let ((first, _one), (second, other)) = (listen(), listen());
    let (driver, lab) = Lab::start(&checked(&[first, second])).await;
    run(driver, async {
        lab.status_when(|s| states(s) == are(&[("healthy", 1.0), ("healthy", 1.0)])).await;
        assert_eq!(chosen(&lab), [0, 1].into());
        drop(other);
        lab.status_when(|s| states(s) == are(&[("healthy", 1.0), ("unhealthy", 0.0)])).await;
        assert_eq!(chosen(&lab), [0].into());
        let told = lab.client.health(&HealthFilter::default()).await.unwrap();
        let check = told[1].check.as_ref().unwrap();
        assert_eq!(check.error.as_ref().unwrap().kind, "connection-refused");
        assert!(check.failures >= 3 && check.latency_ms.is_some());
        let _other = TcpListener::bind(second).unwrap();
        lab.status_when(|s| states(s) == are(&[("healthy", 1.0), ("healthy", 1.0)])).await;
        assert_eq!(chosen(&lab), [0, 1].into());
        assert_eq!(lab.plane.borrow().memory.check_references(), Ok(()));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn refused_maps_are_degraded_and_health_follows_when_they_are_not() {
    let ((first, _one), (second, other)) = (listen(), listen());
    let (driver, lab) = Lab::start(&checked(&[first, second])).await;
    run(driver, async {
        lab.status_when(|s| states(s) == are(&[("healthy", 1.0), ("healthy", 1.0)])).await;
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Every(1)));
        drop(other);
        lab.status_when(|s| s.state == Health::Degraded).await;
        assert_eq!(chosen(&lab), [0, 1].into());
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Never));
        lab.status_when(|s| s.state == Health::Ok && chosen(&lab) == [0].into()).await;
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn operators_word_is_in_force_when_it_is_answered() {
    let ((first, _one), (second, _other)) = (listen(), listen());
    let (driver, lab) = Lab::start(&checked(&[first, second])).await;
    run(driver, async {
        lab.status_when(|s| states(s) == are(&[("healthy", 1.0), ("healthy", 1.0)])).await;
        let name = name(&second.to_string());
        let told = lab.client.set_health(&name, &word(Word::Down, None)).await.unwrap();
        let [BackendHealth { health, effective_weight, manual, .. }] = &told[..] else {
            panic!("{told:?}")
        };
        assert_eq!((&**health, *effective_weight), ("unhealthy", 0.0));
        assert_eq!(manual.as_ref().unwrap().state, "down");
        assert_eq!(chosen(&lab), [0].into());
        // Checks go on, and change nothing.
        let told = lab.client.check_health(&name).await.unwrap();
        assert_eq!(told[0].check.as_ref().unwrap().verdict, "healthy");
        assert_eq!(told[0].effective_weight, 0.0);

        let told = lab.client.set_health(&name, &word(Word::Auto, None)).await.unwrap();
        assert_eq!((&*told[0].health, told[0].effective_weight), ("healthy", 1.0));
        assert_eq!(chosen(&lab), [0, 1].into());
        lab.client.set_health(&name, &word(Word::Down, Some(0.3))).await.unwrap();
        assert_eq!(chosen(&lab), [0].into());
        lab.status_when(|s| states(s) == are(&[("healthy", 1.0), ("healthy", 1.0)])).await;
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let (first, _one) = listen();
    let (driver, lab) = Lab::start(&checked(&[first])).await;
    run(driver, async {
        let status = |error: ClientError| match error {
            ClientError::Problem(problem) => problem.status,
            other => panic!("{other}"),
        };
        let client = &lab.client;
        let filter = HealthFilter { service: Some("api".to_owned()) };
        assert_eq!(status(client.health(&filter).await.unwrap_err()), 404);
        let down = word(Word::Down, None);
        let nobody = name("10.9.9.9:80");
        assert_eq!(status(client.set_health(&nobody, &down).await.unwrap_err()), 404);
        assert_eq!(status(client.check_health(&nobody).await.unwrap_err()), 404);
        let other =
            BackendName { route: Some("10.0.0.0/8".to_owned()), ..name(&first.to_string()) };
        assert_eq!(status(client.check_health(&other).await.unwrap_err()), 404);
        assert_eq!(status(client.set_health(&name("x"), &down).await.unwrap_err()), 422);
        for seconds in [0.0, -1.0] {
            let word = word(Word::Up, Some(seconds));
            let refused = client.set_health(&name(&first.to_string()), &word).await.unwrap_err();
            assert_eq!(status(refused), 422);
        }
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn whoever_waits_for_a_check_that_is_taken_away_is_answered() {
    // It takes no connection, and refuses none.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let silent = socket.local_addr().unwrap().as_socket().unwrap();
    let _first = std::net::TcpStream::connect(silent).unwrap();
    let (other, _other) = listen();
    let config = checked(&[silent, other]).replace("type = 'tcp'", "type = 'tcp'\ntimeout = '5m'");
    let (driver, lab) = Lab::start(&config).await;
    run(driver, async {
        let name = name(&silent.to_string());
        let asked = lab.client.check_health(&name);
        let answered = async {
            lab.status_when(|s| s.services[0].pools[0].backends.len() == 2).await;
            lab.reload(&checked(&[other]));
            lab.status_when(|s| s.config.generation == 2).await;
        };
        let (told, ()) = tokio::join!(asked, answered);
        assert_eq!(told.unwrap(), []);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn reload_keeps_verdicts_and_drops_what_is_not_checked_any_more() {
    let ((first, _one), (second, other)) = (listen(), listen());
    drop(other);
    let (driver, lab) = Lab::start(&checked(&[first, second])).await;
    run(driver, async {
        lab.status_when(|s| states(s) == are(&[("healthy", 1.0), ("unhealthy", 0.0)])).await;
        lab.reload(&checked(&[first, second]).replace("100ms", "150ms"));
        let status = lab.status_when(|s| s.config.generation == 2).await;
        assert_eq!(states(&status), are(&[("healthy", 1.0), ("unhealthy", 0.0)]));
        lab.reload(&checked(&[first, second]).replace("'tcp'", "'none'"));
        let status = lab.status_when(|s| s.config.generation == 3).await;
        assert_eq!(states(&status), are(&[("none", 1.0), ("none", 1.0)]));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}
