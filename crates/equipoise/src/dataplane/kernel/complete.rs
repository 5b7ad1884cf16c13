//! Carrying flows over to the end, where a process has been killed in the middle of it: whatever sizes and layouts.
//!
//! The programs of both sides are pinned, and so are their maps, so that neither has to be of this version: flows are all that is
//! touched. Then what was to come next is all there is, under the names that it was to get; whose layout it has is looked at after
//! that. Blocks; packets flow on meanwhile.

use std::fmt::Display;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::maps::{Array, MapData};
use equipoise_common::flow::Live as Count;
use equipoise_common::key::{V4, V6};
use equipoise_common::limit;
use equipoise_common::value::{CARRIAGE, LAYOUT, Layout, Policy};

use super::flow::{FIRST_V4, FIRST_V6, Table, carry_all, unlock_left};
use super::maps::{NEXT, OF_A_TABLE, next};
use super::older::heads;
use super::pin::{Pins, refused};
use super::resize::remove_next;
use super::table::{Flows, grace};
use super::{KernelError, attach, inherit, stages};

/// How long flows that find no room are given for others to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long until it is tried again: slots that have been given up are free after that.
const PAUSE: Duration = Duration::from_millis(150);

/// Ends what an earlier process was in the middle of. What it had not come to use goes; what goes on while packets are served is left.
pub(super) fn tidy(pins: &Pins) -> Result<(), KernelError> {
    let Some(layout) = inherit::layout(pins) else { return Ok(()) };
    if layout.next_sets == 0 {
        return remove_next(pins);
    }
    if layout.carriage != CARRIAGE {
        return Ok(());
    }
    let is_there = OF_A_TABLE.iter().all(|name| pins.map(&next(name)).exists());
    if is_there && (layout.tag, layout.next_tag) == (LAYOUT, LAYOUT) {
        return Ok(());
    }
    if is_there {
        if moving(pins)? != layout.seed {
            // It had not begun.
            stages::unlink_pinned(pins)?;
            let own =
                Layout { next_tag: 0, next_seed: 0, next_max_flows: 0, next_sets: 0, ..layout };
            tag(pins, own)?;
            return remove_next(pins);
        }
        complete(pins, &layout)?;
    }
    adopt(pins, &layout)
}

/// An error where a process that runs is in the middle of what only processes of its own layout can go on with.
pub(super) fn is_settled(pins: &Pins) -> Result<(), KernelError> {
    match inherit::layout(pins) {
        Some(layout)
            if layout.next_sets != 0 && (layout.tag, layout.next_tag) != (LAYOUT, LAYOUT) =>
        {
            let reason = "flows are still being carried over between tables of the process that runs; try again when they are \
                 (`carrying` in its status is false then)";
            Err(refused("coming after it", &reason))
        }
        Some(_) | None => Ok(()),
    }
}

/// Carries over all flows, and has the programs on the tables where they are then take the place of those in force.
fn complete(pins: &Pins, layout: &Layout) -> Result<(), KernelError> {
    let failed = |error: &dyn Display| refused("carrying flows over to the end", error);
    // Whoever was killed may have begun a moment before.
    grace().map_err(|error| failed(&error))?;
    let to = Flows::pinned(pins, NEXT, layout.next_sets)?;
    let from = Flows::pinned(pins, "", layout.sets)?;
    let of_next = pins.map(&next("POLICIES"));
    let policies = if of_next.exists() { of_next } else { pins.map("POLICIES") };
    let carriage = Carriage {
        from: (&from, layout.sets, layout.seed),
        to: (&to, layout.next_sets, layout.next_seed),
        policies: heads(&policies, limit::SERVICES)?,
    };
    let began = Instant::now();
    let flows = carriage.left();
    carriage.unlock();
    carriage.carry_all();
    while carriage.left() > 0 && began.elapsed() < PATIENCE {
        std::thread::sleep(PAUSE);
        carriage.carry_all();
    }
    for path in pins.links().map_err(|error| failed(&error))? {
        put_next(pins, &path).map_err(|error| failed(&format!("{}: {error}", path.display())))?;
    }
    grace().map_err(|error| failed(&error))?;
    let took = began.elapsed().as_millis();
    tracing::info!(
        flows,
        took_ms = took,
        "flows that an earlier process had begun to carry over are where they were to be"
    );
    let lost = carriage.left();
    if lost > 0 {
        tracing::warn!(flows = lost, "flows have found no room in the next tables, and end");
    }
    Ok(())
}

/// Puts the program that was to come next into what stands for an attachment; where there is none it has its place already.
fn put_next(pins: &Pins, link: &Path) -> Result<(), attach::Cause> {
    let place = |name: &str| pins.program(&next(name));
    match attach::put(&place, link) {
        Err(_) if !attach::has_device(link) => Ok(()),
        done => done,
    }
}

/// What was to come next gets its names.
fn adopt(pins: &Pins, layout: &Layout) -> Result<(), KernelError> {
    let failed = |error: &dyn Display| refused("names of what comes next", error);
    pins.rename_beginning(NEXT).map_err(|error| failed(&error))?;
    let Layout { next_seed: seed, next_max_flows: max_flows, next_sets: sets, .. } = *layout;
    let (tag_now, carriage) = (layout.next_tag, layout.carriage);
    tag(pins, Layout { tag: tag_now, seed, max_flows, sets, carriage, ..Layout::default() })?;
    moving_map(pins)?.set(0, 0, 0).map_err(|error| failed(&error))
}

fn tag(pins: &Pins, layout: Layout) -> Result<(), KernelError> {
    inherit::tag(pins, layout).map_err(|error| refused("tagging the maps", &error))
}

/// The secret of the tables that flows are being carried over from.
fn moving(pins: &Pins) -> Result<u64, KernelError> {
    moving_map(pins)?.get(&0, 0).map_err(|error| refused("reading MOVING", &error))
}

fn moving_map(pins: &Pins) -> Result<Array<MapData, u64>, KernelError> {
    inherit::array(pins, "MOVING").map_err(|error| refused("reading MOVING", &error))
}

/// Flow tables, their sets and their secret.
type Tables<'a> = (&'a Flows, u32, u64);

/// What is carried over from where to where.
struct Carriage<'a> {
    from: Tables<'a>,
    to: Tables<'a>,
    policies: Vec<Policy>,
}

impl Carriage<'_> {
    fn table<'a, A>(&'a self, (flows, sets, seed): Tables<'a>, first: usize) -> Table<'a, A> {
        Table {
            memory: if first == FIRST_V4 { &flows.v4 } else { &flows.v6 },
            live: &flows.live,
            first,
            sets,
            seed,
            policies: &self.policies,
            // For events alone, of which none are told of here.
            backends: &[],
            clock: None,
            ended: Default::default(),
            family: Default::default(),
        }
    }

    fn unlock(&self) {
        unlock_left::<V4, 8>(&self.table(self.to, FIRST_V4));
        unlock_left::<V6, 16>(&self.table(self.to, FIRST_V6));
    }

    fn carry_all(&self) {
        let sets = 0..self.from.1;
        let (from, to) = (self.table(self.from, FIRST_V4), self.table(self.to, FIRST_V4));
        carry_all::<V4, 8>(&from, sets.clone(), &to);
        let (from, to) = (self.table(self.from, FIRST_V6), self.table(self.to, FIRST_V6));
        carry_all::<V6, 16>(&from, sets, &to);
    }

    /// Flows that are still to be carried over.
    fn left(&self) -> u64 {
        self.from.0.live.both(Count::Table)
    }
}
