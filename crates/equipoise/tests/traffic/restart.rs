//! One process after another under traffic: no connection breaks, silent ones least of all, and none fails to open.
//!
//! What became of connections is told in a line of `docs/reliability.md`'s table each, with `--nocapture`.

use equipoise_lab::client::{Connect, UdpAsker};
use equipoise_lab::crowd::{Crowd, RunningCrowd};
use equipoise_lab::load::{Load, RunningLoad};
use equipoise_lab::scale;
use equipoise_lab::serve::{HttpServer, TcpEcho, UdpEcho};
use equipoise_lab::topology::{Lab, Options};
use serde_json::Value;

use crate::balanced::{
    Attach, Balancer, NATIVE, PORT, backends, echo_servers, service, udp_servers, vips, web_servers,
};

/// Where the backends echo.
const ECHO: u16 = PORT + 1;

/// Connections that stay, new ones without end, and sockets that ask now and then.
struct Traffic {
    crowds: Vec<RunningCrowd>,
    loads: Vec<RunningLoad>,
    askers: Vec<(UdpAsker, String)>,
}

/// What became of it.
struct Outcome {
    connections: usize,
    new: u64,
    broken: usize,
    failed: u64,
}

impl Traffic {
    fn start(lab: &Lab) -> Self {
        let client = &lab.client().netns;
        let start = |(_, vip): (_, std::net::SocketAddr)| {
            let echo = std::net::SocketAddr::new(vip.ip(), 7);
            let crowd = Crowd::of(echo, scale(60, 250)).start(client).unwrap();
            let load = Load { workers: 2, ..Load::of_count(vip, u64::MAX) }.start(client);
            let asker = UdpAsker::open(client, vip, &Connect::default()).unwrap();
            let answered = asker.ask(b"first").unwrap();
            (crowd, load, (asker, answered))
        };
        let mut traffic = Self { crowds: Vec::new(), loads: Vec::new(), askers: Vec::new() };
        for (crowd, load, asker) in vips().map(start) {
            traffic.crowds.push(crowd);
            traffic.loads.push(load);
            traffic.askers.push(asker);
        }
        traffic
    }

    /// Everything is asked once more.
    fn end(self) -> Outcome {
        let mut outcome = Outcome { connections: 0, new: 0, broken: 0, failed: 0 };
        for load in self.loads {
            let tally = load.stop();
            outcome.new += tally.answered();
            outcome.failed += tally.failed();
            assert_eq!(tally.failed(), 0, "{:?}", tally.failures);
        }
        for crowd in self.crowds {
            let checked = crowd.check();
            outcome.connections += checked.whole + checked.broken.len();
            outcome.broken += checked.broken.len();
            assert!(checked.broken.is_empty(), "{:?}", checked.by_reason());
        }
        for (asker, first) in self.askers {
            assert_eq!(asker.ask(b"again").unwrap(), first, "a socket keeps its backend");
            outcome.connections += 1;
        }
        outcome
    }
}

impl Outcome {
    fn tell(&self, what: &str, hook: &str) {
        let Self { connections, new, broken, failed } = self;
        println!("| {what} | {hook} | {connections} | {broken} | {new} | {failed} |");
    }
}

/// Backends that serve, echo and answer.
struct Servers {
    _web: Vec<HttpServer>,
    _echo: Vec<TcpEcho>,
    _udp: Vec<UdpEcho>,
}

impl Servers {
    fn start(lab: &Lab) -> Self {
        let at = |at: [std::net::SocketAddr; 2]| at;
        let echo = |b: &equipoise_lab::topology::Host| {
            TcpEcho::start(&b.netns, &b.name, &at(b.at(ECHO))).unwrap()
        };
        Self {
            _web: web_servers(lab),
            _echo: lab.backends.iter().map(echo).collect(),
            _udp: udp_servers(lab),
        }
    }
}

/// Both VIPs with web servers and sockets that answer on port 80, and echoes on port 7.
fn config(lab: &Lab, attach: &str, max_flows: u32) -> String {
    let mut text = format!("[settings]\nattach = \"{attach}\"\nmax-flows = {max_flows}\n");
    for (name, vip) in vips() {
        let web = backends(lab, vip);
        let echo: Vec<_> = web
            .iter()
            .map(|(at, weight)| (std::net::SocketAddr::new(at.ip(), ECHO), *weight))
            .collect();
        text.push_str(&service(name, vip, &web));
        let at = std::net::SocketAddr::new(vip.ip(), 7);
        text.push_str(&service(&format!("{name}-echo"), at, &echo));
    }
    text
}

/// The packets of all services so far.
fn packets(status: &Value) -> u64 {
    let services = status["services"].as_array().unwrap();
    let pools = services.iter().flat_map(|service| service["pools"].as_array().unwrap());
    let backends = pools.flat_map(|pool| pool["backends"].as_array().unwrap());
    backends.map(|backend| backend["packets_in"].as_u64().unwrap()).sum()
}

pub(crate) fn connections_outlive_killed_processes(attach: Attach) {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = Servers::start(&lab);
    let text = config(&lab, attach.asked, 20_000);
    let mut balancer = Balancer::start(&lab.balancer, &text);
    let drained = backends(&lab, vips()[0].1)[0].0.to_string();
    assert_eq!(balancer.ask(&["drain", "web", &drained]).0, 0);
    let at_drain = balancer.backend("web", 0)["new_flows"].clone();
    let traffic = Traffic::start(&lab);
    let mut counted = 0;
    for round in 0..scale(3, 10) {
        balancer.daemon.take().unwrap().kill().unwrap();
        balancer.run();
        let log = balancer.log();
        assert!(log.contains("applied steps=0"), "round {round}: {log}");
        let status = balancer.status();
        assert_eq!(status["state"], "ok", "{status}");
        let packets = packets(&status);
        assert!(packets > counted, "round {round}: {packets} packets after {counted}");
        counted = packets;
        assert_eq!(balancer.backend("web", 0)["draining"], true);
    }
    assert_eq!(balancer.backend("web", 0)["new_flows"], at_drain, "drained stays drained");
    traffic.end().tell("kill -9 and restart", attach.asked);
    // Nothing of the processes before is left.
    let pins = format!("/sys/fs/bpf/equipoise/{}", balancer.instance);
    for folder in ["programs", "maps"] {
        for entry in std::fs::read_dir(format!("{pins}/{folder}")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.contains('-'), "{folder}/{name}");
        }
    }
    balancer.end();
    assert!(!std::fs::exists(&pins).unwrap());
    let links = lab.balancer.output("ip", &["-d", "link"]).unwrap();
    assert!(!links.contains("xdp"), "{links}");
}

#[test]
fn a_process_that_keeps_at_exit_is_taken_over_too() {
    let lab = Lab::new(Options::default()).unwrap();
    let _echoes = echo_servers(&lab);
    let text = crate::balanced::config(&lab, NATIVE.asked)
        .replace("[settings]\n", "[settings]\non-exit = \"keep\"\n");
    let mut balancer = Balancer::start(&lab.balancer, &text);
    let crowd = Crowd::of(vips()[0].1, 20).start(&lab.client().netns).unwrap();
    let log = balancer.end();
    assert!(log.contains("packets flow on"), "{log}");
    balancer.run();
    assert!(balancer.log().contains("applied steps=0"), "{}", balancer.log());
    let checked = crowd.check();
    assert!(checked.broken.is_empty(), "{:?}", checked.by_reason());
}
