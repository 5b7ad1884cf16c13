//! What a connection is at: waiting for what its client says, answering, or stuck with an answer that is not read.
//!
//! A connection tells where it is as it goes on; who serves it looks at that when there is no room for another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Where connections are told from.
#[derive(Default)]
pub(super) struct Stages(Arc<Notify>);

impl Stages {
    /// That of a connection which has said nothing yet.
    pub(super) fn first(&self) -> Stage {
        Stage {
            answers: AtomicBool::new(false),
            is_stuck: AtomicBool::new(false),
            changed: Arc::clone(&self.0),
        }
    }

    /// Comes when one may make room that did not before.
    pub(super) async fn changed(&self) {
        self.0.notified().await;
    }
}

/// That of one connection.
pub(super) struct Stage {
    /// Whether something is done for it.
    answers: AtomicBool,
    /// Whether what was written is not read.
    is_stuck: AtomicBool,
    changed: Arc<Notify>,
}

impl Stage {
    /// Something is done for it.
    pub(super) fn answers(&self) {
        self.answers.store(true, Ordering::Relaxed);
    }

    /// It is the client's turn.
    pub(super) fn waits(&self) {
        self.answers.store(false, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Whether what was written is read.
    pub(super) fn reads(&self, reads: bool) {
        let was_stuck = self.is_stuck.swap(!reads, Ordering::Relaxed);
        if !reads && !was_stuck {
            self.changed.notify_one();
        }
    }

    /// Whether it is the client's turn.
    pub(super) fn is_waiting(&self) -> bool {
        !self.answers.load(Ordering::Relaxed)
    }

    /// Whether what was written is not read.
    pub(super) fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::Relaxed)
    }
}
