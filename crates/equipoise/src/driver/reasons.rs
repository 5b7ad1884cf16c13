//! What is not as it should be, and what is good to know, in words.

use equipoise_core::plan::Note;

use super::Driver;
use crate::dataplane::DataPlane;
use crate::host::Machine;
use crate::host::check::unanswered;

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// What is not as it should be, in words.
    pub(super) fn reasons(&self) -> Vec<String> {
        let missing = self.missing();
        let troubles = self.troubles.reasons().map(str::to_owned);
        let crowded = self.crowded.iter().map(ToString::to_string);
        let unwritten = self.access_log.failures();
        let missing = missing.map(ToString::to_string);
        troubles.chain(missing).chain(crowded).chain(self.name_reasons()).chain(unwritten).collect()
    }

    /// What the configuration asks for and clients do not get.
    pub(super) fn missing(&self) -> impl Iterator<Item = &Note> {
        self.state.planned().notes.iter().filter(|note| is_missing(note))
    }

    /// What is good to know.
    pub(super) fn notes(&self) -> Vec<String> {
        let notes = self.state.planned().notes.iter().filter(|note| !is_missing(note));
        let unanswered = unanswered(self.state.config(), &self.reading);
        let given_up = self.plane.given_up().map(|reason| {
            format!("what an earlier process left could not be taken over, and its flows have ended: {reason}")
        });
        let notes = notes.map(ToString::to_string).chain(unanswered).chain(self.name_notes());
        notes.chain(given_up).collect()
    }
}

/// Whether a note tells of something that the configuration asks for and clients do not get.
fn is_missing(note: &Note) -> bool {
    match note {
        Note::NoInterface { .. }
        | Note::NoAddress { .. }
        | Note::NoIds { .. }
        | Note::NoRouteIds { .. }
        | Note::NoBackendIds { .. }
        | Note::NoSourceAddress { .. }
        | Note::NoKeys { .. } => true,
        Note::NoBackend { .. } | Note::Panic { .. } | Note::CoarseShares { .. } => false,
    }
}
