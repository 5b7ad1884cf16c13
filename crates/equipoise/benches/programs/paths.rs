//! Packets through the programs: each kind, each part of the way, and two CPUs at once.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::{Clock, Input, Measures, Part, Subject};
use equipoise_common::draw::Draw;
use equipoise_common::verdict::Hook;

use crate::Extent;
use crate::bench::Transport;
use crate::report::{Report, Row, Spread};
use crate::world::{HOOKS, Kind, Path, World, on_cpu, timed};

/// Measures all kinds of packets among so many resident flows of each family.
pub(crate) fn measure(object: &[u8], residents: u32, extent: &Extent, report: &mut Report) {
    // New flows come on top of the resident ones.
    let mut world = World::new(residents + residents / 10 + 4 * extent.new, Clock::Kernel);
    let mut measures = world.kernel.measures(object).unwrap_or_else(|error| panic!("{error}"));
    for is_v6 in [false, true] {
        world.fill_lru(&mut measures, is_v6, residents);
        world.establish(&mut measures, is_v6, residents);
    }
    let mut meter = Meter { world, measures, residents, extent };
    let kinds: Vec<Kind> = [false, true]
        .into_iter()
        .flat_map(|is_v6| HOOKS.map(|hook| Path::ALL.map(|path| Kind { is_v6, hook, path })))
        .flatten()
        .collect();
    let mut spreads: Vec<Vec<Spread>> =
        kinds.iter().map(|kind| vec![Spread::default(); kind.path.subjects().len()]).collect();
    for _ in 0..extent.rounds {
        for (kind, spreads) in kinds.iter().zip(&mut spreads) {
            for (subject, spread) in kind.path.subjects().iter().zip(spreads) {
                spread.add(meter.one(*kind, *subject));
            }
        }
        meter.forget_new();
    }
    for (kind, spreads) in kinds.into_iter().zip(&spreads) {
        report.path(Row { kind, residents }, kind.path.subjects(), spreads);
    }
    for is_v6 in [false, true] {
        let kind = Kind { is_v6, hook: Hook::Xdp, path: Path::Established };
        report.two_cpus(Row { kind, residents }, meter.two_cpus(kind));
    }
}

struct Meter<'a> {
    world: World,
    measures: Measures,
    residents: u32,
    extent: &'a Extent,
}

impl Meter<'_> {
    /// The mean time of a packet, ns.
    fn one(&mut self, kind: Kind, subject: Subject) -> f64 {
        let Self { world, measures, residents, extent } = self;
        measures.choose(kind.hook, subject).expect("the programs are loaded");
        if kind.path != Path::New {
            return world.run(measures, kind, extent.packets, *residents);
        }
        let before = world.kernel.occupancy().live;
        let time = world.run(measures, kind, extent.new, 0);
        if matches!(subject, Subject::Whole | Subject::Opened) {
            let opened = world.kernel.occupancy().live - before;
            assert_eq!(opened, u64::from(extent.new), "flows that were opened");
            world.use_up(kind.is_v6, extent.new);
        }
        if subject == Subject::LruOpened {
            measures.choose(kind.hook, Subject::LruClosed).expect("the programs are loaded");
            world.run(measures, kind, extent.new, 0);
        }
        time
    }

    /// Ends the flows that were opened to be measured: they are past their time within a second or so.
    fn forget_new(&mut self) {
        let begun = Instant::now();
        let resident = 2 * u64::from(self.residents);
        let kernel = &mut self.world.kernel;
        while kernel.occupancy().live > resident {
            assert!(begun.elapsed() < Duration::from_secs(20), "new flows do not expire");
            std::thread::sleep(Duration::from_millis(50));
            kernel.sweep(Part::All);
        }
        assert_eq!(kernel.occupancy().live, resident, "flows that nobody ended are gone");
    }

    /// How much faster two CPUs are than one on flows of their own: the parse-only program, and the whole one.
    fn two_cpus(&mut self, kind: Kind) -> [Spread; 2] {
        let mut speedups = [Spread::default(), Spread::default()];
        for _ in 0..self.extent.rounds {
            for (subject, speedup) in [Subject::Parsed, Subject::Whole].iter().zip(&mut speedups) {
                self.measures.choose(kind.hook, *subject).expect("the programs are loaded");
                let alone = self.at_once(kind, &[0])[0];
                speedup.add(self.at_once(kind, &[0, 1]).iter().map(|time| alone / time).sum());
            }
        }
        speedups
    }

    /// Runs packets on these CPUs at once; the mean time of a packet on each, ns.
    fn at_once(&mut self, kind: Kind, cpus: &[usize]) -> Vec<f64> {
        let half = u64::from(self.residents / 2);
        let draw = self.world.draw(kind);
        let of = |cpu: usize| Draw {
            random: draw.random.wrapping_add(2 * cpu as u64),
            first: half * (cpu as u64 & 1),
            flows: half,
            ..draw
        };
        self.measures.draw(of).expect("the kernel takes it");
        let frame = self.world.frame(kind, Transport::Ack);
        let repeat = 5 * self.extent.packets;
        let input = Input { frame: &frame, interface: self.world.interface(kind), repeat };
        let barrier = Barrier::new(cpus.len());
        let run = |cpu: usize| {
            let runner = self.measures.runner(kind.hook, kind.is_v6).expect("it is loaded");
            on_cpu(cpu, || {
                barrier.wait();
                timed(&runner, input)
            })
        };
        let run = &run;
        self.world.netns.run(|| {
            std::thread::scope(|scope| {
                let threads: Vec<_> =
                    cpus.iter().map(|&cpu| scope.spawn(move || run(cpu))).collect();
                threads.into_iter().map(|thread| thread.join().expect("it goes well")).collect()
            })
        })
    }
}
