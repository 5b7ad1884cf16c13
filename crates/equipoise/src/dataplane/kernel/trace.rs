//! Packets that somebody looks at, and packets that are only observed: by programs that are loaded for that, and come in place
//! of the others.

use std::fmt::Display;

use equipoise_common::trace::Wanted;

use super::event::Traces;
use super::load::{self, Sizes};
use super::pin::refused;
use super::resize::{CARRYING, Leftover};
use super::stages::Group;
use super::{Kernel, KernelError};

impl Kernel {
    /// Has these packets be told of from when the programs have been attached anew; none for no packets.
    pub(super) fn trace_packets(
        &mut self,
        wanted: Option<&Wanted>,
    ) -> Result<Option<Traces>, KernelError> {
        if self.is_carrying() || self.older.is_some() {
            return Err(refused("telling of packets", &CARRYING));
        }
        self.tables.want_traced(&wanted.copied().unwrap_or_default())?;
        let source = wanted.map(|_| Traces::of_packets(&self.pins)).transpose()?;
        self.load_in_place(Sizes { traces: wanted.is_some(), ..self.sizes })?;
        Ok(source)
    }

    /// Has packets go on as they have come, or not, from when the programs have been attached anew. True if that is to be done.
    pub(super) fn observe_packets(&mut self, observes: bool) -> Result<bool, KernelError> {
        if self.sizes.observes == observes {
            return Ok(false);
        }
        if self.is_carrying() {
            return Err(refused("observing", &CARRYING));
        }
        self.load_in_place(Sizes { observes, ..self.sizes })?;
        Ok(true)
    }

    /// Loads programs with other constants, on the same tables, to be attached in place of those that are there.
    fn load_in_place(&mut self, sizes: Sizes) -> Result<(), KernelError> {
        let failed = |error: &dyn Display| refused("loading programs anew", error);
        let pins = self.pins.clone().next_turn().map_err(|error| failed(&error))?;
        let groups: Vec<Group> = self.loaded.iter().copied().collect();
        let loaded = (|| {
            let mut ebpf = load::open(&pins, sizes, self.side)?;
            load::load_groups(&mut ebpf, Some((&pins, self.side)), &groups)?;
            Ok(ebpf)
        })();
        match loaded {
            Ok(ebpf) => {
                self.pins = pins;
                self.sizes = sizes;
                let before = std::mem::replace(&mut self.ebpf, ebpf);
                self.left = Some(Leftover::of(before));
                self.attached.clear();
                Ok(())
            }
            Err(error) => {
                if let Err(left) = pins.forget_turn() {
                    tracing::warn!(error = %left, "pins of programs that are not used stay");
                }
                Err(error)
            }
        }
    }
}
