//! The kernel data plane: the packet programs and their maps.
//!
//! This file and its folder alone name `aya`. It loads, attaches, writes what steps say and reads
//! what the programs have counted; what should be where is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use aya::Ebpf;
use equipoise_common::flow::count::Pressure;
use equipoise_common::flow::{Live as Count, tick};
use equipoise_common::key::{V4, V6};
use equipoise_common::limit;
use equipoise_common::trace::Wanted;
use equipoise_common::value::{Host, Layout, Traffic};
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_core::config::AttachMode;
use equipoise_core::diff::{Found, Step};
use equipoise_core::id::Named;

use self::attach::{Attached, Link, Place};
use self::flow::{FIRST_V4, FIRST_V6, Table};
use self::inherit::Left;
#[cfg(feature = "kernel-tests")]
use self::load::{Dry, Load};
use self::load::{Group, Side, Sizes, open};
use self::older::Older;
use self::pin::{Pins, refused};
use self::resize::{Leftover, Resizing, Round, load_twins};
use self::table::{Flows, SET_V4, SET_V6, Tables};
use super::{DataPlane, Explainer, Maps, Moving, StepError};

mod abilities;
mod access;
mod attach;
mod clsact;
mod complete;
mod cut;
pub mod decap;
mod event;
mod flow;
mod found;
pub mod hooks;
mod inherit;
mod listen;
mod load;
mod mapped;
#[cfg(feature = "kernel-tests")]
mod measure;
mod older;
mod options;
mod pin;
mod raw;
mod reset;
mod resize;
mod row;
mod run;
mod sweep;
mod table;
mod tcx;
mod trace;
pub mod verifier;

pub use self::abilities::{Ability, abilities};
pub use self::event::{Arrivals, Events, Ring, Traces};
#[cfg(feature = "kernel-tests")]
pub use self::measure::{Measures, Subject};
pub use self::options::{Clock, Eviction, Options, TcWay};
pub use self::row::{Copied, Expiry, Farewell, FlowRow, Occupancy, Part, Ties};
pub use self::run::{Entry, Explained, Input, Output, Runner, Twin};

/// What a device is like, as far as attaching depends on it.
pub struct Device<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its index.
    pub index: u32,
    /// Whether its driver has native XDP and it is hardware (or a paravirtual NIC), not a software device.
    pub native_xdp: bool,
    /// The id of the XDP program that hangs on it; none of ours before we attach.
    pub xdp_program: Option<u32>,
    /// The device's kind as the kernel names it (`veth`, `bridge`, ...); none for hardware.
    pub kind: Option<&'a str>,
}

/// How a device was attached, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// `xdp` or `tc`.
    pub hook: &'static str,
    /// `native`, `generic`, `tcx` or `clsact`.
    pub mode: &'static str,
    /// Why this one.
    pub reason: String,
}

/// Why the programs could not be loaded or attached.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// One sentence, ready to be shown.
    #[error("{0}")]
    Refused(String),
}

/// The loaded data plane.
pub struct Kernel {
    ebpf: Ebpf,
    pins: Pins,
    tables: Tables,
    attached: BTreeMap<u32, Attached>,
    /// What stands for the program that leads connections to sockets of this host, once there have been some.
    taking: Option<Link>,
    sizes: Sizes,
    /// The programs that are loaded.
    loaded: BTreeSet<Group>,
    /// Where the next sweep goes on, in sets.
    cursor: u32,
    /// Nanoseconds, where the clock is one that is set.
    time: u64,
    tc: TcWay,
    /// Whether an earlier process's maps have been taken over.
    has_inherited: bool,
    /// Why they have not been, where there were some.
    given_up: Option<String>,
    /// Which maps they are on.
    side: Side,
    /// While flows are carried over to tables of another size.
    resizing: Option<Resizing>,
    /// While they are carried over from maps of another layout.
    older: Option<Older>,
    /// How far what is carried over has come.
    round: Round,
    /// Once they are, until all devices have programs that know of the new tables alone.
    left: Option<Leftover>,
}

impl Kernel {
    /// Makes the maps, pinned under the instance's name. The programs are loaded when a device needs them, which takes
    /// a second or two for each hook.
    ///
    /// Maps that an earlier process of that name has left are taken over, with their flows, where they are as this build makes
    /// them, whatever their size; its programs stay in force until others are attached in their place. From maps of another layout flows
    /// are carried over, by [`DataPlane::carry_over`], where that is possible; else they are removed first.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; with the verifier's own log where it was the verifier.
    pub fn load(options: &Options<'_>) -> Result<Self, KernelError> {
        load::present()?;
        let pins = Pins::of(options.instance);
        if pins.exists() {
            complete::tidy(&pins)?;
        }
        match load::look(&pins)? {
            Left::Maps(layout) => Self::inherit(options, pins, &layout),
            Left::Other(layout) => Self::supersede(options, pins, layout),
            Left::Nothing => Self::make(options, &pins),
            Left::Unusable(reason) => {
                Self::give_up(options.instance, &pins, &reason)?;
                Ok(Self { given_up: Some(reason), ..Self::make(options, &pins)? })
            }
        }
    }

    /// The same beside a process that runs, and whose maps these are: nothing of it is touched until all is this process's own.
    ///
    /// # Errors
    ///
    /// As [`Kernel::load`]; and where its flows cannot be taken over, or only later.
    pub fn load_beside(options: &Options<'_>) -> Result<Self, KernelError> {
        load::present()?;
        let pins = Pins::of(options.instance);
        complete::is_settled(&pins)?;
        match load::look(&pins)? {
            Left::Maps(layout) => Self::inherit(options, pins, &layout),
            Left::Other(layout) => Self::supersede(options, pins, layout),
            Left::Nothing => Self::make(options, &pins),
            Left::Unusable(reason) => {
                let reason = format!(
                    "{reason}; all flows end where that process is stopped and this one started"
                );
                Err(refused("coming after the process that runs", &reason))
            }
        }
    }

    /// With maps of its own.
    fn make(options: &Options<'_>, pins: &Pins) -> Result<Self, KernelError> {
        pins.prepare()?;
        let made = Self::open(options, pins.clone(), (Sizes::new(options), Side::Own)).and_then(
            |mut kernel| {
                kernel.tables.tag(kernel.sizes.layout(None))?;
                Ok(kernel)
            },
        );
        if made.is_err()
            && let Err(left) = pins.remove()
        {
            tracing::warn!(error = %left, "pins of a failed start stay");
        }
        made
    }

    /// With the maps that an earlier process has left.
    fn inherit(options: &Options<'_>, pins: Pins, layout: &Layout) -> Result<Self, KernelError> {
        let taking = |error: &dyn std::fmt::Display| {
            refused("taking over what an earlier process left", error)
        };
        let pins = pins.next_turn().map_err(|error| taking(&error))?;
        pins.prepare()?;
        let own = (Sizes::of(layout, options), Side::Own);
        let taken = Self::open(options, pins.clone(), own).and_then(|mut kernel| {
            kernel.tables.learn().map_err(|error| taking(&error))?;
            kernel.resume_resizing(layout)?;
            Ok(Self { has_inherited: true, ..kernel })
        });
        match &taken {
            Ok(_) => {
                tracing::info!(instance = options.instance, "flows of an earlier process go on");
            }
            Err(_) => {
                if let Err(left) = pins.forget_turn() {
                    tracing::warn!(error = %left, "pins of a failed start stay");
                }
            }
        }
        taken
    }

    fn give_up(instance: &str, pins: &Pins, reason: &str) -> Result<(), KernelError> {
        tracing::warn!(
            instance,
            reason,
            "what an earlier process left cannot be taken over: its flows end"
        );
        pins.remove().map_err(|error| refused("removing what an earlier process left", &error))
    }

    fn open(
        options: &Options<'_>,
        pins: Pins,
        (sizes, side): (Sizes, Side),
    ) -> Result<Self, KernelError> {
        let mut ebpf = open(&pins, sizes, side)?;
        let tables = Tables::take(&mut ebpf, sizes.sets)?;
        Ok(Self {
            ebpf,
            pins,
            tables,
            attached: BTreeMap::new(),
            taking: None,
            sizes,
            loaded: BTreeSet::new(),
            cursor: 0,
            time: 0,
            tc: options.tc,
            has_inherited: false,
            given_up: None,
            side,
            resizing: None,
            older: None,
            round: Round::default(),
            left: None,
        })
    }

    /// Loads the programs of all hooks that are not loaded yet.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; with the verifier's own log where it was the verifier.
    pub fn load_all(&mut self) -> Result<(), KernelError> {
        self.need(&Group::ALL)
    }

    /// Loads the programs that an earlier process has pinned, which devices are likely to need again.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; with the verifier's own log where it was the verifier.
    pub fn load_as_before(&mut self) -> Result<(), KernelError> {
        let before = self.pins.before();
        // Another version may have other stages.
        let is_there = |group: &Group| before.program(group.entry()).exists();
        let groups: Vec<Group> = Group::OF_PACKETS.into_iter().filter(is_there).collect();
        self.need(&groups)
    }

    fn need(&mut self, groups: &[Group]) -> Result<(), KernelError> {
        let is_missing = |group: &Group| !self.loaded.contains(group);
        let missing: Vec<Group> = groups.iter().copied().filter(is_missing).collect();
        load::load_groups(&mut self.ebpf, Some((&self.pins, self.side)), &missing)?;
        self.link_to_next(&missing)?;
        self.loaded.extend(missing);
        Ok(())
    }

    /// Runs the program of a hook on a packet that nobody sends; maps change as for a real one.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the frame or the interface.
    pub fn run(&self, hook: Hook, input: Input<'_>) -> Result<Output, KernelError> {
        run::run(&self.ebpf, hook, input)
    }

    /// The program of a hook, or of one way into it, to be run as by [`Kernel::run`] from other threads.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn runner(&self, entry: impl Into<Entry>) -> Result<Runner, KernelError> {
        Runner::of(&self.ebpf, entry.into())
    }

    /// Loads the programs once more on the same maps, to explain.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn twin(&self) -> Result<Twin, KernelError> {
        let (mut ebpf, mut other) = self.twins()?;
        load_twins(&mut ebpf, other.as_mut())?;
        Twin::new(ebpf, other)
    }

    /// Instructions that the verifier has gone through for each program, by its name in the object.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell, as before 5.16.
    pub fn verified(&self) -> Result<BTreeMap<String, u32>, KernelError> {
        let programs: Vec<&str> = self.loaded.iter().flat_map(|group| group.programs()).collect();
        load::verified(&self.ebpf, &programs)
    }

    /// Loads what measures these programs, from an object that was built with the feature `bench`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    #[cfg(feature = "kernel-tests")]
    pub fn measures(&self, object: &[u8]) -> Result<Measures, KernelError> {
        let load =
            Load { pins: Some(&self.pins), sizes: self.sizes, dry: Dry::No, side: self.side };
        Measures::new(load::open_object(object, load)?, &self.ebpf)
    }

    /// Sets the time that a clock of [`Clock::Set`] shows.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn set_time(&mut self, time: Duration) -> Result<(), KernelError> {
        self.time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.tables.set_time(self.time)
    }

    /// Copies the flows of both families into the tables of another kernel, whatever their size; also those of services
    /// that it does not know. Ours stay as they are, and may be in use. No packet may reach the other's programs yet.
    ///
    /// Flows that are there already stay as they are there. Packets that come to ours meanwhile are not all counted
    /// there, and a flow that ends here once it is copied lives on there until it is past its time.
    pub fn copy_flows(&self, to: &Self) -> Copied {
        // Before the flows, whose packets are not looked up else.
        to.tables.know_all(&self.tables);
        let (now, mut copied) = (to.now(), Copied::default());
        flow::copy_all::<V4, 8>(&self.table(FIRST_V4), &to.table(FIRST_V4), now, &mut copied);
        flow::copy_all::<V6, 16>(&self.table(FIRST_V6), &to.table(FIRST_V6), now, &mut copied);
        copied
    }

    /// The time, in ticks.
    fn now(&self) -> u32 {
        self.set_clock().unwrap_or_else(flow::now)
    }

    fn set_clock(&self) -> Option<u32> {
        (self.sizes.clock == Clock::Set).then(|| tick(self.time))
    }

    /// One family's flow table.
    fn table<A>(&self, first: usize) -> Table<'_, A> {
        self.table_of(&self.tables.flows, self.sizes, first)
    }

    fn table_of<'a, A>(&'a self, flows: &'a Flows, sizes: Sizes, first: usize) -> Table<'a, A> {
        Table {
            memory: if first == FIRST_V4 { &flows.v4 } else { &flows.v6 },
            live: &flows.live,
            first,
            sets: sizes.sets,
            seed: sizes.seed,
            policies: self.tables.policies(),
            backends: self.tables.backends(),
            clock: self.set_clock(),
            ended: Default::default(),
            family: Default::default(),
        }
    }

    /// What the kernel says is in the maps, once no packet reads anything of before.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to say so.
    pub fn read_back(&mut self) -> Result<Found, KernelError> {
        let failed = |error: &dyn std::fmt::Display| refused("reading maps", error);
        table::grace().map_err(|error| failed(&error))?;
        self.tables.found().map_err(|error| failed(&error))
    }

    /// Removes what a process that is gone has left pinned under this instance's name; says if
    /// there was anything.
    ///
    /// # Errors
    ///
    /// When a pin cannot be removed.
    pub fn remove_left(instance: &str) -> Result<bool, KernelError> {
        let pins = Pins::of(instance);
        if !pins.exists() {
            return Ok(false);
        }
        pins.remove().map_err(|error| refused("removing pins", &error))?;
        Ok(true)
    }
}

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

    fn allow_shortcuts(&mut self, allowed: bool) -> Result<(), KernelError> {
        self.tables.allow_shortcuts(allowed)
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
        let list = self.tables.access();
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
