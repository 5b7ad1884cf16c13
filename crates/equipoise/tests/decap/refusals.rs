//! What is not taken out: it goes on untouched, and has the name of the reason.

use equipoise_common::decap::Verdict;
use equipoise_common::verdict::Hook;

use crate::bench::{BALANCER, BALANCER6, Bench, CLIENT, CLIENT6, FAR, OWN, OWN6, VIP, VIP6};
use crate::packets::each;
use crate::wire::{Around, How, IN_IPV4, IN_IPV6, Inner, UDP, datagram, frame};
use crate::{INCOMING, pass};

/// Runs a frame that must go on as it came.
fn goes_on(bench: &Bench, hook: Hook, came: &[u8], expected: Verdict) {
    let (counted, output) = bench.verdict(hook, came);
    assert_eq!((counted, output.action), (expected, pass(hook)), "{hook:?} {came:02x?}");
    assert_eq!(output.frame, came, "{hook:?}");
}

/// The same of an IP packet that comes to the backend, at each hook.
fn packet_goes_on(bench: &Bench, packet: &[u8], expected: Verdict) {
    for hook in INCOMING {
        goes_on(bench, hook, &frame([bench.link, FAR], &[], packet), expected);
    }
}

fn changed(packet: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    packet
}

const OUTERS: [(&str, &str); 2] = [(BALANCER, OWN), (BALANCER6, OWN6)];

#[test]
fn what_holds_no_other_packet_goes_on() {
    let bench = Bench::new();
    for (from, to) in [(CLIENT, VIP), (CLIENT6, VIP6), (CLIENT, "10.0.0.11:80")] {
        for is_tcp in [false, true] {
            let packet = Inner { is_tcp, ..Inner::new(from, to) }.build();
            packet_goes_on(&bench, &packet, Verdict::NotEncapsulated);
        }
    }
    let inner = Inner::new(CLIENT, VIP).build();
    for (source, destination) in OUTERS {
        let around = Around::new(How::Gue, source, destination);
        let packet = around.header(UDP, &datagram(6081, &inner));
        packet_goes_on(&bench, &packet, Verdict::NotEncapsulated);
        // GRE.
        packet_goes_on(&bench, &around.header(47, &inner), Verdict::NotEncapsulated);
    }
    let mut arp = frame([[0xff; 6], FAR], &[], &[0x45; 46]);
    arp[12..14].copy_from_slice(&[8, 6]);
    for hook in INCOMING {
        goes_on(&bench, hook, &arp, Verdict::NotIp);
    }
}

#[test]
fn what_is_for_another_address_or_machine_goes_on() {
    let bench = Bench::new();
    for (around, inner) in each() {
        let packet = inner.build();
        let other = if around.source.is_ipv4() { "10.0.0.12" } else { "2001:db8:b::12" };
        let elsewhere = Around { destination: other.parse().unwrap(), ..around };
        packet_goes_on(&bench, &elsewhere.put(&packet), Verdict::NotOurs);
        for hook in INCOMING {
            for link in [[2, 0, 0, 0, 0, 99], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
                let came = frame([link, FAR], &[], &around.put(&packet));
                goes_on(&bench, hook, &came, Verdict::OtherHost);
            }
        }
    }
    // An address of this host's, but not as that family's; and one in an address of IPv6.
    let around = Around::new(How::Ipip, BALANCER6, "::ffff:10.0.0.11");
    packet_goes_on(&bench, &around.put(&Inner::new(CLIENT, VIP).build()), Verdict::NotOurs);
    let around = Around::new(How::Ipip, BALANCER6, "a00:b::");
    packet_goes_on(&bench, &around.put(&Inner::new(CLIENT, VIP).build()), Verdict::NotOurs);
}

#[test]
fn only_whoever_is_named_may_send() {
    let bench = Bench::from(&["198.18.0.0/15", "10.0.0.1/32", "100::/64"]);
    let taken = ["198.18.0.0", "198.19.255.255", "10.0.0.1", "100::", "100::ffff:ffff:ffff:ffff"];
    let refused = ["198.17.255.255", "198.20.0.0", "10.0.0.2", "100:0:0:1::", "::1", "c612::"];
    for how in How::ALL {
        for inner in [Inner::new(CLIENT, VIP), Inner::new(CLIENT6, VIP6)] {
            let around = |source: &str| {
                Around::new(how, source, if source.contains(':') { OWN6 } else { OWN })
            };
            for source in refused {
                packet_goes_on(&bench, &around(source).put(&inner.build()), Verdict::Stranger);
            }
            for source in taken {
                let came = frame([bench.link, FAR], &[], &around(source).put(&inner.build()));
                for hook in INCOMING {
                    let (counted, _) = bench.verdict(hook, &came);
                    assert_eq!(counted.name(), how.name(), "{source}");
                }
            }
        }
    }
}

#[test]
fn what_is_for_no_vip_goes_on() {
    let bench = Bench::new();
    for how in How::ALL {
        for (source, destination) in OUTERS {
            let around = Around::new(how, source, destination);
            let inner = [
                Inner::new(CLIENT, "203.0.113.11:80"),
                Inner::new(CLIENT, "10.0.0.11:80"),
                Inner::new(CLIENT6, "[2001:db8:f::11]:80"),
                Inner::new(CLIENT6, "[::ffff:203.0.113.10]:80"),
            ];
            for inner in inner {
                packet_goes_on(&bench, &around.put(&inner.build()), Verdict::NotVip);
            }
        }
    }
}

#[test]
fn fragments_and_extension_headers_go_on() {
    let bench = Bench::new();
    for (around, inner) in each() {
        let packet = around.put(&inner.build());
        if around.source.is_ipv4() {
            packet_goes_on(&bench, &changed(&packet, 6, &[0x20, 0]), Verdict::Fragment);
            packet_goes_on(&bench, &changed(&packet, 6, &[0, 1]), Verdict::Fragment);
            // That it must not be broken up says nothing.
            let came = frame([bench.link, FAR], &[], &changed(&packet, 6, &[0x40, 0]));
            assert_eq!(bench.verdict(Hook::Xdp, &came).0.name(), around.how.name());
        } else {
            packet_goes_on(&bench, &changed(&packet, 6, &[44]), Verdict::Fragment);
            for extension in [0, 43, 60] {
                let packet = changed(&packet, 6, &[extension]);
                packet_goes_on(&bench, &packet, Verdict::ExtensionHeaders);
            }
        }
    }
}

#[test]
fn gue_of_another_kind_goes_on() {
    let bench = Bench::new();
    for (source, destination) in OUTERS {
        let around = Around::new(How::GueWithHeader, source, destination);
        let gue = |header: [u8; 4]| {
            let inner = Inner::new(CLIENT, VIP).build();
            around.header(UDP, &datagram(6080, &[&header[..], &inner].concat()))
        };
        let others = [
            [0x20, IN_IPV4, 0, 0],    // a control message
            [0x01, IN_IPV4, 0, 0],    // a word of optional fields
            [0x00, IN_IPV4, 0x80, 0], // a flag
            [0x00, IN_IPV4, 0, 1],    // private data
            [0x00, 6, 0, 0],          // TCP
            [0x00, 59, 0, 0],         // nothing
            [0x80, IN_IPV4, 0, 0],    // variant 2
            [0xc0, IN_IPV4, 0, 0],    // variant 3
            [0x50, IN_IPV4, 0, 0],    // IP, of version 5
            [0x70, IN_IPV6, 0, 0],    // and of version 7
        ];
        for header in others {
            packet_goes_on(&bench, &gue(header), Verdict::UnknownGue);
        }
    }
}

#[test]
fn a_packet_cut_short_anywhere_goes_on() {
    let bench = Bench::new();
    for (around, inner) in each() {
        let came = frame([bench.link, FAR], &[], &around.put(&inner.build()));
        for hook in INCOMING {
            // The kernel refuses test runs on less than an Ethernet header; at TC also on less
            // than an IP header.
            let ip = if around.source.is_ipv4() { 20 } else { 40 };
            let least = if hook == Hook::Xdp { 14 } else { 14 + ip };
            for length in least..came.len() {
                goes_on(&bench, hook, &came[..length], Verdict::Malformed);
            }
        }
    }
}

/// The outer lengths agree with the frame, and what is inside is of any length.
#[test]
fn what_is_inside_must_be_as_long_as_it_says() {
    let bench = Bench::new();
    for (around, inner) in each() {
        let whole = inner.build();
        for length in 4..whole.len() {
            packet_goes_on(&bench, &around.put(&whole[..length]), Verdict::InnerMalformed);
        }
        let longer = [&whole[..], &[0]].concat();
        packet_goes_on(&bench, &around.put(&longer), Verdict::InnerMalformed);
    }
}

#[test]
fn headers_that_contradict_each_other_go_on() {
    let bench = Bench::new();
    for (source, destination) in OUTERS {
        let ipip = Around::new(How::Ipip, source, destination);
        let gue = Around::new(How::GueWithHeader, source, destination);
        let (v4, v6) = (Inner::new(CLIENT, VIP).build(), Inner::new(CLIENT6, VIP6).build());
        for packet in [
            ipip.header(IN_IPV6, &v4), // another family than is said
            ipip.header(IN_IPV4, &v6),
            gue.header(UDP, &datagram(6080, &[&[0, IN_IPV6, 0, 0], &v4[..]].concat())),
            ipip.header(IN_IPV4, &changed(&v4, 0, &[0x44])), // a header of 16 bytes
            ipip.header(IN_IPV4, &changed(&v4, 0, &[0x4f])[..20]), // one longer than the packet
            ipip.header(IN_IPV4, &[]),
            gue.header(UDP, &datagram(6080, &[0, IN_IPV4, 0, 0])),
            gue.header(UDP, &datagram(6080, &[])),
        ] {
            packet_goes_on(&bench, &packet, Verdict::InnerMalformed);
        }
        // The datagram is shorter or longer than the packet that it is in.
        let packet = gue.put(&v4);
        let at = packet.len() - v4.len() - 4 - 4;
        let length = v4.len() as u16 + 12;
        for other in [length - 1, length + 1, 0] {
            let packet = changed(&packet, at, &other.to_be_bytes());
            packet_goes_on(&bench, &packet, Verdict::Malformed);
        }
    }
    // The link header goes on saying which family it is.
    let link = |packet: &[u8]| frame([bench.link, FAR], &[], packet);
    let inner = Inner::new(CLIENT, VIP).build();
    let v4 = link(&Around::new(How::Ipip, BALANCER, OWN).put(&inner));
    let v6 = link(&Around::new(How::Ipip, BALANCER6, OWN6).put(&inner));
    for hook in INCOMING {
        for (at, bytes) in [(0, [0x44, 0]), (0, [0x65, 0]), (2, [0, 19]), (2, [0xff, 0xff])] {
            goes_on(&bench, hook, &changed(&v4, 14 + at, &bytes), Verdict::Malformed);
        }
        for (at, bytes) in [(0, [0x45, 0]), (4, [0xff, 0xff])] {
            goes_on(&bench, hook, &changed(&v6, 14 + at, &bytes), Verdict::Malformed);
        }
    }
}
