//! VIPs on the loopback device, and interfaces that do not speak of them; and what on this host would drop what has
//! been taken out.
//!
//! Whoever has a VIP on a backend must not answer when the link is asked for it: the balancer does. With IPv6 only
//! an address of the very interface is answered for. With IPv4 `arp_ignore` and `arp_announce` decide, of which the
//! kernel goes by the larger of an interface's and that of `all`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::ledger::{Keep, Ledger, LedgerError};
use super::{OnLoopback, Options};
use crate::host::{Machine, Reading, Way};

/// What an interface needs at least, so that it keeps quiet about addresses of others.
const QUIET: [(&str, u32); 2] = [("arp_ignore", 1), ("arp_announce", 2)];

/// An address of clients that nobody has (RFC 5737): it is reached as most clients are.
pub(super) const ANYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Makes the host what `options` asks for, and puts back what an earlier process, or an earlier state of the machine,
/// has left and nobody asks for any more.
pub(super) async fn follow<M: Machine>(
    ledger: &mut Ledger,
    machine: &mut M,
    options: &Options,
    reading: &Reading,
) -> Result<(), LedgerError> {
    let manages = options.loopback == OnLoopback::Managed;
    let quiet: BTreeSet<String> = options
        .interfaces
        .iter()
        .flat_map(|name| QUIET.map(|(setting, _)| path(name, setting)))
        .collect();
    let keep = Keep {
        address: &|address| manages && options.addresses.contains(&address),
        setting: &|path| manages && quiet.contains(path),
    };
    if !ledger.is_empty() {
        ledger.put_back(machine, reading, &keep).await?;
    }
    if !manages {
        return Ok(());
    }
    // Before the addresses: nobody is to hear of them.
    if options.addresses.iter().any(IpAddr::is_ipv4) {
        for name in options.interfaces.iter().filter(|name| reading.devices.contains_key(*name)) {
            for (setting, least) in QUIET {
                if in_force(machine, name, setting) < least {
                    ledger.set(machine, &path(name, setting), &least.to_string())?;
                }
            }
        }
    }
    let lo = reading.devices.iter().find(|(_, device)| device.loopback);
    let Some((name, device)) = lo else {
        return Ok(());
    };
    for &address in &options.addresses {
        if reading.owners(address).next().is_none() {
            ledger.add(machine, (name, device.index), address).await?;
        }
    }
    Ok(())
}

/// What works, but look: a sentence each.
pub(super) fn warnings<M: Machine>(
    machine: &M,
    options: &Options,
    reading: &Reading,
) -> Vec<String> {
    let mut said = Vec::new();
    for address in &options.addresses {
        if reading.owners(*address).next().is_none() {
            said.push(format!(
                "no interface has the address {address}, so what is for it is routed on: add --lo"
            ));
        }
    }
    for name in &options.interfaces {
        said.extend(reverse_path(machine, name, reading));
    }
    if options.loopback == OnLoopback::Managed && options.addresses.iter().any(IpAddr::is_ipv4) {
        let others = reading.devices.iter().filter(|(name, device)| {
            let speaks = device.up && device.link_address.is_some() && !device.loopback;
            let asked_for = options.interfaces.contains(name);
            speaks && !asked_for && in_force(machine, name, QUIET[0].0) == 0
        });
        for (name, _) in others {
            said.push(format!(
                "{name} answers when it is asked for a VIP on its link: if the balancer is there too, name {name} with -i as well, or set net.ipv4.conf.{name}.arp_ignore=1"
            ));
        }
    }
    said
}

/// Whether the kernel would take clients for forged, since the way back to them is another.
fn reverse_path<M: Machine>(machine: &M, name: &str, reading: &Reading) -> Option<String> {
    const STRICT: u32 = 1;
    const LOOSE: u32 = 2;
    let index = reading.devices.get(name)?.index;
    let way = reading.ways.get(&ANYWHERE).copied().unwrap_or(Way::Unreachable);
    let why = match (in_force(machine, name, "rp_filter"), way) {
        (STRICT, Way::Via { interface, .. }) if interface == index => return None,
        (STRICT, _) => "the way back to which does not lead by it",
        (LOOSE, Way::Unreachable) => "to which the routing table knows no way",
        _ => return None,
    };
    Some(format!(
        "net.ipv4.conf.{name}.rp_filter (or that of `all`) drops what has been taken out from IPv4 clients {why}: set it to {}",
        if way == Way::Unreachable { 0 } else { LOOSE }
    ))
}

/// What the kernel goes by: the larger one.
fn in_force<M: Machine>(machine: &M, interface: &str, setting: &str) -> u32 {
    let read = |name| machine.setting(&path(name, setting)).and_then(|text| text.parse().ok());
    read("all").unwrap_or(0).max(read(interface).unwrap_or(0))
}

fn path(interface: &str, setting: &str) -> String {
    format!("ipv4/conf/{interface}/{setting}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decap::Mss;
    use crate::host::Device;
    use crate::host::simulated::{Simulated, World};
    use equipoise_core::config::AttachMode;
    use std::collections::BTreeMap;
    use tempfile::TempDir;

    const VIP: &str = "203.0.113.10";

    fn options(addresses: &[&str]) -> Options {
        Options {
            name: "default".to_owned(),
            interfaces: vec!["eth0".to_owned()],
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            loopback: OnLoopback::Managed,
            from: Vec::new(),
            port: 6080,
            mss: Mss::Auto,
            attach: AttachMode::Auto,
        }
    }

    fn settings(of: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for interface in ["all", "eth0", "eth1"] {
            for setting in ["arp_ignore", "arp_announce", "rp_filter"] {
                all.insert(path(interface, setting), "0".to_owned());
            }
        }
        for (path, value) in of {
            all.insert(format!("ipv4/conf/{path}"), (*value).to_owned());
        }
        all
    }

    fn machine(settings: BTreeMap<String, String>, back: Option<u32>) -> Simulated {
        let device = |index, loopback| Device {
            index,
            loopback,
            up: true,
            link_address: Some([0; 6]),
            ..Device::default()
        };
        let devices = [("lo", 1, true), ("eth0", 2, false), ("eth1", 3, false)];
        let devices = devices.map(|(name, index, lo)| (name.to_owned(), device(index, lo))).into();
        let mut reading = Reading { devices, ..Reading::default() };
        if let Some(interface) = back {
            reading.ways.insert(ANYWHERE, Way::Via { interface, next_hop: ANYWHERE, source: None });
        }
        Simulated::new(World { reading, settings, ..World::default() }).0
    }

    async fn read(machine: &mut Simulated) -> Reading {
        machine.read(&[ANYWHERE].into()).await.unwrap()
    }

    async fn followed(machine: &mut Simulated, options: &Options, ledger: &mut Ledger) {
        let reading = read(machine).await;
        follow(ledger, machine, options, &reading).await.unwrap();
    }

    fn ledger(folder: &TempDir) -> Ledger {
        Ledger::open(&folder.path().join("ledger.json")).unwrap()
    }

    #[tokio::test]
    async fn vips_are_on_loopback_and_the_interface_keeps_quiet_about_them() {
        let folder = TempDir::new().unwrap();
        let mut machine = machine(settings(&[]), Some(2));
        let mut ledger = ledger(&folder);
        followed(&mut machine, &options(&[VIP, "2001:db8:f::10"]), &mut ledger).await;
        assert_eq!(read(&mut machine).await.devices["lo"].addresses.len(), 2);
        let value = |path: &str| machine.setting(&format!("ipv4/conf/{path}")).unwrap();
        assert_eq!(
            (value("eth0/arp_ignore"), value("eth0/arp_announce")),
            ("1".into(), "2".into())
        );
        assert_eq!(value("eth1/arp_ignore"), "0");
    }

    #[tokio::test]
    async fn what_is_quiet_enough_already_is_not_changed() {
        let folder = TempDir::new().unwrap();
        let quiet = [("all/arp_announce", "2"), ("eth0/arp_ignore", "3")];
        let mut machine = machine(settings(&quiet), Some(2));
        let mut ledger = ledger(&folder);
        followed(&mut machine, &options(&[VIP]), &mut ledger).await;
        let value = |path: &str| machine.setting(&format!("ipv4/conf/{path}")).unwrap();
        assert_eq!(
            (value("eth0/arp_ignore"), value("eth0/arp_announce")),
            ("3".into(), "0".into())
        );
    }

    #[tokio::test]
    async fn ipv6_alone_needs_no_setting() {
        let folder = TempDir::new().unwrap();
        let mut machine = machine(settings(&[]), Some(2));
        let mut ledger = ledger(&folder);
        followed(&mut machine, &options(&["2001:db8:f::10"]), &mut ledger).await;
        assert_eq!(machine.setting("ipv4/conf/eth0/arp_ignore").as_deref(), Some("0"));
    }

    #[tokio::test]
    async fn the_next_process_takes_over_what_it_wants_and_puts_the_rest_back() {
        let folder = TempDir::new().unwrap();
        let mut machine = machine(settings(&[]), Some(2));
        followed(&mut machine, &options(&[VIP, "203.0.113.11"]), &mut ledger(&folder)).await;
        // That one was killed.
        let mut next = ledger(&folder);
        followed(&mut machine, &options(&[VIP]), &mut next).await;
        let vip: IpAddr = VIP.parse().unwrap();
        assert_eq!(read(&mut machine).await.devices["lo"].addresses, [vip]);
        assert_eq!(machine.setting("ipv4/conf/eth0/arp_ignore").as_deref(), Some("1"));
        let asked = Options { loopback: OnLoopback::Untouched, ..options(&[VIP]) };
        followed(&mut machine, &asked, &mut next).await;
        assert!(read(&mut machine).await.devices["lo"].addresses.is_empty());
        assert_eq!(machine.setting("ipv4/conf/eth0/arp_ignore").as_deref(), Some("0"));
        assert!(next.is_empty());
    }

    async fn warned(settings: BTreeMap<String, String>, back: Option<u32>) -> Vec<String> {
        let mut machine = machine(settings, back);
        let asked =
            Options { loopback: OnLoopback::Untouched, addresses: BTreeSet::new(), ..options(&[]) };
        let reading = read(&mut machine).await;
        warnings(&machine, &asked, &reading)
    }

    #[tokio::test]
    async fn a_reverse_path_filter_is_told_where_it_drops() {
        let strict = || settings(&[("all/rp_filter", "1")]);
        let loose = || settings(&[("eth0/rp_filter", "2")]);
        assert_eq!(warned(settings(&[]), None).await, [""; 0]);
        assert_eq!(warned(strict(), Some(2)).await, [""; 0]);
        assert_eq!(warned(loose(), Some(3)).await, [""; 0]);
        for (settings, back, advice) in
            [(strict(), Some(3), "set it to 2"), (strict(), None, "to 0"), (loose(), None, "to 0")]
        {
            let said = warned(settings, back).await;
            assert!(matches!(&said[..], [one] if one.contains(advice)), "{said:?}");
        }
    }

    #[tokio::test]
    async fn an_interface_that_would_answer_for_a_vip_is_told() {
        let mut machine = machine(settings(&[]), Some(2));
        let reading = read(&mut machine).await;
        let said = warnings(&machine, &options(&[VIP]), &reading);
        assert!(said.iter().any(|s| s.starts_with("eth1 answers")), "{said:?}");
        assert!(said.iter().any(|s| s.contains("no interface has")), "{said:?}");
    }
}
