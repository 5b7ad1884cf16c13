//! What `explain` tells is what packets meet, and nothing comes of asking. Pins are what the documentation says.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use equipoise_lab::client::{Connect, HttpConnection};
use equipoise_lab::link::{index, mac};
use equipoise_lab::topology::{Lab, Options};
use equipoise_lab::wait_until;
use etherparse::PacketBuilder;
use serde_json::Value;

use crate::balanced::{
    Attach, Balanced, Balancer, DEADLINE, GENERIC, NATIVE, PORT, TC, config, vips,
};

/// A frame of a client to `to`, as it comes in at the balancer's `front`.
fn syn(lab: &Lab, to: SocketAddr, port: u16) -> Vec<u8> {
    let link = |text: String| -> [u8; 6] {
        let bytes: Vec<_> = text.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
        bytes.try_into().unwrap()
    };
    let from = link(mac(&lab.client().netns, "eth0").unwrap());
    let step = PacketBuilder::ethernet2(from, link(mac(&lab.balancer, "front").unwrap()));
    let [v4, v6] = lab.client().at(port);
    let step = match (to, v4, v6) {
        (SocketAddr::V4(to), SocketAddr::V4(from), _) => {
            step.ipv4(from.ip().octets(), to.ip().octets(), 64)
        }
        (SocketAddr::V6(to), _, SocketAddr::V6(from)) => {
            step.ipv6(from.ip().octets(), to.ip().octets(), 64)
        }
        other => panic!("{other:?}"),
    };
    let mut frame = Vec::new();
    step.tcp(port, to.port(), 1, 65_000).syn().write(&mut frame, &[]).unwrap();
    frame
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn explain(balancer: &Balancer, arguments: &[&str]) -> Value {
    let (code, text) = balancer.ask(&[&["explain", "--json"], arguments].concat());
    assert_eq!(code, 0, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_packet_is_explained_by_what_the_live_program_does_and_nothing_changes() {
    for attach in [NATIVE, GENERIC, TC] {
        explained_at(attach);
    }
}

fn explained_at(attach: Attach) {
    let mut balanced = Balanced::new(attach, Options::default());
    let brief = "[[service]]\ntimeouts = { tcp-closing = \"1s\" }";
    let config = config(&balanced.lab, attach.asked).replace("[[service]]", brief);
    balanced.balancer.reload(&config);
    let balancer = &balanced.balancer;
    let first = if attach.hook == "xdp" { "xdp" } else { "tc-ingress" };
    // So that the neighbours are known, and there is something that could change.
    for (_, vip) in vips() {
        let tally = equipoise_lab::load::Load::of_count(vip, 50).run(balanced.client());
        assert_eq!(tally.failed(), 0, "{:?}", tally.failures);
    }
    // Whatever flows there are may change by themselves, and what they were like comes with their events.
    let is_quiet = || {
        let table = balancer.status()["flow_table"].clone();
        let closed = table["events"]["closed"].as_object().unwrap().values();
        closed.filter_map(Value::as_u64).sum::<u64>() >= 100 && table["live"] == 0
    };
    wait_until(DEADLINE, "all flows to have ended and been told of", is_quiet).unwrap();
    let seen = || {
        let status = balancer.status();
        let flows = &status["flow_table"];
        (status["services"].clone(), flows["live"].clone(), flows["pressure"].clone())
    };
    let before = seen();
    let live = balancer.status()["hooks"].clone();
    for (_, vip) in vips() {
        let frame = syn(&balanced.lab, vip, 40_000);
        for arguments in [&["--hex", &hex(&frame)][..], &["--in", "front", "--hex", &hex(&frame)]] {
            let answer = explain(balancer, arguments);
            assert_eq!((&answer["interface"], &answer["hook"]), (&"front".into(), &first.into()));
            let hooks = answer["hooks"].as_array().unwrap();
            let names: Vec<_> = hooks.iter().map(|hook| hook["hook"].as_str().unwrap()).collect();
            assert_eq!(names, ["xdp", "tc-ingress", "tc-egress"]);
            let real = hooks.iter().find(|hook| hook["hook"] == first).unwrap();
            for key in ["action", "reason", "out_hex"] {
                assert_eq!(real[key], answer[key]);
            }
            // As the packets of the load have fared at their hook.
            let reason = answer["reason"].as_str().unwrap();
            assert!(live[first][reason].as_u64().is_some(), "{answer:#} {live:#}");
            for hook in &hooks[..2] {
                let out = hook["out_hex"].as_str().unwrap();
                match hook["reason"].as_str().unwrap() {
                    "forwarded_request" => assert_eq!(hook["action"], "redirect"),
                    "request_no_redirect" if hook["hook"] == "xdp" => {
                        assert_eq!((&hook["action"], out), (&"pass".into(), hex(&frame).as_str()));
                        continue;
                    }
                    _ => panic!("{hook:#}"),
                }
                // It has another destination: a backend of the lab.
                assert_eq!(out.len(), 2 * frame.len());
                let port = if vip.is_ipv4() { 14 + 20 + 2 } else { 14 + 40 + 2 };
                assert_eq!(out[2 * port..2 * port + 4], format!("{PORT:04x}"), "{out}");
            }
            assert_eq!(hooks[2]["reason"], "outgoing", "{answer:#}");
            assert_eq!(hooks[2]["action"], "pass");
            assert_eq!(hooks[2]["out_hex"], hex(&frame));
        }
        let other = hex(&syn(&balanced.lab, SocketAddr::new(vip.ip(), 81), 40_000));
        let answer = explain(balancer, &["--hex", &other]);
        assert_eq!((&answer["action"], &answer["reason"]), (&"pass".into(), &"no_service".into()));
        assert_eq!(answer["out_hex"], other.as_str());
    }
    assert_eq!(seen(), before);
    let (_, text) = balancer.ask(&["explain", "--hex", &hex(&syn(&balanced.lab, vips()[0].1, 1))]);
    assert!(text.contains(&format!(", by {first} of front")), "{text}");
    // Short, no IP, and for all.
    let short = explain(balancer, &["--hex", &"ff".repeat(14)]);
    assert_eq!((&short["action"], &short["reason"]), (&"pass".into(), &"not_ip".into()));
    for wrong in [
        &["--hex", "0g"][..],
        &["--hex", "00"],
        &["--hex", &hex(&syn(&balanced.lab, vips()[0].1, 1)), "--in", "nosuch0"],
        &["--hex", &hex(&syn(&balanced.lab, vips()[0].1, 1)), "--in", "lo"],
    ] {
        assert_eq!(balancer.ask(&[&["explain"], wrong].concat()).0, 2, "{wrong:?}");
    }
}

#[test]
fn what_is_told_of_addresses_is_where_the_connection_then_goes() {
    for attach in [NATIVE, GENERIC, TC] {
        told_at(attach);
    }
}

fn told_at(attach: Attach) {
    let mut balanced = Balanced::new(attach, Options::default());
    // What is drawn at random is another backend for the next packet.
    let by_hash = config(&balanced.lab, attach.asked).replace("\"random\"", "\"maglev\"");
    balanced.balancer.reload(&by_hash);
    let balancer = &balanced.balancer;
    for (name, vip) in vips() {
        // So that the neighbours are known.
        let tally = equipoise_lab::load::Load::of_count(vip, 30).run(balanced.client());
        assert_eq!(tally.failed(), 0, "{:?}", tally.failures);
        let vip_text = vip.to_string();
        // None that the system gives a connection of the load: its flow would be there before ours.
        for port in 4_000..4_010 {
            let [v4, v6] = balanced.lab.client().at(port);
            let client = if vip.is_ipv4() { v4 } else { v6 };
            let client_text = client.to_string();
            let new = explain(balancer, &["tcp", &client_text, &vip_text]);
            assert_eq!(
                (&new["service"], &new["route"]),
                (&name.into(), &"default".into()),
                "{new:#}"
            );
            let backend = new["backend"].as_str().unwrap();
            let kinds = ["forward", "stack"];
            assert!(kinds.contains(&new["verdict"].as_str().unwrap()), "{new:#}");
            let steps: Vec<_> = new["steps"]
                .as_array()
                .unwrap()
                .iter()
                .map(|s| s["step"].as_str().unwrap())
                .collect();
            assert_eq!(&steps[..4], ["parsed", "flow_miss", "service", "slot"], "{new:#}");
            let others = new["why_not"].as_array().unwrap();
            let family =
                others.iter().filter(|o| !o["reason"].as_str().unwrap().contains("family"));
            assert_eq!(family.count(), 2, "{new:#}");

            // What it says before is what becomes of the connection.
            let connect = Connect { source_port: Some(port), ..Connect::default() };
            let _open = HttpConnection::open(balanced.client(), vip, &connect).unwrap();
            let (code, text) =
                balancer.ask(&["flows", "--json", "--client", &client.ip().to_string()]);
            assert_eq!(code, 0, "{text}");
            let flows: Value = serde_json::from_str(&text).unwrap();
            let flow =
                flows.as_array().unwrap().iter().find(|f| f["client"] == client_text.as_str());
            assert_eq!(flow.unwrap()["backend"], backend, "{new:#}");

            let there = explain(balancer, &["tcp", &client_text, &vip_text]);
            assert_eq!((&there["backend"], &there["service"]), (&backend.into(), &name.into()));
            assert_eq!(there["steps"][1]["step"], "flow_hit", "{there:#}");
            let answer = explain(balancer, &["tcp", backend, &client_text]);
            assert_eq!(answer["interface"], "back", "the one that leads to the backend");
            assert_eq!(answer["steps"][1]["step"], "flow_hit", "{answer:#}");
            assert_eq!(answer["backend"], backend);
        }
        let (code, text) = balancer.ask(&["explain", "tcp", &vips()[0].1.to_string(), "[::1]:1"]);
        assert_eq!(code, 2, "{text}");
    }
    let (_, text) = balancer.ask(&["explain", "tcp", "198.51.100.9:1", &vips()[0].1.to_string()]);
    for word in ["the flow table does not know it", "slot ", "service web", "not "] {
        assert!(text.contains(word), "{word:?} in {text}");
    }
}

/// The names in the first column of a section's table.
fn documented(section: &str) -> BTreeSet<String> {
    let text = include_str!("../../../../docs/pins.md");
    let after = text.split_once(&format!("\n## {section}\n")).unwrap().1;
    let table = after.split("\n## ").next().unwrap();
    let names = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    names.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn what_is_pinned_is_what_is_documented() {
    let mut all = BTreeSet::new();
    for (attach, links) in
        [(NATIVE, &["in", "out", "xdp"][..]), (TC, &["in", "out"]), (GENERIC, &["out", "xdpg"])]
    {
        let lab = Lab::new(Options::default()).unwrap();
        let balancer = Balancer::start(&lab.balancer, &config(&lab, attach.asked));
        let root = format!("/sys/fs/bpf/equipoise/{}", balancer.instance);
        let pinned = |folder: &str| -> BTreeSet<String> {
            let entries = std::fs::read_dir(format!("{root}/{folder}")).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        assert_eq!(pinned("maps"), documented("maps"));
        // Those of the hooks that are in use.
        let ending = |name: &str| name.rsplit_once('_').unwrap().1.to_owned();
        let programs = pinned("programs");
        let hooks: BTreeSet<String> = programs.iter().map(|name| ending(name)).collect();
        assert_eq!(hooks.iter().collect::<Vec<_>>(), links.iter().collect::<Vec<_>>());
        all.extend(programs);
        let kinds = documented("links");
        let device = |name: &str| index(&lab.balancer, name).unwrap();
        let mut expected = BTreeSet::new();
        for kind in links {
            assert!(kinds.contains(&format!("{kind}-IFINDEX")), "{kind} in {kinds:?}");
            expected.extend(["front", "back"].map(|name| format!("{kind}-{}", device(name))));
        }
        assert_eq!(pinned("links"), expected);
        let folders = std::fs::read_dir(&root).unwrap().count();
        assert_eq!(folders, 3);
    }
    assert_eq!(all, documented("programs"));
}
