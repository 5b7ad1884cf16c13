//! Starting, and failing to start: what is said, the exit code, and that nothing is left.

use std::fs;
use std::path::Path;

use crate::balanced::{self, Balancer, DEADLINE, NATIVE, PORT, config, service, vips, web_servers};
use equipoise_lab::client::{Connect, http_get};
use equipoise_lab::serve::HttpServer;
use equipoise_lab::topology::{Lab, Options};
use equipoise_lab::{Daemon, Netns, wait_until};

/// Runs to the end of a start that must fail, checks that nothing is left of it, and gives the exit
/// code with what was said.
fn failed_start(netns: &Netns, text: &str, before: &[&str]) -> (i32, String) {
    let balancer = Balancer::prepare(netns, text);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("equipoise.toml");
    fs::write(&file, text).unwrap();
    let mut command = netns.command(before.first().copied().unwrap_or(balanced::BINARY));
    if !before.is_empty() {
        command.args(&before[1..]).arg(balanced::BINARY);
    }
    let output =
        command.args(["--instance", &balancer.instance, "run", "-c"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let instance = &balancer.instance;
    assert!(!Path::new(&format!("/sys/fs/bpf/equipoise/{instance}")).exists(), "{said}");
    assert!(!Path::new(&format!("/run/equipoise/{instance}.sock")).exists(), "{said}");
    let links = netns.output("ip", &["-d", "link"]).unwrap();
    assert!(!links.contains("xdp"), "{links}");
    (output.status.code().unwrap(), said)
}

#[test]
fn an_interface_that_does_not_exist_is_named_with_its_place() {
    let lab = Lab::new(Options::default()).unwrap();
    let text = config(&lab, "auto").replace("\"front\"", "\"frond\"");
    let (code, said) = failed_start(&lab.balancer, &text, &[]);
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("frond") && said.contains("front") && said.contains("equipoise.toml:"),
        "{said}"
    );
}

#[test]
fn missing_capabilities_are_named() {
    let lab = Lab::new(Options::default()).unwrap();
    let without = ["setpriv", "--bounding-set", "-bpf,-sys_admin,-net_admin,-perfmon"];
    let (code, said) = failed_start(&lab.balancer, &config(&lab, "auto"), &without);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("CAP_BPF") && said.contains("CAP_NET_ADMIN"), "{said}");
}

#[test]
fn check_host_asks_the_kernel_and_holds_packets_against_links() {
    let lab = Lab::new(Options::default()).unwrap();
    let tunnel = "mode = \"ipip\"\nmss-clamp = \"off\"\nalgorithm";
    let text = config(&lab, "auto").replace("algorithm", tunnel).replace(":8080", ":80");
    let balancer = Balancer::prepare(&lab.balancer, &text);
    let file = balancer.file();
    let notes = |before: &[&str]| {
        let mut command = lab.balancer.command(before.first().unwrap_or(&balanced::BINARY));
        if !before.is_empty() {
            command.args(&before[1..]).arg(balanced::BINARY);
        }
        let output = command.args(["--json", "check", "--host"]).arg(&file).output().unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["valid"], true, "{answer}");
        let notes = answer["notes"].as_array().unwrap().iter();
        notes.map(|note| note["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let as_root = notes(&[]);
    for (room, around) in [(1480, 20), (1460, 40)] {
        let wanted = format!("have {room} bytes: 1500 by `back`, less {around} for ipip");
        assert!(as_root.iter().any(|note| note.contains(&wanted)), "{as_root:?}");
    }
    // Nothing but links at TC, which kernels have from 6.6 on, may be missing where everything else runs.
    let lacks = |note: &&String| note.contains("this kernel has no") && !note.contains("TCX");
    assert_eq!(as_root.iter().find(lacks), None);
    assert!(!as_root.iter().any(|note| note.contains("was not told")), "{as_root:?}");
    let has_links = balanced::tc_mode() == "tcx";
    assert_eq!(as_root.iter().any(|note| note.contains("TCX")), !has_links, "{as_root:?}");

    let less = notes(&["setpriv", "--bounding-set", "-bpf,-sys_admin,-net_admin,-perfmon"]);
    assert!(less.iter().any(|note| note.contains("was not told")), "{less:?}");
    assert!(less.iter().any(|note| note.contains("CAP_BPF")), "{less:?}");
}

#[test]
fn a_second_process_of_an_instance_is_refused_and_the_first_goes_on() {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = web_servers(&lab);
    let text = config(&lab, NATIVE.asked);
    let first = Balancer::start(&lab.balancer, &text);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("equipoise.toml");
    fs::write(&file, &text).unwrap();
    let (code, said) = first.ask(&["run", "-c", file.to_str().unwrap()]);
    assert_eq!(code, 1, "{said}");
    let pid = first.daemon.as_ref().unwrap().pid().to_string();
    assert!(said.contains(&pid), "{said}");
    let client = &lab.client().netns;
    assert_eq!(http_get(client, vips()[0].1, "/", &Connect::default()).unwrap().status, 200);
}

#[test]
fn an_address_nobody_owns_is_put_on_the_interface_and_taken_away_again() {
    let lab = Lab::new(Options { vips: Vec::new(), ..Options::default() }).unwrap();
    let [at, _] = lab.backends[0].at(PORT);
    let _server = HttpServer::start(&lab.backends[0].netns, "b1", &[at]).unwrap();
    let vip = vips()[0].1;
    let text =
        service("web", vip, &[(at, 1)]).replace("backends", "manage-address = true\nbackends");
    let addresses = || lab.balancer.output("ip", &["-o", "addr"]).unwrap();
    let before = addresses();
    let mut balancer = Balancer::start(&lab.balancer, &text);
    assert_ne!(addresses(), before);
    let client = &lab.client().netns;
    assert_eq!(http_get(client, vip, "/", &Connect::default()).unwrap().backend, "b1");
    balancer.end();
    assert_eq!(addresses(), before);
}

#[test]
fn a_process_that_is_killed_leaves_packets_flowing_and_the_next_one_takes_its_place() {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = web_servers(&lab);
    let mut balancer = Balancer::start(&lab.balancer, &config(&lab, NATIVE.asked));
    let client = &lab.client().netns;
    let vip = vips()[0].1;
    balancer.daemon.take().unwrap().kill().unwrap();
    for _ in 0..20 {
        assert_eq!(http_get(client, vip, "/", &Connect::default()).unwrap().status, 200);
    }
    balancer.run();
    wait_until(DEADLINE, "the next process to balance", || {
        http_get(client, vip, "/", &Connect::default()).is_ok_and(|answer| answer.status == 200)
    })
    .unwrap();
    assert!(balancer.verdict("forwarded_request") > 0);
}

/// As somebody at a shell does it: with a file that is named from where he stands, and commands alone.
#[test]
fn a_file_by_a_short_path_is_followed_and_what_is_wrong_told_everywhere() {
    let lab = Lab::new(Options::default()).unwrap();
    let mut balancer = Balancer::prepare(&lab.balancer, "");
    let metrics = "[settings.metrics]\nlisten = \"127.0.0.1:9090\"\n";
    let weighing = |weight: u32| {
        config(&lab, "tc").replace("weight = 50", &format!("weight = {weight}")) + metrics
    };
    balancer.write(&weighing(50));
    let folder = balancer.file().parent().unwrap().to_owned();
    let mut command = balancer.command();
    command.current_dir(&folder).args(["run", "-c", "equipoise.toml"]);
    let mut daemon = Daemon::start(command).unwrap();
    daemon.wait_for_log("running: instance", DEADLINE).unwrap();
    balancer.daemon = Some(daemon);
    let ask = |arguments: &[&str]| {
        let output = balancer.command().current_dir(&folder).args(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    };
    let wait_for_weight = |weight: f64| {
        wait_until(DEADLINE, &format!("a weight of {weight}"), || {
            balancer.backend("web", 0)["configured_weight"] == weight
        })
        .unwrap();
    };
    let metric = |line: &str| {
        let url = "http://127.0.0.1:9090/metrics";
        let text = lab.balancer.output("curl", &["-sf", url]).unwrap();
        assert!(text.lines().any(|told| told == line), "{line} in {text}");
    };
    fs::write(folder.join("next"), weighing(51)).unwrap();
    fs::rename(folder.join("next"), balancer.file()).unwrap();
    wait_for_weight(51.0);
    metric("lb_config_last_reload_successful 1");

    // Whoever has brought a bad file hears of it, and so does everybody else.
    fs::write(folder.join("bad.toml"), weighing(70_000)).unwrap();
    let (code, said) = ask(&["reload", "bad.toml"]);
    assert!(code == 2 && said.contains("bad.toml") && said.contains("70000"), "{code}: {said}");
    let error = balancer.status()["config"]["last_error"].to_string();
    assert!(error.contains("70000"), "{error}");
    assert!(balancer.log().contains("config_rejected"), "{}", balancer.log());
    metric("lb_config_last_reload_successful 0");
    metric("lb_reloads_total{result=\"rejected\"} 1");
    let (_, told) = ask(&["--json", "reload", "bad.toml"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["result"], "rejected", "{told}");
    assert_eq!(told["errors"][0]["key"], "service[0].backends[0].weight", "{told}");

    // What nobody confirms goes again by itself; what somebody does stays.
    fs::write(folder.join("other.toml"), weighing(52)).unwrap();
    let (code, said) = ask(&["reload", "other.toml", "--confirm", "1s"]);
    assert_eq!(code, 0, "{said}");
    wait_for_weight(51.0);
    assert_eq!(ask(&["reload", "other.toml", "--confirm", "60s"]).0, 0);
    let (code, said) = ask(&["confirm"]);
    assert!(code == 0 && said.contains("stays"), "{code}: {said}");
    assert_ne!(ask(&["confirm"]).0, 0);
    wait_for_weight(52.0);
    let (code, said) = ask(&["--json", "reload", "other.toml"]);
    assert!(code == 0 && said.contains("\"unchanged\"") && said.contains("\"steps\": 0"), "{said}");
    let (code, said) = ask(&["history"]);
    for told in ["by the file", "rolled back by nobody", "rejected by user", "applied by user"] {
        assert!(code == 0 && said.contains(told), "{told} in {said}");
    }
    fs::write(folder.join("plan.toml"), weighing(1)).unwrap();
    let (code, said) = ask(&["--json", "plan", "plan.toml"]);
    let told: serde_json::Value = serde_json::from_str(&said).unwrap();
    let web = &told["effect"].as_array().unwrap()[0];
    let moved = web["moved_percent"].as_f64().unwrap();
    assert!(code == 0 && moved > 20.0 && web["broken_flows"] == 0, "{said}");
    assert_eq!(balancer.backend("web", 0)["configured_weight"], 52.0);
}
