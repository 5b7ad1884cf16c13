//! The packet table: single packets through the real programs, at both hooks, byte for byte.
//!
//! Expected packets are built from scratch by another library, checksums and all.

#[path = "packets/bench.rs"]
#[expect(dead_code, reason = "the table of flows uses the rest")]
mod bench;

use std::fmt::Write as _;

use bench::{Bench, Ends, Packet, Transport, families};
use equipoise::dataplane::DataPlane as _;
use equipoise_common::step::What;
use equipoise_common::verdict::{Hook, Kind, Verdict};
use etherparse::PacketBuilder;

const XDP_PASS: i32 = 2;
const XDP_REDIRECT: i32 = 4;
const TC_UNSPEC: i32 = -1;
const TC_REDIRECT: i32 = 7;

const HOOKS: [Hook; 2] = [Hook::Xdp, Hook::Ingress];

fn pass(hook: Hook) -> i32 {
    if hook == Hook::Xdp { XDP_PASS } else { TC_UNSPEC }
}

fn redirect(hook: Hook) -> i32 {
    if hook == Hook::Xdp { XDP_REDIRECT } else { TC_REDIRECT }
}

fn packet(from: std::net::SocketAddr, to: std::net::SocketAddr, transport: Transport) -> Packet {
    Packet::between([from, to], transport)
}

/// Sends a request, and checks that it leaves for the backend byte for byte.
fn request_reaches_backend(bench: &Bench, hook: Hook, ends: Ends, transport: Transport) {
    let frame = packet(ends.client, ends.vip, transport).build(bench.client_link());
    let expected =
        packet(ends.client, ends.backend, transport).hops(63).build(bench.sent(hook, bench.back));
    let (verdict, output) = bench.verdict(hook, bench.front, &frame);
    assert_eq!(
        (verdict, output.action),
        (Verdict::ForwardedRequest, redirect(hook)),
        "{hook:?} {ends:?} {transport:?}"
    );
    assert_eq!(output.frame, expected, "{hook:?} {ends:?} {transport:?}");
}

/// Sends the backend's answer, and checks that it leaves for the client byte for byte.
fn reply_reaches_client(bench: &Bench, hook: Hook, ends: Ends, transport: Transport) {
    let frame = packet(ends.backend, ends.client, transport).build(bench.backend_link());
    let expected =
        packet(ends.vip, ends.client, transport).hops(63).build(bench.sent(hook, bench.front));
    let (verdict, output) = bench.verdict(hook, bench.back, &frame);
    assert_eq!(
        (verdict, output.action),
        (Verdict::ForwardedReply, redirect(hook)),
        "{hook:?} {ends:?} {transport:?}"
    );
    assert_eq!(output.frame, expected, "{hook:?} {ends:?} {transport:?}");
}

#[test]
fn tcp_and_udp_go_to_the_backend_and_come_back_from_the_vip() {
    let bench = Bench::new();
    for (number, hook) in HOOKS.into_iter().enumerate() {
        for ends in families(4000 + number as u16) {
            request_reaches_backend(&bench, hook, ends, Transport::Syn);
            reply_reaches_client(&bench, hook, ends, Transport::SynAck);
            for _ in 0..3 {
                request_reaches_backend(&bench, hook, ends, Transport::Ack);
                reply_reaches_client(&bench, hook, ends, Transport::Ack);
            }
            request_reaches_backend(&bench, hook, ends, Transport::Fin);
            reply_reaches_client(&bench, hook, ends, Transport::Fin);
            request_reaches_backend(&bench, hook, ends, Transport::Udp);
            reply_reaches_client(&bench, hook, ends, Transport::Udp);
        }
    }
    // Two families, two protocols, two hooks: one flow each.
    assert_eq!(bench.flows(), 8);
}

#[test]
fn ipv4_headers_of_any_length_are_translated() {
    let bench = Bench::new();
    for hook in HOOKS {
        for words in 0..=10 {
            let [ends, _] = families(4100 + words);
            for transport in [Transport::Syn, Transport::Udp] {
                let options = usize::from(words) * 4;
                let frame = packet(ends.client, ends.vip, transport)
                    .options(options)
                    .build(bench.client_link());
                let expected =
                    packet(ends.client, ends.backend, transport).options(options).hops(63);
                let (verdict, output) = bench.verdict(hook, bench.front, &frame);
                assert_eq!(verdict, Verdict::ForwardedRequest, "{hook:?} {options} bytes");
                assert_eq!(
                    output.frame,
                    expected.build(bench.sent(hook, bench.back)),
                    "{hook:?} {options} bytes"
                );
            }
        }
    }
}

/// Everything that passes must leave as it came, with the action that lets it go on.
fn passes_untouched(bench: &Bench, hook: Hook, frame: &[u8], expected: Verdict) {
    let (verdict, output) = bench.verdict(hook, bench.front, frame);
    assert_eq!((verdict, output.action), (expected, pass(hook)), "{hook:?} {frame:02x?}");
    assert_eq!(verdict.kind(), Kind::Pass);
    assert_eq!(output.frame, frame, "{hook:?}");
}

/// More than the part of a frame that an XDP program can touch.
#[test]
fn a_frame_in_pieces_is_forwarded_like_any_and_one_that_ends_too_early_is_not() {
    const LARGE: &[u8] = &[7; 5_000];
    let bench = Bench::new();
    bench.netns.ip("link set front mtu 9000\nlink set back mtu 9000").unwrap();
    for ends in families(4150) {
        request_reaches_backend(&bench, Hook::Xdp, ends, Transport::Syn);
        let large = |to| Packet { payload: LARGE, ..packet(ends.client, to, Transport::Ack) };
        let frame = large(ends.vip).build(bench.client_link());
        let (verdict, output) = bench.verdict(Hook::Xdp, bench.front, &frame);
        assert_eq!((verdict, output.action), (Verdict::ForwardedRequest, redirect(Hook::Xdp)));
        let sent = large(ends.backend).hops(63).build(bench.sent(Hook::Xdp, bench.back));
        assert!(output.frame == sent, "{ends:?}");
        let (verdict, _) = bench.verdict(Hook::Xdp, bench.front, &frame[..frame.len() - 1]);
        assert_eq!(verdict, Verdict::Malformed);
    }
}

#[test]
fn packets_cut_short_at_any_byte_pass_untouched() {
    let bench = Bench::new();
    for hook in HOOKS {
        for ends in families(4200) {
            for (transport, header) in [(Transport::Syn, 20), (Transport::Udp, 8)] {
                let whole = packet(ends.client, ends.vip, transport).build(bench.client_link());
                let network = if ends.client.is_ipv4() { 20 } else { 40 };
                let headers = 14 + network + header;
                // The kernel refuses test runs on less than an Ethernet header; at TC also on less
                // than an IP header.
                let least = if hook == Hook::Xdp { 14 } else { 14 + network };
                for length in least..headers {
                    passes_untouched(&bench, hook, &whole[..length], Verdict::Malformed);
                }
                // The IP header promises more than there is.
                passes_untouched(&bench, hook, &whole[..whole.len() - 1], Verdict::Malformed);
            }
        }
    }
    assert_eq!(bench.flows(), 0);
}

#[test]
fn headers_that_contradict_themselves_pass_untouched() {
    let bench = Bench::new();
    let [v4, v6] = families(4300);
    let tcp = packet(v4.client, v4.vip, Transport::Syn).build(bench.client_link());
    let udp = packet(v4.client, v4.vip, Transport::Udp).build(bench.client_link());
    let tcp6 = packet(v6.client, v6.vip, Transport::Syn).build(bench.client_link());
    let changed = |frame: &[u8], at: usize, bytes: &[u8]| {
        let mut frame = frame.to_vec();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    for hook in HOOKS {
        let malformed = [
            changed(&tcp, 14, &[0x44]),                // IPv4 header of 16 bytes
            changed(&tcp, 14, &[0x65]),                // version 6 in an IPv4 frame
            changed(&tcp, 16, &[0, 19]),               // shorter than its own header
            changed(&tcp, 16, &[0xff, 0xff]),          // longer than the frame
            changed(&tcp, 14 + 20 + 12, &[0x40]),      // TCP header of 16 bytes
            changed(&tcp, 14 + 20 + 12, &[0xf0]),      // TCP header longer than the packet
            changed(&udp, 14 + 20 + 4, &[0, 7]),       // UDP shorter than its header
            changed(&udp, 14 + 20 + 4, &[0xff, 0xff]), // UDP longer than the packet
            changed(&tcp6, 14, &[0x45]),               // version 4 in an IPv6 frame
            changed(&tcp6, 14 + 4, &[0xff, 0xff]),     // longer than the frame
            changed(&tcp6, 14 + 4, &[0, 10]),          // ends inside the TCP header
        ];
        for frame in malformed {
            passes_untouched(&bench, hook, &frame, Verdict::Malformed);
        }
    }
    assert_eq!(bench.flows(), 0);
}

#[test]
fn what_is_for_no_service_passes_untouched() {
    let bench = Bench::new();
    let client = "198.51.100.7:4400";
    for hook in HOOKS {
        let others = [
            Packet::new(client, "203.0.113.10:81", Transport::Syn), // another port of a VIP
            Packet::new(client, "198.51.100.1:80", Transport::Syn), // another address of this host
            Packet::new(client, "192.0.2.80:80", Transport::Syn),   // in transit, to the same port
            Packet::new(client, "10.0.0.11:8080", Transport::Syn),  // to a backend itself
            Packet::new("10.0.0.11:8080", "203.0.113.10:5", Transport::Ack),
            Packet::new("[2001:db8:c::7]:4400", "[2001:db8:f::10]:81", Transport::Syn),
            Packet::new("[2001:db8:c::7]:4400", "[2001:db8:f::11]:80", Transport::Udp),
        ];
        for other in others {
            passes_untouched(&bench, hook, &other.build(bench.client_link()), Verdict::NoService);
        }
        // A VIP is served on its interfaces alone.
        let frame = Packet::new(client, bench::VIP, Transport::Syn).build(bench.backend_link());
        assert_eq!(bench.verdict(hook, bench.back, &frame).0, Verdict::NoService);

        let mut ping = Vec::new();
        let builder: etherparse::PacketBuilderStep<_> =
            bench.client_link().ipv4([198, 51, 100, 7], [203, 0, 113, 10], 64);
        builder.icmpv4_echo_request(1, 1).write(&mut ping, &[]).unwrap();
        passes_untouched(&bench, hook, &ping, Verdict::NotTcpUdp);

        let mut arp = Vec::new();
        bench
            .client_link()
            .arp(
                etherparse::ArpPacket::new(
                    etherparse::ArpHardwareId::ETHERNET,
                    etherparse::EtherType::IPV4,
                    etherparse::ArpOperation::REQUEST,
                    &bench::FAR,
                    &[198, 51, 100, 7],
                    &[0; 6],
                    &[203, 0, 113, 10],
                )
                .unwrap(),
            )
            .write(&mut arp)
            .unwrap();
        passes_untouched(&bench, hook, &arp, Verdict::NotIp);
    }
    assert_eq!(bench.flows(), 0);
}

#[test]
fn frames_for_another_machine_pass_at_tc() {
    let bench = Bench::new();
    let [ends, _] = families(4450);
    let frame = packet(ends.client, ends.vip, Transport::Syn)
        .build(PacketBuilder::ethernet2(bench::FAR, [2, 0, 0, 0, 0, 99]));
    passes_untouched(&bench, Hook::Ingress, &frame, Verdict::OtherHost);
}

#[test]
fn a_client_port_used_through_two_vips_is_two_names_at_the_backend() {
    let bench = Bench::new();
    for (number, hook) in HOOKS.into_iter().enumerate() {
        let client = format!("198.51.100.7:{}", 4500 + number);
        for transport in [Transport::Syn, Transport::Udp] {
            let run = |to: &str| {
                let frame = Packet::new(&client, to, transport).build(bench.client_link());
                let (verdict, output) = bench.verdict(hook, bench.front, &frame);
                assert_eq!(verdict, Verdict::ForwardedRequest);
                u16::from_be_bytes([output.frame[34], output.frame[35]])
            };
            let own = 4500 + number as u16;
            assert_eq!(run("203.0.113.10:80"), own);
            let other = run("203.0.113.11:80");
            assert_ne!(other, own);
            assert!(other >= 1024);
            // Both stay as they are.
            assert_eq!((run("203.0.113.10:80"), run("203.0.113.11:80")), (own, other));
            for (vip, port) in [("203.0.113.10:80", own), ("203.0.113.11:80", other)] {
                let answer =
                    if transport == Transport::Udp { Transport::Udp } else { Transport::SynAck };
                let frame = Packet::new("10.0.0.11:8080", &format!("198.51.100.7:{port}"), answer);
                let expected =
                    Packet::new(vip, &client, answer).hops(63).build(bench.sent(hook, bench.front));
                let (verdict, output) =
                    bench.verdict(hook, bench.back, &frame.build(bench.backend_link()));
                assert_eq!(verdict, Verdict::ForwardedReply);
                assert_eq!(output.frame, expected);
            }
        }
    }
    let changed: u64 = bench
        .kernel
        .service_traffic(&[0, 1, 2, 3, 4, 5])
        .unwrap()
        .values()
        .map(|t| t.ports_changed)
        .sum();
    assert_eq!(changed, 4);
}

#[test]
fn udp_without_a_checksum_stays_without() {
    let bench = Bench::new();
    for hook in HOOKS {
        let [ends, _] = families(4600);
        let mut frame = packet(ends.client, ends.vip, Transport::Udp).build(bench.client_link());
        frame[40..42].fill(0);
        let mut expected = packet(ends.client, ends.backend, Transport::Udp)
            .hops(63)
            .build(bench.sent(hook, bench.back));
        expected[40..42].fill(0);
        assert_eq!(bench.run(hook, bench.front, &frame).frame, expected);
    }
}

#[test]
fn a_udp_checksum_that_comes_to_zero_is_sent_as_ones() {
    let bench = Bench::new();
    for hook in HOOKS {
        for ends in families(4700) {
            // The last two bytes of the payload make up for whatever the rest comes to.
            let build = |to, filler: [u8; 2]| {
                let link =
                    if to == ends.vip { bench.client_link() } else { bench.sent(hook, bench.back) };
                let hops = if to == ends.vip { 64 } else { 63 };
                let mut frame = packet(ends.client, to, Transport::Udp).hops(hops).build(link);
                let end = frame.len();
                let at = if ends.client.is_ipv4() { 40 } else { 60 };
                let old = u16::from_be_bytes([frame[end - 2], frame[end - 1]]);
                frame[end - 2..].copy_from_slice(&filler);
                let sum = u32::from(!u16::from_be_bytes([frame[at], frame[at + 1]]));
                let sum = sum + u32::from(!old) + u32::from(u16::from_be_bytes(filler));
                let sum = (sum & 0xffff) + (sum >> 16);
                let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
                let sent = if sum == 0 { 0xffff } else { sum };
                frame[at..at + 2].copy_from_slice(&sent.to_be_bytes());
                (frame, sum)
            };
            let filler = (0..=u16::MAX)
                .map(u16::to_be_bytes)
                .find(|&f| build(ends.backend, f).1 == 0)
                .unwrap();
            let (frame, _) = build(ends.vip, filler);
            let (expected, sum) = build(ends.backend, filler);
            assert_eq!(sum, 0);
            assert_eq!(bench.run(hook, bench.front, &frame).frame, expected, "{hook:?} {ends:?}");
        }
    }
}

#[test]
fn a_request_without_neighbour_is_left_to_tc() {
    let bench = Bench::new();
    let frame = Packet::new("198.51.100.7:4800", "203.0.113.12:80", Transport::Syn);
    let (verdict, output) =
        bench.verdict(Hook::Xdp, bench.front, &frame.build(bench.client_link()));
    assert_eq!((verdict, output.action), (Verdict::RequestNoNeighbour, XDP_PASS));
    assert_eq!(output.frame, frame.build(bench.client_link()));
    // At TC the kernel asks for the neighbour while it sends.
    let (verdict, output) =
        bench.verdict(Hook::Ingress, bench.front, &frame.build(bench.client_link()));
    assert_eq!((verdict, output.action), (Verdict::ForwardedRequest, TC_REDIRECT));
}

#[test]
fn a_reply_without_neighbour_is_left_as_it_came_and_rewritten_on_its_way_out() {
    let bench = Bench::new();
    for ends in families(4900) {
        request_reaches_backend(&bench, Hook::Xdp, ends, Transport::Syn);
        bench.netns.ip(&format!("neigh del {} dev front", ends.client.ip())).unwrap();
        let frame =
            packet(ends.backend, ends.client, Transport::SynAck).build(bench.backend_link());
        let (verdict, output) = bench.verdict(Hook::Xdp, bench.back, &frame);
        assert_eq!((verdict, output.action), (Verdict::ReplyNoNeighbour, XDP_PASS));
        assert_eq!(output.frame, frame);
        let (verdict, output) = bench.verdict(Hook::Egress, bench.front, &frame);
        let expected = packet(ends.vip, ends.client, Transport::SynAck).build(bench.backend_link());
        assert_eq!((verdict, output.action), (Verdict::RewrittenReply, TC_UNSPEC));
        assert_eq!(output.frame, expected);
    }
}

#[test]
fn a_device_that_takes_no_redirects_is_left_to_tc() {
    let mut bench = Bench::new();
    let (front, back) = (bench.front, bench.back);
    for ends in families(5000) {
        bench.kernel.allow_redirect(back, false).unwrap();
        let frame = packet(ends.client, ends.vip, Transport::Syn).build(bench.client_link());
        let (verdict, output) = bench.verdict(Hook::Xdp, front, &frame);
        assert_eq!((verdict, output.action), (Verdict::RequestNoRedirect, XDP_PASS));
        assert_eq!(output.frame, frame);
        bench.kernel.allow_redirect(back, true).unwrap();
        request_reaches_backend(&bench, Hook::Xdp, ends, Transport::Ack);
        bench.kernel.allow_redirect(front, false).unwrap();
        let frame =
            packet(ends.backend, ends.client, Transport::SynAck).build(bench.backend_link());
        let (verdict, output) = bench.verdict(Hook::Xdp, back, &frame);
        assert_eq!(
            (verdict, output.action, output.frame),
            (Verdict::ReplyNoRedirect, XDP_PASS, frame)
        );
        bench.kernel.allow_redirect(front, true).unwrap();
    }
}

#[test]
fn a_backend_on_this_host_gets_its_packets_from_the_stack() {
    let bench = Bench::new();
    for hook in HOOKS {
        let frame = Packet::new("198.51.100.7:5200", "203.0.113.13:80", Transport::Syn)
            .build(bench.client_link());
        let to = if hook == Hook::Xdp { "203.0.113.13:80" } else { "10.0.0.1:8080" };
        let expected =
            Packet::new("198.51.100.7:5200", to, Transport::Syn).build(bench.client_link());
        let (verdict, output) = bench.verdict(hook, bench.front, &frame);
        assert_eq!(
            (verdict, output.action, output.frame),
            (Verdict::RequestToLocalBackend, pass(hook), expected)
        );
    }
    let frame = Packet::new("10.0.0.1:8080", "198.51.100.7:5200", Transport::SynAck)
        .build(bench.client_link());
    let expected = Packet::new("203.0.113.13:80", "198.51.100.7:5200", Transport::SynAck)
        .build(bench.client_link());
    let (verdict, output) = bench.verdict(Hook::Egress, bench.front, &frame);
    assert_eq!((verdict, output.frame), (Verdict::RewrittenReply, expected));
}

#[test]
fn requests_on_their_way_out_are_none_of_egress() {
    let bench = Bench::new();
    for ends in families(5400) {
        request_reaches_backend(&bench, Hook::Xdp, ends, Transport::Syn);
        let frame = packet(ends.client, ends.vip, Transport::Ack).build(bench.client_link());
        let (verdict, output) = bench.verdict(Hook::Egress, bench.front, &frame);
        assert_eq!((verdict, output.action, output.frame), (Verdict::Outgoing, TC_UNSPEC, frame));
    }
}

#[test]
fn services_and_backends_count_every_packet_and_byte() {
    let bench = Bench::new();
    const PACKETS: u64 = 7;
    let mut bytes = 0;
    for (number, hook) in HOOKS.into_iter().enumerate() {
        let [ends, _] = families(5600 + number as u16);
        for _ in 0..PACKETS {
            request_reaches_backend(&bench, hook, ends, Transport::Udp);
            reply_reaches_client(&bench, hook, ends, Transport::Udp);
            bytes += 20 + 8 + bench::PAYLOAD.len() as u64;
        }
    }
    let all = [0, 1, 2, 3, 4, 5];
    for traffic in
        [bench.kernel.service_traffic(&all).unwrap(), bench.kernel.backend_traffic(&all).unwrap()]
    {
        let counted: Vec<_> = traffic.values().filter(|t| t.packets_in > 0).collect();
        let [one] = counted[..] else {
            panic!("one service and one backend have traffic: {counted:?}")
        };
        assert_eq!((one.new_flows, one.packets_in, one.packets_out), (2, 2 * PACKETS, 2 * PACKETS));
        assert_eq!((one.bytes_in, one.bytes_out), (bytes, bytes));
    }
}

#[test]
fn a_pool_of_4096_backends_uses_them_all_evenly() {
    const BACKENDS: u16 = 4096;
    const FLOWS: u16 = 40_960;
    let mut config = String::from(
        "[[service]]\nname = \"many\"\n\
         listen = { interfaces = [\"front\"], address = \"203.0.113.10\", port = 80 }\nbackends = [\n",
    );
    for number in 0..BACKENDS {
        let [high, low] = number.to_be_bytes();
        writeln!(config, "  {{ address = \"10.1.{high}.{low}:8080\" }},").unwrap();
    }
    let bench = Bench::of(&(config + "]\n"));
    for port in 0..FLOWS {
        let frame = Packet::new(&format!("198.51.100.7:{}", port + 1), bench::VIP, Transport::Syn);
        bench.run(Hook::Xdp, bench.front, &frame.build(bench.client_link()));
    }
    let ids: Vec<u32> = (0..u32::from(BACKENDS)).collect();
    let counts: Vec<u64> =
        bench.kernel.backend_traffic(&ids).unwrap().values().map(|t| t.new_flows).collect();
    assert_eq!(counts.iter().sum::<u64>(), u64::from(FLOWS));
    // Ten flows each on average; by chance fewer than one backend in ten thousand gets none.
    let idle = counts.iter().filter(|&&count| count == 0).count();
    assert!(idle <= 4, "{idle} backends got nothing");
    assert!(*counts.iter().max().unwrap() < 40, "{counts:?}");
}

#[test]
fn a_dry_run_decides_alike_tells_its_steps_and_changes_nothing() {
    let bench = Bench::new();
    let mut twin = bench.netns.run(|| bench.kernel.twin()).unwrap();
    let mut explain = |hook, frame: &[u8]| {
        let input =
            equipoise::dataplane::kernel::Input { frame, interface: bench.front, repeat: 1 };
        let (output, steps) = bench.netns.run(|| twin.explain(hook, input)).unwrap();
        let names: Vec<_> =
            steps.iter().map(|s| What::from_number(s.what).unwrap().name()).collect();
        (output, steps, names)
    };
    for (number, hook) in HOOKS.into_iter().enumerate() {
        for ends in families(5700 + number as u16) {
            let frame = packet(ends.client, ends.vip, Transport::Syn).build(bench.client_link());
            let flows = bench.flows();
            let counted = bench.kernel.verdicts().unwrap();
            let (dry, steps, names) = explain(hook, &frame);
            assert_eq!(bench.flows(), flows);
            assert_eq!(bench.kernel.verdicts().unwrap(), counted);
            let told = ["parsed", "flow_miss", "service", "slot", "route", "rewritten", "verdict"];
            assert_eq!(names, told, "{hook:?} {ends:?}");
            assert_eq!(steps.last().unwrap().first, Verdict::ForwardedRequest as u32);

            let wet = bench.run(hook, bench.front, &frame);
            assert_eq!((dry.action, dry.frame), (wet.action, wet.frame));
            let (_, _, names) = explain(hook, &frame);
            assert_eq!(names, ["parsed", "flow_hit", "route", "rewritten", "verdict"]);
        }
    }
}
