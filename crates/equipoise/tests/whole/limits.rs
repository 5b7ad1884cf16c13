//! Limits and denied prefixes changed while the instance runs.

use equipoise::status::change::{ReloadAnswer, ReloadRequest, ReloadResult};
use equipoise::status::limits::{
    Denied, DenyRequest, Rate, RateRequest, ServiceLimits, SourceRate,
};
use equipoise_core::config::RateOf;
use equipoise_core::plan::Rule;

use super::*;
use operate::{FIRST, again};

const LIMITED: &str = "limits = { per-source = { rate = 5, burst = 50, prefix = { v4 = 24 } } }\n";

fn rate(rate: u32, burst: Option<u32>) -> RateRequest {
    RateRequest { rate, burst }
}

fn refused(answer: Result<ReloadAnswer, ClientError>) -> (u16, String) {
    let Err(ClientError::Problem(problem)) = answer else { panic!("{answer:?}") };
    (problem.status, problem.errors.first().map(|error| error.key.clone()).unwrap_or_default())
}

fn for_good() -> DenyRequest {
    DenyRequest::default()
}

fn at_web() -> DenyRequest {
    DenyRequest { service: Some("web".to_owned()), for_seconds: None }
}

impl Lab {
    async fn limits(&self) -> ServiceLimits {
        self.client.limits(Some("web")).await.unwrap().services.remove(0)
    }

    /// What the packet programs go by: rate and burst per source and per backend.
    fn in_force(&self) -> [(u32, u32); 2] {
        let plane = self.plane.borrow();
        let limits = plane.memory.contents().policies[&0].limits;
        [limits.source, limits.backend].map(|rate| (rate.rate, rate.burst))
    }

    /// Prefixes that the packet programs deny.
    fn denies(&self) -> Vec<String> {
        let plane = self.plane.borrow();
        let access = plane.memory.contents().access.iter();
        let denied = access.filter(|(_, rule)| **rule == Rule::Deny);
        denied.map(|(listed, _)| listed.to_string()).collect()
    }

    async fn denied(&self) -> Vec<Denied> {
        self.client.denied().await.unwrap()
    }
}

#[tokio::test]
async fn rates_are_in_the_maps_when_that_is_answered_and_outlive_reload_and_process() {
    let config = format!("{CONFIG}{LIMITED}");
    let (driver, lab) = Lab::start(&config).await;
    run(driver, async {
        assert_eq!(lab.in_force(), [(5, 50), (0, 0)]);
        let answer = lab.client.set_rate("web", RateOf::PerSource, rate(7, None)).await.unwrap();
        assert_eq!(
            (answer.result, &*answer.services.changed),
            (ReloadResult::Applied, &["web".to_owned()][..])
        );
        assert_eq!(
            lab.in_force(),
            [(7, 14), (0, 0)],
            "twice the rate, and not the burst of the file"
        );
        lab.client.set_rate("web", RateOf::PerBackend, rate(3, Some(4))).await.unwrap();
        let limits = lab.limits().await;
        let source = SourceRate { rate: Rate { rate: 7, burst: 14 }, prefix_v4: 24, prefix_v6: 64 };
        assert_eq!(limits.per_source, Some(source), "what one source is stays as the file says");
        assert_eq!(limits.per_backend, Some(Rate { rate: 3, burst: 4 }));
        assert_eq!(limits.changed, ["per-source", "per-backend"]);
        assert_eq!(
            lab.client.config().await.unwrap()["service"][0]["limits"]["per_backend"]["rate"],
            3
        );
        lab.client.reload(&ReloadRequest::default()).await.unwrap();
        assert_eq!(lab.in_force(), [(7, 14), (3, 4)]);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    let (driver, lab) = again(lab, &config).await;
    run(driver, async {
        assert_eq!(lab.in_force(), [(7, 14), (3, 4)], "not a moment without");
        // None at all, whatever the file says; and then what the file says.
        lab.client.clear_rate("web", None).await.unwrap();
        assert_eq!((lab.in_force(), lab.limits().await.per_source), ([(0, 0), (0, 0)], None));
        assert_eq!(lab.limits().await.changed, ["per-source"], "the file has no other one");
        lab.client.set_rate("web", RateOf::PerSource, rate(5, Some(50))).await.unwrap();
        assert_eq!(lab.limits().await.changed, Vec::<String>::new());
        lab.client.set_rate("web", RateOf::PerSource, rate(9, None)).await.unwrap();
        let reset = ReloadRequest { reset: true, ..ReloadRequest::default() };
        lab.client.reload(&reset).await.unwrap();
        assert_eq!(lab.in_force(), [(5, 50), (0, 0)]);
        let set = async |service: &str, request| {
            refused(lab.client.set_rate(service, RateOf::PerSource, request).await)
        };
        assert_eq!(set("mail", rate(1, None)).await.0, 404);
        let key = "service[0].limits.per-source";
        assert_eq!(set("web", rate(1_000_001, Some(1))).await, (422, format!("{key}.rate")));
        assert_eq!(set("web", rate(1, Some(0))).await, (422, format!("{key}.burst")));
        assert_eq!(refused(lab.client.clear_rate("mail", None).await).0, 404);
        assert_eq!(lab.in_force(), [(5, 50), (0, 0)]);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    assert!(!lab.path("state.json").exists(), "nothing is left to be kept");
}

#[tokio::test]
async fn refusals_are_told_by_what_has_refused() {
    let (driver, lab) = Lab::start(CONFIG).await;
    lab.plane.send_modify(|plane| {
        plane.verdicts = vec![
            (Hook::Xdp, Verdict::SourceLimit, 3),
            (Hook::Ingress, Verdict::SourceLimit, 4),
            (Hook::Xdp, Verdict::SourceDenied, 5),
            (Hook::Xdp, Verdict::ForwardedRequest, 6),
        ];
    });
    run(driver, async {
        let refused = lab.client.limits(None).await.unwrap().refused;
        let told: Vec<_> = refused.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        let right =
            [("backend_limit", 0), ("flow_limit", 0), ("source_denied", 5), ("source_limit", 7)];
        assert_eq!(told, right);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn denied_clients_lose_their_flows_and_are_kept_out_until_that_is_taken_back() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        lab.plane.send_modify(|plane| {
            let clients = ["198.51.100.7:1", "192.0.2.7:1"];
            plane.flows = clients.map(|client| flow(client, FIRST, (0, 0), "established")).into();
        });
        let answer = lab.client.deny("198.51.100.0/24", &for_good()).await.unwrap();
        assert_eq!(answer.result, ReloadResult::Applied);
        assert_eq!(lab.denies(), ["198.51.100.0/24 for all services"]);
        let left = lab.client.flows(&FlowFilter::default()).await.unwrap();
        assert_eq!(
            left.iter().map(|flow| flow.client.to_string()).collect::<Vec<_>>(),
            ["192.0.2.7:1"]
        );
        let again = lab.client.deny("198.51.100.0/24", &for_good()).await.unwrap();
        assert_eq!(again.result, ReloadResult::Unchanged);
        lab.client.deny("2001:db8::1", &at_web()).await.unwrap();
        assert_eq!(lab.limits().await.denied, 2);
        assert_eq!(
            lab.denies(),
            ["198.51.100.0/24 for all services", "2001:db8::1/128 for service 0"]
        );
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    let (driver, lab) = again(lab, CONFIG).await;
    run(driver, async {
        assert_eq!(lab.denies().len(), 2, "not a moment without");
        let again = async |prefix: &str, service: Option<&str>| {
            lab.client.allow_again(prefix, service).await
        };
        assert_eq!(refused(again("2001:db8::1", None).await).0, 404, "it is of one service");
        again("2001:db8::1/128", Some("web")).await.unwrap();
        again("198.51.100.0/24", None).await.unwrap();
        assert_eq!((lab.denies(), lab.denied().await), (Vec::new(), Vec::new()));
        assert_eq!(refused(again("198.51.100.0/24", None).await).0, 404);
        assert_eq!(refused(lab.client.deny("ten", &for_good()).await).0, 422);
        assert_eq!(refused(lab.client.deny("10.0.0.1/8", &for_good()).await).0, 422);
        let mail = DenyRequest { service: Some("mail".to_owned()), ..for_good() };
        assert_eq!(refused(lab.client.deny("10.0.0.0/8", &mail).await).0, 404);
        // What somebody else may have written is shown in a line, and not all of it.
        let path = format!("PATCH /api/v1/services/%1b%5d0%3b{}/backends/x", "long".repeat(100));
        assert_eq!(lab.send(&path, "", "{\"weight\":1}").await.0, 404);
        let what = lab.client.history().await.unwrap()[0].what.clone();
        assert!(what.contains("\\u{1b}]0;long") && what.chars().count() < 220, "{what}");
        for seconds in [0.0, -1.0, 3e11, 1e19, 1e300] {
            let request = DenyRequest { for_seconds: Some(seconds), ..for_good() };
            assert_eq!(refused(lab.client.deny("10.0.0.0/8", &request).await).0, 422, "{seconds}");
        }
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    assert!(!lab.path("state.json").exists(), "nothing is left to be kept");
}

#[tokio::test]
async fn what_is_denied_until_a_time_is_let_in_again_then_by_this_process_or_the_next() {
    let (driver, lab) = Lab::start(CONFIG).await;
    let until = |seconds| DenyRequest { for_seconds: Some(seconds), ..for_good() };
    run(driver, async {
        lab.client.deny("198.51.100.0/24", &until(3600.0)).await.unwrap();
        lab.client.deny("192.0.2.0/24", &until(0.2)).await.unwrap();
        assert_eq!(lab.denies().len(), 2);
        lab.status_when(|_| lab.denies().len() == 1).await;
        let [left] = &lab.denied().await[..] else { panic!("one is left") };
        let remaining = left.remaining_seconds.unwrap();
        assert!(left.prefix == "198.51.100.0/24" && 3590.0 < remaining && remaining <= 3600.0);
        let history = lab.client.history().await.unwrap();
        assert_eq!(history[0].what, "the time of denied prefixes is up");
        // The next process finds this one over.
        lab.client.deny("192.0.2.0/24", &until(0.2)).await.unwrap();
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (driver, lab) = again(lab, CONFIG).await;
    run(driver, async {
        assert_eq!(lab.denies(), ["198.51.100.0/24 for all services"]);
        assert_eq!(lab.denied().await.len(), 1);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_cannot_be_let_in_again_yet_is_tried_until_it_can() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let request = DenyRequest { for_seconds: Some(1.0), ..for_good() };
        lab.client.deny("192.0.2.0/24", &request).await.unwrap();
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Every(1)));
        let trying = async {
            while lab.client.history().await.unwrap()[0].result != ReloadResult::RolledBack {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, trying).await.expect("it is tried");
        assert_eq!(lab.denied().await.len(), 1, "it is denied still, and told so");
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Never));
        lab.status_when(|_| lab.denies().is_empty()).await;
        assert_eq!(lab.denied().await, []);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}
