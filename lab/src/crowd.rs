//! Established connections that stay: some busy, some silent, each checked by what it carries.
//!
//! All lead to a [`crate::serve::TcpEcho`], and each has exchanged content before it counts as
//! established. A busy one sends again and again; a silent one sends nothing, not even to keep
//! itself alive, until the check at the end, which asks every one of them for bytes that are its own.
//! One thread serves them all. It looks at them every few milliseconds instead of being woken, so it
//! costs the same whatever happens around it, and times that it tells are as coarse as that.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail, ensure};

use crate::content::Bytes;
use crate::netns::Netns;

/// Between two looks at the connections.
const TICK: Duration = Duration::from_millis(5);

/// Bytes of an exchange, in each direction.
pub const MESSAGE: usize = 256;

/// Connections to keep.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    /// Where to.
    pub to: SocketAddr,
    /// How many are busy; they are opened first.
    pub busy: usize,
    /// How many are silent.
    pub silent: usize,
    /// From one exchange of a busy one to its next.
    pub interval: Duration,
    /// For a connection to open, and for each exchange on it.
    pub timeout: Duration,
}

impl Crowd {
    /// Half of them busy, with ten exchanges a second each, within half a minute each.
    pub fn of(to: SocketAddr, count: usize) -> Self {
        let busy = count / 2;
        let (interval, timeout) = (Duration::from_millis(100), Duration::from_secs(30));
        Self { to, busy, silent: count - busy, interval, timeout }
    }

    /// Opens the connections, has each exchange content once, and then keeps them.
    pub fn start(self, netns: &Netns) -> Result<RunningCrowd> {
        let habits = [(Habit::Busy, self.busy), (Habit::Silent, self.silent)];
        let habits = habits.iter().flat_map(|(habit, count)| vec![*habit; *count]);
        let connect = |(number, habit)| {
            Member::connect(&self, number, habit).with_context(|| format!("connection {number}"))
        };
        let connected: Result<Vec<Member>> =
            netns.run(|| habits.enumerate().map(connect).collect());
        let mut members = connected?;
        exchange_once(&mut members)?;
        let counts = Arc::new(Counts::default());
        let own = Arc::clone(&counts);
        let (check, told) = mpsc::channel();
        let keeper = thread::spawn(move || keep(members, &told, &own));
        Ok(RunningCrowd { counts, check: Some(check), keeper: Some(keeper) })
    }
}

/// What a connection does while it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// It sends, again and again.
    Busy,
    /// It sends nothing.
    Silent,
}

/// Connections that are kept; they are closed when dropped.
#[derive(Debug)]
pub struct RunningCrowd {
    counts: Arc<Counts>,
    check: Option<Sender<()>>,
    keeper: Option<JoinHandle<Vec<Member>>>,
}

#[derive(Debug, Default)]
struct Counts {
    exchanges: AtomicU64,
    broken: AtomicU64,
}

impl RunningCrowd {
    /// Exchanges done since all were open.
    pub fn exchanges(&self) -> u64 {
        self.counts.exchanges.load(Ordering::Relaxed)
    }

    /// Connections found broken so far; a silent one is not looked at before the check.
    pub fn broken(&self) -> u64 {
        self.counts.broken.load(Ordering::Relaxed)
    }

    /// Has each connection, busy or silent, exchange content once more, and tells what became of all.
    pub fn check(mut self) -> Outcome {
        if let Some(check) = &self.check {
            // A keeper that is gone has panicked, which the join shows.
            let _ = check.send(());
        }
        let keeper = self.keeper.take().expect("only this and a drop take it");
        let members = keeper.join().expect("a keeper notes errors and does not panic");
        Outcome::of(&members, self.exchanges())
    }
}

impl Drop for RunningCrowd {
    fn drop(&mut self) {
        drop(self.check.take());
        if let Some(keeper) = self.keeper.take() {
            // Nobody is left to be told.
            drop(keeper.join());
        }
    }
}

/// What became of connections.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Connections whose every exchange came back right.
    pub whole: usize,
    /// The others.
    pub broken: Vec<Broken>,
    /// Exchanges done since all were open, with those of the check.
    pub exchanges: u64,
    /// The slowest exchange.
    pub slowest: Duration,
}

impl Outcome {
    fn of(members: &[Member], exchanges: u64) -> Self {
        let broken: Vec<Broken> = members.iter().filter_map(Member::broken).collect();
        let slowest = members.iter().map(|member| member.slowest).max().unwrap_or_default();
        Self { whole: members.len() - broken.len(), broken, exchanges, slowest }
    }

    /// How many broke, by the reason.
    pub fn by_reason(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for broken in &self.broken {
            *counts.entry(broken.reason.as_str()).or_default() += 1;
        }
        counts
    }
}

/// A connection that broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which it is, in the order in which they were opened.
    pub number: usize,
    /// What it did.
    pub habit: Habit,
    /// This end's address and port.
    pub local: SocketAddr,
    /// The backend it led to.
    pub backend: String,
    /// How it broke.
    pub reason: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, habit, local, backend, reason } = self;
        write!(f, "{habit:?} connection {number}, {local} to {backend}: {reason}")
    }
}

/// A connection, and the exchange on it.
#[derive(Debug)]
struct Member {
    number: usize,
    habit: Habit,
    stream: TcpStream,
    local: SocketAddr,
    backend: String,
    stage: Stage,
    /// Bytes that are sent on this connection alone.
    content: Bytes,
    message: [u8; MESSAGE],
    written: usize,
    returned: usize,
    begun: Instant,
    due: Instant,
    interval: Duration,
    timeout: Duration,
    slowest: Duration,
}

#[derive(Debug)]
enum Stage {
    /// Nothing is under way.
    Idle,
    /// An exchange is.
    Asking,
    /// The check is.
    Checking,
    /// The check came back right.
    Whole,
    /// It broke.
    Broken(Error),
}

impl Member {
    /// Connects from the namespace of this thread, and reads who is there.
    fn connect(crowd: &Crowd, number: usize, habit: Habit) -> Result<Self> {
        let Crowd { to, busy, interval, timeout, .. } = *crowd;
        let stream = TcpStream::connect_timeout(&to, timeout)
            .with_context(|| format!("connecting to {to}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        let mut reader = BufReader::new(&stream);
        let mut backend = String::new();
        reader.read_line(&mut backend).context("the greeting")?;
        ensure!(backend.pop() == Some('\n'), "the connection ended before the greeting");
        ensure!(reader.buffer().is_empty(), "{backend} said more than its greeting");
        stream.set_nonblocking(true)?;
        let now = Instant::now();
        // Spread over the interval, so that they do not all send at once.
        let share = number as f64 / busy.max(1) as f64;
        let due = now + interval.mul_f64(share);
        Ok(Self {
            number,
            habit,
            local: stream.local_addr()?,
            stream,
            backend,
            stage: Stage::Idle,
            content: Bytes::new(number as u64),
            message: [0; MESSAGE],
            written: 0,
            returned: 0,
            begun: now,
            due,
            interval,
            timeout,
            slowest: Duration::ZERO,
        })
    }

    /// Does what there is to do now.
    fn look(&mut self, turn: Turn, counts: &Counts) {
        let now = Instant::now();
        match (&self.stage, turn) {
            (Stage::Idle, Turn::Check) => self.begin(Stage::Checking),
            (Stage::Idle, Turn::Keep) if self.habit == Habit::Busy && now >= self.due => {
                self.due = now + self.interval;
                self.begin(Stage::Asking);
            }
            (Stage::Idle, Turn::Keep) | (Stage::Whole | Stage::Broken(_), _) => return,
            (Stage::Asking | Stage::Checking, _) => {}
        }
        match self.advance() {
            Ok(Progress::Waiting) => {}
            Ok(Progress::Done) => {
                counts.exchanges.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                counts.broken.fetch_add(1, Ordering::Relaxed);
                self.stage = Stage::Broken(error);
            }
        }
    }

    /// Begins an exchange with the next bytes of this connection.
    fn begin(&mut self, stage: Stage) {
        self.content.fill(&mut self.message);
        (self.written, self.returned) = (0, 0);
        self.begun = Instant::now();
        self.stage = stage;
    }

    /// Sends and receives what can be, without waiting.
    fn advance(&mut self) -> Result<Progress> {
        while self.written < MESSAGE {
            let Some(count) =
                unless_busy(self.stream.write(&self.message[self.written..])).context("sending")?
            else {
                break;
            };
            self.written += count;
        }
        let mut buffer = [0; MESSAGE];
        // What may come is what has been sent.
        while self.returned < self.written {
            let room = &mut buffer[..self.written - self.returned];
            let Some(count) = unless_busy(self.stream.read(room)).context("the echo")? else {
                break;
            };
            ensure!(count > 0, "the other end closed it");
            let wanted = &self.message[self.returned..self.returned + count];
            ensure!(buffer[..count] == *wanted, "other bytes came back");
            self.returned += count;
        }
        if self.returned < MESSAGE {
            if self.begun.elapsed() >= self.timeout {
                bail!("no echo within {:?}", self.timeout);
            }
            return Ok(Progress::Waiting);
        }
        self.slowest = self.slowest.max(self.begun.elapsed());
        self.stage = match self.stage {
            Stage::Checking => Stage::Whole,
            Stage::Idle | Stage::Asking | Stage::Whole | Stage::Broken(_) => Stage::Idle,
        };
        Ok(Progress::Done)
    }

    fn is_settled(&self) -> bool {
        matches!(self.stage, Stage::Whole | Stage::Broken(_))
    }

    fn broken(&self) -> Option<Broken> {
        let Stage::Broken(error) = &self.stage else {
            return None;
        };
        Some(Broken {
            number: self.number,
            habit: self.habit,
            local: self.local,
            backend: self.backend.clone(),
            reason: format!("{error:#}"),
        })
    }
}

/// How far an exchange is.
enum Progress {
    Waiting,
    Done,
}

/// What the connections are for now.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Keep,
    Check,
}

/// The first exchange of each.
fn exchange_once(members: &mut [Member]) -> Result<()> {
    for member in members.iter_mut() {
        member.begin(Stage::Asking);
    }
    loop {
        let mut waiting = false;
        for member in members.iter_mut().filter(|member| matches!(member.stage, Stage::Asking)) {
            let progress = member.advance();
            let progress = progress.with_context(|| format!("connection {}", member.number))?;
            waiting |= matches!(progress, Progress::Waiting);
        }
        if !waiting {
            return Ok(());
        }
        thread::sleep(TICK);
    }
}

/// Keeps the connections until it is told to check them, and gives them back checked.
fn keep(mut members: Vec<Member>, told: &Receiver<()>, counts: &Counts) -> Vec<Member> {
    let mut turn = Turn::Keep;
    loop {
        for member in &mut members {
            member.look(turn, counts);
        }
        if members.iter().all(Member::is_settled) && matches!(turn, Turn::Check) {
            return members;
        }
        match told.recv_timeout(TICK) {
            Ok(()) => turn = Turn::Check,
            Err(RecvTimeoutError::Timeout) => {}
            // The crowd was dropped.
            Err(RecvTimeoutError::Disconnected) => return members,
        }
    }
}

/// How many bytes were moved; none when the socket is not ready.
fn unless_busy(moved: io::Result<usize>) -> io::Result<Option<usize>> {
    match moved {
        Ok(count) => Ok(Some(count)),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        },
    }
}
