//! VIPs, and who answers for them.

use equipoise_lab::{link, wait_until};

use crate::bench::{Bench, DEADLINE};

#[test]
fn vip_that_arp_is_told_to_ignore_is_a_problem() {
    let bench = Bench::new();
    bench.near.ip("addr del 203.0.113.10/32 dev front\naddr add 203.0.113.10/32 dev lo").unwrap();
    assert_eq!(bench.doctor().wrong("vip"), []);
    bench.near.sysctl("net/ipv4/conf/all/arp_ignore", "1").unwrap();
    let said = bench.doctor();
    let [("problem", "web", measured)] = said.wrong("vip")[..] else { panic!("{:#}", said.answer) };
    assert_eq!(measured, "203.0.113.10 is on lo; on front arp_ignore is 1, arp_announce 0");
    let (command, _) = said.help("vip").split_once(", or ").unwrap();
    assert_eq!(command, "ip addr add 203.0.113.10/32 dev front");
    bench.take(command);
    assert_eq!(bench.doctor().wrong("vip"), []);
    bench.near.ip("addr del 203.0.113.10/32 dev lo\naddr del 203.0.113.10/32 dev front").unwrap();
    let said = bench.doctor();
    assert_eq!(said.wrong("vip")[0].0, "warning");
    assert!(said.help("vip").starts_with("`manage-address = true` in the service"));
    bench.configure("front", "manage-address = true", "10.0.0.1:80");
    assert_eq!(bench.doctor().wrong("vip"), []);
}

#[test]
fn vip_that_another_host_answers_for_is_told_until_one_of_them_has_it_alone() {
    let bench = Bench::new();
    assert_eq!(bench.doctor().wrong("vip"), []);
    bench.client.ip("addr add 203.0.113.10/32 dev c0").unwrap();
    let other = link::mac(&bench.client, "c0").unwrap();
    let told = format!("another host on the link of front, {other}, answers for 203.0.113.10");
    let said = bench.doctor();
    let here = format!("{told}; here it is on front");
    assert_eq!(said.wrong("vip"), [("problem", "web", here.as_str())]);
    assert_eq!(said.exit, 1);
    assert!(said.help("vip").starts_with("take it from one of them"));
    bench.near.ip("addr del 203.0.113.10/32 dev front").unwrap();
    let there = format!("{told}, and this one does not have it");
    assert_eq!(bench.doctor().wrong("vip"), [("warning", "web", there.as_str())]);
    bench.near.ip("addr add 203.0.113.10/32 dev front").unwrap();
    bench.client.ip("addr del 203.0.113.10/32 dev c0").unwrap();
    let said = bench.doctor();
    assert_eq!((said.exit, said.wrong("vip")), (0, Vec::new()), "what was known is asked anew");
}

#[test]
fn backend_of_dsr_that_answers_for_the_vip_is_told_until_it_keeps_silent() {
    let bench = Bench::new();
    // On the link of the clients, as backends of `dsr` mostly are.
    bench.client.ip("addr add 203.0.113.10/32 dev lo").unwrap();
    bench.configure("front", "mode = 'dsr'", "203.0.113.1:80");
    let said = bench.doctor();
    assert_eq!(said.wrong("vip")[0].0, "problem");
    assert!(said.help("vip").ends_with("on `lo`, with arp_ignore = 1 and arp_announce = 2"));
    bench.client.sysctl("net/ipv4/conf/all/arp_ignore", "1").unwrap();
    bench.client.sysctl("net/ipv4/conf/all/arp_announce", "2").unwrap();
    assert_eq!(bench.doctor().wrong("vip"), []);
}

#[test]
fn ipv6_vip_that_the_kernel_has_found_with_another_host_is_told() {
    let bench = Bench::new();
    for (setting, value) in [("accept_dad", "1"), ("dad_transmits", "1")] {
        bench.near.sysctl(&format!("net/ipv6/conf/front/{setting}"), value).unwrap();
    }
    bench.client.ip("addr add 2001:db8::10/64 dev c0").unwrap();
    let add = "addr add 2001:db8::10/64 dev front";
    bench.near.ip(add).unwrap();
    bench.configure_vip(("front", "2001:db8::10"), "", "10.0.0.1:80");
    let has = |flag| {
        let list = ["-6", "addr", "show", "dev", "front", "to", "2001:db8::10", flag];
        !bench.near.output("ip", &list).unwrap().is_empty()
    };
    wait_until(DEADLINE, "the kernel to find the other host", || has("dadfailed")).unwrap();
    let told =
        "another host on the link has 2001:db8::10: the kernel has found out, and does not use it";
    let said = bench.doctor();
    assert_eq!(said.wrong("vip"), [("problem", "web", told)]);
    assert_eq!(said.help("vip"), "take it from one of them");
    bench.client.ip("addr del 2001:db8::10/64 dev c0").unwrap();
    bench.near.ip(&format!("addr del 2001:db8::10/64 dev front\n{add}")).unwrap();
    wait_until(DEADLINE, "the address to be usable", || !has("tentative")).unwrap();
    assert_eq!(bench.doctor().wrong("vip"), []);
}

#[test]
fn ipv6_that_is_off_is_told_where_it_is_needed() {
    let bench = Bench::new();
    bench.near.sysctl("net/ipv6/conf/front/disable_ipv6", "1").unwrap();
    assert_eq!(bench.doctor().wrong("ipv6"), [], "nothing needs it");
    bench.configure_vip(("front", "2001:db8::10"), "manage-address = true", "10.0.0.1:80");
    let said = bench.doctor();
    assert_eq!(said.wrong("ipv6"), [("problem", "front", "IPv6 is off there")]);
    bench.take(said.help("ipv6"));
    let said = bench.doctor();
    assert_eq!((said.exit, said.wrong("ipv6")), (0, Vec::new()), "{:#}", said.answer);
}
