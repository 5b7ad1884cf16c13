//! Decapsulating on a backend: starting, following the machine, and the end, at which all is as it was before.
//!
//! The programs do the work, and are gone when this process is. Here their maps follow the machine's addresses,
//! interfaces that come back get their programs again, and what was changed on this host is written down and put
//! back. Knows nothing of balancing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use equipoise_core::config::AttachMode;
use ipnet::IpNet;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::admin::lock::InstanceLock;
use crate::dataplane::kernel::decap::{self as kernel, Decap, Egress, From};
use crate::dataplane::kernel::{Attachment, KernelError, TcWay};
use crate::host::{HostError, Machine, Netlink, Reading};
use crate::status::InterfaceStatus;

mod ledger;
mod loopback;
mod report;
mod tables;

pub use ledger::{Keep, Ledger, LedgerError};
pub use report::{Report, State};

/// News come in bursts: a link that goes up is followed by its addresses.
const BURST: Duration = Duration::from_millis(20);
/// Reading takes at most a tenth of the time, whatever the news.
const PART: u32 = 9;
/// When what has failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How often counters are told that have changed, where that is asked for.
const TELL: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names what this process leaves on file.
    pub name: String,
    /// Where encapsulated packets come in.
    pub interfaces: Vec<String>,
    /// The VIPs; without any, all addresses of this host.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether the VIPs are put on the loopback device.
    pub loopback: OnLoopback,
    /// From whom packets are taken; without any, from anybody.
    pub from: Vec<IpNet>,
    /// The UDP port of GUE.
    pub port: u16,
    /// How large the segments of new connections may be.
    pub mss: Mss,
    /// Where the programs hang.
    pub attach: AttachMode,
}

/// Whether the VIPs are put on the loopback device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLoopback {
    /// They are, and interfaces keep quiet about them.
    Managed,
    /// They are not.
    Untouched,
}

/// How large the segments of new connections may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mss {
    /// So that they fit with the largest header of ours around them.
    Auto,
    /// As large as they like.
    Off,
    /// So many bytes.
    Bytes(u16),
}

/// Whether counters are told again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    /// When they have changed.
    Often,
    /// When asked for, and at the end.
    WhenAsked,
}

/// Why nothing is decapsulated.
#[derive(Debug, thiserror::Error)]
pub enum DecapError {
    /// What was asked for does not fit this machine.
    #[error("{0}")]
    Unfit(String),
    /// The machine cannot be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The kernel refuses programs, maps or counters.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// What was changed cannot be written down or put back.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Signals cannot be heard.
    #[error("hearing signals: {0}")]
    Signals(#[source] io::Error),
}

/// A host that decapsulates.
pub struct Decapsulator {
    options: Options,
    machine: Netlink,
    signals: Signals,
    ledger: Ledger,
    programs: Decap,
    attached: BTreeMap<String, (u32, Attachment)>,
    failed: BTreeMap<String, String>,
    /// Held as long as this lives, after all else.
    _lock: InstanceLock,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    asked: Signal,
}

impl Signals {
    fn hear() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            asked: signal(SignalKind::user_defined1())?,
        })
    }
}

impl Decapsulator {
    /// Starts: when this returns, packets are taken out.
    ///
    /// # Errors
    ///
    /// When anything fails; all is as it was before then.
    pub async fn start(
        options: Options,
        lock: InstanceLock,
        ledger: &Path,
    ) -> Result<Self, DecapError> {
        let mut machine = Netlink::open()?;
        check(&options, &read(&mut machine).await?)?;
        // Before anything that a signal must not leave half-done.
        let signals = Signals::hear().map_err(DecapError::Signals)?;
        let from = if options.from.is_empty() { From::Anybody } else { From::Sources };
        let programs = Decap::load(&kernel::Options {
            name: &options.name,
            port: options.port,
            from,
            tc: TcWay::default(),
        })?;
        let mut started = Self {
            ledger: Ledger::open(ledger)?,
            options,
            machine,
            signals,
            programs,
            attached: BTreeMap::new(),
            failed: BTreeMap::new(),
            _lock: lock,
        };
        match started.begin().await {
            Ok(()) => Ok(started),
            Err(error) => {
                if let Err(error) = started.put_back().await {
                    tracing::error!(%error, "something is left after the failed start");
                }
                Err(error)
            }
        }
    }

    async fn begin(&mut self) -> Result<(), DecapError> {
        self.follow().await?;
        if let Some((name, reason)) = self.failed.first_key_value() {
            let sentence = format!("{name} cannot be attached: {reason}");
            return Err(KernelError::Refused(sentence).into());
        }
        let reading = read(&mut self.machine).await?;
        for warning in loopback::warnings(&self.machine, &self.options, &reading) {
            tracing::warn!("{warning}");
        }
        Ok(())
    }

    /// Makes the host, the maps and the interfaces what they should be on the machine as it is.
    async fn follow(&mut self) -> Result<(), DecapError> {
        let before = read(&mut self.machine).await?;
        loopback::follow(&mut self.ledger, &mut self.machine, &self.options, &before).await?;
        // Again, with the addresses that have just been added.
        let reading = read(&mut self.machine).await?;
        self.let_go(&reading);
        self.programs.apply(&tables::tables(&self.options, &reading))?;
        self.attach(&reading);
        Ok(())
    }

    fn let_go(&mut self, reading: &Reading) {
        let programs = &mut self.programs;
        self.attached.retain(|name, (index, _)| {
            let is_there = reading.devices.get(name).is_some_and(|device| device.index == *index);
            if !is_there {
                programs.detach(*index);
                tracing::info!(interface = name, "detached: the interface has gone");
            }
            is_there
        });
    }

    fn attach(&mut self, reading: &Reading) {
        let before = std::mem::take(&mut self.failed);
        for name in &self.options.interfaces {
            if self.attached.contains_key(name) {
                continue;
            }
            let attached = attach(&mut self.programs, name, &self.options, reading);
            match attached {
                Ok((index, how)) => {
                    let Attachment { hook, mode, reason } = &how;
                    tracing::info!(interface = name, hook, mode, reason, "attached");
                    self.attached.insert(name.clone(), (index, how));
                }
                Err(reason) => {
                    if before.get(name) != Some(&reason) {
                        tracing::warn!(interface = name, reason, "not attached");
                    }
                    self.failed.insert(name.clone(), reason);
                }
            }
        }
    }

    /// What has become of packets so far.
    ///
    /// # Errors
    ///
    /// When the kernel does not give the counters.
    pub fn report(&self, state: State) -> Result<Report, DecapError> {
        let status = |name: &String, hook: &str, mode: &str, reason: &str| InterfaceStatus {
            name: name.clone(),
            hook: hook.to_owned(),
            mode: mode.to_owned(),
            reason: reason.to_owned(),
        };
        let attached = self.attached.iter().map(|(n, (_, a))| status(n, a.hook, a.mode, &a.reason));
        let failed = self.failed.iter().map(|(name, reason)| status(name, "none", "none", reason));
        let mut interfaces: Vec<_> = attached.chain(failed).collect();
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Report::new(state, &self.options.name, interfaces, &self.programs.verdicts()?))
    }

    /// Runs until a signal ends it, and gives the last counters. They are told to `each` whenever that is due.
    ///
    /// # Errors
    ///
    /// When something cannot be put back, or the counters cannot be read.
    pub async fn run(
        mut self,
        tell: Tell,
        each: &mut dyn FnMut(&Report),
    ) -> Result<Report, DecapError> {
        let ended = self.until_signal(tell, each).await;
        for (index, _) in self.attached.values() {
            self.programs.detach(*index);
        }
        // Nothing is counted any more.
        let last = self.report(State::Ended);
        self.put_back().await?;
        ended?;
        last
    }

    async fn until_signal(
        &mut self,
        tell: Tell,
        each: &mut dyn FnMut(&Report),
    ) -> Result<(), DecapError> {
        let mut next: Option<Instant> = None;
        let mut not_before = Instant::now();
        let mut due = Instant::now() + TELL;
        let mut told = self.report(State::Running)?;
        loop {
            let wake = next.map_or(due, |next| next.min(due));
            tokio::select! {
                _ = self.signals.interrupt.recv() => return Ok(()),
                _ = self.signals.terminate.recv() => return Ok(()),
                _ = self.signals.asked.recv() => {
                    told = self.report(State::Running)?;
                    each(&told);
                }
                () = self.machine.changed() => {
                    let soon = (Instant::now() + BURST).max(not_before);
                    next = Some(next.map_or(soon, |next| next.min(soon)));
                }
                () = sleep_until(wake) => {}
            }
            let now = Instant::now();
            if next.is_some_and(|next| next <= now) {
                next = match self.follow().await {
                    Ok(()) if self.failed.is_empty() => None,
                    Ok(()) => Some(Instant::now() + RETRY),
                    Err(error) => {
                        tracing::warn!(%error, "tried again in {RETRY:?}");
                        Some(Instant::now() + RETRY)
                    }
                };
                not_before = Instant::now() + now.elapsed() * PART;
            }
            if due <= now {
                due = now + TELL;
                if tell == Tell::Often {
                    let report = self.report(State::Running)?;
                    if report != told {
                        each(&report);
                        told = report;
                    }
                }
            }
        }
    }

    async fn put_back(&mut self) -> Result<(), DecapError> {
        let reading = read(&mut self.machine).await?;
        Ok(self.ledger.put_back(&mut self.machine, &reading, &Keep::NOTHING).await?)
    }
}

/// Puts back what a process of this name has left that was killed; says if there was anything.
///
/// # Errors
///
/// When something cannot be put back.
pub async fn clean(name: &str, ledger: &Path) -> Result<bool, DecapError> {
    let filters = Decap::remove_left(name)?;
    let mut ledger = Ledger::open(ledger)?;
    let changes = !ledger.is_empty();
    let mut machine = Netlink::open()?;
    let reading = read(&mut machine).await?;
    ledger.put_back(&mut machine, &reading, &Keep::NOTHING).await?;
    Ok(filters || changes)
}

async fn read(machine: &mut Netlink) -> Result<Reading, HostError> {
    machine.read(&BTreeSet::from([loopback::ANYWHERE])).await
}

/// Whether the interfaces are there, and of a kind that packets can be taken from.
fn check(options: &Options, reading: &Reading) -> Result<(), DecapError> {
    for name in &options.interfaces {
        let Some(device) = reading.devices.get(name) else {
            let there: Vec<_> = reading.devices.keys().map(String::as_str).collect();
            let there = there.join(", ");
            return Err(DecapError::Unfit(format!(
                "there is no interface {name}; there are: {there}"
            )));
        };
        if device.link_address.is_none() {
            return Err(DecapError::Unfit(format!("{name} is no Ethernet interface")));
        }
    }
    Ok(())
}

fn attach(
    programs: &mut Decap,
    name: &str,
    options: &Options,
    reading: &Reading,
) -> Result<(u32, Attachment), String> {
    let device = reading.devices.get(name).ok_or("there is no such interface")?;
    let described = device.described(name);
    let egress = if options.mss == Mss::Off { Egress::Untouched } else { Egress::Clamped };
    let how = programs.attach(&described, options.attach, egress).map_err(|e| e.to_string())?;
    Ok((device.index, how))
}
