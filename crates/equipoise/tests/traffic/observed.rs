//! An instance that only observes, beside one that balances: packets go on as they have come, and it says how far both agree.

use equipoise_lab::load::Load;
use equipoise_lab::topology::{Lab, Options};
use equipoise_lab::wait_until;
use serde_json::Value;

use crate::balanced::{Balancer, DEADLINE, backends, service, vips, web_servers};

const CONNECTIONS: u64 = 200;

fn config(lab: &Lab, settings: &str, backends_of_all: usize) -> String {
    let services = vips().map(|(name, vip)| {
        let all = backends(lab, vip);
        // Of one flow both make the same.
        service(name, vip, &all[..backends_of_all]).replace("\"random\"", "\"maglev\"")
    });
    format!("[settings]\nattach = \"auto\"\nmax-flows = 20000\n{settings}\n{}", services.concat())
}

/// Connections of both families, none of which fails.
fn connect(lab: &Lab) {
    for (_, vip) in vips() {
        let tally = Load::of_count(vip, CONNECTIONS).run(&lab.client().netns);
        assert_eq!((tally.answered(), tally.failed()), (CONNECTIONS, 0), "{:?}", tally.failures);
    }
}

fn observing(balancer: &Balancer) -> (u64, u64) {
    let status = balancer.status();
    assert_eq!(status["state"], "ok", "{status}");
    let count = |name: &str| status["observing"][name].as_u64().unwrap();
    (count("agreed"), count("other"))
}

#[test]
fn an_instance_that_only_observes_changes_no_packet_and_tells_how_far_another_agrees() {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = web_servers(&lab);
    let forwarding = || lab.balancer.read_sysctl("net/ipv4/conf/front/forwarding").unwrap();
    lab.balancer.sysctl("net/ipv4/conf/front/forwarding", "0").unwrap();
    // First, so that it sees packets before the other sends them off.
    let mut observer = Balancer::start(&lab.balancer, &config(&lab, "observe = true", 3));
    assert_eq!(forwarding(), "0", "nothing on this machine is its own to change");
    assert_eq!(observer.status()["interfaces"][0]["hook"], "tc");
    let mut balancer = Balancer::start(&lab.balancer, &config(&lab, "", 3));
    connect(&lab);
    let all = 2 * CONNECTIONS;
    let seen = || Some(observing(&observer)).filter(|(agreed, other)| agreed + other >= all);
    wait_until(DEADLINE, "flows that have closed", || seen().is_some()).unwrap();
    assert_eq!(seen(), Some((all, 0)), "both pick by the same hash");
    assert!(observer.verdict("forwarded_request") > 4 * all);
    assert_eq!(balancer.sum("web", "new_flows"), CONNECTIONS, "and it sends the packets");

    // One that has another backend for two thirds of all flows.
    balancer.reload(&config(&lab, "", 1));
    connect(&lab);
    wait_until(DEADLINE, "flows that nobody has answered", || observing(&observer).1 > all / 4)
        .unwrap();
    assert!(observing(&observer).0 > all, "some still have the same");

    // It balances, before the other one now, and then observes again.
    observer.reload(&config(&lab, "observe = false", 3));
    let status = observer.status();
    assert_eq!(status["observing"], Value::Null);
    assert_eq!(forwarding(), "1");
    let before = balancer.sum("web", "new_flows");
    connect(&lab);
    assert_eq!(balancer.sum("web", "new_flows"), before, "the other one gets nothing more");
    observer.reload(&config(&lab, "observe = true", 3));
    connect(&lab);
    assert_eq!(balancer.sum("web", "new_flows"), before + CONNECTIONS);
    balancer.end();
    observer.end();
}
