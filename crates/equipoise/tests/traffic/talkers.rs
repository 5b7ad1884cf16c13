//! Top talkers against traffic that the test itself has counted: of new flows, of live ones, of packets that are dropped.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use equipoise_lab::client::{Connect, UdpAsker};
use equipoise_lab::topology::Options;
use equipoise_lab::wait_until;
use serde_json::{Value, json};

use crate::balanced::{Balanced, DEADLINE, TC, vips};

/// More addresses of the client's, and how many sockets each has.
const SOURCES: [(&str, u64); 3] =
    [("198.51.100.51", 30), ("198.51.100.52", 20), ("198.51.100.53", 5)];
const V6: [(&str, u64); 2] = [("2001:db8:c::51", 4), ("2001:db8:c::52", 3)];

fn told(balanced: &Balanced, arguments: &[&str]) -> Value {
    let (code, said) = balanced.balancer.ask(&[&["--json", "top-talkers"], arguments].concat());
    assert_eq!(code, 0, "{said}");
    serde_json::from_str(&said).unwrap()
}

fn source(address: &str, count: u64) -> Value {
    json!({ "source": address, "at_least": count, "at_most": count })
}

#[test]
fn sources_with_most_are_those_that_have_sent_most() {
    let balanced = Balanced::new(TC, Options::default());
    let client = balanced.client().clone();
    let mut askers = Vec::new();
    let [(_, vip), (_, vip6)] = vips();
    for (address, count, to, prefix) in SOURCES
        .map(|(address, count)| (address, count, vip, 24))
        .into_iter()
        .chain(V6.map(|(address, count)| (address, count, vip6, 64)))
    {
        let nodad = if to.is_ipv6() { " nodad" } else { "" };
        client.ip(&format!("addr add {address}/{prefix} dev eth0{nodad}")).unwrap();
        let address: IpAddr = address.parse().unwrap();
        for _ in 0..count {
            let connect = Connect { source: Some(address), ..Connect::default() };
            let asker = UdpAsker::open(&client, to, &connect).unwrap();
            asker.ask(b"?").unwrap();
            askers.push(asker);
        }
    }
    let of_web = |sources: &[(&str, u64)]| {
        let sources: Vec<Value> = sources.iter().map(|(at, count)| source(at, *count)).collect();
        json!({ "service": "web", "total": 55, "sources": sources })
    };
    // A network of IPv6 is one source.
    let of_web6 =
        json!({ "service": "web6", "total": 7, "sources": [source("2001:db8:c::/64", 7)] });
    let all = json!([of_web(&SOURCES), of_web6]);
    wait_until(DEADLINE, "all flows to be told of", || told(&balanced, &[])["services"] == all)
        .unwrap();
    assert!(told(&balanced, &[])["over_seconds"].as_f64() > Some(0.0));
    let live = told(&balanced, &["--by", "live-flows"]);
    assert_eq!((&live["services"], &live["over_seconds"]), (&all, &Value::Null));
    let first = told(&balanced, &["--service", "web", "--limit", "1"]);
    assert_eq!(first["services"], json!([of_web(&SOURCES[..1])]));
    let (_, shown) = balanced.balancer.ask(&["top-talkers", "--by", "live-flows"]);
    let rows: Vec<Vec<&str>> =
        shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1], ["web", "198.51.100.51", "30", "54.5", "%"], "{shown}");
    // Flows that end are live no more, and have opened all the same.
    assert_eq!(balanced.balancer.ask(&["flows", "delete", "--client", SOURCES[0].0]).0, 0);
    let live = told(&balanced, &["--by", "live-flows", "--service", "web"]);
    assert_eq!(live["services"][0]["sources"][0], source(SOURCES[1].0, SOURCES[1].1));
    assert_eq!(told(&balanced, &[])["services"], all);
    assert_eq!(balanced.balancer.ask(&["top-talkers", "--service", "nobody"]).0, 3);
    assert_eq!(balanced.balancer.ask(&["top-talkers", "--for", "1s"]).0, 2);

    dropped(&balanced, vip);
}

/// What is sent from denied addresses while somebody looks is told of, each packet, and the programs are as before afterwards.
fn dropped(balanced: &Balanced, vip: SocketAddr) {
    for (address, _) in SOURCES {
        let (code, said) = balanced.balancer.ask(&["deny", "add", address]);
        assert_eq!(code, 0, "{said}");
    }
    let said = |text: &str| balanced.balancer.log().contains(text);
    let looking = ["--by", "dropped", "--for", "6s"];
    let told = thread::scope(|scope| {
        let looking = scope.spawn(|| told(balanced, &looking));
        wait_until(DEADLINE, "programs that tell of packets", || said("packets are told of"))
            .unwrap();
        for (address, count) in SOURCES {
            let send = || {
                let socket = UdpSocket::bind((address, 0)).unwrap();
                for _ in 0..count * 10 {
                    socket.send_to(b"?", vip).unwrap();
                    // Not so many in a second that only some of them are looked at.
                    thread::sleep(Duration::from_millis(1));
                }
            };
            balanced.client().run(send);
        }
        looking.join().unwrap()
    });
    let sources: Vec<Value> = SOURCES.map(|(address, count)| source(address, count * 10)).into();
    let of_web = json!({ "service": "web", "total": 550, "sources": sources });
    let right = json!({ "over_seconds": 6.0, "services": [of_web], "skipped": 0 });
    assert_eq!(told, right);
    wait_until(DEADLINE, "programs that tell nobody", || said("packets are not told of any more"))
        .unwrap();
}
