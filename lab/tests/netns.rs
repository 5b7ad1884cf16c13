//! The bench against the running kernel, forwarding without any balancer. Needs root.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::Duration;

use equipoise_lab::client::{
    Connect, EchoConnection, HttpConnection, UdpAsker, download, http_get, udp_ask, upload,
};
use equipoise_lab::content::digest_of;
use equipoise_lab::link::{self, Checksums, Gro};
use equipoise_lab::load::Load;
use equipoise_lab::serve::{HttpServer, TcpEcho, UdpEcho};
use equipoise_lab::topology::{Forwarding, VIP_V4, VIP_V6};
use equipoise_lab::{Daemon, Host, Lab, Layout, Netns, Options, wait_until};

const SOON: Duration = Duration::from_secs(10);
const PORT: u16 = 8080;

fn http(host: &Host) -> HttpServer {
    HttpServer::start(&host.netns, &host.name, &host.at(PORT)).unwrap()
}

fn devices() -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/class/net").unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_namespace_has_its_own_devices_and_goes_when_dropped() {
    let netns = Netns::new().unwrap();
    netns.ip("link add br7 type bridge").unwrap();
    assert!(link::index(&netns, "br7").unwrap() > 0);
    assert!(link::index(&Netns::current().unwrap(), "br7").is_err());
    let path = netns.path();
    let identity = fs::read_link(&path).unwrap();
    assert!(identity.to_string_lossy().starts_with("net:["), "{identity:?}");
    drop(netns);
    // The number of the descriptor may be another file's by now.
    assert_ne!(fs::read_link(&path).ok(), Some(identity));
}

#[test]
fn a_namespace_can_be_entered_by_its_path() {
    let netns = Netns::new().unwrap();
    netns.ip("link add br7 type bridge").unwrap();
    let host = Netns::current().unwrap();
    let entering = format!("--net={}", netns.path().display());
    assert!(
        host.output("nsenter", &[&entering, "ip", "link", "show", "br7"]).unwrap().contains("br7")
    );
}

#[test]
fn ip_commands_that_fail_say_which_and_why() {
    let error = Netns::new().unwrap().ip("link set nowhere up").unwrap_err().to_string();
    assert!(error.contains("nowhere"), "{error}");
}

#[test]
fn a_panic_in_a_namespace_goes_on_in_the_caller() {
    let netns = Netns::new().unwrap();
    let caught = std::panic::catch_unwind(|| netns.run(|| panic!("inside")));
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"inside"));
}

#[test]
fn a_routed_lab_carries_http_and_udp_in_both_families() {
    let before = devices();
    let lab = Lab::new(Options::default()).unwrap();
    assert_eq!(devices(), before, "the host's own namespace holds no device of a lab");
    for host in &lab.backends {
        let _http = http(host);
        let udp = UdpEcho::start(&host.netns, &host.name, &host.at(53)).unwrap();
        for to in host.at(PORT) {
            let answer = http_get(&lab.client().netns, to, "/", &Connect::default()).unwrap();
            assert_eq!(
                (answer.status, answer.text, &answer.backend),
                (200, host.name.clone(), &host.name)
            );
        }
        for to in host.at(53) {
            assert_eq!(
                udp_ask(&lab.client().netns, to, b"ping", &Connect::default()).unwrap(),
                host.name
            );
        }
        assert_eq!(udp.received(), 2);
    }
}

#[test]
fn the_vips_are_reachable_on_the_balancer() {
    let lab = Lab::new(Options { backends: 0, ..Options::default() }).unwrap();
    let vips: Vec<SocketAddr> = vec![(VIP_V4, 80).into(), (VIP_V6, 80).into()];
    let _server = HttpServer::start(&lab.balancer, "balancer", &vips).unwrap();
    for vip in vips {
        let answer = http_get(&lab.client().netns, vip, "/", &Connect::default()).unwrap();
        assert_eq!(answer.backend, "balancer");
    }
}

#[test]
fn a_one_arm_lab_carries_http_by_the_one_device() {
    let lab =
        Lab::new(Options { layout: Layout::OneArm, clients: 2, backends: 2, ..Options::default() })
            .unwrap();
    assert_eq!(lab.balancer_devices(), ["front"]);
    for host in &lab.backends {
        let _http = http(host);
        for client in &lab.clients {
            for to in host.at(PORT) {
                assert_eq!(
                    http_get(&client.netns, to, "/", &Connect::default()).unwrap().backend,
                    host.name
                );
            }
        }
    }
}

#[test]
fn several_clients_reach_backends_from_their_own_addresses() {
    let lab = Lab::new(Options { clients: 3, backends: 1, ..Options::default() }).unwrap();
    let _http = http(&lab.backends[0]);
    for client in &lab.clients {
        for to in lab.backends[0].at(PORT) {
            let connect = Connect::from_port(12_345);
            let peer = http_get(&client.netns, to, "/peer", &connect).unwrap().text;
            let own: IpAddr = if to.is_ipv4() { client.v4.into() } else { client.v6.into() };
            assert_eq!(peer, SocketAddr::from((own, 12_345)).to_string());
        }
    }
}

#[test]
fn a_lab_without_forwarding_forwards_nothing() {
    let options = Options { forwarding: Forwarding::Off, backends: 1, ..Options::default() };
    let lab = Lab::new(options).unwrap();
    let _http = http(&lab.backends[0]);
    let connect = Connect::within(Duration::from_millis(300));
    for to in lab.backends[0].at(PORT) {
        assert!(http_get(&lab.client().netns, to, "/", &connect).is_err());
    }
}

#[test]
fn mtu_and_queues_are_as_asked() {
    let options = Options { mtu: 9000, queues: 2, backends: 1, clients: 2, ..Options::default() };
    let lab = Lab::new(options).unwrap();
    let ends = [(&lab.balancer, "front"), (&lab.balancer, "back"), (&lab.client().netns, "eth0")];
    for (netns, device) in ends {
        let shown = netns.output("ip", &["-d", "link", "show", device]).unwrap();
        assert!(shown.contains("mtu 9000"), "{shown}");
        assert!(shown.contains("numtxqueues 2 numrxqueues 2"), "{shown}");
    }
    // The bridge on the way takes jumbo frames too: this one is not fragmented.
    let to = lab.backends[0].at(53)[0];
    let _udp = UdpEcho::start(&lab.backends[0].netns, "b1", &[to]).unwrap();
    assert_eq!(udp_ask(&lab.client().netns, to, &[7; 8900], &Connect::default()).unwrap(), "b1");
}

#[test]
fn offloads_are_as_asked() {
    let features = |netns: &Netns, device: &str| netns.output("ethtool", &["-k", device]).unwrap();
    let complete = Lab::new(Options { backends: 1, ..Options::default() }).unwrap();
    let shown = features(&complete.client().netns, "eth0");
    assert!(shown.contains("tx-checksumming: off"), "{shown}");
    assert!(shown.contains("tx-tcp-segmentation: off"), "{shown}");
    assert!(shown.contains("generic-receive-offload: on"), "{shown}");
    let options =
        Options { backends: 1, checksums: Checksums::Partial, gro: Gro::Off, ..Options::default() };
    let partial = Lab::new(options).unwrap();
    let shown = features(&partial.client().netns, "eth0");
    assert!(shown.contains("tx-checksumming: on"), "{shown}");
    assert!(shown.contains("tx-tcp-segmentation: on"), "{shown}");
    assert!(shown.contains("generic-receive-offload: off"), "{shown}");
}

#[test]
fn a_backend_can_be_added_to_a_lab_in_place() {
    let mut lab = Lab::new(Options { backends: 1, ..Options::default() }).unwrap();
    let host = lab.add_backend().unwrap().clone();
    assert_eq!((host.name.as_str(), host.v4), ("b2", Ipv4Addr::new(10, 0, 0, 12)));
    let _http = http(&host);
    for to in host.at(PORT) {
        assert_eq!(
            http_get(&lab.client().netns, to, "/", &Connect::default()).unwrap().backend,
            "b2"
        );
    }
}

#[test]
fn downloads_and_uploads_are_checked_byte_for_byte() {
    let lab = Lab::new(Options { backends: 1, ..Options::default() }).unwrap();
    let _http = http(&lab.backends[0]);
    let client = &lab.client().netns;
    for to in lab.backends[0].at(PORT) {
        assert_eq!(download(client, to, (5_000_000, 9), &Connect::default()).unwrap(), "b1");
        assert_eq!(upload(client, to, (5_000_000, 9), &Connect::default()).unwrap(), "b1");
        let answer = http_get(client, to, "/bytes/100000", &Connect::default()).unwrap();
        assert_eq!((answer.length, answer.digest), (100_000, digest_of(0, 100_000)));
    }
}

#[test]
fn a_kept_connection_answers_again_and_again() {
    let lab = Lab::new(Options { backends: 1, ..Options::default() }).unwrap();
    let server = http(&lab.backends[0]);
    let to = lab.backends[0].at(PORT)[0];
    let mut connection =
        HttpConnection::open(&lab.client().netns, to, &Connect::default()).unwrap();
    for seed in 0..10 {
        assert_eq!(connection.ask("/").unwrap().text, "b1");
        assert_eq!(connection.download(10_000, seed).unwrap(), "b1");
        assert_eq!(connection.upload(10_000, seed).unwrap(), "b1");
    }
    assert_eq!(connection.ask("/nothing").unwrap().status, 404);
    assert_eq!((server.connections(), server.requests()), (1, 31));
}

#[test]
fn five_hundred_connections_are_held_at_once_and_cut_when_the_server_stops() {
    let lab = Lab::new(Options { backends: 1, ..Options::default() }).unwrap();
    let to = lab.backends[0].at(7)[0];
    let server = TcpEcho::start(&lab.backends[0].netns, "b1", &[to]).unwrap();
    let open = || EchoConnection::open(&lab.client().netns, to, &Connect::default()).unwrap();
    let mut connections: Vec<EchoConnection> = (0..500).map(|_| open()).collect();
    for connection in &mut connections {
        assert_eq!(connection.backend(), "b1");
        connection.ask(b"still there?").unwrap();
    }
    assert_eq!(server.connections(), 500);
    drop(server);
    assert!(connections[0].ask(b"and now?").is_err());
    assert!(EchoConnection::open(&lab.client().netns, to, &Connect::default()).is_err());
}

#[test]
fn a_udp_asker_keeps_its_port_and_times_out_when_nobody_answers() {
    let lab = Lab::new(Options { backends: 1, ..Options::default() }).unwrap();
    let to = lab.backends[0].at(53)[1];
    let server = UdpEcho::start(&lab.backends[0].netns, "b1", &[to]).unwrap();
    let connect =
        Connect { source_port: Some(23_456), ..Connect::within(Duration::from_millis(500)) };
    let asker = UdpAsker::open(&lab.client().netns, to, &connect).unwrap();
    assert_eq!(asker.ask(b"one").unwrap(), "b1");
    assert_eq!(asker.ask(b"").unwrap(), "b1");
    assert_eq!(asker.local_addr().unwrap().port(), 23_456);
    assert_eq!(server.received(), 2);
    drop(server);
    assert!(asker.ask(b"three").is_err());
}

#[test]
fn a_load_counts_answers_by_backend_and_failures_by_reason() {
    let lab = Lab::new(Options { backends: 1, ..Options::default() }).unwrap();
    let server = http(&lab.backends[0]);
    let to = lab.backends[0].at(PORT)[0];
    let tally = Load::of_count(to, 300).run(&lab.client().netns);
    assert_eq!((tally.by_backend["b1"], tally.answered(), tally.failed()), (300, 300, 0));
    assert_eq!(server.connections(), 300);
    drop(server);
    let tally = Load::of_count(to, 5).run(&lab.client().netns);
    assert_eq!((tally.answered(), tally.failed()), (0, 5));
    let reason = tally.failures.keys().next().unwrap();
    assert!(reason.contains("connect") && reason.contains("refused"), "{reason}");
}

#[test]
fn a_load_is_seen_under_way_and_stopped() {
    let lab = Lab::new(Options { backends: 1, ..Options::default() }).unwrap();
    let _http = http(&lab.backends[0]);
    let load = Load::of_time(lab.backends[0].at(PORT)[1], Duration::from_secs(60))
        .start(&lab.client().netns);
    wait_until(SOON, "a hundred answers", || load.tally().answered() >= 100).unwrap();
    assert!(load.is_running());
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{:?}", tally.failures);
    assert!(tally.elapsed < Duration::from_secs(30));
}

#[test]
fn a_load_of_time_ends_by_itself() {
    let lab = Lab::new(Options { backends: 1, ..Options::default() }).unwrap();
    let _http = http(&lab.backends[0]);
    let tally = Load::of_time(lab.backends[0].at(PORT)[0], Duration::from_millis(200))
        .run(&lab.client().netns);
    assert!(tally.answered() > 0);
    assert!(tally.elapsed >= Duration::from_millis(200));
}

#[test]
fn a_daemon_runs_in_its_namespace_and_its_log_is_kept() {
    let netns = Netns::new().unwrap();
    netns.ip("link add br7 type bridge").unwrap();
    let mut command = netns.command("sh");
    command.args(["-c", "ip link show br7; echo ready >&2; exec sleep 600"]);
    let mut daemon = Daemon::start(command).unwrap();
    daemon.wait_for_log("ready", SOON).unwrap();
    daemon.wait_for_log("br7", SOON).unwrap();
    assert!(daemon.is_running());
    let stopped = daemon.stop(SOON).unwrap();
    assert_eq!(stopped.status.signal(), Some(libc::SIGTERM));
    assert!(stopped.log.contains("ready"));
}

#[test]
fn a_daemon_that_ends_before_it_is_ready_is_an_error_with_its_log() {
    let mut command = Netns::new().unwrap().command("sh");
    command.args(["-c", "echo no such thing; exit 3"]);
    let mut daemon = Daemon::start(command).unwrap();
    let error = format!("{:#}", daemon.wait_for_log("ready", SOON).unwrap_err());
    assert!(error.contains("exit status: 3") && error.contains("no such thing"), "{error}");
}

#[test]
fn a_daemon_that_does_not_heed_sigterm_is_killed_and_that_is_an_error() {
    let mut command = Netns::new().unwrap().command("sh");
    command.args(["-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"]);
    let mut daemon = Daemon::start(command).unwrap();
    daemon.wait_for_log("ready", SOON).unwrap();
    let directory = format!("/proc/{}", daemon.pid());
    assert!(daemon.stop(Duration::from_millis(200)).is_err());
    assert!(fs::metadata(directory).is_err());
}

#[test]
fn a_daemon_outlives_the_thread_that_started_it() {
    let netns = Netns::new().unwrap();
    let start = || {
        let mut command = netns.command("sleep");
        command.arg("600");
        Daemon::start(command).unwrap()
    };
    let mut daemon = thread::scope(|scope| scope.spawn(start).join().unwrap());
    // Its signal at a parent's death would have come with the end of that thread.
    assert!(wait_until(Duration::from_millis(200), "its end", || !daemon.is_running()).is_err());
}
