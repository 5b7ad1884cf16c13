//! `equipoise explain`: what becomes of a packet, by the programs themselves.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::Path;

use equipoise_common::verdict::Verdict;
use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::{Block, PcapNgReader};

use super::args::{Explain, Global};
use super::{Exit, Failure, print, print_json, table};
use crate::status::explain::{Addresses, Becomes, ExplainAnswer, ExplainRequest, hex, packet};

/// Packets of a capture that are explained at most: what follows is a matter for a smaller capture.
const PACKETS: usize = 1_000;

pub(super) async fn explain(global: &Global, asked: &Explain) -> Result<(), Failure> {
    let interface = asked.interface.clone();
    let sni = asked.sni.clone();
    let request = ExplainRequest { interface, sni, ..ExplainRequest::default() };
    if let Some(file) = &asked.pcap {
        return capture(global, file, &request).await;
    }
    let request = match (&asked.hex, &asked.protocol, asked.source, asked.destination) {
        (Some(hex), ..) => {
            packet(hex).map_err(|e| Failure::new(Exit::Usage, format!("--hex: {e}")))?;
            ExplainRequest { hex: Some(hex.clone()), ..request }
        }
        (None, Some(protocol), Some(source), Some(destination)) => {
            let packet = Addresses { protocol: protocol.clone(), source, destination };
            ExplainRequest { packet: Some(packet), ..request }
        }
        _ => {
            let usage =
                "a packet is `tcp` or `udp` with a source and a destination, --hex, or --pcap";
            return Err(Failure::new(Exit::Usage, usage));
        }
    };
    let answer = global.client().explain(&request).await?;
    if global.json {
        return print_json(&answer);
    }
    print(&shown(&answer))
}

async fn capture(global: &Global, file: &Path, request: &ExplainRequest) -> Result<(), Failure> {
    let frames = frames(file)
        .map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", file.display())))?;
    let mut answers = Vec::new();
    for frame in frames.iter().take(PACKETS) {
        let request = ExplainRequest { hex: Some(hex(frame)), ..request.clone() };
        let answer = global.client().explain(&request).await?;
        if global.json {
            answers.push(answer);
        } else {
            print(&format!("packet {}\n{}\n", answers.len() + 1, shown(&answer)))?;
            answers.push(answer);
        }
    }
    if frames.len() > PACKETS {
        eprintln!("{} packets more are not explained", frames.len() - PACKETS);
    }
    if global.json { print_json(&answers) } else { Ok(()) }
}

/// The frames of a capture.
fn frames(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    const NANOSECONDS_OR_NOT: [[u8; 4]; 4] = [
        [0xa1, 0xb2, 0xc3, 0xd4],
        [0xd4, 0xc3, 0xb2, 0xa1],
        [0xa1, 0xb2, 0x3c, 0x4d],
        [0x4d, 0x3c, 0xb2, 0xa1],
    ];
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let mut file = File::open(path).map_err(|e| said(&e))?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic).map_err(|e| said(&e))?;
    file.rewind().map_err(|e| said(&e))?;
    let mut frames = Vec::new();
    let ethernet = |link: DataLink| match link {
        DataLink::ETHERNET => Ok(()),
        other => Err(format!("it is of {other:?}, and only Ethernet frames are explained")),
    };
    if NANOSECONDS_OR_NOT.contains(&magic) {
        let mut reader = PcapReader::new(file).map_err(|e| said(&e))?;
        ethernet(reader.header().datalink)?;
        while let Some(packet) = reader.next_packet() {
            frames.push(packet.map_err(|e| said(&e))?.data.into_owned());
        }
        return Ok(frames);
    }
    let mut reader = PcapNgReader::new(file).map_err(|e| said(&e))?;
    while let Some(block) = reader.next_block() {
        match block.map_err(|e| said(&e))? {
            Block::InterfaceDescription(interface) => ethernet(interface.linktype)?,
            Block::EnhancedPacket(packet) => frames.push(packet.data.into_owned()),
            Block::SimplePacket(packet) => frames.push(packet.data.into_owned()),
            _ => {}
        }
    }
    Ok(frames)
}

fn shown(answer: &ExplainAnswer) -> String {
    let verdict = Verdict::ALL.iter().find(|verdict| verdict.name() == answer.reason);
    let meaning = verdict.map_or("", |verdict| verdict.meaning());
    let ExplainAnswer { action, reason, hook, interface, .. } = answer;
    let mut text = format!("{action}: {reason}, by {hook} of {interface}\n{}\n\n", meaning.trim());
    for (number, step) in answer.steps.iter().enumerate() {
        let elsewhere = if step.hook == *hook { "" } else { " (then, at TC ingress)" };
        line(&mut text, &format!("{:3}. {}{elsewhere}", number + 1, step.text));
    }
    line(&mut text, "");
    let of = |name: &Option<String>| name.clone().unwrap_or_else(|| "none".to_owned());
    if let Some(service) = &answer.service {
        let (route, backend) = (of(&answer.route), of(&answer.backend));
        line(&mut text, &format!("service {service}, route {route}, backend {backend}"));
    }
    for other in &answer.why_not {
        line(&mut text, &format!("  not {}: {}", other.backend, other.reason));
    }
    let rewrite = &answer.rewrite;
    for (what, becomes) in [
        ("source", &rewrite.source),
        ("destination", &rewrite.destination),
        ("hop limit", &rewrite.hop_limit),
    ] {
        if let Some(Becomes { from, to }) = becomes {
            line(&mut text, &format!("{what} {from} becomes {to}"));
        }
    }
    if let Some(Becomes { from, to }) = &rewrite.outer {
        line(&mut text, &format!("inside a packet from {from} to {to}"));
    }
    if let Some(out) = &answer.out {
        let next = out.next_hop.map(|hop| format!(", next hop {hop}")).unwrap_or_default();
        let size = answer.mtu.map(|mtu| format!(", {} of {} bytes", mtu.packet, mtu.link));
        line(&mut text, &format!("leaves by {}{next}{}", out.interface, size.unwrap_or_default()));
    }
    let mut hooks = table(&["HOOK", "ACTION", "REASON"]);
    for answer in &answer.hooks {
        let action = answer.action.clone().unwrap_or_else(|| "-".to_owned());
        let why = answer.reason.clone().or_else(|| answer.error.clone());
        hooks.add_row([answer.hook.clone(), action, why.unwrap_or_default()]);
    }
    line(&mut text, &format!("leaves as {}\n\n{hooks}", answer.out_hex));
    text
}

fn line(text: &mut String, line: &str) {
    // Writing to a text cannot fail.
    let _: std::fmt::Result = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::time::Duration;

    use pcap_file::pcap::{PcapPacket, PcapWriter};
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
    use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;

    use super::*;

    #[test]
    fn frames_are_read_from_captures_of_either_form() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (directory.path().join("a.pcap"), directory.path().join("a.pcapng"));
        let mut writer = PcapWriter::new(File::create(&old).unwrap()).unwrap();
        writer.write_packet(&PcapPacket::new(Duration::ZERO, 3, &[1, 2, 3])).unwrap();
        drop(writer);
        let mut writer = PcapNgWriter::new(File::create(&new).unwrap()).unwrap();
        let interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
        writer.write_pcapng_block(interface).unwrap();
        let packet = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::ZERO,
            original_len: 3,
            data: Cow::Borrowed(&[1, 2, 3]),
            options: Vec::new(),
        };
        writer.write_pcapng_block(packet).unwrap();
        drop(writer);
        for file in [old, new] {
            assert_eq!(frames(&file), Ok(vec![vec![1, 2, 3]]), "{}", file.display());
        }
    }

    #[test]
    fn what_is_no_capture_of_frames_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        std::fs::write(&file, "[[service]] and more").unwrap();
        assert!(frames(&file).is_err());
        assert!(frames(&directory.path().join("none")).is_err());
    }
}
