//! Floods at a table that they over-fill several times, beside 500 connections of which half say nothing
//! meanwhile: none breaks, and honest clients get in. The same floods break them where the oldest flow gives way
//! whatever it is, which shows that this could fail.

#[path = "traffic/balanced.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod balanced;
#[path = "traffic/bare.rs"]
mod bare;

use std::time::Duration;

use balanced::{Attach, Balancer, GENERIC, NATIVE, PORT, TC, backends, vips};
use equipoise::apply::Applier;
use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::{Eviction, Kernel, TcWay};
use equipoise_core::config::{AttachMode, parse};
use equipoise_core::state::State;
use equipoise_lab::crowd::{Crowd, Outcome};
use equipoise_lab::flood::{Flood, Frames, Kind, Random, Report, hardware_address};
use equipoise_lab::load::{Load, Tally};
use equipoise_lab::scale;
use equipoise_lab::serve::{HttpServer, TcpEcho, UdpEcho};
use equipoise_lab::topology::{Lab, Options};

/// Flows that the table of each family holds.
const MAX_FLOWS: u32 = 5_000;
/// Connections that are to stand.
const CROWD: usize = 500;
/// Packets a second that a veth takes where it has native XDP: it has one small ring, and what comes faster is dropped before any
/// program sees it, whoever it is from.
const RING: u64 = 25_000;
/// The servers' echo port, and its port at the VIP.
const ECHO: u16 = 7;

/// Clients, backends that answer in every way, and a balancer's namespace with nothing in it.
struct Scene {
    lab: Lab,
    _http: Vec<HttpServer>,
    _udp: Vec<UdpEcho>,
    _echo: Vec<TcpEcho>,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new(Options::default()).unwrap();
        let http = balanced::web_servers(&lab);
        let udp = |b: &equipoise_lab::topology::Host| {
            UdpEcho::start(&b.netns, &b.name, &b.at(PORT)).unwrap()
        };
        let echo = |b: &equipoise_lab::topology::Host| {
            TcpEcho::start(&b.netns, &b.name, &b.at(ECHO)).unwrap()
        };
        let (udp, echo) =
            (lab.backends.iter().map(udp).collect(), lab.backends.iter().map(echo).collect());
        Self { lab, _http: http, _udp: udp, _echo: echo }
    }

    /// Web, UDP and echo in both families; flows that do not answer are given up soon, so that floods end.
    fn config(&self, attach: &str) -> String {
        let mut text = format!("[settings]\nattach = \"{attach}\"\nmax-flows = {MAX_FLOWS}\n");
        for (name, vip) in vips() {
            // At random, so that a flow which was forgotten is not found again by its hash.
            for (port, protocol, at, algorithm) in
                [(vip.port(), "both", PORT, "maglev"), (ECHO, "tcp", ECHO, "random")]
            {
                let backends: Vec<_> = backends(&self.lab, vip)
                    .iter()
                    .map(|(backend, _)| {
                        format!(
                            "{{ address = \"{}\" }}",
                            std::net::SocketAddr::new(backend.ip(), at)
                        )
                    })
                    .collect();
                text += &format!(
                    "[[service]]\nname = \"{name}-{port}\"\nalgorithm = \"{algorithm}\"\nbackends = [{}]\nlisten = {{ interfaces = \
                     [\"front\"], address = \"{}\", port = {port}, protocol = \"{protocol}\" }}\n",
                    backends.join(", "),
                    vip.ip()
                );
            }
        }
        text
    }

    /// A flood of one kind at one family, of so many packets a second or as many as can be made, beside a crowd and honest clients.
    fn endure(&self, kind: Kind, v6: bool, rate: Option<u64>) -> Endured {
        let client = &self.lab.client().netns;
        let (_, vip) = vips()[usize::from(v6)];
        let crowd = Crowd::of((vip.ip(), ECHO).into(), CROWD).start(client).unwrap();
        let time = Duration::from_secs(scale(2, 10));
        let before = Load::of_time(vip, time / 2).run(client);
        let from = if v6 { "2001:db8:dead::/48" } else { "198.18.0.0/15" };
        let flood = Flood {
            device: "eth0".to_owned(),
            frames: Frames::Random(Random {
                kind,
                from: from.parse().unwrap(),
                to: vip,
                next_hop: hardware_address(&self.lab.balancer, "front").unwrap(),
                seed: 7,
            }),
            count: u64::from(MAX_FLOWS) * scale(20, 200),
            time: time * 10,
            rate,
        };
        let flood = flood.start(client).unwrap();
        let during = Load::of_time(vip, time).run(client);
        let flood = flood.wait().unwrap();
        let after = Load::of_time(vip, time / 2).run(client);
        Endured { before, during, after, flood, crowd: crowd.check() }
    }
}

/// What came of a flood.
struct Endured {
    before: Tally,
    during: Tally,
    after: Tally,
    flood: Report,
    crowd: Outcome,
}

impl Endured {
    fn tell(&self, what: &str) {
        let rate = |tally: &Tally| tally.answered() as f64 / tally.elapsed.as_secs_f64();
        println!(
            "{what}: {} packets at {:.0}/s; connections whole {}, broken {}; honest clients {:.0}/s before, \
             {:.0}/s during, {} failed",
            self.flood.sent,
            self.flood.per_second(),
            self.crowd.whole,
            self.crowd.broken.len(),
            rate(&self.before),
            rate(&self.during),
            self.during.failed(),
        );
    }
}

fn nobody_is_broken(attach: Attach, v6: bool) {
    let scene = Scene::new();
    let balancer = Balancer::start(&scene.lab.balancer, &scene.config(attach.asked));
    let rate = (attach.mode == NATIVE.mode).then_some(RING);
    for kind in [Kind::Syn, Kind::Udp, Kind::Ack] {
        let endured = scene.endure(kind, v6, rate);
        endured.tell(&format!("{kind:?} at {}, IPv{}", attach.mode, if v6 { 6 } else { 4 }));
        assert!(endured.flood.sent > 3 * u64::from(MAX_FLOWS));
        assert_eq!(endured.crowd.broken.len(), 0, "{:?}", endured.crowd.by_reason());
        assert_eq!(endured.crowd.whole, CROWD);
        assert_eq!(endured.before.failed(), 0, "{:?}", endured.before.failures);
        assert!(endured.during.answered() > 0);
        assert!(endured.after.answered() > 0);
        assert_eq!(endured.after.failed(), 0, "{:?}", endured.after.failures);
        let table = balancer.status()["flow_table"].clone();
        assert!(table["evicted"].as_u64().unwrap() > 0, "the table was never full: {table:#}");
    }
}

#[test]
fn floods_at_native_xdp_break_nobody() {
    nobody_is_broken(NATIVE, false);
    nobody_is_broken(NATIVE, true);
}

#[test]
fn floods_at_generic_xdp_break_nobody() {
    nobody_is_broken(GENERIC, false);
}

#[test]
fn floods_at_tc_break_nobody() {
    nobody_is_broken(TC, false);
    nobody_is_broken(TC, true);
}

/// The same scene on a table in which the oldest flow gives way, and on ours.
#[test]
fn a_table_without_classes_breaks_the_silent_ones() {
    for (eviction, breaks) in [(Eviction::Any, true), (Eviction::Unconfirmed, false)] {
        let scene = Scene::new();
        let netns = &scene.lab.balancer;
        let kernel = netns.run(|| loaded(&scene, eviction));
        let endured = scene.endure(Kind::Syn, false, None);
        endured.tell(&format!("SYNs where {eviction:?} gives way"));
        netns.run(|| kernel.remove()).unwrap();
        assert_eq!(!endured.crowd.broken.is_empty(), breaks, "{:?}", endured.crowd.by_reason());
    }
}

/// The data plane alone, without a control plane that sweeps.
fn loaded(scene: &Scene, eviction: Eviction) -> Kernel {
    let netns = &scene.lab.balancer;
    let instance = format!("floods-{}", std::process::id());
    let mut kernel = bare::load(&instance, MAX_FLOWS, (TcWay::default(), eviction));
    let config = parse("floods.toml", &scene.config("tc")).unwrap().config;
    let mut state = State::new(config, bare::facts(netns));
    Applier::default().converge(&mut kernel, state.plan()).unwrap();
    for name in bare::DEVICES {
        kernel.attach(&bare::device(netns, name), AttachMode::Tc).unwrap();
    }
    kernel
}
