//! Packets between any two steps of a reload, in the real maps, through the real programs. Each is led by the service, and by the route,
//! that it has before or after, to where these lead before or after; before the first step all is as before. Connections that are there go on
//! byte for byte. All of that holds also where the kernel refuses writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;

use equipoise::dataplane::kernel::{Input, Kernel, Output};
use equipoise::dataplane::{DataPlane as _, Maps, StepError};
use equipoise_common::limit;
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_core::diff::{Applied, Difference, Step, diff};
use equipoise_lab::refuse::{Call, Refusals};
use equipoise_lab::scale;

use crate::bench::{
    BACKEND, BACKEND6, Bench, CLIENT, CLIENT6, FAR, Packet, Transport, VIP, VIP6, parsed,
};
use crate::talk::{CONNECTED, Line, Side, Talk, dropped, ends_of, passed, redirect, talks};
use crate::world::{BACKENDS, Dice, HOOKS, TIMEOUTS, World, numbered, seconds, services};

/// A service's name, its ports as the configuration writes them, and whether one is among them.
type Listened = (&'static str, &'static str, fn(u16) -> bool);

/// Asked for by clients: ports of services that are there, come, go and overlap.
const ASKED: [u16; 5] = [80, 81, 82, 443, 9_000];
/// What services listen on, the narrower before the wider.
const PORTS: [Listened; 4] = [
    ("web", "80", |port| port == 80),
    ("two", "[81, 443]", |port| port == 81 || port == 443),
    ("range", "\"80-82\"", |port| (80..=82).contains(&port)),
    ("most", "\"400-20000\"", |port| (400..=20_000).contains(&port)),
];

/// A configuration, of which each service is there for both families.
#[derive(Clone, Debug, Default)]
struct Wanted {
    services: BTreeMap<usize, Wish>,
    /// Whether the settings deny the clients.
    denied: bool,
}

#[derive(Clone, Debug)]
struct Wish {
    keys: String,
    protocol: &'static str,
    /// By number, with their weights.
    backends: Vec<(u16, u32)>,
    /// Those of the route that the clients have.
    routed: Option<Vec<(u16, u32)>>,
    denied: bool,
}

impl Wanted {
    fn any(dice: &mut Dice) -> Self {
        let mut wanted = Self { denied: dice.one_in(6), ..Self::default() };
        for at in 0..PORTS.len() {
            if !dice.one_in(4) {
                wanted.services.insert(at, Wish::any(dice));
            }
        }
        wanted
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (&at, wish) in &self.services {
            let (name, ports, _) = PORTS[at];
            for (of, vip, first, source) in
                [("", VIP, BACKEND, CLIENT), ("6", VIP6, BACKEND6, CLIENT6)]
            {
                let vip: SocketAddr = vip.parse().unwrap();
                let listed = |all: &[(u16, u32)]| -> String {
                    let one = |&(number, weight): &(u16, u32)| {
                        format!("{{ address = '{}', weight = {weight} }}", numbered(first, number))
                    };
                    all.iter().map(one).collect::<Vec<_>>().join(", ")
                };
                let denied = if wish.denied { format!("'{source}'") } else { String::new() };
                writeln!(
                    text,
                    "[[service]]\nname = '{name}{of}'\nlisten = {{ interfaces = ['front'], address = '{}', \
                     port = {ports}, protocol = '{}' }}\n\
                     backends = [{}]\n{TIMEOUTS}\n{}\nlimits = {{ deny = [{denied}] }}",
                    vip.ip(),
                    wish.protocol,
                    listed(&wish.backends),
                    wish.keys
                )
                .unwrap();
                if let Some(routed) = &wish.routed {
                    writeln!(
                        text,
                        "[[service.source-route]]\nsource = '{source}'\nbackends = [{}]",
                        listed(routed)
                    )
                    .unwrap();
                }
            }
        }
        if self.denied {
            writeln!(text, "[settings.limits]\ndeny = ['{CLIENT}', '{CLIENT6}']").unwrap();
        }
        text
    }

    /// The service that a first packet is for.
    fn leads(&self, packet: &Packet) -> Option<usize> {
        let protocol = if packet.transport == Transport::Udp { "udp" } else { "tcp" };
        let is_for = |(at, wish): &(&usize, &Wish)| {
            PORTS[**at].2(packet.to.port()) && ["both", protocol].contains(&wish.protocol)
        };
        self.services.iter().find(is_for).map(|(at, _)| *at)
    }

    /// What becomes of a first packet where nothing else is in the maps.
    fn fates(&self, packet: &Packet) -> BTreeSet<Fate> {
        let Some(wish) = self.leads(packet).map(|service| &self.services[&service]) else {
            return [Fate::Passed].into();
        };
        if self.denies(wish) {
            return [Fate::Dropped].into();
        }
        wish.pool(wish.routed.is_some(), packet)
    }

    fn denies(&self, wish: &Wish) -> bool {
        self.denied || wish.denied
    }
}

impl Wish {
    fn any(dice: &mut Dice) -> Self {
        let algorithm = dice.pick(&["maglev", "random", "round-robin", "least-connections"]);
        let affinity = dice.pick(&["none", "none", "source-ip"]);
        let mode = dice.pick(&["nat", "nat", "full-nat"]);
        let limit = dice.pick(&["0", "900000"]);
        Self {
            keys: format!(
                "algorithm = '{algorithm}'\naffinity = '{affinity}'\nmode = '{mode}'\nmax-flows = {limit}"
            ),
            protocol: dice.pick(&["both", "both", "tcp", "udp"]),
            backends: pool(dice),
            routed: dice.one_in(3).then(|| pool(dice)),
            denied: dice.one_in(6),
        }
    }

    /// Where a packet may be sent: by the route of its source, or as others.
    fn pool(&self, by_route: bool, packet: &Packet) -> BTreeSet<Fate> {
        let pool = if by_route { self.routed.as_deref() } else { Some(&*self.backends) };
        let first = if packet.to.is_ipv4() { BACKEND } else { BACKEND6 };
        let taken = pool.unwrap_or_default().iter().filter(|(_, weight)| *weight > 0);
        taken.map(|(number, _)| Fate::Sent(numbered(first, *number))).collect()
    }
}

/// One backend that gets flows, and perhaps others.
fn pool(dice: &mut Dice) -> Vec<(u16, u32)> {
    let sure = dice.below(BACKENDS.into()) as u16;
    let mut all = Vec::new();
    for number in 0..BACKENDS {
        if number == sure {
            all.push((number, 1 + dice.below(4)));
        } else if dice.one_in(3) {
            all.push((number, dice.below(4)));
        }
    }
    all
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// To this backend.
    Sent(SocketAddr),
    /// On to the stack, as it came.
    Passed,
    Dropped,
}

impl Fate {
    fn of(hook: Hook, frame: &[u8], output: &Output) -> Self {
        match output.action {
            action if action == redirect(hook) => Self::Sent(ends_of(&output.frame)[1]),
            action if action == passed(hook) && output.frame == frame => Self::Passed,
            action if action == dropped(hook) => Self::Dropped,
            action => panic!("action {action} at {hook:?}, {:?}", ends_of(&output.frame)),
        }
    }
}

/// Packets of connections that are there, with what has to come of each.
type Established = Vec<(Line, Vec<u8>)>;

/// The kernel's maps, with packets before the first step, between any two, and after the last.
struct Watched<'a> {
    kernel: &'a mut Kernel,
    packets: &'a mut Packets,
}

/// What is sent each time, and what has come of it.
struct Packets {
    established: Established,
    front: u32,
    mac: [u8; 6],
    next_port: u16,
    /// What runs, and what is to.
    wanted: [Wanted; 2],
    /// Kinds of steps that there have been.
    kinds: BTreeSet<String>,
    /// First packets that fared as before and after, as before alone, as after alone, and partly so.
    fared: [u64; 4],
    sent: u64,
}

impl Maps for Watched<'_> {
    fn apply(&mut self, step: &Step) -> Result<(), StepError> {
        let applied = self.kernel.apply(step);
        self.packets.kinds.insert(kind(step));
        self.packets.send(self.kernel, step);
        applied
    }
}

impl Packets {
    /// Before the first step, all is as before alone.
    fn settled(&mut self, kernel: &Kernel) {
        let before = self.wanted[0].clone();
        let next = std::mem::replace(&mut self.wanted[1], before);
        let partly = self.fared[3];
        self.send(kernel, &"the last reload");
        assert_eq!(self.fared[3], partly);
        self.wanted[1] = next;
    }

    fn send(&mut self, kernel: &Kernel, after: &dyn std::fmt::Display) {
        let run = |hook, interface, frame: &[u8]| -> Output {
            kernel.run(hook, Input { frame, interface, repeat: 1 }).unwrap()
        };
        for ((hook, device, frame), expected) in &self.established {
            let output = run(*hook, *device, frame);
            let ends = ends_of(frame);
            assert_eq!(output.action, redirect(*hook), "{ends:?} after {after}");
            assert_eq!(output.frame, *expected, "{ends:?} after {after}");
        }
        for (client, vip) in [(CLIENT, VIP), (CLIENT6, VIP6)] {
            let vip: SocketAddr = vip.parse().unwrap();
            for port in ASKED {
                for transport in [Transport::Syn, Transport::Udp] {
                    let hook = HOOKS[usize::from(self.next_port % 2)];
                    let from = SocketAddr::new(client.parse().unwrap(), self.next_port);
                    self.next_port =
                        if self.next_port == 60_000 { 30_000 } else { self.next_port + 1 };
                    let packet =
                        Packet::between([from, SocketAddr::new(vip.ip(), port)], transport);
                    let link = etherparse::PacketBuilder::ethernet2(FAR, self.mac);
                    let frame = packet.build(link);
                    let fate = Fate::of(hook, &frame, &run(hook, self.front, &frame));
                    if !self.between(&packet).contains(&fate) {
                        let counted = kernel.verdicts().unwrap();
                        run(hook, self.front, &frame);
                        let now = kernel.verdicts().unwrap();
                        let verdict =
                            now.iter().zip(counted).find(|(now, before)| now.2 > before.2);
                        let verdict = verdict.map(|(now, _)| now.1.name());
                        panic!(
                            "{fate:?} ({verdict:?}) of {packet:?} at {hook:?}, after {after}: {:?}",
                            self.wanted
                        );
                    }
                    let is = self.wanted.each_ref().map(|w| w.fates(&packet).contains(&fate));
                    let which = match is {
                        [true, true] => 0,
                        [true, false] => 1,
                        [false, true] => 2,
                        [false, false] => 3,
                    };
                    self.fared[which] += 1;
                    self.sent += 1;
                }
            }
        }
    }
}

impl Packets {
    /// What may become of a first packet in between: the service that leads it, the route of its source, what that leads to and who is
    /// let in are of before or of after, each by itself.
    fn between(&self, packet: &Packet) -> BTreeSet<Fate> {
        let mut fates = BTreeSet::new();
        for service in self.wanted.each_ref().map(|wanted| wanted.leads(packet)) {
            let Some(service) = service else {
                fates.insert(Fate::Passed);
                continue;
            };
            let there = || self.wanted.iter().filter_map(|w| Some((w, w.services.get(&service)?)));
            let denied: BTreeSet<bool> =
                there().map(|(wanted, wish)| wanted.denies(wish)).collect();
            fates.extend(denied.contains(&true).then_some(Fate::Dropped));
            if denied.contains(&false) {
                let routed = there().map(|(_, wish)| wish.routed.is_some());
                let pools = routed.flat_map(|routed| there().map(move |(_, wish)| (routed, wish)));
                fates.extend(pools.flat_map(|(routed, wish)| wish.pool(routed, packet)));
            }
        }
        fates
    }
}

/// What a step does, without what it does it to.
fn kind(step: &Step) -> String {
    let text = step.to_string();
    let words: Vec<&str> =
        text.split([' ', ':']).filter(|word| word.parse::<u32>().is_err()).collect();
    words[..words.len().min(2)].join(" ")
}

/// Connections that have all they need, at each hook for each family; their backends are in no configuration that follows for long.
fn establish(world: &World) -> Established {
    let mut established = Vec::new();
    for mut talk in (0..3).flat_map(|number| talks(20_000 + 10 * number)) {
        talk.all(world, &CONNECTED);
        for (side, transport) in [(Side::Client, Transport::Ack), (Side::Backend, Transport::Ack)] {
            let packet = talk.packet(side, transport);
            let (device, frame) = talk.frame(world, side, packet);
            established.push(((talk.hook, device, frame), expected(world, &talk, side, packet)));
        }
    }
    established
}

fn expected(world: &World, talk: &Talk, side: Side, packet: Packet) -> Vec<u8> {
    let (out, [from, to]) = match side {
        Side::Client => (world.back, [talk.ends.client, talk.ends.backend]),
        Side::Backend => (world.front, [talk.ends.vip, talk.ends.client]),
    };
    Packet { from, to, ..packet }.hops(63).build(world.sent(talk.hook, out))
}

/// Lives through configurations one after the other, whose steps `refusals` let through or not.
fn live(
    world: &mut World,
    dice: &mut Dice,
    turns: u32,
    refusals: &Refusals,
    every: Option<u64>,
) -> Packets {
    let established = establish(world);
    let mut packets = Packets {
        established,
        front: world.front,
        mac: world.front_link(),
        next_port: 30_000,
        wanted: [Wanted::default(), Wanted::default()],
        kinds: BTreeSet::new(),
        fared: [0; 4],
        sent: 0,
    };
    // What there has been so far is a service of one backend.
    let first = Wish {
        keys: String::new(),
        protocol: "both",
        backends: vec![(0, 1)],
        routed: None,
        denied: false,
    };
    packets.wanted[1].services.insert(0, first);
    for turn in 0..turns {
        packets.wanted.swap(0, 1);
        packets.wanted[1] = Wanted::any(dice);
        world.state.handle_config(parsed(&packets.wanted[1].text()));
        world.wait(seconds(1) / 2);
        let Bench { netns, kernel, state, applier, .. } = &mut **world;
        let kernel: &mut Kernel = kernel;
        let packets = &mut packets;
        netns.run(|| {
            packets.settled(kernel);
            if let Some(every) = every {
                refusals.begin_here().unwrap();
                refusals.refuse(
                    Call::MapWrite,
                    every,
                    [libc::ENOMEM, libc::E2BIG][turn as usize % 2],
                );
            }
            let mut tries = 0;
            loop {
                let mut watched = Watched { kernel, packets };
                match applier.converge(&mut watched, state.plan()) {
                    Ok(_) => break,
                    Err(error) => assert!(every.is_some() && tries < 1_000, "{error}"),
                }
                tries += 1;
            }
            refusals.lift();
        });
        // By what the kernel says is in its maps.
        let found = Applied::found(limit::SLOTS, world.kernel.read_back().unwrap());
        let Difference { steps, unplaced } = diff(&found, world.state.planned());
        let left: Vec<_> = steps.iter().map(ToString::to_string).collect();
        assert!(left.is_empty() && unplaced.is_empty(), "{left:?}");
        world.sweep();
        if let Some(mark) = world.state.resting() {
            let named = world.kernel.named();
            world.state.handle_named(mark, &named);
        }
    }
    packets
}

fn world() -> World {
    // Room for all that is opened, or what has to be remembered would be refused.
    World::sized(&services(TIMEOUTS, 1), 40_000)
}

#[test]
fn a_packet_between_any_two_steps_of_a_reload_is_decided_as_before_or_as_after() {
    let mut world = world();
    let mut dice = Dice::new(11);
    let packets = live(&mut world, &mut dice, scale(30, 400), &Refusals::default(), None);
    // It has been about something.
    let [both, before, after, partly] = packets.fared;
    assert!(before > 100 && after > 100, "{:?}", packets.fared);
    for kind in [
        "reset counters",
        "put policy",
        "put backend",
        "write slots",
        "put pool",
        "put route",
        "put service",
        "remove service",
        "remove route",
        "remove pool",
        "wait for",
        "neither allow",
    ] {
        assert!(packets.kinds.contains(kind), "{kind} of {:?}", packets.kinds);
    }
    let refused = [Verdict::NoBackend, Verdict::FlowRefused, Verdict::NoSourceAddress];
    assert_eq!(refused.map(|verdict| world.kernel_verdicts(verdict)), [0; 3]);
    println!(
        "{} first packets: {both} as before and after, {before} as before, {after} as after, {partly} partly so; steps: {:?}",
        packets.sent, packets.kinds
    );
}

#[test]
fn whichever_writes_the_kernel_refuses_its_maps_come_to_be_as_planned() {
    for every in [2, 3, 4, 5, 7, 11] {
        let mut world = world();
        let mut dice = Dice::new(every);
        let refusals = Refusals::default();
        let turns = scale(4, 40);
        live(&mut world, &mut dice, turns, &refusals, Some(every));
        let refused = refusals.refused();
        assert!(refused > u64::from(turns), "{refused} of every {every}");
        println!("every {every}th write refused: {refused} in {turns} reloads");
    }
}
