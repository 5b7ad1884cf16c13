//! Modes with real stacks at both ends: backends that answer the client themselves, backends that know no way back to it,
//! and backends that are clients of each other.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use equipoise_lab::Daemon;
use equipoise_lab::client::{Connect, UdpAsker, download, http_get, udp_ask, upload};
use equipoise_lab::load::Load;
use equipoise_lab::serve::{HttpServer, UdpEcho};
use equipoise_lab::topology::{Host, Lab, Layout, Options};

use super::balanced::{
    Attach, BINARY, Balancer, DEADLINE, backends, service, settings, udp_servers, vips, web_servers,
};

/// What every mode has to carry: many connections, streams both ways, datagrams.
fn works(lab: &Lab, text: &str) {
    let client = &lab.client().netns;
    for (number, (_, vip)) in vips().into_iter().enumerate() {
        let tally = Load::of_count(vip, 100).run(client);
        assert_eq!((tally.failed(), tally.answered()), (0, 100), "{:?}\n{text}", tally.failures);
        assert_eq!(tally.by_backend.len(), lab.backends.len(), "{:?}", tally.by_backend);
        let what = (2_000_000, number as u64);
        download(client, vip, what, &Connect::default()).unwrap();
        upload(client, vip, what, &Connect::default()).unwrap();
        let asker = UdpAsker::open(client, vip, &Connect::default()).unwrap();
        let first = asker.ask(b"who are you?").unwrap();
        for _ in 0..20 {
            assert_eq!(asker.ask(b"and now?").unwrap(), first);
        }
    }
}

/// Puts the VIPs on a backend, and makes it answer clients without help.
pub(crate) fn own_vips(lab: &Lab, host: &Host) {
    for (key, value) in [("arp_ignore", "1"), ("arp_announce", "2"), ("rp_filter", "0")] {
        for device in ["all", "eth0"] {
            host.netns.sysctl(&format!("net/ipv4/conf/{device}/{key}"), value).unwrap();
        }
    }
    let [v4, v6] = vips().map(|(_, vip)| vip.ip());
    host.netns.ip(&format!("addr add {v4}/32 dev lo\naddr add {v6}/128 dev lo nodad")).unwrap();
    answers_alone(lab, host);
}

/// Backend and client know that they are on one link.
pub(crate) fn answers_alone(lab: &Lab, host: &Host) {
    let client = lab.client();
    for (netns, v4, v6) in [(&host.netns, client.v4, client.v6), (&client.netns, host.v4, host.v6)]
    {
        netns.ip(&format!("route add {v4}/32 dev eth0\nroute add {v6}/128 dev eth0")).unwrap();
    }
}

/// The VIPs in a mode, over all backends without a port of their own: those of their family, or of the other one.
pub(crate) fn in_mode(lab: &Lab, mode: &str, is_crossed: bool) -> String {
    vips()
        .map(|(name, vip)| {
            let through = if is_crossed == vip.is_ipv4() { vips()[1].1 } else { vips()[0].1 };
            let alone = |(address, weight): (SocketAddr, u32)| {
                (SocketAddr::new(address.ip(), vip.port()), weight)
            };
            let list: Vec<_> = backends(lab, through).into_iter().map(alone).collect();
            service(name, vip, &list) + &format!("mode = \"{mode}\"\n")
        })
        .concat()
}

/// Servers of both protocols on every backend, at the VIPs themselves.
fn servers_at_vips(lab: &Lab) -> Vec<(HttpServer, UdpEcho)> {
    let at = vips().map(|(_, vip)| vip);
    let start = |host: &Host| {
        let http = HttpServer::start(&host.netns, &host.name, &at).unwrap();
        (http, UdpEcho::start(&host.netns, &host.name, &at).unwrap())
    };
    lab.backends.iter().map(start).collect()
}

pub(crate) fn backends_answer_clients_themselves(attach: Attach) {
    let lab = Lab::new(Options { layout: Layout::OneArm, ..Options::default() }).unwrap();
    lab.backends.iter().for_each(|host| own_vips(&lab, host));
    let _servers = servers_at_vips(&lab);
    let text = settings(attach.asked) + &in_mode(&lab, "dsr", false);
    let balancer = Balancer::start(&lab.balancer, &text);
    works(&lab, &text);
    assert!(balancer.verdict("forwarded_request") > 0);
    // Not one of the answers has come by us.
    for (name, _) in vips() {
        assert_eq!(balancer.sum(name, "packets_out"), 0);
    }
}

/// `equipoise decap` on a backend, until it is dropped.
pub(crate) fn decapsulating(host: &Host) -> Daemon {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut command = host.netns.command(BINARY);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let instance = format!("tunnels-{}-{number}-{}", std::process::id(), host.name);
    command.args(["decap", "-i", "eth0", "--lo", "--instance", &instance]);
    command.args(["--from", "198.18.0.0/15", "100::/64", "10.0.0.1/32", "2001:db8:b::1/128"]);
    command.arg("--address").args(vips().map(|(_, vip)| vip.ip().to_string()));
    let mut daemon = Daemon::start(command).unwrap();
    daemon.wait_for_log("decapsulating: instance", DEADLINE).unwrap();
    daemon
}

pub(crate) fn packets_in_tunnels_are_answered_by_backends_themselves(attach: Attach) {
    let lab = Lab::new(Options { layout: Layout::OneArm, ..Options::default() }).unwrap();
    let daemons: Vec<_> = lab.backends.iter().map(decapsulating).collect();
    lab.backends.iter().for_each(|host| answers_alone(&lab, host));
    let servers = servers_at_vips(&lab);
    let config =
        |mode: &str, is_crossed: bool| settings(attach.asked) + &in_mode(&lab, mode, is_crossed);
    let mut balancer = Balancer::start(&lab.balancer, &config("gue", true));
    for (mode, is_crossed) in [("ipip", false), ("ipip", true), ("gue", false), ("gue", true)] {
        let text = config(mode, is_crossed);
        balancer.reload(&text);
        works(&lab, &text);
    }
    for (name, _) in vips() {
        assert_eq!(balancer.sum(name, "packets_out"), 0);
    }
    // Before their addresses go.
    drop(servers);
    for daemon in daemons {
        let stopped = daemon.stop(DEADLINE).unwrap();
        assert!(stopped.status.success(), "{}", stopped.log);
    }
}

pub(crate) fn backends_that_know_no_way_to_clients_answer_us(attach: Attach) {
    let lab = Lab::new(Options::default()).unwrap();
    let _http = web_servers(&lab);
    let _udp = udp_servers(&lab);
    for host in &lab.backends {
        host.netns
            .ip("route del default via 10.0.0.1\nroute del default via 2001:db8:b::1")
            .unwrap();
    }
    let config = |mode: &str| {
        let services = vips().map(|(name, vip)| {
            service(name, vip, &backends(&lab, vip)) + &format!("mode = \"{mode}\"\n")
        });
        settings(attach.asked) + &services.concat()
    };
    let mut balancer = Balancer::start(&lab.balancer, &config("nat"));
    let (_, vip) = vips()[0];
    let soon = Connect::within(std::time::Duration::from_millis(500));
    assert!(http_get(&lab.client().netns, vip, "/", &soon).is_err(), "there is a way");
    let text = config("full-nat");
    balancer.reload(&text);
    works(&lab, &text);
    // The same client to two services, and each gets its own answers.
    let client = &lab.client().netns;
    for port in 30_000..30_020 {
        for (_, vip) in vips() {
            udp_ask(client, vip, b"mine", &Connect::from_port(port)).unwrap();
        }
    }
    assert_eq!(balancer.verdict("no_source_port") + balancer.verdict("no_source_address"), 0);
}

pub(crate) fn a_backend_reaches_its_own_vip(attach: Attach) {
    for mode in ["nat", "full-nat"] {
        let lab = Lab::new(Options::default()).unwrap();
        let _http = web_servers(&lab);
        let _udp = udp_servers(&lab);
        let services = vips().map(|(name, vip)| {
            service(name, vip, &backends(&lab, vip)).replace("[\"front\"]", "[\"front\", \"back\"]")
                + &format!("mode = \"{mode}\"\n")
        });
        let text = settings(attach.asked) + &services.concat();
        let _balancer = Balancer::start(&lab.balancer, &text);
        for host in &lab.backends {
            for (_, vip) in vips() {
                let tally = Load::of_count(vip, 60).run(&host.netns);
                assert_eq!((tally.failed(), tally.answered()), (0, 60), "{:?}", tally.failures);
                assert_eq!(tally.by_backend.len(), 3, "itself as well: {:?}", tally.by_backend);
                download(&host.netns, vip, (1_000_000, 7), &Connect::default()).unwrap();
                udp_ask(&host.netns, vip, b"me too", &Connect::default()).unwrap();
            }
        }
    }
}
