//! One process after another on the same data plane: what goes on, and what is not done again.

use equipoise::status::operate::{BreakerRequest, DrainRequest, Selection};

use super::*;

const FIRST: &str = "10.0.0.1:8080";
const SECOND: &str = "10.0.0.2:8080";

/// Runs an instance until the test is through with it, and kills it.
pub(crate) async fn run_and_kill(driver: TestDriver, test: impl Future<Output = ()>) {
    tokio::select! {
        ended = driver.run() => panic!("it has ended by itself: {ended:?}"),
        () = test => {}
    }
}

fn count_steps(lab: &Lab) -> u64 {
    lab.plane.borrow().memory.tried()
}

/// From now on steps are counted.
fn begin_to_count(lab: &Lab) {
    lab.plane.send_modify(|plane| plane.memory.inject(Fault::Never));
}

fn drain(backend: &str) -> DrainRequest {
    let selection = Selection {
        service: Some("web".to_owned()),
        backend: Some(backend.to_owned()),
        ..Selection::default()
    };
    DrainRequest {
        backends: vec![selection],
        timeout: None,
        on_timeout: None,
        force: false,
        wait: false,
    }
}

#[tokio::test]
async fn next_process_with_the_same_file_changes_no_map() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run_and_kill(driver, async {
        lab.status_when(|_| true).await;
    })
    .await;
    lab.plane.send_modify(|plane| {
        let (_, id) = ids(plane, FIRST);
        plane.memory.backend_traffic(id).new_flows = 7;
    });
    let before = lab.plane.borrow().memory.contents().clone();
    begin_to_count(&lab);
    let (driver, lab) = lab.start_again(CONFIG).await;
    run_and_kill(driver.unwrap(), async {
        let status = lab.status_when(|_| true).await;
        assert_eq!(status.state, Health::Ok, "{:?}", status.reasons);
        assert_eq!(status.services[0].pools[0].backends[0].traffic.new_flows, 7, "counters go on");
    })
    .await;
    assert_eq!((count_steps(&lab), lab.plane.borrow().memory.contents()), (0, &before));
}

#[tokio::test]
async fn what_has_changed_meanwhile_is_changed_and_flows_keep_their_backend() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run_and_kill(driver, async {
        lab.status_when(|_| true).await;
    })
    .await;
    let (service, second) = ids(&lab.plane.borrow(), SECOND);
    let row = flow("198.51.100.1:1000", SECOND, (service, second), "established");
    lab.plane.send_modify(|plane| plane.flows = vec![row]);
    // Another order, one that has left, and one that is new.
    let backends = "backends = [{ address = '10.0.0.3:8080' }, { address = '10.0.0.1:8080' }]\n";
    let config = format!("{}{backends}", CONFIG.split("backends").next().unwrap());
    let (driver, lab) = lab.start_again(&config).await;
    run_and_kill(driver.unwrap(), async {
        lab.status_when(|_| true).await;
        let flows = lab.client.flows(&FlowFilter::default()).await.unwrap();
        assert_eq!(flows[0].backend, SECOND.parse().unwrap());
        assert_eq!(flows[0].service.as_deref(), Some("web"));
    })
    .await;
    let plane = lab.plane.borrow();
    assert_eq!(plane.memory.check_references(), Ok(()));
    let backends = &plane.memory.contents().backends;
    let left = backends[&second];
    assert_eq!((left.state, left.generation), (Backend::GONE, 1));
    assert_eq!(backends.len(), 3, "no id was given out twice");
}

#[tokio::test]
async fn drains_words_checks_and_breakers_go_on_as_they_were() {
    let config = format!("{CONFIG}[service.breaker]\n");
    let (driver, lab) = Lab::start(&config).await;
    run_and_kill(driver, async {
        lab.client.drain(&drain(FIRST)).await.unwrap();
        let open = BreakerRequest {
            service: "web".to_owned(),
            backend: SECOND.to_owned(),
            route: None,
            action: "open".to_owned(),
        };
        lab.client.turn_breaker(&open).await.unwrap();
    })
    .await;
    let before = lab.plane.borrow().memory.contents().clone();
    begin_to_count(&lab);
    let (driver, lab) = lab.start_again(&config).await;
    run_and_kill(driver.unwrap(), async {
        let status = lab.status_when(|_| true).await;
        let backends = &status.services[0].pools[0].backends;
        assert!(backends[0].draining);
        assert_eq!(backends[1].breaker, "open");
    })
    .await;
    // The generation of a backend that is out has not been raised again either.
    assert_eq!((count_steps(&lab), lab.plane.borrow().memory.contents()), (0, &before));
}

#[tokio::test]
async fn a_state_file_that_is_lost_costs_what_it_kept_and_no_flow() {
    for text in [None, Some("{ not JSON")] {
        let (driver, lab) = Lab::start(CONFIG).await;
        run_and_kill(driver, async {
            lab.client.drain(&drain(FIRST)).await.unwrap();
        })
        .await;
        match text {
            None => fs::remove_file(lab.path("state.json")).unwrap(),
            Some(text) => fs::write(lab.path("state.json"), text).unwrap(),
        }
        let before = ids(&lab.plane.borrow(), FIRST);
        let (driver, lab) = lab.start_again(CONFIG).await;
        run_and_kill(driver.unwrap(), async {
            let status = lab.status_when(|_| true).await;
            assert!(!status.services[0].pools[0].backends[0].draining);
        })
        .await;
        assert_eq!(ids(&lab.plane.borrow(), FIRST), before);
        assert_eq!(lab.plane.borrow().memory.check_references(), Ok(()));
    }
}

#[tokio::test]
async fn what_a_killed_process_had_changed_on_the_machine_is_taken_back_at_the_end() {
    let (driver, lab) = Lab::start(CONFIG).await;
    let vip = "203.0.113.10".parse().unwrap();
    let has_vip = |lab: &Lab| lab.world.borrow().reading.owners(vip).next().is_some();
    run_and_kill(driver, async {
        lab.status_when(|_| true).await;
    })
    .await;
    assert!(has_vip(&lab));
    let (driver, lab) = lab.start_again(CONFIG).await;
    run(driver.unwrap(), async {
        assert!(has_vip(&lab));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    assert!(!has_vip(&lab));
    assert_eq!(lab.setting("ipv4/conf/eth0/forwarding"), "0");
    assert!(!lab.path("state.json").exists());
}

#[tokio::test]
async fn a_start_that_fails_leaves_what_an_earlier_process_has_left() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run_and_kill(driver, async {
        lab.status_when(|_| true).await;
    })
    .await;
    lab.plane.send_modify(|plane| {
        plane.refusing.insert("eth0".to_owned());
    });
    let before = lab.plane.borrow().memory.contents().clone();
    let (driver, lab) = lab.start_again(CONFIG).await;
    assert!(driver.is_err());
    assert_eq!(lab.plane.borrow().memory.contents(), &before);
    assert_eq!(lab.plane.borrow().end, Some(End::Kept));
    assert_eq!(lab.setting("ipv4/conf/eth0/forwarding"), "1");
    // And the next one can.
    lab.plane.send_modify(|plane| plane.refusing.clear());
    let (driver, lab) = lab.start_again(CONFIG).await;
    run(driver.unwrap(), async {
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    assert_eq!(lab.setting("ipv4/conf/eth0/forwarding"), "0");
}

#[tokio::test]
async fn an_edit_of_what_ran_in_an_earlier_process_is_refused_by_the_next() {
    let lighter = CONFIG.replace("weight = 3", "weight = 2");
    let (driver, lab) = Lab::start(CONFIG).await;
    run_and_kill(driver, async {
        lab.reload(&lighter);
        lab.status_when(|status| status.config.generation == 2).await;
    })
    .await;
    // Changed while nothing ran: two processes later it is the second time that a configuration is taken.
    let (driver, lab) = lab.start_again(CONFIG).await;
    run_and_kill(driver.unwrap(), async {
        assert_eq!(lab.status_when(|_| true).await.config.generation, 3);
    })
    .await;
    let (driver, lab) = lab.start_again(&lighter).await;
    run(driver.unwrap(), async {
        assert_eq!(lab.status_when(|_| true).await.config.generation, 4);
        let weight = "/api/v1/services/web/backends/10.0.0.1%3A8080";
        let edit = async |tag: &str| {
            let head = format!("If-Match: \"{tag}\"\r\n");
            lab.send(&format!("PATCH {weight}"), &head, "{\"weight\": 9}").await.0
        };
        for seen in ["1", "2", "3"] {
            assert_eq!(edit(seen).await, 412, "generation {seen}");
        }
        assert_eq!(edit("4").await, 200);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    // Nothing is in force any more: what comes then is the first again.
    let kept = fs::read_to_string(lab.path("state.json")).unwrap();
    assert!(kept.contains("10.0.0.1:8080") && !kept.contains("generation"), "{kept}");
}
