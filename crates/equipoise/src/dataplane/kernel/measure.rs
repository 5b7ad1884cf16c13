//! Measuring the packet programs: wrappers that make a packet anew for each run and go on in what is measured.
//!
//! A test run does not put the packet back between its repeats, and one packet meets one flow alone. The
//! wrappers, of an object built with the feature `bench`, draw a flow for each run. What is measured is the
//! program that is loaded for real packets, a part of its way, or nothing; what two of them differ by is what the
//! one costs more.

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray, PerCpuValues, ProgramArray};
use aya::programs::{Program, ProgramFd};
use aya::util::nr_cpus;
use equipoise_common::draw::Draw;
use equipoise_common::verdict::Hook;

use super::pin::refused;
use super::run::Runner;
use super::{KernelError, attach, load};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A program that does nothing: what figures are taken over.
    Empty,
    /// The way of a packet until its headers are parsed: the floor.
    Parsed,
    /// Until the line of memory where its flow most likely is has been read and written, whatever is there: what any table costs
    /// that is not in the caches.
    Touched,
    /// Until its flow is found and noted.
    Found,
    /// Until its route is known.
    Routed,
    /// Until it is rewritten.
    Rewritten,
    /// All of it: the very program that real packets meet.
    Whole,
    /// Until a flow for it is opened in the table, with nothing decided for it.
    Opened,
    /// Until it is found in the kernel's LRU hash, where flows are as many, and noted there.
    LruFound,
    /// Until it is not found there, and a flow is put there, an entry for each direction.
    LruOpened,
    /// Until that is taken out there again.
    LruClosed,
}

impl Subject {
    /// All parts of the way of a packet whose flow is there, each with more of it than the one before.
    pub const PARTS: [Self; 7] = [
        Self::Empty,
        Self::Parsed,
        Self::Touched,
        Self::Found,
        Self::Routed,
        Self::Rewritten,
        Self::Whole,
    ];

    /// What is done in a table alone.
    pub const IN_TABLES: [Self; 4] =
        [Self::Opened, Self::LruFound, Self::LruOpened, Self::LruClosed];

    /// The bench's own program; none for that of real packets.
    const fn program(self, hook: Hook) -> Option<&'static str> {
        let [xdp, tc] = match self {
            Self::Empty => ["bench_empty_xdp", "bench_empty_tc"],
            Self::Parsed => ["bench_parsed_xdp", "bench_parsed_tc"],
            Self::Touched => ["bench_touched_xdp", "bench_touched_tc"],
            Self::Found => ["bench_found_xdp", "bench_found_tc"],
            Self::Routed => ["bench_routed_xdp", "bench_routed_tc"],
            Self::Rewritten => ["bench_rewritten_xdp", "bench_rewritten_tc"],
            Self::Opened => ["bench_opened_xdp", "bench_opened_tc"],
            Self::LruFound => ["bench_lru_found_xdp", "bench_lru_found_tc"],
            Self::LruOpened => ["bench_lru_opened_xdp", "bench_lru_opened_tc"],
            Self::LruClosed => ["bench_lru_closed_xdp", "bench_lru_closed_tc"],
            Self::Whole => return None,
        };
        Some(if matches!(hook, Hook::Xdp) { xdp } else { tc })
    }
}

/// Programs that make packets, and those that are measured; XDP and TC ingress.
pub struct Measures {
    ebpf: Ebpf,
    draws: PerCpuArray<MapData, Draw>,
    whole: [ProgramFd; 2],
}

/// Hooks that can be measured.
const HOOKS: [Hook; 2] = [Hook::Xdp, Hook::Ingress];

impl Measures {
    /// From the bench's object and the programs of real packets.
    pub(super) fn new(mut ebpf: Ebpf, product: &Ebpf) -> Result<Self, KernelError> {
        let mut names =
            Vec::from(HOOKS.map(|hook| [wrapper(hook, false), wrapper(hook, true)]).as_flattened());
        names.extend(HOOKS.iter().flat_map(|&hook| {
            Subject::PARTS
                .into_iter()
                .chain(Subject::IN_TABLES)
                .filter_map(move |s| s.program(hook))
        }));
        for name in names {
            load::load(&mut ebpf, name)?;
        }
        let draws = ebpf
            .take_map("BENCH_DRAW")
            .ok_or_else(|| refused("loading", &"the object has no map BENCH_DRAW"))?
            .try_into()
            .map_err(|error| refused("using map BENCH_DRAW", &error))?;
        let whole = [fd(product, attach::XDP)?, fd(product, attach::IN)?];
        Ok(Self { ebpf, draws, whole })
    }

    /// From now on, at this hook, packets go on in `subject`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn choose(&mut self, hook: Hook, subject: Subject) -> Result<(), KernelError> {
        let (map, whole) = match hook {
            Hook::Xdp => ("BENCH_XDP", &self.whole[0]),
            Hook::Ingress | Hook::Egress => ("BENCH_TC", &self.whole[1]),
        };
        let failed = |error: &dyn std::fmt::Display| refused(&format!("filling {map}"), error);
        let own = subject.program(hook).map(|name| fd(&self.ebpf, name)).transpose()?;
        let there = self.ebpf.map_mut(map).ok_or_else(|| failed(&"the object has no such map"))?;
        let mut places = ProgramArray::try_from(there).map_err(|error| failed(&error))?;
        places.set(0, own.as_ref().unwrap_or(whole), 0).map_err(|error| failed(&error))
    }

    /// Says what packets the next runs make, for each CPU by its number.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn draw(&mut self, of: impl Fn(usize) -> Draw) -> Result<(), KernelError> {
        let failed = |error: &dyn std::fmt::Display| refused("filling BENCH_DRAW", error);
        let cpus = nr_cpus().map_err(|(_, error)| failed(&error))?;
        let draws: Vec<Draw> = (0..cpus).map(of).collect();
        let values = PerCpuValues::try_from(draws).map_err(|error| failed(&error))?;
        self.draws.set(0, values, 0).map_err(|error| failed(&error))
    }

    /// What makes packets of a family and hands them on; to be run from any thread.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn runner(&self, hook: Hook, is_v6: bool) -> Result<Runner, KernelError> {
        Ok(Runner::new(hook, fd(&self.ebpf, wrapper(hook, is_v6))?))
    }
}

const fn wrapper(hook: Hook, is_v6: bool) -> &'static str {
    match (hook, is_v6) {
        (Hook::Xdp, false) => "bench_xdp_v4",
        (Hook::Xdp, true) => "bench_xdp_v6",
        (Hook::Ingress | Hook::Egress, false) => "bench_tc_v4",
        (Hook::Ingress | Hook::Egress, true) => "bench_tc_v6",
    }
}

fn fd(ebpf: &Ebpf, name: &str) -> Result<ProgramFd, KernelError> {
    let failed = |error: &dyn std::fmt::Display| refused(&format!("using {name}"), error);
    let program: &Program =
        ebpf.program(name).ok_or_else(|| failed(&"there is no such program"))?;
    program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(|error| failed(&error))
}
