//! Offloads and queues of devices, from the generic netlink family `ethtool` (kernel 5.6 and later).
//!
//! What `ethtool -k` and `-l` show, by the kernel's names (`rx-gro`), and what `-K` changes. Asks in this process's network namespace alone.
//! The bytes are those of `linux/ethtool_netlink.h`; knows nothing of what an offload means.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use rtnetlink::sys::protocols::NETLINK_GENERIC;
use serde::Serialize;

use super::messages::{
    Attributes, Family, NESTED, answer, attribute, generic, message, open, order, terminated, text,
};

const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const CHANNELS_GET: u8 = 17;

/// Of features and of channels alike.
const DEVICE: u16 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_NAME: u16 = 2;

const WANTED: u16 = 3;
const ACTIVE: u16 = 4;
const UNCHANGEABLE: u16 = 5;

const RX_MAX: u16 = 2;
const COMBINED_MAX: u16 = 5;
const RX_COUNT: u16 = 6;
const COMBINED_COUNT: u16 = 9;

const BITSET_BITS: u16 = 3;
const BITSET_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

/// What a device does for the stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// The features that are on.
    pub on: BTreeSet<String>,
    /// Those that nobody can change.
    pub fixed: BTreeSet<String>,
}

/// Queues that a device receives by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    /// In use.
    pub used: u32,
    /// There could be.
    pub most: u32,
    /// Whether some of them send as well, which goes by another name where their number is set.
    pub combined: bool,
}

/// Offloads of these devices, by index; of those that are there, where the kernel tells.
///
/// # Errors
///
/// When the kernel gives no socket.
pub fn offloads(devices: &BTreeSet<u32>) -> io::Result<BTreeMap<u32, Offloads>> {
    ask(devices, FEATURES_GET, offloads_of)
}

/// Queues of those of these devices that tell of them, by index.
///
/// # Errors
///
/// As [`offloads`].
pub fn queues(devices: &BTreeSet<u32>) -> io::Result<BTreeMap<u32, Queues>> {
    ask(devices, CHANNELS_GET, queues_of)
}

/// Asks for each device by itself: in a list, a device with many features does not fit into what the kernel has for an answer, and ends it.
fn ask<T>(
    devices: &BTreeSet<u32>,
    command: u8,
    of: fn(&[u8]) -> T,
) -> io::Result<BTreeMap<u32, T>> {
    let socket = open(NETLINK_GENERIC)?;
    let mut all = BTreeMap::new();
    let Some(family) = Family::find(&socket, "ethtool", "")? else { return Ok(all) };
    for &index in devices {
        let device = nested(DEVICE, &attribute(DEVICE_INDEX, &index.to_ne_bytes()));
        // A device that has gone, or does not tell: the others do.
        if let Ok(answer) = answer(&socket, &message(family.id, 0, generic(command), &device), of) {
            all.insert(index, answer);
        }
    }
    Ok(all)
}

/// Whether a device does something for the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Turn {
    /// It is to.
    On,
    /// It is not to.
    Off,
}

impl Turn {
    /// As `ethtool -K` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }

    /// The other one.
    #[must_use]
    pub fn back(self) -> Self {
        match self {
            Self::On => Self::Off,
            Self::Off => Self::On,
        }
    }
}

/// Turns an offload of a device on or off, and looks whether it has.
///
/// # Errors
///
/// When the kernel refuses it, or nothing came of it.
pub fn turn(device: &str, feature: &str, to: Turn) -> io::Result<()> {
    let socket = open(NETLINK_GENERIC)?;
    let Some(family) = Family::find(&socket, "ethtool", "")? else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let mut bit = attribute(BIT_NAME, &terminated(feature));
    if to == Turn::On {
        bit.extend(attribute(BIT_VALUE, &[]));
    }
    let bits = nested(BITSET_BITS, &nested(BITSET_BIT, &bit));
    let device = nested(DEVICE, &attribute(DEVICE_NAME, &terminated(device)));
    let attributes = [device.clone(), nested(WANTED, &bits)].concat();
    order(&socket, family.id, generic(FEATURES_SET), &attributes)?;
    let now = answer(&socket, &message(family.id, 0, generic(FEATURES_GET), &device), offloads_of)?;
    if now.on.contains(feature) == (to == Turn::On) {
        return Ok(());
    }
    Err(io::Error::other("the device keeps it as it was"))
}

fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, value)
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn offloads_of(payload: &[u8]) -> Offloads {
    let mut offloads = Offloads::default();
    for (kind, value) in Attributes::of(payload) {
        match kind {
            ACTIVE => offloads.on = names(value),
            UNCHANGEABLE => offloads.fixed = names(value),
            _ => {}
        }
    }
    offloads
}

/// The bits of a set that are listed by name: those that are set, where it comes without a mask, as these two do.
fn names(bitset: &[u8]) -> BTreeSet<String> {
    let bits = Attributes(bitset).filter(|(kind, _)| *kind == BITSET_BITS);
    let bits = bits.flat_map(|(_, bits)| Attributes(bits));
    let name =
        |bit| Attributes(bit).find(|(kind, _)| *kind == BIT_NAME).map(|(_, name)| text(name));
    bits.filter_map(|(_, bit)| name(bit)).collect()
}

fn queues_of(payload: &[u8]) -> Queues {
    let mut queues = Queues::default();
    for (kind, value) in Attributes::of(payload) {
        let number = number(value).unwrap_or_default();
        queues.combined |= kind == COMBINED_MAX && number > 0;
        match kind {
            RX_MAX | COMBINED_MAX => queues.most += number,
            RX_COUNT | COMBINED_COUNT => queues.used += number,
            _ => {}
        }
    }
    queues
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bit(name: &str) -> Vec<u8> {
        let bit = [attribute(1, &7u32.to_ne_bytes()), attribute(BIT_NAME, &terminated(name))];
        nested(BITSET_BIT, &bit.concat())
    }

    #[test]
    fn features_are_told_by_their_names() {
        let bits = [bit("rx-gro"), bit("tx-checksum-ip-generic")].concat();
        let set =
            [attribute(1, &[]), attribute(2, &64u32.to_ne_bytes()), nested(BITSET_BITS, &bits)];
        let payload = [
            vec![11, 1, 0, 0],
            nested(DEVICE, &attribute(DEVICE_INDEX, &4u32.to_ne_bytes())),
            nested(ACTIVE, &set.concat()),
            nested(UNCHANGEABLE, &nested(BITSET_BITS, &bit("rx-lro"))),
        ]
        .concat();
        let offloads = offloads_of(&payload);
        assert_eq!(offloads.on.iter().collect::<Vec<_>>(), ["rx-gro", "tx-checksum-ip-generic"]);
        assert_eq!(offloads.fixed.iter().collect::<Vec<_>>(), ["rx-lro"]);
        for cut in 0..payload.len() {
            assert!(offloads_of(&payload[..cut]).fixed.is_empty(), "cut at {cut}");
        }
    }

    #[test]
    fn combined_queues_count_as_those_that_receive() {
        let of = |kind, number: u32| attribute(kind, &number.to_ne_bytes());
        let payload =
            [vec![17, 1, 0, 0], of(RX_MAX, 2), of(COMBINED_MAX, 8), of(COMBINED_COUNT, 4)].concat();
        assert_eq!(queues_of(&payload), Queues { used: 4, most: 10, combined: true });
        let apart = [vec![17, 1, 0, 0], of(RX_MAX, 2), of(COMBINED_MAX, 0)].concat();
        assert_eq!(queues_of(&apart), Queues { used: 0, most: 2, combined: false });
    }
}
