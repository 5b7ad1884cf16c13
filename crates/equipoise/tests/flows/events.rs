//! What is told of flows: when they open and when they close, once each, with all that was counted; and that
//! nothing hangs on its being told.

use equipoise::dataplane::DataPlane as _;
use equipoise_common::event::Event;
use equipoise_common::flow::count::Pressure;
use equipoise_common::flow::state::MOMENTS_BITS;
use equipoise_common::flow::{Reason, State};
use equipoise_common::key::{TCP, UDP};
use equipoise_common::verdict::Hook;

use crate::bench::{Ends, Transport, families};
use crate::talk::{CONNECTED, EXCHANGED, Line, Side, Talk, ends_of, talks};
use crate::world::{TIMEOUTS, Told, World, seconds, services};

use Side::{Backend, Client};

fn quiet(text: &str) -> String {
    format!("{text}\n[settings]\nevents = false\n")
}

/// The one event that there is.
fn only(mut told: Vec<Told>) -> Told {
    assert_eq!(told.len(), 1, "{told:?}");
    told.remove(0)
}

/// Checks whose event it is.
fn is_about(told: &Told, talk: &Talk, world: &World) {
    let Ends { client, vip, backend } = talk.ends;
    let Event { client: from, vip: to, backend_address, .. } = told.event;
    assert_eq!((from, told.event.client_port.get()), (client.ip().into(), client.port()));
    assert_eq!((to, told.event.vip_port.get()), (vip.ip().into(), vip.port()));
    let address = (backend_address, told.event.backend_port.get());
    assert_eq!(address, (backend.ip().into(), backend.port()));
    assert_eq!(told.event.what & Event::IPV6 != 0, client.is_ipv6());
    assert_eq!(told.event.service, u32::from(client.is_ipv6()));
    assert_eq!(told.event.backend, world.backend_id(backend));
}

#[test]
fn a_connection_is_told_when_it_opens_and_when_it_closes_with_all_that_went_through() {
    let mut world = World::new(&services(TIMEOUTS, 1));
    for mut talk in talks(10_000) {
        let header = if talk.ends.client.is_ipv4() { 20 + 20 } else { 40 + 20 };
        talk.say(&world, Client, Transport::Syn);
        let opened = only(world.told());
        is_about(&opened, &talk, &world);
        let Event { protocol, why, duration, state, handshake, .. } = opened.event;
        assert_eq!(handshake, 0);
        assert!(!opened.closed);
        assert_eq!((protocol, why, duration, state), (TCP, 0, 0, State::Opening as u32));
        assert_eq!((opened.event.packets_in, opened.event.bytes_in), (1, header));
        assert_eq!((opened.event.packets_out, opened.event.bytes_out), (0, 0));
        world.wait(7);
        talk.all(&world, &[CONNECTED[1], CONNECTED[2], (Client, Transport::Ack)]);
        world.wait(100);
        talk.all(&world, &[(Backend, Transport::Ack), (Backend, Transport::Ack)]);
        talk.all(&world, &[(Client, Transport::Fin), (Backend, Transport::Fin)]);
        assert!(world.told().is_empty());
        world.wait(20);
        talk.say(&world, Client, Transport::Bare);
        let closed = only(world.told());
        is_about(&closed, &talk, &world);
        let Event { protocol, duration, state, .. } = closed.event;
        assert_eq!((closed.closed, closed.why), (true, Reason::ClientFin));
        assert_eq!((protocol, duration, state), (TCP, 127, State::Established as u32));
        assert_eq!(closed.event.handshake, 7 << MOMENTS_BITS | 1);
        assert_eq!((closed.event.packets_in, closed.event.bytes_in), (5, 5 * header + 10));
        assert_eq!((closed.event.packets_out, closed.event.bytes_out), (4, 4 * header + 20));
        // It has been told; its end is no news.
        world.wait(seconds(2) + 1);
        let swept = world.sweep();
        assert_eq!((swept.ended, swept.events.len()), (1, 0));
        assert!(world.told().is_empty());
    }
}

#[test]
fn datagrams_are_told_when_the_first_comes_and_when_none_has_come_for_too_long() {
    let mut world = World::new(&services(TIMEOUTS, 1));
    for (number, mut talk) in talks(10_100).into_iter().enumerate() {
        let header = if talk.ends.client.is_ipv4() { 20 + 8 + 10 } else { 40 + 8 + 10 };
        talk.say(&world, Client, Transport::Udp);
        let opened = only(world.told());
        is_about(&opened, &talk, &world);
        assert_eq!((opened.event.protocol, opened.event.state), (UDP, State::OneWay as u32));
        talk.all(&world, &EXCHANGED);
        world.wait(50);
        talk.say(&world, Backend, Transport::Udp);
        world.wait(seconds(5) + 1);
        // By a sweep, or by the next packet.
        let closed = if number % 2 == 0 {
            let swept = world.sweep();
            assert_eq!((swept.ended, swept.events.len()), (1, 1));
            assert!(world.told().is_empty());
            Told::from(swept.events[0])
        } else {
            talk.say(&world, Client, Transport::Udp);
            let mut told = world.told();
            assert!(!told.pop().unwrap().closed);
            only(told)
        };
        is_about(&closed, &talk, &world);
        let Event { protocol, duration, state, .. } = closed.event;
        assert_eq!((closed.closed, closed.why), (true, Reason::Idle));
        assert_eq!((protocol, duration, state), (UDP, 50, State::TwoWay as u32));
        assert_eq!(closed.event.handshake, 0);
        assert_eq!((closed.event.packets_in, closed.event.bytes_in), (3, 3 * header));
        assert_eq!((closed.event.packets_out, closed.event.bytes_out), (2, 2 * header));
        world.wait(seconds(3) + 1);
        world.sweep();
    }
}

#[test]
fn a_flow_that_gives_way_is_told_as_evicted() {
    let mut world = World::sized(&services("", 1), 50);
    let mut evicted = 0;
    for port in 1024..1224 {
        for ends in families(port) {
            Talk::new(Hook::Xdp, ends).say(&world, Client, Transport::Syn);
            let closed = world.told().into_iter().filter(|told| told.closed);
            evicted += closed.inspect(|told| assert_eq!(told.why, Reason::Evicted)).count() as u64;
        }
    }
    assert!(evicted > 100, "{evicted}");
    assert_eq!(world.pressure(Pressure::EvictedUnconfirmed), evicted);
}

#[test]
fn nothing_is_told_of_flows_whose_service_wants_nothing_told() {
    let mut world = World::new(&quiet(&services(TIMEOUTS, 1)));
    for mut talk in talks(10_200) {
        // Opened, closed, and opened where it was over.
        talk.connect(&world);
        talk.say(&world, Client, Transport::Reset);
        assert_eq!(talk.state(&world), Some("closing"));
        talk.connect(&world);
        // Idle, and ended by the first packet of the next.
        world.wait(seconds(10) + 1);
        let expired = world.pressure(Pressure::Expired);
        talk.say(&world, Client, Transport::Syn);
        talk.ends.client.set_port(talk.ends.client.port() + 10);
        talk.exchange(&world);
        world.wait(seconds(5) + 1);
        talk.say(&world, Client, Transport::Udp);
        assert_eq!(world.pressure(Pressure::Expired), expired + 2);
        // And by a sweep.
        world.wait(seconds(10) + 1);
        let swept = world.sweep();
        assert_eq!((swept.ended, swept.events.len()), (2, 0));
        assert!(world.told().is_empty());
    }
    assert_eq!(world.traffic().new_flows, 4 * 5);
    assert_eq!(world.pressure(Pressure::EventsLost), 0);
}

/// The first packets of so many clients.
fn firsts(world: &World, count: u16) -> Vec<Line> {
    let first = |port: u16| {
        let [v4, v6] = families(port);
        let ends = if port.is_multiple_of(2) { v4 } else { v6 };
        let transport = if port % 4 < 2 { Transport::Syn } else { Transport::Udp };
        Talk::new(Hook::Xdp, ends).script(world, &[(Client, transport)])
    };
    (1024..1024 + count).flat_map(first).collect()
}

#[test]
fn events_that_nobody_reads_are_lost_and_counted() {
    let mut world = World::sized(&services("", 1), 50_000);
    const FLOWS: u16 = 12_000;
    world.batch(&firsts(&world, FLOWS));
    assert_eq!(world.traffic().new_flows, u64::from(FLOWS), "and nothing else is lost");
    let lost = world.pressure(Pressure::EventsLost);
    let told = world.told().len() as u64;
    assert_eq!(told + lost, u64::from(FLOWS));
    assert!(lost > 1000 && told > 5000, "{lost} of {FLOWS}");
    // Once they have been read, there is room again.
    let [ends, _] = families(60_000);
    Talk::new(Hook::Xdp, ends).say(&world, Client, Transport::Syn);
    only(world.told());
    assert_eq!(world.pressure(Pressure::EventsLost), lost);
}

#[test]
fn what_is_told_changes_no_choice() {
    let mut loud = World::sized(&services("", 8), 50_000);
    let mut mute = World::sized(&quiet(&services("", 8)), 50_000);
    const FLOWS: u16 = 6_000;
    let picks = |world: &World| -> Vec<_> {
        world.batch(&firsts(world, FLOWS)).iter().map(|output| ends_of(&output.frame)).collect()
    };
    assert_eq!(picks(&loud), picks(&mute));
    assert_eq!(loud.told().len(), usize::from(FLOWS));
    assert!(mute.told().is_empty());
    assert_eq!(mute.pressure(Pressure::EventsLost), 0);
    assert_eq!(loud.counts(), mute.counts());
    // Told from now on, and of flows that were there before, too.
    mute.reconfigure(&services("timeouts = { tcp-opening = '1s', udp-one-way = '1s' }", 8));
    mute.wait(seconds(1) + 1);
    let swept = mute.sweep();
    assert_eq!((swept.ended, swept.events.len()), (u64::from(FLOWS), usize::from(FLOWS)));
    // And not any more.
    loud.reconfigure(&quiet(&services("timeouts = { tcp-opening = '1s', udp-one-way = '1s' }", 8)));
    loud.wait(seconds(1) + 1);
    let swept = loud.sweep();
    assert_eq!((swept.ended, swept.events.len()), (u64::from(FLOWS), 0));
    assert_eq!(loud.kernel.occupancy().live, 0);
}
