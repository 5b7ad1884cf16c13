//! Which keys lead to which service where several are reached at one address.
//!
//! An exact address goes before the interfaces' own, and there a port before a range before all ports. The maps know the
//! second half of that rule: a port is looked for first, and of ranges the longest prefix is meant. The first
//! half is settled here: what services of exact addresses have is taken out of what others claim.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{ServiceKey, Spot};
use crate::config::Ports;

/// What services of exact addresses have.
#[derive(Debug, Default)]
pub(super) struct Taken(BTreeMap<Spot, Vec<(u16, u16)>>);

impl Taken {
    /// Takes these ports.
    pub(super) fn take(&mut self, spot: Spot, ports: &Ports) {
        self.0.entry(spot).or_default().extend(ports.ranges());
    }

    /// The keys of a service of the interfaces' own addresses.
    pub(super) fn leaves(&self, spot: Spot, ports: &Ports) -> Vec<ServiceKey> {
        match self.0.get(&spot) {
            None => keys(spot, ports),
            Some(taken) => {
                let left = ports.ranges().flat_map(|range| without(range, taken));
                let left = left.flat_map(|(first, last)| match ports {
                    Ports::List(_) => vec![exact(spot, first)],
                    Ports::Range(..) | Ports::All => prefixed(spot, first, last),
                });
                left.collect()
            }
        }
    }
}

/// The keys of a service.
pub(super) fn keys(spot: Spot, ports: &Ports) -> Vec<ServiceKey> {
    match ports {
        Ports::List(list) => list.iter().map(|&port| exact(spot, port)).collect(),
        Ports::Range(first, last) => prefixed(spot, *first, *last),
        // Port 0, too, which nobody sends to: one key instead of sixteen.
        Ports::All => vec![ServiceKey::with_ports(spot, 0, 0)],
    }
}

fn exact(spot: Spot, port: u16) -> ServiceKey {
    ServiceKey::new(SocketAddr::new(spot.address, port), spot.interface, spot.protocol)
}

fn prefixed(spot: Spot, first: u16, last: u16) -> Vec<ServiceKey> {
    let key = |(port, bits)| ServiceKey::with_ports(spot, port, bits);
    prefixes(first, last).into_iter().map(key).collect()
}

/// The fewest prefixes that are these ports together: first port and bits of each.
fn prefixes(first: u16, last: u16) -> Vec<(u16, u8)> {
    let mut prefixes = Vec::new();
    let (mut next, end) = (u32::from(first), u32::from(last) + 1);
    while next < end {
        // The largest block that begins here and does not go beyond the end.
        let free = (next | 1 << 16).trailing_zeros().min((end - next).ilog2());
        prefixes.push((next as u16, 16 - free as u8));
        next += 1 << free;
    }
    prefixes
}

/// What is left of a range.
fn without((first, last): (u16, u16), taken: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut left = vec![(u32::from(first), u32::from(last))];
    for &(from, to) in taken {
        let (from, to) = (u32::from(from), u32::from(to));
        let parts = left.into_iter().flat_map(|(first, last)| {
            // A range is empty where its last is before its first; ports are not 0.
            let (before, after) = ((first, last.min(from - 1)), (first.max(to + 1), last));
            [before, after].into_iter().filter(|(first, last)| first <= last)
        });
        left = parts.collect();
    }
    left.into_iter().map(|(first, last)| (first as u16, last as u16)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends((first, bits): (u16, u8)) -> (u32, u32) {
        let length = 1 << (16 - bits);
        assert_eq!(u32::from(first) % length, 0);
        (u32::from(first), u32::from(first) + length)
    }

    #[test]
    fn ranges_are_a_few_prefixes() {
        assert_eq!(prefixes(80, 80), [(80, 16)]);
        assert_eq!(prefixes(8000, 8100), [(8000, 10), (8064, 11), (8096, 14), (8100, 16)]);
        assert_eq!(prefixes(1, u16::MAX).len(), 16);
        assert_eq!(prefixes(1, u16::MAX - 1).len(), 30);
        assert_eq!(prefixes(0, u16::MAX), [(0, 0)]);
    }

    #[test]
    fn what_is_taken_is_left_out() {
        assert_eq!(without((10, 20), &[]), [(10, 20)]);
        assert_eq!(without((10, 20), &[(12, 13), (20, 20), (1, 10)]), [(11, 11), (14, 19)]);
        assert_eq!(without((10, 20), &[(1, u16::MAX)]), []);
        assert_eq!(without((1, u16::MAX), &[(1, 1), (u16::MAX, u16::MAX)]), [(2, u16::MAX - 1)]);
    }

    proptest! {
        #[test]
        fn prefixes_are_the_range_and_nothing_else(a in any::<u16>(), b in any::<u16>()) {
            let (first, last) = (a.min(b), a.max(b));
            let prefixes = prefixes(first, last);
            prop_assert!(prefixes.len() <= 30);
            let mut next = u32::from(first);
            for (from, to) in prefixes.into_iter().map(ends) {
                prop_assert_eq!(from, next);
                next = to;
            }
            prop_assert_eq!(next, u32::from(last) + 1);
        }
    }
}
