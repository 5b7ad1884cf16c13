//! What real stacks do with fragments, and with the errors that paths send back.

use std::net::{IpAddr, SocketAddr};

use equipoise_lab::Netns;
use equipoise_lab::client::{Connect, UdpAsker, download, upload};
use equipoise_lab::link::{Checksums, End, Gro, Properties, veth, wait_ready};
use equipoise_lab::serve::HttpServer;
use equipoise_lab::topology::{FRONT_V4, FRONT_V6, Lab, Options};

use super::balanced::{Attach, Balanced, Balancer, PORT, service, settings, vips};

/// Datagrams of 60 000 bytes are some forty fragments each way.
pub(crate) fn datagrams_in_fragments_are_answered(attach: Attach) {
    let balanced = Balanced::new(attach, Options::default());
    let payload: Vec<u8> = (0..60_000_u32).map(|at| (at % 251) as u8).collect();
    for (_, vip) in vips() {
        let asker = UdpAsker::open(balanced.client(), vip, &Connect::default()).unwrap();
        let first = asker.ask(&payload).unwrap();
        for length in [1_473, 3_000, 20_000, 60_000] {
            assert_eq!(asker.ask(&payload[..length]).unwrap(), first, "{vip} {length}");
        }
    }
    for name in ["fragment", "fragment_unknown"] {
        assert_eq!(balanced.balancer.verdict(name), 0, "{name}");
    }
}

/// A balancer whose own way to the backends carries less than its clients send.
pub(crate) fn a_client_learns_the_size_of_our_own_link(attach: Attach) {
    let balanced = Balanced::new(attach, Options::default());
    let balancer = &balanced.lab.balancer;
    for host in &balanced.lab.backends {
        for address in [IpAddr::from(host.v4), host.v6.into()] {
            balancer.ip(&format!("route add {address} dev back mtu lock 1280")).unwrap();
        }
    }
    for (number, (_, vip)) in vips().into_iter().enumerate() {
        let before = balanced.balancer.verdict("request_too_big");
        let what = (2_000_000, number as u64);
        upload(balanced.client(), vip, what, &Connect::default()).unwrap();
        download(balanced.client(), vip, what, &Connect::default()).unwrap();
        assert!(balanced.balancer.verdict("request_too_big") > before, "{vip}");
    }
}

/// A backend behind a router and a link of 1280 bytes. It does not know of that itself, or it would tell clients so in
/// its SYN; the router does.
struct Deep {
    lab: Lab,
    _server: HttpServer,
    backends: [SocketAddr; 2],
    _netns: Netns,
}

impl Deep {
    fn new() -> Self {
        let lab = Lab::new(Options { backends: 1, ..Options::default() }).unwrap();
        let netns = Netns::new().unwrap();
        let router = &lab.backends[0];
        let end = |netns, device| End { netns, device, gro: Gro::On };
        let properties = Properties { mtu: 1500, queues: 1, checksums: Checksums::Complete };
        veth(end(&router.netns, "deep"), end(&netns, "eth0"), properties).unwrap();
        router
            .netns
            .ip("link set deep mtu 1280\naddr add 10.9.0.1/24 dev deep\naddr add 2001:db8:9::1/64 dev deep nodad")
            .unwrap();
        netns
            .ip("addr add 10.9.0.5/24 dev eth0\naddr add 2001:db8:9::5/64 dev eth0 nodad\n\
                 route add default via 10.9.0.1\nroute add default via 2001:db8:9::1")
            .unwrap();
        for key in ["net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding"] {
            router.netns.sysctl(key, "1").unwrap();
        }
        lab.balancer
            .ip(&format!(
                "route add 10.9.0.0/24 via {}\nroute add 2001:db8:9::/64 via {}",
                router.v4, router.v6
            ))
            .unwrap();
        wait_ready(&netns, "eth0").unwrap();
        let backends =
            ["10.9.0.5", "2001:db8:9::5"].map(|ip| SocketAddr::new(ip.parse().unwrap(), PORT));
        let server = HttpServer::start(&netns, "deep", &backends).unwrap();
        Self { lab, _server: server, backends, _netns: netns }
    }
}

pub(crate) fn a_client_learns_the_size_of_a_link_behind_a_router(attach: Attach) {
    let deep = Deep::new();
    let mut text = settings(attach.asked);
    for ((name, vip), backend) in vips().into_iter().zip(deep.backends) {
        text += &service(name, vip, &[(backend, 1)]);
    }
    let balancer = Balancer::start(&deep.lab.balancer, &text);
    let client = &deep.lab.client().netns;
    for (number, (_, vip)) in vips().into_iter().enumerate() {
        let told = || {
            // Where the stack has to deliver it, it is rewritten on its way out.
            balancer.verdict("forwarded_error_to_client") + balancer.verdict("rewritten_error")
        };
        let before = told();
        upload(client, vip, (2_000_000, number as u64), &Connect::default()).unwrap();
        assert!(told() > before, "{vip}");
    }
}

/// A real traceroute, by TCP and by UDP: we are the first hop, and the VIP is the last.
pub(crate) fn a_traceroute_shows_us_and_ends_at_the_vip(attach: Attach) {
    let balanced = Balanced::new(attach, Options::default());
    for (_, vip) in vips() {
        let (us, family) = match vip.ip() {
            IpAddr::V4(_) => (IpAddr::from(FRONT_V4), "-4"),
            IpAddr::V6(_) => (FRONT_V6.into(), "-6"),
        };
        for protocol in ["-T", "-U"] {
            let port = vip.port().to_string();
            let address = vip.ip().to_string();
            let arguments =
                [family, "-n", protocol, "-p", &port, "-q", "1", "-m", "5", "-w", "5", &address];
            let told = balanced.client().output("traceroute", &arguments).unwrap();
            let hops: Vec<_> = told
                .lines()
                .skip(1)
                .map(|line| line.split_whitespace().nth(1).unwrap().to_owned())
                .collect();
            assert_eq!(hops, [us.to_string(), address.clone()], "{protocol}\n{told}");
        }
    }
    assert!(balanced.balancer.verdict("request_hop_limit") >= 4);
}
