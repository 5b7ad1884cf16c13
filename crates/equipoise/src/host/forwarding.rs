//! Kernel settings without which packets are not forwarded: set while attached, then put back.
//!
//! `bpf_fib_lookup` and the stack both refuse to forward what arrives on an interface whose
//! `forwarding` is off. IPv4 has a switch per interface. IPv6 has one for the whole machine, which
//! makes interfaces with `accept_ra` = 1 deaf to router advertisements, so those are set to 2 first.
//! A setting that somebody else changes in the meantime is theirs from then on.

use std::collections::BTreeSet;

use equipoise_core::config::{Config, Service};
use serde::{Deserialize, Serialize};

use super::{HostError, Machine, Reading};

const V6_ALL: &str = "ipv6/conf/all/forwarding";

/// Settings that have been changed, with what they were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forwarding {
    changed: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Change {
    /// The interface that it was changed for; none for the whole machine's.
    interface: Option<String>,
    path: String,
    before: String,
    after: String,
}

/// What is asked for.
#[derive(Debug)]
pub struct Wanted {
    /// The interfaces that programs hang on.
    attached: BTreeSet<String>,
    listens_on_loopback: bool,
    ipv6: bool,
}

impl Wanted {
    /// What `config` needs where its programs hang on these interfaces.
    pub fn new(config: &Config, attached: BTreeSet<String>) -> Self {
        if config.settings.observe {
            // Packets go on as they have come: nothing is needed for that.
            return Self { attached: BTreeSet::new(), listens_on_loopback: false, ipv6: false };
        }
        let mut interfaces = config.services.iter().flat_map(|s| &s.listen.interfaces);
        let mut backends = config.services.iter().flat_map(Service::all_backends);
        Self {
            attached,
            listens_on_loopback: interfaces.any(|name| name == "lo"),
            ipv6: backends.any(|backend| backend.address.is_ipv6()),
        }
    }
}

impl Forwarding {
    /// Whether nothing has been changed.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }

    /// Sets what is wanted and not so yet, and puts back what was set for interfaces that are no
    /// longer attached.
    ///
    /// # Errors
    ///
    /// When a setting cannot be made: packets would be lost without it.
    pub fn follow<M: Machine>(
        &mut self,
        machine: &mut M,
        wanted: &Wanted,
        reading: &Reading,
    ) -> Result<(), HostError> {
        self.put_back(machine, |change| {
            change.interface.as_ref().is_some_and(|name| !wanted.attached.contains(name))
        });
        for name in &wanted.attached {
            self.ensure(machine, Some(name), &format!("ipv4/conf/{name}/forwarding"), "1")?;
        }
        if wanted.listens_on_loopback {
            // Replies to clients on this host come in with a source that is an own address.
            self.ensure(machine, Some("lo"), "ipv4/conf/lo/accept_local", "1")?;
        }
        if wanted.ipv6 {
            self.forward_v6(machine, &wanted.attached, reading)?;
        }
        Ok(())
    }

    /// Puts everything back, the last change first.
    pub fn release<M: Machine>(&mut self, machine: &mut M) {
        self.put_back(machine, |_| true);
    }

    fn forward_v6<M: Machine>(
        &mut self,
        machine: &mut M,
        attached: &BTreeSet<String>,
        reading: &Reading,
    ) -> Result<(), HostError> {
        if machine.setting(V6_ALL).as_deref() != Some("1") {
            let links = reading.devices.iter().filter(|(_, device)| !device.loopback);
            for (name, _) in links {
                let accept = format!("ipv6/conf/{name}/accept_ra");
                if machine.setting(&accept).as_deref() == Some("1") {
                    self.ensure(machine, None, &accept, "2")?;
                }
            }
            self.set_all_v6(machine, reading)?;
        }
        for name in attached {
            let path = format!("ipv6/conf/{name}/forwarding");
            // IPv6 may be off on one interface alone: it has no such setting then.
            if machine.setting(&path).is_some() {
                self.ensure(machine, Some(name), &path, "1")?;
            }
        }
        Ok(())
    }

    /// Switches the whole machine. The kernel copies a write to `all` to every interface, so those
    /// that are on already are noted first: changes are undone in reverse, so they are switched on
    /// again after `all` has switched them off.
    fn set_all_v6<M: Machine>(
        &mut self,
        machine: &mut M,
        reading: &Reading,
    ) -> Result<(), HostError> {
        let forwarding = |name: &String| format!("ipv6/conf/{name}/forwarding");
        for path in reading.devices.keys().map(forwarding) {
            if machine.setting(&path).as_deref() == Some("1") {
                let on = || "1".to_owned();
                self.changed.push(Change { interface: None, path, before: on(), after: on() });
            }
        }
        self.ensure(machine, None, V6_ALL, "1")
    }

    fn ensure<M: Machine>(
        &mut self,
        machine: &mut M,
        interface: Option<&str>,
        path: &str,
        after: &str,
    ) -> Result<(), HostError> {
        let before = machine.setting(path);
        if before.as_deref() == Some(after) {
            return Ok(());
        }
        machine.set(path, after)?;
        let before = before.unwrap_or_else(|| "0".to_owned());
        tracing::info!(setting = %name(path), %before, %after, "kernel setting changed, so that packets are forwarded");
        self.changed.push(Change {
            interface: interface.map(str::to_owned),
            path: path.to_owned(),
            before,
            after: after.to_owned(),
        });
        Ok(())
    }

    fn put_back<M: Machine>(&mut self, machine: &mut M, which: impl Fn(&Change) -> bool) {
        let (undo, keep): (Vec<_>, Vec<_>) =
            self.changed.drain(..).partition(|change| which(change));
        self.changed = keep;
        for change in undo.into_iter().rev() {
            undo_one(machine, &change);
        }
    }
}

fn undo_one<M: Machine>(machine: &mut M, change: &Change) {
    let Change { path, before, after, .. } = change;
    // The interface is gone, and its settings with it.
    let Some(now) = machine.setting(path) else {
        return;
    };
    let noted_only = before == after;
    let changed_by_others = now != *after && !noted_only;
    if now == *before || changed_by_others {
        return;
    }
    match machine.set(path, before) {
        Ok(()) => tracing::info!(setting = %name(path), value = %before, "kernel setting put back"),
        Err(error) => tracing::warn!(%error, "a kernel setting stays changed"),
    }
}

/// As `sysctl` writes it; dots in interface names are kept as slashes there.
fn name(path: &str) -> String {
    let dotted: String = path
        .chars()
        .map(|c| match c {
            '/' => '.',
            '.' => '/',
            c => c,
        })
        .collect();
    format!("net.{dotted}")
}
