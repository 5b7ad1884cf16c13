//! What opens connections of VIPs, on its way out.

use std::net::SocketAddr;

use equipoise_common::decap::Verdict;
use equipoise_common::verdict::Hook;
use etherparse::TcpOptionElement as Element;
use etherparse::TcpOptionElement::{MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted};

use crate::bench::{Bench, CLIENT, CLIENT6, FAR, FAR_VIP, SEGMENTS, VIP, VIP6};
use crate::pass;
use crate::wire::opening;

fn ends(v6: bool) -> (SocketAddr, SocketAddr) {
    let (from, to) = if v6 { (VIP6, CLIENT6) } else { (VIP, CLIENT) };
    (from.parse().unwrap(), to.parse().unwrap())
}

/// Options around a largest segment, at even and odd places.
fn around(segment: u16) -> Vec<Vec<Element>> {
    let time = || Element::Timestamp(1, 2);
    vec![
        vec![MaximumSegmentSize(segment)],
        vec![MaximumSegmentSize(segment), SelectiveAcknowledgementPermitted, time()],
        vec![Noop, MaximumSegmentSize(segment)],
        vec![Noop, Noop, MaximumSegmentSize(segment), Noop],
        vec![Element::WindowScale(7), MaximumSegmentSize(segment)],
        vec![time(), Noop, Element::WindowScale(7), Noop, MaximumSegmentSize(segment)],
        [vec![Noop; 36], vec![MaximumSegmentSize(segment)]].concat(),
        [vec![Noop; 35], vec![MaximumSegmentSize(segment)]].concat(),
    ]
}

#[test]
fn a_connection_of_a_vip_tells_of_segments_that_fit() {
    let bench = Bench::new();
    let links = [FAR, bench.link];
    for (v6, fits) in [false, true].into_iter().zip(SEGMENTS) {
        for segment in [1460, fits + 1, 8960, u16::MAX] {
            for (told, right) in around(segment).iter().zip(around(fits)) {
                let (counted, output) =
                    bench.verdict(Hook::Egress, &opening(links, ends(v6), told));
                assert_eq!((counted, output.action), (Verdict::MssLowered, pass(Hook::Egress)));
                // Built anew, with its checksum.
                assert_eq!(output.frame, opening(links, ends(v6), &right), "{told:?}");
            }
        }
    }
}

fn stays(bench: &Bench, frame: &[u8], expected: Verdict) {
    let (counted, output) = bench.verdict(Hook::Egress, frame);
    assert_eq!((counted, output.action), (expected, pass(Hook::Egress)), "{frame:02x?}");
    assert_eq!(output.frame, frame);
}

#[test]
fn what_tells_of_no_larger_segments_stays_as_it_is() {
    let bench = Bench::new();
    let links = [FAR, bench.link];
    for (v6, fits) in [false, true].into_iter().zip(SEGMENTS) {
        for segment in [fits, 1000, 0] {
            for told in around(segment) {
                stays(&bench, &opening(links, ends(v6), &told), Verdict::MssFits);
            }
        }
        stays(&bench, &opening(links, ends(v6), &[]), Verdict::MssFits);
    }
}

#[test]
fn options_that_make_no_sense_are_not_walked() {
    let bench = Bench::new();
    let whole = opening([FAR, bench.link], ends(false), &[MaximumSegmentSize(1460)]);
    let at = 14 + 20 + 20;
    for options in [
        [2, 3, 5, 180], // too short
        [2, 6, 5, 180], // longer than all options
        [8, 0, 2, 4],   // of no length
        [8, 1, 2, 4],
        [0, 2, 4, 5], // behind the end
        [1, 1, 1, 2], // the last byte is the first of one
    ] {
        let mut frame = whole.clone();
        frame[at..at + 4].copy_from_slice(&options);
        stays(&bench, &frame, Verdict::MssFits);
    }
}

#[test]
fn what_opens_no_connection_of_a_vip_stays_as_it_is() {
    let bench = Bench::new();
    let links = [FAR, bench.link];
    let mss = [MaximumSegmentSize(1460)];
    for v6 in [false, true] {
        let (vip, client) = ends(v6);
        // Of another address.
        stays(&bench, &opening(links, (client, vip), &mss), Verdict::Outgoing);
        if !v6 {
            let other = FAR_VIP.parse().unwrap();
            stays(&bench, &opening(links, (other, client), &mss), Verdict::Outgoing);
        }
        let mut later = opening(links, (vip, client), &mss);
        let flags = 14 + if v6 { 40 } else { 20 } + 13;
        later[flags] = 0x10;
        stays(&bench, &later, Verdict::Outgoing);
        let mut udp = opening(links, (vip, client), &mss);
        udp[if v6 { 14 + 6 } else { 14 + 9 }] = 17;
        stays(&bench, &udp, Verdict::Outgoing);
    }
    let mut fragment = opening(links, ends(false), &mss);
    fragment[14 + 7] = 1;
    stays(&bench, &fragment, Verdict::Outgoing);
}
