//! What all connections of a worker share: how they go on, which there are, and who is told of them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use equipoise_common::flow::Reason;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::super::backends::Known;
use super::super::relay::Progress;
use super::super::table::Table;
use super::super::wire::{Closed, FromWorker, Moved, News, Opened, Total};
use super::segments;

/// News that wait at most; a control plane that falls further behind hears everything anew.
const WAITING: usize = 1 << 16;
/// How long a connection waits for a table that has its service.
const AWAITED: Duration = Duration::from_secs(1);
/// How often the log is told of one kind of trouble.
const PAUSE: Duration = Duration::from_secs(10);

/// A connection that goes to a backend.
pub(super) struct Live {
    opened: Opened,
    client: Arc<TcpStream>,
    progress: Arc<Progress>,
    /// Why it is to end, a [`Reason`] as a number; 0 while it is not.
    end: watch::Sender<u32>,
    /// What was last told of it, bytes both ways.
    told: AtomicU64,
}

#[derive(Default)]
struct Connections {
    live: BTreeMap<u64, Live>,
    totals: BTreeMap<(u32, u64), Total>,
    /// Who is told.
    listener: Option<mpsc::Sender<News>>,
    next: u64,
}

/// All of it.
pub(super) struct Shared {
    id: u32,
    known: watch::Sender<Arc<Known>>,
    connections: Mutex<Connections>,
    /// Connections that have been taken up, also those that go nowhere yet.
    count: watch::Sender<u64>,
    retiring: watch::Sender<bool>,
    warned: Mutex<Option<Instant>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            id: RandomState::new().hash_one(0_u8) as u32,
            known: watch::Sender::default(),
            connections: Mutex::default(),
            count: watch::Sender::new(0),
            retiring: watch::Sender::new(false),
            warned: Mutex::default(),
        }
    }
}

/// One of the connections that have been taken up.
pub(super) struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.send_modify(|count| *count -= 1);
    }
}

impl Shared {
    /// How connections go on.
    pub(super) fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.borrow())
    }

    /// So, with the service that is reached there, for which it waits a little: packets may be led here before the table that
    /// says so has come.
    pub(super) async fn known_at(&self, vip: SocketAddr) -> Option<Arc<Known>> {
        let mut known = self.known.subscribe();
        let there = known.wait_for(|known| known.lookup.service(vip).is_some());
        let there = timeout(AWAITED, there).await.ok()?.ok()?;
        Some(Arc::clone(&there))
    }

    /// From here on they go on so.
    pub(super) fn take(&self, table: Table) {
        self.known.send_modify(|known| *known = Arc::new(known.next(table)));
    }

    /// One more has been taken up.
    pub(super) fn count(self: &Arc<Self>) -> Counted {
        self.count.send_modify(|count| *count += 1);
        Counted(Arc::clone(self))
    }

    /// Until nothing that has been taken up is left.
    pub(super) async fn is_idle(&self) {
        // The sender is this one's own.
        let _: Result<_, _> = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Another one takes up what comes.
    pub(super) fn retire(&self) {
        self.retiring.send_replace(true);
    }

    /// Until it is to retire.
    pub(super) async fn is_retiring(&self) {
        // As above.
        let _: Result<_, _> = self.retiring.subscribe().wait_for(|retiring| *retiring).await;
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection goes to a backend; answers its number, and what says why it is to end.
    pub(super) fn open(
        &self,
        mut opened: Opened,
        (client, progress): (&Arc<TcpStream>, &Arc<Progress>),
    ) -> (u64, watch::Receiver<u32>) {
        let (end, ending) = watch::channel(0);
        let mut connections = self.connections();
        connections.next += 1;
        let id = connections.next;
        opened.id = id;
        connections.tell(News::Opened(opened.clone()));
        let (client, progress) = (Arc::clone(client), Arc::clone(progress));
        let live = Live { opened, client, progress, end, told: AtomicU64::new(0) };
        connections.live.insert(id, live);
        (id, ending)
    }

    /// It is over.
    pub(super) fn close(&self, id: u64, why: Reason, handshake: Option<Duration>) {
        let mut connections = self.connections();
        let Some(live) = connections.live.remove(&id) else { return };
        // What has not come to a backend has moved nothing; the same client's segments may be another attempt's.
        let moved = if handshake.is_some() { live.moved() } else { Moved::default() };
        let opened = &live.opened;
        let total = connections.totals.entry((opened.backend, opened.holder)).or_default();
        let Opened { backend, holder, service, service_holder, .. } = *opened;
        let counted = Total { backend, holder, service, service_holder, ..*total };
        *total = counted;
        total.connections += 1;
        total.moved += moved;
        connections.tell(News::Closed(Closed {
            id,
            why: why as u32,
            established: handshake.is_some(),
            moved,
            lasted_ms: live.progress.lasted(),
            handshake: handshake.map_or(0, |took| took.as_nanos() as u64),
        }));
    }

    /// These are to end.
    pub(super) fn end(&self, ids: &[u64], why: u32) {
        let connections = self.connections();
        for live in ids.iter().filter_map(|id| connections.live.get(id)) {
            live.end.send_replace(why);
        }
    }

    /// All of them are.
    pub(super) fn end_all(&self) {
        for live in self.connections().live.values() {
            live.end.send_replace(Reason::ByHand as u32);
        }
    }

    /// From here on this one is told, of what there is at first.
    pub(super) fn attach(&self) -> (Vec<FromWorker>, mpsc::Receiver<News>) {
        let (tell, news) = mpsc::channel(WAITING);
        let mut connections = self.connections();
        let totals = connections.totals.values().copied().collect();
        let mut hello = vec![FromWorker::Hello { id: self.id, pid: std::process::id(), totals }];
        let again = connections.live.values().map(|live| {
            let age_ms = live.progress.age();
            News::Opened(Opened { again: true, age_ms, ..live.opened.clone() })
        });
        hello.push(FromWorker::News(again.collect()));
        connections.listener = Some(tell);
        (hello, news)
    }

    /// Tells how far connections have got.
    pub(super) fn tell_progress(&self) {
        let mut connections = self.connections();
        if connections.listener.is_none() {
            return;
        }
        let moves = connections.live.iter().filter_map(|(&id, live)| {
            let moved = live.moved_bytes();
            let sum = moved.bytes_in + moved.bytes_out;
            let is_news = live.told.swap(sum, Ordering::Relaxed) != sum;
            is_news.then(|| News::Moves { id, moved: live.moved(), idle_ms: live.progress.idle() })
        });
        let moves: Vec<News> = moves.collect();
        moves.into_iter().for_each(|news| connections.tell(news));
    }

    /// Says what is in the way, now and then; it comes into the control plane's log.
    pub(super) fn warn(&self, what: &str, error: &impl Display) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() > PAUSE) {
            *warned = Some(Instant::now());
            self.connections().tell(News::Trouble(format!("{what}: {error}")));
        }
    }
}

impl Live {
    fn moved_bytes(&self) -> Moved {
        let [bytes_in, bytes_out] = [&self.progress.bytes_in, &self.progress.bytes_out]
            .map(|bytes| bytes.load(Ordering::Relaxed));
        Moved { bytes_in, bytes_out, ..Moved::default() }
    }

    fn moved(&self) -> Moved {
        // A socket that is broken still says it.
        let (packets_in, packets_out) = segments::of(&self.client).unwrap_or_default();
        Moved { packets_in, packets_out, ..self.moved_bytes() }
    }
}

impl Connections {
    /// Who falls behind is not told any more: it sees that, and asks for everything anew.
    fn tell(&mut self, news: News) {
        if let Some(listener) = &self.listener
            && listener.try_send(news).is_err()
        {
            self.listener = None;
        }
    }
}
