//! Packets told of while traffic flows: what they were, what they became, and nobody's connection suffers from it.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use equipoise_lab::topology::{Lab, Options};
use equipoise_lab::wait_until;
use etherparse::{LaxNetSlice, LaxSlicedPacket};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::Value;

use crate::balanced::{Attach, Balancer, DEADLINE, TC, backends, vips};
use crate::restart::{Servers, Traffic, config};

fn bytes(hex: &Value) -> Vec<u8> {
    let text = hex.as_str().unwrap();
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// Where a frame goes.
fn destination(frame: &[u8]) -> String {
    match LaxSlicedPacket::from_ethernet(frame).unwrap().net {
        Some(LaxNetSlice::Ipv4(ip)) => ip.header().destination_addr().to_string(),
        Some(LaxNetSlice::Ipv6(ip)) => ip.header().destination_addr().to_string(),
        other => panic!("{other:?}"),
    }
}

/// Runs a command that looks on, to its end.
fn run(balancer: &Balancer, arguments: &[&str]) -> Output {
    let mut command = balancer.command();
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Nobody is told any more, and the programs are those that tell nobody.
fn until_nobody_looks(balancer: &Balancer, times: usize) {
    wait_until(DEADLINE, "programs that tell nobody", || {
        balancer.log().matches("packets are not told of any more").count() == times
    })
    .unwrap();
    assert_eq!(balancer.status()["state"], "ok");
}

pub(crate) fn packets_are_told_of_as_they_came_and_as_they_left(attach: Attach) {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = Servers::start(&lab);
    let balancer = Balancer::start(&lab.balancer, &config(&lab, attach.asked, 20_000));
    let traffic = Traffic::start(&lab);
    let (_, vip) = vips()[0];
    let all: Vec<String> = backends(&lab, vip).iter().map(|(at, _)| at.to_string()).collect();

    let requests = ["--json", "trace", "--service", "web", "--reason", "forwarded_request"];
    let told = lines(&run(&balancer, &[&requests[..], &["--count", "20"]].concat()));
    assert_eq!(told.len(), 20);
    for packet in &told {
        assert_eq!((&packet["service"], &packet["interface"]), (&"web".into(), &"front".into()));
        assert_eq!(packet["verdict"], "forwarded_request");
        let backend = packet["backend"].as_str().unwrap();
        assert!(all.iter().any(|at| at == backend), "{packet}");
        let [came, left] = [&packet["hex"], &packet["out_hex"]].map(bytes);
        assert_eq!(destination(&came), vip.ip().to_string());
        assert!(backend.starts_with(&format!("{}:", destination(&left))), "{packet}");
        assert_eq!(packet["length"], packet["out_length"]);
    }
    until_nobody_looks(&balancer, 1);

    // One at a time; and what nobody can mean is told with what there is.
    // Of all packets, none of the few that are told need be one that is sent on.
    let few = ["trace", "--reason", "forwarded", "--for", "4s", "--rate", "1"];
    thread::scope(|scope| {
        let first = scope.spawn(|| run(&balancer, &few));
        let began = || balancer.log().matches("packets are told of").count() == 2;
        wait_until(DEADLINE, "somebody who looks", began).unwrap();
        let second = run(&balancer, &["trace", "--count", "1"]);
        assert_eq!(second.status.code(), Some(5));
        assert!(String::from_utf8_lossy(&second.stderr).contains("somebody else"), "{second:?}");
        let first = first.join().unwrap();
        assert!(first.status.success(), "{first:?}");
        assert!(String::from_utf8_lossy(&first.stdout).contains(" => tcp "), "{first:?}");
    });
    until_nobody_looks(&balancer, 2);
    let wrong = run(&balancer, &["trace", "--reason", "nonsense"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("source_limit"), "{wrong:?}");
    assert_eq!(run(&balancer, &["trace", "--service", "nobody"]).status.code(), Some(3));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.pcapng");
    let path = file.to_str().unwrap();
    let written = run(
        &balancer,
        &["capture", "-w", path, "--service", "web", "--reason", "forwarded", "--count", "50"],
    );
    assert!(written.status.success(), "{written:?}");
    let mut reader = PcapNgReader::new(File::open(&file).unwrap()).unwrap();
    let mut sides = [0, 0];
    while let Some(block) = reader.next_block() {
        let Block::EnhancedPacket(packet) = block.unwrap() else { continue };
        let EnhancedPacketOption::Comment(comment) = &packet.options[0] else { panic!() };
        assert!(comment.contains("service=web"), "{comment}");
        sides[usize::from(comment.starts_with("left; "))] += 1;
        assert!(packet.original_len as usize >= packet.data.len());
        destination(&packet.data);
    }
    assert_eq!(sides[0], 50);
    assert!(sides[1] > 0);
    until_nobody_looks(&balancer, 3);
    traffic.end().tell("programs that tell of packets, and back", attach.asked);
}

/// Has tshark read a capture, with checksums checked: the fields of each packet that passes a filter.
fn dissected(file: &Path, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-n", "-o", "ip.check_checksum:TRUE", "-Y", filter]);
    command.args(["-T", "fields"]).args(fields.iter().flat_map(|field| ["-e", field]));
    let output = command.output().expect("tshark is there; it is a package of Debian's");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let row = |line: &str| line.split('\t').map(str::to_owned).collect();
    text.lines().map(row).collect()
}

#[test]
fn capture_opens_in_wireshark() {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = Servers::start(&lab);
    let balancer = Balancer::start(&lab.balancer, &config(&lab, TC.asked, 20_000));
    let traffic = Traffic::start(&lab);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.pcapng");
    let path = file.to_str().unwrap();
    let wanted = ["--service", "web", "--reason", "forwarded_request", "--count", "40"];
    let written = run(&balancer, &[&["capture", "-w", path], &wanted[..]].concat());
    assert!(written.status.success(), "{written:?}");
    traffic.end();
    let (_, vip) = vips()[0];
    let vip = vip.ip().to_string();
    let all =
        dissected(&file, "frame", &["frame.comment", "frame.interface_name", "ip.src", "ip.dst"]);
    assert_eq!(all.len(), 80, "{all:?}");
    for pair in all.chunks(2) {
        let [came, left] = pair else { panic!("{pair:?}") };
        let about = came[0].strip_prefix("came; ").unwrap();
        assert_eq!(left[0].strip_prefix("left; "), Some(about));
        let rest =
            about.strip_prefix("verdict=forwarded_request hook=tc-ingress service=web backend=");
        let backend = rest.unwrap_or_else(|| panic!("{about}"));
        assert_eq!((&*came[1], &*came[3]), ("front", &*vip));
        assert_eq!(backend.split(':').next(), Some(&*left[3]));
        assert_eq!(came[2], left[2], "the client");
    }
    // Nothing in it is broken, and what was rewritten has a right checksum.
    assert_eq!(dissected(&file, "_ws.malformed", &["frame.number"]), Vec::<Vec<String>>::new());
    assert_eq!(dissected(&file, "ip.checksum.status == 1", &["frame.number"]).len(), 80);
    let ports = dissected(&file, "tcp || udp", &["frame.number"]);
    assert_eq!(ports.len(), 80);
}
