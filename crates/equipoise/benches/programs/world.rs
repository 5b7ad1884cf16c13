//! A balancer with so many established flows, and packets of them.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};

use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::{Clock, Input, Measures, Runner, Subject};
use equipoise_common::draw::Draw;
use equipoise_common::key::V6;
use equipoise_common::value::Shortcuts;
use equipoise_common::verdict::Hook;
use equipoise_lab::cpu::pin;

use crate::bench::{BACKEND, BACKEND6, Bench, CLIENT, CLIENT6, Packet, Transport, VIP, VIP6};

/// One backend a family, since what is chosen from does not matter to what is measured. Events are off: nobody would
/// read them as fast as flows open here.
const CONFIG: &str = r#"
    [settings]
    events = false

    [[service]]
    name = "web"
    listen = { interfaces = ["front"], address = "203.0.113.10", port = 80, protocol = "both" }
    backends = [{ address = "10.0.0.11:8080" }]
    timeouts = { tcp-opening = "1s", tcp-established = "1h" }

    [[service]]
    name = "web6"
    listen = { interfaces = ["front"], address = "2001:db8:f::10", port = 80, protocol = "both" }
    backends = [{ address = "[2001:db8:b::11]:8080" }]
    timeouts = { tcp-opening = "1s", tcp-established = "1h" }
"#;

/// The clients that the programs of the bench make.
const ROUTES: &str = "\
route add 10.128.0.0/9 via 198.51.100.7 dev front
route add 2001:db8:1::/64 via 2001:db8:c::7 dev front";

const STRANGER: &str = "203.0.113.99:80";
const STRANGER6: &str = "[2001:db8:f::99]:80";

/// The sequence numbers of both ends after their handshake.
const CLIENT_NEXT: u64 = 1_001;
const BACKEND_NEXT: u64 = 5_001;

/// What a packet is to the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    Established,
    Reply,
    New,
    NotOurs,
}

impl Path {
    pub(crate) const ALL: [Self; 4] = [Self::Established, Self::Reply, Self::New, Self::NotOurs];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Reply => "reply",
            Self::New => "new",
            Self::NotOurs => "not ours",
        }
    }

    /// What of a packet's way can be measured for itself.
    pub(crate) const fn subjects(self) -> &'static [Subject] {
        match self {
            Self::Established => &ESTABLISHED,
            Self::Reply => &Subject::PARTS,
            Self::New => &NEW,
            Self::NotOurs => &[Subject::Empty, Subject::Parsed, Subject::Whole],
        }
    }
}

/// Those of [`Subject::PARTS`], and the kernel's table.
const ESTABLISHED: [Subject; 8] = {
    let [empty, parsed, touched, found, routed, rewritten, whole] = Subject::PARTS;
    [empty, parsed, touched, found, routed, rewritten, whole, Subject::LruFound]
};

const NEW: [Subject; 5] =
    [Subject::Empty, Subject::Parsed, Subject::Whole, Subject::Opened, Subject::LruOpened];

/// Packets of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) is_v6: bool,
    pub(crate) hook: Hook,
    pub(crate) path: Path,
}

pub(crate) const HOOKS: [Hook; 2] = [Hook::Xdp, Hook::Ingress];

/// The balancer with its flows.
pub(crate) struct World {
    bench: Bench,
    /// Number of the next new flow of either family.
    next: [u64; 2],
    /// Seed of the next run.
    random: u64,
    /// Ids of service and backend of either family, once it has flows.
    ids: [[u32; 2]; 2],
}

impl World {
    /// With room for so many flows of each family, and none yet.
    pub(crate) fn new(max_flows: u32, clock: Clock) -> Self {
        let mut bench = Bench::timed(CONFIG, max_flows, clock);
        bench.kernel.allow_shortcuts(Shortcuts::All).expect("the programs are loaded");
        bench.netns.ip(ROUTES).expect("the namespace is ours");
        Self { bench, next: [0; 2], random: 0x9e37_79b9_7f4a_7c15, ids: [[0; 2]; 2] }
    }

    /// Puts so many flows of a family, those that come next, into the kernel's table.
    pub(crate) fn fill_lru(&mut self, measures: &mut Measures, is_v6: bool, flows: u32) {
        let kind = Kind { is_v6, hook: Hook::Xdp, path: Path::New };
        measures.choose(kind.hook, Subject::LruOpened).expect("the programs are loaded");
        self.run(measures, kind, flows, 0);
    }

    /// Opens so many flows of a family and brings them to be established.
    pub(crate) fn establish(&mut self, measures: &mut Measures, is_v6: bool, flows: u32) {
        /// So few that the first is not past its time before the last has been sent.
        const AT_ONCE: u32 = 10_000;
        let before = self.kernel.occupancy().confirmed;
        measures.choose(Hook::Xdp, Subject::Whole).expect("the programs are loaded");
        for done in (0..flows).step_by(AT_ONCE as usize) {
            self.shake_hands(measures, is_v6, AT_ONCE.min(flows - done));
        }
        let after = self.kernel.occupancy().confirmed;
        assert_eq!(after - before, u64::from(flows), "flows that were established");
        let ids = &mut self.ids[usize::from(is_v6)];
        let listed = self.bench.kernel.flows(&mut |row| {
            *ids = [row.service, row.backend];
            row.client.is_ipv6() != is_v6
        });
        listed.expect("the table is in our memory");
    }

    fn shake_hands(&mut self, measures: &mut Measures, is_v6: bool, flows: u32) {
        let first = self.next[usize::from(is_v6)];
        for (path, transport, numbers) in [
            (Path::New, Transport::Syn, [CLIENT_NEXT - 1, 0]),
            (Path::Reply, Transport::SynAck, [BACKEND_NEXT - 1, CLIENT_NEXT]),
            (Path::Established, Transport::Bare, [CLIENT_NEXT, BACKEND_NEXT]),
        ] {
            let kind = Kind { is_v6, hook: Hook::Xdp, path };
            let [sequence, acknowledgement] = numbers;
            let draw = Draw { first, sequence, acknowledgement, step: 0, ..self.draw(kind) };
            measures.draw(|_| draw).expect("the kernel takes it");
            self.send(measures, kind, transport, flows);
        }
        self.use_up(is_v6, flows);
    }

    /// Runs packets of a kind through what has been chosen; the mean time of one, ns.
    pub(crate) fn run(
        &mut self,
        measures: &mut Measures,
        kind: Kind,
        packets: u32,
        flows: u32,
    ) -> f64 {
        let draw = Draw { flows: u64::from(flows), ..self.draw(kind) };
        measures.draw(|_| draw).expect("the kernel takes it");
        // No two runs meet the same flows in the same order, or the second would find them in the caches.
        self.random = self.random.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let transport = if kind.path == Path::New { Transport::Syn } else { Transport::Ack };
        self.send(measures, kind, transport, packets)
    }

    /// New flows beyond these come from here on.
    pub(crate) fn use_up(&mut self, is_v6: bool, flows: u32) {
        self.next[usize::from(is_v6)] += u64::from(flows);
    }

    fn send(&self, measures: &Measures, kind: Kind, transport: Transport, packets: u32) -> f64 {
        let frame = self.frame(kind, transport);
        let runner = measures.runner(kind.hook, kind.is_v6).expect("the programs are loaded");
        let input = Input { frame: &frame, interface: self.interface(kind), repeat: packets };
        self.bench.netns.run(|| on_cpu(0, || timed(&runner, input)))
    }

    pub(crate) fn interface(&self, kind: Kind) -> u32 {
        if kind.path == Path::Reply { self.bench.back } else { self.bench.front }
    }

    /// The frame that packets of a kind are made of.
    pub(crate) fn frame(&self, kind: Kind, transport: Transport) -> Vec<u8> {
        let (client, end) = (if kind.is_v6 { CLIENT6 } else { CLIENT }, kind.end());
        let client = SocketAddr::new(client.parse().expect("an address"), 40_000);
        let end = end.parse().expect("an address");
        let packet = |ends| Packet { payload: &[], ..Packet::between(ends, transport) };
        match kind.path {
            Path::Reply => packet([end, client]).build(self.bench.backend_link()),
            Path::Established | Path::New | Path::NotOurs => {
                packet([client, end]).build(self.bench.client_link())
            }
        }
    }

    /// Packets of a kind: of the established flows at random, or of new ones in turn.
    pub(crate) fn draw(&self, kind: Kind) -> Draw {
        let end: SocketAddr = kind.end().parse().expect("an address");
        let [service, backend] = self.ids[usize::from(kind.is_v6)];
        let [sequence, acknowledgement] = match kind.path {
            Path::Reply => [BACKEND_NEXT, CLIENT_NEXT],
            Path::Established | Path::New | Path::NotOurs => [CLIENT_NEXT, BACKEND_NEXT],
        };
        Draw {
            random: self.random,
            first: if kind.path == Path::New { self.next[usize::from(kind.is_v6)] } else { 0 },
            flows: 0,
            end: V6::from(end.ip()),
            port: u64::from(end.port().to_be()),
            is_reply: u64::from(kind.path == Path::Reply),
            sequence,
            acknowledgement,
            step: 1,
            service: u64::from(service),
            backend: u64::from(backend),
        }
    }
}

impl Kind {
    /// The end that is not the client.
    const fn end(self) -> &'static str {
        match (self.path, self.is_v6) {
            (Path::Established | Path::New, false) => VIP,
            (Path::Established | Path::New, true) => VIP6,
            (Path::Reply, false) => BACKEND,
            (Path::Reply, true) => BACKEND6,
            (Path::NotOurs, false) => STRANGER,
            (Path::NotOurs, true) => STRANGER6,
        }
    }
}

impl Deref for World {
    type Target = Bench;

    fn deref(&self) -> &Bench {
        &self.bench
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Bench {
        &mut self.bench
    }
}

/// Runs packets; the mean time of one, ns, of which the last must not have been dropped, as the programs of the bench do with
/// what does not go well. By the kernel's clock, without fractions: around each run at XDP the kernel
/// waits for milliseconds.
pub(crate) fn timed(runner: &Runner, input: Input<'_>) -> f64 {
    let output = runner.run(input).expect("the kernel takes the frame");
    assert!(!runner.has_dropped(&output), "a packet has been dropped");
    output.duration.as_nanos() as f64
}

/// Works on one CPU, on a thread that does nothing else: a long test run gives way now and then, and would
/// go on with another CPU's draw.
pub(crate) fn on_cpu<T>(cpu: usize, work: impl FnOnce() -> T) -> T {
    pin(cpu);
    work()
}
