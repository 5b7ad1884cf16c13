//! What is taken out, byte for byte, and what it tells of congestion.

use equipoise_common::decap::Verdict;
use equipoise_common::verdict::Hook;

use crate::bench::{BALANCER, BALANCER6, Bench, CLIENT, CLIENT6, FAR, OWN, OWN6, VIP, VIP6};
use crate::wire::{Around, How, Inner, frame};
use crate::{INCOMING, drop, pass};

const TAG: u16 = 0x8100;
const SERVICE_TAG: u16 = 0x88a8;

fn verdict(how: How) -> Verdict {
    match how {
        How::Ipip => Verdict::Ipip,
        How::Gue | How::GueWithHeader => Verdict::Gue,
    }
}

/// Each way of putting a packet of each family into one of each family.
pub(crate) fn each() -> Vec<(Around, Inner)> {
    let mut all = Vec::new();
    for how in How::ALL {
        for around in [Around::new(how, BALANCER, OWN), Around::new(how, BALANCER6, OWN6)] {
            for inner in [Inner::new(CLIENT, VIP), Inner::new(CLIENT6, VIP6)] {
                all.push((around, inner));
            }
        }
    }
    all
}

/// Runs a packet, and checks that what was inside is all that is left.
fn is_taken_out(bench: &Bench, hook: Hook, tags: &[u16], (around, inner): (Around, Inner)) {
    let links = [bench.link, FAR];
    let packet = inner.build();
    let came = frame(links, tags, &around.put(&packet));
    let (counted, output) = bench.verdict(hook, &came);
    assert_eq!((counted, output.action), (verdict(around.how), pass(hook)), "{hook:?} {around:?}");
    assert_eq!(output.frame, frame(links, tags, &packet), "{hook:?} {tags:?} {around:?} {inner:?}");
}

#[test]
fn a_packet_is_taken_out_of_each_encapsulation_and_family() {
    let bench = Bench::new();
    for hook in INCOMING {
        for (around, inner) in each() {
            for is_tcp in [false, true] {
                is_taken_out(&bench, hook, &[], (around, Inner { is_tcp, ..inner }));
            }
        }
    }
    assert_eq!(bench.counted(), 2 * 12 * 2);
}

#[test]
fn an_outer_ipv4_header_may_have_any_length() {
    let bench = Bench::new();
    for hook in INCOMING {
        for (around, inner) in each().into_iter().filter(|(around, _)| around.source.is_ipv4()) {
            for words in 0..=10 {
                is_taken_out(&bench, hook, &[], (Around { options: words * 4, ..around }, inner));
            }
        }
    }
}

#[test]
fn vlan_tags_stay_in_front_of_what_is_taken_out() {
    let bench = Bench::new();
    for (around, inner) in each() {
        is_taken_out(&bench, Hook::Xdp, &[TAG], (around, inner));
        is_taken_out(&bench, Hook::Xdp, &[SERVICE_TAG, TAG], (around, inner));
    }
}

/// Where the driver leaves one tag in the frame, there were two.
#[test]
fn a_second_tag_at_tc_is_left_alone() {
    let bench = Bench::new();
    for (around, inner) in each() {
        let came = frame([bench.link, FAR], &[TAG], &around.put(&inner.build()));
        let (counted, output) = bench.verdict(Hook::Ingress, &came);
        assert_eq!((counted, output.action), (Verdict::Tagged, pass(Hook::Ingress)));
        assert_eq!(output.frame, came);
    }
}

#[test]
fn bytes_behind_the_packet_stay_behind_it() {
    let bench = Bench::new();
    for hook in INCOMING {
        for (around, inner) in each() {
            let links = [bench.link, FAR];
            let with_padding = |packet: &[u8]| [&frame(links, &[], packet)[..], &[0; 9]].concat();
            let came = with_padding(&around.put(&inner.build()));
            let (counted, output) = bench.verdict(hook, &came);
            assert_eq!(counted, verdict(around.how));
            assert_eq!(output.frame, with_padding(&inner.build()), "{hook:?} {around:?}");
        }
    }
}

/// More than the part of a frame that an XDP program can touch.
#[test]
fn a_frame_in_pieces_is_taken_out_like_any() {
    let bench = Bench::new();
    let links = [bench.link, FAR];
    for (around, inner) in each() {
        let mut packet = inner.build();
        let [ip, udp] = if packet[0] >> 4 == 4 { [20, 2] } else { [40, 4] };
        packet.resize(ip + 8 + 5000, 7);
        let length = if ip == 20 { packet.len() } else { packet.len() - 40 } as u16;
        packet[udp..udp + 2].copy_from_slice(&length.to_be_bytes());
        packet[ip + 4..ip + 6].copy_from_slice(&5008_u16.to_be_bytes());
        let came = frame(links, &[], &around.put(&packet));
        let (counted, output) = bench.verdict(Hook::Xdp, &came);
        assert_eq!((counted, output.action), (verdict(around.how), pass(Hook::Xdp)));
        assert!(output.frame == frame(links, &[], &packet), "{around:?}");
        let (counted, _) = bench.verdict(Hook::Xdp, &came[..came.len() - 1]);
        assert_eq!(counted, Verdict::Malformed);
    }
}

#[test]
fn congestion_of_the_way_is_told_to_the_stack() {
    /// What the inner bits become, by the inner and the outer ones (RFC 6040).
    const BECOMES: [[Option<u8>; 4]; 4] = [
        [Some(0), Some(0), Some(0), None],
        [Some(1), Some(1), Some(1), Some(3)],
        [Some(2), Some(1), Some(2), Some(3)],
        [Some(3), Some(3), Some(3), Some(3)],
    ];
    let bench = Bench::new();
    for hook in INCOMING {
        for (around, inner) in each() {
            for (congestion, row) in (0..).zip(BECOMES) {
                for (outer, becomes) in (0..).zip(row) {
                    let around = Around { congestion: outer, ..around };
                    let inner = Inner { congestion, ..inner };
                    let links = [bench.link, FAR];
                    let came = frame(links, &[], &around.put(&inner.build()));
                    let (counted, output) = bench.verdict(hook, &came);
                    let Some(congestion) = becomes else {
                        assert_eq!((counted, output.action), (Verdict::Congested, drop(hook)));
                        continue;
                    };
                    assert_eq!((counted, output.action), (verdict(around.how), pass(hook)));
                    let expected = frame(links, &[], &Inner { congestion, ..inner }.build());
                    assert_eq!(output.frame, expected, "{hook:?} {around:?} {inner:?}");
                }
            }
        }
    }
}
