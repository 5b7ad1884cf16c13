//! The log of flows of real traffic: each line against what the test itself has seen on the client's wire, files that are put aside
//! and moved under load, and disks that take nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use equipoise::admin::client::{Client, FlowStream};
use equipoise::flow_events::FlowTold;
use equipoise::status::FlowFilter;
use equipoise::status::flow_event::FlowEvent;
use equipoise_lab::client::{Connect, EchoConnection, UdpAsker};
use equipoise_lab::load::Load;
use equipoise_lab::topology::{Lab, Options};
use equipoise_lab::{Netns, wait_until};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::balanced::{
    Attach, Balanced, Balancer, DEADLINE, TC, backends, config, echo_servers, udp_servers, vips,
};

/// Packets and IP bytes to the VIP and from it, by protocol and the client's address and port.
type Seen = BTreeMap<(String, SocketAddr), [u64; 4]>;

/// Counts what a host sends to the VIPs and gets from them.
struct Watcher {
    seen: Arc<Mutex<Seen>>,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    fn start(netns: &Netns) -> Self {
        let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let socket = netns.run(|| Socket::new(Domain::PACKET, Type::DGRAM, Some(all))).unwrap();
        socket.set_recv_buffer_size(8 << 20).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (seen, ending) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let (kept, told) = (Arc::clone(&seen), Arc::clone(&ending));
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 70_000];
            while !told.load(Ordering::Relaxed) {
                if let Ok(count) = (&socket).read(&mut buffer) {
                    note(&mut kept.lock().unwrap(), &buffer[..count]);
                }
            }
        });
        Self { seen, ending, thread: Some(thread) }
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn note(seen: &mut Seen, packet: &[u8]) {
    let Ok(sliced) = SlicedPacket::from_ip(packet) else { return };
    let (source, destination, bytes) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let (source, destination) = (header.source_addr(), header.destination_addr());
            (source.into(), destination.into(), u64::from(header.total_len()))
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let (source, destination) = (header.source_addr(), header.destination_addr());
            (source.into(), destination.into(), 40 + u64::from(header.payload_length()))
        }
        _ => return,
    };
    let (protocol, from, to) = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => ("tcp", tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => ("udp", udp.source_port(), udp.destination_port()),
        _ => return,
    };
    let (source, destination) = (SocketAddr::new(source, from), SocketAddr::new(destination, to));
    let is_vip = |address| vips().iter().any(|(_, vip)| *vip == address);
    let (client, at) = match (is_vip(destination), is_vip(source)) {
        (true, _) => (source, 0),
        (_, true) => (destination, 2),
        _ => return,
    };
    let counts = seen.entry((protocol.to_owned(), client)).or_default();
    counts[at] += 1;
    counts[at + 1] += bytes;
}

fn read(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // The last one may just be written.
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    text[..whole].lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn address(place: &Value) -> SocketAddr {
    let port = u16::try_from(place["port"].as_u64().unwrap()).unwrap();
    SocketAddr::new(place["ip"].as_str().unwrap().parse().unwrap(), port)
}

fn logged(lab: &Lab, attach: Attach, keys: &str) -> String {
    let access = format!("max-flows = 20000\naccess-log = {{ {keys} }}");
    let brief = "[[service]]\ntimeouts = { udp-one-way = \"1s\", udp-two-way = \"1s\" }";
    config(lab, attach.asked).replace("max-flows = 20000", &access).replace("[[service]]", brief)
}

/// So many flow events, each to come.
async fn told(stream: &mut FlowStream, count: usize) -> Vec<FlowEvent> {
    let mut all = Vec::new();
    while all.len() < count {
        match stream.next().await.unwrap() {
            Some(FlowTold::Flow(flow)) => all.push(*flow),
            other => panic!("{other:?} after {}", all.len()),
        }
    }
    all
}

pub(crate) fn every_flow_is_written_as_it_was_seen(attach: Attach) {
    const TCP: usize = 15;
    const UDP: usize = 10;
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = (echo_servers(&lab), udp_servers(&lab));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.log");
    let keys = format!("path = \"{}\", stdout = true", path.display());
    let mut balancer = Balancer::start(&lab.balancer, &logged(&lab, attach, &keys));
    let asking = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let at = Client::new(&PathBuf::from(format!("/run/equipoise/{}.sock", balancer.instance)));
    let mut following = asking.block_on(at.flow_events(&FlowFilter::default())).unwrap();
    let client = &lab.client().netns;
    let watcher = Watcher::start(client);
    let mut said: BTreeMap<(String, SocketAddr), (u64, SocketAddr)> = BTreeMap::new();
    for (_, vip) in vips() {
        for number in 0..TCP {
            let mut talk = EchoConnection::open(client, vip, &Connect::default()).unwrap();
            let words = vec![b'w'; 100 + number];
            for _ in 0..=number {
                talk.ask(&words).unwrap();
            }
            let bytes = (words.len() * (number + 1)) as u64;
            said.insert(("tcp".to_owned(), talk.local_addr().unwrap()), (bytes, vip));
        }
        for number in 0..UDP {
            // One that the system chose twice would carry one flow, not two.
            let connect = Connect::from_port(10_000 + number as u16);
            let asker = UdpAsker::open(client, vip, &connect).unwrap();
            for _ in 0..=number {
                asker.ask(b"words of this length").unwrap();
            }
            let bytes = 20 * (number as u64 + 1);
            said.insert(("udp".to_owned(), asker.local_addr().unwrap()), (bytes, vip));
        }
    }
    wait_until(DEADLINE, "a line for each flow", || read(&path).len() >= said.len()).unwrap();
    let seen = watcher.seen();
    let lines = read(&path);
    assert_eq!(lines.len(), said.len());
    let mut wrong = Vec::new();
    for line in &lines {
        let is_tcp = line["protocol"] == "tcp";
        let key = (line["protocol"].as_str().unwrap().to_owned(), address(&line["client"]));
        let (payload, vip) = said[&key];
        let counted =
            ["packets_in", "bytes_in", "packets_out", "bytes_out"].map(|key| line[key].as_u64());
        if counted.map(Option::unwrap) != seen[&key] {
            wrong.push(format!("{:?} seen of {line}", seen[&key]));
        }
        // And against what was said, with headers alone beside it.
        let (packets, bytes) = (seen[&key][0], seen[&key][1]);
        let ip = if vip.is_ipv4() { 20 } else { 40 };
        let most = if is_tcp { 60 } else { 8 };
        let least = if is_tcp { 20 } else { 8 };
        let headers = packets * (ip + least)..=packets * (ip + most);
        assert!(headers.contains(&(bytes - payload)), "{line} for {payload}");
        assert_eq!(address(&line["vip"]), vip);
        let name = if vip.is_ipv4() { "web" } else { "web6" };
        assert_eq!((&line["service"], &line["route"]), (&name.into(), &"default".into()));
        let backend = address(&line["backend"]);
        assert!(backends(&lab, vip).iter().any(|(at, _)| *at == backend), "{line}");
        let reason = if is_tcp { "client_fin" } else { "idle" };
        assert_eq!(line["reason"], reason, "{line}");
        let handshake = line["handshake_ms"].as_f64();
        assert_eq!(handshake.is_some(), is_tcp, "{line}");
        assert!(handshake.is_none_or(|ms| (0.001..1_000.0).contains(&ms)), "{line}");
        assert!(line["duration_ms"].as_f64().unwrap() < 10_000.0, "{line}");
    }
    assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), lines.len());
    // Whoever follows has got the same, and each of them when it had opened.
    let all = async { tokio::time::timeout(DEADLINE, told(&mut following, 2 * lines.len())).await };
    let all = asking.block_on(all).expect("all are told");
    let (closed, opened): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|flow| flow.event == "closed");
    let ends = |flow: &FlowEvent| (flow.protocol.to_string(), SocketAddr::from(flow.client));
    let opened: BTreeSet<_> = opened.iter().map(ends).collect();
    assert_eq!(opened, said.keys().cloned().collect());
    for flow in &closed {
        let told = serde_json::to_value(flow).unwrap();
        let is_of_it = |line: &&Value| {
            line["client"] == told["client"] && line["protocol"] == told["protocol"]
        };
        assert_eq!(Some(&told), lines.iter().find(is_of_it));
    }
    let on_stdout =
        || balancer.log().lines().filter(|line| line.contains("\"handshake_ms\"")).count();
    wait_until(DEADLINE, "the same on standard output", || on_stdout() == said.len()).unwrap();
    let log = balancer.status()["access_log"].clone();
    assert_eq!(log["written"]["file"], said.len(), "{log}");
    assert_eq!(log["dropped"], serde_json::json!({ "queue": 0, "file": 0, "stdout": 0 }));
    balancer.end();
}

#[test]
fn files_are_put_aside_and_opened_anew_under_load_and_no_line_is_lost() {
    const EACH: u64 = 3_000;
    let mut balanced = Balanced::new(TC, Options::default());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.log");
    let keys = format!("path = \"{}\", max-size-mb = 1, max-files = 20", path.display());
    let text = logged(&balanced.lab, TC, &keys);
    balanced.balancer.reload(&text);
    let (_, vip) = vips()[0];
    let moved = folder.path().join("moved.log");
    for _ in 0..2 {
        let load = Load::of_count(vip, EACH).start(balanced.client());
        if !moved.exists() {
            wait_until(DEADLINE, "some lines", || read(&path).len() > 100).unwrap();
            std::fs::rename(&path, &moved).unwrap();
            balanced.balancer.signal(libc::SIGUSR1);
        }
        let tally = load.wait();
        assert_eq!((tally.failed(), tally.answered()), (0, EACH), "{:?}", tally.failures);
    }
    let files = || -> Vec<_> {
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let lines = || files().iter().map(|path| read(path).len() as u64).sum::<u64>();
    wait_until(DEADLINE, "a line for each flow", || lines() >= 2 * EACH).unwrap();
    assert_eq!(lines(), 2 * EACH);
    assert!(folder.path().join("flows.log.1").exists(), "{:?}", files());
    for path in files() {
        assert!(std::fs::metadata(&path).unwrap().len() <= 1 << 20, "{path:?}");
    }
}

#[test]
fn a_disk_that_is_full_stops_no_packet_and_is_told() {
    const EACH: u64 = 500;
    let mut balanced = Balanced::new(TC, Options::default());
    let text = logged(&balanced.lab, TC, "path = \"/dev/full\"");
    balanced.balancer.reload(&text);
    let (_, vip) = vips()[0];
    let tally = Load::of_count(vip, EACH).run(balanced.client());
    assert_eq!((tally.failed(), tally.answered()), (0, EACH), "{:?}", tally.failures);
    let reasons = |balancer: &Balancer| balancer.status()["reasons"].to_string();
    let told = "access log: /dev/full cannot be written: No space left on device";
    wait_until(DEADLINE, "the reason", || reasons(&balanced.balancer).contains(told)).unwrap();
    let text = logged(&balanced.lab, TC, "stdout = true");
    balanced.balancer.reload(&text);
    wait_until(DEADLINE, "no reason", || reasons(&balanced.balancer) == "[]").unwrap();
}

#[test]
fn the_log_follows_the_configuration() {
    let mut balanced = Balanced::new(TC, Options::default());
    let with = |log: &str| {
        let text = config(&balanced.lab, TC.asked);
        text.replace("max-flows = 20000", &format!("max-flows = 20000\nlog = {{ {log} }}"))
    };
    let [quiet, loud] = ["level = \"warn\"", "level = \"debug\", format = \"json\""].map(with);
    let applied = |balancer: &Balancer| balancer.log().matches("config_applied").count();
    balanced.balancer.reload(&quiet);
    let before = applied(&balanced.balancer);
    let text = quiet.replace("weight = 50", "weight = 51");
    balanced.balancer.reload(&text);
    assert_eq!(applied(&balanced.balancer), before, "{}", balanced.balancer.log());
    balanced.balancer.reload(&loud);
    let objects = || -> Vec<Value> {
        let log = balanced.balancer.log();
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let is_told = |line: &Value| line["message"] == "config_applied" && line["level"] == "INFO";
    wait_until(DEADLINE, "an object for what changes", || objects().iter().any(is_told)).unwrap();
    let told = objects().into_iter().find(is_told).unwrap();
    assert_eq!((&told["to"], &told["why"]), (&"4".into(), &"the file has been read".into()));
}
