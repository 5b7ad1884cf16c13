//! Flow tables of another size, while packets flow: flows are carried over, one at a time.
//!
//! The programs that are attached stay on the tables that they have, and leave what they do not find there to the same programs
//! on the new ones (`MOVING`, the stage `Elsewhere`), which open all new flows. So a packet finds its flow wherever it is,
//! and there is no moment at which all would have to be in one place. Once the old tables are empty, programs that know of
//! none but the new ones take their place. The new maps are pinned beside the old, under names that begin with `NEXT_`, and get
//! their names at last; a process that comes after a crash goes on where the other was.

use std::ops::Range;
use std::time::{Duration, Instant};

use aya::Ebpf;
use equipoise_common::flow::Live as Count;
use equipoise_common::key::{V4, V6};
use equipoise_common::value::Layout;

use super::flow::{FIRST_V4, FIRST_V6, Table, carry_all, unlock_left};
use super::load::{self, Group, NEXT, OF_A_TABLE, Side, Sizes, next};
use super::pin::{Pins, refused};
use super::table::{Flows, grace};
use super::{Kernel, KernelError, inherit};
use crate::dataplane::Moving;

/// Flows are carried over for so long at a time: nothing else is done meanwhile.
const PART: Duration = Duration::from_millis(20);

/// Sets after which it is looked whether that is over.
const SETS: u32 = 256;

/// The tables that flows are carried over to.
pub(super) struct Resizing {
    /// The programs on them, which others go on in.
    ebpf: Ebpf,
    pub(super) flows: Flows,
    pub(super) sizes: Sizes,
    /// The set of the old tables where the next part begins.
    cursor: u32,
}

/// What packets are through with once others are attached in its place.
pub(super) struct Leftover {
    /// The programs of before, and those that they went on in.
    _programs: Vec<Ebpf>,
    /// The tables of before, where flows have been carried over from them.
    flows: Option<Flows>,
}

impl Leftover {
    /// Programs on tables that stay.
    pub(super) fn of(programs: Ebpf) -> Self {
        Self { _programs: vec![programs], flows: None }
    }

    /// Whether the tables have others in their place.
    const fn has_tables(&self) -> bool {
        self.flows.is_some()
    }
}

impl Kernel {
    /// The live flows that each table holds at most, or will.
    pub(super) fn wanted_flows(&self) -> u32 {
        self.resizing.as_ref().map_or(self.sizes.max_flows, |resizing| resizing.sizes.max_flows)
    }

    pub(super) fn begin_resizing(&mut self, max_flows: u32) -> Result<(), KernelError> {
        if self.resizing.is_some() || self.left.is_some() {
            return Err(refused("another size", &"flows are being carried over already"));
        }
        let sizes = self.sizes.with(max_flows);
        let begun = self.open_next(sizes).and_then(|resizing| {
            self.tables.tag(self.sizes.layout(Some(sizes)))?;
            self.go_elsewhere(resizing)
        });
        if begun.is_err() {
            self.resizing = None;
            let undone = self.tables.leave_what_is_missing(0);
            let undone = undone.and_then(|()| self.tables.tag(self.sizes.layout(None)));
            if let Err(error) = undone.and_then(|()| remove_next(&self.pins)) {
                tracing::warn!(%error, "something of larger or smaller flow tables is left");
            }
        }
        begun
    }

    /// Goes on with what an earlier process had begun.
    pub(super) fn resume_resizing(&mut self, layout: &Layout) -> Result<(), KernelError> {
        let Some(sizes) = self.sizes.next_of(layout) else { return Ok(()) };
        let resizing = self.open_next(sizes)?;
        let (v4, v6) = self.next_tables(&resizing);
        unlock_left::<V4, 8>(&v4);
        unlock_left::<V6, 16>(&v6);
        self.go_elsewhere(resizing)
    }

    fn open_next(&self, sizes: Sizes) -> Result<Resizing, KernelError> {
        let mut ebpf = load::open(&self.pins, sizes, Side::Next(self.sizes))?;
        let flows = Flows::take(&mut ebpf, sizes.sets)?;
        let groups: Vec<Group> = self.loaded.iter().copied().collect();
        load::load_groups(&mut ebpf, None, &groups)?;
        Ok(Resizing { ebpf, flows, sizes, cursor: 0 })
    }

    /// From here on new flows are opened in the new tables.
    fn go_elsewhere(&mut self, resizing: Resizing) -> Result<(), KernelError> {
        for &group in &self.loaded {
            load::link_elsewhere(&mut self.ebpf, &resizing.ebpf, group)?;
        }
        self.resizing = Some(resizing);
        self.tables.leave_what_is_missing(self.sizes.seed)?;
        // Programs that have not heard of it open a last few in the old ones.
        grace().map_err(|error| refused("carrying flows over", &error))
    }

    /// Programs that have come to be loaded meanwhile go on there too.
    pub(super) fn link_to_next(&mut self, groups: &[Group]) -> Result<(), KernelError> {
        let Some(resizing) = &mut self.resizing else { return Ok(()) };
        load::load_groups(&mut resizing.ebpf, None, groups)?;
        for &group in groups {
            load::link_elsewhere(&mut self.ebpf, &resizing.ebpf, group)?;
        }
        Ok(())
    }

    /// Their stages are pinned under the names that pins have now.
    pub(super) fn pin_next_again(&mut self) -> Result<(), KernelError> {
        match &mut self.resizing {
            Some(resizing) => {
                load::pin_stages(&mut resizing.ebpf, &self.pins, Side::Next(self.sizes))
            }
            None => Ok(()),
        }
    }

    /// Carries flows over for a while.
    pub(super) fn carry_part(&mut self) -> Moving {
        let until = Instant::now() + PART;
        loop {
            let moving = self.carry(SETS);
            if moving != Moving::Going || Instant::now() >= until {
                return moving;
            }
        }
    }

    /// Carries over the flows in the next so many sets of the old tables.
    pub fn carry(&mut self, sets: u32) -> Moving {
        if self.has_new_tables() {
            return Moving::Done;
        }
        let Some(resizing) = &self.resizing else { return Moving::Nothing };
        let end = resizing.cursor.saturating_add(sets).min(self.sizes.sets);
        self.carry_sets(resizing, resizing.cursor..end);
        let is_round = end >= self.sizes.sets;
        if let Some(resizing) = &mut self.resizing {
            resizing.cursor = if is_round { 0 } else { end };
        }
        let live = &self.tables.flows.live;
        let left = live.count(Count::Table, FIRST_V4) + live.count(Count::Table, FIRST_V6);
        match (left, is_round) {
            (0, true) => Moving::Done,
            // What has found no room in this round will find it when other flows have ended.
            (_, true) => Moving::Waiting,
            (_, false) => Moving::Going,
        }
    }

    fn carry_sets(&self, resizing: &Resizing, sets: Range<u32>) {
        let (v4, v6) = self.next_tables(resizing);
        carry_all::<V4, 8>(&self.table(FIRST_V4), sets.clone(), &v4);
        carry_all::<V6, 16>(&self.table(FIRST_V6), sets, &v6);
    }

    pub(super) fn next_tables<'a>(
        &'a self,
        resizing: &'a Resizing,
    ) -> (Table<'a, V4>, Table<'a, V6>) {
        let Resizing { flows, sizes, .. } = resizing;
        (self.table_of(flows, *sizes, FIRST_V4), self.table_of(flows, *sizes, FIRST_V6))
    }

    /// Loads programs that are on the new tables alone, to be attached in place of the others.
    pub(super) fn take_next_tables(&mut self) -> Result<(), KernelError> {
        let Some(resizing) = &self.resizing else { return Ok(()) };
        let failed = |error: &dyn std::fmt::Display| refused("taking the new flow tables", error);
        let pins = self.pins.clone().next_turn().map_err(|error| failed(&error))?;
        let groups: Vec<Group> = self.loaded.iter().copied().collect();
        let loaded = (|| {
            let mut ebpf = load::open(&pins, resizing.sizes, Side::Last)?;
            load::load_groups(&mut ebpf, Some(&pins), &groups)?;
            Ok(ebpf)
        })();
        let ebpf = match loaded {
            Ok(ebpf) => ebpf,
            Err(error) => {
                if let Err(left) = pins.forget_turn() {
                    tracing::warn!(error = %left, "pins of programs that are not used stay");
                }
                return Err(error);
            }
        };
        let Some(resizing) = self.resizing.take() else { return Ok(()) };
        self.pins = pins;
        self.sizes = resizing.sizes;
        self.cursor = 0;
        let programs = vec![std::mem::replace(&mut self.ebpf, ebpf), resizing.ebpf];
        let flows = std::mem::replace(&mut self.tables.flows, resizing.flows);
        self.left = Some(Leftover { _programs: programs, flows: Some(flows) });
        self.attached.clear();
        Ok(())
    }

    /// The new tables get the names of the old, which nobody reads any more.
    pub(super) fn forget_old_tables(&mut self) -> Result<(), KernelError> {
        if !self.has_new_tables() {
            self.left = None;
            return Ok(());
        }
        rename_next(&self.pins).map_err(|error| refused("naming the new flow tables", &error))?;
        self.tables.tag(self.sizes.layout(None))?;
        self.tables.leave_what_is_missing(0)?;
        remove_next(&self.pins)?;
        self.left = None;
        Ok(())
    }

    /// Whether all flows are in new tables, which have not got the names of the old ones yet.
    fn has_new_tables(&self) -> bool {
        self.left.as_ref().is_some_and(Leftover::has_tables)
    }

    /// Twins of the programs, as the packets meet them.
    pub(super) fn twins(&self) -> Result<(Ebpf, Option<Ebpf>), KernelError> {
        let side = if self.has_new_tables() { Side::Last } else { Side::Own };
        let twin = load::open_twin(&self.pins, self.sizes, side)?;
        let other = self
            .resizing
            .as_ref()
            .map(|resizing| load::open_twin(&self.pins, resizing.sizes, Side::Next(self.sizes)));
        Ok((twin, other.transpose()?))
    }
}

/// Loads the programs of twins, and has the one go on in the other.
pub(super) fn load_twins(twin: &mut Ebpf, other: Option<&mut Ebpf>) -> Result<(), KernelError> {
    load::load_groups(twin, None, &Group::ALL)?;
    let Some(other) = other else { return Ok(()) };
    load::load_groups(other, None, &Group::ALL)?;
    Group::ALL.iter().try_for_each(|&group| load::link_elsewhere(twin, other, group))
}

/// Ends what an earlier process was in the middle of, where that is but names; what it had not come to use goes.
pub(super) fn tidy(pins: &Pins) -> Result<(), KernelError> {
    let failed = |error: &dyn std::fmt::Display| refused("names of flow tables", error);
    let Some(layout) = inherit::layout(pins) else { return Ok(()) };
    if layout.next_sets == 0 {
        return remove_next(pins);
    }
    if OF_A_TABLE.iter().all(|name| pins.map(&next(name)).exists()) {
        return Ok(());
    }
    rename_next(pins).map_err(|error| failed(&error))?;
    let Layout { next_seed: seed, next_max_flows: max_flows, next_sets: sets, .. } = layout;
    let own = Layout { tag: layout.tag, seed, max_flows, sets, ..Layout::default() };
    inherit::tag(pins, own).map_err(|error| failed(&error))?;
    remove_next(pins)
}

fn rename_next(pins: &Pins) -> std::io::Result<()> {
    for name in OF_A_TABLE {
        let path = pins.map(&next(name));
        if path.exists() {
            std::fs::rename(path, pins.map(name))?;
        }
    }
    Ok(())
}

fn remove_next(pins: &Pins) -> Result<(), KernelError> {
    pins.remove_maps(NEXT).map_err(|error| refused("removing what is not used", &error))
}
