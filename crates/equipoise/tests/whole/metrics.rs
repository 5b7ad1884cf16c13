//! Metrics, scraped as a scraper does, and read by a reader of the test's own.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use equipoise::status::operate::{DrainRequest, Selection, UndrainRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0";

/// An answer: its code, its head, its body.
async fn get(address: SocketAddr, path: &str, accept: &str) -> (u16, String, String) {
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
fn read(text: &str, is_open: bool) -> BTreeMap<String, f64> {
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    let mut samples = BTreeMap::new();
    let text = if is_open { text.strip_suffix("# EOF\n").expect("an end") } else { text };
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            let twice = types.insert(name.to_owned(), kind.to_owned());
            assert_eq!(twice, None, "{line}");
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let family = match name.strip_suffix("_total") {
                Some(family) if is_open => family,
                _ => name,
            };
            let kind = types.get(family).unwrap_or_else(|| panic!("{line} has no family"));
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
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
            samples.remove("lb_uptime_seconds");
        }
        assert_eq!(again, before, "the same in either form");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_balancer_that_is_drained_is_alive_and_not_ready() {
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
