//! The way of packets: forwarding, routes, neighbours, sizes, and the firewall.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use equipoise_lab::wait_until;

use crate::bench::{Bench, DEADLINE, end};

#[test]
fn forwarding_that_somebody_has_switched_off_beside_an_instance_is_switched_on() {
    let bench = Bench::new();
    let daemon = bench.start();
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
    end(daemon);
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
    assert_eq!(said.help("neighbour"), "see whether it is up, on this link, and has that address");
    bench.backend.ip("addr add 10.0.0.99/24 dev b0").unwrap();
    let said = bench.doctor();
    assert_eq!((said.exit, said.wrong("neighbour")), (0, Vec::new()));
}

#[test]
fn backend_without_a_route_is_told() {
    let bench = Bench::new();
    bench.configure("front", "", "198.51.100.9:80");
    bench.near.ip("route del default").unwrap();
    let said = bench.doctor();
    assert_eq!(said.wrong("route"), [("problem", "198.51.100.9", "there is no route to it")]);
    assert_eq!(said.exit, 1);
    assert_eq!(said.help("route"), "ip route add 198.51.100.9/32 via GATEWAY");
    bench.take(&said.help("route").replace("GATEWAY", "203.0.113.1"));
    let said = bench.doctor();
    assert_eq!((said.exit, said.wrong("route")), (0, Vec::new()));
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
    assert!(said.help("firewall").starts_with("take it out, or before it"), "{:#}", said.answer);
    nft("flush chain inet filter through");
    nft("add chain inet filter arriving { policy accept; }");
    assert_eq!(bench.doctor().wrong("firewall"), []);
}

#[test]
fn connections_that_are_tracked_are_told_until_ours_are_not() {
    let bench = Bench::new();
    let nft = |rule: &str| bench.near.output("nft", &[rule]).unwrap();
    let send = || {
        let sent = bench.near.run(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", "10.0.0.1:9"));
        assert_eq!(sent.unwrap(), 1);
    };
    nft("add table ip tracking");
    nft("add chain ip tracking out { type filter hook output priority 0; policy accept; }");
    nft("add rule ip tracking out ct state new accept");
    bench.near.sysctl("net/netfilter/nf_conntrack_udp_timeout", "1").unwrap();
    send();
    let said = bench.doctor();
    let [("notice", "", measured)] = said.wrong("conntrack")[..] else {
        panic!("{:#}", said.answer)
    };
    assert!(measured.starts_with("connection tracking has 1 of "), "{measured}");
    assert!(said.help("conntrack").starts_with("`notrack` for packets of VIPs and backends"));
    nft("add chain ip tracking early { type filter hook output priority raw; policy accept; }");
    nft("add rule ip tracking early ip daddr 10.0.0.1 notrack");
    wait_until(DEADLINE, "what was tracked before to be forgotten", || {
        send();
        // Who reads the table has the kernel forget what is over.
        bench.near.output("cat", &["/proc/thread-self/net/nf_conntrack"]).unwrap().is_empty()
    })
    .unwrap();
    assert_eq!(bench.doctor().wrong("conntrack"), []);
}

#[test]
fn backend_whose_answers_take_another_way_is_told_until_they_come_by_here() {
    let bench = Bench::new();
    bench.configure("front", "health-check = { type = 'none' }", "10.0.0.1:80");
    let daemon = bench.start();
    let vip: SocketAddr = "203.0.113.10:80".parse().unwrap();
    let connect = || TcpStream::connect_timeout(&vip, Duration::from_millis(50)).unwrap_err();
    // The backend has no route to the client.
    bench.client.run(|| (0..10).for_each(|_| drop(connect())));
    let said = bench.ask(&[]);
    let [("problem", "web 10.0.0.1:80", measured)] = said.wrong("return-path")[..] else {
        panic!("{:#}", said.answer)
    };
    assert!(measured.ends_with(" packets went there, 0 came back"), "{measured}");
    let help = "let its route to the clients lead by this host, or use `mode = \"full-nat\"`";
    assert_eq!(said.help("return-path"), help);
    bench.backend.ip("route add default via 10.0.0.254").unwrap();
    // Nobody listens there, which is an answer.
    let refused = bench.client.run(|| TcpStream::connect_timeout(&vip, DEADLINE).unwrap_err());
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(bench.ask(&[]).wrong("return-path"), []);
    end(daemon);
}

#[test]
fn forwarding_of_ipv6_that_is_off_beside_an_instance_is_told_and_left_to_hands() {
    let bench = Bench::new();
    bench.near.ip("addr add 2001:db8:1::fe/64 dev back").unwrap();
    bench.backend.ip("addr add 2001:db8:1::1/64 dev b0").unwrap();
    bench.near.ip("addr add 2001:db8::10/128 dev front").unwrap();
    bench.configure_vip(("front", "2001:db8::10"), "", "[2001:db8:1::1]:80");
    let daemon = bench.start();
    bench.near.sysctl("net/ipv6/conf/all/forwarding", "0").unwrap();
    let said = bench.ask(&[]);
    let told = "IPv6 forwarding is off";
    assert_eq!(
        said.wrong("forwarding"),
        [("problem", "back", told), ("problem", "front", told)],
        "{:#}",
        said.answer
    );
    assert_eq!(bench.ask(&["--fix"]).done(), []);
    let (_, command) = said.help("forwarding").split_once(", then ").unwrap();
    bench.take(command);
    let said = bench.ask(&[]);
    assert_eq!((said.exit, said.wrong("forwarding")), (0, Vec::new()), "{:#}", said.answer);
    end(daemon);
}
