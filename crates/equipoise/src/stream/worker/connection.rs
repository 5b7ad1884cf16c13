//! One connection, from when it is taken up until it is over.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use equipoise_common::flow::Reason;
use equipoise_common::verdict::Verdict;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::super::backends::{Asking, Chosen, Held, Known, Refusal, pool};
use super::super::header::header;
use super::super::hello::{self, Said};
use super::super::relay::{Progress, relay, write_all};
use super::super::table::Service;
use super::super::wire::Opened;
use super::shared::Shared;

/// What one backend may take to answer where there are others: a SYN that was lost is sent again after 1 s.
const EACH: Duration = Duration::from_secs(3);

/// Why a connection is refused whose pool has backends of which none takes it; packets would reach one and bring its answer.
const NO_ANSWER: &str = "no_answer";

/// Who has connected, to what.
struct Client {
    stream: Arc<TcpStream>,
    address: SocketAddr,
    vip: SocketAddr,
}

/// Serves a connection to its end.
pub(super) async fn serve(client: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    let _counted = shared.count();
    let Ok(vip) = client.local_addr() else { return };
    let client = Client { stream: Arc::new(client), address: plain(peer), vip: plain(vip) };
    // What is not served gets a RST.
    if go_on(&client, &shared).await.is_none() {
        reset(&client.stream);
    }
}

/// An IPv4 address as such: the listening socket is for both families.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A socket that closes says so by a RST.
fn reset(stream: &TcpStream) {
    // A socket that is broken has no need of it.
    let _: io::Result<()> = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// None where there is nowhere to go.
async fn go_on(client: &Client, shared: &Arc<Shared>) -> Option<()> {
    // Small answers are not to wait for one another; a socket that refuses serves as well.
    let _: io::Result<()> = client.stream.set_nodelay(true);
    let known = shared.known_at(client.vip).await?;
    let (id, service) = known.lookup.service(client.vip)?;
    let of_source = known.lookup.of_source(id, client.address.ip());
    let mut said = Said::default();
    if of_source.is_none() && service.asks_for_names() {
        let heard = timeout(service.opening, hello::read(&client.stream, &mut said)).await;
        // Who has said nothing by then, or not all of it, goes where others go that name nobody: a backend may speak first.
        if let Ok(Err(_)) = heard {
            return None;
        }
    }
    // A table that has come meanwhile is the one that counts.
    drop(known);
    let known = shared.known();
    let (id, service) = known.lookup.service(client.vip)?;
    let whose = (id, service.holder);
    let Some(_held) = known.hold(id, service) else {
        shared.refuse(whose, Verdict::FlowLimit.name());
        return None;
    };
    let name = said.name.as_deref();
    let pool = pool(&known.lookup, (id, service), client.address.ip(), name);
    let asking = Asking { client: client.address, vip: client.vip, pool };
    let until = Instant::now() + service.opening;
    let (service, idle) = ((id, service), service.idle);
    let attempts = Attempts { known: &known, service, asking, failed: Vec::new(), next: 0 };
    let connected = attempts.connect(client, shared, until).await;
    let connected = connected.map_err(|why| shared.refuse(whose, why)).ok()?;
    // Connections that last are not to keep every table that there has been.
    drop(known);
    connected.carry(client, &said.bytes, idle).await;
    Some(())
}

/// Backend after backend, until one answers.
struct Attempts<'a> {
    known: &'a Known,
    service: (u32, &'a Service),
    asking: Asking,
    failed: Vec<u32>,
    next: u32,
}

/// A connection with both ends.
struct Connected<'a> {
    shared: &'a Shared,
    id: u64,
    ending: watch::Receiver<u32>,
    progress: Arc<Progress>,
    backend: TcpStream,
    told: bool,
    handshake: Duration,
    _held: Held,
}

impl Attempts<'_> {
    async fn connect<'a>(
        mut self,
        client: &Client,
        shared: &'a Shared,
        until: Instant,
    ) -> Result<Connected<'a>, &'static str> {
        loop {
            let place = (self.service.1, &*self.failed);
            let chosen = self.known.choose(&self.asking, place, &mut self.next);
            let chosen = chosen.map_err(|refusal| self.why(refusal))?;
            let progress = Arc::new(Progress::new());
            let opened = self.opened(&chosen);
            let place = opened.place;
            let (id, ending) = shared.open(opened, (&client.stream, &progress));
            let began = Instant::now();
            let connecting = connect(place, self.source(place, id));
            let answered = in_time(connecting, (until.min(began + EACH), until), || {
                self.known.names_another(self.asking.pool, chosen.id, &self.failed)
            });
            match answered.await {
                Ok(Ok(backend)) => {
                    let (told, handshake) = (chosen.backend.told, began.elapsed());
                    let held = chosen.held;
                    return Ok(Connected {
                        shared,
                        id,
                        ending,
                        progress,
                        backend,
                        told,
                        handshake,
                        _held: held,
                    });
                }
                // Nothing has been said yet: another one is as good.
                Ok(Err(_)) => shared.close(id, Reason::BackendReset, None),
                Err(_) => shared.close(id, Reason::Idle, None),
            }
            self.failed.push(chosen.id);
            if Instant::now() >= until {
                return Err(NO_ANSWER);
            }
        }
    }

    /// Why there is nowhere to go, by the name that it has for packets.
    fn why(&self, refusal: Refusal) -> &'static str {
        match refusal {
            Refusal::Nobody if !self.failed.is_empty() => NO_ANSWER,
            Refusal::Nobody => Verdict::NoBackend.name(),
            Refusal::Full => Verdict::FlowLimit.name(),
            Refusal::Spent => Verdict::BackendLimit.name(),
        }
    }

    fn opened(&self, chosen: &Chosen) -> Opened {
        let (id, service) = self.service;
        let mut place = chosen.backend.place;
        if place.port() == 0 {
            place.set_port(self.asking.vip.port());
        }
        Opened {
            id: 0,
            client: self.asking.client,
            vip: self.asking.vip,
            place,
            backend: chosen.id,
            holder: chosen.backend.holder,
            generation: chosen.backend.generation,
            service: id,
            service_holder: service.holder,
            age_ms: 0,
            again: false,
        }
    }

    /// The address that a connection to a backend comes from; none for what the system takes.
    fn source(&self, place: SocketAddr, id: u64) -> Option<IpAddr> {
        let sources = &self.service.1.sources_at_backends;
        let of_family: Vec<_> =
            sources.iter().filter(|address| address.is_ipv4() == place.is_ipv4()).collect();
        let at = (id % of_family.len().max(1) as u64) as usize;
        of_family.get(at).copied().copied()
    }
}

/// What comes about by the first of two times, or by the last where nothing else could come about instead.
async fn in_time<T>(
    comes: impl Future<Output = T>,
    (first, last): (Instant, Instant),
    is_another: impl FnOnce() -> bool,
) -> Result<T, Elapsed> {
    let mut comes = pin!(comes);
    match timeout_at(first, &mut comes).await {
        Err(_) if !is_another() => timeout_at(last, comes).await,
        answered => answered,
    }
}

async fn connect(place: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if place.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = source {
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(place).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Connected<'_> {
    /// Carries it until it is over.
    async fn carry(mut self, client: &Client, said: &[u8], idle: Duration) {
        let why = tokio::select! {
            why = forward(client, (&self.backend, self.told), said, &self.progress) => why,
            why = ended(&mut self.ending) => why,
            () = idle_for(&self.progress, idle) => Reason::Idle,
        };
        // An end that has finished in order has been told so; every other one hears of it at once.
        if !matches!(why, Reason::ClientFin | Reason::BackendFin) {
            reset(&client.stream);
            reset(&self.backend);
        }
        self.shared.close(self.id, why, Some(self.handshake));
    }
}

async fn forward(
    client: &Client,
    (backend, told): (&TcpStream, bool),
    said: &[u8],
    progress: &Progress,
) -> Reason {
    let head = if told { header(client.address, client.vip) } else { Vec::new() };
    for bytes in [&head, said] {
        if write_all(backend, bytes).await.is_err() {
            return Reason::BackendReset;
        }
    }
    if !said.is_empty() {
        progress.note(&progress.bytes_in, said.len() as u64);
    }
    relay(&client.stream, backend, progress).await
}

/// Why it is to end, once it is.
async fn ended(ending: &mut watch::Receiver<u32>) -> Reason {
    let why = ending.wait_for(|why| *why != 0).await.map(|why| *why);
    match why {
        Ok(why) => Reason::from_number(why),
        // Nobody will say so any more.
        Err(_) => std::future::pending().await,
    }
}

/// Until it has moved nothing for so long.
async fn idle_for(progress: &Progress, most: Duration) {
    loop {
        let idle = Duration::from_millis(progress.idle());
        match most.checked_sub(idle) {
            None | Some(Duration::ZERO) => return,
            Some(left) => sleep(left).await,
        }
    }
}
