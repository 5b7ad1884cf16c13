//! One process after another under traffic: no connection breaks, silent ones least of all, and none fails to open.
//!
//! What became of connections is told in a line each, with `--nocapture`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use equipoise::apply::Applier;
use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::{Eviction, Kernel, TcWay};
use equipoise_common::limit;
use equipoise_core::config::{AttachMode, parse};
use equipoise_core::diff::Applied;
use equipoise_core::state::State;
use equipoise_lab::client::{Connect, UdpAsker};
use equipoise_lab::crowd::{Crowd, RunningCrowd};
use equipoise_lab::load::{Load, RunningLoad};
use equipoise_lab::serve::{HttpServer, TcpEcho, UdpEcho};
use equipoise_lab::topology::{Host, Lab, Options};
use equipoise_lab::{Netns, program, scale, wait_until};
use serde_json::Value;

use crate::balanced::{
    Attach, BINARY, Balancer, DEADLINE, GENERIC, NATIVE, PORT, TC, backends, echo_servers, service,
    udp_servers, vips, web_servers,
};
use crate::bare;

/// Where the backends echo.
const ECHO: u16 = PORT + 1;

/// Connections that stay, new ones without end, and sockets that ask now and then.
pub(crate) struct Traffic {
    crowds: Vec<RunningCrowd>,
    loads: Vec<RunningLoad>,
    askers: Vec<(UdpAsker, String)>,
}

/// What became of it.
pub(crate) struct Outcome {
    connections: usize,
    new: u64,
    broken: usize,
    failed: u64,
}

impl Traffic {
    pub(crate) fn start(lab: &Lab) -> Self {
        let client = &lab.client().netns;
        let start = |(_, vip): (_, SocketAddr)| {
            let echo = SocketAddr::new(vip.ip(), 7);
            // For longer than an interface is away on a machine that is busy with other things.
            let timeout = DEADLINE;
            let crowd = Crowd { timeout, ..Crowd::of(echo, scale(60, 250)) };
            let crowd = crowd.start(client).unwrap();
            let connect = Connect::within(timeout);
            let load = Load { workers: 2, connect, ..Load::of_count(vip, u64::MAX) };
            let load = load.of_bytes(5_000).start(client);
            let asker = UdpAsker::open(client, vip, &Connect::default()).unwrap();
            let answered = asker.ask(b"first").unwrap();
            // Only who sends again after an answer has a flow that gives way to none.
            assert_eq!(asker.ask(b"second").unwrap(), answered);
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

    /// New connections that have been answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.loads.iter().map(|load| load.tally().answered()).sum()
    }

    /// Waits until more than so many have been.
    pub(crate) fn wait_for_more_than(&self, answered: u64) {
        let tallies = || self.loads.iter().map(RunningLoad::tally).collect::<Vec<_>>();
        let waited = wait_until(DEADLINE, "new connections", || self.answered() > answered);
        waited.unwrap_or_else(|error| panic!("{error}: {:?}", tallies()));
    }

    /// Everything is asked once more.
    pub(crate) fn end(self) -> Outcome {
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
    pub(crate) fn tell(&self, what: &str, hook: &str) {
        let Self { connections, new, broken, failed } = self;
        println!("| {what} | {hook} | {connections} | {broken} | {new} | {failed} |");
    }
}

/// Backends that serve, echo and answer.
pub(crate) struct Servers {
    _web: Vec<HttpServer>,
    _echo: Vec<TcpEcho>,
    _udp: Vec<UdpEcho>,
}

impl Servers {
    pub(crate) fn start(lab: &Lab) -> Self {
        Self::start_with(lab, TcpEcho::start)
    }

    /// Those that echo are told who has connected.
    pub(crate) fn start_told(lab: &Lab) -> Self {
        Self::start_with(lab, TcpEcho::start_told)
    }

    fn start_with(
        lab: &Lab,
        echo: fn(&Netns, &str, &[SocketAddr]) -> anyhow::Result<TcpEcho>,
    ) -> Self {
        let echo = |b: &Host| echo(&b.netns, &b.name, &b.at(ECHO)).unwrap();
        Self {
            _web: web_servers(lab),
            _echo: lab.backends.iter().map(echo).collect(),
            _udp: udp_servers(lab),
        }
    }
}

/// Both VIPs with web servers and sockets that answer on port 80, and echoes on port 7.
pub(crate) fn config(lab: &Lab, attach: &str, max_flows: u32) -> String {
    let mut text = format!("[settings]\nattach = \"{attach}\"\nmax-flows = {max_flows}\n");
    for (name, vip) in vips() {
        let web = backends(lab, vip);
        let echo: Vec<_> =
            web.iter().map(|(at, weight)| (SocketAddr::new(at.ip(), ECHO), *weight)).collect();
        text.push_str(&service(name, vip, &web));
        // Sockets say nothing for as long as a test takes; what is over is not to fill tables that others are carried over to.
        text.push_str("timeouts = { udp-two-way = \"20m\", tcp-closing = \"3s\" }\n");
        let at = SocketAddr::new(vip.ip(), 7);
        text.push_str(&service(&format!("{name}-echo"), at, &echo));
    }
    text
}

/// The packets of all services so far.
pub(crate) fn packets(status: &Value) -> u64 {
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

/// A start that comes to nothing when its programs hang already puts back those of before.
#[test]
fn a_start_that_fails_late_leaves_the_programs_of_before_in_force() {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = Servers::start(&lab);
    for attach in [NATIVE, GENERIC, TC] {
        let mut balancer = Balancer::start(&lab.balancer, &config(&lab, attach.asked, 20_000));
        let traffic = Traffic::start(&lab);
        balancer.daemon.take().unwrap().kill().unwrap();
        let file = balancer.file();
        let no_socket = ["--socket", "/nowhere/at/all.sock", "run", "-c", file.to_str().unwrap()];
        let (code, said) = balancer.ask(&no_socket);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("/nowhere/at/all.sock"), "{said}");
        balancer.run();
        assert!(balancer.log().contains("applied steps=0"), "{}", balancer.log());
        traffic.end().tell("a start that fails, then one that does not", attach.asked);
        balancer.end();
    }
}

#[test]
fn what_a_killed_process_had_changed_on_the_machine_is_taken_back_by_stop() {
    let lab = Lab::new(Options { vips: Vec::new(), ..Options::default() }).unwrap();
    lab.balancer.sysctl("net/ipv4/conf/front/forwarding", "0").unwrap();
    let state = || {
        let addresses = lab.balancer.output("ip", &["-o", "addr"]).unwrap();
        (addresses, lab.balancer.read_sysctl("net/ipv4/conf/front/forwarding").unwrap())
    };
    let before = state();
    let [at, _] = lab.backends[0].at(PORT);
    let text = service("web", vips()[0].1, &[(at, 1)])
        .replace("backends", "manage-address = true\nbackends");
    let mut balancer = Balancer::start(&lab.balancer, &text);
    // Another instance beside it stays as it is.
    let other = service("more", "203.0.113.99:99".parse().unwrap(), &[(at, 1)]);
    let other = Balancer::start(&lab.balancer, &format!("[settings]\nattach = \"tc\"\n{other}"));
    assert_ne!(state(), before);
    balancer.daemon.take().unwrap().kill().unwrap();
    let (code, said) = balancer.ask(&["stop"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(state().0, before.0);
    assert!(!std::fs::exists(format!("/sys/fs/bpf/equipoise/{}", balancer.instance)).unwrap());
    assert!(!std::fs::exists(format!("/var/lib/equipoise/{}", balancer.instance)).unwrap());
    assert_eq!(balancer.ask(&["stop"]).0, 4);
    assert_eq!(other.status()["state"], "ok");
    assert_eq!(other.status()["interfaces"].as_array().unwrap().len(), 2);
}

/// Kernels before 6.6 have no other way; here it is asked for.
#[test]
fn filters_on_a_clsact_qdisc_get_other_programs_in_their_place() {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = Servers::start(&lab);
    let netns = &lab.balancer;
    let filters = || {
        ["ingress", "egress"]
            .map(|side| netns.output("tc", &["filter", "show", "dev", "front", side]).unwrap())
    };
    let instance = format!("restart-{}", std::process::id());
    let start = || {
        let mut kernel = bare::load(&instance, 20_000, (TcWay::Clsact, Eviction::default()));
        let checked = parse("clsact.toml", &config(&lab, "tc", 20_000)).unwrap().config;
        let mut state = State::new(checked, bare::facts(netns));
        let mut applier = Applier::default();
        if let Some(found) = kernel.found().unwrap() {
            state.take_over(&found);
            applier = Applier::new(Applied::found(limit::SLOTS, found));
        }
        let steps = applier.converge(&mut kernel, state.plan()).unwrap().steps;
        for name in bare::DEVICES {
            let device = bare::device(netns, name);
            assert_eq!(kernel.attach(&device, AttachMode::Tc).unwrap().mode, "clsact");
        }
        kernel.conclude().unwrap();
        (kernel, steps)
    };
    let (kernel, steps) = netns.run(start);
    assert!(steps > 0);
    let before = filters();
    let traffic = Traffic::start(&lab);
    netns.run(|| kernel.keep()).unwrap();
    for _ in 0..scale(3, 10) {
        let (kernel, steps) = netns.run(start);
        assert_eq!(steps, 0);
        netns.run(|| kernel.keep()).unwrap();
    }
    traffic.end().tell("kill -9 and restart", "tc (clsact)");
    // As many as before, at the same places.
    let places = |all: &[String; 2]| all.clone().map(|filters| filters.lines().count());
    assert_eq!(places(&filters()), places(&before));
    assert!(netns.run(|| Kernel::remove_left(&instance)).unwrap());
    assert_eq!(filters(), [String::new(), String::new()]);
}

pub(crate) fn connections_outlive_an_upgrade_and_a_rollback(attach: Attach) {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = Servers::start(&lab);
    let mut balancer = Balancer::start(&lab.balancer, &config(&lab, attach.asked, 20_000));
    let first = balancer.daemon.as_ref().unwrap().pid();
    let traffic = Traffic::start(&lab);
    // Another file, as a new version is.
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("equipoise-next");
    // By another process: one that another test forks here would hold it open for writing, and it could not be run.
    assert!(Command::new("cp").arg(BINARY).arg(&other).status().unwrap().success());
    let mut pids = vec![first];
    for binary in [other.as_path(), Path::new(BINARY)] {
        let (code, said) = balancer.ask(&["--json", "upgrade", binary.to_str().unwrap()]);
        assert_eq!(code, 0, "{said}");
        let answer: Value = serde_json::from_str(&said).unwrap();
        let pid = u32::try_from(answer["pid"].as_u64().unwrap()).unwrap();
        assert_eq!(answer["version"], env!("CARGO_PKG_VERSION"));
        // Whoever asks is answered by that one, and it alone is there.
        let status = balancer.status();
        assert_eq!((&status["state"], &status["pid"]), (&"ok".into(), &pid.into()), "{status}");
        assert_eq!(std::fs::read_link(format!("/proc/{pid}/exe")).unwrap(), binary);
        assert!(!pids.contains(&pid));
        pids.push(pid);
    }
    traffic.end().tell("upgrade and rollback", attach.asked);
    assert_eq!(balancer.ask(&["stop"]).0, 0);
    // Its log is that of those after it, too.
    let mut first = balancer.daemon.take().unwrap();
    assert!(first.wait(DEADLINE).unwrap().success(), "it has ended well");
    assert_eq!(first.log().matches("applied steps=0").count(), 2, "{}", first.log());
    assert!(!std::fs::exists(format!("/sys/fs/bpf/equipoise/{}", balancer.instance)).unwrap());
    assert!(!std::fs::exists(format!("/run/equipoise/{}.lock", balancer.instance)).unwrap());
}

/// Whatever the next process comes to, the one that runs goes on.
#[test]
fn a_binary_that_does_not_come_to_run_changes_nothing() {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = Servers::start(&lab);
    let text = config(&lab, NATIVE.asked, 20_000);
    let balancer = Balancer::start(&lab.balancer, &text);
    let pid = balancer.daemon.as_ref().unwrap().pid();
    let traffic = Traffic::start(&lab);
    let folder = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| {
        let path = folder.path().join(name);
        program::script(&path, &format!("#!/bin/sh\n{text}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let refused = |binary: &str| {
        let (code, said) = balancer.ask(&["upgrade", binary]);
        assert_ne!(code, 0, "{binary}: {said}");
        let status = balancer.status();
        assert_eq!((&status["pid"], &status["state"]), (&pid.into(), &"ok".into()), "{status}");
        said
    };
    let not_there = folder.path().join("nothing");
    assert!(refused(not_there.to_str().unwrap()).contains("No such file"));
    assert!(refused(&script("ends", "exit 3")).contains("its log says why"));
    assert!(refused(&script("babbles", "echo hello >&0; exec sleep 5")).contains("hello"));
    // It says that it is ready, and is killed when everything is its own.
    let dies = "printf '\"ready\"\\n' >&0; head -c 1 >/dev/null; exit 1";
    assert!(refused(&script("dies", dies)).contains("its log says why"));
    // A real one, whose configuration is bad by now.
    balancer.write("[[service]]\nname = 7\n");
    assert!(refused(BINARY).contains("its configuration is refused"));
    balancer.write(&text);
    traffic.end().tell("upgrades that fail", NATIVE.asked);
    // What it does is done still.
    let drained = backends(&lab, vips()[0].1)[0].0.to_string();
    assert_eq!(balancer.ask(&["drain", "web", &drained]).0, 0);
    assert_eq!(balancer.backend("web", 0)["draining"], true);
    let (code, said) = balancer.ask(&["upgrade", BINARY]);
    assert_eq!(code, 0, "{said}");
    for stage in [" makes ready\n", "it has everything, and attaches its programs\n"] {
        assert!(said.contains(stage), "{said}");
    }
    assert_eq!(balancer.backend("web", 0)["draining"], true, "and by the next one, too");
    assert_eq!(balancer.ask(&["stop"]).0, 0);
}

/// The next process has what runs, and what runs only for a while is not forgotten to go back.
#[test]
fn an_upgrade_goes_on_with_the_file_that_runs_and_not_before_it_is_confirmed() {
    let lab = Lab::new(Options::default()).unwrap();
    let balancer = Balancer::start(&lab.balancer, &config(&lab, NATIVE.asked, 20_000));
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.toml");
    let write = |max_flows: u32| {
        std::fs::write(&other, config(&lab, NATIVE.asked, max_flows)).unwrap();
    };
    let runs = |max_flows: u32| {
        let (code, said) = balancer.ask(&["config", "--json"]);
        assert_eq!(code, 0, "{said}");
        let config: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(config["settings"]["max_flows"], max_flows, "{said}");
        assert_eq!(balancer.status()["config"]["path"], other.to_str().unwrap());
    };
    write(30_000);
    assert_eq!(balancer.ask(&["reload", other.to_str().unwrap()]).0, 0);
    runs(30_000);
    for _ in 0..2 {
        assert_eq!(balancer.ask(&["upgrade", BINARY]).0, 0);
        runs(30_000);
    }
    write(40_000);
    assert_eq!(balancer.ask(&["reload", "--confirm", "10m"]).0, 0);
    let (code, said) = balancer.ask(&["upgrade", BINARY]);
    assert!(code == 5 && said.contains("waits to be confirmed"), "{code}: {said}");
    assert_eq!(balancer.ask(&["confirm"]).0, 0);
    assert_eq!(balancer.ask(&["upgrade", BINARY]).0, 0);
    runs(40_000);
    assert_eq!(balancer.ask(&["stop"]).0, 0);
}
