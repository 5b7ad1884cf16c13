//! Getting the packet programs into the kernel: the object, its constants and sizes, what is pinned, and which
//! program goes on in which.
//!
//! The same object is loaded to balance, to explain, and beside what is measured. Knows nothing of devices.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::PathBuf;

use aya::maps::ProgramArray;
use aya::programs::{Program, ProgramError, ProgramFd};
use aya::{Ebpf, EbpfLoader};
use equipoise_common::flow::sets_for;

use super::pin::{Pins, refused};
use super::{Clock, Eviction, KernelError, Options, attach};

/// The object with the packet programs; empty when it could not be built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/equipoise.o"));

/// What to do about an empty object; the build script has found out.
const STUB: Option<&str> = option_env!("EQUIPOISE_EBPF_STUB");

/// What the programs have as constants.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) max_flows: u32,
    pub(super) sets: u32,
    pub(super) seed: u64,
    pub(super) clock: Clock,
    eviction: Eviction,
}

impl Sizes {
    /// With a secret of its own: nobody outside can tell which packets meet in one set.
    pub(super) fn new(options: &Options<'_>) -> Self {
        let seed = RandomState::new().build_hasher().finish();
        let Options { max_flows, clock, eviction, .. } = *options;
        Self { max_flows, sets: sets_for(max_flows), seed, clock, eviction }
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

/// An error that says what to do when this build has no programs in it.
pub(super) fn present() -> Result<(), KernelError> {
    if OBJECT.is_empty() {
        let advice = STUB.unwrap_or("this build has no kernel programs in it");
        return Err(KernelError::Refused(advice.to_owned()));
    }
    Ok(())
}

/// Loads all packet programs, on maps pinned under the instance's name.
pub(super) fn open(pins: &Pins, sizes: Sizes, dry: Dry) -> Result<Ebpf, KernelError> {
    complete(open_object(OBJECT, pins, sizes, dry)?, pins, dry)
}

/// Makes or takes the maps of the twin; its programs are still to be loaded, which takes seconds.
pub(super) fn open_twin(pins: &Pins, sizes: Sizes) -> Result<Ebpf, KernelError> {
    open_object(OBJECT, pins, sizes, Dry::Yes)
}

/// Loads the programs of an object whose maps are there.
pub(super) fn complete(mut ebpf: Ebpf, pins: &Pins, dry: Dry) -> Result<Ebpf, KernelError> {
    for name in attach::PROGRAMS {
        let program = load(&mut ebpf, name)?;
        if dry == Dry::No {
            program
                .pin(pins.program(name))
                .map_err(|error| refused(&format!("pinning {name}"), &error))?;
        }
    }
    for (map, programs) in STAGES {
        link_stages(&mut ebpf, pins, dry, (map, programs))?;
    }
    Ok(ebpf)
}

/// Makes or takes the maps of an object; none of its programs are loaded yet.
pub(super) fn open_object(
    object: &[u8],
    pins: &Pins,
    sizes: Sizes,
    dry: Dry,
) -> Result<Ebpf, KernelError> {
    let dry_run = u8::from(dry == Dry::Yes);
    let test_clock = u8::from(sizes.clock == Clock::Set);
    let spares_confirmed = u8::from(sizes.eviction == Eviction::Unconfirmed);
    let paths: Vec<(&str, PathBuf)> = MAPS.iter().map(|&name| (name, pins.map(name))).collect();
    let mut loader = EbpfLoader::new();
    loader
        .override_global("DRY", &dry_run, true)
        .override_global("SETS", &sizes.sets, true)
        .override_global("SEED", &sizes.seed, true)
        .override_global("MAX_FLOWS", &sizes.max_flows, true)
        .override_global("TEST_CLOCK", &test_clock, true)
        .override_global("SPARES_CONFIRMED", &spares_confirmed, true)
        .map_max_entries("FLOWS_V4", sizes.sets)
        .map_max_entries("FLOWS_V6", sizes.sets);
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    loader.load(object).map_err(|error| load_error(&error))
}

/// Loads one program.
pub(super) fn load<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, KernelError> {
    let program =
        ebpf.program_mut(name).ok_or_else(|| refused("loading", &format!("no program {name}")))?;
    match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
    .map_err(|error| refused(&format!("loading {name}"), &load_error(&error)))?;
    Ok(program)
}

/// The programs of the stages, in the order of their places; an empty name is a place that nobody goes to.
const STAGES: [(&str, &[&str]); 2] = [
    (
        "STAGES_XDP",
        &[
            "slow_xdp",
            "slow_xdpg",
            "odd_xdp",
            "odd_xdpg",
            "answer_xdp",
            "answer_xdpg",
            "carry_xdp",
            "carry_xdpg",
        ],
    ),
    ("STAGES_TC", &["slow_in", "", "odd_in", "odd_out", "answer_in", "", "carry_in", "carry_out"]),
];

/// Puts the programs of the stages where those that packets come to go on. The twin has places of its own: its
/// packets must not get into programs that write.
fn link_stages(
    ebpf: &mut Ebpf,
    pins: &Pins,
    dry: Dry,
    (map, programs): (&str, &[&str]),
) -> Result<(), KernelError> {
    let failed = |error: &dyn std::fmt::Display| refused(&format!("filling {map}"), error);
    let fd = |name: &&str| -> Result<ProgramFd, KernelError> {
        let program = ebpf.program(name).ok_or_else(|| failed(&format!("no program {name}")))?;
        let fd = program.fd().map_err(|error| failed(&error))?;
        fd.try_clone().map_err(|error| failed(&error))
    };
    let places_of = (0..).zip(programs).filter(|(_, name)| !name.is_empty());
    let fds = places_of
        .map(|(place, name)| Ok((place, fd(name)?)))
        .collect::<Result<Vec<_>, KernelError>>()?;
    let there = ebpf.map_mut(map).ok_or_else(|| failed(&"the object has no such map"))?;
    let mut places = ProgramArray::try_from(there).map_err(|error| failed(&error))?;
    for (place, fd) in &fds {
        places.set(*place, fd, 0).map_err(|error| failed(&error))?;
    }
    if dry == Dry::No {
        // The kernel empties such a map when nobody in user space holds it any more; a pin does.
        places.pin(pins.map(map)).map_err(|error| failed(&error))?;
    }
    Ok(())
}

/// Every map that is pinned, and so shared with the programs that only explain.
const MAPS: &[&str] = &[
    "LAYOUT",
    "SERVICES_V4",
    "SERVICES_V6",
    "PORTS_V4",
    "PORTS_V6",
    "POOLS",
    "SLOTS",
    "TURNS",
    "BACKENDS",
    "SNAT",
    "HAIRPINS",
    "REDIRECTS",
    "ADDRESSES",
    "SHORTCUTS",
    "POLICIES",
    "ACCESS",
    "SOURCES",
    "BACKEND_TOKENS",
    "REPLIES_V4",
    "REPLIES_V6",
    "FLOWS_V4",
    "FLOWS_V6",
    "LIVE",
    "LIVE_SERVICES",
    "LIVE_BACKENDS",
    "PRESSURE",
    "STATELESS",
    "HOSTS",
    "FRAGMENTS_V4",
    "FRAGMENTS_V6",
    "CLOCK",
    "EVENTS",
    "VERDICTS",
    "SERVICE_TRAFFIC",
    "BACKEND_TRAFFIC",
    "STEPS",
];

fn load_error(error: &(dyn std::error::Error + 'static)) -> KernelError {
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
