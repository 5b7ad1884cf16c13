//! The kernel data plane: the packet programs and their maps.
//!
//! This file and its folder alone name `aya`. It loads, attaches, writes what steps say and reads
//! what the programs have counted; what should be where is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aya::Ebpf;
use equipoise_common::flow::tick;
use equipoise_common::key::{V4, V6};
use equipoise_common::verdict::Hook;
use equipoise_core::diff::Found;

use self::attach::{Attached, Link};
use self::flow::{FIRST_V4, FIRST_V6, Table};
#[cfg(feature = "kernel-tests")]
use self::load::{Dry, Load};
use self::load::{Side, Sizes};
use self::older::Older;
use self::pin::{Pins, refused};
use self::resize::{Leftover, Resizing, Round, load_twins};
use self::stages::Group;
use self::table::{Flows, Tables};

mod abilities;
mod access;
mod attach;
mod begin;
mod clsact;
mod complete;
mod counter;
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
mod maps;
#[cfg(feature = "kernel-tests")]
mod measure;
mod object;
mod older;
mod options;
mod pin;
mod plane;
mod raw;
mod reset;
mod resize;
mod row;
mod run;
mod stages;
mod sweep;
mod table;
mod tcx;
mod trace;
pub mod verifier;
mod write;

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
}
