//! Flow tables of another size, while packets flow: begun when the configuration asks for it, carried on bit by bit. And those of another
//! layout, from which flows are carried over when a process has come after one of another version.
//!
//! Flows that the data plane has carried over are its own business. Here is when it goes on, and that the programs on the new
//! tables come in place of the others at last.

use tokio::time::Instant;

use super::Driver;
use super::trouble::Topic;
use super::wake::SWEEP;
use crate::dataplane::{DataPlane, Moving};
use crate::host::Machine;

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Does what is due about the size of the flow tables.
    pub(super) async fn follow_size(&mut self, now: Instant) {
        if self.next.is_some() {
            // It takes the tables as it has found them, also half way.
            self.due.size = self.due.size.map(|at| at.max(now + SWEEP));
            return;
        }
        if self.due.size.is_some_and(|at| at > now) {
            return;
        }
        self.due.size = match self.plane.carry_over() {
            Ok(Moving::Nothing) => self.ask_for_size(now),
            Ok(Moving::Going) => Some(now),
            Ok(Moving::Waiting) => Some(now + SWEEP),
            Ok(Moving::Done) => self.take_new_tables(now).await,
            Err(error) => {
                self.note_size(Err(format!("the maps of before stay in force: {error}")));
                None
            }
        };
    }

    /// Has the tables become as large as they are to be; when there is something to be done about that again.
    fn ask_for_size(&mut self, now: Instant) -> Option<Instant> {
        let (is, wanted) = (self.plane.max_flows(), self.state.config().settings.max_flows);
        if is == wanted {
            self.troubles.note(Topic::Size, Ok(()));
            return None;
        }
        self.explainer = None;
        let resized = self.plane.resize(wanted);
        if resized.is_ok() {
            tracing::info!(
                from = is,
                to = wanted,
                "flows are carried over to tables of another size"
            );
        }
        self.note_size(
            resized.map_err(|error| {
                format!("the flow tables hold {is} flows and not {wanted}: {error}")
            }),
        )
        .then_some(now)
    }

    /// All flows have been carried over.
    async fn take_new_tables(&mut self, now: Instant) -> Option<Instant> {
        // What explains packets is on the old ones.
        self.explainer = None;
        let concluded = match self.plane.take_new_tables() {
            Ok(()) => self.attach_anew().await,
            Err(error) => Err(error.to_string()),
        };
        let concluded = concluded
            .map_err(|error| format!("flows have been carried over, and old tables stay: {error}"));
        if concluded.is_ok() {
            tracing::info!(flows = self.plane.max_flows(), "all flows are in the new tables");
        }
        self.note_size(concluded).then_some(now)
    }

    /// Attaches the programs that are ready in place of those that are attached, and lets go of these.
    pub(super) async fn attach_anew(&mut self) -> Result<(), String> {
        self.begin_exchange();
        // Which programs hang on a device decides how others take their place.
        self.read_machine().await;
        self.settle().await;
        if self.is_exchanging {
            return Err("programs of before stay attached until others can be".to_owned());
        }
        Ok(())
    }

    /// Programs that are ready are to be attached in place of others.
    pub(super) fn begin_exchange(&mut self) {
        self.interfaces.begin_again();
        self.is_exchanging = true;
    }

    /// They are attached: what they have come in place of goes. Where some could not be attached, all stay until they can.
    pub(super) fn conclude_exchange(&mut self) {
        if !self.is_exchanging {
            return;
        }
        let concluded = match self.interfaces.left_behind() {
            Some((name, reason)) => Err(format!("programs of before stay on {name}: {reason}")),
            None => self.plane.conclude().map_err(|error| error.to_string()),
        };
        self.is_exchanging = concluded.is_err();
        self.troubles.note(Topic::Observe, concluded);
    }

    /// Takes note of how that went; true unless it is to be tried again later.
    fn note_size(&mut self, outcome: Result<(), String>) -> bool {
        let is_done = outcome.is_ok();
        self.troubles.note(Topic::Size, outcome);
        self.troubles.schedule(Instant::now());
        is_done
    }
}
