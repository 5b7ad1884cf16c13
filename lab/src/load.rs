//! Connection after connection, from several workers, for a bounded count or time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::client::{Connect, get_here};
use crate::content::digest_of;
use crate::netns::Netns;

/// Connections to make: each asks `GET` once.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where to.
    pub to: SocketAddr,
    /// What is asked for, unless it is bytes.
    pub path: String,
    /// So many bytes that no other connection gets are asked for, and each is checked.
    pub bytes: Option<u64>,
    /// Connections at a time.
    pub workers: usize,
    /// Connections in all, at most.
    pub count: u64,
    /// How long, at most; a connection that has begun goes on to its end.
    pub time: Duration,
    /// How each connects; without a source port, or with one worker.
    pub connect: Connect,
}

impl Load {
    /// A number of connections, four at a time, within ten minutes.
    pub fn of_count(to: SocketAddr, count: u64) -> Self {
        Self {
            to,
            path: "/".to_owned(),
            bytes: None,
            workers: 4,
            count,
            time: Duration::from_secs(600),
            connect: Connect::default(),
        }
    }

    /// Connections for a time, four at a time.
    pub fn of_time(to: SocketAddr, time: Duration) -> Self {
        Self { time, ..Self::of_count(to, u64::MAX) }
    }

    /// Has each connection download so many bytes of its own.
    pub fn of_bytes(self, bytes: u64) -> Self {
        Self { bytes: Some(bytes), ..self }
    }

    /// Makes all connections.
    pub fn run(self, netns: &Netns) -> Tally {
        self.start(netns).wait()
    }

    /// Starts making connections.
    pub fn start(self, netns: &Netns) -> RunningLoad {
        let begun = Instant::now();
        let shared = Arc::new(Shared::default());
        let workers = netns.run(|| {
            let start = |_| {
                let (load, shared) = (self.clone(), Arc::clone(&shared));
                // A thread starts in the namespace of the thread that starts it.
                thread::spawn(move || load.work(&shared, begun))
            };
            (0..self.workers).map(start).collect()
        });
        RunningLoad { begun, shared, workers }
    }

    fn work(&self, shared: &Shared, begun: Instant) {
        while !shared.ending.load(Ordering::Relaxed) && begun.elapsed() < self.time {
            let number = shared.taken.fetch_add(1, Ordering::Relaxed);
            if number >= self.count {
                return;
            }
            let outcome = self.connect_once(number);
            let mut tally = shared.lock();
            match outcome {
                Ok(backend) => *tally.by_backend.entry(backend).or_default() += 1,
                Err(error) => *tally.failures.entry(format!("{error:#}")).or_default() += 1,
            }
        }
    }

    fn connect_once(&self, number: u64) -> Result<String> {
        let path = match self.bytes {
            Some(bytes) => &format!("/bytes/{bytes}?seed={number}"),
            None => &self.path,
        };
        let answer = get_here(self.to, path, &self.connect)?;
        ensure!(answer.status == 200, "status {}", answer.status);
        if let Some(bytes) = self.bytes {
            let is_whole = (answer.length, answer.digest) == (bytes, digest_of(number, bytes));
            ensure!(is_whole, "the bytes of {} came damaged", answer.backend);
        }
        Ok(answer.backend)
    }
}

/// What became of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answers, by the backend that gave them.
    pub by_backend: BTreeMap<String, u64>,
    /// Connections without a right answer, by the reason.
    pub failures: BTreeMap<String, u64>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Tally {
    /// Connections that were answered.
    pub fn answered(&self) -> u64 {
        self.by_backend.values().sum()
    }

    /// Connections that were not.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// A load under way; it ends when dropped.
#[derive(Debug)]
pub struct RunningLoad {
    begun: Instant,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    taken: AtomicU64,
    ending: AtomicBool,
    tally: Mutex<Tally>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Tally> {
        // Counts are whole after every statement under the lock.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunningLoad {
    /// How it stands now.
    pub fn tally(&self) -> Tally {
        Tally { elapsed: self.begun.elapsed(), ..self.shared.lock().clone() }
    }

    /// Whether a worker is still at it.
    pub fn is_running(&self) -> bool {
        self.workers.iter().any(|worker| !worker.is_finished())
    }

    /// Waits until all is done.
    pub fn wait(mut self) -> Tally {
        self.join();
        self.tally()
    }

    /// Begins no more connections, and waits for those under way.
    pub fn stop(mut self) -> Tally {
        self.shared.ending.store(true, Ordering::Relaxed);
        self.join();
        self.tally()
    }

    fn join(&mut self) {
        for worker in self.workers.drain(..) {
            worker.join().expect("a worker counts its errors and does not panic");
        }
    }
}

impl Drop for RunningLoad {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            // Nobody is left to be told.
            drop(worker.join());
        }
    }
}
