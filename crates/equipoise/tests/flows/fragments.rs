//! Fragments: cut here as a sender or a router would cut, and expected as the rewritten packet would have been cut.

use equipoise_common::verdict::{Hook, Verdict};

use crate::answers::ETHERNET;
use crate::bench::{Packet, Transport};
use crate::talk::{EXCHANGED, Side, Talk, ends_of, redirect, talks};
use crate::world::{World, services};

use Side::{Backend, Client};

const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const TC_SHOT: i32 = 2;
const TC_UNSPEC: i32 = -1;

/// Bytes of the part of a packet that a fragment carries.
const CUT: usize = 1_000;
pub(crate) const LARGE: &[u8] = &[0x5a; 2_500];
const IDENTIFICATION: u16 = 4_711;

/// Cuts a packet without options.
pub(crate) fn cut(frame: &[u8]) -> Vec<Vec<u8>> {
    const MORE: u16 = 1;
    let is_v4 = frame[ETHERNET] >> 4 == 4;
    let header = ETHERNET + if is_v4 { 20 } else { 40 };
    let parts = frame[header..].chunks(CUT);
    let last = parts.len() - 1;
    let piece = |(number, part): (usize, &[u8])| {
        let mut piece = frame[..header].to_vec();
        let (offset, more) = ((number * CUT / 8) as u16, number != last);
        if is_v4 {
            piece[16..18].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
            piece[18..20].copy_from_slice(&IDENTIFICATION.to_be_bytes());
            let flags = offset | u16::from(more) << 13;
            piece[20..22].copy_from_slice(&flags.to_be_bytes());
            let ip = etherparse::Ipv4Header::from_slice(&piece[ETHERNET..]).unwrap().0;
            piece[24..26].copy_from_slice(&ip.calc_header_checksum().to_be_bytes());
        } else {
            piece[18..20].copy_from_slice(&(8 + part.len() as u16).to_be_bytes());
            let next = std::mem::replace(&mut piece[20], 44);
            let place = offset << 3 | if more { MORE } else { 0 };
            piece.extend([next, 0]);
            piece.extend(place.to_be_bytes());
            piece.extend(u32::from(IDENTIFICATION).to_be_bytes());
        }
        piece.extend(part);
        piece
    };
    parts.enumerate().map(piece).collect()
}

fn large(talk: &Talk, side: Side, transport: Transport) -> Packet {
    Packet { payload: LARGE, ..talk.packet(side, transport) }
}

/// The fragments of a large packet of a side as they come in, the device that they come by, and as they are to leave.
struct Cut {
    device: u32,
    came: Vec<Vec<u8>>,
    leave: Vec<Vec<u8>>,
    verdict: Verdict,
}

impl Cut {
    fn of(world: &World, talk: &Talk, side: Side, transport: Transport) -> Self {
        let packet = large(talk, side, transport);
        let (device, frame) = talk.frame(world, side, packet);
        let (from, to, out, verdict) = match side {
            Client => (packet.from, talk.ends.backend, world.back, Verdict::ForwardedRequest),
            Backend => (talk.ends.vip, packet.to, world.front, Verdict::ForwardedReply),
        };
        let sent = Packet { from, to, ..packet }.hops(63).build(world.sent(talk.hook, out));
        Self { device, came: cut(&frame), leave: cut(&sent), verdict }
    }

    fn passes(&self, world: &World, hook: Hook, number: usize) {
        let (verdict, output) = world.verdict(hook, self.device, &self.came[number]);
        assert_eq!((verdict, output.action), (self.verdict, redirect(hook)), "{hook:?} {number}");
        assert_eq!(output.frame, self.leave[number], "{hook:?} {number}");
    }

    fn all_pass(&self, world: &World, hook: Hook) {
        (0..self.came.len()).for_each(|number| self.passes(world, hook, number));
    }

    fn ends(&self, world: &World, hook: Hook, number: usize, expected: Verdict) {
        let (verdict, output) = world.verdict(hook, self.device, &self.came[number]);
        let dropped = if hook == Hook::Xdp { XDP_DROP } else { TC_SHOT };
        assert_eq!((verdict, output.action), (expected, dropped), "{hook:?} {number}");
    }
}

#[test]
fn fragments_follow_the_first_of_their_packet() {
    let world = World::new(&services("", 1));
    for talk in talks(10_000) {
        // The first one opens the flow, and the others of it are of the flow.
        Cut::of(&world, &talk, Client, Transport::Udp).all_pass(&world, talk.hook);
        assert_eq!(talk.state(&world), Some("one-way"));
        Cut::of(&world, &talk, Backend, Transport::Udp).all_pass(&world, talk.hook);
        Cut::of(&world, &talk, Client, Transport::Udp).all_pass(&world, talk.hook);
        assert_eq!(talk.state(&world), Some("two-way"), "fragments confirm as packets do");
        talk.pass(&world, Client, talk.packet(Client, Transport::Udp));
    }
    for mut talk in talks(10_100) {
        talk.connect(&world);
        for side in Side::BOTH {
            Cut::of(&world, &talk, side, Transport::Ack).all_pass(&world, talk.hook);
        }
    }
}

#[test]
fn fragments_that_come_in_any_order_after_the_first_find_their_way() {
    let world = World::new(&services("", 1));
    for talk in talks(10_200) {
        for side in Side::BOTH {
            let cut = Cut::of(&world, &talk, side, Transport::Udp);
            for number in [0, 2, 1, 2] {
                cut.passes(&world, talk.hook, number);
            }
        }
    }
}

#[test]
fn what_follows_an_opening_fragment_is_rewritten_where_its_service_lowers_the_mss() {
    let world = World::new(&services("mss-clamp = 1200", 1));
    for talk in talks(10_250) {
        for _ in ["a new flow", "a flow"] {
            Cut::of(&world, &talk, Client, Transport::Syn).all_pass(&world, talk.hook);
        }
        Cut::of(&world, &talk, Backend, Transport::SynAck).all_pass(&world, talk.hook);
    }
}

#[test]
fn a_fragment_before_the_first_of_its_packet_is_dropped_and_counted() {
    let mut world = World::new(&services("", 1));
    for talk in talks(10_300) {
        // What earlier tests and the other hook have left under this identification is followed no more.
        world.wait(60_000);
        let cut = Cut::of(&world, &talk, Client, Transport::Udp);
        cut.ends(&world, talk.hook, 1, Verdict::FragmentUnknown);
        cut.all_pass(&world, talk.hook);
    }
}

#[test]
fn fragments_are_not_followed_for_longer_than_receivers_keep_them() {
    const FOLLOWED: u32 = 57_220;
    let mut world = World::new(&services("", 1));
    for talk in talks(10_400) {
        let cut = Cut::of(&world, &talk, Client, Transport::Udp);
        cut.passes(&world, talk.hook, 0);
        world.wait(FOLLOWED);
        cut.passes(&world, talk.hook, 1);
        world.wait(1);
        cut.ends(&world, talk.hook, 1, Verdict::FragmentUnknown);
        // Nor when a clock of 32 bits would be as far as it was then.
        world.at(u64::from(u32::MAX) - 3_000_000);
        cut.ends(&world, talk.hook, 1, Verdict::FragmentUnknown);
        world.at(0);
    }
}

#[test]
fn a_service_can_drop_fragments() {
    let mut world = World::new(&services("fragments = 'drop'", 1));
    for mut talk in talks(10_500) {
        world.wait(60_000);
        let cut = Cut::of(&world, &talk, Client, Transport::Udp);
        for number in [1, 0, 1] {
            cut.ends(&world, talk.hook, number, Verdict::FragmentRefused);
        }
        assert_eq!(talk.state(&world), None);
        talk.all(&world, &EXCHANGED);
        for number in 0..2 {
            cut.ends(&world, talk.hook, number, Verdict::FragmentRefused);
        }
    }
}

#[test]
fn by_hash_a_fragment_before_the_first_goes_where_that_will_go() {
    const BACKENDS: u16 = 7;
    let mut world = World::new(&services("fragments = 'hash'", BACKENDS));
    for talk in talks(10_600) {
        world.wait(60_000);
        let cut = Cut::of(&world, &talk, Client, Transport::Udp);
        let destination = |number: usize| {
            let (verdict, output) = world.verdict(talk.hook, cut.device, &cut.came[number]);
            assert_eq!((verdict, output.action), (cut.verdict, redirect(talk.hook)), "{number}");
            let at = ETHERNET + if talk.ends.vip.is_ipv4() { 16 } else { 24 };
            let length = if talk.ends.vip.is_ipv4() { 4 } else { 16 };
            output.frame[at..][..length].to_vec()
        };
        let early = destination(2);
        let first = destination(0);
        assert_eq!((&early, &first), (&first, &destination(1)), "{talk:?}");
    }
    // All flows of a client go to one backend, whatever their ports.
    let mut backends: Vec<_> = (0..50)
        .map(|number| {
            let talk = talks(10_700 + number)[0];
            let packet = talk.packet(Client, Transport::Syn);
            let (_, output) = talk.send(&world, Client, packet);
            ends_of(&output.frame)[1]
        })
        .collect();
    backends.dedup();
    assert_eq!(backends.len(), 1, "{backends:?}");
}

#[test]
fn sources_that_are_denied_have_no_fragment_let_through() {
    let keys = "fragments = 'hash'\nlimits = { deny = ['0.0.0.0/0', '::/0'] }";
    let mut world = World::new(&services(keys, 1));
    for talk in talks(10_900) {
        world.wait(60_000);
        let cut = Cut::of(&world, &talk, Client, Transport::Udp);
        for number in [1, 0, 1, 2] {
            cut.ends(&world, talk.hook, number, Verdict::SourceDenied);
        }
    }
}

#[test]
fn fragments_that_are_for_no_service_are_passed_as_they_came() {
    let world = World::new(&services("", 1));
    for mut talk in talks(10_800) {
        talk.ends.vip.set_port(4_444);
        let cut = Cut::of(&world, &talk, Client, Transport::Udp);
        for (number, expected) in [(0, Verdict::NoService), (1, Verdict::Fragment)] {
            let frame = &cut.came[number];
            let (verdict, output) = world.verdict(talk.hook, cut.device, frame);
            let passed = if talk.hook == Hook::Xdp { XDP_PASS } else { TC_UNSPEC };
            assert_eq!((verdict, output.action), (expected, passed), "{talk:?} {number}");
            assert_eq!(&output.frame, frame);
        }
    }
}
