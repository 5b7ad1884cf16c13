//! What backends get, and flows that are ended by hand.

use equipoise::dataplane::kernel::Farewell;
use equipoise::status::pool::{BackendShare, EndRequest};

use super::*;
use operate::{FIRST, SECOND};

fn status_of<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> u16 {
    let Err(ClientError::Problem(problem)) = answer else { panic!("{answer:?}") };
    problem.status
}

fn rounded(shares: &[BackendShare]) -> Vec<[f64; 3]> {
    let short = |share: f64| (share * 100.0).round() / 100.0;
    let of = |share: &BackendShare| {
        [share.configured_share, share.effective_share, share.actual_share].map(short)
    };
    shares.iter().map(of).collect()
}

#[tokio::test]
async fn pool_tells_what_backends_get_by_configuration_slots_and_flows() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        lab.plane.send_modify(|plane| {
            let (one, two) = (ids(plane, FIRST), ids(plane, SECOND));
            let at = |port: u16, backend, ids| {
                flow(&format!("198.51.100.1:{port}"), backend, ids, "established")
            };
            plane.flows = vec![at(1, FIRST, one), at(2, SECOND, two)];
        });
        let [pool] = &lab.client.pools("web", None).await.unwrap()[..] else { panic!("one pool") };
        assert_eq!((&*pool.route, &*pool.algorithm, pool.panic), ("default", "maglev", false));
        assert_eq!(pool.recomputed_at, None, "its weights do not follow live flows");
        assert_eq!(rounded(&pool.backends), [[0.75, 0.75, 0.5], [0.25, 0.25, 0.5]]);
        let slots: u32 = pool.backends.iter().map(|backend| backend.slots).sum();
        assert_eq!(u64::from(slots), pool.slots);
        let of_first = f64::from(pool.backends[0].slots) / f64::from(slots);
        assert!((of_first - 0.75).abs() < 0.01, "{of_first}");
        assert_eq!(status_of(lab.client.pools("mail", None).await), 404);
        assert_eq!(status_of(lab.client.pools("web", Some("10.0.0.0/8")).await), 404);
        assert_eq!(lab.client.pools("web", Some("default")).await.unwrap().len(), 1);
        assert_eq!(status_of(lab.client.recompute("web", None).await), 409);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn weights_that_follow_live_flows_are_made_anew_when_that_is_asked_for() {
    let config = format!("[settings.least-connections]\nupdate-interval = '1h'\n{CONFIG}")
        .replace("[[service]]", "[[service]]\nalgorithm = 'least-connections-weights'");
    let (driver, lab) = Lab::start(&config).await;
    run(driver, async {
        // Once, at the start; and then in an hour.
        let before = lab.client.recompute("web", None).await.unwrap().remove(0);
        assert_eq!(rounded(&before.backends)[0], [0.75, 0.75, 0.0]);
        lab.flows(0, 3);
        let same = lab.client.pools("web", None).await.unwrap().remove(0);
        assert_eq!(rounded(&same.backends)[0], [0.75, 0.75, 1.0]);
        let after = lab.client.recompute("web", Some("default")).await.unwrap().remove(0);
        assert_eq!(rounded(&after.backends), [[0.75, 0.43, 1.0], [0.25, 0.57, 0.0]]);
        assert!(after.recomputed_at >= before.recomputed_at, "{after:?}");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn flows_are_ended_that_are_asked_for_and_no_others() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let fill = || {
            lab.plane.send_modify(|plane| {
                let (one, two) = (ids(plane, FIRST), ids(plane, SECOND));
                plane.flows = vec![
                    flow("198.51.100.1:1000", FIRST, one, "established"),
                    flow("198.51.100.1:1001", SECOND, two, "opening"),
                    flow("198.51.100.2:1000", SECOND, two, "two-way"),
                ];
            });
        };
        let left = || {
            let plane = lab.plane.borrow();
            plane.flows.iter().map(|flow| flow.client.to_string()).collect::<Vec<_>>()
        };
        let end = async |request: EndRequest| lab.client.end_flows(&request).await;
        fill();
        assert_eq!(status_of(end(EndRequest::default()).await), 422, "all is to be said");
        let client = Some("198.51.100.1".to_owned());
        let both = EndRequest { client: client.clone(), all: true, ..EndRequest::default() };
        assert_eq!(status_of(end(both).await), 422);
        assert_eq!(left().len(), 3);
        let second =
            EndRequest { backend: Some(SECOND.to_owned()), client, ..EndRequest::default() };
        assert_eq!(end(second).await.unwrap().ended, 1);
        assert_eq!(left(), ["198.51.100.1:1000", "198.51.100.2:1000"]);
        let web =
            EndRequest { service: Some("web".to_owned()), reset: true, ..EndRequest::default() };
        assert_eq!(end(web.clone()).await.unwrap().ended, 2);
        assert_eq!(end(web).await.unwrap().ended, 0);
        fill();
        let all = EndRequest { all: true, ..EndRequest::default() };
        assert_eq!(end(all).await.unwrap().ended, 3);
        let said = lab.plane.borrow().farewells.clone();
        assert_eq!(said, [Farewell::Silent, Farewell::Reset, Farewell::Reset, Farewell::Silent]);
        let mail = EndRequest { service: Some("mail".to_owned()), ..EndRequest::default() };
        assert_eq!(status_of(end(mail).await), 404);
        let ten = EndRequest { client: Some("ten".to_owned()), ..EndRequest::default() };
        assert_eq!(status_of(end(ten).await), 422);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}
