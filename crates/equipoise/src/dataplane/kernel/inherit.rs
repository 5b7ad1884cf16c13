//! What an earlier process has left pinned: whether it can be taken over, and what is in its maps.
//!
//! Every pinned map is compared with what this build would make before any is used: its kind, the sizes of keys and values,
//! how many entries, flags, and the tag of all layouts. Of maps of another layout it is those by which flows are carried over. Maps that a process has not come to fill, since it was killed before, have no
//! tag, and are as good as none. Reads; takes nothing over and removes nothing.

use std::collections::BTreeMap;

use aya::Pod;
use aya::maps::{Array, Map, MapData, MapInfo};
use aya_obj::Object;
use equipoise_common::value::{CARRIAGE, LAYOUT, Layout};

use super::pin::{Pins, refused};
use super::{KernelError, maps};

/// What the pins of an instance come to.
pub(super) enum Left {
    /// There are none.
    Nothing,
    /// Maps as this build makes them.
    Maps(Layout),
    /// Maps of another layout, from which flows can be carried over.
    Other(Layout),
    /// Something that cannot be used, and why.
    Unusable(String),
}

/// What a map is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

/// Looks at the pins of an instance, for maps of these names. How many flows the tables hold is for them to say.
pub(super) fn look(pins: &Pins, object: &[u8], names: &[&str]) -> Result<Left, KernelError> {
    if !pins.exists() {
        return Ok(Left::Nothing);
    }
    let Some(layout) = layout(pins) else {
        return Ok(Left::Unusable("it has not come to fill its maps".to_owned()));
    };
    let is_ours = layout.tag == LAYOUT;
    if !is_ours && layout.carriage != CARRIAGE {
        let Layout { tag, carriage, .. } = layout;
        return Ok(Left::Unusable(format!(
            "its maps have layout {tag}, and not {LAYOUT}, and flows are carried over by {carriage} there, and not by {CARRIAGE}"
        )));
    }
    let shapes = shapes(object)?;
    let is_looked_at =
        |name: &str| is_ours || maps::SHARED.contains(&name) || maps::OF_A_TABLE.contains(&name);
    for &name in names.iter().filter(|name| is_looked_at(name)) {
        let Some(wanted) = shapes.get(name) else { continue };
        let entries = if maps::is_flow_table(name) { layout.sets } else { wanted.entries };
        let wanted = Shape { entries, ..*wanted };
        match shape(pins, name) {
            Err(error) => return Ok(Left::Unusable(format!("map {name}: {error}"))),
            Ok(there) if there != wanted => {
                return Ok(Left::Unusable(format!("map {name} is {there:?}, and not {wanted:?}")));
            }
            Ok(_) => {}
        }
    }
    Ok(if is_ours { Left::Maps(layout) } else { Left::Other(layout) })
}

/// An array by its pin.
pub(super) fn array<T: Pod>(
    pins: &Pins,
    name: &str,
) -> Result<Array<MapData, T>, Box<dyn std::error::Error>> {
    Ok(Map::Array(MapData::from_pin(pins.map(name))?).try_into()?)
}

/// What the maps are said to be like; none where nothing is said.
pub(super) fn layout(pins: &Pins) -> Option<Layout> {
    let layout: Layout = array(pins, "LAYOUT").ok()?.get(&0, 0).ok()?;
    (layout.tag != 0).then_some(layout)
}

/// Says what the maps are like.
pub(super) fn tag(pins: &Pins, layout: Layout) -> Result<(), Box<dyn std::error::Error>> {
    Ok(array(pins, "LAYOUT")?.set(0, layout, 0)?)
}

/// The kernel sets this for maps of devices by itself.
const READ_ONLY_FOR_PROGRAMS: u32 = 1 << 7;

fn shape(pins: &Pins, name: &str) -> Result<Shape, Box<dyn std::error::Error>> {
    let info = MapInfo::from_pin(pins.map(name))?;
    Ok(Shape {
        kind: info.map_type()? as u32,
        key: info.key_size(),
        value: info.value_size(),
        entries: info.max_entries(),
        flags: info.map_flags() & !READ_ONLY_FOR_PROGRAMS,
    })
}

/// What the maps of an object are made with, by name.
fn shapes(object: &[u8]) -> Result<BTreeMap<String, Shape>, KernelError> {
    let object = Object::parse(object).map_err(|error| refused("reading the programs", &error))?;
    let shape = |map: &aya_obj::Map| Shape {
        kind: map.map_type(),
        key: map.key_size(),
        value: map.value_size(),
        entries: map.max_entries(),
        flags: map.map_flags() & !READ_ONLY_FOR_PROGRAMS,
    };
    Ok(object.maps.iter().map(|(name, map)| (name.clone(), shape(map))).collect())
}
