//! Flows are told as they open and close to whoever follows them, and to nobody else.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use equipoise::admin::client::FlowStream;
use equipoise::flow_events::FlowTold;
use equipoise::status::flow_event::FlowEvent;

use super::*;
use access_log::{closed, closed_of, opened};

/// The next one, which is to come.
async fn next(stream: &mut FlowStream) -> FlowEvent {
    let told = tokio::time::timeout(DEADLINE, stream.next()).await.expect("a flow event comes");
    match told.unwrap() {
        Some(FlowTold::Flow(flow)) => *flow,
        other => panic!("{other:?}"),
    }
}

fn service(name: &str) -> FlowFilter {
    FlowFilter { service: Some(name.to_owned()), ..FlowFilter::default() }
}

#[tokio::test]
async fn a_follower_gets_what_opens_and_closes_from_then_on_and_only_what_it_wants() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        // Nobody follows, so that nobody has asked whose flows are.
        closed(&lab, 1..2);
        lab.status_when(|status| !status.flow_table.events.closed.is_empty()).await;
        let mut all = lab.client.flow_events(&FlowFilter::default()).await.unwrap();
        let mut of_web = lab.client.flow_events(&service("web")).await.unwrap();
        let elsewhere = FlowFilter { client: Some("192.0.2.0/24".into()), ..service("web") };
        let mut elsewhere = lab.client.flow_events(&elsewhere).await.unwrap();
        let backend = Some("10.0.0.1:8080".to_owned());
        let of_backend = FlowFilter { backend, ..FlowFilter::default() };
        let mut of_backend = lab.client.flow_events(&of_backend).await.unwrap();
        opened(&lab, 7..8);
        closed(&lab, 7..8);
        for stream in [&mut all, &mut of_web, &mut of_backend] {
            let flow = next(stream).await;
            assert_eq!((&*flow.event, flow.client.port), ("opened", 7));
            assert_eq!((flow.reason, flow.duration_ms), (None, None));
            let flow = next(stream).await;
            assert_eq!((&*flow.event, flow.client.port), ("closed", 7));
            assert_eq!((flow.reason.as_deref(), &*flow.state), (Some("client_fin"), "established"));
            assert_eq!(
                (flow.service.as_deref(), flow.route.as_deref()),
                (Some("web"), Some("default"))
            );
            assert_eq!(std::net::SocketAddr::from(flow.backend), "10.0.0.1:8080".parse().unwrap());
        }
        // A name of before is that of nothing now; one that comes to be is told with the new one.
        lab.reload(&CONFIG.replace("\"web\"", "\"other\""));
        lab.status_when(|status| status.config.generation == 2).await;
        let mut of_other = lab.client.flow_events(&service("other")).await.unwrap();
        let backends = lab.plane.borrow().memory.contents().backends.clone();
        let (newest, entry) = backends.iter().next_back().unwrap();
        closed_of(&lab, (entry.service.into(), *newest), 8..9);
        assert_eq!(next(&mut of_other).await.service.as_deref(), Some("other"));
        assert_eq!(next(&mut all).await.client.port, 8);
        lab.client.stop().await.unwrap();
        // Nothing for the others until the end, and then the end.
        for stream in [&mut all, &mut of_web, &mut elsewhere, &mut of_other] {
            assert_eq!(stream.next().await.unwrap(), None);
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_is_followed_for_a_time_ends_with_it() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let get = async |query: &str| {
            let line = format!("GET /api/v1/flows/events?{query}");
            tokio::time::timeout(DEADLINE, lab.send(&line, "", "")).await.expect("it ends")
        };
        let (code, head, body) = get("for_seconds=0.05").await;
        assert!(code == 200 && head.contains("text/event-stream") && body.is_empty(), "{body}");
        for wrong in ["for_seconds=0", "for_seconds=-1", "for_seconds=1e9"] {
            assert_eq!(get(wrong).await.0, 422, "{wrong}");
        }
        for wrong in ["for_seconds=soon", "for=1"] {
            assert_eq!(get(wrong).await.0, 400, "{wrong}");
        }
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_cannot_be_followed_is_refused_with_the_reason() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let status = async |filter: FlowFilter| match lab.client.flow_events(&filter).await {
            Err(ClientError::Problem(problem)) => problem.status,
            other => panic!("{other:?}"),
        };
        assert_eq!(status(service("nope")).await, 404);
        let backend = Some("10.9.9.9:1".to_owned());
        assert_eq!(status(FlowFilter { backend, ..FlowFilter::default() }).await, 404);
        let client = Some("ten".to_owned());
        assert_eq!(status(FlowFilter { client, ..FlowFilter::default() }).await, 422);
        let (exit, said) = lab.command("events --flows --service nope").await;
        assert!(exit == 3 && said.contains("nope"), "{said}");
        lab.reload(&format!("[settings]\nevents = false\n{CONFIG}"));
        lab.status_when(|status| status.config.generation == 2).await;
        assert_eq!(status(FlowFilter::default()).await, 409);
        let (exit, said) = lab.command("events --flows").await;
        assert!(exit == 5 && said.contains("`events` of the settings is false"), "{said}");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_command_writes_a_line_for_each_until_it_has_enough() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let begun = |how: &str| {
            let mut following = lab
                .invoked(&format!("events --flows --count 2{how}"))
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(following.stdout.take().unwrap()).lines();
            let lines =
                tokio::task::spawn_blocking(move || lines.map(Result::unwrap).collect::<Vec<_>>());
            (following, lines)
        };
        let (text, json) = (begun(""), begun(" --json --client 198.51.100.0/24"));
        let read = async {
            // They have begun to follow at some time, and are told from then on.
            let mut port = 1;
            while !(text.1.is_finished() && json.1.is_finished()) {
                closed(&lab, port..port + 1);
                port += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, read).await.unwrap();
        for ((mut following, lines), is_json) in [(text, false), (json, true)] {
            assert!(following.wait().unwrap().success());
            let lines = lines.await.unwrap();
            assert_eq!(lines.len(), 2, "{lines:?}");
            for line in lines {
                if is_json {
                    let flow: FlowEvent = serde_json::from_str(&line).unwrap();
                    assert_eq!(flow.service.as_deref(), Some("web"));
                } else {
                    assert!(line.contains(" closed tcp 198.51.100.7:"), "{line}");
                    assert!(
                        line.contains(" -> 203.0.113.10:80 at 10.0.0.1:8080 of web: client_fin "),
                        "{line}"
                    );
                }
            }
        }
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}
