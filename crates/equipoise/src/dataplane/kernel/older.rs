//! Maps of another layout, as an earlier process of another version has left them: flows are carried over from them, while packets
//! flow.
//!
//! As with another size ([`super::resize`]), with a whole set of maps in place of the flow tables alone: this version's are filled beside
//! those of before, whose programs stay in force, and have what they do not find go on in ours. What both sets share, and what is read of
//! the others, is alike in both as long as [`equipoise_common::value::CARRIAGE`] is. Which of two versions is the newer one
//! plays no part.

use std::path::Path;

use aya::Pod;
use equipoise_common::limit;
use equipoise_common::value::{Backend, Layout, Policy};

use super::load::{Anew, Side, Sizes};
use super::maps::NEXT;
use super::pin::{Pins, refused};
use super::raw;
use super::resize::remove_next;
use super::stages::{link_pinned_elsewhere, unlink_pinned};
use super::table::{Flows, grace};
use super::{Kernel, KernelError, Options};

/// What flows are carried over from.
pub(super) struct Older {
    pub(super) flows: Flows,
    pub(super) sizes: Sizes,
    /// What its maps are said to be like.
    layout: Layout,
    /// Whether what is not found there is looked for in ours by now.
    pub(super) has_begun: bool,
}

impl Kernel {
    /// With maps of its own beside those of another layout. Nothing of these is touched before [`Kernel::begin_superseding`].
    pub(super) fn supersede(
        options: &Options<'_>,
        pins: Pins,
        layout: Layout,
    ) -> Result<Self, KernelError> {
        let failed = |error: &dyn std::fmt::Display| refused("maps of another layout", error);
        let pins = pins.next_turn().map_err(|error| failed(&error))?;
        if pins.has_beginning(NEXT).map_err(|error| failed(&error))? {
            return Err(failed(&"another process makes ready to carry its flows over"));
        }
        pins.prepare()?;
        let before = Sizes::of(&layout, options);
        // As many flows as there are find room; fewer are a matter of another size, later on.
        let sizes = before.with(options.max_flows.max(before.max_flows));
        let side = Side::Next(before, Anew::Layout);
        let begun = Self::open(options, pins.clone(), (sizes, side)).and_then(|mut kernel| {
            let flows = Flows::pinned(&pins, "", before.sets)?;
            kernel.older = Some(Older { flows, sizes: before, layout, has_begun: false });
            // All of them: theirs are to go on in ours wherever they hang.
            kernel.load_as_before()?;
            Ok(Self { has_inherited: true, ..kernel })
        });
        match &begun {
            Ok(_) => tracing::info!(
                instance = options.instance,
                layout = layout.tag,
                "flows of a process with maps of another layout go on"
            ),
            Err(_) => drop(remove_next(&pins).inspect_err(|error| {
                tracing::warn!(%error, "pins of a failed start stay");
            })),
        }
        begun
    }

    /// What flows go by that others' maps know: how services treat them, and which backends they are at.
    pub(super) fn learn_from_older(&mut self) -> Result<(), KernelError> {
        if self.older.is_none() {
            return Ok(());
        }
        let refused = |error: std::io::Error| refused("maps of another layout", &error);
        let policies = heads::<Policy>(&self.pins.map("POLICIES"), limit::SERVICES)?;
        for (id, policy) in (0..).zip(policies).filter(|(_, policy)| *policy != Policy::default()) {
            self.tables.put_policy(id, &policy).map_err(refused)?;
        }
        let backends = heads::<Backend>(&self.pins.map("BACKENDS"), limit::BACKENDS)?;
        for (id, backend) in (0..).zip(backends).filter(|(_, backend)| backend.state != 0) {
            self.tables.put_backend(id, &backend).map_err(refused)?;
        }
        Ok(())
    }

    /// Makes ready for [`Kernel::begin_superseding`], which cannot fail then. What hangs on devices stays.
    pub(super) fn conclude_beside_older(&mut self) -> Result<(), KernelError> {
        let before = self.pins.before();
        for &group in &self.loaded {
            link_pinned_elsewhere(&before, &self.ebpf, group)?;
        }
        self.left = None;
        self.pins
            .settle(|_| true)
            .map_err(|error| refused("naming programs beside those of before", &error))
    }

    /// From here on new flows are opened in our tables.
    pub(super) fn begin_superseding(&mut self) -> Result<(), KernelError> {
        let Some(older) = self.older.as_ref().filter(|older| !older.has_begun) else {
            return Ok(());
        };
        let (seed, layout) = (older.sizes.seed, self.sizes.beside(older.layout));
        self.tables.tag(layout)?;
        self.tables.leave_what_is_missing(seed)?;
        if let Some(older) = &mut self.older {
            older.has_begun = true;
        }
        // Programs that have not heard of it open a last few in the old ones.
        grace().map_err(|error| refused("carrying flows over", &error))
    }

    /// What has been made beside the maps of another layout goes, of which nothing is in force.
    pub(super) fn abandon_beside_older(&self) -> Result<(), KernelError> {
        unlink_pinned(&self.pins.before())?;
        remove_next(&self.pins)
    }
}

/// The entries of a pinned array, of which each has as many words as its version knows: what it does not know is zero. None where there
/// is no such map.
pub(super) fn heads<T: Pod + Default>(path: &Path, count: u32) -> Result<Vec<T>, KernelError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    raw::heads(path, count).map_err(|error| refused(&format!("reading {}", path.display()), &error))
}
