//! Modes with real stacks at both ends: backends that answer the client themselves, backends that know no way back to it,
//! and backends that are clients of each other.

use std::net::{IpAddr, SocketAddr};

use equipoise_lab::client::{Connect, UdpAsker, download, http_get, udp_ask, upload};
use equipoise_lab::load::Load;
use equipoise_lab::serve::{HttpServer, UdpEcho};
use equipoise_lab::topology::{Host, Lab, Layout, Options};

use super::balanced::{Attach, Balancer, PORT, backends, service, vips, web_servers};

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
fn own_vips(lab: &Lab, host: &Host) {
    for (key, value) in [("arp_ignore", "1"), ("arp_announce", "2"), ("rp_filter", "0")] {
        for device in ["all", "eth0"] {
            host.netns.sysctl(&format!("net/ipv4/conf/{device}/{key}"), value).unwrap();
        }
    }
    let client = lab.client();
    host.netns
        .ip(&format!(
            "addr add {}/32 dev lo\naddr add {}/128 dev lo nodad\n\
             route add {}/32 dev eth0\nroute add {}/128 dev eth0",
            vips()[0].1.ip(),
            vips()[1].1.ip(),
            client.v4,
            client.v6,
        ))
        .unwrap();
    for (address, netns) in
        [(IpAddr::from(host.v4), &client.netns), (host.v6.into(), &client.netns)]
    {
        netns.ip(&format!("route add {address} dev eth0")).unwrap();
    }
}

/// A VIP in a mode, over all backends without a port of their own.
fn in_mode(lab: &Lab, mode: &str, keys: &str) -> String {
    vips()
        .map(|(name, vip)| {
            let alone = |(address, weight): (SocketAddr, u32)| {
                (SocketAddr::new(address.ip(), vip.port()), weight)
            };
            let list: Vec<_> = backends(lab, vip).into_iter().map(alone).collect();
            service(name, vip, &list) + &format!("mode = \"{mode}\"\n{keys}\n")
        })
        .concat()
}

pub(crate) fn backends_answer_clients_themselves(attach: Attach) {
    let lab = Lab::new(Options { layout: Layout::OneArm, ..Options::default() }).unwrap();
    let at = vips().map(|(_, vip)| vip);
    let mut servers = Vec::new();
    for host in &lab.backends {
        own_vips(&lab, host);
        servers.push((
            HttpServer::start(&host.netns, &host.name, &at).unwrap(),
            UdpEcho::start(&host.netns, &host.name, &at).unwrap(),
        ));
    }
    let text = format!("[settings]\nattach = \"{}\"\n", attach.asked) + &in_mode(&lab, "dsr", "");
    let balancer = Balancer::start(&lab.balancer, &text);
    works(&lab, &text);
    assert!(balancer.verdict("forwarded_request") > 0);
    // Not one of the answers has come by us.
    for (name, _) in vips() {
        assert_eq!(balancer.sum(name, "packets_out"), 0);
    }
}

pub(crate) fn backends_that_know_no_way_to_clients_answer_us(attach: Attach) {
    let lab = Lab::new(Options::default()).unwrap();
    let _http = web_servers(&lab);
    let _udp: Vec<_> = lab
        .backends
        .iter()
        .map(|b| UdpEcho::start(&b.netns, &b.name, &b.at(PORT)).unwrap())
        .collect();
    for host in &lab.backends {
        host.netns
            .ip("route del default via 10.0.0.1\nroute del default via 2001:db8:b::1")
            .unwrap();
    }
    let config = |mode: &str| {
        let services = vips().map(|(name, vip)| {
            service(name, vip, &backends(&lab, vip)) + &format!("mode = \"{mode}\"\n")
        });
        format!("[settings]\nattach = \"{}\"\n", attach.asked) + &services.concat()
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
        let _udp: Vec<_> = lab
            .backends
            .iter()
            .map(|b| UdpEcho::start(&b.netns, &b.name, &b.at(PORT)).unwrap())
            .collect();
        let services = vips().map(|(name, vip)| {
            service(name, vip, &backends(&lab, vip)).replace("[\"front\"]", "[\"front\", \"back\"]")
                + &format!("mode = \"{mode}\"\n")
        });
        let text = format!("[settings]\nattach = \"{}\"\n", attach.asked) + &services.concat();
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
