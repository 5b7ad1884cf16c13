//! Metrics, scraped as a scraper does, and read by a reader of the test's own.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use equipoise::status::operate::{DrainRequest, Selection, UndrainRequest};
use equipoise_common::event::Event;
use equipoise_common::flow::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use restart::run_and_kill;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0";

/// An answer: its code, its head, its body.
pub(super) async fn get(address: SocketAddr, path: &str, accept: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_owned(), body.to_owned())
}

/// An address that is free now.
pub(super) fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Samples by name and labels, with the type of each family. Refuses what no scraper would take: a sample before its family's type, a
/// family or a sample twice, a counter by another name than its samples'.
pub(super) fn read(text: &str, is_open: bool) -> BTreeMap<String, f64> {
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    let mut samples = BTreeMap::new();
    let text = if is_open { text.strip_suffix("# EOF\n").expect("an end") } else { text };
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            let twice = types.insert(name.to_owned(), kind.to_owned());
            assert_eq!(twice, None, "{line}");
        } else if line.is_empty() {
            assert!(!is_open, "OpenMetrics has no empty lines");
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let of_histogram = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|ending| name.strip_suffix(ending))
                .find(|name| types.get(*name).is_some_and(|kind| kind == "histogram"));
            let family = match (of_histogram, name.strip_suffix("_total")) {
                (Some(family), _) => family,
                (None, Some(family)) if is_open => family,
                _ => name,
            };
            let kind = types.get(family).unwrap_or_else(|| panic!("{line} has no family"));
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert_eq!(kind == "histogram", of_histogram.is_some(), "{line}");
            let twice = samples.insert(series.to_owned(), value.parse().unwrap());
            assert_eq!(twice, None, "{line}");
        }
    }
    samples
}

fn config(listen: SocketAddr) -> String {
    format!("[settings.metrics]\nlisten = \"{listen}\"\n{CONFIG}")
        .replace("[[service]]", "[[service]]\nbreaker = {}")
}

#[tokio::test]
async fn a_scrape_tells_what_status_tells() {
    let listen = free();
    let (driver, lab) = Lab::start(&config(listen)).await;
    run(driver, async {
        lab.plane.send_modify(|plane| {
            plane.flows = vec![flow("198.51.100.7:1000", "10.0.0.1:8080", (0, 0), "established")];
        });
        let (code, head, text) = get(listen, "/metrics", "*/*").await;
        assert_eq!(code, 200);
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        let samples = read(&text, false);
        let sample =
            |series: &str| *samples.get(series).unwrap_or_else(|| panic!("{series} in {text}"));
        let first = "service=\"web\",route=\"default\",backend=\"10.0.0.1:8080\"";
        assert_eq!(sample("lb_up"), 1.0);
        assert_eq!(sample("lb_degraded"), 0.0);
        assert_eq!(sample(&format!("lb_backend_weight_configured{{{first}}}")), 3.0);
        assert_eq!(sample(&format!("lb_backend_weight_effective{{{first}}}")), 3.0);
        assert_eq!(sample(&format!("lb_backend_share{{{first}}}")), 0.75);
        assert_eq!(sample(&format!("lb_backend_connections{{{first}}}")), 1.0);
        assert_eq!(sample("lb_connections_active{backend=\"10.0.0.1:8080\"}"), 1.0);
        assert_eq!(sample(&format!("lb_circuit_breaker_state{{{first}}}")), 0.0);
        assert_eq!(sample(&format!("lb_bytes_total{{{first},direction=\"in\"}}")), 0.0);
        assert_eq!(
            sample("lb_algorithm{service=\"web\",route=\"default\",algorithm=\"maglev\"}"),
            1.0
        );
        assert_eq!(sample("lb_flow_table_flows{state=\"established\"}"), 1.0);
        assert_eq!(
            sample("lb_interface_attached{interface=\"eth0\",hook=\"xdp\",mode=\"native\"}"),
            1.0
        );
        assert!(!text.contains("lb_backend_health{"), "nothing is checked");

        let (_, head, open) = get(listen, "/metrics", OPEN_METRICS).await;
        assert!(
            head.contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{head}"
        );
        let mut again = read(&open, true);
        let mut before = samples.clone();
        for samples in [&mut again, &mut before] {
            samples.retain(|series, _| {
                !["lb_uptime", "lb_plan", "lb_apply"].iter().any(|name| series.starts_with(name))
            });
        }
        assert_eq!(again, before, "the same in either form");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_balancer_that_is_drained_or_misses_an_interface_is_alive_and_not_ready() {
    let listen = free();
    let (driver, lab) = Lab::start(&config(listen)).await;
    run(driver, async {
        let asked = async |path| {
            let (code, _, body) = get(listen, path, "*/*").await;
            (code, body.trim().to_owned())
        };
        assert_eq!(asked("/health").await, (200, "OK".to_owned()));
        assert_eq!(asked("/ready").await, (200, "ready".to_owned()));
        let itself = Selection { itself: true, ..Selection::default() };
        let request = DrainRequest {
            backends: vec![itself.clone()],
            timeout: None,
            on_timeout: None,
            force: false,
            wait: false,
        };
        lab.client.drain(&request).await.unwrap();
        assert_eq!(asked("/ready").await, (503, "drained".to_owned()));
        assert_eq!(asked("/health").await.0, 200);
        lab.client.undrain(&UndrainRequest::of(itself)).await.unwrap();
        assert_eq!(asked("/ready").await.0, 200);
        assert_eq!(asked("/other").await.0, 404);
        // Whoever comes by an interface that is not there does not come here.
        let device = lab.world.borrow().reading.devices["eth0"].clone();
        lab.world.send_modify(|world| drop(world.reading.devices.remove("eth0")));
        lab.status_when(|status| status.state == Health::Degraded).await;
        assert_eq!(asked("/ready").await, (503, "an interface is not attached".to_owned()));
        lab.world.send_modify(|world| drop(world.reading.devices.insert("eth0".into(), device)));
        lab.status_when(|status| status.state == Health::Ok).await;
        assert_eq!(asked("/ready").await.0, 200);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_listener_follows_the_configuration() {
    let (first, second) = (free(), free());
    let (driver, lab) = Lab::start(&config(first)).await;
    run(driver, async {
        assert_eq!(get(first, "/metrics", "*/*").await.0, 200);
        lab.reload(&format!("[settings.metrics]\nlisten = \"{second}\"\npath = \"/m\"\n{CONFIG}"));
        lab.status_when(|status| status.config.generation == 2).await;
        assert_eq!(get(second, "/m", "*/*").await.0, 200);
        assert!(TcpStream::connect(first).await.is_err(), "the one before is closed");
        lab.reload(CONFIG);
        lab.status_when(|status| status.config.generation == 3).await;
        assert!(TcpStream::connect(second).await.is_err(), "nobody listens any more");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_address_that_is_taken_is_told_and_had_once_it_is_free() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let (driver, lab) = Lab::start(&config(listen)).await;
    run(driver, async {
        let status = lab.status_when(|status| status.state == Health::Degraded).await;
        assert!(status.reasons[0].starts_with(&format!("metrics on {listen}: ")), "{status:?}");
        drop(taken);
        lab.status_when(|status| status.state == Health::Ok).await;
        assert_eq!(get(listen, "/metrics", "*/*").await.0, 200);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_source_that_fails_loses_its_own_families_alone_and_is_counted() {
    let listen = free();
    let (driver, lab) = Lab::start(&config(listen)).await;
    run(driver, async {
        lab.plane.send_modify(|plane| plane.unreadable = true);
        let (code, _, text) = get(listen, "/metrics", "*/*").await;
        assert_eq!(code, 200);
        let samples = read(&text, false);
        assert_eq!(samples["lb_metrics_source_failures_total{source=\"status\"}"], 1.0);
        assert_eq!(samples["lb_up"], 1.0);
        assert!(samples.keys().any(|series| series.starts_with("lb_circuit_breaker_state")));
        assert!(!text.contains("lb_verdicts_total"), "{text}");
        lab.plane.send_modify(|plane| plane.unreadable = false);
        let (_, _, text) = get(listen, "/metrics", "*/*").await;
        assert!(text.contains("lb_service_up"), "{text}");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn failures_of_sources_are_counted_on_by_the_next_process() {
    let listen = free();
    let (driver, lab) = Lab::start(&config(listen)).await;
    const FAILURES: &str = "lb_metrics_source_failures_total{source=\"status\"}";
    run_and_kill(driver, async {
        lab.plane.send_modify(|plane| plane.unreadable = true);
        assert_eq!(get(listen, "/metrics", "*/*").await.0, 200);
        lab.plane.send_modify(|plane| plane.unreadable = false);
        // What is counted from the last writing on is lost with a process that is killed.
        lab.status_when(|_| {
            let kept = fs::read_to_string(lab.path("counters.json")).unwrap_or_default();
            kept.contains("\"status\":1")
        })
        .await;
    })
    .await;
    let (driver, lab) = lab.start_again(&config(listen)).await;
    run(driver.expect("starts again"), async {
        let (_, _, text) = get(listen, "/metrics", "*/*").await;
        assert_eq!(read(&text, false)[FAILURES], 1.0);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

/// A flow of the first backend that has closed, once the next sweep comes by.
pub(super) fn closed(lab: &Lab, event: Event) {
    lab.plane.send_modify(|plane| {
        let (service, backend) = ids(plane, "10.0.0.1:8080");
        let why = Reason::ClientFin as u32;
        plane.told.push(Event {
            what: Event::CLOSED,
            protocol: TCP,
            why,
            service,
            backend,
            ..event
        });
    });
}

const FIRST: &str = "service=\"web\",route=\"default\",backend=\"10.0.0.1:8080\"";

#[tokio::test]
async fn flows_that_have_closed_are_told_by_how_long_and_how_large_they_were() {
    let listen = free();
    let (driver, lab) = Lab::start(&config(listen)).await;
    run(driver, async {
        // 2 s, and a handshake of 2 ms.
        let ticks = 2_000_000_000 >> 20;
        closed(
            &lab,
            Event { duration: ticks, handshake: 2_000, bytes_in: 700, ..Event::default() },
        );
        closed(&lab, Event { bytes_out: 5_000_000, ..Event::default() });
        let closed = |status: &Status| status.services[0].pools[0].backends[0].flows;
        let status = lab.status_when(|status| closed(status).lifetime_seconds.count == 2).await;
        let flows = closed(&status);
        assert_eq!((flows.lifetime_seconds.p50, flows.lifetime_seconds.p99), (0.001, 2.5));
        assert_eq!((flows.handshake_seconds.count, flows.handshake_seconds.p95), (1, 0.005));
        assert_eq!((flows.bytes_in.p99, flows.bytes_out.p99), (1_000.0, 10_000_000.0));
        let (_, _, text) = get(listen, "/metrics", "*/*").await;
        let samples = read(&text, false);
        let sample =
            |series: &str| *samples.get(series).unwrap_or_else(|| panic!("{series} in {text}"));
        let lifetime = "lb_backend_latency_seconds";
        assert_eq!(sample(&format!("{lifetime}_bucket{{{FIRST},le=\"1.0\"}}")), 1.0);
        assert_eq!(sample(&format!("{lifetime}_bucket{{{FIRST},le=\"2.5\"}}")), 2.0);
        assert_eq!(sample(&format!("{lifetime}_bucket{{{FIRST},le=\"+Inf\"}}")), 2.0);
        assert_eq!(sample(&format!("{lifetime}_count{{{FIRST}}}")), 2.0);
        assert_eq!(sample(&format!("lb_backend_handshake_seconds_count{{{FIRST}}}")), 1.0);
        let sum = sample(&format!("lb_backend_flow_bytes_sum{{{FIRST},direction=\"out\"}}"));
        assert_eq!(sum, 5_000_000.0);
        assert_eq!(sample("lb_flows_closed_total{reason=\"client_fin\"}"), 2.0);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_the_instance_does_is_counted() {
    let listen = free();
    let (driver, lab) = Lab::start(&config(listen)).await;
    run(driver, async {
        lab.reload(&config(listen).replace("weight = 3", "weight = 2"));
        lab.status_when(|status| status.config.generation == 2).await;
        lab.reload("nonsense");
        lab.status_when(|status| status.config.last_error.is_some()).await;
        let (_, _, text) = get(listen, "/metrics", "*/*").await;
        let samples = read(&text, false);
        assert_eq!(samples["lb_reloads_total{result=\"applied\"}"], 1.0);
        assert_eq!(samples["lb_reloads_total{result=\"rejected\"}"], 1.0);
        assert_eq!(samples["lb_events_total{kind=\"config_applied\"}"], 1.0);
        assert_eq!(samples["lb_config_last_reload_successful"], 0.0);
        assert_eq!(samples["lb_degraded_reason{topic=\"maps\"}"], 0.0);
        assert!(samples["lb_apply_seconds_count"] >= 1.0, "{text}");
        assert!(samples["lb_plan_seconds_count"] >= 1.0, "{text}");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn no_counter_falls_over_reload_and_the_death_of_the_process() {
    let listen = free();
    let text = config(listen);
    let (driver, lab) = Lab::start(&text).await;
    let scraped = async || {
        let (_, _, text) = get(listen, "/metrics", "*/*").await;
        read(&text, false)
    };
    let mut before = BTreeMap::new();
    run_and_kill(driver, async {
        closed(&lab, Event { duration: 9, handshake: 3, bytes_in: 70, ..Event::default() });
        let closed = |status: &Status| status.services[0].pools[0].backends[0].flows;
        lab.status_when(|status| closed(status).lifetime_seconds.count == 1).await;
        lab.reload(&text.replace("weight = 3", "weight = 2"));
        lab.status_when(|status| status.config.generation == 2).await;
        // What is counted from the last writing on is lost with a process that is killed.
        let kept = || fs::read_to_string(lab.path("counters.json")).unwrap_or_default();
        lab.status_when(|_| kept().contains("\"applied\":1")).await;
        before = scraped().await;
    })
    .await;
    let (driver, lab) = lab.start_again(&text).await;
    run(driver.expect("starts again"), async {
        let after = scraped().await;
        assert_eq!(after[&format!("lb_backend_latency_seconds_count{{{FIRST}}}")], 1.0);
        for (series, value) in &before {
            let name = series.split('{').next().unwrap();
            let ends = ["_total", "_bucket", "_count", "_sum"];
            // How long things took is counted all the time, also after the last writing.
            let is_counter = ends.iter().any(|end| name.ends_with(end));
            if is_counter && !name.starts_with("lb_plan") && !name.starts_with("lb_apply") {
                let later = after.get(series).copied().unwrap_or(-1.0);
                assert!(later >= *value, "{series}: {value} and then {later}");
            }
        }
        lab.client.stop().await.unwrap();
        assert!(!lab.path("counters.json").exists(), "the programs' counters are gone, too");
    })
    .await
    .unwrap();
}
