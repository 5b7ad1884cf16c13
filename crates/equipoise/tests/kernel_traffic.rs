//! Real TCP and UDP through the real balancer, at every hook.

#[path = "traffic/balanced.rs"]
mod balanced;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use balanced::{
    Attach, Balanced, Balancer, DEADLINE, GENERIC, NATIVE, PORT, TC, backends, config, service,
    vips, weights,
};
use equipoise_lab::client::{
    Connect, HttpConnection, UdpAsker, download, http_get, udp_ask, upload,
};
use equipoise_lab::link::{Checksums, Gro};
use equipoise_lab::load::Load;
use equipoise_lab::serve::HttpServer;
use equipoise_lab::spread::{chi_square, chi_square_limit};
use equipoise_lab::topology::{Forwarding, Lab, Layout, Options};
use equipoise_lab::{scale, wait_until};

/// The same test at each hook.
macro_rules! at_each_hook {
    ($($test:ident)+) => {
        $(mod $test {
            #[test]
            fn at_native_xdp() { super::$test(super::NATIVE); }
            #[test]
            fn at_generic_xdp() { super::$test(super::GENERIC); }
            #[test]
            fn at_tc() { super::$test(super::TC); }
        })+
    };
}

at_each_hook! {
    new_connections_follow_the_weights
    a_hundred_megabytes_arrive_whole_each_way
    a_hundred_downloads_at_once_arrive_whole
    udp_is_answered_and_a_socket_keeps_its_backend
    replies_on_another_cpu_find_their_flow
    one_arm_works
    two_vips_share_a_backend_and_a_client_port
    empty_neighbour_tables_lose_nothing
    a_neighbour_that_goes_in_mid_flow_is_found_again
    a_backend_that_changes_its_link_address_is_followed
    clients_and_backends_on_this_host_are_served
    connections_of_this_host_from_a_service_port_go_on
    counters_are_what_was_sent
}

fn new_connections_follow_the_weights(attach: Attach) {
    let balanced = Balanced::new(attach, Options::default());
    let count = scale(3000, 30_000);
    for (name, vip) in vips() {
        let tally = Load::of_count(vip, count).run(balanced.client());
        assert_eq!(tally.failed(), 0, "{:?}", tally.failures);
        assert_eq!(tally.answered(), count);
        let chi = chi_square(&tally.by_backend, &weights(&balanced.lab));
        assert!(chi < chi_square_limit(2), "{chi} {:?}", tally.by_backend);
        assert_eq!(balanced.balancer.sum(name, "new_flows"), count);
    }
}

fn a_hundred_megabytes_arrive_whole_each_way(attach: Attach) {
    const LENGTH: u64 = 100_000_000;
    for mtu in [1500, 9000] {
        let balanced = Balanced::new(attach, Options { mtu, ..Options::default() });
        for (number, (_, vip)) in vips().into_iter().enumerate() {
            download(balanced.client(), vip, (LENGTH, number as u64), &Connect::default()).unwrap();
            upload(balanced.client(), vip, (LENGTH, number as u64), &Connect::default()).unwrap();
        }
    }
}

fn a_hundred_downloads_at_once_arrive_whole(attach: Attach) {
    let balanced = Balanced::new(attach, Options::default());
    let (_, vip) = vips()[0];
    let client = balanced.client();
    let mut connections: Vec<_> =
        (0..100).map(|_| HttpConnection::open(client, vip, &Connect::default()).unwrap()).collect();
    std::thread::scope(|scope| {
        for (seed, connection) in connections.iter_mut().enumerate() {
            scope.spawn(move || connection.download(1_000_000, seed as u64).unwrap());
        }
    });
    assert_eq!(balanced.balancer.status()["flow_table"]["established"], 100);
}

fn udp_is_answered_and_a_socket_keeps_its_backend(attach: Attach) {
    let balanced = Balanced::new(attach, Options::default());
    for (_, vip) in vips() {
        let mut names = BTreeSet::new();
        for _ in 0..30 {
            let asker = UdpAsker::open(balanced.client(), vip, &Connect::default()).unwrap();
            let first = asker.ask(b"one").unwrap();
            for word in [b"two", b"six"] {
                assert_eq!(asker.ask(word).unwrap(), first);
            }
            names.insert(first);
        }
        assert_eq!(names.len(), 3, "{names:?}");
    }
}

fn replies_on_another_cpu_find_their_flow(attach: Attach) {
    let balanced = Balanced::new(attach, Options { queues: 2, ..Options::default() });
    let (_, vip) = vips()[0];
    let load = Load { workers: 16, ..Load::of_count(vip, 2000) };
    let tally = load.run(balanced.client());
    assert_eq!((tally.failed(), tally.answered()), (0, 2000), "{:?}", tally.failures);
    let verdict = |name| balanced.balancer.verdict(name);
    assert_eq!(verdict("no_backend") + verdict("flow_refused") + verdict("no_source_port"), 0);
}

fn one_arm_works(attach: Attach) {
    let balanced = Balanced::new(attach, Options { layout: Layout::OneArm, ..Options::default() });
    for (_, vip) in vips() {
        let tally = Load::of_count(vip, 100).run(balanced.client());
        assert_eq!((tally.failed(), tally.answered()), (0, 100), "{:?}", tally.failures);
        download(balanced.client(), vip, (1_000_000, 1), &Connect::default()).unwrap();
    }
}

fn two_vips_share_a_backend_and_a_client_port(attach: Attach) {
    let second: SocketAddr = "203.0.113.11:80".parse().unwrap();
    let first = vips()[0].1;
    let lab = Lab::new(Options {
        vips: vec![first.ip(), second.ip()],
        backends: 1,
        ..Options::default()
    })
    .unwrap();
    let [at, _] = lab.backends[0].at(PORT);
    let _server = HttpServer::start(&lab.backends[0].netns, "b1", &[at]).unwrap();
    let text = format!("[settings]\nattach = \"{}\"\n", attach.asked)
        + &service("first", first, &[(at, 1)])
        + &service("second", second, &[(at, 1)]);
    let balancer = Balancer::start(&lab.balancer, &text);
    let client = &lab.client().netns;
    for port in 20_000..20_020 {
        let open = |vip| HttpConnection::open(client, vip, &Connect::from_port(port)).unwrap();
        let (mut one, mut other) = (open(first), open(second));
        for seed in 0..3 {
            one.download(10_000, seed).unwrap();
            other.download(10_000, seed + 7).unwrap();
        }
    }
    assert_eq!(balancer.sum("second", "ports_changed"), 20);
}

fn empty_neighbour_tables_lose_nothing(attach: Attach) {
    let balanced = Balanced::new(attach, Options::default());
    for (_, vip) in vips() {
        for _ in 0..5 {
            for device in balanced.lab.balancer_devices() {
                balanced.lab.balancer.ip(&format!("neigh flush dev {device}")).unwrap();
            }
            let answer =
                http_get(balanced.client(), vip, "/", &Connect::within(Duration::from_millis(900)))
                    .unwrap();
            assert_eq!(answer.status, 200);
            assert!(udp_ask(balanced.client(), vip, b"?", &Connect::default()).is_ok());
        }
    }
}

fn a_neighbour_that_goes_in_mid_flow_is_found_again(attach: Attach) {
    let balanced = Balanced::new(attach, Options::default());
    for (_, vip) in vips() {
        let mut connection =
            HttpConnection::open(balanced.client(), vip, &Connect::default()).unwrap();
        for seed in 0..5 {
            connection.download(100_000, seed).unwrap();
            for device in balanced.lab.balancer_devices() {
                balanced.lab.balancer.ip(&format!("neigh flush dev {device}")).unwrap();
            }
        }
    }
}

fn a_backend_that_changes_its_link_address_is_followed(attach: Attach) {
    let balanced = Balanced::new(attach, Options { backends: 1, ..Options::default() });
    let backend = &balanced.lab.backends[0];
    let mut connections: Vec<_> = vips()
        .into_iter()
        .map(|(_, vip)| {
            HttpConnection::open(balanced.client(), vip, &Connect::within(Duration::from_secs(60)))
                .unwrap()
        })
        .collect();
    for connection in &mut connections {
        connection.download(10_000, 1).unwrap();
    }
    // No announcement is made; the balancer has to find out.
    backend.netns.sysctl("net/ipv4/conf/eth0/arp_notify", "0").unwrap();
    backend.netns.ip("link set eth0 address 02:00:00:00:aa:01").unwrap();
    for connection in &mut connections {
        connection.download(10_000, 2).unwrap();
    }
}

fn clients_and_backends_on_this_host_are_served(attach: Attach) {
    let lab = Lab::new(Options::default()).unwrap();
    let here: SocketAddr = "10.0.0.1:8081".parse().unwrap();
    let _here = HttpServer::start(&lab.balancer, "here", &[here]).unwrap();
    let [at, at6] = lab.backends[0].at(PORT);
    let _server = HttpServer::start(&lab.backends[0].netns, "b1", &[at, at6]).unwrap();
    let vip = vips()[0].1;
    let vip6 = vips()[1].1;
    let second: SocketAddr = SocketAddr::new(vip.ip(), 81);
    let text = format!("[settings]\nattach = {{ default = \"{}\", lo = \"tc\" }}\n", attach.asked)
        + &service("away", vip, &[(at, 1)])
        + &service("away6", vip6, &[(at6, 1)])
        + &service("here", second, &[(here, 1)]);
    let text = text.replace("[\"front\"]", "[\"front\", \"lo\"]");
    let _balancer = Balancer::start(&lab.balancer, &text);
    for from in [&lab.client().netns, &lab.balancer] {
        for (to, name) in [(second, "here"), (vip, "b1"), (vip6, "b1")] {
            for seed in 0..3 {
                let answered = download(from, to, (100_000, seed), &Connect::default()).unwrap();
                assert_eq!(answered, name);
            }
        }
    }
}

fn connections_of_this_host_from_a_service_port_go_on(attach: Attach) {
    // The service is on the interface's own addresses; so is the host's own connection, from the
    // very port that the service listens on.
    let lab = Lab::new(Options::default()).unwrap();
    let [at, _] = lab.backends[0].at(PORT);
    let _server = HttpServer::start(&lab.backends[0].netns, "b1", &[at]).unwrap();
    let theirs =
        HttpServer::start(&lab.client().netns, "theirs", &[lab.client().at(PORT)[0]]).unwrap();
    let text = format!(
        "[settings]\nattach = \"{}\"\n[[service]]\nname = \"own\"\n\
         listen = {{ interfaces = [\"front\"], port = 5353, protocol = \"both\" }}\n\
         backends = [{{ address = \"{at}\" }}]\n",
        attach.asked
    );
    let balancer = Balancer::start(&lab.balancer, &text);
    let answered =
        download(&lab.balancer, theirs.addresses()[0], (1_000_000, 1), &Connect::from_port(5353))
            .unwrap();
    assert_eq!(answered, "theirs");
    assert!(balancer.verdict("local_socket") > 0);
    assert_eq!(balancer.sum("own", "new_flows"), 0);
    // And the service itself works.
    let own = SocketAddr::new(equipoise_lab::topology::FRONT_V4.into(), 5353);
    assert_eq!(http_get(&lab.client().netns, own, "/", &Connect::default()).unwrap().backend, "b1");
}

fn counters_are_what_was_sent(attach: Attach) {
    let balanced = Balanced::new(attach, Options { queues: 2, ..Options::default() });
    const SOCKETS: u64 = 50;
    const EACH: u64 = 20;
    let (name, vip) = vips()[0];
    let client = balanced.client();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..SOCKETS / 2 {
                    let asker = UdpAsker::open(client, vip, &Connect::default()).unwrap();
                    for _ in 0..EACH {
                        asker.ask(b"0123456789").unwrap();
                    }
                }
            });
        }
    });
    let sum = |key| balanced.balancer.sum(name, key);
    let packets = SOCKETS * EACH;
    assert_eq!(
        (sum("new_flows"), sum("packets_in"), sum("packets_out")),
        (SOCKETS, packets, packets)
    );
    let bytes_in = packets * (20 + 8 + 10);
    // The answer has the backend's name and a colon before it.
    let bytes_out = packets * (20 + 8 + "b1:".len() as u64 + 10);
    assert_eq!((sum("bytes_in"), sum("bytes_out")), (bytes_in, bytes_out));
}

#[test]
fn forwarding_that_is_off_is_set_with_a_message_and_put_back() {
    let lab = Lab::new(Options { forwarding: Forwarding::Off, ..Options::default() }).unwrap();
    let [at, _] = lab.backends[0].at(PORT);
    let _server = HttpServer::start(&lab.backends[0].netns, "b1", &[at]).unwrap();
    let vip = vips()[0].1;
    let mut balancer = Balancer::start(&lab.balancer, &service("web", vip, &[(at, 1)]));
    assert_eq!(http_get(&lab.client().netns, vip, "/", &Connect::default()).unwrap().backend, "b1");
    let log = balancer.end();
    assert!(log.contains("forwarding"), "{log}");
    assert_eq!(lab.balancer.read_sysctl("net/ipv4/conf/front/forwarding").unwrap(), "0");
}

#[test]
fn a_veth_peer_that_takes_no_redirects_is_reached_by_the_stack() {
    let balanced = Balanced::new(NATIVE, Options { gro: Gro::Off, ..Options::default() });
    for (_, vip) in vips() {
        let tally = Load::of_count(vip, 100).run(balanced.client());
        assert_eq!((tally.failed(), tally.answered()), (0, 100), "{:?}", tally.failures);
    }
    assert!(balanced.balancer.verdict("request_no_redirect") > 0);
}

#[test]
fn default_offloads_work_at_tc() {
    let balanced =
        Balanced::new(TC, Options { checksums: Checksums::Partial, ..Options::default() });
    for (name, vip) in vips() {
        download(balanced.client(), vip, (30_000_000, 1), &Connect::default()).unwrap();
        upload(balanced.client(), vip, (30_000_000, 1), &Connect::default()).unwrap();
        // Packets of many segments count as those.
        let bytes = balanced.balancer.sum(name, "bytes_out");
        let packets = balanced.balancer.sum(name, "packets_out");
        assert!(
            bytes > 30_000_000 && bytes / packets <= 1500,
            "{bytes} bytes in {packets} packets"
        );
    }
}

#[test]
fn an_xdp_program_of_another_is_kept_and_named() {
    let lab = Lab::new(Options::default()).unwrap();
    let first = Balancer::start(&lab.balancer, &config(&lab, NATIVE.asked));
    let [at, _] = lab.backends[0].at(PORT);
    let text = service("more", "203.0.113.10:99".parse().unwrap(), &[(at, 1)]);
    let second = Balancer::prepare(&lab.balancer, &format!("[settings]\nattach = \"xdp\"\n{text}"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("second.toml");
    std::fs::write(&file, format!("[settings]\nattach = \"xdp\"\n{text}")).unwrap();
    let (code, said) = second.ask(&["run", "-c", file.to_str().unwrap()]);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("front has an XDP program already") && said.contains("equipoise_xdp"),
        "{said}"
    );
    assert_eq!(first.status()["interfaces"][0]["mode"], "native");
}

#[test]
fn filters_of_others_survive_start_and_stop() {
    let lab = Lab::new(Options::default()).unwrap();
    let netns = &lab.balancer;
    netns.output("tc", &["qdisc", "add", "dev", "front", "clsact"]).unwrap();
    let filter = [
        "filter", "add", "dev", "front", "ingress", "prio", "7", "protocol", "ip", "u32", "match",
        "u32", "0", "0", "classid", "1:1",
    ];
    netns.output("tc", &filter).unwrap();
    let show = || {
        let qdiscs = netns.output("tc", &["qdisc", "show", "dev", "front"]).unwrap();
        let filters = netns.output("tc", &["filter", "show", "dev", "front", "ingress"]).unwrap();
        format!("{qdiscs}{filters}")
    };
    let before = show();
    let mut balancer = Balancer::start(netns, &config(&lab, "tc"));
    assert_eq!(show(), before);
    balancer.end();
    assert_eq!(show(), before);
}

#[test]
fn a_stopped_balancer_leaves_nothing() {
    for attach in [NATIVE, GENERIC, TC] {
        let mut balanced = Balanced::new(attach, Options::default());
        let pins = format!("/sys/fs/bpf/equipoise/{}", balanced.balancer.instance);
        assert!(std::fs::exists(&pins).unwrap());
        balanced.balancer.end();
        assert!(!std::fs::exists(&pins).unwrap());
        assert!(
            !std::fs::exists(format!("/run/equipoise/{}.sock", balanced.balancer.instance))
                .unwrap()
        );
        let links = balanced.lab.balancer.output("ip", &["-d", "link"]).unwrap();
        assert!(!links.contains("xdp"), "{links}");
        assert_eq!(balanced.balancer.ask(&["stop"]).0, 4);
    }
}

#[test]
fn packets_flow_on_without_the_process_and_stop_ends_that() {
    for attach in [NATIVE, TC] {
        let lab = Lab::new(Options::default()).unwrap();
        let _servers: Vec<_> = lab
            .backends
            .iter()
            .map(|b| HttpServer::start(&b.netns, &b.name, &b.at(PORT)).unwrap())
            .collect();
        let text =
            config(&lab, attach.asked).replace("[settings]\n", "[settings]\non-exit = \"keep\"\n");
        let mut balancer = Balancer::start(&lab.balancer, &text);
        let vip = vips()[0].1;
        let client = &lab.client().netns;
        let mut long = HttpConnection::open(client, vip, &Connect::default()).unwrap();
        long.download(100_000, 1).unwrap();
        balancer.end();
        long.download(100_000, 2).unwrap();
        let tally = Load::of_count(vip, 200).run(client);
        assert_eq!((tally.failed(), tally.answered()), (0, 200), "{:?}", tally.failures);
        assert_eq!(balancer.ask(&["stop"]).0, 0);
        assert!(http_get(client, vip, "/", &Connect::within(Duration::from_millis(500))).is_err());
    }
}

#[test]
fn a_new_configuration_moves_new_connections_and_breaks_none() {
    for attach in [NATIVE, TC] {
        let mut balanced = Balanced::new(attach, Options::default());
        let vip = vips()[0].1;
        let client = balanced.lab.client().netns.clone();
        let mut long: Vec<_> = (0..50)
            .map(|_| HttpConnection::open(&client, vip, &Connect::default()).unwrap())
            .collect();
        let held: Vec<_> = long.iter_mut().map(|c| c.ask("/").unwrap().backend).collect();
        let all = backends(&balanced.lab, vip);
        let only = |number: usize| {
            format!("[settings]\nattach = \"{}\"\nmax-flows = 20000\n", attach.asked)
                + &service("web", vip, &[all[number]])
        };
        for number in 0..3 {
            balanced.balancer.reload(&only(number));
            let tally = Load::of_count(vip, 50).run(&client);
            assert_eq!(tally.failed(), 0, "{:?}", tally.failures);
            let name = &balanced.lab.backends[number].name;
            assert_eq!(tally.by_backend.keys().collect::<Vec<_>>(), [name]);
            for (connection, backend) in long.iter_mut().zip(&held) {
                assert_eq!(&connection.ask("/").unwrap().backend, backend);
            }
        }
        // A bad file changes nothing and says so.
        balanced.balancer.write("[[service]]\nname = 7\n");
        balanced.balancer.signal(libc::SIGHUP);
        wait_until(DEADLINE, "the error in status", || {
            !balanced.balancer.status()["config"]["last_error"].is_null()
        })
        .unwrap();
        assert_eq!(Load::of_count(vip, 20).run(&client).failed(), 0);
    }
}

/// Kernels before 6.6 have no other way; here it is asked for.
#[test]
fn filters_on_a_clsact_qdisc_balance_and_leave_others_alone() {
    use equipoise::apply::Applier;
    use equipoise::dataplane::kernel::{Device, Kernel, Options as KernelOptions, TcWay};
    use equipoise_core::config::{AttachMode, parse};
    use equipoise_core::facts::{Facts, Interface};
    use equipoise_core::state::State;
    use equipoise_lab::link::index;

    let lab = Lab::new(Options::default()).unwrap();
    let servers: Vec<_> = lab
        .backends
        .iter()
        .map(|b| HttpServer::start(&b.netns, &b.name, &b.at(PORT)).unwrap())
        .collect();
    let netns = &lab.balancer;
    let qdiscs = || netns.output("tc", &["qdisc", "show"]).unwrap();
    let filters = || {
        ["front", "back"]
            .map(|d| netns.output("tc", &["filter", "show", "dev", d, "ingress"]).unwrap())
    };
    // Another's filter on one device, so that its qdisc is not ours.
    netns.output("tc", &["qdisc", "add", "dev", "front", "clsact"]).unwrap();
    let other = [
        "filter", "add", "dev", "front", "ingress", "prio", "7", "protocol", "ip", "u32", "match",
        "u32", "0", "0", "classid", "1:1",
    ];
    netns.output("tc", &other).unwrap();
    let before = (qdiscs(), filters());

    let instance = format!("clsact-{}", std::process::id());
    let start = || {
        let mut kernel = Kernel::load(&KernelOptions {
            instance: &instance,
            max_flows: 1000,
            tc: TcWay::Clsact,
        })
        .unwrap();
        let interface = |name: &str| {
            (
                name.to_owned(),
                Interface { index: index(netns, name).unwrap(), addresses: Vec::new() },
            )
        };
        let facts = Facts { interfaces: [interface("front"), interface("back")].into() };
        let mut state =
            State::new(parse("clsact.toml", &config(&lab, "tc")).unwrap().config, facts);
        Applier::default().converge(&mut kernel, state.plan()).unwrap();
        for name in ["front", "back"] {
            let device = Device {
                name,
                index: index(netns, name).unwrap(),
                native_xdp: false,
                xdp_program: None,
                kind: Some("veth"),
            };
            let attachment = kernel.attach(&device, AttachMode::Auto).unwrap();
            assert_eq!((attachment.hook, attachment.mode), ("tc", "clsact"));
        }
        kernel
    };
    let works = || {
        for (_, vip) in vips() {
            let tally = Load::of_count(vip, 50).run(&lab.client().netns);
            assert_eq!((tally.failed(), tally.answered()), (0, 50), "{:?}", tally.failures);
        }
    };
    let kernel = netns.run(start);
    works();
    netns.run(|| kernel.remove()).unwrap();
    assert_eq!((qdiscs(), filters()), before);

    // The filters outlive the process; what is left of it finds and removes them.
    let kernel = netns.run(start);
    netns.run(|| kernel.keep()).unwrap();
    works();
    assert!(netns.run(|| Kernel::remove_left(&instance)).unwrap());
    assert_eq!((qdiscs(), filters()), before);
    drop(servers);
}
