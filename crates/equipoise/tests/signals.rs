//! How an instance ends by a signal. One test: signals are for the whole process.

use std::fs;
use std::time::Duration;

use equipoise::admin::client::Client;
use equipoise::admin::lock::InstanceLock;
use equipoise::config_file::Base;
use equipoise::dataplane::memory::Memory;
use equipoise::dataplane::simulated::{End, Plane, Simulated as SimulatedPlane};
use equipoise::driver::{Driver, Place, Signals, Source, Start, Supervisor, Watching};
use equipoise::host::simulated::{Simulated as SimulatedMachine, World};
use equipoise::host::{Device, Reading};
use equipoise_core::config;
use tempfile::TempDir;

const CONFIG: &str = r#"
[[service]]
name = "web"
listen = { interfaces = ["eth0"], address = "203.0.113.10", port = 80 }
manage-address = true
backends = [{ address = "10.0.0.1:8080" }]
[settings]
on-exit = "ON_EXIT"
"#;

fn world() -> World {
    let eth0 = Device { index: 2, ..Device::default() };
    World {
        reading: Reading { devices: [("eth0".to_owned(), eth0)].into(), ..Reading::default() },
        settings: [("ipv4/conf/eth0/forwarding".to_owned(), "0".to_owned())].into(),
        ..World::default()
    }
}

/// Starts an instance, ends it by `signal`, and answers what has become of it: the data plane,
/// the forwarding setting, and whether the managed address is still there.
async fn ended_by(signal: i32, on_exit: &str) -> (Option<End>, String, bool) {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("test.sock");
    let text = CONFIG.replace("ON_EXIT", on_exit);
    let (plane, planes) =
        SimulatedPlane::new(Plane { memory: Memory::new(4096), ..Plane::default() });
    let (machine, world) = SimulatedMachine::new(world());
    let driver = Driver::start(Start {
        looked_up: Vec::new(),
        instance: "test".to_owned(),
        signals: Signals::hear().unwrap(),
        lock: InstanceLock::take(directory.path(), "test").unwrap(),
        socket: socket.clone(),
        state_file: directory.path().join("state.json"),
        source: Source::Flags,
        base: Base::new("a.toml", &*text),
        watching: Watching::No,
        config: config::parse("a.toml", &text).unwrap().config,
        machine,
        plane,
        place: Place::Free,
        streams: equipoise::stream::How::Threads,
        supervisor: Supervisor::None,
    })
    .await
    .unwrap();
    let client = Client::new(&socket);
    let running = async {
        // SIGHUP without a file changes nothing and says so.
        // SAFETY: no memory is involved; the instance has a handler for the signal.
        assert_eq!(unsafe { libc::raise(libc::SIGHUP) }, 0);
        while client.status().await.unwrap().config.last_error.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // SAFETY: as above.
        assert_eq!(unsafe { libc::raise(signal) }, 0);
    };
    let ended = async { tokio::join!(driver.run(), running).0 };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it ends").unwrap();
    let left = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut left: Vec<_> = left.collect();
    left.sort();
    // What goes on being changed on the machine, and what has been counted, is known to the next process.
    let kept: &[&str] = if on_exit == "keep" { &["counters.json", "state.json"] } else { &[] };
    assert_eq!(left, kept, "socket and lock are gone");
    let vip = "203.0.113.10".parse().unwrap();
    let world = world.borrow();
    let end = planes.borrow().end;
    let has_vip = world.reading.devices["eth0"].addresses.contains(&vip);
    (end, world.settings["ipv4/conf/eth0/forwarding"].clone(), has_vip)
}

#[tokio::test]
async fn signal_ends_an_instance_as_its_configuration_says() {
    let gone = (Some(End::Removed), "0".to_owned(), false);
    assert_eq!(ended_by(libc::SIGTERM, "detach").await, gone);
    assert_eq!(ended_by(libc::SIGINT, "detach").await, gone);
    let kept = (Some(End::Kept), "1".to_owned(), true);
    assert_eq!(ended_by(libc::SIGTERM, "keep").await, kept);
}
