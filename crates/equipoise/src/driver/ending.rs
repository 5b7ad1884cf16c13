//! The end: everything of ours goes, or stays in force, before anybody is told that it has ended.

use equipoise_core::config::OnExit;

use super::{Driver, Ending};
use crate::admin::{ProblemDetails, Reply};
use crate::dataplane::DataPlane;
use crate::dataplane::kernel::KernelError;
use crate::events::{Event, Kind};
use crate::host::Machine;
use crate::status::{StopAnswer, UpgradeAnswer};

/// What went wrong at the end.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// Something of ours is still there.
    #[error("not everything could be removed: {0}")]
    Left(#[source] KernelError),
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Ends without touching anything: another process has it all.
    async fn leave(
        mut self,
        reply: Reply<UpgradeAnswer>,
        answer: UpgradeAnswer,
    ) -> Result<(), EndError> {
        tracing::info!(pid = answer.pid, version = answer.version, "handed over; ending");
        if let Some(pid) = answer.pid {
            self.supervisor.handed_over(pid);
        }
        self.interrupt_waiters();
        self.lock.leave();
        let kept = self.plane.keep();
        drop(self.commands);
        self.access_log.end().await;
        // Whoever follows has been told all there was from here.
        drop(self.told);
        // Whoever asked may be gone.
        drop(reply.send(Ok(answer)));
        self.server.end().await;
        kept.map_err(EndError::Left)
    }

    pub(super) async fn end(mut self, ending: Ending) -> Result<(), EndError> {
        if let Some(next) = self.next.take() {
            next.give_up().await;
        }
        let stopped = match ending {
            Ending::Signal => None,
            Ending::Stop(reply) => Some(reply),
            Ending::HandedOver(reply, answer) => return self.leave(reply, answer).await,
        };
        let keeps = self.state.config().settings.on_exit == OnExit::Keep;
        let keep = keeps && stopped.is_none();
        let why = if keep { "packets flow on" } else { "everything is removed" };
        self.tell(Event::new(Kind::Stopping).because(why));
        self.supervisor.stopping(keep);
        self.interrupt_waiters();
        if keep {
            self.keep_counts();
            self.streams.let_go();
        } else {
            self.drop_counts();
            self.streams.stop().await;
            self.take_stream_news();
        }
        let ended = if keep {
            self.plane.keep()
        } else {
            let removed = self.plane.remove();
            self.managed.release(&mut self.machine).await;
            self.forwarding.release(&mut self.machine);
            self.kept.note_machine(&self.managed, &self.forwarding);
            self.kept.forget_generation();
            if stopped.is_some() {
                self.kept.forget_names();
            }
            self.kept.save(&self.state_file);
            removed
        };
        self.events.end().await;
        self.access_log.end().await;
        // Whoever follows has been told all there was.
        drop(self.told);
        // From here on another instance of this name may start.
        self.server.unlink();
        drop(self.lock);
        // What is still asked is answered by that.
        drop(self.commands);
        if let Some(reply) = stopped {
            let answer = match &ended {
                Ok(()) => Ok(StopAnswer {
                    pid: Some(std::process::id()),
                    stopped: true,
                    instance: self.instance.clone(),
                }),
                Err(error) => Err(ProblemDetails::failed(error.to_string())),
            };
            // Whoever asked may be gone.
            let _: Result<(), _> = reply.send(answer);
        }
        self.server.end().await;
        ended.map_err(EndError::Left)
    }
}
