//! The whole program as a user of its own, with the capabilities of the packaged unit and no way to get more.
//!
//! In a sandbox, where root has made ready what `packaging/prepare` makes ready. What is missing without a capability is told by its name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use equipoise_lab::crowd::{Crowd, RunningCrowd};
use equipoise_lab::sandbox::Sandbox;
use equipoise_lab::topology::{Forwarding, Lab, Options};
use equipoise_lab::{Daemon, program, wait_until};
use serde_json::Value;

use crate::balanced::{
    Attach, BINARY, DEADLINE, GENERIC, NATIVE, TC, backends, echo_servers, service, settings,
    tc_mode, vips,
};

/// Nobody on any machine.
const USER: &str = "61234";
/// Those of the unit.
const ALL: [&str; 5] = ["bpf", "net_admin", "perfmon", "net_bind_service", "net_raw"];
/// Where a capability stands in a set.
const NUMBERS: [(&str, u32); 5] =
    [("net_bind_service", 10), ("net_admin", 12), ("net_raw", 13), ("perfmon", 38), ("bpf", 39)];

const PROGRAM: &str = "/usr/local/sbin/equipoise";
const CONFIG: &str = "/etc/equipoise-test.toml";

/// An instance that may do little.
struct Confined {
    sandbox: Sandbox,
    daemon: Option<Daemon>,
}

impl Confined {
    fn new(lab: &Lab, config: &str) -> Self {
        let confined = Self { sandbox: Sandbox::make(&lab.balancer).unwrap(), daemon: None };
        let path = |path| confined.sandbox.path(path).unwrap();
        program::copy(Path::new(BINARY), &path(PROGRAM)).unwrap();
        let prepare = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/prepare");
        program::copy(&prepare, &path("/usr/local/sbin/prepare")).unwrap();
        confined.write(config);
        let folders = "install -d /run/equipoise /var/lib/equipoise";
        confined
            .sandbox
            .run(&format!("{folders} -o {USER} -g {USER}; prepare default {USER}"))
            .unwrap();
        confined
    }

    fn write(&self, config: &str) {
        fs::write(self.sandbox.path(CONFIG).unwrap(), config).unwrap();
    }

    /// Starts it with these capabilities, and waits until it balances.
    fn run(&mut self, capabilities: &[&str]) {
        let mut daemon = self.begin(capabilities);
        daemon.wait_for_log("running: instance", DEADLINE).unwrap();
        self.daemon = Some(daemon);
    }

    fn begin(&self, capabilities: &[&str]) -> Daemon {
        let signed: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
        let signed = format!("-all{signed}");
        let mut command = self.sandbox.command().unwrap();
        command.args(["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"]);
        command.args(["--no-new-privs", "--bounding-set", &signed]);
        command.args(["--inh-caps", &signed, "--ambient-caps", &signed]);
        command.args([PROGRAM, "-c", CONFIG, "run", "--on-exit", "keep"]);
        Daemon::start(command).unwrap()
    }

    /// Has root ask it.
    fn ask(&self, command: &str) -> String {
        self.sandbox.run(&format!("{PROGRAM} {command}")).unwrap()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.ask("--json status 2>/dev/null")).unwrap()
    }

    /// Ends its process by a signal, and gives what it has logged.
    fn end(&mut self, signal: &str) -> String {
        let pid = self.status()["pid"].clone();
        self.sandbox.run(&format!("kill -{signal} {pid}")).unwrap();
        let mut daemon = self.daemon.take().unwrap();
        daemon.wait(DEADLINE).unwrap();
        daemon.log()
    }

    /// Effective capabilities of each thread, by its name.
    fn threads(&self) -> BTreeMap<String, u64> {
        let pid = self.status()["pid"].clone();
        let told = self.sandbox.run(&format!("cat /proc/{pid}/task/*/status")).unwrap();
        let value = |line: &str, key: &str| line.strip_prefix(key).map(|v| v.trim().to_owned());
        let names = told.lines().filter_map(|line| value(line, "Name:"));
        let sets = told.lines().filter_map(|line| value(line, "CapEff:"));
        let sets = sets.map(|hex| u64::from_str_radix(&hex, 16).unwrap());
        assert_eq!(told.matches("NoNewPrivs:\t1").count(), told.matches("Name:").count());
        names.zip(sets).collect()
    }
}

fn set(names: &[&str]) -> u64 {
    let number = |name: &&str| NUMBERS.iter().find(|(known, _)| known == name).unwrap().1;
    names.iter().map(|name| 1 << number(name)).sum()
}

/// Nothing of the machine is as the balancer needs it: addresses and forwarding are its own to set.
fn lab() -> Lab {
    let options = Options { vips: Vec::new(), forwarding: Forwarding::Off, ..Options::default() };
    Lab::new(options).unwrap()
}

fn config(lab: &Lab, attach: &str) -> String {
    let mut text = settings(attach);
    for (name, vip) in vips() {
        let service = service(name, vip, &backends(lab, vip));
        text.push_str(&service.replace("backends = [", "manage-address = true\nbackends = ["));
    }
    text
}

fn runs_as_a_user_of_its_own(attach: Attach) {
    let lab = lab();
    let _servers = echo_servers(&lab);
    let text = config(&lab, attach.asked);
    let mut confined = Confined::new(&lab, &text);
    confined.run(&ALL);
    let mode = if attach.hook == "tc" { tc_mode() } else { attach.mode };
    for interface in confined.status()["interfaces"].as_array().unwrap() {
        assert_eq!((&interface["hook"], &interface["mode"]), (&attach.hook.into(), &mode.into()));
    }
    let client = &lab.client().netns;
    let crowds = vips().map(|(_, vip)| Crowd::of(vip, 20).start(client).unwrap());
    let whole = |after: &str| {
        let broken: u64 = crowds.iter().map(RunningCrowd::broken).sum();
        assert_eq!(broken, 0, "connections break by {after}");
    };

    // What talks to the outside may do less than the loop, which may do no more than it needs.
    let threads = confined.threads();
    let of = |name: &str| threads.get(name).copied().unwrap_or_else(|| panic!("{threads:x?}"));
    assert_eq!(of("equipoise"), set(&ALL));
    assert_eq!(of("names"), 0);
    assert_eq!(of("checks"), set(&["net_admin"]));

    confined.write(&text.replace("weight = 50", "weight = 49"));
    let told = confined.ask("--json reload 2>/dev/null");
    let answer: Value = serde_json::from_str(&told).unwrap();
    assert!(
        answer["generation"].as_u64().unwrap() > 1 || answer["result"] == "unchanged",
        "{told}"
    );
    assert_eq!(
        confined.status()["services"][0]["pools"][0]["backends"][0]["configured_weight"],
        49
    );

    whole("a reload");

    let before = confined.status()["pid"].clone();
    confined.ask(&format!("upgrade {PROGRAM}"));
    assert_ne!(confined.status()["pid"], before);
    assert_eq!(confined.threads()["equipoise"], set(&ALL), "the next process has the same");
    whole("an upgrade");
    let pid = confined.status()["pid"].clone();
    confined.sandbox.run(&format!("kill -KILL {pid}")).unwrap();
    // Its log is that of the one after it, too, and has no end before.
    let mut first = confined.daemon.take().unwrap();
    assert!(first.wait(DEADLINE).unwrap().success(), "{}", first.log());

    confined.run(&ALL);
    whole("a killed process, and another");
    let log = confined.end("TERM");
    assert!(log.contains("applied steps=0"), "{log}");
    assert!(log.contains("packets flow on"), "{log}");
    confined.run(&ALL);
    for crowd in crowds {
        let checked = crowd.check();
        assert!(checked.broken.is_empty(), "{:?}", checked.by_reason());
    }
    let status = confined.status();
    assert_eq!(status["state"], "ok", "{status}");
    confined.ask("stop");
    let mut last = confined.daemon.take().unwrap();
    assert!(last.wait(DEADLINE).unwrap().success(), "{}", last.log());
    confined.sandbox.run("test ! -e /sys/fs/bpf/equipoise/default").unwrap();
    assert_eq!(lab.balancer.read_sysctl("net/ipv4/conf/front/forwarding").unwrap(), "0");
    let links = lab.balancer.output("ip", &["-d", "link"]).unwrap();
    assert!(!links.contains("xdp"), "{links}");
}

#[test]
fn a_user_of_its_own_runs_it_at_native_xdp() {
    runs_as_a_user_of_its_own(NATIVE);
}

#[test]
fn a_user_of_its_own_runs_it_at_generic_xdp() {
    runs_as_a_user_of_its_own(GENERIC);
}

#[test]
fn a_user_of_its_own_runs_it_at_tc() {
    runs_as_a_user_of_its_own(TC);
}

/// What root clears up after it, it can read again.
#[test]
fn root_stops_what_a_killed_process_of_another_user_has_left() {
    let lab = lab();
    let text = config(&lab, TC.asked);
    let mut confined = Confined::new(&lab, &text);
    confined.run(&ALL);
    let drained = backends(&lab, vips()[0].1)[0].0.to_string();
    confined.ask(&format!("drain web {drained}"));
    confined.end("KILL");
    confined.ask("stop");
    let owner = "stat --format=%u /var/lib/equipoise/default/state.json";
    assert_eq!(confined.sandbox.run(owner).unwrap().trim(), USER);
    confined
        .sandbox
        .run(&format!("install -d /run/equipoise -o {USER}; prepare default {USER}"))
        .unwrap();
    confined.run(&ALL);
    assert_eq!(confined.status()["services"][0]["pools"][0]["backends"][0]["draining"], true);
}

#[test]
fn each_capability_that_is_missing_is_named() {
    let lab = lab();
    let text = config(&lab, TC.asked);
    let mut confined = Confined::new(&lab, &text);
    for missing in ["bpf", "net_admin", "perfmon"] {
        let others: Vec<_> = ALL.into_iter().filter(|name| *name != missing).collect();
        let mut daemon = confined.begin(&others);
        assert_eq!(daemon.wait(DEADLINE).unwrap().code(), Some(1));
        let name = format!("CAP_{}", missing.to_uppercase());
        assert!(daemon.log().contains(&name), "{missing}: {}", daemon.log());
    }
    // Without the folder that root makes for it.
    confined.sandbox.run("rm -r /sys/fs/bpf/equipoise").unwrap();
    let mut daemon = confined.begin(&ALL);
    assert_eq!(daemon.wait(DEADLINE).unwrap().code(), Some(1));
    assert!(daemon.log().contains("root makes that folder"), "{}", daemon.log());
    confined.sandbox.run(&format!("prepare default {USER}")).unwrap();

    // These are missed by what is asked for alone; everything else goes on.
    confined.write(&format!("{text}[settings.metrics]\nlisten = \"127.0.0.1:99\"\n"));
    confined.run(&["bpf", "net_admin", "perfmon"]);
    let said = |confined: &Confined, text: &str| {
        let log = || confined.daemon.as_ref().unwrap().log();
        let heard = wait_until(DEADLINE, text, || log().contains(text));
        heard.unwrap_or_else(|error| panic!("{error}: {}", log()));
    };
    said(&confined, "CAP_NET_BIND_SERVICE");
    let _servers = echo_servers(&lab);
    let crowd = Crowd::of(vips()[0].1, 5).start(&lab.client().netns).unwrap();
    for (address, _) in backends(&lab, vips()[0].1) {
        confined.ask(&format!("drain web {address} --force --timeout 0s --on-timeout reset"));
    }
    said(&confined, "CAP_NET_RAW");
    drop(crowd);
    assert_eq!(confined.status()["services"][0]["name"], "web");
}

/// A command that checks a backend has none of what the instance has.
#[test]
fn commands_of_checks_have_no_capabilities() {
    let lab = lab();
    let text = config(&lab, TC.asked);
    let text = text.replacen("max-flows", "exec-checks = true\nmax-flows", 1);
    let command =
        r#"["/bin/sh", "-c", "grep Cap /proc/self/status > /run/equipoise/of-check; true"]"#;
    let text = format!("{text}[settings.health-check]\ntype = \"exec\"\ncommand = {command}\n");
    let mut confined = Confined::new(&lab, &text);
    confined.run(&ALL);
    let path = "/run/equipoise/of-check";
    let told = || confined.sandbox.run(&format!("cat {path}")).unwrap_or_default();
    wait_until(DEADLINE, "a check", || told().matches("Cap").count() == 5).unwrap();
    let told = told();
    for line in told.lines().filter(|line| !line.starts_with("CapBnd")) {
        assert!(line.ends_with("0000000000000000"), "{told}");
    }
}
