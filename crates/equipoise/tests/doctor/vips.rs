//! VIPs, and who answers for them.

use crate::bench::Bench;

#[test]
fn vip_that_arp_is_told_to_ignore_is_a_problem() {
    let bench = Bench::new();
    bench.near.ip("addr del 203.0.113.10/32 dev front\naddr add 203.0.113.10/32 dev lo").unwrap();
    assert_eq!(bench.doctor().wrong("vip"), []);
    bench.near.sysctl("net/ipv4/conf/all/arp_ignore", "1").unwrap();
    let said = bench.doctor();
    let [("problem", "web", measured)] = said.wrong("vip")[..] else { panic!("{:#}", said.answer) };
    assert_eq!(measured, "203.0.113.10 is on lo; on front arp_ignore is 1, arp_announce 0");
    bench.near.ip("addr del 203.0.113.10/32 dev lo").unwrap();
    assert_eq!(bench.doctor().wrong("vip")[0].0, "warning");
}
