//! A load balancer inside an application, on a machine and a data plane that are made of data: needs neither root nor a kernel.
//!
//! What a real one does is the same, but for packets: `Builder::start` in place of `Builder::start_on`. Run it by
//! `cargo run -p equipoise --example simulated`.

use std::error::Error;

use equipoise::dataplane::memory::Memory;
use equipoise::dataplane::simulated::{Plane, Simulated as SimulatedPlane};
use equipoise::events::Told;
use equipoise::host::simulated::{Simulated as SimulatedMachine, World};
use equipoise::host::{Device, Reading, Way};
use equipoise::status::operate::{DrainRequest, Selection};
use equipoise::{Balancer, Configuration};

const SERVICE: &str = r#"
[[service]]
name = "web"
listen = { interfaces = ["eth0"], address = "203.0.113.10", port = 80 }
backends = [
  { address = "10.0.0.11:8080", weight = 3 },
  { address = "10.0.0.12:8080", weight = 1 },
]
"#;

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let balancer = Balancer::builder(Configuration::toml(SERVICE))
        .instance("example")
        .run_directory(folder.path())
        .state_file(folder.path().join("state.json"))
        .start_on(|_| {
            let (machine, _) = SimulatedMachine::new(world());
            let memory = Memory::new(65_536);
            let (plane, _) = SimulatedPlane::new(Plane { memory, ..Plane::default() });
            Ok((machine, plane))
        })
        .await?;
    let mut events = balancer.events(0).await?;
    show(&balancer).await?;

    let fewer = SERVICE.replace("weight = 3", "weight = 1");
    let answer = balancer.reload(Configuration::toml(fewer)).await?;
    println!("reload: {:?}, changed: {:?}", answer.result, answer.services.changed);

    let backend = Some("10.0.0.12:8080".to_owned());
    let of = Selection { service: Some("web".to_owned()), backend, ..Selection::default() };
    let backends = vec![of];
    let drain =
        DrainRequest { backends, timeout: None, on_timeout: None, force: false, wait: false };
    balancer.drain(drain).await?;
    show(&balancer).await?;

    balancer.stop().await?;
    while let Some(told) = events.next().await {
        match told {
            Told::Event(event) => println!("event {}: {}", event.sequence, event.kind.name()),
            Told::Lost(count) => println!("{count} events were missed"),
        }
    }
    Ok(())
}

async fn show(balancer: &Balancer) -> Result<(), Box<dyn Error>> {
    for service in balancer.status().await?.services {
        for backend in service.pools.iter().flat_map(|pool| &pool.backends) {
            println!("{} {}: share {:.2}", service.name, backend.address, backend.share);
        }
    }
    Ok(())
}

/// One interface, by which both backends are reached.
fn world() -> World {
    let addresses = vec!["203.0.113.10".parse().expect("an address")];
    let device = Device { index: 2, up: true, mtu: 1500, addresses, ..Device::default() };
    let way = |address: &str| {
        let next_hop = address.parse().expect("an address");
        (next_hop, Way::Via { interface: 2, next_hop, source: None })
    };
    let reading = Reading {
        devices: [("eth0".to_owned(), device)].into(),
        ways: ["10.0.0.11", "10.0.0.12"].map(way).into(),
        plain_ways: true,
        ..Reading::default()
    };
    let settings = [("ipv4/conf/eth0/forwarding".to_owned(), "0".to_owned())];
    World { reading, settings: settings.into(), ..World::default() }
}
