//! The way to a backend, kept for a moment where user space says that it may be: what a packet meets while the
//! routing table has changed already, and what is asked for all the same.

use equipoise::dataplane::DataPlane as _;
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_lab::cpu::pin;

use crate::bench::{Packet, Transport};
use crate::talk::Side::Client;
use crate::talk::{CONNECTED, Talk, talks};
use crate::world::{World, services};

/// How long a way is kept, ticks.
const KEPT: u32 = 4;

/// The verdict on the next packet of the client.
fn next(world: &World, talk: &mut Talk) -> Verdict {
    let packet = talk.next(Client, Transport::Ack);
    talk.send(world, Client, packet).0
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
    let backend = talk.ends.backend.ip();
    world.netns.ip(&format!("route add unreachable {backend}")).unwrap();
}

fn mend(world: &World, talk: &Talk) {
    let backend = talk.ends.backend.ip();
    world.netns.ip(&format!("route del unreachable {backend}")).unwrap();
}

#[test]
fn a_way_that_has_gone_is_noticed_a_moment_later_at_most() {
    let mut world = World::new(&services("", 1));
    world.kernel.allow_shortcuts(true).unwrap();
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
    world.kernel.allow_shortcuts(false).unwrap();
}

#[test]
fn the_first_packet_of_a_flow_takes_a_way_that_is_kept_and_has_its_own_kept() {
    let mut world = World::new(&services("", 1));
    world.kernel.allow_shortcuts(true).unwrap();
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
    world.kernel.allow_shortcuts(false).unwrap();
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
    world.kernel.allow_shortcuts(true).unwrap();
    for mut talk in connected(&world, 8200) {
        assert_eq!(next(&world, &mut talk), Verdict::ForwardedRequest);
        cut(&world, &talk);
        world.kernel.allow_shortcuts(false).unwrap();
        assert_eq!(next(&world, &mut talk), Verdict::RequestNoRoute, "{talk:?}");
        world.kernel.allow_shortcuts(true).unwrap();
        mend(&world, &talk);
    }
    world.kernel.allow_shortcuts(false).unwrap();
}

#[test]
fn packets_that_the_kept_way_does_not_carry_are_asked_about() {
    const LARGE: &[u8] = &[7; 1_300];
    let mut world = World::new(&services("", 1));
    world.kernel.allow_shortcuts(true).unwrap();
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
    world.kernel.allow_shortcuts(false).unwrap();
}

#[test]
fn an_ipv4_packet_with_a_service_class_is_asked_about() {
    /// Expedited forwarding.
    const TOS: u8 = 46 << 2;
    let mut world = World::new(&services("", 1));
    world.kernel.allow_shortcuts(true).unwrap();
    for mut talk in connected(&world, 8400).into_iter().filter(|talk| talk.ends.vip.is_ipv4()) {
        assert_eq!(next(&world, &mut talk), Verdict::ForwardedRequest);
        cut(&world, &talk);
        let packet = talk.next(Client, Transport::Ack);
        let (device, mut frame) = talk.frame(&world, Client, packet);
        let mut header = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap().0;
        header.dscp = (TOS >> 2).try_into().unwrap();
        header.header_checksum = header.calc_header_checksum();
        frame[14..34].copy_from_slice(&header.to_bytes());
        assert_eq!(world.verdict(talk.hook, device, &frame).0, Verdict::RequestNoRoute);
        mend(&world, &talk);
    }
    world.kernel.allow_shortcuts(false).unwrap();
}

#[test]
fn what_tc_may_use_is_of_no_use_to_xdp() {
    let mut world = World::new(&services("", 1));
    world.kernel.allow_shortcuts(true).unwrap();
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
    world.kernel.allow_shortcuts(false).unwrap();
}

#[test]
fn where_the_device_of_a_kept_way_takes_no_frames_any_more_the_stack_sends() {
    const XDP_PASS: i32 = 2;
    let mut world = World::new(&services("", 1));
    world.kernel.allow_shortcuts(true).unwrap();
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
    world.kernel.allow_shortcuts(false).unwrap();
}
