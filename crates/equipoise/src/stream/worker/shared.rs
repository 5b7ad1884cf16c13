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
use super::super::wire::{Closed, FromWorker, Moved, News, Opened, Refused, Total};
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
    /// By service, who holds its id, and why.
    refused: BTreeMap<(u32, u64, &'static str), u64>,
    /// Whether there are more of these than was last told.
    is_refused_news: bool,
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

    /// One that was taken up comes to no backend.
    pub(super) fn refuse(&self, (service, holder): (u32, u64), why: &'static str) {
        let mut connections = self.connections();
        *connections.refused.entry((service, holder, why)).or_default() += 1;
        connections.is_refused_news = true;
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
        let (id, pid, refused) = (self.id, std::process::id(), connections.refused());
        let mut hello = vec![FromWorker::Hello { id, pid, totals, refused }];
        let again = connections.live.iter().flat_map(|(&id, live)| live.again(id));
        hello.push(FromWorker::News(again.collect()));
        connections.listener = Some(tell);
        (hello, news)
    }

    /// Tells how far connections have got, and how many went nowhere.
    pub(super) fn tell_progress(&self) {
        let mut connections = self.connections();
        if connections.listener.is_none() {
            return;
        }
        let moves = connections.live.iter().filter_map(|(&id, live)| live.news(id));
        let moves: Vec<News> = moves.collect();
        moves.into_iter().for_each(|news| connections.tell(news));
        if std::mem::take(&mut connections.is_refused_news) {
            let (moved, refused) = (Moved::default(), connections.refused());
            connections.tell(News::Moves { id: 0, moved, idle_ms: 0, refused });
        }
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
    /// All of it, for who has not been told, or has lost count: that it is there, and how far it has got.
    fn again(&self, id: u64) -> impl Iterator<Item = News> {
        let opened = Opened { again: true, age_ms: self.progress.age(), ..self.opened.clone() };
        // Whoever hears this counts from nothing on, whatever another one was told.
        self.told.store(0, Ordering::Relaxed);
        std::iter::once(News::Opened(opened)).chain(self.news(id))
    }

    /// How far it has got, if that is further than was last told. What has no backend yet has moved nothing.
    fn news(&self, id: u64) -> Option<News> {
        let moved = self.moved_bytes();
        let sum = moved.bytes_in + moved.bytes_out;
        let is_news = self.told.swap(sum, Ordering::Relaxed) != sum;
        is_news.then(|| News::Moves {
            id,
            moved: self.moved(),
            idle_ms: self.progress.idle(),
            refused: Vec::new(),
        })
    }

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
    fn refused(&self) -> Vec<Refused> {
        let refused = |(&(service, holder, why), &count)| {
            let why: &str = why;
            Refused { service, holder, why: why.to_owned(), count }
        };
        self.refused.iter().map(refused).collect()
    }

    /// Who falls behind is not told any more: it sees that, and asks for everything anew.
    fn tell(&mut self, news: News) {
        if let Some(listener) = &self.listener
            && listener.try_send(news).is_err()
        {
            self.listener = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use equipoise_common::value::Traffic;
    use tokio::net::TcpListener;

    use super::super::super::mirror::Mirror;
    use super::*;

    fn opened() -> Opened {
        Opened {
            id: 0,
            client: "198.51.100.7:4242".parse().unwrap(),
            vip: "203.0.113.10:443".parse().unwrap(),
            place: "10.0.0.1:8443".parse().unwrap(),
            backend: 7,
            holder: 107,
            generation: 0,
            service: 3,
            service_holder: 33,
            age_ms: 0,
            again: false,
        }
    }

    /// What a control plane knows that begins to listen now, and what it hears later.
    fn heard(shared: &Shared) -> (Mirror, mpsc::Receiver<News>) {
        let (hello, news) = shared.attach();
        let mirror = Mirror::default();
        let Ok([FromWorker::Hello { totals, refused, .. }, FromWorker::News(open)]) =
            <[FromWorker; 2]>::try_from(hello)
        else {
            panic!("its first words are others")
        };
        mirror.begin(1, (totals, refused), open);
        (mirror, news)
    }

    fn through(mirror: &Mirror) -> Traffic {
        mirror.traffic()[1].get(&(7, 107)).copied().unwrap_or_default()
    }

    #[tokio::test]
    async fn whoever_listens_is_told_what_open_connections_have_moved() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Arc::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let shared = Shared::default();
        let (first, mut news) = heard(&shared);
        let progress = Arc::new(Progress::new());
        let (id, _ending) = shared.open(opened(), (&client, &progress));
        // One that has no backend yet is not said to have moved what its client has sent.
        let waits = Arc::new(Progress::new());
        let (waiting, _ending) = shared.open(opened(), (&client, &waits));
        progress.note(&progress.bytes_in, 100);
        progress.note(&progress.bytes_out, 2_000);
        shared.tell_progress();
        while let Ok(one) = news.try_recv() {
            first.take(1, vec![one]);
        }
        let told = through(&first);
        assert_eq!((told.bytes_in, told.bytes_out, told.new_flows), (100, 2_000, 2));
        assert!(told.packets_in > 0);
        // Another one begins where the first one was, though nothing moves; and is told no more of it until something does.
        let (second, mut news) = heard(&shared);
        assert_eq!(through(&second), told);
        assert!(second.take_events().0.is_empty(), "all of it was told before");
        shared.tell_progress();
        assert!(news.try_recv().is_err());
        progress.note(&progress.bytes_in, 1);
        shared.tell_progress();
        second.take(1, vec![news.try_recv().unwrap()]);
        assert_eq!(through(&second).bytes_in, 101);
        shared.close(waiting, Reason::Idle, None);
        shared.close(id, Reason::ClientFin, Some(Duration::from_millis(1)));
        let (third, _news) = heard(&shared);
        let total = through(&third);
        assert_eq!((total.bytes_in, total.bytes_out, total.new_flows), (101, 2_000, 2));
    }

    #[test]
    fn what_is_refused_is_told_in_time_and_to_whoever_listens_later() {
        let shared = Shared::default();
        shared.refuse((3, 33), "flow_limit");
        let refused = |mirror: &Mirror| {
            let of_service = mirror.refused().remove(&(3, 33)).unwrap_or_default();
            ["flow_limit", "no_backend"].map(|why| of_service.get(why).copied().unwrap_or(0))
        };
        let (first, mut news) = heard(&shared);
        assert_eq!(refused(&first), [1, 0]);
        shared.refuse((3, 33), "flow_limit");
        shared.refuse((3, 33), "no_backend");
        shared.tell_progress();
        while let Ok(one) = news.try_recv() {
            first.take(1, vec![one]);
        }
        assert_eq!(refused(&first), [2, 1]);
        shared.tell_progress();
        let (second, mut news) = heard(&shared);
        shared.tell_progress();
        assert!(news.try_recv().is_err(), "there is nothing new");
        assert_eq!(refused(&second), [2, 1]);
    }
}
