//! The kernel as the data plane that the loop drives.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use equipoise_common::flow::Live as Count;
use equipoise_common::flow::count::Pressure;
use equipoise_common::key::{V4, V6};
use equipoise_common::limit;
use equipoise_common::trace::Wanted;
use equipoise_common::value::{Host, Shortcuts, Traffic};
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_core::config::AttachMode;
use equipoise_core::diff::{Found, Step};
use equipoise_core::id::Named;

use super::attach::{self, Place};
use super::flow::{self, FIRST_V4, FIRST_V6};
use super::load::{self, Sizes};
use super::pin::{self, refused};
use super::resize::load_twins;
use super::stages::Group;
use super::table::{self, Flows, SET_V4, SET_V6};
use super::{
    Attachment, Device, Events, Expiry, Explained, Farewell, FlowRow, Kernel, KernelError,
    Occupancy, Part, Traces, Twin, access, cut, reset, sweep,
};
use crate::dataplane::{DataPlane, Explainer, Maps, Moving, StepError};

/// The part of a table of other sets that these are of one.
fn scaled(part: std::ops::Range<u32>, sets: u32, others: u32) -> std::ops::Range<u32> {
    let at = |set: u32| (u64::from(set) * u64::from(others) / u64::from(sets.max(1))) as u32;
    at(part.start)..at(part.end)
}

/// The programs that a device in this mode needs, or may.
fn groups(device: &Device<'_>, mode: AttachMode) -> Vec<Group> {
    match mode {
        AttachMode::XdpGeneric => vec![Group::Egress, Group::Generic],
        AttachMode::Xdp => vec![Group::Ingress, Group::Egress, Group::Native],
        AttachMode::Auto if device.native_xdp => {
            vec![Group::Ingress, Group::Egress, Group::Native]
        }
        AttachMode::Auto | AttachMode::Tc => vec![Group::Ingress, Group::Egress],
    }
}

impl DataPlane for Kernel {
    fn attach(&mut self, device: &Device<'_>, mode: AttachMode) -> Result<Attachment, KernelError> {
        // Links of before get the programs in their place.
        self.attached.remove(&device.index);
        self.need(&groups(device, mode))?;
        if self.older.is_some() {
            return Ok(attach::as_it_hangs(&self.pins, device));
        }
        let place = Place { pins: &self.pins, tc: self.tc };
        let (attached, attachment) = attach::attach(&mut self.ebpf, &place, device, mode)?;
        self.attached.insert(device.index, attached);
        Ok(attachment)
    }

    fn detach(&mut self, index: u32) {
        if let Some(attached) = self.attached.remove(&index) {
            attached.detach();
        }
    }

    fn listen_by(&mut self, listeners: [BorrowedFd<'_>; 2]) -> Result<(), KernelError> {
        self.take_up(listeners)
    }

    fn allow_redirect(&mut self, index: u32, allowed: bool) -> Result<(), KernelError> {
        self.tables.allow_redirect(index, allowed)
    }

    fn allow_shortcuts(&mut self, shortcuts: Shortcuts) -> Result<(), KernelError> {
        self.tables.allow_shortcuts(shortcuts)
    }

    fn answer_from(&mut self, index: u32, host: Option<Host>) -> Result<(), KernelError> {
        self.tables.answer_from(index, host)
    }

    fn verdicts(&self) -> Result<Vec<(Hook, Verdict, u64)>, KernelError> {
        self.tables.verdicts()
    }

    fn service_traffic(&self, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, KernelError> {
        self.tables.service_traffic(ids)
    }

    fn backend_traffic(&self, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, KernelError> {
        self.tables.backend_traffic(ids)
    }

    fn flows(&self, each: &mut dyn FnMut(FlowRow) -> bool) -> Result<(), KernelError> {
        let now = self.now();
        for tables in self.all_tables() {
            let (v4, v6) = self.families(tables);
            if !flow::walk::<V4, 8>(&v4, now, each) || !flow::walk::<V6, 16>(&v6, now, each) {
                break;
            }
        }
        Ok(())
    }

    fn sweep(&mut self, part: Part) -> Expiry {
        let sets = self.sizes.sets;
        let range = match part {
            Part::All => 0..sets,
            Part::OneOf(parts) => {
                let first = if self.cursor < sets { self.cursor } else { 0 };
                self.cursor = first.saturating_add(sets.div_ceil(parts.max(1))).min(sets);
                first..self.cursor
            }
        };
        let mut expiry = Expiry::default();
        for tables in self.all_tables() {
            let (v4, v6) = self.families(tables);
            let range = scaled(range.clone(), sets, tables.1.sets);
            sweep::sweep::<V4, 8>(&v4, range.clone(), &mut expiry);
            sweep::sweep::<V6, 16>(&v6, range, &mut expiry);
        }
        if !expiry.resets.is_empty() {
            reset::send(&expiry.resets);
        }
        expiry
    }

    fn cut_denied(&mut self) -> Expiry {
        let mut expiry = Expiry::default();
        let list = &self.tables.access;
        for tables in self.all_tables() {
            let (v4, v6) = self.families(tables);
            access::cut::<V4, 8>(&v4, list, &mut expiry);
            access::cut::<V6, 16>(&v6, list, &mut expiry);
        }
        if !expiry.resets.is_empty() {
            reset::send(&expiry.resets);
        }
        expiry
    }

    fn end_flows(
        &mut self,
        wanted: &mut dyn FnMut(&FlowRow) -> bool,
        farewell: Farewell,
    ) -> Expiry {
        let mut expiry = Expiry::default();
        for tables in self.all_tables() {
            let (v4, v6) = self.families(tables);
            cut::cut_listed::<V4, 8>(&v4, wanted, farewell, &mut expiry);
            cut::cut_listed::<V6, 16>(&v6, wanted, farewell, &mut expiry);
        }
        if !expiry.resets.is_empty() {
            reset::send(&expiry.resets);
        }
        expiry
    }

    fn occupancy(&self) -> Occupancy {
        let mut occupancy = Occupancy {
            to_be_carried: self.to_be_carried(),
            is_carrying: self.is_carrying() || self.older.is_some(),
            ..Occupancy::default()
        };
        for (Flows { live, .. }, Sizes { sets, .. }) in self.all_tables() {
            occupancy.live += live.both(Count::Table);
            occupancy.confirmed += live.both(Count::Confirmed);
            occupancy.memory += u64::from(sets) * (SET_V4 + SET_V6) as u64;
            for (sum, first) in occupancy.by_family.iter_mut().zip([FIRST_V4, FIRST_V6]) {
                *sum += live.count(Count::Table, first);
            }
        }
        occupancy
    }

    fn map_memory(&self) -> BTreeMap<String, u64> {
        self.pins.map_memory()
    }

    fn live_flows(&self, backend: u32) -> u64 {
        self.tables.flows.live.count(Count::Backend(backend), FIRST_V4)
    }

    fn open_flows(&self, backend: u32) -> u64 {
        let live = &self.tables.flows.live;
        // The whole first: see where these are taken off.
        let all = live.count(Count::Backend(backend), FIRST_V4);
        let closing = live.count(Count::Closing(backend), FIRST_V4);
        all.saturating_sub(closing)
    }

    fn handshake(&self, backend: u32) -> Option<Duration> {
        self.tables.handshake(backend)
    }

    fn named(&self) -> Named {
        let live = &self.tables.flows.live;
        let service = |&id: &u32| live.count(Count::Service(id), FIRST_V4) > 0;
        let backend = |&id: &u32| live.count(Count::Backend(id), FIRST_V4) > 0;
        Named {
            services: (0..limit::SERVICES).filter(service).collect(),
            backends: (0..limit::BACKENDS).filter(backend).collect(),
        }
    }

    fn pressures(&self) -> Result<Vec<(Pressure, u64)>, KernelError> {
        self.tables.pressures()
    }

    fn explainer(&self) -> Result<Explainer, KernelError> {
        // The maps are taken now, while their pins are there for sure; the programs when there is something to explain.
        let mut maps = Some(self.twins()?);
        let mut twin = None;
        Ok(Box::new(move |entry, input| {
            if let Some((mut ebpf, mut other)) = maps.take() {
                load_twins(&mut ebpf, other.as_mut())?;
                twin = Some(Twin::new(ebpf, other)?);
            }
            let there =
                twin.as_mut().ok_or_else(|| refused("explaining", &"no programs are loaded"))?;
            Explained::new(entry, there.explain(entry, input)?)
        }))
    }

    fn events(&mut self) -> Result<Option<Events>, KernelError> {
        Events::of(&self.pins).map(Some)
    }

    fn found(&mut self) -> Result<Option<Found>, KernelError> {
        if !self.has_inherited {
            return Ok(None);
        }
        self.learn_from_older()?;
        self.read_back().map(Some)
    }

    fn given_up(&self) -> Option<&str> {
        self.given_up.as_deref()
    }

    fn conclude(&mut self) -> Result<(), KernelError> {
        let failed =
            |error: &dyn std::fmt::Display| refused("removing what an earlier process left", error);
        self.take_up_again()?;
        if self.older.is_some() {
            self.tables.forget_devices();
            return self.conclude_beside_older();
        }
        let attached = self.attached.values().flat_map(|attached| &attached.links);
        let ours: BTreeSet<&PathBuf> =
            attached.chain(&self.taking).map(|link| &link.path).collect();
        for path in self.pins.links().map_err(|error| failed(&error))? {
            if !ours.contains(&path) {
                pin::release(&path).map_err(|error| failed(&error))?;
            }
        }
        self.tables.forget_devices();
        // Programs of before that still run go on in stages that are about to go.
        table::grace().map_err(|error| failed(&error))?;
        self.forget_old_tables()
    }

    fn abandon(self) -> Result<(), KernelError> {
        if !self.has_inherited {
            return self.remove();
        }
        let failed = |error: &dyn std::fmt::Display| {
            refused("putting back the programs of an earlier process", error)
        };
        if self.older.is_some() {
            self.abandon_beside_older()?;
            return self.give_taking_back().map_err(|error| failed(&error));
        }
        let before = self.pins.before();
        let place = |name: &str| before.program(name);
        for attached in self.attached.values() {
            attached.take_off_new();
            for link in attached.links.iter().filter(|link| !link.is_new) {
                attach::put(&place, &link.path).map_err(|error| failed(&error))?;
            }
        }
        self.give_taking_back().map_err(|error| failed(&error))?;
        table::grace().map_err(|error| failed(&error))?;
        self.pins.forget_turn().map_err(|error| failed(&error))
    }

    fn reclaim(&mut self) -> Result<Found, KernelError> {
        let failed = |error: &dyn std::fmt::Display| refused("taking the data plane back", error);
        self.pins = self.pins.clone().next_turn().map_err(|error| failed(&error))?;
        let programs = self.loaded.iter().flat_map(|group| group.programs());
        load::pin_again(&mut self.ebpf, &self.pins, programs, self.side)?;
        self.pin_next_again()?;
        table::grace().map_err(|error| failed(&error))?;
        self.tables.found().map_err(|error| failed(&error))
    }

    fn observe(&mut self, observes: bool) -> Result<bool, KernelError> {
        self.observe_packets(observes)
    }

    fn trace(&mut self, wanted: Option<&Wanted>) -> Result<Option<Traces>, KernelError> {
        self.trace_packets(wanted)
    }

    fn max_flows(&self) -> u32 {
        self.wanted_flows()
    }

    fn resize(&mut self, max_flows: u32) -> Result<(), KernelError> {
        self.begin_resizing(max_flows)
    }

    fn carry_over(&mut self) -> Result<Moving, KernelError> {
        self.carry_part()
    }

    fn take_new_tables(&mut self) -> Result<(), KernelError> {
        self.take_next_tables()
    }

    fn keep(self) -> Result<(), KernelError> {
        Ok(())
    }

    fn remove(self) -> Result<(), KernelError> {
        for attached in self.attached.into_values() {
            attached.detach();
        }
        self.pins.remove().map_err(|error| refused("removing pins", &error))
    }
}

impl Maps for Kernel {
    fn apply(&mut self, step: &Step) -> Result<(), StepError> {
        self.tables.apply(step).map_err(|source| StepError { step: step.to_string(), source })
    }
}
