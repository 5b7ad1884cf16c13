//! The thread that checks are made on.
//!
//! It has a runtime of its own: the loop may be busy with maps for longer than a check may take. Orders come in, outcomes go
//! out, those that are there within a moment together, since waking the loop costs more than a check does; how many checks are
//! under way at once is bounded by the files that the process may have open, and what is beyond that waits its turn, and has its
//! whole time then.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use equipoise_core::config::HealthCheck;
use equipoise_core::health::{Effect, Outcome, ProbeId};
use rustix::thread::CapabilitySet;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::{Vip, ask, ask_both};
use crate::privileges;

/// Files that are left to everything else.
const SPARED_FILES: usize = 256;
/// A check of a page over TLS, of a command, or both ways, has a few.
const FILES_EACH: usize = 2;

/// How long an outcome waits for others.
const TOGETHER: Duration = Duration::from_millis(2);

/// Outcomes, as they come in.
pub type Outcomes = mpsc::UnboundedReceiver<Vec<(ProbeId, Outcome)>>;

/// Makes checks until it is dropped.
#[derive(Debug)]
pub struct Prober {
    orders: mpsc::UnboundedSender<(Effect, Option<Vip>)>,
}

impl Prober {
    /// Starts the thread, in the network namespace of this one.
    ///
    /// # Errors
    ///
    /// When there is no thread or no runtime to be had.
    pub fn start() -> io::Result<(Self, Outcomes)> {
        let at_once = (file_limit().saturating_sub(SPARED_FILES) / FILES_EACH).max(16);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (orders, received) = mpsc::unbounded_channel();
        let (outcomes, receiver) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(at_once));
        let work = Work {
            outcomes,
            ended: Vec::new(),
            room,
            under_way: BTreeMap::new(),
            tasks: JoinSet::new(),
        };
        thread::Builder::new().name("checks".to_owned()).spawn(move || {
            // For the priority by which checks of a VIP are told.
            privileges::keep_only(CapabilitySet::NET_ADMIN);
            runtime.block_on(work.run(received));
        })?;
        Ok((Self { orders }, receiver))
    }

    /// Has an effect take place; a check goes to the VIP at the backend as well, if there is one.
    pub fn order(&self, effect: Effect, vip: Option<Vip>) {
        // The thread lives as long as this; if it does not, no outcome comes, which is what is seen.
        drop(self.orders.send((effect, vip)));
    }
}

struct Work {
    outcomes: mpsc::UnboundedSender<Vec<(ProbeId, Outcome)>>,
    /// Outcomes that are not told yet.
    ended: Vec<(ProbeId, Outcome)>,
    room: Arc<Semaphore>,
    under_way: BTreeMap<ProbeId, AbortHandle>,
    tasks: JoinSet<(ProbeId, Outcome)>,
}

impl Work {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<(Effect, Option<Vip>)>) {
        let mut due = Instant::now();
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some((Effect::Probe { probe, address, check, .. }, vip)) => {
                        self.begin(probe, (address, vip), check);
                    }
                    Some((Effect::Cancel { target }, _)) => self.cancel(target),
                    None => return,
                },
                Some(ended) = self.tasks.join_next() => {
                    if self.ended.is_empty() {
                        due = Instant::now() + TOGETHER;
                    }
                    // One that was cancelled is not in the list any more.
                    if let Ok((probe, outcome)) = ended {
                        self.under_way.remove(&probe);
                        self.ended.push((probe, outcome));
                    }
                }
                () = sleep_until(due), if !self.ended.is_empty() => {
                    // Nobody listens when the process is ending.
                    drop(self.outcomes.send(std::mem::take(&mut self.ended)));
                }
            }
        }
    }

    fn begin(
        &mut self,
        probe: ProbeId,
        (address, vip): (SocketAddr, Option<Vip>),
        check: Arc<HealthCheck>,
    ) {
        let room = Arc::clone(&self.room);
        let task = self.tasks.spawn(async move {
            // It is never closed, so this only waits.
            let _room = room.acquire().await;
            let outcome = match vip {
                Some(vip) => ask_both(address, &check, vip).await,
                None => ask(address, &check).await,
            };
            (probe, outcome)
        });
        self.under_way.insert(probe, task);
    }

    fn cancel(&mut self, target: u64) {
        let first = ProbeId { target, number: 0 };
        let last = ProbeId { target, number: u64::MAX };
        let of_target: Vec<_> = self.under_way.range(first..=last).map(|(&id, _)| id).collect();
        for probe in of_target {
            if let Some(task) = self.under_way.remove(&probe) {
                task.abort();
            }
        }
        self.ended.retain(|(probe, _)| probe.target != target);
    }
}

/// Files that this process may have open, raised as far as it may.
fn file_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills in the structure, which is there.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 1024;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: the kernel reads the structure, which is there.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
        limit = raised;
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}
