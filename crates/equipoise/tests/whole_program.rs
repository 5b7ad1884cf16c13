//! The whole program on a data plane and a machine in memory, asked over a real socket.

#[path = "whole/access_log.rs"]
mod access_log;
#[path = "whole/api.rs"]
mod api;
#[path = "documents/blocks.rs"]
mod blocks;
#[path = "whole/book.rs"]
mod book;
#[path = "whole/changes.rs"]
mod changes;
#[path = "whole/events.rs"]
mod events;
#[path = "whole/fields.rs"]
mod fields;
#[path = "whole/files.rs"]
mod files;
#[path = "whole/flow_events.rs"]
mod flow_events;
#[path = "whole/health.rs"]
mod health;
#[path = "whole/limits.rs"]
mod limits;
#[path = "whole/load.rs"]
mod load;
#[path = "whole/metrics.rs"]
mod metrics;
#[path = "whole/names.rs"]
mod names;
#[path = "whole/operate.rs"]
mod operate;
#[path = "whole/outputs.rs"]
mod outputs;
#[path = "whole/pools.rs"]
mod pools;
#[path = "whole/port.rs"]
mod port;
#[path = "whole/pushed.rs"]
mod pushed;
#[path = "whole/restart.rs"]
mod restart;
#[path = "whole/shown.rs"]
mod shown;
#[path = "whole/size.rs"]
mod size;
#[path = "whole/slow_clients.rs"]
mod slow_clients;
#[path = "whole/waiting.rs"]
mod waiting;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use equipoise::admin::client::{Client, ClientError};
use equipoise::admin::lock::InstanceLock;
use equipoise::config_file::Base;
use equipoise::dataplane::kernel::FlowRow;
use equipoise::dataplane::memory::{Fault, Memory};
use equipoise::dataplane::simulated::{End, Plane, Simulated as SimulatedPlane};
use equipoise::driver::{
    Driver, EndError, Place, SignalHandle, Signals, Source, Start, StartError, Supervisor, Watching,
};
use equipoise::host::simulated::{Simulated as SimulatedMachine, World};
use equipoise::host::{Device, Features, Reading, Way};
use equipoise::status::{FlowFilter, Health, PlanRequest, Status};
use equipoise_common::flow::count::Pressure;
use equipoise_common::key::TCP;
use equipoise_common::value::{Backend, Fate, OnEmpty};
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_core::config;
use equipoise_core::facts::OwnPorts;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::watch;

const DEADLINE: Duration = Duration::from_secs(20);

const CONFIG: &str = r#"
[[service]]
name = "web"
listen = { interfaces = ["eth0"], address = "203.0.113.10", port = 80 }
manage-address = true
backends = [
  { address = "10.0.0.1:8080", weight = 3 },
  { address = "10.0.0.2:8080", weight = 1 },
]
"#;

type TestDriver = Driver<SimulatedMachine, SimulatedPlane>;

/// A running instance as a test sees it.
struct Lab {
    directory: TempDir,
    plane: watch::Sender<Plane>,
    world: watch::Sender<World>,
    client: Client,
    /// Signals to this process would be for the instances of all tests.
    signals: SignalHandle,
}

impl Lab {
    async fn start(config: &str) -> (TestDriver, Self) {
        let (driver, lab) = Self::try_start(config, |_| {}).await;
        (driver.expect("starts"), lab)
    }

    async fn try_start(
        text: &str,
        prepare: impl FnOnce(&mut Plane),
    ) -> (Result<TestDriver, StartError>, Self) {
        Self::try_start_on(world(), text, prepare).await
    }

    /// With a folder that has been used before.
    async fn try_start_in(
        directory: TempDir,
        text: &str,
    ) -> (Result<TestDriver, StartError>, Self) {
        Self::start_all((directory, world()), text, |_| {}).await
    }

    async fn try_start_on(
        world: World,
        text: &str,
        prepare: impl FnOnce(&mut Plane),
    ) -> (Result<TestDriver, StartError>, Self) {
        Self::start_all((TempDir::new().unwrap(), world), text, prepare).await
    }

    async fn start_all(
        (directory, world): (TempDir, World),
        text: &str,
        prepare: impl FnOnce(&mut Plane),
    ) -> (Result<TestDriver, StartError>, Self) {
        let file = directory.path().join("a.toml");
        fs::write(&file, text).unwrap();
        Self::start_at((directory, file, Watching::No), world, text, prepare).await
    }

    /// With a file that is there, somewhere in the folder.
    async fn start_at(
        (directory, file, watching): (TempDir, PathBuf, Watching),
        world: World,
        text: &str,
        prepare: impl FnOnce(&mut Plane),
    ) -> (Result<TestDriver, StartError>, Self) {
        let mut plane = Plane { memory: Memory::new(65_536), ..Plane::default() };
        prepare(&mut plane);
        let (plane, plane_handle) = SimulatedPlane::new(plane);
        let (machine, world) = SimulatedMachine::new(world);
        let client = Client::new(&directory.path().join("test.sock"));
        let (heard, signals) = Signals::of_handle();
        let lab = Self { plane: plane_handle, world, client, directory, signals };
        lab.start_with((file, watching, heard), text, (machine, plane)).await
    }

    /// The next process, on what one that is gone has left: with another configuration perhaps.
    async fn start_again(self, text: &str) -> (Result<TestDriver, StartError>, Self) {
        let file = self.path("a.toml");
        fs::write(&file, text).unwrap();
        let plane = SimulatedPlane::left(&self.plane);
        let (machine, world) = SimulatedMachine::new(self.world.borrow().clone());
        let (heard, signals) = Signals::of_handle();
        let lab = Self { world, signals, ..self };
        lab.nobody_answers().await;
        lab.start_with((file, Watching::No, heard), text, (machine, plane)).await
    }

    /// A process that dies shuts its socket at once; the task that served it here does so when it has its turn.
    async fn nobody_answers(&self) {
        let path = self.path("test.sock");
        let answered = async {
            while UnixStream::connect(&path).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(DEADLINE, answered).await.expect("who is gone answers no more");
    }

    async fn start_with(
        self,
        (file, watching, signals): (PathBuf, Watching, Signals),
        text: &str,
        (machine, plane): (SimulatedMachine, SimulatedPlane),
    ) -> (Result<TestDriver, StartError>, Self) {
        let lab = self;
        let driver = Driver::start(Start {
            looked_up: Vec::new(),
            instance: "test".to_owned(),
            signals,
            lock: InstanceLock::take(lab.directory.path(), "test").unwrap(),
            socket: lab.path("test.sock"),
            state_file: lab.path("state.json"),
            source: Source::File(file),
            base: Base::new("a.toml", text),
            watching,
            config: config::parse("a.toml", text).unwrap().config,
            machine,
            plane,
            place: Place::Free,
            streams: equipoise::stream::How::Threads,
            supervisor: Supervisor::None,
        })
        .await;
        (driver, lab)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the file and has the instance read it.
    fn reload(&self, text: &str) {
        fs::write(self.path("a.toml"), text).unwrap();
        self.signals.reload();
    }

    async fn status_when(&self, mut wanted: impl FnMut(&Status) -> bool) -> Status {
        let asking = async {
            loop {
                let status = self.client.status().await.unwrap();
                if wanted(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, asking).await.expect("the status never came")
    }

    fn attached(&self) -> BTreeSet<String> {
        self.plane.borrow().attached.values().cloned().collect()
    }

    fn setting(&self, path: &str) -> String {
        self.world.borrow().settings[path].clone()
    }

    fn vips(&self) -> BTreeSet<String> {
        let plane = self.plane.borrow();
        let services = &plane.memory.contents().services;
        services.keys().filter(|key| !key.is_whole()).map(ToString::to_string).collect()
    }
}

/// Runs an instance until the test has stopped it.
async fn run(driver: TestDriver, test: impl Future<Output = ()>) -> Result<(), EndError> {
    let (ended, ()) = tokio::join!(driver.run(), test);
    ended
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

fn world() -> World {
    let device = |index, address: &str, features| Device {
        index,
        up: true,
        mtu: 1500,
        addresses: vec![address.parse().unwrap()],
        features: Some(Features(features)),
        ..Device::default()
    };
    let devices = [
        ("eth0".to_owned(), device(2, "203.0.113.1", 103)),
        ("eth1".to_owned(), device(3, "10.0.0.254", 35)),
        ("eth2".to_owned(), device(4, "192.0.2.1", 0)),
    ];
    let way = |address: &str| {
        let next_hop = address.parse().unwrap();
        (next_hop, Way::Via { interface: 3, next_hop, source: None })
    };
    let ways = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(way);
    let settings = ["eth0", "eth1", "eth2"]
        .map(|name| (format!("ipv4/conf/{name}/forwarding"), "0".to_owned()));
    World {
        reading: Reading {
            devices: devices.into(),
            ways: ways.into(),
            plain_ways: true,
            own_ports: OwnPorts::default(),
        },
        settings: settings.into(),
        ..World::default()
    }
}

fn flow(client: &str, backend: &str, ids: (u32, u32), state: &'static str) -> FlowRow {
    FlowRow {
        protocol: TCP,
        client: client.parse().unwrap(),
        vip: "203.0.113.10:80".parse().unwrap(),
        backend_address: backend.parse().unwrap(),
        service: ids.0,
        backend: ids.1,
        state,
        age: Duration::from_secs(5),
        idle: Duration::from_millis(1500),
        traffic: [1, 2, 3, 4],
    }
}

/// The ids that the data plane knows a backend by: of its service and its own.
fn ids(plane: &Plane, backend: &str) -> (u32, u32) {
    let address: std::net::SocketAddr = backend.parse().unwrap();
    let found = plane.memory.contents().backends.iter().find(|(_, entry)| {
        entry.address == address.ip().into() && entry.port.get() == address.port()
    });
    let (id, entry) = found.expect("the backend is in the maps");
    (entry.service.into(), *id)
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().expect("an object").keys().cloned().collect()
}

#[tokio::test]
async fn running_instance_is_attached_where_clients_and_backends_are() {
    let (driver, lab) = Lab::start(CONFIG).await;
    assert_eq!(lab.attached(), names(["eth0", "eth1"]));
    assert_eq!(lab.vips(), names(["203.0.113.10:80/tcp on interface 2"]));
    assert_eq!(lab.plane.borrow().memory.check_references(), Ok(()));
    assert_eq!(lab.setting("ipv4/conf/eth0/forwarding"), "1");
    assert_eq!(lab.setting("ipv4/conf/eth1/forwarding"), "1");
    assert_eq!(lab.setting("ipv4/conf/eth2/forwarding"), "0");
    // Native XDP runs: devices whose driver takes no redirects leave it to the stack.
    let redirects = lab.plane.borrow().redirects.clone();
    assert_eq!(redirects.into_iter().collect::<Vec<_>>(), [(2, true), (3, false), (4, false)]);
    run(driver, async {
        let asked = lab.status_when(|_| !lab.world.borrow().asked.is_empty()).await;
        assert_eq!(asked.state, Health::Ok, "{:?}", asked.reasons);
        assert_eq!(
            lab.world.borrow().asked.len(),
            2,
            "both backends' neighbours are looked for at once"
        );
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn weights_follow_live_flows_where_the_service_says_so() {
    let config = format!("[settings.least-connections]\nupdate-interval = '100ms'\n{CONFIG}")
        .replace("[[service]]", "[[service]]\nalgorithm = 'least-connections-weights'");
    let (driver, lab) = Lab::start(&config).await;
    run(driver, async {
        let weights = |status: &Status| {
            let backends = status.services[0].pools[0].backends.iter();
            backends.map(|b| b.effective_weight / b.configured_weight.0).collect::<Vec<_>>()
        };
        lab.status_when(|status| weights(status) == [1.0, 1.0]).await;
        lab.plane.send_modify(|plane| {
            let ids = ids(plane, "10.0.0.1:8080");
            let row =
                |port| flow(&format!("198.51.100.1:{port}"), "10.0.0.1:8080", ids, "established");
            plane.flows = (1000..1003).map(row).collect();
        });
        lab.status_when(|status| weights(status) == [0.25, 1.0]).await;
        lab.plane.send_modify(|plane| plane.flows.clear());
        lab.status_when(|status| weights(status) == [1.0, 1.0]).await;
        assert_eq!(lab.plane.borrow().memory.check_references(), Ok(()));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn source_ports_that_run_out_are_a_reason_until_they_do_not() {
    let config = CONFIG.replace("[[service]]", "[[service]]\nmode = 'full-nat'");
    let mut world = world();
    // Ten ports are left beside the kernel's own.
    world.reading.own_ports = OwnPorts(1_034, 65_535);
    for way in world.reading.ways.values_mut() {
        let Way::Via { source, .. } = way else { continue };
        *source = Some("10.0.0.254".parse().unwrap());
    }
    let (driver, lab) = Lab::try_start_on(world, &config, |_| {}).await;
    let driver = driver.expect("starts");
    run(driver, async {
        assert_eq!(lab.status_when(|_| true).await.state, Health::Ok);
        lab.plane.send_modify(|plane| {
            let ids = ids(plane, "10.0.0.1:8080");
            let row =
                |port| flow(&format!("198.51.100.1:{port}"), "10.0.0.1:8080", ids, "established");
            plane.flows = (1000..1007).map(row).collect();
        });
        let status = lab.status_when(|status| status.state == Health::Degraded).await;
        let expected =
            "7 flows at 10.0.0.1:8080 come from 10 ports: more `snat-addresses` give room";
        assert_eq!(status.reasons, [expected]);
        lab.plane.send_modify(|plane| plane.flows.truncate(6));
        lab.status_when(|status| status.state == Health::Ok).await;
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn status_has_the_published_shape_and_counts() {
    let (driver, lab) = Lab::start(CONFIG).await;
    lab.plane.send_modify(|plane| {
        let (one, two) = (ids(plane, "10.0.0.1:8080"), ids(plane, "10.0.0.2:8080"));
        plane.flows = vec![
            flow("198.51.100.1:1000", "10.0.0.1:8080", one, "established"),
            flow("198.51.100.1:1001", "10.0.0.1:8080", one, "opening"),
            flow("198.51.100.2:1000", "10.0.0.2:8080", two, "two-way"),
        ];
        plane.verdicts = vec![
            (Hook::Xdp, Verdict::ForwardedRequest, 7),
            (Hook::Ingress, Verdict::ForwardedRequest, 5),
        ];
        plane.pressures = vec![(Pressure::RefusedFull, 2), (Pressure::EvictedUnconfirmed, 4)];
        plane.memory.backend_traffic(one.1).packets_in = 11;
        plane.memory.service_traffic(one.0).new_flows = 3;
    });
    run(driver, async {
        let status = serde_json::to_value(lab.client.status().await.unwrap()).unwrap();
        let top = [
            "version",
            "instance",
            "state",
            "reasons",
            "config",
            "services",
            "interfaces",
            "flow_table",
            "verdicts",
        ];
        assert!(keys(&status).is_superset(&names(top)), "{status}");
        let config = names(["path", "generation", "loaded_at", "last_error", "watching"]);
        assert!(keys(&status["config"]).is_superset(&config), "{status}");
        assert_eq!(status["config"]["generation"], 1);
        let service = &status["services"][0];
        assert!(keys(service).is_superset(&names(["name", "listen", "state", "pools"])));
        assert_eq!(service["new_flows"], 3);
        let pool = &service["pools"][0];
        assert_eq!(keys(pool), names(["route", "algorithm", "panic", "backends"]));
        assert_eq!(service["state"], "up");
        let backend = &pool["backends"][0];
        let wanted = [
            "address",
            "configured_weight",
            "effective_weight",
            "share",
            "health",
            "breaker",
            "draining",
            "live_flows",
            "new_flows",
            "packets_in",
            "bytes_in",
            "packets_out",
            "bytes_out",
        ];
        assert!(keys(backend).is_superset(&names(wanted)), "{backend}");
        assert_eq!(backend["address"], "10.0.0.1:8080");
        assert_eq!(backend["effective_weight"], 3.0);
        assert!((backend["share"].as_f64().unwrap() - 0.75).abs() < 0.01);
        assert_eq!(backend["live_flows"], 2);
        assert_eq!(backend["packets_in"], 11);
        let table = &status["flow_table"];
        assert!(keys(table).is_superset(&names([
            "size",
            "opening",
            "established",
            "evicted",
            "refused"
        ])));
        assert_eq!(
            (&table["opening"], &table["established"], &table["refused"], &table["evicted"]),
            (&json!(1), &json!(2), &json!(2), &json!(4))
        );
        assert_eq!(status["verdicts"]["forwarded_request"], 12);
        assert_eq!(status["hooks"]["xdp"]["forwarded_request"], 7);
        assert_eq!(keys(&status["interfaces"][0]), names(["name", "hook", "mode", "reason"]));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn flows_are_listed_by_service_backend_and_client() {
    let (driver, lab) = Lab::start(CONFIG).await;
    lab.plane.send_modify(|plane| {
        let (one, two) = (ids(plane, "10.0.0.1:8080"), ids(plane, "10.0.0.2:8080"));
        let far = (0..1500u16).map(|n| {
            flow(&format!("198.51.100.1:{}", 1000 + n), "10.0.0.1:8080", one, "established")
        });
        plane.flows = far.collect();
        plane.flows.push(flow("[2001:db8::7]:5", "10.0.0.2:8080", two, "opening"));
        plane.flows.push(flow("198.51.100.9:5", "10.0.0.9:8080", (4000, 60_000), "closing"));
    });
    run(driver, async {
        let listed = async |service: &str, backend: &str, client: &str| {
            let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let filter = FlowFilter {
                service: given(service),
                backend: given(backend),
                client: given(client),
            };
            lab.client.flows(&filter).await
        };
        assert_eq!(listed("", "", "").await.unwrap().len(), 1502);
        assert_eq!(listed("web", "", "").await.unwrap().len(), 1501);
        assert_eq!(listed("", "", "2001:db8::/32").await.unwrap().len(), 1);
        assert_eq!(listed("web", "10.0.0.1:8080", "198.51.100.0/24").await.unwrap().len(), 1500);
        // Its backend has left the configuration, its flow has not ended.
        let gone = listed("", "10.0.0.9:8080", "").await.unwrap();
        assert_eq!((gone.len(), gone[0].service.clone()), (1, None));
        assert!((gone[0].idle_seconds - 1.5).abs() < 1e-9);
        for (service, backend) in [("nosuch", ""), ("", "10.9.9.9:1"), ("", "nonsense")] {
            let Err(ClientError::Problem(problem)) = listed(service, backend, "").await else {
                panic!("{service}{backend}")
            };
            assert_eq!(problem.status, 404);
        }
        let Err(ClientError::Problem(problem)) = listed("", "", "ten").await else {
            panic!("taken")
        };
        assert_eq!(problem.status, 422);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn plan_tells_the_steps_and_changes_nothing() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let plan = async |text: &str| {
            lab.client.plan(&PlanRequest { name: "new.toml".into(), text: text.into() }).await
        };
        let same = plan(CONFIG).await.unwrap();
        assert_eq!((same.running, same.steps), (true, vec![]));
        let before = lab.plane.borrow().memory.contents().clone();
        let more = CONFIG.replace("10.0.0.2:8080", "10.0.0.3:8080");
        let steps = plan(&more).await.unwrap().steps;
        assert!(steps.iter().any(|step| step.contains("10.0.0.3:8080")), "{steps:?}");
        assert_eq!(lab.plane.borrow().memory.contents(), &before);
        let bad = CONFIG.replace("port = 80 ", "port = 0 ").replace("weight = 3", "wieght = 3");
        let Err(ClientError::Problem(problem)) = plan(&bad).await else {
            panic!("a bad file was planned")
        };
        assert_eq!(problem.status, 422);
        let pointers: Vec<_> = problem.errors.iter().map(|e| e.pointer.as_str()).collect();
        assert_eq!(pointers, ["/service/0/listen/port", "/service/0/backends/0/wieght"]);
        let elsewhere = CONFIG.replace("eth0", "eth9");
        let Err(ClientError::Problem(problem)) = plan(&elsewhere).await else {
            panic!("eth9 was planned")
        };
        assert!(problem.detail.contains("eth9"), "{}", problem.detail);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn reload_takes_a_good_file_and_refuses_a_bad_one_whole() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        lab.reload(&CONFIG.replace("10.0.0.2:8080", "10.0.0.3:8080"));
        let status = lab.status_when(|s| s.config.generation == 2).await;
        let addresses: Vec<_> =
            status.services[0].pools[0].backends.iter().map(|b| b.address.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.1:8080", "10.0.0.3:8080"]);
        assert_eq!(lab.plane.borrow().memory.check_references(), Ok(()));
        let running = lab.client.config().await.unwrap();
        assert_eq!(running["service"][0]["backends"][1]["address"], "10.0.0.3:8080");

        let before = lab.plane.borrow().memory.contents().clone();
        for (text, told) in [
            (CONFIG.replace("weight = 3", "weight = 70000"), "70000"),
            (CONFIG.replace("eth0", "eth9"), "eth9"),
            (format!("{CONFIG}[settings]\nmax-flows = 0\n"), "settings.max-flows"),
        ] {
            lab.reload(&text);
            let refused =
                |s: &Status| s.config.last_error.as_ref().is_some_and(|e| e.contains(told));
            let status = lab.status_when(refused).await;
            assert_eq!(status.config.generation, 2);
            assert_eq!(lab.plane.borrow().memory.contents(), &before);
        }
        lab.reload(&CONFIG.replace("10.0.0.2:8080", "10.0.0.3:8080"));
        let status = lab.status_when(|s| s.config.last_error.is_none()).await;
        assert_eq!(status.config.generation, 2, "the same configuration again is no new one");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn backend_that_is_removed_is_kept_for_its_flows_and_told_no_more() {
    let (driver, lab) = Lab::start(CONFIG).await;
    let (_, two) = ids(&lab.plane.borrow(), "10.0.0.2:8080");
    run(driver, async {
        let fewer = CONFIG.replace("  { address = \"10.0.0.2:8080\", weight = 1 },\n", "");
        lab.reload(&format!("{fewer}on-backend-removed = \"reset\"\n"));
        let status = lab.status_when(|s| s.config.generation == 2).await;
        assert_eq!(status.services[0].pools[0].backends.len(), 1);
        let gone = lab.plane.borrow().memory.contents().backends[&two];
        assert_eq!((gone.state, gone.generation), (Backend::GONE, 1));
        assert_eq!(gone.fate, Fate::Reset as u8);
        assert_eq!(lab.plane.borrow().memory.check_references(), Ok(()));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn policies_of_the_file_are_in_the_maps_and_in_the_configuration_told() {
    let (driver, lab) = Lab::start(CONFIG).await;
    let (web, _) = ids(&lab.plane.borrow(), "10.0.0.1:8080");
    let policy = || lab.plane.borrow().memory.contents().policies[&web];
    assert_eq!((policy().on_empty, policy().max_flows), (OnEmpty::Reset as u8, 0));
    run(driver, async {
        let timeouts = "timeouts = { tcp-opening = \"500ms\" }";
        lab.reload(&format!("{CONFIG}on-empty = \"drop\"\nmax-flows = 7\n{timeouts}\n"));
        lab.status_when(|s| s.config.generation == 2).await;
        assert_eq!((policy().on_empty, policy().max_flows), (OnEmpty::Drop as u8, 7));
        let running = lab.client.config().await.unwrap();
        assert_eq!(running["service"][0]["on_empty"], "drop");
        assert_eq!(running["service"][0]["timeouts"]["tcp_opening"], "500ms");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn who_comes_to_be_denied_by_a_file_loses_its_flows_and_a_bad_file_changes_nothing() {
    let (driver, lab) = Lab::start(CONFIG).await;
    let backend = ids(&lab.plane.borrow(), "10.0.0.1:8080");
    lab.plane.send_modify(|plane| {
        plane.flows = ["198.51.100.7:5000", "198.51.100.8:5000", "198.51.100.9:5000"]
            .map(|client| flow(client, "10.0.0.1:8080", backend, "established"))
            .to_vec();
    });
    let clients = || -> Vec<String> {
        lab.plane.borrow().flows.iter().map(|flow| flow.client.ip().to_string()).collect()
    };
    run(driver, async {
        let list = lab.path("deny.txt");
        fs::write(&list, "198.51.100.8 # a nuisance\n").unwrap();
        let text = format!(
            "{CONFIG}limits = {{ allow = [\"198.51.100.9\"] }}\n[settings.limits]\ndeny = [\"@{}\"]\n",
            list.display()
        );
        lab.reload(&text);
        lab.status_when(|s| s.config.generation == 2).await;
        assert_eq!(clients(), ["198.51.100.7", "198.51.100.9"]);
        // The text is the same and the list is not.
        fs::write(&list, "198.51.100.0/24\n").unwrap();
        lab.reload(&text);
        lab.status_when(|s| s.config.generation == 3).await;
        assert_eq!(clients(), ["198.51.100.9"]);
        assert_eq!(lab.plane.borrow().memory.contents().access.len(), 2);
        fs::write(&list, "198.51.100.0/24\n\n198.51.100.7/24\n").unwrap();
        lab.reload(&text);
        let is_told = |error: &String| error.contains("deny.txt, line 3: `198.51.100.7/24`");
        let status = lab.status_when(|s| s.config.last_error.as_ref().is_some_and(is_told)).await;
        assert_eq!(status.config.generation, 3);
        assert_eq!(lab.plane.borrow().memory.contents().access.len(), 2);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn interfaces_and_addresses_follow_the_configuration() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let has = |device: &str, address: &str| {
            lab.world.borrow().reading.devices[device].addresses.contains(&address.parse().unwrap())
        };
        assert!(has("eth0", "203.0.113.10"), "the managed address is added at start");
        lab.reload(&CONFIG.replace("eth0", "eth2").replace("203.0.113.10", "192.0.2.10"));
        lab.status_when(|s| {
            s.config.generation == 2 && s.interfaces.iter().any(|i| i.name == "eth2")
        })
        .await;
        assert_eq!(lab.attached(), names(["eth1", "eth2"]));
        assert!(!has("eth0", "203.0.113.10"));
        assert!(has("eth2", "192.0.2.10"));
        assert_eq!(
            lab.setting("ipv4/conf/eth0/forwarding"),
            "0",
            "put back where it is no longer needed"
        );
        lab.client.stop().await.unwrap();
        assert!(!has("eth2", "192.0.2.10"));
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn service_on_own_addresses_follows_them() {
    let own =
        CONFIG.replace("address = \"203.0.113.10\", ", "").replace("manage-address = true", "");
    let (driver, lab) = Lab::start(&own).await;
    assert_eq!(lab.vips(), names(["203.0.113.1:80/tcp on interface 2"]));
    run(driver, async {
        lab.world.send_modify(|world| {
            let eth0 = world.reading.devices.get_mut("eth0").unwrap();
            eth0.addresses = vec!["203.0.113.2".parse().unwrap()];
        });
        let followed = |s: &Status| {
            s.services[0].listen.addresses == ["203.0.113.2".parse::<std::net::IpAddr>().unwrap()]
        };
        lab.status_when(followed).await;
        assert_eq!(lab.vips(), names(["203.0.113.2:80/tcp on interface 2"]));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn interface_that_is_made_anew_is_attached_anew() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let mut eth0 = Device::default();
        lab.world.send_modify(|world| eth0 = world.reading.devices.remove("eth0").unwrap());
        let status = lab.status_when(|s| s.state == Health::Degraded).await;
        assert!(status.reasons.iter().any(|r| r.contains("eth0")), "{:?}", status.reasons);
        assert_eq!(lab.attached(), names(["eth1"]));
        eth0.index = 12;
        lab.world.send_modify(|world| world.reading.devices.extend([("eth0".to_owned(), eth0)]));
        lab.status_when(|s| s.state == Health::Ok).await;
        assert_eq!(lab.plane.borrow().attached.get(&12).map(String::as_str), Some("eth0"));
        assert_eq!(lab.vips(), names(["203.0.113.10:80/tcp on interface 12"]));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn refused_writes_are_told_and_taken_back_and_a_single_one_is_tried_again() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let before = lab.plane.borrow().memory.contents().clone();
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Every(1)));
        let other = CONFIG.replace("10.0.0.2:8080", "10.0.0.3:8080");
        lab.reload(&other);
        let status = lab.status_when(|s| s.config.last_error.is_some()).await;
        assert!(status.config.last_error.unwrap().contains("what ran before runs again"));
        assert_eq!(*lab.plane.borrow().memory.contents(), before);
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Once(3)));
        lab.reload(&other);
        let status = lab.status_when(|s| s.config.last_error.is_none()).await;
        assert_eq!((status.reasons, status.config.generation), (Vec::new(), 2));
        let plane = lab.plane.borrow().clone();
        assert_eq!(plane.memory.check_references(), Ok(()));
        ids(&plane, "10.0.0.3:8080");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn stop_is_answered_when_everything_is_gone() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let mode = fs::metadata(lab.path("test.sock")).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
        let answer = lab.client.stop().await.unwrap();
        assert_eq!((answer.pid, answer.stopped), (Some(std::process::id()), true));
        assert_eq!(lab.plane.borrow().end, Some(End::Removed));
        assert!(!lab.path("test.sock").exists());
        assert!(!lab.path("test.lock").exists());
        assert_eq!(lab.setting("ipv4/conf/eth0/forwarding"), "0");
        let Err(ClientError::NoInstance(_)) = lab.client.status().await else {
            panic!("somebody answers")
        };
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn start_that_fails_leaves_nothing() {
    let (failed, lab) =
        Lab::try_start(CONFIG, |plane| plane.refusing.extend(["eth1".to_owned()])).await;
    let error = failed.err().expect("eth1 refuses programs");
    assert_eq!(error.to_string(), "interface eth1 cannot be attached: eth1 refuses");
    assert_eq!(lab.plane.borrow().end, Some(End::Removed));
    assert_eq!(lab.attached(), BTreeSet::new());
    assert_eq!(lab.setting("ipv4/conf/eth0/forwarding"), "0");
    let left: Vec<_> =
        fs::read_dir(lab.directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["a.toml"]);
    let vip = "203.0.113.10".parse().unwrap();
    assert!(!lab.world.borrow().reading.devices["eth0"].addresses.contains(&vip));
}

#[tokio::test]
async fn maps_that_cannot_be_filled_at_start_are_a_failed_start() {
    let (failed, lab) = Lab::try_start(CONFIG, |plane| plane.memory.inject(Fault::Once(4))).await;
    assert!(matches!(failed.err(), Some(StartError::Maps(_))));
    assert_eq!(lab.plane.borrow().end, Some(End::Removed));
    assert_eq!(lab.attached(), BTreeSet::new(), "no program before its maps are right");
}

#[tokio::test]
async fn socket_of_a_dead_process_is_replaced_and_a_live_one_is_not() {
    let (driver, lab) = Lab::start(CONFIG).await;
    let taken = equipoise::admin::server::AdminSocket::bind(&lab.path("test.sock")).await;
    assert!(taken.unwrap_err().to_string().contains("another process answers there"));
    let left = lab.path("left.sock");
    drop(tokio::net::UnixListener::bind(&left).unwrap());
    assert!(left.exists());
    equipoise::admin::server::AdminSocket::bind(&left).await.expect("nobody answers on it");
    run(driver, async {
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn errors_of_the_api_are_problem_details() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let talk = async |request: &str| {
            let mut stream = UnixStream::connect(lab.path("test.sock")).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let missing = talk("GET /api/v1/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(missing.starts_with("HTTP/1.1 404"), "{missing}");
        assert!(missing.contains("application/problem+json"), "{missing}");
        let method = talk("POST /api/v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
        assert!(method.starts_with("HTTP/1.1 405"), "{method}");
        assert!(method.contains("application/problem+json"), "{method}");
        let body = "POST /api/v1/plan HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        let body = talk(body).await;
        assert!(body.starts_with("HTTP/1.1 422"), "{body}");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn commands_show_a_running_instance() {
    let (driver, lab) = Lab::start(CONFIG).await;
    lab.plane.send_modify(|plane| {
        let one = ids(plane, "10.0.0.1:8080");
        plane.flows = vec![flow("198.51.100.1:1000", "10.0.0.1:8080", one, "established")];
        plane.verdicts = vec![(Hook::Xdp, Verdict::ForwardedRequest, 7)];
    });
    run(driver, async {
        let command = async |line: &str| {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_equipoise"));
            command.arg("--socket").arg(lab.path("test.sock")).args(line.split(' '));
            let output =
                tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            (output.status.code().unwrap(), text(output.stdout) + &text(output.stderr))
        };
        let (exit, status) = command("status").await;
        assert_eq!(exit, 0, "{status}");
        assert!(status.starts_with("ok\n"), "{status}");
        for told in ["service web", "10.0.0.1:8080", "75", "eth1", "forwarded_request"] {
            assert!(status.contains(told), "{told} in {status}");
        }
        assert!(!status.contains("no_backend"), "verdicts that nothing met are left out: {status}");
        let (exit, json) = command("status --json").await;
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((exit, &json["instance"]), (0, &json!("test")));
        let (exit, flows) = command("flows --service web --client 198.51.100.0/24").await;
        assert!(
            exit == 0 && flows.contains("198.51.100.1:1000") && flows.contains("1 flow"),
            "{flows}"
        );
        let (exit, flows) = command("flows --json").await;
        let flows: Value = serde_json::from_str(&flows).unwrap();
        assert_eq!((exit, flows.as_array().unwrap().len()), (0, 1));
        assert_eq!(command("flows --service nosuch").await.0, 3);
        assert_eq!(command("flows --backend 10.9.9.9:1").await.0, 3);
        let (exit, sums) = command("flows --sum-by client --json").await;
        let sums: Value = serde_json::from_str(&sums).unwrap();
        assert_eq!((exit, &sums[0]["key"]), (0, &json!("198.51.100.1")), "{sums}");
        assert_eq!((&sums[0]["flows"], sums.as_array().unwrap().len()), (&json!(1), 1));
        let (exit, sums) = command("flows --sum-by backend").await;
        assert!(exit == 0 && sums.starts_with(" BACKEND") && sums.contains("10.0.0.1:8080"));
        let (exit, services) = command("services web --json").await;
        let services: Value = serde_json::from_str(&services).unwrap();
        assert_eq!((exit, &services), (0, &json["services"]));
        let (exit, services) = command("services").await;
        assert!(exit == 0 && services.starts_with("service web: "), "{services}");
        assert_eq!(command("services nosuch").await.0, 3);
        let (exit, config) = command("config").await;
        assert_eq!(exit, 0, "{config}");
        let again = config::parse("again.toml", &config).unwrap().config;
        assert_eq!(again.services, config::parse("a.toml", CONFIG).unwrap().config.services);
        let file = lab.path("a.toml").display().to_string();
        let (exit, plan) = command(&format!("plan {file}")).await;
        assert!(exit == 0 && plan.starts_with("0 steps, against the running instance"), "{plan}");
        let frame = "00".repeat(14);
        let (exit, told) = command(&format!("explain --json --hex {frame}")).await;
        let told: Value = serde_json::from_str(&told).unwrap();
        let real = (&told["interface"], &told["hook"], &told["action"], &told["reason"]);
        let expected = [json!("eth0"), json!("xdp"), json!("pass"), json!("no_service")];
        assert_eq!((exit, real), (0, (&expected[0], &expected[1], &expected[2], &expected[3])));
        assert_eq!(told["hooks"][0]["out_hex"], json!(frame));
        // A hook that runs no such packet says so in its place.
        assert_eq!(told["hooks"][1]["action"], Value::Null);
        assert_eq!(told["hooks"][1]["error"], json!("the frame is too short"));
        for (wrong, said) in [
            (format!("explain --in nosuch0 --hex {frame}"), "there is no interface"),
            ("explain --hex 00".to_owned(), "are no packet"),
            ("explain --hex zz".to_owned(), "no hexadecimal digit"),
        ] {
            let (exit, text) = command(&wrong).await;
            assert!(exit == 2 && text.contains(said), "{wrong}: {exit} {text}");
        }
        let (exit, stopped) = command("stop --instance test").await;
        assert_eq!((exit, stopped.as_str()), (0, "instance test stopped\n"));
    })
    .await
    .unwrap();
}
