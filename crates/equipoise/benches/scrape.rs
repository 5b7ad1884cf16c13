//! What a scrape costs: the whole loop on a data plane and a machine in memory, with 1 000 services of 10 backends each, all of which
//! have had flows that have closed.
//!
//! `cargo bench -p equipoise --bench scrape`. Told is the median from the request to the last byte; with `--check` it fails beyond
//! 100 ms.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use equipoise::admin::client::Client;
use equipoise::admin::lock::InstanceLock;
use equipoise::config_file::Base;
use equipoise::dataplane::memory::Memory;
use equipoise::dataplane::simulated::{Plane, Simulated as SimulatedPlane};
use equipoise::driver::{Driver, Place, Signals, Source, Start, Supervisor, Watching};
use equipoise::host::simulated::{Simulated as SimulatedMachine, World};
use equipoise::host::{Device, Reading, Way};
use equipoise_common::event::Event;
use equipoise_common::key::TCP;
use equipoise_core::config;
use equipoise_core::facts::OwnPorts;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const SERVICES: u32 = 1_000;
const BACKENDS: u32 = 10;
const SCRAPES: usize = 21;
/// How long a scrape may take.
const MOST: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (took, bytes) = runtime.expect("a runtime").block_on(measure());
    let backends = SERVICES * BACKENDS;
    println!("{backends} backends: {:.1} ms, {bytes} bytes", took.as_secs_f64() * 1e3);
    let is_checked = std::env::args().any(|argument| argument == "--check");
    if is_checked && took > MOST { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn measure() -> (Duration, usize) {
    let directory = tempfile::tempdir().expect("a folder");
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let listen = free.expect("a port");
    let text = configuration(listen);
    let config = config::parse("a.toml", &text).expect("it is right").config;
    let (plane, handle) =
        SimulatedPlane::new(Plane { memory: Memory::new(1 << 22), ..Plane::default() });
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
    handle.send_modify(|plane| {
        let ids: Vec<_> = plane.memory.contents().backends.keys().copied().collect();
        let closed = |backend| Event {
            what: Event::CLOSED,
            protocol: TCP,
            backend,
            handshake: 500,
            ..Event::default()
        };
        plane.told = ids.into_iter().map(closed).collect();
    });
    let measured = async {
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).contains("lb_backend_handshake_seconds_bucket") {
            scrape(listen, &mut answer).await;
        }
        let mut times = Vec::new();
        for _ in 0..SCRAPES {
            let began = Instant::now();
            scrape(listen, &mut answer).await;
            times.push(began.elapsed());
        }
        let bytes = answer.len();
        client.stop().await.expect("it stops");
        times.sort_unstable();
        (times[SCRAPES / 2], bytes)
    };
    let (ended, measured) = tokio::join!(driver.run(), measured);
    ended.expect("it ends well");
    measured
}

/// Into memory that is there already: that of who scrapes is not what is measured.
async fn scrape(from: SocketAddr, answer: &mut Vec<u8>) {
    answer.clear();
    let mut stream = TcpStream::connect(from).await.expect("somebody listens");
    let request = "GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("it is heard");
    stream.read_to_end(answer).await.expect("an answer");
}

fn configuration(listen: SocketAddr) -> String {
    let mut text = format!("[settings.metrics]\nlisten = '{listen}'\n");
    for service in 0..SERVICES {
        let backends = (0..BACKENDS)
            .map(|backend| format!("{{ address = '{}:80' }}", address(service, backend)));
        // Writing to a string cannot fail.
        let _: std::fmt::Result = write!(
            text,
            "[[service]]\nname = 'service-{service}'\nbackends = [{}]\n\
             listen = {{ interfaces = ['eth0'], address = '203.0.113.10', port = {} }}\n",
            backends.collect::<Vec<_>>().join(", "),
            service + 1,
        );
    }
    text
}

fn address(service: u32, backend: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, (service >> 8) as u8, service as u8, backend as u8 + 1)
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
