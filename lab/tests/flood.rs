//! Floods between two namespaces, counted where they arrive. Needs root.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use equipoise_lab::flood::{Flood, Frames, Kind, Random, Report, hardware_address};
use equipoise_lab::link::{self, Checksums, End, Gro, Properties};
use equipoise_lab::serve::UdpEcho;
use equipoise_lab::{Netns, scale, wait_until};

const SOON: Duration = Duration::from_secs(10);
const V4: &str = "192.0.2.1";
const V6: &str = "2001:db8::1";

/// A sender and a receiver, each with the device `eth0`; sources of floods are reached by the sender.
struct Pair {
    sender: Netns,
    receiver: Netns,
}

impl Pair {
    fn new(gro: Gro) -> Self {
        let (sender, receiver) = (Netns::new().unwrap(), Netns::new().unwrap());
        // Its own stack has nothing to say, so that all that arrives is the flood.
        sender.sysctl("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        link::veth(
            End { netns: &sender, device: "eth0", gro },
            End { netns: &receiver, device: "eth0", gro },
            Properties { mtu: 1500, queues: 1, checksums: Checksums::Complete },
        )
        .unwrap();
        let neighbour = link::mac(&sender, "eth0").unwrap();
        receiver
            .ip(&format!(
                "addr add {V4}/24 dev eth0\n\
                 addr add {V6}/64 dev eth0 nodad\n\
                 neigh add 192.0.2.2 lladdr {neighbour} dev eth0\n\
                 neigh add 2001:db8::2 lladdr {neighbour} dev eth0\n\
                 route add 198.18.0.0/15 via 192.0.2.2\n\
                 route add 2001:db8:5::/48 via 2001:db8::2"
            ))
            .unwrap();
        link::wait_ready(&sender, "eth0").unwrap();
        link::wait_ready(&receiver, "eth0").unwrap();
        Self { sender, receiver }
    }

    fn random(&self, kind: Kind, to: SocketAddr) -> Random {
        let from = if to.is_ipv4() { "198.18.0.0/15" } else { "2001:db8:5::/48" };
        let next_hop = hardware_address(&self.receiver, "eth0").unwrap();
        Random { kind, from: from.parse().unwrap(), to, next_hop, seed: 1 }
    }

    /// Frames that the receiver's device has received.
    fn arrived(&self) -> u64 {
        let devices = self.receiver.run(|| fs::read_to_string("/proc/thread-self/net/dev"));
        let devices = devices.unwrap();
        let eth0 = devices.lines().find_map(|line| line.trim().strip_prefix("eth0:")).unwrap();
        eth0.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// A count of the receiver's TCP.
    fn tcp(&self, name: &str) -> u64 {
        let counts = self.receiver.run(|| fs::read_to_string("/proc/thread-self/net/snmp"));
        let counts = counts.unwrap();
        let mut lines = counts.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let mut words = || lines.next().unwrap().split(' ');
        let place = words().position(|word| word == name).unwrap();
        words().nth(place).unwrap().parse().unwrap()
    }

    fn wait_for_arrival(&self, count: u64) {
        wait_until(SOON, "the last frame to arrive", || self.arrived() >= count).unwrap();
        assert_eq!(self.arrived(), count);
    }
}

fn flood(frames: Frames, count: u64) -> Flood {
    Flood { device: "eth0".to_owned(), frames, count, time: Duration::from_secs(60), rate: None }
}

fn both(port: u16) -> [SocketAddr; 2] {
    [SocketAddr::new(V4.parse().unwrap(), port), SocketAddr::new(V6.parse().unwrap(), port)]
}

fn say(what: &str, report: Report) {
    println!("{what}: {:.0} packets/s, {report:?}", report.per_second());
}

#[test]
fn all_that_is_sent_arrives_however_the_other_end_receives() {
    let count = scale(100_000, 2_000_000);
    for gro in [Gro::Off, Gro::On] {
        let pair = Pair::new(gro);
        let mut sent = pair.arrived();
        for to in both(9) {
            for kind in [Kind::Syn, Kind::Ack, Kind::Udp] {
                let frames = Frames::Random(pair.random(kind, to));
                let report = flood(frames, count).run(&pair.sender).unwrap();
                say(&format!("{kind:?} to {to}, GRO {gro:?}"), report);
                assert_eq!(report.sent, count);
                sent += count;
                pair.wait_for_arrival(sent);
            }
        }
    }
}

#[test]
fn the_kernel_takes_the_packets_for_what_they_are() {
    let pair = Pair::new(Gro::On);
    for to in both(53) {
        let server = UdpEcho::start(&pair.receiver, "b1", &[to]).unwrap();
        let frames = Frames::Random(pair.random(Kind::Udp, to));
        let slow = Flood { rate: Some(5000), ..flood(frames, 500) };
        slow.run(&pair.sender).unwrap();
        wait_until(SOON, "every datagram", || server.received() == 500).unwrap();
    }
    for to in both(80) {
        for kind in [Kind::Syn, Kind::Ack] {
            let (taken, resets) = (pair.tcp("InSegs"), pair.tcp("OutRsts"));
            let frames = Frames::Random(pair.random(kind, to));
            flood(frames, 300).run(&pair.sender).unwrap();
            // Nobody listens: what is understood is answered by a reset.
            wait_until(SOON, "every reset", || pair.tcp("OutRsts") == resets + 300).unwrap();
            assert_eq!(pair.tcp("InSegs"), taken + 300);
        }
    }
    assert_eq!((pair.tcp("InErrs"), pair.tcp("InCsumErrors")), (0, 0));
}

#[test]
fn given_frames_are_sent_round_robin_as_they_are() {
    let pair = Pair::new(Gro::On);
    let to = both(53);
    let servers = to.map(|to| UdpEcho::start(&pair.receiver, "b1", &[to]).unwrap());
    let own = hardware_address(&pair.sender, "eth0").unwrap();
    let frames = to.map(|to| pair.random(Kind::Udp, to).frames(own, 1).unwrap());
    let given = Frames::Given(frames.concat());
    let report = Flood { rate: Some(5000), ..flood(given, 301) }.run(&pair.sender).unwrap();
    assert_eq!(report.sent, 301);
    for (server, wanted) in servers.iter().zip([151, 150]) {
        wait_until(SOON, "every datagram", || server.received() >= wanted).unwrap();
        assert_eq!(server.received(), wanted);
    }
}

#[test]
fn a_flood_ends_by_its_time_and_keeps_to_its_rate() {
    let pair = Pair::new(Gro::On);
    let before = pair.arrived();
    let frames = Frames::Random(pair.random(Kind::Syn, both(9)[0]));
    let time = Duration::from_millis(500);
    let report =
        Flood { rate: Some(20_000), time, ..flood(frames, u64::MAX) }.run(&pair.sender).unwrap();
    assert!(report.elapsed >= time, "{report:?}");
    // It is never ahead; how far a busy machine sets it back is not its own doing.
    assert!((1..=report.elapsed.as_micros() as u64 / 50).contains(&report.sent), "{report:?}");
    pair.wait_for_arrival(before + report.sent);
}

#[test]
fn a_flood_is_seen_under_way_and_stopped() {
    let pair = Pair::new(Gro::On);
    let before = pair.arrived();
    let frames = Frames::Random(pair.random(Kind::Ack, both(9)[1]));
    let running = flood(frames.clone(), u64::MAX).start(&pair.sender).unwrap();
    wait_until(SOON, "a thousand packets", || running.report().sent >= 1000).unwrap();
    assert!(running.is_running());
    let report = running.stop().unwrap();
    assert!(report.elapsed < SOON, "{report:?}");
    pair.wait_for_arrival(before + report.sent);
    drop(flood(frames, u64::MAX).start(&pair.sender).unwrap());
    let arrived = pair.arrived();
    thread::sleep(Duration::from_millis(20));
    assert_eq!(pair.arrived(), arrived, "a flood ends when dropped");
}

#[test]
fn what_the_device_refuses_is_sent_again_until_the_time_is_over() {
    let pair = Pair::new(Gro::On);
    let frames = Frames::Random(pair.random(Kind::Syn, both(9)[0]));
    // Without its other end the device is up and takes nothing.
    pair.receiver.ip("link set eth0 down").unwrap();
    let before = pair.arrived();
    let time = Duration::from_millis(100);
    let report = Flood { time, ..flood(frames.clone(), 100) }.run(&pair.sender).unwrap();
    assert_eq!(report.sent, 0);
    assert!(report.refusals > 0 && report.elapsed >= time, "{report:?}");
    let running = flood(frames, 100).start(&pair.sender).unwrap();
    wait_until(SOON, "a refusal", || running.report().refusals > 0).unwrap();
    pair.receiver.ip("link set eth0 up").unwrap();
    assert_eq!(running.wait().unwrap().sent, 100);
    pair.wait_for_arrival(before + 100);
}

#[test]
fn a_flood_that_cannot_go_on_says_where_it_was() {
    let pair = Pair::new(Gro::On);
    let frames = Frames::Random(pair.random(Kind::Udp, both(9)[0]));
    assert!(flood(Frames::Given(Vec::new()), 1).start(&pair.sender).is_err());
    let elsewhere = Flood { device: "eth7".to_owned(), ..flood(frames.clone(), 1) };
    assert!(format!("{:#}", elsewhere.start(&pair.sender).unwrap_err()).contains("eth7"));
    let running =
        Flood { rate: Some(1000), ..flood(frames, u64::MAX) }.start(&pair.sender).unwrap();
    wait_until(SOON, "a few packets", || running.report().sent >= 3).unwrap();
    pair.sender.ip("link set eth0 down").unwrap();
    let error = format!("{:#}", running.wait().unwrap_err());
    assert!(error.contains("eth0 after") && error.contains("down"), "{error}");
}
