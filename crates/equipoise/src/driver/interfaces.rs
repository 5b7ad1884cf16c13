//! Which interfaces the programs hang on, and which devices take redirected frames.
//!
//! Wanted are the listening interfaces and those that lead to backends. An interface that is made
//! anew has another index and is attached anew; one that is no longer wanted is let go. What
//! cannot be attached is told and tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use equipoise_common::value::{Host, Shortcuts};
use equipoise_core::config::{AttachMode, BackendInterfaces, Config};

use crate::dataplane::DataPlane;
use crate::dataplane::kernel::Attachment;
use crate::host::{Device, Features, Reading, Way};
use crate::status::InterfaceStatus;

/// What is attached.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    attached: BTreeMap<String, Attached>,
    /// Why an interface that is wanted is not attached.
    failed: BTreeMap<String, String>,
    /// Those with programs of before, in whose place others are still to be attached.
    again: BTreeSet<String>,
    /// What the data plane has been told, by index.
    redirects: BTreeMap<u32, bool>,
    /// From which addresses packets are answered, as it has been told, by index.
    hosts: BTreeMap<u32, Host>,
    /// For which packets it keeps next hops, as it has been told.
    shortcuts: Option<Shortcuts>,
}

#[derive(Debug)]
struct Attached {
    index: u32,
    asked: AttachMode,
    how: Attachment,
}

impl Interfaces {
    /// Attaches what `config` wants on the machine as it is, and lets go of the rest.
    pub(super) fn follow<P: DataPlane>(
        &mut self,
        plane: &mut P,
        config: &Config,
        reading: &Reading,
    ) {
        let wanted = wanted(config, reading);
        self.let_go(plane, |name, attached| {
            let there = reading.devices.get(name).is_some_and(|d| d.index == attached.index);
            there && wanted.contains(name) && config.settings.attach_mode(name) == attached.asked
        });
        let before = std::mem::take(&mut self.failed);
        for name in &wanted {
            if self.attached.contains_key(name) {
                continue;
            }
            let Err(reason) = self.attach(plane, name, reading, config) else {
                continue;
            };
            if before.get(name) != Some(&reason) {
                tracing::warn!(interface = name, reason, "not attached");
            }
            self.failed.insert(name.clone(), reason);
        }
        let (attached, devices) = (&self.attached, &reading.devices);
        self.again.retain(|name| {
            wanted.contains(name) && devices.contains_key(name) && !attached.contains_key(name)
        });
        self.tell_redirects(plane, reading);
        self.tell_hosts(plane, config, reading);
        self.tell_shortcuts(plane, reading);
    }

    /// Everything is to be attached, and told to the data plane, once more.
    pub(super) fn begin_again(&mut self) {
        self.again.extend(std::mem::take(&mut self.attached).into_keys());
        self.redirects.clear();
        self.hosts.clear();
        self.shortcuts = None;
    }

    /// An interface with programs of before that those in their place could not be attached to, and why not.
    pub(super) fn left_behind(&self) -> Option<(&str, &str)> {
        self.again.iter().find_map(|name| Some((&**name, &**self.failed.get(name)?)))
    }

    /// Why wanted interfaces are not attached, by name.
    pub(super) fn failed(&self) -> &BTreeMap<String, String> {
        &self.failed
    }

    /// Indexes of the interfaces that are attached.
    pub(super) fn indexes(&self) -> BTreeSet<u32> {
        self.attached.values().map(|a| a.index).collect()
    }

    /// An interface that is attached: its index and how.
    pub(super) fn attachment(&self, name: &str) -> Option<(u32, &Attachment)> {
        self.attached.get(name).map(|attached| (attached.index, &attached.how))
    }

    pub(super) fn status(&self) -> Vec<InterfaceStatus> {
        let attached = self.attached.iter().map(|(name, a)| InterfaceStatus {
            name: name.clone(),
            hook: a.how.hook.to_owned(),
            mode: a.how.mode.to_owned(),
            reason: a.how.reason.clone(),
        });
        let failed = self.failed.iter().map(|(name, reason)| InterfaceStatus {
            name: name.clone(),
            hook: "none".to_owned(),
            mode: "none".to_owned(),
            reason: reason.clone(),
        });
        let mut all: Vec<_> = attached.chain(failed).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn attach<P: DataPlane>(
        &mut self,
        plane: &mut P,
        name: &str,
        reading: &Reading,
        config: &Config,
    ) -> Result<(), String> {
        let device = reading.devices.get(name).ok_or("there is no such interface")?;
        let asked = config.settings.attach_mode(name);
        let described = device.described(name);
        let how = plane.attach(&described, asked).map_err(|e| e.to_string())?;
        tracing::info!(
            interface = name,
            hook = how.hook,
            mode = how.mode,
            reason = how.reason,
            "attached"
        );
        self.attached.insert(name.to_owned(), Attached { index: device.index, asked, how });
        Ok(())
    }

    fn let_go<P: DataPlane>(&mut self, plane: &mut P, keep: impl Fn(&str, &Attached) -> bool) {
        self.attached.retain(|name, attached| {
            if keep(name, attached) {
                return true;
            }
            plane.detach(attached.index);
            tracing::info!(interface = name, "detached");
            false
        });
    }

    fn tell_redirects<P: DataPlane>(&mut self, plane: &mut P, reading: &Reading) {
        let native: BTreeSet<u32> = self
            .attached
            .values()
            .filter(|a| a.how.hook == "xdp" && a.how.mode == "native")
            .map(|a| a.index)
            .collect();
        let attached = self.indexes();
        let concerned = reading
            .devices
            .values()
            .filter(|d| !d.addresses.is_empty() || attached.contains(&d.index));
        let now: BTreeMap<u32, bool> =
            concerned.map(|d| (d.index, takes_redirects(d, &native))).collect();
        for (&index, &allowed) in &now {
            if self.redirects.get(&index) == Some(&allowed) {
                continue;
            }
            match plane.allow_redirect(index, allowed) {
                Ok(()) => {
                    tracing::debug!(interface = index, allowed, "redirected frames");
                    self.redirects.insert(index, allowed);
                }
                // The stack sends in its place: slower, and right.
                Err(error) => {
                    tracing::warn!(interface = index, %error, "redirecting to an interface is not set up");
                }
            }
        }
        // The kernel forgets a device that is gone by itself.
        self.redirects.retain(|index, _| now.contains_key(index));
    }

    fn tell_hosts<P: DataPlane>(&mut self, plane: &mut P, config: &Config, reading: &Reading) {
        let attached = self.indexes();
        let here = reading.devices.values().filter(|device| attached.contains(&device.index));
        let now: BTreeMap<u32, Host> =
            here.map(|device| (device.index, host(&device.addresses, config))).collect();
        let indexes: BTreeSet<u32> = now.keys().chain(self.hosts.keys()).copied().collect();
        for index in indexes {
            let host = now.get(&index).copied();
            if self.hosts.get(&index) == host.as_ref() {
                continue;
            }
            match plane.answer_from(index, host) {
                Ok(()) => match host {
                    Some(host) => drop(self.hosts.insert(index, host)),
                    None => drop(self.hosts.remove(&index)),
                },
                // Packets that want an answer are dropped there, counted, until it is told.
                Err(error) => {
                    tracing::warn!(interface = index, %error, "answers from an interface are not set up");
                }
            }
        }
    }

    fn tell_shortcuts<P: DataPlane>(&mut self, plane: &mut P, reading: &Reading) {
        let shortcuts = if reading.plain_ways { Shortcuts::All } else { Shortcuts::Replies };
        if self.shortcuts == Some(shortcuts) {
            return;
        }
        match plane.allow_shortcuts(shortcuts) {
            Ok(()) => {
                tracing::debug!(packets = ?shortcuts, "next hops kept for a moment");
                self.shortcuts = Some(shortcuts);
            }
            Err(error) => {
                tracing::warn!(%error, "which next hops may be kept is not told, and tried again");
            }
        }
    }
}

/// The addresses of a device that this host answers from: its own ones before VIPs.
fn host(addresses: &[IpAddr], config: &Config) -> Host {
    let is_vip = |address: &&IpAddr| {
        config.services.iter().any(|service| service.listen.address == Some(**address))
    };
    let first = |is_v4: bool| {
        let mut family = addresses.iter().filter(|address| address.is_ipv4() == is_v4);
        let own = family.clone().find(|address| !is_vip(address));
        own.or_else(|| family.next()).copied()
    };
    let mut host = Host::default();
    if let Some(IpAddr::V4(address)) = first(true) {
        host.v4 = address.into();
    }
    if let Some(IpAddr::V6(address)) = first(false) {
        host.v6 = address.into();
    }
    host
}

/// Generic XDP redirects to any device. Native XDP needs the driver's help at the other end, and
/// where the driver does not have it the frame would vanish with nothing but a device counter.
fn takes_redirects(device: &Device, native: &BTreeSet<u32>) -> bool {
    if native.is_empty() {
        return true;
    }
    match device.features {
        Some(features) => Features::ndo_xmit(features),
        // Kernels before 6.3 do not tell. A NIC's driver that runs our program has the queues for
        // it; a veth depends on its peer, which is not known.
        None => native.contains(&device.index) && device.kind.is_none(),
    }
}

/// The interfaces that programs are to hang on.
fn wanted(config: &Config, reading: &Reading) -> BTreeSet<String> {
    let mut wanted: BTreeSet<String> =
        config.services.iter().flat_map(|s| &s.listen.interfaces).cloned().collect();
    match &config.settings.backend_interfaces {
        BackendInterfaces::Named(names) => wanted.extend(names.iter().cloned()),
        BackendInterfaces::Auto => {
            let leads = reading.ways.values().filter_map(|way| match way {
                Way::Via { interface, .. } => Some(reading.by_index(*interface)?.0.to_owned()),
                Way::Local | Way::Unreachable => None,
            });
            wanted.extend(leads);
        }
    }
    wanted
}

/// Those of them that exist.
pub(crate) fn wanted_here(config: &Config, reading: &Reading) -> BTreeSet<String> {
    let mut wanted = wanted(config, reading);
    wanted.retain(|name| reading.devices.contains_key(name));
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_device_takes_redirects_while_nothing_runs_native_xdp() {
        let device = Device { features: Some(Features(0)), ..Device::default() };
        assert!(takes_redirects(&device, &BTreeSet::new()));
    }

    #[test]
    fn under_native_xdp_the_driver_must_take_redirects() {
        let native = BTreeSet::from([2]);
        let device =
            |bits| Device { index: 3, features: Some(Features(bits)), ..Device::default() };
        assert!(!takes_redirects(&device(35), &native), "a veth whose peer has no NAPI");
        assert!(takes_redirects(&device(103), &native));
    }

    #[test]
    fn where_the_kernel_does_not_tell_only_our_own_nics_take_redirects() {
        let native = BTreeSet::from([2, 3]);
        let nic = Device { index: 2, ..Device::default() };
        let veth = Device { index: 3, kind: Some("veth".into()), ..Device::default() };
        let other = Device { index: 4, ..Device::default() };
        assert!(takes_redirects(&nic, &native));
        assert!(!takes_redirects(&veth, &native));
        assert!(!takes_redirects(&other, &native));
    }
}
