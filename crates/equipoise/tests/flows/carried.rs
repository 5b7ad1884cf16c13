//! What else comes of packets that stay as they are: their flows, their fragments, errors about them, and their size.

use std::net::IpAddr;

use equipoise_common::event::Event;
use equipoise_common::flow::Reason;
use equipoise_common::verdict::{Hook, Verdict};

use crate::answers::ETHERNET;
use crate::bench::{Packet, Transport};
use crate::errors::{Message, TROUBLES, Trouble};
use crate::fragments::{LARGE, cut};
use crate::modes::{backend, ends, frame, in_mode, opened};
use crate::talk::{bounced, redirect};
use crate::world::{HOOKS, World, seconds};

/// Every mode, with the bytes that go before a packet there where the backend is of IPv4 and of IPv6.
const MODES: [(&str, [usize; 2]); 3] = [("dsr", [0, 0]), ("ipip", [20, 40]), ("gue", [28, 48])];

/// A world in this mode with a backend of each family; packets of a family go to the backend of `outer`.
fn world(mode: &str, is_outer_v6: bool, keys: &str) -> World {
    let backends = match mode {
        "dsr" => vec![backend(false, 0), backend(true, 0)],
        _ => vec![backend(is_outer_v6, 0)],
    };
    World::new(&in_mode(mode, &backends, keys))
}

/// The IP packet that gets to the backend.
fn inside(mode: &str, frame: &[u8]) -> Vec<u8> {
    if mode == "dsr" { frame[ETHERNET..].to_vec() } else { opened(frame, 0).1 }
}

#[test]
fn client_alone_says_how_far_its_flow_has_got() {
    for (mode, _) in MODES {
        let mut world = world(mode, false, "");
        let _ = world.told();
        for (number, hook) in (0..).zip(HOOKS) {
            for is_v6 in [false, true] {
                let (client, vip) = ends(is_v6, 37_000 + number);
                let says = |world: &World, transport, numbers, payload| {
                    let packet =
                        Packet { numbers, payload, ..Packet::between([client, vip], transport) };
                    let (frame, _) = frame(world, packet, 0);
                    let (verdict, _) = world.verdict(hook, world.front, &frame);
                    assert_eq!(verdict, Verdict::ForwardedRequest, "{mode} {hook:?} {transport:?}");
                    world.state(client)
                };
                assert_eq!(says(&world, Transport::Syn, [100, 0], b""), Some("opening"));
                assert_eq!(says(&world, Transport::Bare, [101, 9], b""), Some("established"));
                let row = world.row(client).unwrap();
                assert_eq!(row.backend_address.ip(), backend(mode == "dsr" && is_v6, 0));
                assert_eq!(says(&world, Transport::Ack, [101, 9], b"12345"), Some("established"));
                assert_eq!(says(&world, Transport::Fin, [106, 9], b""), Some("closing"));
                // What it still has to acknowledge goes the same way.
                assert_eq!(says(&world, Transport::Bare, [107, 99], b""), Some("closing"));
                let told = world.told();
                let [opened, closed] = &told[..] else { panic!("{told:?}") };
                assert!(!opened.closed && closed.closed && closed.why == Reason::ClientFin);
                assert_eq!(closed.client, client);
                let there = backend(mode == "dsr" && is_v6, 0);
                assert_eq!(closed.event.backend_address, there.into());
                let family = if there.is_ipv6() { Event::BACKEND_IPV6 } else { 0 };
                assert_eq!(closed.event.what & Event::BACKEND_IPV6, family);
                // A new connection from the same port opens a flow of its own.
                assert_eq!(says(&world, Transport::Syn, [900, 0], b""), Some("opening"));
                world.wait(seconds(10) + 1);
                world.sweep();
                assert_eq!(says(&world, Transport::Udp, [0, 0], b"1"), Some("one-way"));
                assert_eq!(says(&world, Transport::Udp, [0, 0], b"2"), Some("two-way"));
                world.wait(seconds(120) + 1);
                world.sweep();
                world.told();
            }
        }
    }
}

#[test]
fn answers_that_do_come_by_us_are_passed_as_they_came() {
    for (mode, _) in MODES {
        let world = world(mode, false, "");
        for (number, hook) in (0..).zip(HOOKS) {
            for is_v6 in [false, true] {
                let (client, vip) = ends(is_v6, 37_100 + number);
                let (request, _) = frame(&world, Packet::between([client, vip], Transport::Syn), 0);
                world.run(hook, world.front, &request);
                let answer = Packet::between([vip, client], Transport::SynAck);
                let answer = answer.build(world.backend_link());
                let (verdict, output) = world.verdict(hook, world.back, &answer);
                assert_eq!(verdict, Verdict::NoService, "{mode} {hook:?}");
                assert_eq!(output.frame, answer);
                let (verdict, output) = world.verdict(Hook::Egress, world.front, &answer);
                assert_eq!(verdict, Verdict::Outgoing, "{mode} {hook:?}");
                assert_eq!(output.frame, answer);
            }
        }
    }
}

#[test]
fn fragments_are_carried_where_their_first_has_gone() {
    for (mode, _) in MODES {
        for is_outer_v6 in [false, true] {
            let world = world(mode, is_outer_v6, "");
            for (number, hook) in (0..).zip(HOOKS) {
                for is_v6 in [false, true] {
                    let (client, vip) = ends(is_v6, 37_200 + number);
                    let packet =
                        Packet { payload: LARGE, ..Packet::between([client, vip], Transport::Udp) };
                    let came = cut(&packet.build(world.client_link()));
                    let sent = cut(&packet.hops(63).build(world.client_link()));
                    // The first packet opens the flow, the second is of it.
                    for _ in 0..2 {
                        for (came, sent) in came.iter().zip(&sent) {
                            let (verdict, output) = world.verdict(hook, world.front, came);
                            assert_eq!(verdict, Verdict::ForwardedRequest, "{mode} {hook:?}");
                            assert_eq!(output.action, redirect(hook));
                            assert_eq!(
                                inside(mode, &output.frame),
                                sent[ETHERNET..],
                                "{mode} {hook:?}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn packet_that_does_not_fit_with_what_goes_before_it_is_answered_with_the_size_that_does() {
    for (mode, overheads) in MODES {
        for (is_outer_v6, overhead) in [false, true].into_iter().zip(overheads) {
            let world = world(mode, is_outer_v6, "");
            for (number, hook) in (0..).zip(HOOKS) {
                for is_v6 in [false, true] {
                    let (client, vip) = ends(is_v6, 37_300 + number);
                    let there = backend(if mode == "dsr" { is_v6 } else { is_outer_v6 }, 0);
                    let route = format!("{there} dev back");
                    world.netns.ip(&format!("route add {route} mtu lock 1400")).unwrap();
                    let header = if is_v6 { 40 } else { 20 };
                    let fits = 1400 - overhead;
                    for (transport, quoted) in [(Transport::Ack, 20), (Transport::Udp, 8)] {
                        let of = |bytes: usize| {
                            let payload = vec![5; bytes - header - quoted].leak();
                            Packet { payload, ..Packet::between([client, vip], transport) }
                        };
                        let (small, _) = frame(&world, of(fits), 0);
                        let (verdict, _) = world.verdict(hook, world.front, &small);
                        assert_eq!(verdict, Verdict::ForwardedRequest, "{mode} {hook:?} {is_v6}");
                        let (large, _) = frame(&world, of(fits + 1), 0);
                        let (verdict, output) = world.verdict(hook, world.front, &large);
                        assert_eq!(verdict, Verdict::RequestTooBig, "{mode} {hook:?} {is_v6}");
                        assert_eq!(output.action, bounced(hook));
                        let host = if is_v6 { "2001:db8:c::1" } else { "198.51.100.1" };
                        let message = Message {
                            ends: [host.parse().unwrap(), client.ip()],
                            hops: 64,
                            dscp: if is_v6 { 0 } else { 48 },
                            trouble: Trouble::Size(fits as u16),
                            payload: &large[ETHERNET..][..header + quoted],
                        };
                        let expected = message.build(world.sent(Hook::Xdp, world.front));
                        assert_eq!(output.frame, expected, "{mode} {hook:?} {is_v6}");
                    }
                    world.netns.ip(&format!("route del {route}")).unwrap();
                }
            }
        }
    }
}

#[test]
fn errors_about_answers_reach_the_backend_as_they_came() {
    for (mode, _) in MODES {
        for is_outer_v6 in [false, true] {
            let world = world(mode, is_outer_v6, "");
            for (number, hook) in (0..).zip(HOOKS) {
                for is_v6 in [false, true] {
                    let (client, vip) = ends(is_v6, 37_400 + number);
                    let router: IpAddr =
                        if is_v6 { "2001:db8:d::9" } else { "192.0.2.9" }.parse().unwrap();
                    let (request, _) =
                        frame(&world, Packet::between([client, vip], Transport::Syn), 0);
                    world.run(hook, world.front, &request);
                    // What the backend has sent to the client by another way, and a router there could not send on.
                    let lost =
                        Packet::between([vip, client], Transport::Ack).build(world.client_link());
                    for trouble in TROUBLES {
                        let message = |hops| Message {
                            ends: [router, vip.ip()],
                            hops,
                            dscp: 0,
                            trouble,
                            payload: &lost[ETHERNET..],
                        };
                        let came = message(64).build(world.client_link());
                        let (verdict, output) = world.verdict(hook, world.front, &came);
                        assert_eq!(verdict, Verdict::ForwardedErrorToBackend, "{mode} {hook:?}");
                        assert_eq!(output.action, redirect(hook));
                        let sent = message(63).build(world.client_link());
                        assert_eq!(
                            inside(mode, &output.frame),
                            sent[ETHERNET..],
                            "{mode} {trouble:?}"
                        );
                    }
                    // About a request: that is the client's affair already.
                    let own =
                        Packet::between([client, vip], Transport::Ack).build(world.client_link());
                    let message = Message {
                        ends: [router, client.ip()],
                        hops: 64,
                        dscp: 0,
                        trouble: Trouble::Port,
                        payload: &own[ETHERNET..],
                    };
                    let came = message.build(world.backend_link());
                    let (verdict, output) = world.verdict(hook, world.back, &came);
                    assert_eq!((verdict, &output.frame), (Verdict::NotTcpUdp, &came), "{mode}");
                }
            }
        }
    }
}

#[test]
fn packets_on_their_last_hop_are_not_carried_on() {
    for (mode, _) in MODES {
        let world = world(mode, false, "");
        for (number, hook) in (0..).zip(HOOKS) {
            for is_v6 in [false, true] {
                let (client, vip) = ends(is_v6, 37_500 + number);
                let packet = Packet::between([client, vip], Transport::Syn).hops(1);
                let frame = packet.build(world.client_link());
                // Of no flow, and of one.
                for _ in 0..2 {
                    let (verdict, output) = world.verdict(hook, world.front, &frame);
                    assert_eq!(verdict, Verdict::RequestHopLimit, "{mode} {hook:?}");
                    assert_eq!(output.action, bounced(hook));
                }
            }
        }
    }
}

#[test]
fn flows_go_on_in_the_mode_that_they_were_opened_in() {
    let modes = ["nat", "dsr", "ipip", "gue", "full-nat"];
    let both = [backend(false, 0), backend(true, 0)];
    for is_v6 in [false, true] {
        let backends = &both[usize::from(is_v6)..][..1];
        let config = |mode: &str| {
            let other = both[usize::from(!is_v6)];
            // The other family's service needs a backend as well.
            in_mode(mode, &[backends[0], other], "")
        };
        for hook in HOOKS {
            let mut world = World::new(&config(modes[0]));
            let mut seen = Vec::new();
            for (number, mode) in (0..).zip(modes) {
                world.reconfigure(&config(mode));
                let (client, vip) = ends(is_v6, 37_600 + number);
                let (syn, _) = frame(&world, Packet::between([client, vip], Transport::Syn), 0);
                let (ack, _) = frame(&world, Packet::between([client, vip], Transport::Ack), 0);
                world.run(hook, world.front, &syn);
                let output = world.run(hook, world.front, &ack);
                seen.push((ack, output.frame));
            }
            for (ack, sent) in seen {
                let output = world.run(hook, world.front, &ack);
                assert_eq!(output.frame, sent, "{hook:?}");
            }
        }
    }
}
