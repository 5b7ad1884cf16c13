//! The log of flows: a line for each flow that has closed, and where that is wanted when it opens, in a file, on standard output, or both.
//!
//! Flow events are handed over by a [`Recorder`] and never wait: what finds the queue full is dropped and counted. A thread of
//! its own makes lines of them and writes these, so that a disk that is slow, full or gone holds nothing up; it tries again by
//! itself, and says what is wrong meanwhile. Follows the configuration while it runs. Knows neither the driver nor its state.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

use equipoise_common::event::Event;
use equipoise_core::config::AccessLog as Wanted;
use equipoise_core::config::log::Sample;
use tokio::sync::{oneshot, watch};

use crate::flow_events::{Feed, FlowFollower, Owner, Owners, Told, Wanted as WantedFlows};
use crate::status::access_log::{AccessLogStatus, Dropped, Written};

mod file;
mod line;
mod output;
mod writer;

/// Flows that wait to be written at most: half a second of the most that one machine opens and closes.
const QUEUE: u64 = 32_768;
/// How long the end waits for what is left to be written.
const LAST: Duration = Duration::from_secs(2);

/// What the thread is told, in this order.
enum Order {
    Flow(Box<Told>),
    Follow(Option<Wanted>),
    Reopen,
    /// Nothing more comes: to be told when all is written.
    End(oneshot::Sender<()>),
}

/// What is counted, on both sides of the queue.
#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicU64,
    written: [AtomicU64; 2],
    dropped_queue: AtomicU64,
    dropped: [AtomicU64; 2],
    size: AtomicU64,
}

/// What is taken, and whose it is.
#[derive(Clone, Debug, Default)]
struct Taking {
    /// None while nothing is.
    sample: Option<Sample>,
    /// Whether flows that open are.
    opened: bool,
    owners: Arc<Owners>,
}

/// What is wrong with outputs, by output.
type Failures = BTreeMap<&'static str, String>;

/// The log, as the driver has it.
#[derive(Debug)]
pub struct AccessLog {
    orders: mpsc::Sender<Order>,
    counts: Arc<Counts>,
    taking: watch::Sender<Taking>,
    failures: watch::Receiver<Failures>,
    wanted: Option<Wanted>,
    feed: Feed,
}

/// What flow events are handed to.
#[derive(Debug)]
pub struct Recorder {
    orders: mpsc::Sender<Order>,
    counts: Arc<Counts>,
    taking: watch::Receiver<Taking>,
    feed: Feed,
    /// The chance that samples, and how often it has been asked.
    chance: RandomState,
    drawn: u64,
}

impl AccessLog {
    /// Nothing is written until the configuration says so.
    ///
    /// # Errors
    ///
    /// When no thread can be made.
    pub fn start() -> io::Result<Self> {
        let (orders, ordered) = mpsc::channel();
        let counts = Arc::<Counts>::default();
        let (told, failures) = watch::channel(Failures::new());
        let (taking, _) = watch::channel(Taking::default());
        let shared = Arc::clone(&counts);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writer::run(&ordered, &shared, &told))?;
        Ok(Self { orders, counts, taking, failures, wanted: None, feed: Feed::default() })
    }

    /// What hands flows over to it.
    pub fn recorder(&self) -> Recorder {
        Recorder {
            orders: self.orders.clone(),
            counts: Arc::clone(&self.counts),
            taking: self.taking.subscribe(),
            feed: self.feed.clone(),
            chance: RandomState::new(),
            drawn: 0,
        }
    }

    /// Writes as the configuration wants it from now on; what waits is still written as it was.
    pub fn follow(&mut self, wanted: Option<&Wanted>) {
        if self.wanted.as_ref() == wanted {
            return;
        }
        self.wanted = wanted.cloned();
        self.order(Order::Follow(self.wanted.clone()));
        let sample = wanted.map(|wanted| wanted.sample);
        let opened = wanted.is_some_and(|wanted| wanted.opened);
        self.taking.send_modify(|taking| (taking.sample, taking.opened) = (sample, opened));
    }

    /// Whether flows are written or followed, so that it matters whose they are.
    pub fn is_on(&self) -> bool {
        self.wanted.is_some() || self.feed.is_followed()
    }

    /// Flows as they open and close from now on, also those that are not written.
    pub(crate) fn followed(&self, wanted: WantedFlows) -> FlowFollower {
        self.feed.follow(wanted)
    }

    /// These backends are there, with these ids. Who is known from before stays, until its id is another's: its flows may go on.
    pub fn know(&self, owners: impl IntoIterator<Item = (u32, Owner)>) {
        let mut known = Owners::clone(&self.taking.borrow().owners);
        known.extend(owners);
        self.taking.send_if_modified(|taking| {
            let is_new = *taking.owners != known;
            if is_new {
                taking.owners = Arc::new(known);
            }
            is_new
        });
    }

    /// Opens the file anew: it may have been moved.
    pub fn reopen(&self) {
        self.order(Order::Reopen);
    }

    /// Waits until what is wrong has changed.
    pub async fn changed(&mut self) {
        if self.failures.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What is wrong, in words.
    pub fn failures(&self) -> Vec<String> {
        self.failures.borrow().values().cloned().collect()
    }

    /// How it is; none while nothing is written.
    pub fn status(&self) -> Option<AccessLogStatus> {
        let wanted = self.wanted.as_ref()?;
        let (written, dropped) = self.counts();
        let size = self.counts.size.load(Ordering::Relaxed);
        let has_file = wanted.path.is_some();
        Some(AccessLogStatus {
            path: wanted.path.as_ref().map(|path| path.display().to_string()),
            stdout: wanted.stdout,
            size_bytes: has_file.then_some(size),
            max_size_bytes: has_file.then(|| file::most(wanted)),
            max_files: has_file.then_some(wanted.max_files),
            written,
            dropped,
        })
    }

    /// Lines written, and lines lost.
    pub fn counts(&self) -> (Written, Dropped) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let [file, stdout] = self.counts.written.each_ref().map(read);
        let written = Written { file, stdout };
        let [file, stdout] = self.counts.dropped.each_ref().map(read);
        (written, Dropped { queue: read(&self.counts.dropped_queue), file, stdout })
    }

    /// Counts on from there.
    pub fn restore(&self, written: Written, dropped: Dropped) {
        let add = |to: &AtomicU64, count| to.fetch_add(count, Ordering::Relaxed);
        add(&self.counts.written[0], written.file);
        add(&self.counts.written[1], written.stdout);
        add(&self.counts.dropped_queue, dropped.queue);
        add(&self.counts.dropped[0], dropped.file);
        add(&self.counts.dropped[1], dropped.stdout);
    }

    /// Writes what waits, as far as that can be done in a moment.
    pub async fn end(self) {
        let (done, all) = oneshot::channel();
        self.order(Order::End(done));
        // Whatever is not written by then is not waited for.
        let _: Result<_, _> = tokio::time::timeout(LAST, all).await;
    }

    fn order(&self, order: Order) {
        // The thread ends only after this.
        let _: Result<_, _> = self.orders.send(order);
    }
}

impl Recorder {
    /// Tells whoever follows that a flow has closed or opened, and hands it over if that is to be written.
    pub fn record(&mut self, event: &Event) {
        let is_followed = self.feed.is_followed();
        let is_written = self.is_written(event);
        if !is_followed && !is_written {
            return;
        }
        let owner = self.taking.borrow().owners.get(&event.backend).cloned();
        let told = Told { event: *event, at: SystemTime::now(), owner };
        if is_followed {
            self.feed.tell(told.clone());
        }
        if is_written {
            self.write(told);
        }
    }

    /// Whether it is one of those that are to be written.
    fn is_written(&mut self, event: &Event) -> bool {
        let (sample, opened) = {
            let taking = self.taking.borrow();
            let Some(sample) = taking.sample else { return false };
            (sample, taking.opened)
        };
        if event.what & Event::CLOSED == 0 && !opened {
            return false;
        }
        // Where a flow may have two lines, what is drawn once decides on both.
        let drawn = |log: &mut Self| if opened { log.of_flow(event) } else { log.draw() };
        sample == Sample::ALL || drawn(self) < sample.part()
    }

    fn write(&self, told: Told) {
        if self.counts.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counts.dropped_queue.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // The thread ends only after the driver, and nothing is written then.
        let _: Result<_, _> = self.orders.send(Order::Flow(Box::new(told)));
    }

    /// A number from 0 to below 1, another one each time.
    fn draw(&mut self) -> f64 {
        self.drawn = self.drawn.wrapping_add(1);
        part(self.chance.hash_one(self.drawn))
    }

    /// So, the same one each time for all flows of these ends.
    fn of_flow(&self, event: &Event) -> f64 {
        let Event { client, client_port, vip, vip_port, protocol, .. } = event;
        part(self.chance.hash_one((client.0, client_port.0, vip.0, vip_port.0, protocol)))
    }
}

/// All bits of a number as one from 0 to below 1.
fn part(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
