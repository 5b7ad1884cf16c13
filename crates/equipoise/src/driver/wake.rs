//! What wakes the loop by itself: signals, and the time for what is done again and again.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::counts::KEEP;

/// News come in bursts: a link that goes up is followed by its addresses and routes.
pub(super) const BURST: Duration = Duration::from_millis(20);
/// Neighbours: well under the 30 s after which the kernel calls one stale.
pub(super) const NEIGHBOURS: Duration = Duration::from_secs(5);
/// Ids that rest: how often flows are asked whether they still name them.
pub(super) const RESTING: Duration = Duration::from_secs(30);

/// Flows past their time: a part of the tables each time. The programs themselves go by the time, so this
/// only decides how soon an ended flow is told and taken off the counts.
pub(super) const SWEEP: Duration = Duration::from_millis(100);
/// Parts that the tables are swept in: all of them in 5 s, so that a sweep is short.
pub(super) const SWEEP_PARTS: u32 = 50;

/// When what is to be done next.
#[derive(Debug)]
pub(super) struct Due {
    /// A reading of the machine, when there were news.
    pub(super) reading: Option<Instant>,
    /// Reading takes at most a tenth of the time, whatever the news: a routing daemon has many.
    pub(super) not_before: Instant,
    /// Whether the data plane is to be made as planned.
    pub(super) settle: bool,
    pub(super) neighbours: Instant,
    pub(super) resting: Instant,
    pub(super) sweep: Instant,
    /// What is counted is written for the next process.
    pub(super) counts: Instant,
    /// A sample of how much there is.
    pub(super) load: Instant,
    /// Where weights follow live flows: when these are counted again.
    pub(super) loads: Option<Instant>,
    /// Names: when something of them is to be done that is not a look-up.
    pub(super) names: Option<Instant>,
    /// Denied prefixes: when the next one is let in again.
    pub(super) denials: Option<Instant>,
    /// So, where that has failed: not before then.
    pub(super) denials_not_before: Instant,
    /// Drains: when live flows are counted.
    pub(super) drains: Option<Instant>,
    /// When what runs goes again, unless it is confirmed.
    pub(super) confirmation: Option<Instant>,
    /// Health: when a check is due, or time alone changes something.
    pub(super) health: Option<Instant>,
    /// When flows are carried over to tables of another size, or it is looked whether they are to be.
    pub(super) size: Option<Instant>,
    /// When the supervisor is to be told that the loop turns.
    pub(super) life: Option<Instant>,
}

/// What asks an instance to end, or to read its file again: signals to the process, from when this is made, or
/// whoever has the instance as a library.
#[derive(Debug)]
pub struct Signals(Of);

#[derive(Debug)]
enum Of {
    Process { interrupt: Signal, terminate: Signal, hangup: Signal, user1: Signal },
    Handle(mpsc::UnboundedReceiver<Signalled>),
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signalled {
    /// To end, as the configuration says.
    End,
    /// To read the file again.
    Reload,
    /// To open the log of flows again.
    Reopen,
}

/// What a process is told by signals, told to one instance alone. Dropped, it has the instance end.
#[derive(Debug)]
pub struct SignalHandle(mpsc::UnboundedSender<Signalled>);

impl SignalHandle {
    /// Has the instance end, as SIGTERM does.
    pub fn end(self) {
        self.tell(Signalled::End);
    }

    /// Has it read its file again, as SIGHUP does.
    pub fn reload(&self) {
        self.tell(Signalled::Reload);
    }

    /// Has it open the log of flows anew, as SIGUSR1 does.
    pub fn reopen(&self) {
        self.tell(Signalled::Reopen);
    }

    fn tell(&self, what: Signalled) {
        // It may have ended by itself.
        let _: Result<(), _> = self.0.send(what);
    }
}

impl Due {
    pub(super) fn at_start() -> Self {
        let now = Instant::now();
        Self {
            reading: None,
            not_before: now,
            settle: false,
            neighbours: now,
            resting: now + RESTING,
            sweep: now + SWEEP,
            counts: now + KEEP,
            load: now,
            loads: None,
            names: None,
            denials: Some(now),
            denials_not_before: now,
            drains: Some(now),
            confirmation: None,
            health: Some(now),
            size: Some(now),
            life: None,
        }
    }

    /// When to wake at the latest.
    pub(super) fn earliest(&self, retry: Option<Instant>) -> Instant {
        if self.settle {
            return Instant::now();
        }
        let timers = [
            self.reading,
            retry,
            Some(self.neighbours),
            Some(self.resting),
            Some(self.sweep),
            Some(self.counts),
            Some(self.load),
            self.loads,
            self.names,
            self.denials,
            self.drains,
            self.confirmation,
            self.health,
            self.size,
            self.life,
        ];
        timers.into_iter().flatten().min().unwrap_or(self.neighbours)
    }
}

impl Signals {
    /// Hears them. To be made before anything that a signal must not leave half-done.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn hear() -> io::Result<Self> {
        Ok(Self(Of::Process {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        }))
    }

    /// Those of a handle, in place of any to the process.
    pub fn of_handle() -> (Self, SignalHandle) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(Of::Handle(receiver)), SignalHandle(sender))
    }

    /// The next one; after one that asks to end there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Signalled {
        match &mut self.0 {
            Of::Process { interrupt, terminate, hangup, user1 } => tokio::select! {
                _ = interrupt.recv() => Signalled::End,
                _ = terminate.recv() => Signalled::End,
                _ = hangup.recv() => Signalled::Reload,
                _ = user1.recv() => Signalled::Reopen,
            },
            // A handle that is dropped ends it as well.
            Of::Handle(handle) => handle.recv().await.unwrap_or(Signalled::End),
        }
    }
}
