//! The way of packets: forwarding, routes, neighbours, sizes, and the firewall.

use crate::bench::{Bench, end};

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
