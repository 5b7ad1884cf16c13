//! What a balancer finds on the machine and what it leaves: other software's programs, settings,
//! its own end, and a new configuration.

use std::net::SocketAddr;
use std::time::Duration;

use equipoise_lab::client::{Connect, HttpConnection, download, http_get, upload};
use equipoise_lab::link::{Checksums, Gro};
use equipoise_lab::load::Load;
use equipoise_lab::serve::HttpServer;
use equipoise_lab::topology::{Forwarding, Lab, Options};
use equipoise_lab::wait_until;

use crate::balanced::{
    Balanced, Balancer, DEADLINE, GENERIC, NATIVE, PORT, TC, backends, config, service, settings,
    vips, web_servers,
};
use crate::bare;

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
    let holder = format!("of instance {:?}", first.instance);
    assert!(
        said.contains("front has an XDP program already, equipoise_xdp") && said.contains(&holder),
        "{said}"
    );
    assert_eq!(first.status()["interfaces"][0]["mode"], "native");
    assert_eq!(first.status()["interfaces"][0]["reason"], "asked for");
}

/// Two of them on the same interfaces, each with services of its own; who is asked says that the other is there.
#[test]
fn instances_on_one_interface_keep_apart_and_tell_of_each_other() {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = web_servers(&lab);
    // No backend is of both: neither of them knows which client ports the other has in use there.
    let host = &lab.backends[0];
    let at = host.at(PORT + 1);
    let _own = HttpServer::start(&host.netns, &host.name, &at).unwrap();
    let [at, _] = at;
    let own: SocketAddr = "203.0.113.10:99".parse().unwrap();
    let second = format!("[settings]\nattach = \"auto\"\n{}", service("more", own, &[(at, 1)]));
    for attach in [NATIVE, TC] {
        let mut first = Balancer::start(&lab.balancer, &config(&lab, attach.asked));
        let mut second = Balancer::start(&lab.balancer, &second);
        for interface in second.status()["interfaces"].as_array().unwrap() {
            assert_eq!(interface["hook"], "tc");
            let reason = interface["reason"].as_str().unwrap();
            assert!(reason.contains(&format!("instance {:?}", first.instance)), "{reason}");
        }
        let client = &lab.client().netns;
        for (to, count) in [(vips()[0].1, 20), (own, 10)] {
            let tally = Load::of_count(to, count).run(client);
            assert_eq!((tally.failed(), tally.answered()), (0, count), "{:?}", tally.failures);
        }
        assert_eq!((first.sum("web", "new_flows"), second.sum("more", "new_flows")), (20, 10));
        // One that ends takes nothing of the other away.
        first.end();
        assert_eq!(http_get(client, own, "/", &Connect::default()).unwrap().backend, "b1");
        assert_eq!(second.status()["state"], "ok");
        second.end();
    }
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
        let _servers = web_servers(&lab);
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
        let only = |number: usize| settings(attach.asked) + &service("web", vip, &[all[number]]);
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
    use equipoise::dataplane::DataPlane as _;
    use equipoise::dataplane::kernel::{Eviction, Kernel, TcWay};
    use equipoise_core::config::{AttachMode, parse};
    use equipoise_core::state::State;

    let lab = Lab::new(Options::default()).unwrap();
    let servers = web_servers(&lab);
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
        let mut kernel = bare::load(&instance, 1000, (TcWay::Clsact, Eviction::default()));
        let checked = parse("clsact.toml", &config(&lab, "tc")).unwrap().config;
        let mut state = State::new(checked, bare::facts(netns));
        Applier::default().converge(&mut kernel, state.plan()).unwrap();
        for name in bare::DEVICES {
            let device = bare::device(netns, name);
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
