//! The programs of each hook, and which of them goes on in which: by maps of programs, the stages.

use std::borrow::BorrowMut;

use aya::Ebpf;
use aya::maps::{Map, MapData, ProgramArray};
use aya::programs::ProgramFd;

use super::KernelError;
use super::attach;
use super::listen::TAKE;
use super::load::Side;
use super::pin::{Pins, refused};
use super::table::is_missing;

/// The programs of one hook: that which packets come to, and those that it goes on in. Loaded together, when they are
/// needed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Group {
    /// TC ingress.
    Ingress,
    /// TC egress.
    Egress,
    /// XDP in the driver.
    Native,
    /// XDP in the stack.
    Generic,
    /// Where listening sockets are looked up: no packets come to its one program.
    Take,
}

/// The map of the stages of programs at XDP.
pub(super) const STAGES_XDP: &str = "STAGES_XDP";
/// So, at TC.
pub(super) const STAGES_TC: &str = "STAGES_TC";

impl Group {
    /// All of them.
    pub(super) const ALL: [Self; 5] =
        [Self::Ingress, Self::Egress, Self::Native, Self::Generic, Self::Take];

    /// Those that packets come to.
    pub(super) const OF_PACKETS: [Self; 4] =
        [Self::Ingress, Self::Egress, Self::Native, Self::Generic];

    /// Their names in the object.
    pub(super) fn programs(self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.entry()).chain(self.stages().into_iter().flatten())
    }

    /// The one that packets come to.
    pub(super) const fn entry(self) -> &'static str {
        match self {
            Self::Ingress => attach::IN,
            Self::Egress => attach::OUT,
            Self::Native => attach::XDP,
            Self::Generic => attach::XDP_GENERIC,
            Self::Take => TAKE,
        }
    }

    /// Those that packets go on in, in the order of the stages; none where nothing goes there.
    const fn stages(self) -> [Option<&'static str>; 4] {
        match self {
            Self::Ingress => [Some("slow_in"), Some("odd_in"), Some("answer_in"), Some("carry_in")],
            Self::Egress => [None, Some("odd_out"), None, Some("carry_out")],
            Self::Native => {
                [Some("slow_xdp"), Some("odd_xdp"), Some("answer_xdp"), Some("carry_xdp")]
            }
            Self::Generic => {
                [Some("slow_xdpg"), Some("odd_xdpg"), Some("answer_xdpg"), Some("carry_xdpg")]
            }
            Self::Take => [None; 4],
        }
    }

    /// The map of their places there, of which every second one is theirs, from this one on; none where nothing goes on.
    const fn places(self) -> Option<(&'static str, u32)> {
        match self {
            Self::Ingress => Some((STAGES_TC, 0)),
            Self::Egress => Some((STAGES_TC, 1)),
            Self::Native => Some((STAGES_XDP, 0)),
            Self::Generic => Some((STAGES_XDP, 1)),
            Self::Take => None,
        }
    }
}

fn filling(map: &str, error: &dyn std::fmt::Display) -> KernelError {
    refused(&format!("filling {map}"), error)
}

fn stages<'a>(ebpf: &'a mut Ebpf, map: &str) -> Result<ProgramArray<&'a mut MapData>, KernelError> {
    let there = ebpf.map_mut(map).ok_or_else(|| filling(map, &"the object has no such map"))?;
    ProgramArray::try_from(there).map_err(|error| filling(map, &error))
}

/// A loaded program, to be put into a map of stages.
fn handle(ebpf: &Ebpf, name: &str, map: &str) -> Result<ProgramFd, KernelError> {
    let program = ebpf.program(name).ok_or_else(|| filling(map, &format!("no program {name}")))?;
    let fd: &ProgramFd = program.fd().map_err(|error| filling(map, &error))?;
    fd.try_clone().map_err(|error| filling(map, &error))
}

/// Puts the programs of the stages where those that packets come to go on. The twin has places of its own: its
/// packets must not get into programs that write.
pub(super) fn link_stages(ebpf: &mut Ebpf, group: Group) -> Result<(), KernelError> {
    let Some((map, first)) = group.places() else { return Ok(()) };
    for (stage, name) in (0..).zip(group.stages()) {
        let Some(name) = name else { continue };
        let fd = handle(ebpf, name, map)?;
        let mut places = stages(ebpf, map)?;
        places.set(first + 2 * stage, &fd, 0).map_err(|error| filling(map, &error))?;
    }
    Ok(())
}

/// [`Stage::Elsewhere`] of the programs.
const ELSEWHERE: u32 = 4;

/// Has the programs of a group leave what they do not find to those of another object, on other flow tables.
pub(super) fn link_elsewhere(
    ebpf: &mut Ebpf,
    other: &Ebpf,
    group: Group,
) -> Result<(), KernelError> {
    let Some((map, _)) = group.places() else { return Ok(()) };
    set_elsewhere(stages(ebpf, map)?, other, group)
}

/// The same for the programs of an earlier process, whose stages are pinned.
pub(super) fn link_pinned_elsewhere(
    pins: &Pins,
    other: &Ebpf,
    group: Group,
) -> Result<(), KernelError> {
    let Some((map, _)) = group.places() else { return Ok(()) };
    set_elsewhere(pinned_stages(pins, map)?, other, group)
}

/// Takes that back for all programs whose stages are pinned.
pub(super) fn unlink_pinned(pins: &Pins) -> Result<(), KernelError> {
    for (map, first) in Group::ALL.into_iter().filter_map(Group::places) {
        match pinned_stages(pins, map)?.clear_index(&(first + 2 * ELSEWHERE)) {
            Err(error) if !is_missing(&error) => return Err(filling(map, &error)),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn pinned_stages(pins: &Pins, map: &str) -> Result<ProgramArray<MapData>, KernelError> {
    let there = MapData::from_pin(pins.stages(map)).map_err(|error| filling(map, &error))?;
    ProgramArray::try_from(Map::ProgramArray(there)).map_err(|error| filling(map, &error))
}

fn set_elsewhere<T: BorrowMut<MapData>>(
    mut places: ProgramArray<T>,
    other: &Ebpf,
    group: Group,
) -> Result<(), KernelError> {
    let Some((map, first)) = group.places() else { return Ok(()) };
    let fd = handle(other, group.entry(), map)?;
    places.set(first + 2 * ELSEWHERE, &fd, 0).map_err(|error| filling(map, &error))
}

/// Pins the maps of the stages.
pub(super) fn pin_stages(ebpf: &mut Ebpf, pins: &Pins, side: Side) -> Result<(), KernelError> {
    for name in [STAGES_XDP, STAGES_TC] {
        // The kernel empties such a map when nobody in user space holds it any more; a pin does.
        let places = stages(ebpf, name)?;
        places.pin(pins.stages(&side.name(name))).map_err(|error| filling(name, &error))?;
    }
    Ok(())
}
