//! How it begins: with maps of its own, or with those that an earlier process has left.

use std::collections::{BTreeMap, BTreeSet};

use equipoise_common::value::Layout;

use super::inherit::Left;
use super::load::{self, Side, Sizes, open};
use super::pin::{Pins, refused};
use super::resize::Round;
use super::stages::Group;
use super::table::Tables;
use super::{Kernel, KernelError, Options, complete, object};

impl Kernel {
    /// Makes the maps, pinned under the instance's name. The programs are loaded when a device needs them, which takes
    /// a second or two for each hook.
    ///
    /// Maps that an earlier process of that name has left are taken over, with their flows, where they are as this build makes
    /// them, whatever their size; its programs stay in force until others are attached in their place. From maps of another layout flows
    /// are carried over, by [`crate::dataplane::DataPlane::carry_over`], where that is possible; else they are removed first.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; with the verifier's own log where it was the verifier.
    pub fn load(options: &Options<'_>) -> Result<Self, KernelError> {
        object::present()?;
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
        object::present()?;
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

    pub(super) fn open(
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

    pub(super) fn need(&mut self, groups: &[Group]) -> Result<(), KernelError> {
        let is_missing = |group: &Group| !self.loaded.contains(group);
        let missing: Vec<Group> = groups.iter().copied().filter(is_missing).collect();
        load::load_groups(&mut self.ebpf, Some((&self.pins, self.side)), &missing)?;
        self.link_to_next(&missing)?;
        self.loaded.extend(missing);
        Ok(())
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
