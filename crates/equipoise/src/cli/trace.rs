//! `equipoise trace` and `equipoise capture`: packets as they come and leave, and why, on the screen or into a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};

use super::args::{Capture, Global, Trace, WhichPackets};
use super::{Exit, Failure, following, print};
use crate::status::explain::packet;
use crate::status::trace::{TraceFilter, TracedPacket};

/// A capture is for a time, and all of its packets are wanted.
const CAPTURED: u32 = 10_000;

pub(super) async fn trace(global: &Global, asked: &Trace) -> Result<(), Failure> {
    each(global, &asked.which, TraceFilter::RATE, |traced| {
        if traced.skipped > 0 {
            eprintln!("{} packets were not told of: too many came", traced.skipped);
        }
        if global.json {
            let line = serde_json::to_string(traced).map_err(Failure::failed)?;
            return print(&format!("{line}\n"));
        }
        print(&format!("{}\n", shown(traced)))
    })
    .await
}

pub(super) async fn capture(global: &Global, asked: &Capture) -> Result<(), Failure> {
    let mut file = Written::open(&asked.write)?;
    let mut skipped = 0;
    let done = each(global, &asked.which, CAPTURED, |traced| {
        skipped += traced.skipped;
        file.write(traced)
    })
    .await;
    if skipped > 0 {
        eprintln!("{skipped} packets are not in it: too many came; `--rate` or a filter helps");
    }
    eprintln!("{} packets, as they came and as they left", file.packets);
    done
}

/// Gives each packet to `take`, until that is enough.
async fn each(
    global: &Global,
    which: &WhichPackets,
    rate: u32,
    mut take: impl FnMut(&TracedPacket) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let WhichPackets { service, reason, enough, .. } = which.clone();
    let filter = TraceFilter { service, reason, rate: Some(which.rate.unwrap_or(rate)) };
    filter.verdicts().map_err(|error| Failure::new(Exit::Usage, format!("--reason: {error}")))?;
    let mut stream = global.patient_client().trace(&filter).await?;
    // From when the programs tell of packets, which takes seconds.
    following::each(enough, async || stream.next().await, |traced| take(&traced).map(|()| true))
        .await
}

fn shown(traced: &TracedPacket) -> String {
    let TracedPacket { time, interface, hook, verdict, service, backend, length, .. } = traced;
    let mut line = format!("{time} {interface} {hook} {verdict}");
    for (what, name) in [("service", service), ("backend", backend)] {
        if let Some(name) = name {
            line.push_str(&format!(" {what}={name}"));
        }
    }
    let [came, left] = [&traced.hex, &traced.out_hex].map(|hex| ends(hex));
    line.push_str(&format!(" {length} bytes {came}"));
    if left != came {
        line.push_str(&format!(" => {left}"));
    }
    line
}

/// Who sends a packet to whom, as far as it is known.
fn ends(hex: &str) -> String {
    let Ok(bytes) = packet(hex) else { return "no frame".to_owned() };
    // Only the beginning of a packet may be here.
    let Ok(sliced) = LaxSlicedPacket::from_ethernet(&bytes) else { return "not parsed".to_owned() };
    let (from, to) = match &sliced.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            (ip.header().source_addr().to_string(), ip.header().destination_addr().to_string())
        }
        Some(LaxNetSlice::Ipv6(ip)) => (
            format!("[{}]", ip.header().source_addr()),
            format!("[{}]", ip.header().destination_addr()),
        ),
        _ => return "not IP".to_owned(),
    };
    match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let flags =
                [(tcp.syn(), "SYN"), (tcp.ack(), "ACK"), (tcp.fin(), "FIN"), (tcp.rst(), "RST")];
            let flags: Vec<&str> =
                flags.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| *name).collect();
            let flags = flags.join(",");
            format!("tcp {from}:{} -> {to}:{} {flags}", tcp.source_port(), tcp.destination_port())
        }
        Some(TransportSlice::Udp(udp)) => {
            format!("udp {from}:{} -> {to}:{}", udp.source_port(), udp.destination_port())
        }
        Some(TransportSlice::Icmpv4(_)) => format!("icmp {from} -> {to}"),
        Some(TransportSlice::Icmpv6(_)) => format!("icmpv6 {from} -> {to}"),
        _ => format!("{from} -> {to}"),
    }
}

/// A capture that is written.
struct Written {
    path: String,
    writer: PcapNgWriter<Box<dyn Write>>,
    /// Those that are described there, in order of their numbers.
    interfaces: BTreeMap<String, u32>,
    packets: u64,
}

impl Written {
    fn open(path: &Path) -> Result<Self, Failure> {
        let shown = path.display().to_string();
        let failed =
            |error: &dyn std::fmt::Display| Failure::failed(anyhow::anyhow!("{shown}: {error}"));
        let to: Box<dyn Write> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            Box::new(File::create(path).map_err(|error| failed(&error))?)
        };
        let writer = PcapNgWriter::new(to).map_err(|error| failed(&error))?;
        Ok(Self { path: shown, writer, interfaces: BTreeMap::new(), packets: 0 })
    }

    /// A packet as it came, and as it left where that is something else.
    fn write(&mut self, traced: &TracedPacket) -> Result<(), Failure> {
        let TracedPacket { hook, verdict, service, backend, .. } = traced;
        let mut comment = format!("verdict={verdict} hook={hook}");
        for (what, name) in [("service", service), ("backend", backend)] {
            if let Some(name) = name {
                comment.push_str(&format!(" {what}={name}"));
            }
        }
        let sides =
            [(&traced.hex, traced.length, "came"), (&traced.out_hex, traced.out_length, "left")];
        let is_same = traced.hex == traced.out_hex && traced.length == traced.out_length;
        for (hex, length, side) in sides.into_iter().take(if is_same { 1 } else { 2 }) {
            let comment = format!("{side}; {comment}");
            self.frame(traced, (hex, length), &comment)
                .map_err(|error| Failure::failed(anyhow::anyhow!("{}: {error}", self.path)))?;
        }
        self.packets += 1;
        Ok(())
    }

    fn frame(
        &mut self,
        traced: &TracedPacket,
        (hex, length): (&str, u32),
        comment: &str,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let data = packet(hex)?;
        let time = humantime::parse_rfc3339(&traced.time)?.duration_since(UNIX_EPOCH)?;
        let block = EnhancedPacketBlock {
            interface_id: self.interface(&traced.interface)?,
            timestamp: time,
            original_len: length,
            data: data.into(),
            options: vec![EnhancedPacketOption::Comment(comment.into())],
        };
        self.writer.write_pcapng_block(block)?;
        Ok(())
    }

    fn interface(&mut self, name: &str) -> Result<u32, pcap_file::PcapError> {
        if let Some(number) = self.interfaces.get(name) {
            return Ok(*number);
        }
        let number = self.interfaces.len() as u32;
        let options = vec![
            InterfaceDescriptionOption::IfName(name.to_owned().into()),
            // Nanoseconds.
            InterfaceDescriptionOption::IfTsResol(9),
        ];
        let linktype = DataLink::ETHERNET;
        let block = InterfaceDescriptionBlock { linktype, snaplen: 0, options };
        self.writer.write_pcapng_block(block)?;
        self.interfaces.insert(name.to_owned(), number);
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use etherparse::PacketBuilder;

    use super::*;

    fn frame(to: [u8; 4]) -> String {
        let builder = PacketBuilder::ethernet2([2; 6], [3; 6]).ipv4([192, 0, 2, 1], to, 64);
        let mut bytes = Vec::new();
        builder.tcp(4242, 80, 7, 100).syn().write(&mut bytes, &[]).unwrap();
        crate::status::explain::hex(&bytes)
    }

    fn traced() -> TracedPacket {
        TracedPacket {
            time: "2026-03-01T12:00:00.000250Z".to_owned(),
            interface: "eth0".to_owned(),
            hook: "ingress".to_owned(),
            verdict: "forwarded_request".to_owned(),
            service: Some("web".to_owned()),
            backend: Some("10.0.0.1:8080".to_owned()),
            length: 54,
            hex: frame([203, 0, 113, 10]),
            out_length: 54,
            out_hex: frame([10, 0, 0, 1]),
            skipped: 0,
        }
    }

    #[test]
    fn packet_is_a_line_with_what_it_was_and_what_it_became() {
        let line = "2026-03-01T12:00:00.000250Z eth0 ingress forwarded_request service=web backend=10.0.0.1:8080 \
            54 bytes tcp 192.0.2.1:4242 -> 203.0.113.10:80 SYN => tcp 192.0.2.1:4242 -> 10.0.0.1:80 SYN";
        assert_eq!(shown(&traced()), line);
        let same = TracedPacket { out_hex: frame([203, 0, 113, 10]), backend: None, ..traced() };
        assert!(
            shown(&same)
                .ends_with("service=web 54 bytes tcp 192.0.2.1:4242 -> 203.0.113.10:80 SYN")
        );
        assert_eq!(ends("0000"), "no frame");
    }

    #[test]
    fn capture_has_packets_before_and_after_with_comments_and_a_readable_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pcapng");
        let mut file = Written::open(&path).unwrap();
        file.write(&traced()).unwrap();
        file.write(&TracedPacket { out_hex: frame([203, 0, 113, 10]), ..traced() }).unwrap();
        drop(file);
        let mut reader = pcap_file::pcapng::PcapNgReader::new(File::open(&path).unwrap()).unwrap();
        let mut told = Vec::new();
        while let Some(block) = reader.next_block() {
            if let pcap_file::pcapng::Block::EnhancedPacket(packet) = block.unwrap() {
                let EnhancedPacketOption::Comment(comment) = &packet.options[0] else {
                    panic!("{packet:?}")
                };
                told.push((comment.to_string(), packet.timestamp, packet.data.len()));
            }
        }
        let after = "verdict=forwarded_request hook=ingress service=web backend=10.0.0.1:8080";
        let time = Duration::from_secs(1_772_366_400) + Duration::from_micros(250);
        assert_eq!(
            told,
            ["came", "left", "came"].map(|side| (format!("{side}; {after}"), time, 54))
        );
    }
}
