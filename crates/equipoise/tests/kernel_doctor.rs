//! `equipoise doctor` on machines that are broken in one way each: found, told, and put right by `--fix` where that is safe.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use equipoise_lab::link::{Checksums, End, Gro, Properties, offload, veth};
use equipoise_lab::sandbox::Sandbox;
use equipoise_lab::xdp::Passing;
use equipoise_lab::{Daemon, Netns};
use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_equipoise");
const DEADLINE: Duration = Duration::from_secs(60);

/// A machine with `front` (203.0.113.2, the VIP 203.0.113.10) to a client and default gateway, and `back` (10.0.0.254) to a backend.
struct Bench {
    near: Netns,
    _client: Netns,
    _backend: Netns,
    instance: String,
    folder: TempDir,
}

/// What `doctor` has said.
struct Said {
    exit: i32,
    answer: Value,
}

impl Bench {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let [near, client, backend] = [(); 3].map(|()| Netns::new().unwrap());
        let end = |netns, device| End { netns, device, gro: Gro::Off };
        let properties = Properties { mtu: 1500, queues: 1, checksums: Checksums::Complete };
        veth(end(&near, "front"), end(&client, "c0"), properties).unwrap();
        veth(end(&near, "back"), end(&backend, "b0"), properties).unwrap();
        near.ip("addr add 203.0.113.2/24 dev front\naddr add 203.0.113.10/32 dev front\n\
             addr add 10.0.0.254/24 dev back\nroute add default via 203.0.113.1")
            .unwrap();
        client.ip("addr add 203.0.113.1/24 dev c0").unwrap();
        backend.ip("addr add 10.0.0.1/24 dev b0").unwrap();
        let instance = format!("doctor-{}-{number}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let bench = Self { near, _client: client, _backend: backend, instance, folder };
        bench.configure("front", "", "10.0.0.1:80");
        bench
    }

    /// Writes the configuration: where its service listens, further keys of it, and its backend.
    fn configure(&self, interface: &str, keys: &str, backend: &str) {
        let text = format!(
            "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['{interface}'], address = '203.0.113.10', port = 80 }}\n\
             {keys}\nbackends = [{{ address = '{backend}' }}]\n"
        );
        std::fs::write(self.file(), text).unwrap();
    }

    /// Adds to the file what hangs where.
    fn attach(&self, how: &str) {
        let text = std::fs::read_to_string(self.file()).unwrap();
        std::fs::write(self.file(), format!("{text}[settings]\nattach = {how}\n")).unwrap();
    }

    fn file(&self) -> String {
        self.folder.path().join("a.toml").display().to_string()
    }

    fn command(&self) -> Command {
        let mut command = self.near.command(BINARY);
        command.args(["--instance", &self.instance]);
        command
    }

    fn ask(&self, arguments: &[&str]) -> Said {
        let output = self.command().args(["--json", "doctor"]).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let answer = serde_json::from_str(&text)
            .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
        Said { exit: output.status.code().unwrap(), answer }
    }

    /// By the file.
    fn doctor(&self) -> Said {
        self.ask(&["-c", &self.file()])
    }

    fn fix(&self) -> Said {
        self.ask(&["-c", &self.file(), "--fix"])
    }

    fn offload_is(&self, device: &str, feature: &str) -> String {
        let all = self.near.output("ethtool", &["-k", device]).unwrap();
        let line = all.lines().find(|line| line.trim().starts_with(&format!("{feature}:")));
        line.unwrap().split_whitespace().nth(1).unwrap().to_owned()
    }
}

impl Said {
    /// What a rule has found that is not as it should be: level, subject, what was measured.
    fn wrong(&self, rule: &str) -> Vec<(&str, &str, &str)> {
        let findings = self.answer["findings"].as_array().unwrap().iter();
        let of = findings.filter(|finding| finding["rule"] == rule && finding["level"] != "ok");
        of.map(|finding| {
            let part = |key: &str| finding[key].as_str().unwrap();
            (part("level"), part("subject"), part("measured"))
        })
        .collect()
    }

    /// Each command that was done, and the one that takes it back.
    fn done(&self) -> Vec<(&str, &str)> {
        let fixed = self.answer["fixed"].as_array().unwrap().iter();
        let done = fixed.inspect(|done| assert_eq!(done["failed"], Value::Null, "{done}"));
        done.map(|done| (done["did"].as_str().unwrap(), done["back"].as_str().unwrap())).collect()
    }
}

#[test]
fn machine_that_is_as_it_should_be_has_no_warnings() {
    let bench = Bench::new();
    let said = bench.doctor();
    assert_eq!(
        (said.exit, said.answer["level"].as_str()),
        (0, Some("notice")),
        "{:#}",
        said.answer
    );
    // It is what an instance switches on when it starts.
    assert_eq!(
        said.wrong("forwarding"),
        [
            ("notice", "back", "IPv4 forwarding is off"),
            ("notice", "front", "IPv4 forwarding is off")
        ]
    );
    let fixed = bench.fix();
    assert_eq!((fixed.exit, fixed.done()), (0, Vec::new()), "notices are left as they are");
}

#[test]
fn forwarding_that_somebody_has_switched_off_beside_an_instance_is_switched_on() {
    let bench = Bench::new();
    let mut command = bench.command();
    command.args(["run", "-c", &bench.file()]);
    let mut daemon = Daemon::start(command).unwrap();
    daemon.wait_for_log("running: instance", DEADLINE).unwrap();
    let said = bench.ask(&[]);
    assert_eq!(said.exit, 0, "{:#}", said.answer);
    assert_eq!(said.answer["by"], format!("what instance {} runs", bench.instance));
    assert_eq!(said.wrong("foreign-tc"), [], "its programs are its own");
    bench.near.sysctl("net/ipv4/conf/back/forwarding", "0").unwrap();
    let said = bench.ask(&[]);
    assert_eq!(said.wrong("forwarding"), [("problem", "back", "IPv4 forwarding is off")]);
    assert_eq!(said.exit, 1);
    let fixed = bench.ask(&["--fix"]);
    assert_eq!(
        fixed.done(),
        [(
            "sysctl -w net.ipv4.conf.back.forwarding=1",
            "sysctl -w net.ipv4.conf.back.forwarding=\"0\""
        )]
    );
    assert_eq!((fixed.exit, fixed.wrong("forwarding")), (0, Vec::new()));
    assert_eq!(bench.near.read_sysctl("net/ipv4/conf/back/forwarding").unwrap(), "1");
    daemon.signal(libc::SIGTERM).unwrap();
    daemon.wait(DEADLINE).unwrap();
}

#[test]
fn strict_filter_is_loosened_where_clients_are_answered_by_another_way() {
    let bench = Bench::new();
    bench.near.sysctl("net/ipv4/conf/front/rp_filter", "1").unwrap();
    assert_eq!(bench.doctor().wrong("rp-filter"), [], "the default route leads by it");
    bench.near.ip("route replace default via 10.0.0.1").unwrap();
    let said = bench.doctor();
    let [("warning", "front", _)] = said.wrong("rp-filter")[..] else {
        panic!("{:#}", said.answer)
    };
    let fixed = bench.fix();
    assert_eq!(fixed.done()[0].0, "sysctl -w net.ipv4.conf.front.rp_filter=2");
    assert_eq!(fixed.wrong("rp-filter"), []);
    assert_eq!(bench.near.read_sysctl("net/ipv4/conf/front/rp_filter").unwrap(), "2");
}

#[test]
fn backend_that_does_not_answer_on_its_link_is_told_after_it_was_asked_for() {
    let bench = Bench::new();
    let said = bench.doctor();
    assert_eq!(said.wrong("neighbour"), [], "{:#}", said.answer);
    bench.configure("front", "", "10.0.0.99:80");
    let said = bench.doctor();
    let told = "10.0.0.99 on back does not answer when it is asked for its link address";
    assert_eq!(said.wrong("neighbour"), [("problem", "10.0.0.99", told)]);
    let fixed = bench.fix();
    assert_eq!((fixed.exit, fixed.done()), (1, Vec::new()));
}

#[test]
fn backend_without_a_route_is_told() {
    let bench = Bench::new();
    bench.configure("front", "", "198.51.100.9:80");
    bench.near.ip("route del default").unwrap();
    let said = bench.doctor();
    assert_eq!(said.wrong("route"), [("problem", "198.51.100.9", "there is no route to it")]);
    assert_eq!(said.exit, 1);
}

#[test]
fn xdp_program_of_somebody_else_is_named_and_left_there() {
    let bench = Bench::new();
    bench.attach("{ default = 'tc', front = 'xdp' }");
    assert_eq!(bench.doctor().wrong("foreign-xdp"), []);
    let program = Passing::on(&bench.near, "front").unwrap();
    let said = bench.doctor();
    let [("problem", "front", measured)] = said.wrong("foreign-xdp")[..] else {
        panic!("{:#}", said.answer)
    };
    assert!(measured.contains("somebody_elses (id "), "{measured}");
    assert_eq!(bench.fix().wrong("foreign-xdp").len(), 1);
    drop(program);
    assert_eq!(bench.doctor().wrong("foreign-xdp"), []);
}

#[test]
fn checksums_left_to_a_veth_under_xdp_are_finished_by_its_sender() {
    let bench = Bench::new();
    let end = |device| End { netns: &bench.near, device, gro: Gro::On };
    let properties = Properties { mtu: 1500, queues: 1, checksums: Checksums::Partial };
    veth(end("x0"), end("x1"), properties).unwrap();
    bench.configure("x0", "", "10.0.0.1:80");
    bench.attach("{ default = 'tc', x0 = 'xdp' }");
    let feature = "tx-checksum-ip-generic";
    assert_eq!(bench.offload_is("x1", feature), "on");
    let said = bench.doctor();
    assert_eq!(
        said.wrong("checksum-offload"),
        [("problem", "x0", "x1, its other end, leaves checksums to the device")]
    );
    let fixed = bench.fix();
    assert!(
        fixed.done().contains(&(
            "ethtool -K x1 tx-checksum-ip-generic off",
            "ethtool -K x1 tx-checksum-ip-generic on"
        )),
        "{:?}",
        fixed.done()
    );
    assert_eq!((fixed.exit, fixed.wrong("checksum-offload")), (0, Vec::new()));
    assert_eq!(bench.offload_is("x1", feature), "off");
}

#[test]
fn device_that_takes_no_redirected_frames_gets_its_other_end_to_receive_by_napi() {
    let bench = Bench::new();
    let end = |device| End { netns: &bench.near, device, gro: Gro::Off };
    let properties = Properties { mtu: 1500, queues: 1, checksums: Checksums::Complete };
    veth(end("x0"), end("x1"), properties).unwrap();
    bench.configure("x0", "", "10.0.0.1:80");
    bench.attach("{ default = 'tc', x0 = 'xdp' }");
    let said = bench.doctor();
    assert!(
        said.wrong("redirect")
            .iter()
            .any(|(level, subject, _)| (*level, *subject) == ("warning", "x0"))
    );
    let fixed = bench.fix();
    assert_eq!(fixed.done(), [("ethtool -K x1 rx-gro on", "ethtool -K x1 rx-gro off")]);
    assert!(fixed.wrong("redirect").iter().all(|(_, subject, _)| *subject != "x0"));
    // What was done is taken back by what was told.
    offload(&bench.near, "x1", &["rx-gro", "off"]).unwrap();
    assert!(bench.doctor().wrong("redirect").iter().any(|(_, subject, _)| *subject == "x0"));
}

#[test]
fn link_that_is_too_narrow_for_a_tunnel_is_told() {
    let bench = Bench::new();
    bench.configure("front", "mode = 'ipip'\nmss-clamp = 'off'", "10.0.0.1:80");
    let said = bench.doctor();
    let [("warning", "service[0].mss-clamp", measured)] = said.wrong("mtu")[..] else {
        panic!("{:#}", said.answer)
    };
    assert!(measured.contains("1500 by `back`, less 20 for ipip"), "{measured}");
    bench.near.ip("link set back mtu 1520").unwrap();
    assert_eq!(bench.doctor().wrong("mtu"), []);
}

#[test]
fn rules_of_nftables_that_drop_are_told_by_their_chain() {
    let bench = Bench::new();
    let nft = |rule: &str| bench.near.output("nft", &[rule]).unwrap();
    nft("add table inet filter");
    nft("add chain inet filter through { type filter hook forward priority 5; policy accept; }");
    assert_eq!(bench.doctor().wrong("firewall"), [], "it drops nothing");
    nft("add rule inet filter through ip saddr 192.0.2.7 counter drop");
    let said = bench.doctor();
    let measured = "chain `inet filter through` at forward, priority 5, has rules that drop: 1";
    assert_eq!(said.wrong("firewall"), [("warning", "inet filter through", measured)]);
    nft("add chain inet filter arriving { type filter hook input priority 0; policy drop; }");
    let said = bench.doctor();
    let levels: Vec<&str> = said.wrong("firewall").iter().map(|finding| finding.0).collect();
    assert_eq!(levels, ["warning", "notice"]);
    assert_eq!(bench.fix().done(), [], "a firewall is somebody's will");
}

#[test]
fn vip_that_arp_is_told_to_ignore_is_a_problem() {
    let bench = Bench::new();
    bench.near.ip("addr del 203.0.113.10/32 dev front\naddr add 203.0.113.10/32 dev lo").unwrap();
    assert_eq!(bench.doctor().wrong("vip"), []);
    bench.near.sysctl("net/ipv4/conf/all/arp_ignore", "1").unwrap();
    let said = bench.doctor();
    let [("problem", "web", measured)] = said.wrong("vip")[..] else { panic!("{:#}", said.answer) };
    assert_eq!(measured, "203.0.113.10 is on lo; on front arp_ignore is 1, arp_announce 0");
    bench.near.ip("addr del 203.0.113.10/32 dev lo").unwrap();
    assert_eq!(bench.doctor().wrong("vip")[0].0, "warning");
}

#[test]
fn link_that_is_down_is_told() {
    let bench = Bench::new();
    bench.near.ip("link set front down").unwrap();
    let said = bench.doctor();
    assert_eq!(said.wrong("link"), [("problem", "front", "it is down")]);
    assert_eq!(said.exit, 1);
}

#[test]
fn missing_bpf_file_system_is_mounted() {
    let netns = Netns::new().unwrap();
    let sandbox = Sandbox::make(&netns).unwrap();
    let ask = |arguments: &str| sandbox.run(&format!("{BINARY} doctor {arguments}")).unwrap();
    let said = ask("");
    assert!(
        said.contains("warning  bpffs: no BPF file system is mounted at /sys/fs/bpf\n"),
        "{said}"
    );
    assert!(said.contains("help: mount -t bpf bpffs /sys/fs/bpf (--fix does it)"), "{said}");
    let fixed = ask("--fix");
    assert!(
        fixed.starts_with(
            "done     mount -t bpf bpffs /sys/fs/bpf\n         to take it back: umount /sys/fs/bpf\n"
        ),
        "{fixed}"
    );
    assert!(!ask("").contains("bpffs"));
    sandbox.run("umount /sys/fs/bpf").unwrap();
    assert!(ask("").contains("warning  bpffs"));
}
