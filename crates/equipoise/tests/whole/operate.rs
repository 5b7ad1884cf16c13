//! Drains and breakers, asked for as operators do.

use equipoise::admin::client::ClientError;
use equipoise::status::health::HealthFilter;
use equipoise::status::operate::{
    BreakerRequest, DrainAnswer, DrainRequest, DrainStatus, Selection, UndrainRequest,
};
use equipoise::status::{BackendStatus, Decimal};

use super::*;

pub(super) const FIRST: &str = "10.0.0.1:8080";
pub(super) const SECOND: &str = "10.0.0.2:8080";

pub(super) fn of(backend: &str) -> Selection {
    let (service, backend) = (Some("web".to_owned()), Some(backend.to_owned()));
    Selection { service, backend, ..Selection::default() }
}

pub(super) fn drain(backends: &[&str]) -> DrainRequest {
    DrainRequest {
        backends: backends.iter().map(|backend| of(backend)).collect(),
        timeout: None,
        on_timeout: None,
        force: false,
        wait: false,
    }
}

fn statuses(answer: &DrainAnswer) -> Vec<&str> {
    answer.drains.iter().map(|drain| drain.status.as_str()).collect()
}

fn http_status(error: ClientError) -> u16 {
    let ClientError::Problem(problem) = error else { panic!("{error}") };
    problem.status
}

impl Lab {
    async fn backend(&self, number: usize) -> BackendStatus {
        self.client.status().await.unwrap().services[0].pools[0].backends[number].clone()
    }

    async fn weights(&self) -> Vec<f64> {
        let status = self.client.status().await.unwrap();
        let backends = &status.services[0].pools[0].backends;
        backends.iter().map(|backend| backend.effective_weight).collect()
    }

    /// So many live flows at the backend of this id.
    pub(super) fn flows(&self, backend: u32, count: u16) {
        let flows = (0..count).map(|n| {
            flow(&format!("198.51.100.7:{}", 1000 + n), FIRST, (0, backend), "established")
        });
        self.plane.send_modify(|plane| plane.flows = flows.collect());
    }

    /// Whether a slot of any pool has this backend.
    pub(super) fn is_chosen(&self, id: u32) -> bool {
        health::chosen(self).contains(&id)
    }
}

/// The second process of a lab whose first has ended.
pub(super) async fn again(lab: Lab, text: &str) -> (TestDriver, Lab) {
    let (driver, after) = Lab::try_start_in(lab.directory, text).await;
    (driver.unwrap(), after)
}

#[tokio::test]
async fn drained_backend_is_in_no_slot_when_that_is_answered_and_comes_back() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        lab.flows(0, 2);
        let answer = lab.client.drain(&drain(&[FIRST])).await.unwrap();
        assert!(!lab.is_chosen(0) && lab.is_chosen(1));
        assert_eq!((statuses(&answer), answer.last), (vec!["draining"], false));
        let drain = &answer.drains[0];
        assert_eq!((drain.initial_flows, drain.configured_weight), (2, Decimal(3.0)));
        assert_eq!((drain.timeout_ms, &*drain.on_timeout), (30_000, "keep"));
        let backend = lab.backend(0).await;
        assert!(backend.draining && backend.effective_weight == 0.0 && backend.live_flows == 2);
        assert_eq!(lab.client.drains().await.unwrap().drains.len(), 1);

        let ended = lab.client.undrain(&UndrainRequest::of(of(FIRST))).await.unwrap();
        assert_eq!(ended[0].status, "cancelled");
        assert!(lab.is_chosen(0));
        assert_eq!(lab.weights().await, [3.0, 1.0]);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    assert!(!lab.path("state.json").exists(), "nothing is left to be kept");
}

#[tokio::test]
async fn who_waits_is_answered_when_the_last_flow_has_ended() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        lab.flows(0, 1);
        let request = DrainRequest { wait: true, ..drain(&[FIRST]) };
        let waiting = lab.client.drain(&request);
        let ends = async {
            lab.status_when(|status| status.services[0].pools[0].backends[0].draining).await;
            lab.flows(0, 0);
        };
        let (answer, ()) = tokio::join!(waiting, ends);
        assert_eq!(statuses(&answer.unwrap()), ["completed"]);
        assert!(lab.backend(0).await.draining, "it stays so");
        assert!(!lab.is_chosen(0));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn flow_that_a_packet_in_flight_opens_as_the_drain_begins_is_waited_for() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let last = flow("198.51.100.7:1", FIRST, (0, 0), "opening");
        lab.plane.send_modify(|plane| plane.in_flight = vec![last]);
        let request = DrainRequest { wait: true, ..drain(&[FIRST]) };
        let ends = async {
            lab.status_when(|status| status.services[0].pools[0].backends[0].draining).await;
            let drains = lab.client.drains().await.unwrap().drains;
            assert_eq!((&*drains[0].status, drains[0].initial_flows), ("draining", 1));
            lab.flows(0, 0);
        };
        let (answer, ()) = tokio::join!(lab.client.drain(&request), ends);
        assert_eq!(statuses(&answer.unwrap()), ["completed"]);
        // Where there is none, that is known at once.
        let answer = lab.client.drain(&drain(&[SECOND])).await.unwrap();
        assert_eq!(statuses(&answer), ["completed"]);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn maps_that_refuse_a_drain_do_not_complete_it() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Every(1)));
        let refused = lab.client.drain(&drain(&[FIRST])).await.unwrap_err();
        assert_eq!(http_status(refused), 500);
        let drains = lab.client.drains().await.unwrap().drains;
        assert_eq!((drains[0].status.as_str(), lab.is_chosen(0)), ("draining", true));
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Never));
        lab.status_when(|status| status.state == Health::Ok).await;
        assert!(!lab.is_chosen(0));
        let over = async {
            while lab.client.drains().await.unwrap().drains[0].status != "completed" {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, over).await.expect("it is over when it is in force");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn who_waits_for_a_drain_that_is_undone_is_told_so() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        lab.flows(0, 1);
        let request = DrainRequest { wait: true, ..drain(&[FIRST]) };
        let undone = async {
            lab.status_when(|status| status.services[0].pools[0].backends[0].draining).await;
            lab.client.undrain(&UndrainRequest::of(of(FIRST))).await.unwrap();
        };
        let (answer, ()) = tokio::join!(lab.client.drain(&request), undone);
        assert_eq!(statuses(&answer.unwrap()), ["cancelled"]);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn undrained_backend_gets_its_share_bit_by_bit_where_that_is_asked_for() {
    let recovery = "recovery = { mode = 'linear', slow-start = '2s' }";
    let (driver, lab) = Lab::start(&format!("{CONFIG}{recovery}\n")).await;
    run(driver, async {
        lab.client.drain(&drain(&[FIRST])).await.unwrap();
        let request = UndrainRequest { gradual: true, ..UndrainRequest::of(of(FIRST)) };
        lab.client.undrain(&request).await.unwrap();
        let weight = lab.backend(0).await.effective_weight;
        assert!(0.0 < weight && weight < 1.0 && lab.is_chosen(0), "{weight}");
        let health = lab.client.health(&HealthFilter::default()).await.unwrap();
        assert!(health[0].recovered < 100 && health[1].recovered == 100);
        let mut last = weight;
        lab.status_when(|status| {
            let weight = status.services[0].pools[0].backends[0].effective_weight;
            assert!(weight >= last, "{weight} after {last}");
            last = weight;
            weight == 3.0
        })
        .await;
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn flows_that_are_over_are_not_waited_for() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let closing =
            ["closing", "closing"].map(|state| flow("198.51.100.7:1", FIRST, (0, 0), state));
        let open = flow("198.51.100.7:2", FIRST, (0, 0), "established");
        let all = closing.iter().cloned().chain([open]).collect();
        lab.plane.send_modify(|plane| plane.flows = all);
        let request = DrainRequest { wait: true, ..drain(&[FIRST]) };
        let waiting = lab.client.drain(&request);
        let ends = async {
            lab.status_when(|status| status.services[0].pools[0].backends[0].draining).await;
            let drains = lab.client.drains().await.unwrap().drains;
            let DrainStatus { initial_flows, live_flows, closing_flows, .. } = drains[0];
            assert_eq!((initial_flows, live_flows, closing_flows), (1, 1, 2));
            assert_eq!(drains[0].status, "draining");
            lab.plane.send_modify(|plane| plane.flows = closing.into());
        };
        let (answer, ()) = tokio::join!(waiting, ends);
        assert_eq!(statuses(&answer.unwrap()), ["completed"]);
        assert_eq!(lab.backend(0).await.live_flows, 2);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn time_runs_out_and_flows_are_reset_where_that_is_asked_for() {
    for (on_timeout, sweeps) in [("keep", false), ("reset", true)] {
        let (driver, lab) = Lab::start(CONFIG).await;
        run(driver, async {
            lab.flows(0, 1);
            let before = lab.plane.borrow().memory.contents().backends[&0].generation;
            let answer = lab
                .client
                .drain(&DrainRequest {
                    wait: true,
                    timeout: Some("50ms".to_owned()),
                    on_timeout: Some(on_timeout.to_owned()),
                    ..drain(&[FIRST])
                })
                .await
                .unwrap();
            assert_eq!(statuses(&answer), ["timeout"]);
            let after = lab.plane.borrow().memory.contents().backends[&0].generation;
            assert_eq!(before != after, sweeps, "{on_timeout}");
            lab.client.stop().await.unwrap();
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn last_backend_is_drained_with_a_warning_and_serves_on_unless_that_is_forced() {
    for (force, weights) in [(false, vec![3.0, 1.0]), (true, vec![0.0, 0.0])] {
        let (driver, lab) = Lab::start(CONFIG).await;
        run(driver, async {
            let request = DrainRequest { force, ..drain(&[FIRST, SECOND]) };
            let answer = lab.client.drain(&request).await.unwrap();
            assert_eq!((statuses(&answer).len(), answer.last), (2, true));
            assert_eq!(answer.warnings.len(), 1, "{:?}", answer.warnings);
            assert_eq!(lab.weights().await, weights);
            lab.client.stop().await.unwrap();
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn what_cannot_be_drained_is_said_and_nothing_is_begun() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let refused = async |request| http_status(lab.client.drain(&request).await.unwrap_err());
        assert_eq!(refused(drain(&["10.0.0.9:8080"])).await, 404);
        assert_eq!(refused(drain(&[FIRST, "10.0.0.9:8080"])).await, 404);
        assert_eq!(refused(drain(&["somewhere"])).await, 422);
        assert_eq!(refused(drain(&[])).await, 422);
        let timeout = Some("soon".to_owned());
        assert_eq!(refused(DrainRequest { timeout, ..drain(&[FIRST]) }).await, 422);
        let host = Some("192.0.2.99".parse().unwrap());
        let nobody = Selection { host, ..Selection::default() };
        assert_eq!(refused(DrainRequest { backends: vec![nobody], ..drain(&[]) }).await, 404);
        assert!(lab.client.drains().await.unwrap().drains.is_empty());
        lab.client.drain(&drain(&[SECOND])).await.unwrap();
        assert_eq!(refused(drain(&[FIRST, SECOND])).await, 409);
        assert_eq!(lab.weights().await, [3.0, 0.0]);
        assert_eq!(
            http_status(lab.client.undrain(&UndrainRequest::of(of(FIRST))).await.unwrap_err()),
            404
        );
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn whole_host_is_drained_and_undrained_at_once() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let host = Selection { host: Some("10.0.0.2".parse().unwrap()), ..Selection::default() };
        let request = DrainRequest { backends: vec![host.clone()], ..drain(&[]) };
        let answer = lab.client.drain(&request).await.unwrap();
        assert_eq!(answer.drains[0].backend, SECOND.parse().unwrap());
        assert_eq!(lab.weights().await, [3.0, 0.0]);
        assert_eq!(lab.client.undrain(&UndrainRequest::of(host)).await.unwrap().len(), 1);
        assert_eq!(lab.weights().await, [3.0, 1.0]);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn drains_outlive_reload_and_process_and_end_with_their_backend() {
    let (driver, lab) = Lab::start(CONFIG).await;
    let other = CONFIG.replace("weight = 3", "weight = 5");
    run(driver, async {
        lab.flows(0, 1);
        let request = DrainRequest { timeout: Some("1h".to_owned()), ..drain(&[FIRST]) };
        lab.client.drain(&request).await.unwrap();
        let itself = Selection { itself: true, ..Selection::default() };
        lab.client.drain(&DrainRequest { backends: vec![itself], ..drain(&[]) }).await.unwrap();
        lab.reload(&other);
        lab.status_when(|status| status.config.generation == 2).await;
        assert_eq!(lab.weights().await, [0.0, 1.0]);
        // Who waits hears that the process ends, and that is all that ends.
        let waiting = DrainRequest { wait: true, ..drain(&[SECOND]) };
        lab.flows(1, 1);
        let stop = async {
            lab.status_when(|status| status.services[0].pools[0].backends[1].draining).await;
            lab.client.stop().await.unwrap();
        };
        let (answer, ()) = tokio::join!(lab.client.drain(&waiting), stop);
        assert_eq!(statuses(&answer.unwrap()), ["interrupted"]);
    })
    .await
    .unwrap();

    let (driver, lab) = again(lab, &other).await;
    run(driver, async {
        let drains = lab.client.drains().await.unwrap();
        assert!(drains.itself);
        let kept: Vec<_> = drains.drains.iter().map(|d| (d.backend, d.timeout_ms)).collect();
        let expected = [(FIRST.parse().unwrap(), 3_600_000), (SECOND.parse().unwrap(), 30_000)];
        assert_eq!(kept, expected);
        let without = other.replace("{ address = \"10.0.0.2:8080\", weight = 1 },", "");
        lab.reload(&without);
        lab.status_when(|status| status.config.generation == 2).await;
        assert_eq!(lab.client.drains().await.unwrap().drains.len(), 1);
        let itself = Selection { itself: true, ..Selection::default() };
        lab.client.undrain(&UndrainRequest::of(itself)).await.unwrap();
        lab.client.undrain(&UndrainRequest::of(of(FIRST))).await.unwrap();
        let drains = lab.client.drains().await.unwrap();
        assert!(!drains.itself && drains.drains.is_empty());
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn breakers_are_turned_by_hand() {
    let (driver, lab) =
        Lab::start(&format!("{CONFIG}\n[service.breaker]\nopen-for = '1h'\n")).await;
    let turn = |backend: &str, action: &str| BreakerRequest {
        service: "web".to_owned(),
        backend: backend.to_owned(),
        route: None,
        action: action.to_owned(),
    };
    run(driver, async {
        let all = lab.client.breakers(None).await.unwrap();
        assert_eq!(all.iter().map(|b| &*b.state).collect::<Vec<_>>(), ["closed", "closed"]);
        let turned = lab.client.turn_breaker(&turn(FIRST, "open")).await.unwrap();
        assert_eq!(turned[0].state, "open");
        assert!(turned[0].open_until.is_some() && !lab.is_chosen(0));
        assert_eq!((lab.weights().await, &*lab.backend(0).await.breaker), (vec![0.0, 1.0], "open"));
        lab.client.turn_breaker(&turn(SECOND, "open")).await.unwrap();
        assert_eq!(lab.weights().await, [3.0, 1.0], "all open is as if there were none");
        lab.client.turn_breaker(&turn(SECOND, "reset")).await.unwrap();
        lab.client.turn_breaker(&turn(FIRST, "close")).await.unwrap();
        assert_eq!(lab.weights().await, [3.0, 1.0]);
        let refused =
            async |request| http_status(lab.client.turn_breaker(&request).await.unwrap_err());
        assert_eq!(refused(turn("10.0.0.9:8080", "open")).await, 404);
        assert_eq!(refused(turn(FIRST, "bend")).await, 422);
        assert_eq!(http_status(lab.client.breakers(Some("dns")).await.unwrap_err()), 404);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn word_about_health_outlives_the_process_until_it_is_taken_back() {
    use equipoise::status::health::Word;
    use health::{name, word};
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        lab.client.set_health(&name(FIRST), &word(Word::Down, None)).await.unwrap();
        lab.client.set_health(&name(SECOND), &word(Word::Up, Some(0.05))).await.unwrap();
        // The second word runs out, and is not to come again.
        lab.status_when(|status| status.services[0].pools[0].backends[1].health == "none").await;
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    let (driver, lab) = again(lab, CONFIG).await;
    run(driver, async {
        assert!(!lab.is_chosen(0), "not for a moment");
        assert_eq!(lab.weights().await, [0.0, 1.0]);
        assert_eq!(lab.backend(1).await.health, "none");
        lab.client.set_health(&name(FIRST), &word(Word::Auto, None)).await.unwrap();
        assert_eq!(lab.weights().await, [3.0, 1.0]);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    assert!(!lab.path("state.json").exists(), "nothing is left to be kept");
}
