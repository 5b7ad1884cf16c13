//! Listening on devices that are made of others: a bridge, a VLAN sub-interface, a bond.
//!
//! A kernel need not have all of these. What the kernels of development machines lack is marked as ignored, and run where
//! it is there.

use equipoise_lab::client::{Connect, download, udp_ask};
use equipoise_lab::load::Load;
use equipoise_lab::serve::UdpEcho;
use equipoise_lab::topology::{Lab, Options};

use crate::balanced::{Balancer, PORT, config, tc_mode, vips, web_servers};

/// What to ask for, and the hook that is given.
const ASKED: [(&str, &str); 3] = [("auto", "tc"), ("tc", "tc"), ("xdp-generic", "xdp")];

#[test]
fn a_bridge_serves() {
    let lab = Lab::new(Options::default()).unwrap();
    let script = "link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
                  link set front master br0\n";
    lab.front_becomes("br0", script).unwrap();
    serves(&lab, "br0");
}

#[test]
#[ignore = "needs the device type vlan: cargo xtask test-kernels runs it"]
fn a_vlan_sub_interface_serves() {
    let lab = Lab::new(Options::default()).unwrap();
    lab.front_becomes("front.7", "link add link front name front.7 type vlan id 7\n").unwrap();
    lab.client_becomes("eth0.7", "link add link eth0 name eth0.7 type vlan id 7\n").unwrap();
    serves(&lab, "front.7");
}

#[test]
#[ignore = "needs the device type bond: cargo xtask test-kernels runs it"]
fn a_bond_serves() {
    let lab = Lab::new(Options::default()).unwrap();
    let script = "link add bond0 type bond mode active-backup miimon 10\n\
                  link set front master bond0\n";
    lab.front_becomes("bond0", script).unwrap();
    serves(&lab, "bond0");
}

/// Connections, a long answer and datagrams go through the balancer that listens on `device`, at each hook.
fn serves(lab: &Lab, device: &str) {
    const COUNT: u64 = 30;
    let _http = web_servers(lab);
    let echo = |b: &equipoise_lab::topology::Host| UdpEcho::start(&b.netns, &b.name, &b.at(PORT));
    let _udp: Vec<_> = lab.backends.iter().map(|b| echo(b).unwrap()).collect();
    let client = &lab.client().netns;
    for (asked, hook) in ASKED {
        let text = config(lab, asked).replace("[\"front\"]", &format!("[\"{device}\"]"));
        let balancer = Balancer::start(&lab.balancer, &text);
        let status = balancer.status();
        let interfaces = status["interfaces"].as_array().unwrap();
        let found = interfaces.iter().find(|i| i["name"] == device).unwrap();
        let mode = if hook == "tc" { tc_mode() } else { "generic" };
        assert_eq!((&found["hook"], &found["mode"]), (&hook.into(), &mode.into()), "{found}");
        for (name, vip) in vips() {
            let tally = Load::of_count(vip, COUNT).run(client);
            let numbers = (tally.failed(), tally.answered());
            assert_eq!(numbers, (0, COUNT), "{asked}: {:?}", tally.failures);
            download(client, vip, (1_000_000, 1), &Connect::default()).unwrap();
            udp_ask(client, vip, b"?", &Connect::default()).unwrap();
            // Each connection, the download, and the datagram.
            assert_eq!(balancer.sum(name, "new_flows"), COUNT + 2);
        }
    }
}
