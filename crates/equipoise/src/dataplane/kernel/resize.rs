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
use super::load::{self, Anew, Side, Sizes};
use super::maps::{NEXT, is_foreign, is_next_stage};
use super::pin::{Pins, refused};
use super::stages::{Group, link_elsewhere};
use super::table::{Flows, grace};
use super::{Kernel, KernelError};
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
}

/// One round over the tables that flows are carried over from.
#[derive(Clone, Copy, Default)]
pub(super) struct Round {
    /// The next set.
    next: u32,
    /// Flows that were in those before it.
    met: u64,
}

/// Why something is not done now.
pub(super) const CARRYING: &str = "flows are being carried over to other tables";

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

/// Flow tables and what they are like.
pub(super) type Tables<'a> = (&'a Flows, Sizes);

impl Kernel {
    /// Whether flows are being carried over.
    pub(super) fn is_carrying(&self) -> bool {
        self.resizing.is_some()
            || self.left.is_some()
            || self.older.as_ref().is_some_and(|older| older.has_begun)
    }

    /// The live flows that each table holds at most, or will.
    pub(super) fn wanted_flows(&self) -> u32 {
        self.resizing.as_ref().map_or(self.sizes.max_flows, |resizing| resizing.sizes.max_flows)
    }

    pub(super) fn begin_resizing(&mut self, max_flows: u32) -> Result<(), KernelError> {
        if self.is_carrying() || self.older.is_some() {
            return Err(refused("another size", &CARRYING));
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
        let (v4, v6) = self.families((&resizing.flows, resizing.sizes));
        unlock_left::<V4, 8>(&v4);
        unlock_left::<V6, 16>(&v6);
        self.go_elsewhere(resizing)
    }

    fn open_next(&self, sizes: Sizes) -> Result<Resizing, KernelError> {
        let side = self.next_side();
        let mut ebpf = load::open(&self.pins, sizes, side)?;
        let flows = Flows::take(&mut ebpf, sizes.sets)?;
        let groups: Vec<Group> = self.loaded.iter().copied().collect();
        load::load_groups(&mut ebpf, Some((&self.pins, side)), &groups)?;
        Ok(Resizing { ebpf, flows, sizes })
    }

    /// Of programs on tables of another size.
    fn next_side(&self) -> Side {
        Side::Next(self.sizes, Anew::Tables)
    }

    /// From here on new flows are opened in the new tables.
    fn go_elsewhere(&mut self, resizing: Resizing) -> Result<(), KernelError> {
        for &group in &self.loaded {
            link_elsewhere(&mut self.ebpf, &resizing.ebpf, group)?;
        }
        self.resizing = Some(resizing);
        self.tables.leave_what_is_missing(self.sizes.seed)?;
        // Programs that have not heard of it open a last few in the old ones.
        grace().map_err(|error| refused("carrying flows over", &error))
    }

    /// Programs that have come to be loaded meanwhile go on there too.
    pub(super) fn link_to_next(&mut self, groups: &[Group]) -> Result<(), KernelError> {
        let side = self.next_side();
        let Some(resizing) = &mut self.resizing else { return Ok(()) };
        load::load_groups(&mut resizing.ebpf, Some((&self.pins, side)), groups)?;
        for &group in groups {
            link_elsewhere(&mut self.ebpf, &resizing.ebpf, group)?;
        }
        Ok(())
    }

    /// They are pinned under the names that pins have now.
    pub(super) fn pin_next_again(&mut self) -> Result<(), KernelError> {
        let side = self.next_side();
        let Some(resizing) = &mut self.resizing else { return Ok(()) };
        let programs = self.loaded.iter().flat_map(|group| group.programs());
        load::pin_again(&mut resizing.ebpf, &self.pins, programs, side)
    }

    /// Carries flows over for a while.
    pub(super) fn carry_part(&mut self) -> Result<Moving, KernelError> {
        let until = Instant::now() + PART;
        loop {
            let moving = self.carry(SETS)?;
            if moving != Moving::Going || Instant::now() >= until {
                return Ok(moving);
            }
        }
    }

    /// Carries over the flows in the next so many sets of the old tables.
    ///
    /// # Errors
    ///
    /// As [`crate::dataplane::DataPlane::carry_over`].
    pub fn carry(&mut self, sets: u32) -> Result<Moving, KernelError> {
        if self.has_new_tables() {
            return Ok(Moving::Done);
        }
        self.begin_superseding()?;
        let Round { next: first, met } = self.round;
        let Some([from, to]) = self.ends() else { return Ok(Moving::Nothing) };
        let end = first.saturating_add(sets).min(from.1.sets);
        let met = met + self.carry_sets(from, first..end, to);
        let left = from.0.live.both(Count::Table);
        if end < from.1.sets {
            self.round = Round { next: end, met };
            return Ok(Moving::Going);
        }
        self.round = Round::default();
        // A process that was killed in the middle of ending a flow has left it on the counts.
        if left != 0 && met == 0 {
            tracing::warn!(flows = left, "flows were counted that are in no table");
        }
        // What has found no room in this round will find it when other flows have ended.
        Ok(if left == 0 || met == 0 { Moving::Done } else { Moving::Waiting })
    }

    /// How many flows there were.
    fn carry_sets(&self, from: Tables<'_>, sets: Range<u32>, to: Tables<'_>) -> u64 {
        let (one, other) = self.families(from);
        let (v4, v6) = self.families(to);
        carry_all::<V4, 8>(&one, sets.clone(), &v4) + carry_all::<V6, 16>(&other, sets, &v6)
    }

    /// The tables that flows are being carried over from, and those that they are carried over to.
    fn ends(&self) -> Option<[Tables<'_>; 2]> {
        let own = (&self.tables.flows, self.sizes);
        match (&self.resizing, &self.older) {
            (Some(next), _) => Some([own, (&next.flows, next.sizes)]),
            (None, Some(older)) => Some([(&older.flows, older.sizes), own]),
            (None, None) => None,
        }
    }

    /// All tables that packets look into, in the order in which they do.
    pub(super) fn all_tables(&self) -> Vec<Tables<'_>> {
        match self.ends() {
            Some(ends) => ends.into(),
            None => vec![(&self.tables.flows, self.sizes)],
        }
    }

    /// The live flows that are still to be carried over.
    pub(super) fn to_be_carried(&self) -> u64 {
        self.ends().map_or(0, |[(from, _), _]| from.live.both(Count::Table))
    }

    /// The tables of both families.
    pub(super) fn families<'a>(
        &'a self,
        (flows, sizes): Tables<'a>,
    ) -> (Table<'a, V4>, Table<'a, V6>) {
        (self.table_of(flows, sizes, FIRST_V4), self.table_of(flows, sizes, FIRST_V6))
    }

    /// Loads programs that are on the new tables alone, to be attached in place of the others.
    pub(super) fn take_next_tables(&mut self) -> Result<(), KernelError> {
        let (sizes, anew) = match (&self.resizing, &self.older) {
            (Some(resizing), _) => (resizing.sizes, Anew::Tables),
            (None, Some(_)) => (self.sizes, Anew::Layout),
            (None, None) => return Ok(()),
        };
        let failed = |error: &dyn std::fmt::Display| refused("taking the new flow tables", error);
        let pins = self.pins.clone().next_turn().map_err(|error| failed(&error))?;
        let groups: Vec<Group> = self.loaded.iter().copied().collect();
        let side = Side::Last(anew);
        let loaded = (|| {
            let mut ebpf = load::open(&pins, sizes, side)?;
            load::load_groups(&mut ebpf, Some((&pins, side)), &groups)?;
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
        (self.pins, self.sizes, self.side) = (pins, sizes, side);
        (self.cursor, self.round) = (0, Round::default());
        let mut programs = vec![std::mem::replace(&mut self.ebpf, ebpf)];
        let flows = match (self.resizing.take(), self.older.take()) {
            (Some(resizing), _) => {
                programs.push(resizing.ebpf);
                Some(std::mem::replace(&mut self.tables.flows, resizing.flows))
            }
            (None, older) => older.map(|older| older.flows),
        };
        self.left = Some(Leftover { _programs: programs, flows });
        self.attached.clear();
        Ok(())
    }

    /// What is attached is on the new tables alone: these get the names of the old, which nobody reads any more.
    pub(super) fn forget_old_tables(&mut self) -> Result<(), KernelError> {
        let failed = |error: &dyn std::fmt::Display| refused("naming the new tables", error);
        // First, so that whoever comes after a crash finds programs that go with the tables.
        let is_resizing = self.resizing.is_some();
        let is_needed = |name: &str| is_resizing && name.starts_with(NEXT);
        self.pins.settle(is_needed).map_err(|error| failed(&error))?;
        if self.has_new_tables() {
            self.pins.remove_maps(is_next_stage).map_err(|error| failed(&error))?;
            self.pins.rename_beginning(NEXT).map_err(|error| failed(&error))?;
            self.tables.tag(self.sizes.layout(None))?;
            self.tables.leave_what_is_missing(0)?;
            self.side = Side::Own;
        }
        self.left = None;
        let is_over = |name: &str| !name.starts_with(NEXT) && is_foreign(name);
        self.pins.remove_maps(is_over).map_err(|error| failed(&error))
    }

    /// Whether all flows are in new tables, which have not got the names of the old ones yet.
    fn has_new_tables(&self) -> bool {
        self.left.as_ref().is_some_and(Leftover::has_tables)
    }

    /// Twins of the programs, as the packets meet them.
    pub(super) fn twins(&self) -> Result<(Ebpf, Option<Ebpf>), KernelError> {
        if self.older.is_some() {
            // Those that packets meet first are another version's.
            return Err(refused("explaining", &CARRYING));
        }
        let twin = load::open_twin(&self.pins, self.sizes, self.side)?;
        let other = self
            .resizing
            .as_ref()
            .map(|resizing| load::open_twin(&self.pins, resizing.sizes, self.next_side()));
        Ok((twin, other.transpose()?))
    }
}

/// Loads the programs of twins, and has the one go on in the other.
pub(super) fn load_twins(twin: &mut Ebpf, other: Option<&mut Ebpf>) -> Result<(), KernelError> {
    load::load_groups(twin, None, &Group::OF_PACKETS)?;
    let Some(other) = other else { return Ok(()) };
    load::load_groups(other, None, &Group::OF_PACKETS)?;
    Group::OF_PACKETS.iter().try_for_each(|&group| link_elsewhere(twin, other, group))
}

pub(super) fn remove_next(pins: &Pins) -> Result<(), KernelError> {
    pins.remove_beginning(NEXT).map_err(|error| refused("removing what is not used", &error))
}
