//! The log of flows: what has closed is written where the configuration says, and nothing waits for it.

use std::collections::BTreeMap;
use std::path::Path;

use equipoise_common::event::Event;
use equipoise_common::flow::{Reason, State};
use equipoise_common::key::Be16;

use super::*;

/// So many flows that have closed, of clients with the ports from this one on.
pub(super) fn closed(lab: &Lab, ports: std::ops::Range<u16>) {
    let ids = ids(&lab.plane.borrow(), "10.0.0.1:8080");
    closed_of(lab, ids, ports);
}

/// So many that have opened.
pub(super) fn opened(lab: &Lab, ports: std::ops::Range<u16>) {
    let (service, backend) = ids(&lab.plane.borrow(), "10.0.0.1:8080");
    let (what, state) = (Event::OPENED, State::Opening as u32);
    told_of(lab, Event { what, state, service, backend, ..Event::default() }, ports);
}

pub(super) fn closed_of(lab: &Lab, (service, backend): (u32, u32), ports: std::ops::Range<u16>) {
    let (why, state) = (Reason::ClientFin as u32, State::Established as u32);
    let closed = Event { what: Event::CLOSED, why, state, service, backend, ..Event::default() };
    told_of(lab, closed, ports);
}

fn told_of(lab: &Lab, event: Event, ports: std::ops::Range<u16>) {
    lab.plane.send_modify(|plane| {
        let address = |text: &str| text.parse::<std::net::IpAddr>().unwrap().into();
        plane.told.extend(ports.map(|port| Event {
            client: address("198.51.100.7"),
            client_port: Be16::new(port),
            vip: address("203.0.113.10"),
            vip_port: Be16::new(80),
            backend_address: address("10.0.0.1"),
            backend_port: Be16::new(8080),
            protocol: TCP,
            ..event
        }));
    });
}

fn with(keys: &str) -> String {
    format!("[settings]\naccess-log = {{ {keys} }}\n{CONFIG}")
}

fn to(path: &Path, keys: &str) -> String {
    with(&format!("path = \"{}\", {keys}", path.display()))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("{what} never came"));
}

async fn lines(path: &Path, count: usize) -> String {
    until(&format!("{count} lines"), || read(path).lines().count() >= count).await;
    let text = read(path);
    assert_eq!(text.lines().count(), count, "{text}");
    text
}

#[tokio::test]
async fn a_flow_that_has_closed_is_a_line_with_whose_it_was() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("made/a.log");
    let (driver, lab) = Lab::start(&to(&path, "")).await;
    run(driver, async {
        closed(&lab, 1_000..1_001);
        let line: Value = serde_json::from_str(&lines(&path, 1).await).unwrap();
        assert_eq!((&line["service"], &line["route"]), (&json!("web"), &json!("default")));
        assert_eq!(line["client"], json!({ "ip": "198.51.100.7", "port": 1_000 }));
        let status = lab.status_when(|_| true).await.access_log.unwrap();
        assert_eq!((status.written.file, status.written.stdout), (1, 0));
        assert_eq!(status.size_bytes, Some(fs::metadata(&path).unwrap().len()));
        assert_eq!((status.max_size_bytes, status.max_files), (Some(100 << 20), Some(10)));
        // One that has left is still whose its last flows were.
        let ids = ids(&lab.plane.borrow(), "10.0.0.1:8080");
        lab.reload(&to(&path, "").replace("\"web\"", "\"other\""));
        lab.status_when(|status| status.config.generation == 2).await;
        closed_of(&lab, ids, 2_000..2_001);
        let line = lines(&path, 2).await.lines().last().unwrap().to_owned();
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["service"], "web");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_reload_changes_where_and_how_flows_are_written() {
    let folder = TempDir::new().unwrap();
    let [first, second] = ["a.log", "b.log"].map(|name| folder.path().join(name));
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        assert_eq!(lab.status_when(|_| true).await.access_log, None);
        let generation = async |number, text: &str| {
            lab.reload(text);
            lab.status_when(|status| status.config.generation == number).await
        };
        generation(2, &to(&first, "")).await;
        closed(&lab, 1_000..1_002);
        lines(&first, 2).await;
        generation(3, &to(&second, "format = \"clf\"")).await;
        closed(&lab, 2_000..2_001);
        let text = lines(&second, 1).await;
        assert!(text.contains("\"CONN-CLOSED 203.0.113.10:80 -> 10.0.0.1:8080\""), "{text}");
        let status = generation(4, CONFIG).await;
        assert_eq!(status.access_log, None);
        closed(&lab, 3_000..3_001);
        lab.status_when(|status| status.flow_table.events.closed["client_fin"] == 4).await;
        assert_eq!((lines(&first, 2).await.lines().count(), read(&second).lines().count()), (2, 1));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_file_that_has_been_moved_is_opened_anew_when_that_is_asked_for() {
    let folder = TempDir::new().unwrap();
    let [path, moved] = ["a.log", "a.log.moved"].map(|name| folder.path().join(name));
    let (driver, lab) = Lab::start(&to(&path, "")).await;
    run(driver, async {
        closed(&lab, 1_000..1_001);
        lines(&path, 1).await;
        fs::rename(&path, &moved).unwrap();
        closed(&lab, 2_000..2_001);
        lines(&moved, 2).await;
        lab.signals.reopen();
        until("a new file", || path.exists()).await;
        closed(&lab, 3_000..3_001);
        let text = lines(&path, 1).await;
        assert!(text.contains("3000"), "{text}");
        assert_eq!(read(&moved).lines().count(), 2);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_a_reason_and_loses_nothing_that_can_wait() {
    let folder = TempDir::new().unwrap();
    let blocked = folder.path().join("blocked");
    fs::write(&blocked, "").unwrap();
    let path = blocked.join("a.log");
    let (driver, lab) = Lab::start(&to(&path, "")).await;
    run(driver, async {
        let status = lab.status_when(|status| status.state == Health::Degraded).await;
        let begins = format!("access log: {} cannot be opened: ", path.display());
        assert!(status.reasons[0].starts_with(&begins), "{:?}", status.reasons);
        closed(&lab, 1_000..1_003);
        lab.status_when(|status| !status.flow_table.events.closed.is_empty()).await;
        // Other configurations are taken all the same.
        let other = to(&path, "").replace("weight = 3", "weight = 2");
        lab.reload(&other);
        let status = lab.status_when(|status| status.config.generation == 2).await;
        assert_eq!(status.config.last_error, None);
        fs::remove_file(&blocked).unwrap();
        lines(&path, 3).await;
        let status = lab.status_when(|status| status.state == Health::Ok).await;
        let dropped = status.access_log.unwrap().dropped;
        assert_eq!((dropped.queue, dropped.file, dropped.stdout), (0, 0, 0));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_part_of_all_is_written_where_that_is_asked_for() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.log");
    let (driver, lab) = Lab::start(&to(&path, "sample = 0.25")).await;
    run(driver, async {
        closed(&lab, 1_000..11_000);
        lab.status_when(|status| {
            status.flow_table.events.closed.get("client_fin") == Some(&10_000)
        })
        .await;
        // What waits is written before the end.
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    // Ten standard deviations of 43 lines.
    let written = read(&path).lines().count();
    assert!((2_070..2_930).contains(&written), "{written}");
}

#[tokio::test]
async fn flows_that_open_are_written_where_that_is_asked_for_and_a_part_of_flows_is_of_both_lines()
{
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.log");
    let (driver, lab) = Lab::start(&to(&path, "opened = true, sample = 0.5")).await;
    run(driver, async {
        opened(&lab, 1_000..2_000);
        closed(&lab, 1_000..2_000);
        lab.status_when(|status| status.flow_table.events.closed.get("client_fin") == Some(&1_000))
            .await;
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    let mut clients = BTreeMap::<u64, Vec<String>>::new();
    for line in read(&path).lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let event = line["event"].as_str().unwrap().to_owned();
        clients.entry(line["client"]["port"].as_u64().unwrap()).or_default().push(event);
    }
    // Ten standard deviations of 16 flows.
    assert!((340..660).contains(&clients.len()), "{}", clients.len());
    assert!(clients.values().all(|events| *events == ["opened", "closed"]), "{clients:?}");
}

#[tokio::test]
async fn flows_that_find_no_room_to_wait_are_dropped_and_counted() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("pipe");
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the name is a text that ends, and lives as long as the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let (driver, lab) = Lab::start(&to(&path, "")).await;
    run(driver, async {
        // Nobody reads the pipe: whoever writes to it waits.
        closed(&lab, 1_000..51_000);
        let status = lab
            .status_when(|status| {
                status.flow_table.events.closed.get("client_fin") == Some(&50_000)
            })
            .await;
        let log = status.access_log.unwrap();
        assert_eq!((log.written.file, log.dropped.queue), (0, 50_000 - 32_768));
        let file = path.clone();
        let reading = std::thread::spawn(move || fs::read_to_string(file).unwrap());
        let wanted = |status: &Status| status.access_log.as_ref().unwrap().written.file == 32_768;
        lab.status_when(wanted).await;
        lab.client.stop().await.unwrap();
        assert_eq!(reading.join().unwrap().lines().count(), 32_768);
    })
    .await
    .unwrap();
}
