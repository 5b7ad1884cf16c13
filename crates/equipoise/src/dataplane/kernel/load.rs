//! Getting the packet programs into the kernel: their constants and sizes, and what is pinned.
//!
//! The same object is loaded to balance, to explain, and beside what is measured. Knows nothing of devices.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::PathBuf;

use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader};
use equipoise_common::flow::sets_for;
use equipoise_common::value::{CARRIAGE, LAYOUT, Layout};

use super::inherit::{self, Left};
use super::maps::{MAPS, OF_A_TABLE, SHARED, next};
use super::object::{self, OBJECT};
use super::pin::{Pins, refused};
use super::stages::{Group, link_stages, pin_stages};
use super::{Clock, Eviction, KernelError, Options, TcWay};

/// What the programs have as constants.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) max_flows: u32,
    pub(super) sets: u32,
    pub(super) seed: u64,
    pub(super) clock: Clock,
    pub(super) eviction: Eviction,
    /// Whether somebody is told of packets.
    pub(super) traces: bool,
    /// Whether packets go on as they have come.
    pub(super) observes: bool,
}

impl Sizes {
    /// With a secret of its own: nobody outside can tell which packets meet in one set.
    pub(super) fn new(options: &Options<'_>) -> Self {
        let seed = RandomState::new().build_hasher().finish();
        let Options { max_flows, clock, eviction, .. } = *options;
        Self {
            max_flows,
            sets: sets_for(max_flows),
            seed,
            clock,
            eviction,
            traces: false,
            observes: false,
        }
    }

    /// Of maps that are there already, whose flows are found by their secret.
    pub(super) fn of(layout: &Layout, options: &Options<'_>) -> Self {
        let Layout { max_flows, sets, seed, .. } = *layout;
        let Options { clock, eviction, .. } = *options;
        Self { max_flows, sets, seed, clock, eviction, traces: false, observes: false }
    }

    /// The same for another number of flows, with a secret of its own.
    pub(super) fn with(self, max_flows: u32) -> Self {
        let seed = RandomState::new().build_hasher().finish();
        Self { max_flows, sets: sets_for(max_flows), seed, ..self }
    }

    /// Of the tables that flows are being carried over to, if they are.
    pub(super) fn next_of(self, layout: &Layout) -> Option<Self> {
        let Layout { next_max_flows: max_flows, next_sets: sets, next_seed: seed, .. } = *layout;
        (sets != 0).then_some(Self { max_flows, sets, seed, ..self })
    }

    /// What maps of these sizes are said to be like, beside the tables that flows are carried over to.
    pub(super) fn layout(self, next: Option<Self>) -> Layout {
        let Self { max_flows, sets, seed, .. } = self;
        let own =
            Layout { tag: LAYOUT, seed, max_flows, sets, carriage: CARRIAGE, ..Layout::default() };
        next.map_or(own, |next| next.beside(own))
    }

    /// What maps are said to be like beside which flow tables of these sizes are.
    pub(super) fn beside(self, layout: Layout) -> Layout {
        let Self { max_flows: next_max_flows, sets: next_sets, seed: next_seed, .. } = self;
        Layout { next_tag: LAYOUT, next_seed, next_max_flows, next_sets, ..layout }
    }
}

/// What an object is loaded with.
#[derive(Clone, Copy)]
pub(super) struct Load<'a> {
    /// None where maps are for nobody else.
    pub(super) pins: Option<&'a Pins>,
    pub(super) sizes: Sizes,
    pub(super) dry: Dry,
    pub(super) side: Side,
}

/// Which flow tables the programs are on.
#[derive(Clone, Copy)]
pub(super) enum Side {
    /// Those that are in force.
    Own,
    /// Those that flows are carried over to, beside those in force, which have these sizes.
    Next(Sizes, Anew),
    /// The same, once all flows are there.
    Last(Anew),
}

/// Which maps there are a second time while flows are carried over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Anew {
    /// The flow tables, for another size.
    Tables,
    /// All but those that maps of two layouts share.
    Layout,
}

impl Side {
    /// Whether this map is one of those that there are a second time.
    fn is_next(self, map: &str) -> bool {
        match self {
            Self::Own => false,
            Self::Next(_, Anew::Tables) | Self::Last(Anew::Tables) => OF_A_TABLE.contains(&map),
            Self::Next(_, Anew::Layout) | Self::Last(Anew::Layout) => !SHARED.contains(&map),
        }
    }

    /// What programs, and the maps of their stages, are pinned as.
    pub(super) fn name(self, name: &str) -> String {
        match self {
            Self::Own | Self::Last(_) => name.to_owned(),
            Self::Next(..) => next(name),
        }
    }
}

/// Whether the programs only explain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dry {
    /// They balance.
    No,
    /// They decide alike, change no map and leave their steps.
    Yes,
}

/// Makes the maps, pinned under the instance's name. The programs come when they are needed.
pub(super) fn open(pins: &Pins, sizes: Sizes, side: Side) -> Result<Ebpf, KernelError> {
    let load = Load { pins: Some(pins), sizes, dry: Dry::No, side };
    let mut ebpf = open_object(&object::quick(OBJECT), load)?;
    pin_stages(&mut ebpf, pins, side)?;
    Ok(ebpf)
}

/// Pins these programs of an object, and the maps of their stages, under the names that pins have now.
pub(super) fn pin_again(
    ebpf: &mut Ebpf,
    pins: &Pins,
    programs: impl Iterator<Item = &'static str>,
    side: Side,
) -> Result<(), KernelError> {
    pin_programs(ebpf, (pins, side), programs)?;
    pin_stages(ebpf, pins, side)
}

fn pin_programs<'a>(
    ebpf: &mut Ebpf,
    (pins, side): (&Pins, Side),
    programs: impl Iterator<Item = &'a str>,
) -> Result<(), KernelError> {
    for name in programs {
        let failed = |error: &dyn std::fmt::Display| refused(&format!("pinning {name}"), error);
        let program = ebpf.program_mut(name).ok_or_else(|| failed(&"no such program"))?;
        program.pin(pins.program(&side.name(name))).map_err(|error| failed(&error))?;
    }
    Ok(())
}

/// Makes or takes the maps of the twin; its programs are still to be loaded, which takes seconds.
pub(super) fn open_twin(pins: &Pins, sizes: Sizes, side: Side) -> Result<Ebpf, KernelError> {
    let load = Load { pins: Some(pins), sizes, dry: Dry::Yes, side };
    open_object(&object::quick(OBJECT), load)
}

/// Loads the programs of these groups whose maps are there; those that balance are pinned.
pub(super) fn load_groups(
    ebpf: &mut Ebpf,
    pins: Option<(&Pins, Side)>,
    groups: &[Group],
) -> Result<(), KernelError> {
    load_groups_of(OBJECT, ebpf, pins, groups)
}

/// The same of another object.
///
/// All at once: to verify them takes seconds, and the kernel does it on as many CPUs as it is asked from.
fn load_groups_of(
    object: &[u8],
    ebpf: &mut Ebpf,
    pins: Option<(&Pins, Side)>,
    groups: &[Group],
) -> Result<(), KernelError> {
    let names: BTreeSet<&str> = groups.iter().flat_map(|group| group.programs()).collect();
    let wanted = ebpf.programs_mut().filter(|(name, _)| names.contains(name));
    let loaded: Vec<Result<(), KernelError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = wanted
            .map(|(name, program)| (name.to_owned(), scope.spawn(|| load_program(program))))
            .collect();
        let ended = threads.into_iter().map(|(name, thread)| {
            let loaded = thread.join().unwrap_or_else(|_| Err(refused("loading", &"a panic")));
            loaded.map_err(|error| {
                let error = with_lines(object, &name).unwrap_or(error);
                refused(&format!("loading {name}"), &error)
            })
        });
        ended.collect()
    });
    loaded.into_iter().collect::<Result<(), _>>()?;
    if let Some(pins) = pins {
        pin_programs(ebpf, pins, names.iter().copied())?;
    }
    groups.iter().try_for_each(|&group| link_stages(ebpf, group))
}

/// What the verifier says of a program of the whole object, with lines of the source; none where it takes it, as it may with other
/// constants.
fn with_lines(object: &[u8], name: &str) -> Option<KernelError> {
    let mut ebpf = open_object(object, for_a_try()).ok()?;
    load(&mut ebpf, name).err()
}

/// Makes or takes the maps of an object; none of its programs are loaded yet.
pub(super) fn open_object(object: &[u8], load: Load<'_>) -> Result<Ebpf, KernelError> {
    let Load { pins, sizes, dry, side } = load;
    let dry_run = u8::from(dry == Dry::Yes);
    let test_clock = u8::from(sizes.clock == Clock::Set);
    let traces = u8::from(sizes.traces && dry == Dry::No);
    let observes = u8::from(sizes.observes);
    let spares_confirmed = u8::from(sizes.eviction == Eviction::Unconfirmed);
    let others = match side {
        Side::Next(other, _) => (other.sets, other.seed),
        Side::Own | Side::Last(_) => (0, 0),
    };
    let paths = pins.map(|pins| paths(pins, side)).unwrap_or_default();
    let mut loader = EbpfLoader::new();
    loader
        .override_global("DRY", &dry_run, true)
        .override_global("SETS", &sizes.sets, true)
        .override_global("SEED", &sizes.seed, true)
        .override_global("MAX_FLOWS", &sizes.max_flows, true)
        .override_global("TRACE", &traces, true)
        .override_global("OBSERVE", &observes, true)
        .override_global("OTHER_SETS", &others.0, true)
        .override_global("OTHER_SEED", &others.1, true)
        .override_global("TEST_CLOCK", &test_clock, true)
        .override_global("SPARES_CONFIRMED", &spares_confirmed, true)
        .map_max_entries("FLOWS_V4", sizes.sets)
        .map_max_entries("FLOWS_V6", sizes.sets)
        .map_max_entries("OTHER_V4", others.0.max(1))
        .map_max_entries("OTHER_V6", others.0.max(1))
        // Of the bench's object alone: an entry for each direction.
        .map_max_entries("BENCH_LRU_V4", 2 * sizes.max_flows)
        .map_max_entries("BENCH_LRU_V6", 2 * sizes.max_flows);
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    loader.load(object).map_err(|error| load_error(&error))
}

/// Where maps are pinned.
fn paths(pins: &Pins, side: Side) -> Vec<(&'static str, PathBuf)> {
    let path = |name| pins.map(&if side.is_next(name) { next(name) } else { name.to_owned() });
    let mut paths: Vec<(&str, PathBuf)> = MAPS.iter().map(|&name| (name, path(name))).collect();
    if matches!(side, Side::Next(..)) {
        paths.extend([("OTHER_V4", pins.map("FLOWS_V4")), ("OTHER_V6", pins.map("FLOWS_V6"))]);
    }
    paths
}

/// Maps of its own that hold few flows.
fn for_a_try() -> Load<'static> {
    let sizes = Sizes::new(&Options {
        instance: "",
        max_flows: 1024,
        tc: TcWay::default(),
        clock: Clock::default(),
        eviction: Eviction::default(),
    });
    Load { pins: None, sizes, dry: Dry::No, side: Side::Own }
}

/// Programs of these groups on maps of their own: everything goes with what this gives.
pub(super) fn load_for_a_try(groups: &[Group]) -> Result<Ebpf, KernelError> {
    load_for_a_try_of(OBJECT, groups)
}

/// The same of another object.
pub(super) fn load_for_a_try_of(object: &[u8], groups: &[Group]) -> Result<Ebpf, KernelError> {
    object::has_programs(object)?;
    let mut ebpf = open_object(&object::quick(object), for_a_try())?;
    load_groups_of(object, &mut ebpf, None, groups)?;
    Ok(ebpf)
}

/// Loads one program.
pub(super) fn load<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, KernelError> {
    let program =
        ebpf.program_mut(name).ok_or_else(|| refused("loading", &format!("no program {name}")))?;
    load_program(program)?;
    Ok(program)
}

fn load_program(program: &mut Program) -> Result<(), KernelError> {
    match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
    // By a try of before, in which another one was refused.
    .or_else(|error| match error {
        ProgramError::AlreadyLoaded => Ok(()),
        error => Err(error),
    })
    .map_err(|error| load_error(&error))
}

/// Instructions that the verifier has gone through for each of these programs.
pub(super) fn verified(
    ebpf: &Ebpf,
    programs: &[&str],
) -> Result<BTreeMap<String, u32>, KernelError> {
    let count = |name: &&str| {
        let failed =
            |error: &dyn std::fmt::Display| refused(&format!("reading about {name}"), error);
        let program = ebpf.program(name).ok_or_else(|| failed(&"no such program"))?;
        let info = program.info().map_err(|error| failed(&error))?;
        let count = info.verified_instruction_count();
        Ok(((*name).to_owned(), count.ok_or_else(|| failed(&"the kernel does not count"))?))
    };
    programs.iter().map(count).collect()
}

/// What earlier processes have left of maps that this build would take over.
pub(super) fn look(pins: &Pins) -> Result<Left, KernelError> {
    inherit::look(pins, OBJECT, MAPS)
}

pub(super) fn load_error(error: &(dyn std::error::Error + 'static)) -> KernelError {
    let mut text = format!("the kernel does not take the packet programs: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    KernelError::Refused(text)
}
