//! Both CPUs at once at one table, and a sweep beside them: the same flows, and flows that share nothing. And both at
//! the last place that a limit leaves, or at one name.
//!
//! Time goes by as fast as it does, so that the table's graces hold. Afterwards no flow is lost or there twice, each
//! leads to its backend and back, counts are exact, and of each flow was told that it opened and that it closed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::{FlowRow, Input, Output, Part, Runner};
use equipoise_common::flow::count::Pressure;
use equipoise_common::key::UDP;
use equipoise_common::value::Traffic;
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_lab::cpu::pin;
use equipoise_lab::{Netns, scale};

use crate::bench::{BACKEND, BACKEND6, Ends, Packet, Transport, families};
use crate::exact::agree;
use crate::names::{pairs, through};
use crate::talk::{Line, Side, Talk, ends_of};
use crate::world::{Dice, HOOKS, World, numbered, seconds, services};

use Side::{Backend, Client};

const BACKENDS: u16 = 4;
const CPUS: usize = 2;

/// Short ones, which flows that are seldom heard of do not outlive.
const TIMEOUTS: &str = "timeouts = { tcp-opening = '100ms', tcp-established = '200ms', \
    tcp-closing = '100ms', udp-one-way = '100ms', udp-two-way = '150ms' }";

/// Packets of one flow, ready to be sent.
struct Frames {
    lines: Vec<Line>,
}

/// All that the ends of some flows say: what opens, confirms, closes, and is answered by whichever backend.
fn frames(world: &World, ports: std::ops::Range<u16>) -> Vec<Frames> {
    let lines = |port: u16| {
        let mut lines = Vec::new();
        let hook = HOOKS[usize::from(port % 2)];
        for ends in families(port) {
            let mut talk = Talk::new(hook, ends);
            let first = if ends.client.is_ipv4() { BACKEND } else { BACKEND6 };
            let mut say = |talk: &mut Talk, side, transport| {
                let packet = talk.next(side, transport);
                let froms = if side == Backend { BACKENDS } else { 1 };
                for number in 0..froms {
                    let from = if side == Backend { numbered(first, number) } else { packet.from };
                    let (device, frame) = talk.frame(world, side, Packet { from, ..packet });
                    lines.push((hook, device, frame));
                }
            };
            for (side, transport) in [
                (Client, Transport::Syn),
                (Backend, Transport::SynAck),
                (Client, Transport::Bare),
                (Client, Transport::Reset),
                (Client, Transport::Ack),
                (Backend, Transport::Ack),
                (Client, Transport::Fin),
                (Backend, Transport::Fin),
                (Client, Transport::Bare),
                (Client, Transport::Udp),
                (Backend, Transport::Udp),
            ] {
                say(&mut talk, side, transport);
            }
        }
        Frames { lines }
    };
    ports.map(lines).collect()
}

/// Sends packets of these flows at random, on one CPU.
fn hammer(netns: &Netns, runners: &[Runner; 2], flows: &[&Frames], cpu: usize, packets: u64) {
    netns.run(|| {
        pin(cpu);
        let mut dice = Dice::new(cpu as u64 + 77);
        for _ in 0..packets {
            let frames = flows[dice.below(flows.len() as u32) as usize];
            send(runners, &frames.lines[dice.below(frames.lines.len() as u32) as usize]);
        }
    });
}

/// Sends a packet; for a thread that is in the namespace.
fn send(runners: &[Runner; 2], (hook, interface, frame): &Line) {
    let runner = &runners[usize::from(*hook != Hook::Xdp)];
    runner.run(Input { frame, interface: *interface, repeat: 1 }).unwrap();
}

/// What has been told so far.
#[derive(Default)]
struct Heard {
    opened: u64,
    closed: u64,
}

impl World {
    fn listen(&mut self, heard: &mut Heard) {
        for told in self.told() {
            *if told.closed { &mut heard.closed } else { &mut heard.opened } += 1;
        }
    }

    /// Runs threads on all CPUs, and sweeps until they are done.
    fn under(&mut self, heard: &mut Heard, work: impl Fn(usize) + Sync) {
        let running = AtomicU32::new(CPUS as u32);
        thread::scope(|scope| {
            for cpu in 0..CPUS {
                let (work, running) = (&work, &running);
                scope.spawn(move || {
                    let _done = Countdown(running);
                    work(cpu);
                });
            }
            let (start, mut gone) = (Instant::now(), 0);
            while running.load(Ordering::Acquire) > 0 {
                let now = (start.elapsed().as_nanos() >> 20) as u32;
                self.wait(now - gone);
                gone = now;
                let swept = self.kernel.sweep(Part::OneOf(64));
                heard.closed += swept.events.len() as u64;
                self.listen(heard);
            }
        });
    }
}

/// Counts down also where a thread panics.
struct Countdown<'a>(&'a AtomicU32);

impl Drop for Countdown<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// Waits until a number has got so far.
fn wait_for(number: &AtomicU32, least: u32) {
    while number.load(Ordering::Acquire) < least {
        thread::yield_now();
    }
}

/// Lets nobody wait for a number any more where a thread panics.
struct Panicked<'a>(&'a AtomicU32);

impl Drop for Panicked<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fetch_or(1 << 31, Ordering::Release);
        }
    }
}

/// Checks that both entries of a flow lead to its ends, and those of no other.
fn lead_to_their_ends(world: &World, rows: &[FlowRow]) {
    let mut talks = Vec::new();
    let mut lines = Vec::new();
    for row in rows {
        let ends = Ends { client: row.client, vip: row.vip, backend: row.backend_address };
        let mut talk = Talk::new(Hook::Xdp, ends);
        let transport = if row.protocol == UDP { Transport::Udp } else { Transport::Bare };
        lines.extend(talk.script(world, &[(Client, transport)]));
        talks.push((talk, transport));
    }
    let mut names = BTreeSet::new();
    let mut changed = 0;
    let requests = world.batch(&lines);
    let answer = |((talk, transport), output): (&(Talk, Transport), &Output)| {
        let Ends { client, backend, .. } = talk.ends;
        let [name, to] = ends_of(&output.frame);
        assert_eq!((name.ip(), to), (client.ip(), backend));
        assert!(names.insert((*transport == Transport::Udp, name, to)), "{name} is there twice");
        // One that has begun while the one before it was being ended has found its own port taken.
        changed += u64::from(name != client);
        let mut packet = talk.packet(Backend, *transport);
        packet.to = name;
        let (device, frame) = talk.frame(world, Backend, packet);
        (talk.hook, device, frame)
    };
    let answers: Vec<Line> = talks.iter().zip(&requests).map(answer).collect();
    for ((talk, _), output) in talks.iter().zip(world.batch(&answers)) {
        assert_eq!(ends_of(&output.frame), [talk.ends.vip, talk.ends.client]);
    }
    assert!(changed <= world.traffic().ports_changed, "{changed}");
}

/// Checks that everything agrees, and ends it.
fn conclude(world: &mut World, heard: &mut Heard) {
    assert!(!agree(world).is_empty());
    // Those past their time are as good as none.
    let rows = world.rows();
    for row in &rows {
        let [v4, v6] = families(row.client.port());
        let ends = if row.client.is_ipv6() { v6 } else { v4 };
        assert_eq!((row.client, row.vip), (ends.client, ends.vip));
        assert_eq!(world.backend_id(row.backend_address), row.backend);
    }
    lead_to_their_ends(world, &rows);
    world.wait(seconds(1));
    let swept = world.sweep();
    heard.closed += swept.events.len() as u64;
    world.listen(heard);
    assert!(agree(world).is_empty());
    let opened = world.traffic().new_flows;
    let lost = world.pressure(Pressure::EventsLost);
    assert_eq!(heard.opened + heard.closed + lost, 2 * opened, "{lost} lost");
    let of_one = heard.opened + lost >= opened && heard.opened <= opened;
    assert!(of_one && heard.closed <= opened, "{} {} {opened}", heard.opened, heard.closed);
}

#[test]
fn two_cpus_at_one_table_lose_no_flow_and_make_none_twice() {
    let packets = scale(200_000, 50_000_000);
    for sharing in ["few", "many", "none"] {
        let mut world = World::sized(&services(TIMEOUTS, BACKENDS), 5_000);
        let runners = HOOKS.map(|hook| world.kernel.runner(hook).unwrap());
        let netns = world.netns.clone();
        let count = if sharing == "few" { 8 } else { 2_000 };
        let all = frames(&world, 14_000..14_000 + count);
        let mut heard = Heard::default();
        let start = Instant::now();
        world.under(&mut heard, |cpu| {
            let is_mine = |number: usize| sharing != "none" || number / 2 % CPUS == cpu;
            let mine: Vec<&Frames> =
                all.iter().enumerate().filter(|(n, _)| is_mine(*n)).map(|(_, f)| f).collect();
            hammer(&netns, &runners, &mine, cpu, packets / 3);
        });
        let took = start.elapsed();
        conclude(&mut world, &mut heard);
        let Traffic { new_flows, ports_changed, .. } = world.traffic();
        eprintln!("{sharing}: {:?} {new_flows} {ports_changed} {took:?}", world.pressures());
    }
}

/// Sends these packets on both CPUs at once, and looks at what has come of them, time and again; then all flows end.
fn in_rounds(world: &mut World, lines: &[Vec<Line>; CPUS], mut look: impl FnMut(&mut World)) {
    let rounds = scale(400, 10_000) as u32;
    let runners = HOOKS.map(|hook| world.kernel.runner(hook).unwrap());
    let netns = world.netns.clone();
    let (begun, done) = (AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        for (cpu, lines) in lines.iter().enumerate() {
            let (netns, runners, begun, done) = (&netns, &runners, &begun, &done);
            scope.spawn(move || {
                let _panicked = Panicked(done);
                netns.run(|| {
                    pin(cpu);
                    for round in 1..=rounds {
                        wait_for(begun, round);
                        for line in lines {
                            send(runners, line);
                        }
                        done.fetch_add(1, Ordering::Release);
                    }
                });
            });
        }
        let _panicked = Panicked(&begun);
        for round in 1..=rounds {
            begun.store(round, Ordering::Release);
            wait_for(&done, round * CPUS as u32);
            look(world);
            let live = world.counts().0;
            world.wait(seconds(1) + 1);
            assert_eq!(world.kernel.sweep(Part::All).ended, live);
        }
    });
}

/// A talk at the hook that its client's port has.
fn talk(ends: Ends) -> Talk {
    Talk::new(HOOKS[usize::from(ends.client.port() % 2)], ends)
}

#[test]
fn two_cpus_with_the_first_packets_of_one_flow_open_it_once() {
    let keys = format!("{TIMEOUTS}\nalgorithm = 'random'");
    let mut world = World::new(&services(&keys, BACKENDS));
    let both = |ends| {
        let first = |transport| talk(ends).script(&world, &[(Client, transport)]).remove(0);
        [Transport::Syn, Transport::Udp].map(first)
    };
    let firsts: Vec<Line> = (17_000..17_010).flat_map(families).flat_map(both).collect();
    let each = firsts.len() as u64;
    let (mut opened, mut busy) = (0, 0);
    in_rounds(&mut world, &[firsts.clone(), firsts], |world| {
        let rows = agree(world);
        opened += rows.len() as u64;
        assert_eq!(world.traffic().new_flows, opened);
        lead_to_their_ends(world, &rows);
        let now = world.pressure(Pressure::StatelessBusy);
        assert!(rows.len() as u64 + (now - busy) >= each, "{}", rows.len());
        busy = now;
    });
    eprintln!("{opened} opened, {busy} busy");
}

#[test]
fn two_cpus_at_one_limit_never_get_past_it() {
    // Limits of a service, of each of its two backends and of a family's table, and how many flows a family can have.
    const LIMITS: [(&str, &str, u32, usize); 3] =
        [("max-flows = 3", "", 1_000, 3), ("", ", max-flows = 2", 1_000, 4), ("", "", 20, 20)];
    for (service, backend, table, most) in LIMITS {
        let keys = format!("{TIMEOUTS}\n{service}\non-empty = 'drop'");
        let config = services(&keys, 2).replace("8080' }", &format!("8080'{backend} }}"));
        let mut world = World::sized(&config, table);
        let lines = [15_000, 15_100].map(|first| {
            let talks = (first..first + 20).flat_map(families).map(talk);
            talks.flat_map(|mut talk| talk.script(&world, &[(Client, Transport::Syn)])).collect()
        });
        in_rounds(&mut world, &lines, |world| {
            let rows = world.rows();
            let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
            for row in &rows {
                *counts.entry(row.backend).or_default() += 1;
            }
            assert!(backend.is_empty() || counts.values().all(|&count| count <= 2), "{counts:?}");
            for is_v6 in [false, true] {
                let count = rows.iter().filter(|row| row.client.is_ipv6() == is_v6).count();
                // In a table that is full some give way, and others find their sets in use.
                let fewest = if table == 20 { most / 2 } else { most };
                assert!((fewest..=most).contains(&count), "{count} {counts:?}");
            }
        });
    }
}

#[test]
fn two_cpus_at_two_vips_never_give_one_name_to_two_flows() {
    let mut world = World::new(&pairs());
    let lines = [0, 1].map(|vip| {
        let ports = (16_000..16_006).flat_map(|port| [false, true].map(|is_v6| (port, is_v6)));
        let first = |(port, is_v6)| {
            [Transport::Syn, Transport::Udp].map(|transport| {
                let mut talk = through(HOOKS[usize::from(port % 2)], is_v6, port, vip);
                talk.script(&world, &[(Client, transport)]).remove(0)
            })
        };
        ports.flat_map(first).collect()
    });
    let tried: usize = lines.iter().map(Vec::len).sum();
    let mut refused = 0;
    in_rounds(&mut world, &lines, |world| {
        let rows = world.rows();
        lead_to_their_ends(world, &rows);
        // The one that comes second has found the name free as the other did, and is sent again by its client.
        let busy = world.pressure(Pressure::StatelessBusy);
        let now = busy + world.kernel_verdicts(Verdict::NoSourcePort);
        assert!(rows.len() as u64 + (now - refused) >= tried as u64, "{}", rows.len());
        refused = now;
    });
    eprintln!("{refused} refused");
}
