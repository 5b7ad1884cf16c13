//! The end: everything of ours goes, or stays in force, before anybody is told that it has ended.

use equipoise_core::config::OnExit;

use super::{Driver, Ending};
use crate::admin::ProblemDetails;
use crate::dataplane::DataPlane;
use crate::dataplane::kernel::KernelError;
use crate::host::Machine;
use crate::status::StopAnswer;

/// What went wrong at the end.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// Something of ours is still there.
    #[error("not everything could be removed: {0}")]
    Left(#[source] KernelError),
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    pub(super) async fn end(mut self, ending: Ending) -> Result<(), EndError> {
        let keep = match &ending {
            Ending::Signal => self.state.config().settings.on_exit == OnExit::Keep,
            Ending::Stop(_) => false,
        };
        let instance = &self.instance;
        if keep {
            tracing::info!(
                instance,
                "ending: packets flow on without this process, until `equipoise stop`"
            );
        } else {
            tracing::info!(instance, "stopping: everything goes");
        }
        self.interrupt_waiters();
        let ended = if keep {
            self.plane.keep()
        } else {
            let removed = self.plane.remove();
            self.managed.release(&mut self.machine).await;
            self.forwarding.release(&mut self.machine);
            self.kept.note_machine(&self.managed, &self.forwarding);
            self.kept.save(&self.state_file);
            removed
        };
        // From here on another instance of this name may start.
        self.server.unlink();
        drop(self.lock);
        // What is still asked is answered by that.
        drop(self.commands);
        if let Ending::Stop(reply) = ending {
            let answer = match &ended {
                Ok(()) => Ok(StopAnswer { pid: Some(std::process::id()), stopped: true }),
                Err(error) => Err(ProblemDetails::failed(error.to_string())),
            };
            // Whoever asked may be gone.
            let _: Result<(), _> = reply.send(answer);
        }
        self.server.end().await;
        ended.map_err(EndError::Left)
    }
}
