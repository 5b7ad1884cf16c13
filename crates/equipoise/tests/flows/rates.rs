//! How many new flows a source and a backend get in a second, to the token; and who gets none at all.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::{Clock, Expiry, Input};
use equipoise_common::flow::Reason;
use equipoise_common::flow::count::Pressure;
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_lab::cpu::pin;
use equipoise_lab::scale;

use crate::bench::{BACKEND, BACKEND6, Bench, Transport};
use crate::talk::{Side, Talk, ends_of, talks};
use crate::world::{HOOKS, TIMEOUTS, World, numbered, seconds, services};

use Side::{Backend, Client};

fn limited(limits: &str, backends: u16) -> String {
    services(&format!("{TIMEOUTS}\nlimits = {{ {limits} }}"), backends)
}

/// The same talk, from the port that is so many after its own.
pub(crate) fn next(mut talk: Talk, number: u16) -> Talk {
    talk.ends.client.set_port(talk.ends.client.port() + number);
    talk
}

/// The same talk, from another client.
fn from(mut talk: Talk, v4: &str, v6: &str) -> Talk {
    let ip = if talk.ends.client.is_ipv4() { v4 } else { v6 };
    talk.ends.client.set_ip(ip.parse().unwrap());
    talk
}

/// Whether the first packet of a talk gets through; if not, with this verdict.
fn opens(world: &World, talk: &Talk, transport: Transport, otherwise: Verdict) -> bool {
    let packet = talk.packet(Client, transport);
    let (verdict, _) = talk.send(world, Client, packet);
    if verdict == Verdict::ForwardedRequest {
        return true;
    }
    assert_eq!(verdict, otherwise, "{talk:?}");
    talk.is_dropped(world, Client, packet, otherwise);
    false
}

/// How many of so many talks after this one open.
fn opened(world: &World, talk: Talk, tried: u16, otherwise: Verdict) -> u16 {
    const KINDS: [Transport; 3] = [Transport::Syn, Transport::Udp, Transport::Ack];
    let open = |&number: &u16| {
        opens(world, &next(talk, number), KINDS[usize::from(number % 3)], otherwise)
    };
    (0..tried).filter(open).count() as u16
}

#[test]
fn a_source_has_its_burst_and_then_its_rate() {
    let mut world = World::new(&limited("per-source = { rate = 2, burst = 5 }", 1));
    for first in talks(20_000) {
        // Of whatever kind, and one more only when its time has come.
        assert_eq!(opened(&world, first, 9, Verdict::SourceLimit), 5, "{first:?}");
        let (half, late) = (seconds(1) / 2, next(first, 10));
        world.wait(half - 2);
        assert_eq!(opened(&world, late, 2, Verdict::SourceLimit), 0);
        world.wait(4);
        assert_eq!(opened(&world, late, 3, Verdict::SourceLimit), 1);
        // Packets of flows that are there are not asked, nor is another source.
        let mut there = next(first, 100);
        world.wait(seconds(1));
        there.connect(&world);
        assert_eq!(opened(&world, next(first, 200), 3, Verdict::SourceLimit), 1);
        for _ in 0..10 {
            there.all(&world, &[(Client, Transport::Ack), (Backend, Transport::Ack)]);
        }
        let other = from(first, "198.51.100.8", "2001:db8:c:1::7");
        assert_eq!(opened(&world, other, 6, Verdict::SourceLimit), 5);
        // It is filled to its burst and no further.
        world.wait(seconds(12));
        assert_eq!(opened(&world, next(first, 300), 9, Verdict::SourceLimit), 5);
        world.wait(seconds(12));
        world.sweep();
    }
    assert!(world.kernel_verdicts(Verdict::SourceLimit) > 0);
}

#[test]
fn first_packet_that_comes_again_costs_nothing() {
    let mut world = World::new(&limited("per-source = { rate = 1, burst = 1 }", 1));
    for talk in talks(20_400) {
        world.wait(seconds(11));
        for _ in 0..3 {
            assert!(opens(&world, &talk, Transport::Syn, Verdict::SourceLimit));
        }
        assert!(!opens(&world, &next(talk, 1), Transport::Syn, Verdict::SourceLimit));
        // A RST opens nothing.
        let packet = next(talk, 2).packet(Client, Transport::Reset);
        assert_eq!(next(talk, 2).send(&world, Client, packet).0, Verdict::ForwardedRequest);
    }
}

#[test]
fn addresses_of_one_prefix_are_one_source() {
    let limits = "per-source = { rate = 1, burst = 4, prefix = { v4 = 25, v6 = 48 } }";
    let mut world = World::new(&limited(limits, 1));
    for talk in talks(20_500) {
        world.wait(seconds(11));
        let same = from(talk, "198.51.100.127", "2001:db8:c:ffff::1");
        let other = from(talk, "198.51.100.128", "2001:db8:d::7");
        assert_eq!(opened(&world, talk, 3, Verdict::SourceLimit), 3);
        assert_eq!(opened(&world, same, 3, Verdict::SourceLimit), 1);
        assert_eq!(opened(&world, other, 6, Verdict::SourceLimit), 4);
    }
    // By default an IPv6 source is a /64.
    world.reconfigure(&limited("per-source = { rate = 1, burst = 4 }", 1));
    for talk in talks(20_600) {
        world.wait(seconds(11));
        let near = from(talk, "198.51.100.6", "2001:db8:c::8");
        assert_eq!(opened(&world, talk, 6, Verdict::SourceLimit), 4);
        let expected = if talk.ends.client.is_ipv4() { 4 } else { 0 };
        assert_eq!(opened(&world, near, 6, Verdict::SourceLimit), expected);
    }
}

#[test]
fn a_backend_over_its_rate_leaves_new_flows_to_the_next_one() {
    let mut world = World::new(&limited("per-backend = { rate = 1, burst = 3 }", 2));
    let free = World::new(&services("", 2));
    for first in talks(20_700) {
        world.wait(seconds(11));
        world.sweep();
        let family = if first.ends.client.is_ipv4() { BACKEND } else { BACKEND6 };
        let backends = [0, 1].map(|number| numbered(family, number));
        let moved = world.pressure(Pressure::MovedOn);
        let (mut counts, mut elsewhere) = ([0; 2], 0);
        for number in 0..6 {
            let talk = next(first, number);
            let packet = talk.packet(Client, Transport::Syn);
            let [wanted, taken] = [&free, &world].map(|world| {
                let (verdict, output) = talk.send(world, Client, packet);
                assert_eq!(verdict, Verdict::ForwardedRequest);
                backends.iter().position(|&backend| backend == ends_of(&output.frame)[1]).unwrap()
            });
            counts[taken] += 1;
            elsewhere += u64::from(wanted != taken);
        }
        assert_eq!(counts, [3, 3]);
        assert_eq!(world.pressure(Pressure::MovedOn) - moved, elsewhere);
        assert_eq!(opened(&world, next(first, 10), 4, Verdict::BackendLimit), 0);
        world.wait(seconds(1) + 1);
        assert_eq!(opened(&world, next(first, 20), 6, Verdict::BackendLimit), 2);
    }
    // Both hooks and both families, six tries each.
    assert_eq!(world.kernel_verdicts(Verdict::BackendLimit), 4 * 2 * (4 + 4));
}

#[test]
fn limits_of_the_settings_hold_for_services_that_have_none_of_their_own() {
    let common = "\n[settings.limits]\nper-source = { rate = 1, burst = 2 }\n";
    let with = |own: &str| limited(own, 1) + common;
    let mut world = World::new(&with("per-source = { burst = 3 }"));
    for (own, expected) in
        [("per-source = { burst = 3 }", 3), ("", 2), ("per-source = { rate = 0 }", 8)]
    {
        world.reconfigure(&with(own));
        for talk in talks(20_900) {
            world.wait(seconds(11));
            world.sweep();
            assert_eq!(opened(&world, talk, 8, Verdict::SourceLimit), expected, "{own}");
        }
    }
}

#[test]
fn the_longest_prefix_decides_who_is_let_in_and_a_tie_denies() {
    let own = "allow = ['198.51.0.0/16', '2001:db8:c::/48', '198.51.100.9', '2001:db8:c:9::/64'], \
               deny = ['198.51.100.0/25', '2001:db8:c::/64', '198.51.100.9', '2001:db8:c:9::/64']";
    let common = "\n[settings.limits]\n\
                  deny = ['198.51.100.8/29', '2001:db8:c:8::/61', '198.51.200.0/24', '2001:db8:c:f000::/52']\n\
                  allow = ['198.51.100.12', '2001:db8:c:c::/64', '192.0.2.0/24', 'fd00::/8']\n";
    let mut world = World::new(&(limited(own, 1) + common));
    let who = [
        ("198.51.0.1", "2001:db8:c:1::1", true), // The service allows it.
        ("198.51.100.7", "2001:db8:c::7", false), // The service denies a longer prefix.
        ("198.51.100.9", "2001:db8:c:9::1", false), // Both, with the same prefix.
        ("198.51.100.12", "2001:db8:c:c::1", true), // The settings allow the longest.
        ("198.51.100.13", "2001:db8:c:d::1", false), // They deny what the service allows with a shorter prefix.
        ("198.51.200.1", "2001:db8:c:f001::1", false),
        ("192.0.2.1", "fd00::1", true), // The settings allow it, the service says nothing.
        ("203.0.113.1", "2001:db9::1", false), // Nobody allows it.
    ];
    for (v4, v6, is_let_in) in who {
        for talk in talks(21_000) {
            for transport in [Transport::Syn, Transport::Udp, Transport::Ack, Transport::Reset] {
                let talk = from(talk, v4, v6);
                let let_in = opens(&world, &talk, transport, Verdict::SourceDenied);
                assert_eq!(let_in, is_let_in, "{v4} {transport:?}");
            }
        }
    }
    // Without an allowed prefix, those of no prefix are let in.
    world.reconfigure(&limited("deny = ['198.51.100.0/25', '2001:db8:c::/64']", 1));
    for talk in talks(21_100) {
        assert!(!opens(&world, &talk, Transport::Syn, Verdict::SourceDenied));
        let other = from(talk, "203.0.113.1", "2001:db9::1");
        assert!(opens(&world, &other, Transport::Syn, Verdict::SourceDenied));
    }
    world.reconfigure(&limited("", 1));
    for talk in talks(21_200) {
        assert!(opens(&world, &talk, Transport::Syn, Verdict::SourceDenied));
    }
}

#[test]
fn a_hundred_thousand_prefixes_are_in_force_at_once() {
    const COUNT: u32 = 100_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deny.txt");
    // Of different lengths, in no order, all about the client.
    let prefix = |at: u32| {
        let address = 0xc000_0000 + at.wrapping_mul(0x9e37_79b1) % 0x0fff_ffff;
        let bits = 20 + at % 13;
        format!("{}/{bits}\n", Ipv4Addr::from(address & (u32::MAX << (32 - bits))))
    };
    let mut list: String = (0..COUNT).map(prefix).collect();
    list.push_str("2001:db8:c::/48\n");
    std::fs::write(&path, list).unwrap();
    let own = "deny = ['198.51.100.7'], allow = ['198.51.100.8', '2001:db8:c::8']";
    let common = format!("\n[settings.limits]\ndeny = ['@{}']\n", path.display());
    let mut world = World::new(&limited("", 1));
    let start = Instant::now();
    world.reconfigure(&(limited(own, 1) + &common));
    let applied = start.elapsed();
    for talk in talks(21_500) {
        assert!(!opens(&world, &talk, Transport::Syn, Verdict::SourceDenied));
        let other = from(talk, "198.51.100.8", "2001:db8:c::8");
        assert!(opens(&world, &other, Transport::Syn, Verdict::SourceDenied));
    }
    let start = Instant::now();
    world.reconfigure(&limited("", 1));
    eprintln!("applied in {applied:?}, removed in {:?}", start.elapsed());
    for talk in talks(21_500) {
        assert!(opens(&world, &talk, Transport::Syn, Verdict::SourceDenied));
    }
}

fn cut(world: &mut World) -> Expiry {
    let netns = world.netns.clone();
    netns.run(|| world.kernel.cut_denied())
}

#[test]
fn deny_ends_flows_that_are_there_and_their_packets_are_refused() {
    let mut world = World::new(&limited("", 1));
    let mut flows = talks(21_300);
    let mut others: Vec<Talk> =
        flows.iter().map(|&talk| from(talk, "198.51.100.8", "2001:db8:c::8")).collect();
    for client in ["198.51.100.8", "2001:db8:c::8"] {
        let neighbour = format!("neigh replace {client} lladdr 02:00:00:00:00:07 dev front");
        world.netns.ip(&neighbour).unwrap();
    }
    for talk in flows.iter_mut().chain(&mut others) {
        talk.connect(&world);
    }
    let mut datagrams = next(flows[0], 50);
    datagrams.exchange(&world);
    world.told();
    assert_eq!(cut(&mut world).cut, 0);
    world.reconfigure(&limited("deny = ['198.51.100.7', '2001:db8:c::7']", 1));
    let expiry = cut(&mut world);
    assert_eq!((expiry.cut, expiry.resets.len()), (5, 4));
    assert!(expiry.events.iter().all(|event| event.why == Reason::Denied as u32));
    assert_eq!(expiry.events.len(), 5);
    for talk in &flows {
        assert_eq!(talk.state(&world), None);
        for transport in [Transport::Ack, Transport::Fin, Transport::Reset, Transport::Syn] {
            let packet = talk.packet(Client, transport);
            talk.is_dropped(&world, Client, packet, Verdict::SourceDenied);
        }
    }
    let packet = datagrams.packet(Client, Transport::Udp);
    datagrams.is_dropped(&world, Client, packet, Verdict::SourceDenied);
    for talk in &mut others {
        talk.all(&world, &[(Client, Transport::Ack), (Backend, Transport::Ack)]);
    }
    // What is kept out because nobody allows it is not cut off.
    world.reconfigure(&limited("allow = ['192.0.2.1']", 1));
    assert_eq!(cut(&mut world).cut, 0);
    for talk in &mut others {
        talk.say(&world, Client, Transport::Ack);
        let new = next(*talk, 100);
        assert!(!opens(&world, &new, Transport::Syn, Verdict::SourceDenied));
    }
    assert_eq!(world.counts(), (4, 4));
}

/// First packets of flows, each of another one: clients of a /24, and all their ports.
struct Stream {
    frame: Vec<u8>,
    interface: u32,
    number: u32,
}

impl Stream {
    /// The odd ones or the even ones, so that two have none in common.
    fn new(world: &World, cpu: usize) -> Self {
        let talk = talks(9).remove(0);
        let (interface, frame) = talk.frame(world, Client, talk.packet(Client, Transport::Syn));
        Self { frame, interface, number: cpu as u32 }
    }

    fn next(&mut self) -> Input<'_> {
        /// Where the last byte of the source and the source port are.
        const SOURCE: usize = 14 + 15;
        const PORT: usize = 14 + 20;
        self.number += 2;
        self.frame[SOURCE] = (self.number >> 16) as u8;
        self.frame[PORT..PORT + 2].copy_from_slice(&(self.number as u16).to_be_bytes());
        Input { frame: &self.frame, interface: self.interface, repeat: 1 }
    }
}

#[test]
fn two_busy_cpus_at_one_bucket_get_its_rate_to_a_hundredth() {
    // A rate, and how many tokens are to come; time goes by as the packets do.
    for (rate, least) in
        [(1, 300), (7, 400), (1_000, 20_000), (30_011, 20_000), (1_000_000, 60_000)]
    {
        let tokens = scale(least, 50 * least);
        for what in ["per-source", "per-backend"] {
            // Twice as many as come in a step of the clock, which is coarse here.
            // And no more than ten seconds bring, which is all that a bucket gets however long nobody has asked it.
            let burst = (tokens / 100).max(8).max(3 * rate / 1_000).min(10 * rate);
            let prefix = if what == "per-source" { ", prefix = { v4 = 24 }" } else { "" };
            let config =
                limited(&format!("{what} = {{ rate = {rate}, burst = {burst}{prefix} }}"), 1);
            let mut world = World::sized(&config, 5_000);
            world.wait(seconds(11));
            let runner = world.kernel.runner(Hook::Xdp).unwrap();
            let netns = world.netns.clone();
            let (sent, over) = (AtomicU64::new(0), AtomicBool::new(false));
            let mut ticks = 0_u64;
            thread::scope(|scope| {
                for cpu in 0..HOOKS.len() {
                    let mut stream = Stream::new(&world, cpu);
                    let (netns, runner, sent, over) = (&netns, &runner, &sent, &over);
                    scope.spawn(move || {
                        netns.run(|| {
                            pin(cpu);
                            while !over.load(Ordering::Acquire) {
                                runner.run(stream.next()).unwrap();
                                sent.fetch_add(1, Ordering::Release);
                            }
                        });
                    });
                }
                // Two packets for each token, so that the bucket is always asked too much.
                let end = (tokens * 1_000_000_000 / rate) >> 20;
                let step = ((burst / 2 * 1_000_000_000 / rate) >> 20).max(1);
                let more: u64 = burst + 64;
                while ticks < end {
                    let due = sent.load(Ordering::Acquire) + more;
                    while sent.load(Ordering::Acquire) < due {
                        thread::yield_now();
                    }
                    world.wait(step as u32);
                    ticks += step;
                }
                // What is under way has seen the last step.
                let last = sent.load(Ordering::Acquire) + 20_000;
                while sent.load(Ordering::Acquire) < last {
                    thread::yield_now();
                }
                over.store(true, Ordering::Release);
            });
            let verdict =
                if what == "per-source" { Verdict::SourceLimit } else { Verdict::BackendLimit };
            let refused = world.kernel_verdicts(verdict);
            let had = sent.load(Ordering::Acquire) - refused;
            let right = (ticks << 20) as f64 * rate as f64 / 1e9 + burst as f64;
            let off = (had as f64 - right) / right;
            eprintln!(
                "{what} {rate}/s: {had} of {right:.0}, {:+.3} %, {refused} refused",
                off * 100.0
            );
            // Never more, but for a microsecond of the clock; and less by what is rounded off and one that is not whole.
            assert!(had as f64 <= right + rate as f64 / 1e6, "{what} {rate}/s: {had} of {right}");
            assert!(had as f64 >= 0.999 * right - 2.0, "{what} {rate}/s: {had} of {right}");
        }
    }
}

#[test]
fn by_the_real_clock_a_source_has_its_rate() {
    const RATE: u64 = 4_000;
    let config = limited(
        &format!("per-source = {{ rate = {RATE}, burst = 800, prefix = {{ v4 = 24 }} }}"),
        1,
    );
    let bench = Bench::timed(&config, 5_000, Clock::Kernel);
    let runner = bench.kernel.runner(Hook::Xdp).unwrap();
    let talk = talks(9).remove(0);
    let frame = talk.packet(Client, Transport::Syn).build(bench.client_link());
    let mut stream = Stream { frame, interface: bench.front, number: 0 };
    bench.netns.run(|| {
        let mut had = |until: Duration| {
            let start = Instant::now();
            let mut sent = 0;
            let before = refused(&bench);
            while start.elapsed() < until {
                runner.run(stream.next()).unwrap();
                sent += 1;
            }
            (sent - (refused(&bench) - before), start.elapsed())
        };
        // Until the burst is gone. Longer pauses than it lasts for, a busy machine does not make.
        had(Duration::from_millis(500));
        let (had, took) = had(Duration::from_secs(scale(1, 10)));
        let right = RATE as f64 * took.as_secs_f64();
        assert!((had as f64 - right).abs() <= 0.01 * right + 1.0, "{had} of {right}");
    });
}

/// Packets of a source that has had its rate.
fn refused(bench: &Bench) -> u64 {
    let counted = bench.kernel.verdicts().unwrap();
    counted
        .iter()
        .filter(|(_, verdict, _)| *verdict == Verdict::SourceLimit)
        .map(|(_, _, n)| n)
        .sum()
}
