//! What health checks cost: the whole loop on a data plane and a machine in memory, with 5 000 backends that are checked each second
//! by a connection to a listener in a process of its own.
//!
//! `cargo bench -p equipoise --bench checks`. Told is the time of all CPUs that this process has used; with `--check` it fails beyond
//! half of one. On loopback, the kernel's work for the listener's half of each handshake is in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use equipoise::admin::client::Client;
use equipoise::admin::lock::InstanceLock;
use equipoise::config_file::Base;
use equipoise::dataplane::simulated::{Plane, Simulated as SimulatedPlane};
use equipoise::driver::{Driver, Place, Signals, Source, Start, Supervisor, Watching};
use equipoise::host::simulated::{Simulated as SimulatedMachine, World};
use equipoise::host::{Device, Reading, Way};
use equipoise::status::health::HealthFilter;
use equipoise_core::config;
use equipoise_core::facts::OwnPorts;

const SERVICES: u32 = 50;
const BACKENDS: u32 = 100;
/// How long is measured, after as long for all to have been checked.
const MEASURED: Duration = Duration::from_secs(20);
/// CPUs that may be used.
const MOST: f64 = 0.5;
const LISTEN: &str = "--listen";

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == LISTEN) {
        return listen();
    }
    let mut listener = Command::new(std::env::current_exe().expect("this program has a path"))
        .arg(LISTEN)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program runs again");
    let mut line = String::new();
    let output = listener.stdout.take().expect("its output is ours");
    BufReader::new(output).read_line(&mut line).expect("it says its port");
    let port = line.trim().parse().expect("a port");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let used = runtime.expect("a runtime").block_on(measure(port));
    listener.kill().and_then(|()| listener.wait()).expect("it ends");
    let cpus = used.as_secs_f64() / MEASURED.as_secs_f64();
    println!("{} checks a second, CPUs used: {cpus:.2}", SERVICES * BACKENDS);
    let is_checked = std::env::args().any(|argument| argument == "--check");
    if is_checked && cpus > MOST { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Takes connections, until it is ended.
fn listen() -> ExitCode {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    println!("{}", listener.local_addr().expect("its address").port());
    for connection in listener.incoming() {
        drop(connection);
    }
    ExitCode::SUCCESS
}

async fn measure(port: u16) -> Duration {
    let directory = tempfile::tempdir().expect("a folder");
    let text = configuration(port);
    let config = config::parse("a.toml", &text).expect("it is right").config;
    let (plane, _plane) = SimulatedPlane::new(Plane::default());
    let (machine, _world) = SimulatedMachine::new(world());
    let socket = directory.path().join("bench.sock");
    let client = Client::new(&socket);
    let driver = Driver::start(Start {
        looked_up: Vec::new(),
        instance: "bench".to_owned(),
        signals: Signals::hear().expect("signals"),
        lock: InstanceLock::take(directory.path(), "bench").expect("the lock"),
        socket,
        state_file: directory.path().join("state.json"),
        source: Source::Flags,
        base: Base::new("a.toml", text),
        watching: Watching::No,
        config,
        machine,
        plane,
        place: Place::Free,
        streams: equipoise::stream::How::Threads,
        supervisor: Supervisor::None,
    });
    let driver = driver.await.expect("it starts");
    let measured = async {
        tokio::time::sleep(MEASURED).await;
        let before = used();
        tokio::time::sleep(MEASURED).await;
        let used = used() - before;
        let health = client.health(&HealthFilter::default()).await.expect("an answer");
        assert!(health.iter().all(|backend| backend.health == "healthy"), "all are well");
        client.stop().await.expect("it stops");
        used
    };
    let (ended, used) = tokio::join!(driver.run(), measured);
    ended.expect("it ends well");
    used
}

fn configuration(port: u16) -> String {
    let mut text = "[settings.health-check]\ninterval = '1s'\n".to_owned();
    for service in 0..SERVICES {
        // Writing to a string cannot fail.
        let _: std::fmt::Result = write!(
            text,
            "[[service]]\nname = 's{service}'\nbackends = [{}]\n\
             listen = {{ interfaces = ['eth0'], address = '203.0.113.10', port = {} }}\n",
            (0..BACKENDS)
                .map(|backend| format!("{{ address = '{}:{port}' }}", address(service, backend)))
                .collect::<Vec<_>>()
                .join(", "),
            service + 1,
        );
    }
    text
}

/// All of 127.0.0.0/8 is this host.
fn address(service: u32, backend: u32) -> Ipv4Addr {
    Ipv4Addr::new(127, 1 + service as u8, backend as u8, 1)
}

fn world() -> World {
    let eth0 = Device {
        index: 2,
        up: true,
        mtu: 1500,
        addresses: vec![IpAddr::from([203, 0, 113, 1])],
        ..Device::default()
    };
    let way = |(service, backend): (u32, u32)| {
        let next_hop = IpAddr::from(address(service, backend));
        (next_hop, Way::Via { interface: 2, next_hop, source: None })
    };
    let all =
        (0..SERVICES).flat_map(|service| (0..BACKENDS).map(move |backend| (service, backend)));
    World {
        reading: Reading {
            devices: BTreeMap::from([("eth0".to_owned(), eth0)]),
            ways: all.map(way).collect(),
            plain_ways: true,
            own_ports: OwnPorts::default(),
        },
        settings: BTreeMap::from([("ipv4/conf/eth0/forwarding".to_owned(), "0".to_owned())]),
        ..World::default()
    }
}

/// Time of all CPUs that this process has used, to a hundredth of a second.
fn used() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("this process is there");
    // The name of the program, in brackets, may have any character.
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.map(|ticks| ticks.expect("a number")).sum();
    Duration::from_millis(10 * ticks)
}
