//! What is to be in the maps of the programs that decapsulate, by what was asked for and what the machine is like.
//!
//! Pure: a reading in, tables out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use equipoise_common::decap::{Interface, LARGEST_HEADER, Place, Vip};
use equipoise_common::key::{V4, V6};
use ipnet::IpNet;

use super::{Mss, Options};
use crate::dataplane::kernel::decap::Tables;
use crate::host::{Device, Reading};

/// The tables for `options` on a machine that is like that.
pub(super) fn tables(options: &Options, reading: &Reading) -> Tables {
    let mut tables = Tables::default();
    let mut of_interfaces = BTreeSet::new();
    for name in &options.interfaces {
        let Some(device) = reading.devices.get(name) else { continue };
        let Some(link) = device.link_address else { continue };
        tables.interfaces.insert(device.index, Interface::new(link, segments(options.mss, device)));
        for address in addresses(reading, device) {
            of_interfaces.insert(address);
            tables.own.insert(place(address, device.index));
        }
    }
    let local: BTreeSet<IpAddr> = reading
        .devices
        .values()
        .flat_map(|device| device.addresses.iter().copied())
        .filter(|address| !address.is_loopback())
        .collect();
    let clamps = options.mss != Mss::Off;
    let vip = |is_local, is_clamped| Vip {
        is_local: u32::from(is_local),
        is_clamped: u32::from(is_clamped),
    };
    if options.addresses.is_empty() {
        // Connections that this host has by addresses of its interfaces come to it as they are.
        let vips = local.iter().map(|address| {
            (place(*address, 0), vip(true, clamps && !of_interfaces.contains(address)))
        });
        tables.vips.extend(vips);
    } else {
        let vips = options.addresses.iter();
        tables
            .vips
            .extend(vips.map(|address| (place(*address, 0), vip(local.contains(address), clamps))));
    }
    tables.sources.extend(options.from.iter().map(source));
    tables
}

/// Addresses that packets have which come by a device: its own, and those of the VLANs over it, whose tags are still
/// in the frame for XDP in its driver.
fn addresses(reading: &Reading, device: &Device) -> BTreeSet<IpAddr> {
    let mut found: BTreeSet<IpAddr> = device.addresses.iter().copied().collect();
    let over = reading
        .devices
        .values()
        .filter(|over| over.below == Some(device.index) && over.kind.as_deref() == Some("vlan"));
    for vlan in over {
        found.extend(addresses(reading, vlan));
    }
    found
}

/// What fits into a segment, over IPv4 and over IPv6.
fn segments(mss: Mss, device: &Device) -> [u16; 2] {
    /// Headers of IP and TCP.
    const V4: u32 = 40;
    const V6: u32 = 60;
    match mss {
        Mss::Off => [u16::MAX; 2],
        Mss::Bytes(bytes) => [bytes; 2],
        Mss::Auto => [V4, V6].map(|headers| {
            let left = device.mtu.saturating_sub(u32::from(LARGEST_HEADER) + headers);
            u16::try_from(left).unwrap_or(u16::MAX)
        }),
    }
}

fn place(address: IpAddr, interface: u32) -> Place {
    match address {
        IpAddr::V4(address) => Place::new(V4::from(address), interface),
        IpAddr::V6(address) => Place::new(V6::from(address), interface),
    }
}

/// A prefix as it is looked up: the family is a part of it.
fn source(prefix: &IpNet) -> (u32, [u32; 5]) {
    let bits = Place::SOURCE_BITS + u32::from(prefix.prefix_len());
    (bits, place(prefix.network(), 0).source())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decap::OnLoopback;
    use equipoise_core::config::AttachMode;

    fn options() -> Options {
        Options {
            name: "default".to_owned(),
            interfaces: vec!["eth0".to_owned()],
            addresses: BTreeSet::new(),
            loopback: OnLoopback::Untouched,
            from: Vec::new(),
            port: 6080,
            mss: Mss::Auto,
            attach: AttachMode::Auto,
        }
    }

    fn device(index: u32, addresses: &[&str]) -> Device {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        Device { index, addresses, mtu: 1500, link_address: Some([2; 6]), ..Device::default() }
    }

    fn reading() -> Reading {
        let vlan =
            Device { kind: Some("vlan".to_owned()), below: Some(2), ..device(3, &["10.0.100.11"]) };
        let macvlan =
            Device { kind: Some("macvlan".to_owned()), below: Some(2), ..device(4, &["10.0.0.9"]) };
        let devices = [
            ("lo", device(1, &["127.0.0.1", "203.0.113.10", "::1", "2001:db8:f::10"])),
            ("eth0", device(2, &["10.0.0.11", "2001:db8:b::11"])),
            ("eth0.100", vlan),
            ("mv0", macvlan),
        ];
        let devices = devices.map(|(name, device)| (name.to_owned(), device)).into();
        Reading { devices, ..Reading::default() }
    }

    fn at(address: &str, interface: u32) -> Place {
        place(address.parse().unwrap(), interface)
    }

    #[test]
    fn packets_come_to_the_addresses_of_an_interface_and_its_vlans() {
        let own = tables(&options(), &reading()).own;
        let expected = [("10.0.0.11", 2), ("2001:db8:b::11", 2), ("10.0.100.11", 2)];
        assert_eq!(own, expected.map(|(address, interface)| at(address, interface)).into());
    }

    #[test]
    fn without_vips_every_address_of_the_host_is_one_but_those_of_loopback() {
        let vips = tables(&options(), &reading()).vips;
        let vip = |address| vips.get(&at(address, 0)).copied();
        let clamped = Some(Vip { is_local: 1, is_clamped: 1 });
        assert_eq!(vip("203.0.113.10"), clamped);
        assert_eq!(vip("2001:db8:f::10"), clamped);
        assert_eq!(vip("10.0.0.9"), clamped);
        // These have connections of their own.
        for address in ["10.0.0.11", "2001:db8:b::11", "10.0.100.11"] {
            assert_eq!(vip(address), Some(Vip { is_local: 1, is_clamped: 0 }), "{address}");
        }
        assert_eq!((vip("127.0.0.1"), vip("::1")), (None, None));
    }

    #[test]
    fn vips_that_are_named_are_the_only_ones_and_known_to_be_here_or_not() {
        let addresses = ["203.0.113.10", "203.0.113.99"].map(|a| a.parse().unwrap()).into();
        let vips = tables(&Options { addresses, ..options() }, &reading()).vips;
        let expected = [("203.0.113.10", 1), ("203.0.113.99", 0)]
            .map(|(address, is_local)| (at(address, 0), Vip { is_local, is_clamped: 1 }));
        assert_eq!(vips, expected.into());
    }

    #[test]
    fn segments_leave_room_for_the_largest_header_of_ours() {
        let of = |mss, mtu| segments(mss, &Device { mtu, ..Device::default() });
        assert_eq!(of(Mss::Auto, 1500), [1412, 1392]);
        assert_eq!(of(Mss::Auto, 9000), [8912, 8892]);
        assert_eq!(of(Mss::Auto, 65_536), [65_448, 65_428]);
        assert_eq!(of(Mss::Bytes(1300), 1500), [1300, 1300]);
        assert_eq!(of(Mss::Off, 1500), [u16::MAX; 2]);
    }

    #[test]
    fn a_prefix_of_sources_is_looked_up_behind_its_family() {
        let from = ["198.18.0.0/15", "100::/64"].map(|prefix| prefix.parse().unwrap()).to_vec();
        let sources = tables(&Options { from, ..options() }, &reading()).sources;
        let bytes = |[a, b, c, d]: [u8; 4]| u32::from_ne_bytes([a, b, c, d]);
        let v4 = (32 + 15, [4, bytes([198, 18, 0, 0]), 0, 0, 0]);
        let v6 = (32 + 64, [6, bytes([1, 0, 0, 0]), 0, 0, 0]);
        assert_eq!(sources, [v4, v6].into());
    }
}
