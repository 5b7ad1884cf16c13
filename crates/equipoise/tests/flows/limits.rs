//! Live flows that a service and a backend may have: honoured to the one.

use equipoise::dataplane::DataPlane as _;
use equipoise_common::flow::count::Pressure;
use equipoise_common::verdict::Verdict;

use crate::bench::{BACKEND, BACKEND6, Transport};
use crate::talk::{Side, Talk, bounced, ends_of, talks};
use crate::world::{TIMEOUTS, World, numbered, seconds, services};

use Side::Client;

fn limited(more: &str) -> String {
    services(&format!("{TIMEOUTS}\n{more}"), 1)
}

/// Talks like this one, from ports after its own.
fn others(talk: Talk, count: u16) -> impl Iterator<Item = Talk> {
    (0..count).map(move |number| {
        let mut other = talk;
        other.ends.client.set_port(talk.ends.client.port() + number);
        other
    })
}

#[test]
fn a_service_has_as_many_flows_as_it_may_and_not_one_more() {
    const MOST: u16 = 5;
    let mut world = World::new(&limited("max-flows = 5\non-empty = 'drop'"));
    for (number, hook) in (1..).zip(crate::world::HOOKS) {
        for first in talks(9000).into_iter().filter(|talk| talk.hook == hook) {
            let mut flows: Vec<Talk> = others(first, MOST).collect();
            for (number, talk) in (0..).zip(&mut flows) {
                // Of whatever kind.
                if number % 2 == 0 { talk.connect(&world) } else { talk.exchange(&world) }
            }
            let refused = world.pressure(Pressure::RefusedService);
            for (tried, transport) in (1..).zip([Transport::Syn, Transport::Udp, Transport::Ack]) {
                let mut sixth = first;
                sixth.ends.client.set_port(9900);
                let packet = sixth.packet(Client, transport);
                sixth.is_dropped(&world, Client, packet, Verdict::FlowLimit);
                assert_eq!(world.pressure(Pressure::RefusedService), refused + tried);
            }
            // Those that are there go on, one that has closed is there still, and its end makes room for one.
            for (number, talk) in (0..).zip(&mut flows) {
                talk.say(
                    &world,
                    Client,
                    if number % 2 == 0 { Transport::Ack } else { Transport::Udp },
                );
            }
            flows[0].say(&world, Client, Transport::Reset);
            let mut next = first;
            next.ends.client.set_port(9901);
            let packet = next.packet(Client, Transport::Syn);
            next.is_dropped(&world, Client, packet, Verdict::FlowLimit);
            world.wait(seconds(2) + 1);
            assert_eq!(world.sweep().ended, 1);
            next.connect(&world);
            let packet = first.packet(Client, Transport::Syn);
            first.is_dropped(&world, Client, packet, Verdict::FlowLimit);
            assert_eq!(world.rows().len(), usize::from(MOST));
            world.wait(seconds(11));
            assert_eq!(world.sweep().ended, u64::from(MOST));
        }
        assert_eq!(world.counts(), (0, 0));
        assert_eq!(world.pressure(Pressure::RefusedService), number * 10);
    }
    // Of the others' counts there is nothing left over.
    assert_eq!(world.pressures().len(), 1, "{:?}", world.pressures());
}

#[test]
fn a_flow_beyond_a_limit_is_treated_as_one_without_a_backend() {
    for empty in ["reset", "pass"] {
        let world = World::new(&limited(&format!("max-flows = 1\non-empty = '{empty}'")));
        for (number, mut first) in (0..).zip(talks(9100)) {
            if number < 2 {
                first.connect(&world);
                continue;
            }
            for transport in [Transport::Syn, Transport::Ack] {
                let packet = first.packet(Client, transport);
                if empty == "reset" {
                    first.is_reset(&world, Client, packet, Verdict::ResetNoBackend);
                } else {
                    first.is_passed(&world, Client, packet, Verdict::NoBackendPassed);
                }
            }
            let packet = first.packet(Client, Transport::Udp);
            let (verdict, output) = first.send(&world, Client, packet);
            if empty == "reset" {
                let answered = (Verdict::UnreachableNoBackend, bounced(first.hook));
                assert_eq!((verdict, output.action), answered);
            } else {
                assert_eq!(verdict, Verdict::NoBackendPassed);
            }
        }
        assert_eq!(world.counts(), (2, 2));
        assert_eq!(world.pressure(Pressure::RefusedService), 6);
    }
}

#[test]
fn a_changed_limit_ends_nothing_and_holds_for_what_comes() {
    let mut world = World::new(&limited("max-flows = 2\non-empty = 'drop'"));
    for first in talks(9200).into_iter().step_by(3) {
        let mut flows: Vec<Talk> = others(first, 5).collect();
        let (some, more) = flows.split_at_mut(2);
        some.iter_mut().for_each(|talk| talk.connect(&world));
        world.reconfigure(&limited("max-flows = 4\non-empty = 'drop'"));
        let (more, last) = more.split_at_mut(2);
        more.iter_mut().for_each(|talk| talk.connect(&world));
        let packet = last[0].packet(Client, Transport::Syn);
        last[0].is_dropped(&world, Client, packet, Verdict::FlowLimit);
        world.reconfigure(&limited("max-flows = 2\non-empty = 'drop'"));
        last[0].is_dropped(&world, Client, packet, Verdict::FlowLimit);
        for talk in some.iter_mut().chain(more) {
            talk.say(&world, Client, Transport::Ack);
        }
        world.reconfigure(&limited(""));
        last[0].connect(&world);
        world.reconfigure(&limited("max-flows = 2\non-empty = 'drop'"));
    }
    assert_eq!(world.counts(), (10, 10));
}

/// Two backends, each with room for three flows.
fn pair(more: &str) -> String {
    services(&format!("{TIMEOUTS}\n{more}"), 2).replace("8080' }", "8080', max-flows = 3 }")
}

#[test]
fn a_backend_has_as_many_flows_as_it_may_and_the_next_one_takes_the_others() {
    let mut world = World::new(&pair("on-empty = 'drop'"));
    let free = World::new(&services("", 2));
    for first in talks(9300) {
        let family = if first.ends.client.is_ipv4() { BACKEND } else { BACKEND6 };
        let backends = [0, 1].map(|number| numbered(family, number));
        let ids = backends.map(|address| world.backend_id(address));
        let before = [Pressure::MovedOn, Pressure::RefusedBackend].map(|p| world.pressure(p));
        let mut counts = [0_u64; 2];
        let mut moved = 0;
        for mut talk in others(first, 6) {
            // Where it would go if there were no limits.
            let (_, output) = talk.send(&free, Client, talk.packet(Client, Transport::Syn));
            let wanted = backends.iter().position(|&b| b == ends_of(&output.frame)[1]).unwrap();
            let taken = if counts[wanted] == 3 { 1 - wanted } else { wanted };
            moved += u64::from(taken != wanted);
            counts[taken] += 1;
            talk.ends.backend = backends[taken];
            talk.connect(&world);
            assert_eq!(ids.map(|id| world.kernel.live_flows(id)), counts);
        }
        assert_eq!(counts, [3, 3]);
        let mut seventh = first;
        seventh.ends.client.set_port(9950);
        for transport in [Transport::Syn, Transport::Udp] {
            let packet = seventh.packet(Client, transport);
            seventh.is_dropped(&world, Client, packet, Verdict::FlowLimit);
        }
        let after = [Pressure::MovedOn, Pressure::RefusedBackend].map(|p| world.pressure(p));
        assert_eq!([after[0] - before[0], after[1] - before[1]], [moved, 2], "{first:?}");
        world.wait(seconds(11));
        assert_eq!(world.sweep().ended, 6);
        assert_eq!(ids.map(|id| world.kernel.live_flows(id)), [0, 0]);
    }
    assert_eq!(world.pressures().len(), 2, "{:?}", world.pressures());
}

#[test]
fn what_is_past_its_time_counts_until_it_is_ended() {
    let mut world = World::new(&pair("on-empty = 'reset'"));
    for first in talks(9400) {
        let flows: Vec<Talk> = others(first, 7).collect();
        let (seventh, six) = flows.split_last().unwrap();
        for talk in six {
            let (verdict, _) = talk.send(&world, Client, talk.packet(Client, Transport::Syn));
            assert_eq!(verdict, Verdict::ForwardedRequest);
        }
        let packet = seventh.packet(Client, Transport::Syn);
        seventh.is_reset(&world, Client, packet, Verdict::ResetNoBackend);
        world.wait(seconds(1) + 1);
        seventh.is_reset(&world, Client, packet, Verdict::ResetNoBackend);
        assert_eq!(world.sweep().ended, 6);
        assert_eq!(seventh.send(&world, Client, packet).0, Verdict::ForwardedRequest);
        world.wait(seconds(2));
        assert_eq!(world.sweep().ended, 1);
    }
}
