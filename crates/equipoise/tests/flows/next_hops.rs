//! The way to a backend or back to a client, kept for a moment where user space says that it may be: what a packet meets
//! while the routing table has changed already, and what is asked for all the same.

use std::collections::BTreeSet;
use std::net::IpAddr;

use equipoise::dataplane::DataPlane as _;
use equipoise_common::value::Shortcuts;
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_lab::cpu::pin;

use crate::bench::{Packet, Transport};
use crate::talk::Side::{self, Backend, Client};
use crate::talk::{CONNECTED, Talk, talks};
use crate::world::{World, services};

/// How long a way is kept, ticks.
const KEPT: u32 = 4;

/// The DSCP of expedited forwarding (RFC 3246).
const EXPEDITED: u8 = 46;

/// The verdict on the next packet of the client.
fn next(world: &World, talk: &mut Talk) -> Verdict {
    next_of(world, talk, Client)
}

fn next_of(world: &World, talk: &mut Talk, side: Side) -> Verdict {
    let packet = talk.next(side, Transport::Ack);
    talk.send(world, side, packet).0
}

/// A connection at each hook for each family, with the way to its backend just asked for.
fn connected(world: &World, port: u16) -> Vec<Talk> {
    // Each CPU keeps what it was told itself.
    pin(0);
    let mut talks = talks(port);
    for talk in &mut talks {
        talk.all(world, &CONNECTED);
    }
    talks
}

/// Takes the way to a backend away.
fn cut(world: &World, talk: &Talk) {
    unreachable(world, "add", talk.ends.backend.ip());
}

fn mend(world: &World, talk: &Talk) {
    unreachable(world, "del", talk.ends.backend.ip());
}

fn unreachable(world: &World, change: &str, end: IpAddr) {
    world.netns.ip(&format!("route {change} unreachable {end}")).unwrap();
}

/// A packet of a side with this class of service, and what becomes of it.
fn classed(world: &World, talk: &mut Talk, side: Side, dscp: u8) -> Verdict {
    let packet = talk.next(side, Transport::Ack);
    let (device, mut frame) = talk.frame(world, side, packet);
    if talk.ends.vip.is_ipv4() {
        let mut header = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap().0;
        header.dscp = dscp.try_into().unwrap();
        header.header_checksum = header.calc_header_checksum();
        frame[14..34].copy_from_slice(&header.to_bytes());
    } else {
        // Version, traffic class of which the DSCP is the upper six bits, flow label.
        frame[14] = 6 << 4 | dscp >> 2;
        frame[15] = dscp << 6;
    }
    world.verdict(talk.hook, device, &frame).0
}

#[test]
fn a_way_that_has_gone_is_noticed_a_moment_later_at_most() {
    let mut world = World::new(&services("", 1));
    world.kernel.allow_shortcuts(Shortcuts::All).unwrap();
    for mut talk in connected(&world, 8000) {
        assert_eq!(next(&world, &mut talk), Verdict::ForwardedRequest);
        cut(&world, &talk);
        assert_eq!(next(&world, &mut talk), Verdict::ForwardedRequest);
        world.wait(KEPT);
        assert_eq!(next(&world, &mut talk), Verdict::ForwardedRequest);
        world.wait(1);
        assert_eq!(next(&world, &mut talk), Verdict::RequestNoRoute, "{talk:?}");
        mend(&world, &talk);
        assert_eq!(next(&world, &mut talk), Verdict::ForwardedRequest, "nothing is kept of that");
    }
    world.kernel.allow_shortcuts(Shortcuts::None).unwrap();
}

#[test]
fn the_first_packet_of_a_flow_takes_a_way_that_is_kept_and_has_its_own_kept() {
    let mut world = World::new(&services("", 1));
    world.kernel.allow_shortcuts(Shortcuts::All).unwrap();
    pin(0);
    let open = |world: &World, mut talk: Talk| {
        let syn = talk.next(Client, Transport::Syn);
        talk.send(world, Client, syn).0
    };
    for (number, talk) in talks(8700).into_iter().enumerate() {
        // Nothing is kept by now, so the first one asks.
        world.wait(KEPT + 1);
        let later = |by: u16| talks(8700 + by)[number];
        assert_eq!(open(&world, talk), Verdict::ForwardedRequest);
        cut(&world, &talk);
        assert_eq!(open(&world, later(10)), Verdict::ForwardedRequest, "{talk:?}");
        world.wait(KEPT + 1);
        assert_eq!(open(&world, later(20)), Verdict::RequestNoRoute, "{talk:?}");
        assert_eq!(open(&world, later(30)), Verdict::RequestNoRoute, "nothing is kept of that");
        mend(&world, &talk);
        assert_eq!(open(&world, later(40)), Verdict::ForwardedRequest, "{talk:?}");
    }
    world.kernel.allow_shortcuts(Shortcuts::None).unwrap();
}

/// What a new flow's first packet has left on the CPU is of no use to an answer for which rewriting is not all.
#[test]
fn answers_whose_segments_are_made_smaller_ask_for_their_own_way() {
    let mut world = World::new(&services("mss-clamp = 1200", 1));
    world.kernel.allow_shortcuts(Shortcuts::All).unwrap();
    let others = connected(&world, 9400);
    for (mut talk, mut other) in talks(9300).into_iter().zip(others) {
        // The way to the backend is kept by now, and a new flow takes it.
        assert_eq!(next(&world, &mut other), Verdict::ForwardedRequest);
        talk.say(&world, Client, Transport::Syn);
        let answer = talk.next(Backend, Transport::SynAck);
        let client = talk.ends.client.ip();
        unreachable(&world, "add", client);
        assert_eq!(talk.send(&world, Backend, answer).0, Verdict::ReplyNoRoute, "{talk:?}");
        unreachable(&world, "del", client);
        assert_eq!(talk.send(&world, Backend, answer).0, Verdict::ForwardedReply, "{talk:?}");
    }
    world.kernel.allow_shortcuts(Shortcuts::None).unwrap();
}

#[test]
fn nothing_is_kept_where_the_way_may_depend_on_more() {
    let mut world = World::new(&services("", 1));
    for mut talk in connected(&world, 8100) {
        cut(&world, &talk);
        assert_eq!(next(&world, &mut talk), Verdict::RequestNoRoute, "{talk:?}");
        mend(&world, &talk);
    }
    // What was kept before it came to be so is of no use either.
    world.kernel.allow_shortcuts(Shortcuts::All).unwrap();
    for mut talk in connected(&world, 8200) {
        assert_eq!(next(&world, &mut talk), Verdict::ForwardedRequest);
        cut(&world, &talk);
        world.kernel.allow_shortcuts(Shortcuts::Replies).unwrap();
        assert_eq!(next(&world, &mut talk), Verdict::RequestNoRoute, "{talk:?}");
        world.kernel.allow_shortcuts(Shortcuts::All).unwrap();
        mend(&world, &talk);
    }
    world.kernel.allow_shortcuts(Shortcuts::None).unwrap();
}

#[test]
fn the_way_back_is_kept_for_the_flow_and_its_class_alone() {
    let mut world = World::new(&services("", 1));
    world.kernel.allow_shortcuts(Shortcuts::Replies).unwrap();
    let others = connected(&world, 8900);
    for (mut talk, mut other) in connected(&world, 8800).into_iter().zip(others) {
        let client = talk.ends.client.ip();
        for flow in [&mut talk, &mut other] {
            assert_eq!(next_of(&world, flow, Backend), Verdict::ForwardedReply);
        }
        assert_eq!(other.ends.client.ip(), client, "flows of one client");
        world.wait(KEPT + 1);
        assert_eq!(next_of(&world, &mut talk, Backend), Verdict::ForwardedReply);
        unreachable(&world, "add", client);
        assert_eq!(next_of(&world, &mut talk, Backend), Verdict::ForwardedReply, "{talk:?}");
        assert_eq!(next_of(&world, &mut other, Backend), Verdict::ReplyNoRoute, "{talk:?}");
        assert_eq!(classed(&world, &mut talk, Backend, EXPEDITED), Verdict::ReplyNoRoute);
        world.wait(KEPT);
        assert_eq!(next_of(&world, &mut talk, Backend), Verdict::ForwardedReply);
        world.wait(1);
        assert_eq!(next_of(&world, &mut talk, Backend), Verdict::ReplyNoRoute, "{talk:?}");
        unreachable(&world, "del", client);
        assert_eq!(next_of(&world, &mut talk, Backend), Verdict::ForwardedReply);
    }
    // What is kept of that is of no use once nothing may be.
    for mut talk in connected(&world, 9000) {
        assert_eq!(next_of(&world, &mut talk, Backend), Verdict::ForwardedReply);
        unreachable(&world, "add", talk.ends.client.ip());
        world.kernel.allow_shortcuts(Shortcuts::None).unwrap();
        assert_eq!(next_of(&world, &mut talk, Backend), Verdict::ReplyNoRoute, "{talk:?}");
        world.kernel.allow_shortcuts(Shortcuts::Replies).unwrap();
        unreachable(&world, "del", talk.ends.client.ip());
    }
    world.kernel.allow_shortcuts(Shortcuts::None).unwrap();
}

/// Of so many flows, some keep their way where others would look for theirs.
#[test]
fn the_way_back_of_one_flow_is_not_taken_by_another_of_the_client() {
    const FLOWS: u16 = 100;
    let mut world = World::new(&services("", 1));
    world.kernel.allow_shortcuts(Shortcuts::Replies).unwrap();
    let some = |first: u16| -> Vec<Talk> {
        (0..FLOWS).flat_map(|number| connected(&world, first + 10 * number)).collect()
    };
    let (mut talks, mut others) = (some(10_000), some(20_000));
    world.wait(KEPT + 1);
    for talk in &mut talks {
        assert_eq!(next_of(&world, talk, Backend), Verdict::ForwardedReply);
    }
    let clients: BTreeSet<_> = talks.iter().map(|talk| talk.ends.client.ip()).collect();
    for client in &clients {
        unreachable(&world, "add", *client);
    }
    for other in &mut others {
        assert!(clients.contains(&other.ends.client.ip()));
        assert_eq!(next_of(&world, other, Backend), Verdict::ReplyNoRoute, "{other:?}");
    }
    for client in &clients {
        unreachable(&world, "del", *client);
    }
    world.kernel.allow_shortcuts(Shortcuts::None).unwrap();
}

#[test]
fn packets_that_the_kept_way_does_not_carry_are_asked_about() {
    const LARGE: &[u8] = &[7; 1_300];
    let mut world = World::new(&services("", 1));
    world.kernel.allow_shortcuts(Shortcuts::All).unwrap();
    for mut talk in connected(&world, 8300) {
        let backend = talk.ends.backend.ip();
        world.netns.ip(&format!("route add {backend} dev back mtu lock 1280")).unwrap();
        world.wait(KEPT + 1);
        assert_eq!(next(&world, &mut talk), Verdict::ForwardedRequest);
        let large = Packet { payload: LARGE, ..talk.packet(Client, Transport::Ack) };
        assert_eq!(talk.send(&world, Client, large).0, Verdict::RequestTooBig, "{talk:?}");
        world.netns.ip(&format!("route del {backend} dev back")).unwrap();
        assert_eq!(talk.send(&world, Client, large).0, Verdict::ForwardedRequest, "{talk:?}");
    }
    world.kernel.allow_shortcuts(Shortcuts::None).unwrap();
}

#[test]
fn an_ipv4_packet_with_a_service_class_is_asked_about() {
    let mut world = World::new(&services("", 1));
    world.kernel.allow_shortcuts(Shortcuts::All).unwrap();
    for mut talk in connected(&world, 8400).into_iter().filter(|talk| talk.ends.vip.is_ipv4()) {
        assert_eq!(next(&world, &mut talk), Verdict::ForwardedRequest);
        cut(&world, &talk);
        assert_eq!(classed(&world, &mut talk, Client, EXPEDITED), Verdict::RequestNoRoute);
        mend(&world, &talk);
    }
    world.kernel.allow_shortcuts(Shortcuts::None).unwrap();
}

#[test]
fn what_tc_may_use_is_of_no_use_to_xdp() {
    let mut world = World::new(&services("", 1));
    world.kernel.allow_shortcuts(Shortcuts::All).unwrap();
    let talks = connected(&world, 8500);
    let back = world.back;
    world.kernel.allow_redirect(back, false).unwrap();
    world.wait(KEPT + 1);
    for [mut xdp, mut tc] in [[talks[0], talks[2]], [talks[1], talks[3]]] {
        assert_eq!((xdp.hook, tc.hook), (Hook::Xdp, Hook::Ingress));
        assert_eq!(next(&world, &mut tc), Verdict::ForwardedRequest);
        assert_eq!(next(&world, &mut xdp), Verdict::RequestNoRedirect);
        assert_eq!(next(&world, &mut tc), Verdict::ForwardedRequest);
    }
    world.kernel.allow_redirect(back, true).unwrap();
    world.kernel.allow_shortcuts(Shortcuts::None).unwrap();
}

#[test]
fn where_the_device_of_a_kept_way_takes_no_frames_any_more_the_stack_sends() {
    const XDP_PASS: i32 = 2;
    let mut world = World::new(&services("", 1));
    world.kernel.allow_shortcuts(Shortcuts::All).unwrap();
    let back = world.back;
    for mut talk in connected(&world, 8600).into_iter().filter(|talk| talk.hook == Hook::Xdp) {
        assert_eq!(next(&world, &mut talk), Verdict::ForwardedRequest);
        world.kernel.allow_redirect(back, false).unwrap();
        let packet = talk.next(Client, Transport::Ack);
        let (verdict, output) = talk.send(&world, Client, packet);
        assert_eq!((verdict, output.action), (Verdict::ForwardedRequest, XDP_PASS));
        // Addressed to us still, so that the stack takes it, and to the backend already.
        let to = Packet { to: talk.ends.backend, ..packet }.hops(63);
        assert_eq!(output.frame, to.build(world.client_link()));
        world.kernel.allow_redirect(back, true).unwrap();
    }
    world.kernel.allow_shortcuts(Shortcuts::None).unwrap();
}
