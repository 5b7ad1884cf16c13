//! Instances in a process of an application, on data planes and machines in memory.

use std::path::Path;
use std::time::Duration;

use equipoise::admin::client::Client;
use equipoise::dataplane::memory::Memory;
use equipoise::dataplane::simulated::{End, Plane, Simulated as SimulatedPlane};
use equipoise::events::{Kind, Subscription, Told};
use equipoise::host::simulated::{Simulated as SimulatedMachine, World};
use equipoise::host::{Device, Reading, Way};
use equipoise::status::change::ReloadResult;
use equipoise::status::operate::{DrainRequest, Selection, UndrainRequest};
use equipoise::{Balancer, BalancerError, Configuration};
use equipoise_core::config::{Config, OnExit};
use tempfile::TempDir;
use tokio::sync::watch;

#[path = "../examples/simulated.rs"]
mod simulated;

const DEADLINE: Duration = Duration::from_secs(20);

fn text(vip: &str, weight: u32) -> String {
    format!(
        "[[service]]\nname = \"web\"\nlisten = {{ interfaces = [\"eth0\"], address = \"{vip}\", port = 80 }}\n\
         backends = [{{ address = \"10.0.0.11:8080\", weight = {weight} }}, {{ address = \"10.0.0.12:8080\" }}]\n"
    )
}

fn world() -> World {
    let device = Device {
        index: 2,
        up: true,
        mtu: 1500,
        addresses: vec!["203.0.113.10".parse().unwrap()],
        ..Device::default()
    };
    let way = |address: &str| {
        let next_hop = address.parse().unwrap();
        (next_hop, Way::Via { interface: 2, next_hop, source: None })
    };
    World {
        reading: Reading {
            devices: [("eth0".to_owned(), device)].into(),
            ways: ["10.0.0.11", "10.0.0.12"].map(way).into(),
            plain_ways: true,
            ..Reading::default()
        },
        settings: [("ipv4/conf/eth0/forwarding".to_owned(), "0".to_owned())].into(),
        ..World::default()
    }
}

/// An instance, and its data plane as a test sees it.
async fn start(
    directory: &Path,
    name: &str,
    configuration: impl Into<Configuration>,
) -> Result<(Balancer, watch::Sender<Plane>), BalancerError> {
    let memory = Memory::new(65_536);
    let (plane, seen) = SimulatedPlane::new(Plane { memory, ..Plane::default() });
    let balancer = Balancer::builder(configuration)
        .instance(name)
        .run_directory(directory)
        .state_file(directory.join(format!("{name}.json")))
        .start_on(move |_| Ok((SimulatedMachine::new(world()).0, plane)))
        .await?;
    Ok((balancer, seen))
}

/// Waits for an event of a kind.
async fn heard(events: &mut Subscription, kind: Kind) {
    let hear = async {
        while let Some(told) = events.next().await {
            if matches!(told, Told::Event(event) if event.kind == kind) {
                return;
            }
        }
        panic!("it has ended without {kind:?}");
    };
    tokio::time::timeout(DEADLINE, hear).await.expect("no such event");
}

fn weights(config: &serde_json::Value) -> Vec<u64> {
    let backends = config["service"][0]["backends"].as_array().unwrap();
    backends.iter().map(|backend| backend["weight"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn two_instances_of_a_process_know_nothing_of_each_other() {
    let directory = TempDir::new().unwrap();
    let first = Configuration::toml(text("203.0.113.10", 3));
    let second = Configuration::toml(text("203.0.113.20", 1));
    let (first, first_plane) = start(directory.path(), "first", first).await.unwrap();
    let (second, second_plane) = start(directory.path(), "second", second).await.unwrap();
    let mut events = second.events(0).await.unwrap();
    heard(&mut events, Kind::Started).await;

    let answer = first.reload(Configuration::toml(text("203.0.113.10", 7))).await.unwrap();
    assert_eq!((answer.result, answer.generation), (ReloadResult::Applied, 2));
    assert_eq!(weights(&first.config()), [7, 1]);
    assert_eq!(weights(&second.config()), [1, 1]);
    assert_eq!(second.status().await.unwrap().config.generation, 1);
    assert!(events.take_kept().is_none(), "what the first does is not the second's");

    first.stop().await.unwrap();
    assert_eq!(first_plane.borrow().end, Some(End::Removed));
    assert_eq!(second_plane.borrow().end, None);
    assert_eq!(second.status().await.unwrap().instance, "second");
    second.stop().await.unwrap();
    assert_eq!(events_of(events).await.last(), Some(&Kind::Stopping));
}

async fn events_of(mut events: Subscription) -> Vec<Kind> {
    let mut kinds = Vec::new();
    while let Some(told) = events.next().await {
        if let Told::Event(event) = told {
            kinds.push(event.kind);
        }
    }
    kinds
}

#[tokio::test]
async fn a_configuration_may_be_a_value() {
    let directory = TempDir::new().unwrap();
    let mut config: Config = Configuration::toml(text("203.0.113.10", 3)).check().unwrap();
    config.settings.on_exit = OnExit::Keep;
    let (balancer, plane) = start(directory.path(), "value", &config).await.unwrap();
    assert_eq!(weights(&balancer.config()), [3, 1]);
    config.services[0].backends.pop();
    let answer = balancer.reload(&config).await.unwrap();
    assert_eq!(answer.services.changed, ["web"]);
    assert_eq!(weights(&balancer.config()), [3]);
    assert_eq!(balancer.reload(&config).await.unwrap().result, ReloadResult::Unchanged);
    balancer.end().await.unwrap();
    assert_eq!(plane.borrow().end, Some(End::Kept), "as its configuration says");
}

#[tokio::test]
async fn what_is_wrong_changes_nothing_and_is_told_with_its_place() {
    let directory = TempDir::new().unwrap();
    let wrong = text("203.0.113.10", 3).replace("web", "").replace("80 }", "99999 }");
    let refused = start(directory.path(), "wrong", Configuration::toml(&*wrong)).await.unwrap_err();
    let BalancerError::Config(problems) = refused else { panic!("{refused}") };
    assert_eq!(problems.len(), 2, "{problems:?}");
    let nowhere = text("203.0.113.10", 3).replace("eth0", "eth9");
    let refused =
        start(directory.path(), "wrong", Configuration::toml(&*nowhere)).await.unwrap_err();
    assert!(refused.to_string().contains("there is no interface `eth9`"), "{refused}");

    let good = Configuration::toml(text("203.0.113.10", 3));
    let (balancer, _plane) = start(directory.path(), "wrong", good).await.unwrap();
    let refused = balancer.reload(Configuration::toml(wrong)).await.unwrap_err();
    let BalancerError::Refused(problem) = refused else { panic!("{refused}") };
    assert_eq!(problem.errors.len(), 2, "{problem:?}");
    assert_eq!(weights(&balancer.config()), [3, 1]);
    balancer.stop().await.unwrap();
}

#[tokio::test]
async fn a_name_is_one_instances_alone() {
    let directory = TempDir::new().unwrap();
    let good = || Configuration::toml(text("203.0.113.10", 3));
    let (balancer, _plane) = start(directory.path(), "one", good()).await.unwrap();
    let refused = start(directory.path(), "one", good()).await.unwrap_err();
    assert!(matches!(refused, BalancerError::Lock(_)), "{refused}");
    balancer.stop().await.unwrap();
    let (balancer, _plane) = start(directory.path(), "one", good()).await.unwrap();
    balancer.stop().await.unwrap();
}

#[tokio::test]
async fn one_that_is_dropped_ends_as_its_configuration_says() {
    let directory = TempDir::new().unwrap();
    let good = Configuration::toml(text("203.0.113.10", 3));
    let (balancer, plane) = start(directory.path(), "dropped", good).await.unwrap();
    let mut seen = plane.subscribe();
    drop(balancer);
    let ended = seen.wait_for(|plane| plane.end.is_some());
    let ended = tokio::time::timeout(DEADLINE, ended).await.expect("it goes on").unwrap();
    assert_eq!(ended.end, Some(End::Removed));
}

#[tokio::test]
async fn drains_are_begun_and_taken_back() {
    let directory = TempDir::new().unwrap();
    let good = Configuration::toml(text("203.0.113.10", 3));
    let (balancer, _plane) = start(directory.path(), "drains", good).await.unwrap();
    let backend = "10.0.0.11:8080".to_owned();
    let of = Selection {
        service: Some("web".to_owned()),
        backend: Some(backend.clone()),
        ..Selection::default()
    };
    let backends = vec![of];
    let drain =
        DrainRequest { backends, timeout: None, on_timeout: None, force: false, wait: false };
    balancer.drain(drain).await.unwrap();
    let draining = |status: equipoise::status::Status| {
        status.services[0].pools[0].backends.iter().map(|b| b.draining).collect::<Vec<_>>()
    };
    assert_eq!(draining(balancer.status().await.unwrap()), [true, false]);
    assert_eq!(balancer.drains().await.unwrap().drains.len(), 1);
    let undrain = UndrainRequest {
        service: Some("web".to_owned()),
        backend: Some(backend),
        ..UndrainRequest::default()
    };
    balancer.undrain(undrain).await.unwrap();
    assert_eq!(draining(balancer.status().await.unwrap()), [false, false]);
    balancer.stop().await.unwrap();
}

/// The commands of `equipoise` work with it, and `stop` among them is seen by whoever has it.
#[tokio::test]
async fn its_socket_answers_and_can_end_it() {
    let directory = TempDir::new().unwrap();
    let good = Configuration::toml(text("203.0.113.10", 3));
    let (balancer, plane) = start(directory.path(), "socket", good).await.unwrap();
    let client = Client::new(balancer.socket());
    assert_eq!(client.status().await.unwrap().instance, "socket");
    client.stop().await.unwrap();
    let access = balancer.access();
    balancer.wait().await.unwrap();
    assert_eq!(plane.borrow().end, Some(End::Removed));
    assert!(access.ask(equipoise::admin::Command::Status).await.is_err());
}

#[test]
fn the_example_that_needs_nothing_runs() {
    simulated::main().unwrap();
}
