//! Looking names up: each look-up a talk of its own, with one answer.
//!
//! [`look_up`] asks once and answers within a bounded time, whatever the other end does. [`Resolver`] makes many look-ups at
//! once, on a thread of its own, so that neither the loop nor a slow server puts any off; one that nobody waits for any more
//! is dropped, its sockets with it. Knows nothing of what becomes of answers, nor of when to ask again.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread;

use equipoise_core::resolve::{Answer, Effect, Failure, LookUpId};
use rustix::thread::CapabilitySet;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use crate::privileges;

mod ask;
mod source;

pub use ask::look_up;

/// Look-ups under way at once; each has a few sockets.
const AT_ONCE: usize = 64;

/// Answers, as they come in.
pub type Answers = mpsc::UnboundedReceiver<(LookUpId, Result<Answer, Failure>)>;

/// Looks names up until it is dropped.
#[derive(Debug)]
pub struct Resolver {
    orders: mpsc::UnboundedSender<Effect>,
}

impl Resolver {
    /// Starts the thread, in the network namespace of this one.
    ///
    /// # Errors
    ///
    /// When there is no thread or no runtime to be had.
    pub fn start() -> io::Result<(Self, Answers)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (orders, received) = mpsc::unbounded_channel();
        let (answers, receiver) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let work = Work { answers, room, under_way: BTreeMap::new(), tasks: JoinSet::new() };
        thread::Builder::new().name("names".to_owned()).spawn(move || {
            privileges::keep_only(CapabilitySet::empty());
            runtime.block_on(work.run(received));
        })?;
        Ok((Self { orders }, receiver))
    }

    /// Has an effect take place.
    pub fn order(&self, effect: Effect) {
        // The thread lives as long as this; if it does not, no answer comes, which is what is seen.
        drop(self.orders.send(effect));
    }
}

struct Work {
    answers: mpsc::UnboundedSender<(LookUpId, Result<Answer, Failure>)>,
    room: Arc<Semaphore>,
    under_way: BTreeMap<LookUpId, AbortHandle>,
    tasks: JoinSet<LookUpId>,
}

impl Work {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Effect>) {
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Effect::LookUp { id, name, resolvers }) => {
                        let (answers, room) = (self.answers.clone(), Arc::clone(&self.room));
                        let task = self.tasks.spawn(async move {
                            let answer = {
                                // It is never closed, so this only waits.
                                let _room = room.acquire().await;
                                look_up(&name, &resolvers).await
                            };
                            // Nobody listens when the process is ending.
                            drop(answers.send((id, answer)));
                            id
                        });
                        self.under_way.insert(id, task);
                    }
                    Some(Effect::Cancel { id }) => {
                        if let Some(task) = self.under_way.remove(&id) {
                            task.abort();
                        }
                    }
                    None => return,
                },
                Some(ended) = self.tasks.join_next() => {
                    // One that was cancelled is not in the list any more.
                    if let Ok(id) = ended {
                        self.under_way.remove(&id);
                    }
                }
            }
        }
    }
}
