//! What `equipoise decap` does to its host, and that nothing is left of it.

use std::fs;
use std::path::Path;

use equipoise::dataplane::kernel::decap::{Decap, Egress, From, Options};
use equipoise::dataplane::kernel::{Device, TcWay};
use equipoise_core::config::AttachMode;
use equipoise_lab::client::{Connect, http_get, udp_ask};
use equipoise_lab::serve::{HttpServer, UdpEcho};
use equipoise_lab::{Netns, link, wait_until};

use crate::bench::BALANCER;
use crate::host::{DEADLINE, Hosts, Link, NATIVE, Process, TC, WITH_VIPS, arounds, join, vips};
use crate::wire::{Around, How};

/// Addresses, and the settings that may be changed.
fn state(netns: &Netns) -> String {
    let mut state = netns.output("ip", &["-o", "addr"]).unwrap();
    for interface in ["all", "default", "lo", "eth0"] {
        for setting in ["arp_ignore", "arp_announce", "rp_filter", "forwarding"] {
            let key = format!("net/ipv4/conf/{interface}/{setting}");
            state += &format!("{key} {}\n", netns.read_sysctl(&key).unwrap());
        }
    }
    state
}

fn ledger(process: &Process) -> String {
    format!("/run/equipoise/{}.decap.json", process.instance)
}

fn hangs_somewhere(netns: &Netns) -> bool {
    netns.output("ip", &["-d", "link"]).unwrap().contains("xdp")
}

#[test]
fn the_host_is_as_it_was_before_after_the_end() {
    let hosts = Hosts::new(Link::default());
    // One of the VIPs is there already, and one of the settings.
    hosts.backend.ip("addr add 203.0.113.10/32 dev lo").unwrap();
    hosts.backend.sysctl("net/ipv4/conf/eth0/arp_announce", "1").unwrap();
    let before = state(&hosts.backend);
    for attach in [NATIVE, TC] {
        let mut process = Process::with_vips(&hosts, attach);
        let addresses = hosts.backend.output("ip", &["-o", "addr", "show", "lo"]).unwrap();
        assert!(addresses.contains("2001:db8:f::10/128"), "{addresses}");
        let setting =
            |name| hosts.backend.read_sysctl(&format!("net/ipv4/conf/eth0/{name}")).unwrap();
        assert_eq!((setting("arp_ignore"), setting("arp_announce")), ("1".into(), "2".into()));
        process.end();
        assert_eq!(state(&hosts.backend), before);
        assert!(!hangs_somewhere(&hosts.backend));
        assert!(!Path::new(&ledger(&process)).exists());
    }
}

#[test]
fn an_added_vip_is_valid_on_this_host_alone() {
    let hosts = Hosts::new(Link::default());
    let _process = Process::with_vips(&hosts, TC);
    let line = hosts.backend.output("ip", &["-4", "-o", "addr", "show", "lo"]).unwrap();
    assert!(line.contains("203.0.113.10/32 scope host lo"), "{line}");
}

#[test]
fn the_link_is_not_told_of_a_vip() {
    let hosts = Hosts::new(Link::default());
    // A client that looks for the VIP on the link, where the backend is.
    hosts.client.ip("route replace 203.0.113.10/32 dev eth0 src 10.0.0.1").unwrap();
    hosts.client.sysctl("net/ipv4/neigh/eth0/retrans_time_ms", "20").unwrap();
    let vip = vips()[0];
    let answered = |wanted: &str| {
        let _ = hosts.client.ip("neigh flush dev eth0");
        hosts.client.run(|| {
            let socket = std::net::UdpSocket::bind("10.0.0.1:0").unwrap();
            socket.send_to(b"?", vip).unwrap();
        });
        wait_until(DEADLINE, wanted, || {
            let show = ["neigh", "show", "dev", "eth0", "to", "203.0.113.10"];
            hosts.client.output("ip", &show).unwrap().contains(wanted)
        })
        .unwrap();
    };
    hosts.backend.ip("addr add 203.0.113.10/32 dev lo").unwrap();
    answered("REACHABLE");
    let mut process = Process::with_vips(&hosts, TC);
    answered("FAILED");
    process.end();
    answered("REACHABLE");
}

#[test]
fn what_a_killed_process_leaves_is_put_back_when_asked_for() {
    let hosts = Hosts::new(Link::default());
    let before = state(&hosts.backend);
    for attach in [NATIVE, TC] {
        let mut process = Process::with_vips(&hosts, attach);
        process.kill();
        assert_ne!(state(&hosts.backend), before);
        // The programs have gone by themselves.
        wait_until(DEADLINE, "no program to hang", || !hangs_somewhere(&hosts.backend)).unwrap();
        assert!(Path::new(&ledger(&process)).exists());
        let (code, said) = process.ask(&["--clean"]);
        assert!(code == 0 && said.contains("put back"), "{code} {said}");
        assert_eq!(state(&hosts.backend), before);
        let (code, said) = process.ask(&["--clean"]);
        assert!(code == 0 && said.contains("nothing was left"), "{code} {said}");
    }
}

#[test]
fn what_a_killed_process_leaves_is_taken_over_and_put_back_by_the_next() {
    let hosts = Hosts::new(Link::default());
    let before = state(&hosts.backend);
    let mut process = Process::with_vips(&hosts, TC);
    let http = HttpServer::start(&hosts.backend, "b1", &vips()).unwrap();
    let get = || http_get(&hosts.client, vips()[0], "/", &Connect::default());
    get().unwrap();
    process.kill();
    process.run(&[&WITH_VIPS[..], &["--attach", "tc"]].concat());
    get().unwrap();
    let log = process.log();
    assert!(!log.contains("address added") && !log.contains("address removed"), "{log}");
    drop(http);
    process.end();
    assert_eq!(state(&hosts.backend), before);
}

#[test]
fn addresses_of_the_interface_are_followed() {
    let hosts = Hosts::new(Link::default());
    let mut process = Process::with_vips(&hosts, TC);
    let udp = UdpEcho::start(&hosts.backend, "b1", &vips()).unwrap();
    let ask = || {
        let connect = Connect::within(std::time::Duration::from_millis(200));
        udp_ask(&hosts.client, vips()[0], b"?", &connect).is_ok()
    };
    hosts.tunnel.put(Around::new(How::Ipip, BALANCER, "10.0.0.99"));
    assert!(!ask());
    hosts.backend.ip("addr add 10.0.0.99/24 dev eth0").unwrap();
    wait_until(DEADLINE, "the new address to be known", ask).unwrap();
    hosts.backend.ip("addr del 10.0.0.99/24 dev eth0").unwrap();
    wait_until(DEADLINE, "the address to be forgotten", || !ask()).unwrap();
    drop(udp);
    let verdicts = &process.end()["verdicts"];
    assert!(verdicts["not_ours"].as_u64() >= Some(2), "{verdicts:#}");
}

#[test]
fn an_interface_that_comes_back_gets_its_programs_again() {
    let hosts = Hosts::new(Link::default());
    let before = state(&hosts.backend);
    let mut process = Process::with_vips(&hosts, TC);
    hosts.backend.ip("link del eth0").unwrap();
    process.daemon.as_mut().unwrap().wait_for_log("the interface has gone", DEADLINE).unwrap();
    join(&hosts.client, &hosts.backend, Link::default());
    wait_until(DEADLINE, "it to be attached again", || {
        process.log().matches("INFO attached").count() == 2
    })
    .unwrap();
    let arp = hosts.backend.read_sysctl("net/ipv4/conf/eth0/arp_ignore").unwrap();
    assert_eq!(arp, "1");
    process.end();
    // Another one, with other numbers; what was added to the host has gone.
    let after = state(&hosts.backend);
    let settings = |state: &str| {
        state.lines().filter(|line| line.starts_with("net/")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(settings(&after), settings(&before));
    assert!(!after.contains("203.0.113.10"), "{after}");
}

#[test]
fn counters_are_told_when_asked_for_and_add_up() {
    let hosts = Hosts::new(Link::default());
    let mut process = Process::with_vips(&hosts, NATIVE);
    let udp = UdpEcho::start(&hosts.backend, "b1", &vips()).unwrap();
    for around in arounds() {
        hosts.tunnel.put(around);
        udp_ask(&hosts.client, vips()[0], b"?", &Connect::default()).unwrap();
    }
    let report = process.ask_counters();
    assert_eq!(
        (&report["state"], &report["instance"]),
        (&"running".into(), &process.instance.as_str().into())
    );
    assert_eq!((&report["verdicts"]["ipip"], &report["verdicts"]["gue"]), (&2.into(), &4.into()));
    drop(udp);
    let last = process.end();
    assert_eq!(last["state"], "ended");
    let of_hooks: u64 = last["hooks"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|counts| counts.as_object().unwrap().values())
        .map(|count| count.as_u64().unwrap())
        .sum();
    let all: u64 =
        last["verdicts"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert!(of_hooks == all && all > 12, "{last:#}");
}

#[test]
fn people_get_tables() {
    let hosts = Hosts::new(Link::default());
    let process = Process::prepare(&hosts);
    let mut command = process.command();
    command.args(["decap", "-i", "eth0", "--attach", "tc"]);
    let mut daemon = equipoise_lab::Daemon::start(command).unwrap();
    daemon.wait_for_log("decapsulating: instance", DEADLINE).unwrap();
    let stopped = daemon.stop(DEADLINE).unwrap();
    assert!(stopped.status.success());
    assert!(stopped.log.contains("INTERFACE") && stopped.log.contains("ended:"), "{}", stopped.log);
}

#[test]
fn what_cannot_be_is_said_with_its_exit_code() {
    let hosts = Hosts::new(Link::default());
    let mut process = Process::prepare(&hosts);
    let says = |process: &Process, arguments: &[&str], expected: i32, words: &[&str]| {
        let (code, said) = process.ask(arguments);
        assert_eq!(code, expected, "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    };
    says(&process, &["-i", "eth7"], 2, &["eth7", "eth0"]);
    hosts.backend.ip("tuntap add dev tun7 mode tun").unwrap();
    says(&process, &["-i", "tun7"], 2, &["tun7", "Ethernet"]);
    says(&process, &["-i", "eth0", "--lo"], 2, &["--address"]);
    process.run(&["--attach", "xdp"]);
    says(
        &process,
        &["-i", "eth0"],
        1,
        &["runs already", &process.daemon.as_ref().unwrap().pid().to_string()],
    );
    // Another one of another name, on the same hook.
    let other = Process::prepare(&hosts);
    let before = state(&hosts.backend);
    let asked = [&["-i", "eth0", "--attach", "xdp"][..], &WITH_VIPS].concat();
    says(&other, &asked, 1, &["eth0", "decap_xdp"]);
    assert_eq!(state(&hosts.backend), before, "nothing is left of a failed start");
    process.end();
}

/// As on kernels before 6.6.
#[test]
fn filters_of_a_process_that_died_are_found_again() {
    let netns = Netns::new().unwrap();
    let other = Netns::new().unwrap();
    join(&other, &netns, Link::default());
    let name = format!("decap-clsact-{}", std::process::id());
    let index = link::index(&netns, "eth0").unwrap();
    let filters = || {
        let show = |side| netns.output("tc", &["filter", "show", "dev", "eth0", side]).unwrap();
        (show("ingress").contains("decap_in"), show("egress").contains("decap_out"))
    };
    let hang = || {
        let options = Options { name: &name, port: 6080, from: From::Anybody, tc: TcWay::Clsact };
        let mut decap = Decap::load(&options).unwrap();
        let device = Device {
            name: "eth0",
            index,
            native_xdp: false,
            xdp_program: None,
            kind: Some("veth"),
        };
        let how = decap.attach(&device, AttachMode::Auto, Egress::Clamped).unwrap();
        assert_eq!((how.hook, how.mode), ("tc", "clsact"));
        decap
    };
    let marks = format!("/sys/fs/bpf/equipoise-decap/{name}");
    netns.run(|| {
        let decap = hang();
        assert_eq!(filters(), (true, true));
        drop(decap);
        assert_eq!(filters(), (false, false));
        assert!(!fs::exists(&marks).unwrap());
        // A process that is killed drops nothing.
        std::mem::forget(hang());
        assert_eq!(filters(), (true, true));
        assert!(Decap::remove_left(&name).unwrap());
        assert_eq!(filters(), (false, false));
        assert!(!fs::exists(&marks).unwrap() && !Decap::remove_left(&name).unwrap());
        let qdiscs = netns.output("tc", &["qdisc", "show", "dev", "eth0"]).unwrap();
        assert!(!qdiscs.contains("clsact"), "{qdiscs}");
    });
}
