//! Programs of another kind in place of those that run: such as tell of packets to who looks on, for as long as somebody does, and
//! such as only observe.
//!
//! One looks on at a time, since the programs are told which packets are wanted.

use std::collections::BTreeMap;
use std::time::Duration;

use equipoise_common::trace::{Traced, Wanted};
use equipoise_common::verdict::{Hook, Verdict};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Driver;
use super::select::no_service;
use super::trouble::Topic;
use super::upgrade::makes_ready;
use crate::admin::ProblemDetails;
use crate::dataplane::DataPlane;
use crate::dataplane::kernel::{Arrivals, Traces};
use crate::host::Machine;
use crate::status::explain::hex;
use crate::status::trace::{TraceFilter, TracedPacket};

/// Packets that wait to be taken at most; more are counted as skipped.
const WAITING: usize = 1024;

/// Somebody who looks on.
#[derive(Debug)]
pub(super) struct Onlooker {
    packets: mpsc::Sender<TracedPacket>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Onlooker {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What numbers stand for.
struct Names {
    interfaces: BTreeMap<u32, String>,
    services: BTreeMap<u32, String>,
    backends: BTreeMap<u32, String>,
    /// From the kernel's monotonic clock to the time since 1970.
    epoch: Duration,
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Begins to tell of these packets.
    pub(super) async fn trace(
        &mut self,
        filter: &TraceFilter,
    ) -> Result<mpsc::Receiver<TracedPacket>, ProblemDetails> {
        self.follow_trace().await;
        if self.onlooker.is_some() {
            let problem = ProblemDetails::conflict("somebody else is told of packets already");
            return Err(problem.with_help("end the other `equipoise trace` or `capture` first"));
        }
        let wanted = self.wanted_packets(filter)?;
        if self.next.is_some() {
            // It has programs pinned by now, and names that this process would give to others.
            return Err(makes_ready());
        }
        let source = self.plane.trace(Some(&wanted)).map_err(|error| {
            ProblemDetails::conflict(format!("packets cannot be told of now: {error}"))
        })?;
        let attached = self.attach_anew().await;
        self.troubles.note(Topic::Trace, attached);
        let (packets, receiver) = mpsc::channel(WAITING);
        let listening = source.map(Traces::listen).transpose();
        let listening = listening.map_err(|error| ProblemDetails::failed(error.to_string()))?;
        let names = self.names_of_packets();
        let sender = packets.clone();
        let task = listening.map(|source| tokio::spawn(tell(source, names, sender)));
        self.onlooker = Some(Onlooker { packets, task });
        tracing::info!(?wanted, "packets are told of");
        Ok(receiver)
    }

    /// Ends it when nobody looks any more.
    pub(super) async fn follow_trace(&mut self) {
        let is_over = |onlooker: &Onlooker| onlooker.packets.is_closed();
        if self.next.is_some() || !self.onlooker.as_ref().is_some_and(is_over) {
            return;
        }
        let ended = match self.plane.trace(None) {
            Ok(_) => self.attach_anew().await,
            Err(error) => Err(error.to_string()),
        };
        if ended.is_ok() {
            self.onlooker = None;
            tracing::info!("packets are not told of any more");
        }
        self.troubles.note(
            Topic::Trace,
            ended.map_err(|error| {
                format!("programs that tell of packets stay, which costs each packet time: {error}")
            }),
        );
    }

    /// Has programs be ready that only observe, or that do not; not while another process makes ready beside those that run.
    pub(super) fn follow_observing(&mut self, observes: bool) {
        if self.next.is_some() {
            return;
        }
        match self.plane.observe(observes) {
            Ok(true) => {
                tracing::info!(observes, "programs are exchanged");
                self.begin_exchange();
            }
            Ok(false) => {}
            Err(error) => {
                let reason =
                    format!("whether packets are only observed cannot be changed now: {error}");
                self.troubles.note(Topic::Observe, Err(reason));
            }
        }
    }

    fn wanted_packets(&self, filter: &TraceFilter) -> Result<Wanted, ProblemDetails> {
        let verdicts = filter.verdicts().map_err(ProblemDetails::unprocessable)?;
        let mut wanted = Wanted::default();
        verdicts.into_iter().for_each(|verdict| wanted.add(verdict as u32));
        if let Some(name) = &filter.service {
            let services = self.state.services();
            let service = services.iter().find(|view| view.service.name == *name);
            let missing = || no_service(name, services.iter().map(|view| &*view.service.name));
            let id = service.ok_or_else(missing)?.id;
            wanted.service = u64::from(id.ok_or_else(missing)?) + 1;
        }
        let rate = filter.rate.unwrap_or(TraceFilter::RATE);
        if rate == 0 {
            return Err(ProblemDetails::unprocessable("a rate is 1 or more packets a second"));
        }
        wanted.pause = 1_000_000_000 / u64::from(rate);
        Ok(wanted)
    }

    fn names_of_packets(&self) -> Names {
        let mut names = Names {
            interfaces: BTreeMap::new(),
            services: BTreeMap::new(),
            backends: BTreeMap::new(),
            epoch: monotonic_epoch(self.clock.now()),
        };
        let devices = self.reading.devices.iter();
        names.interfaces = devices.map(|(name, device)| (device.index, name.clone())).collect();
        for service in self.state.services() {
            names.services.extend(service.id.map(|id| (id, service.service.name.clone())));
            let backends = service.backends().filter_map(|b| Some((b.id?, b.address.to_string())));
            names.backends.extend(backends);
        }
        names
    }
}

/// What is to be added to a time of the kernel's monotonic clock, when it is now this long since 1970.
fn monotonic_epoch(now: Duration) -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = Duration::from_secs(time.tv_sec.unsigned_abs());
    now.saturating_sub(seconds + Duration::from_nanos(time.tv_nsec.unsigned_abs()))
}

async fn tell(mut source: Arrivals<Traced>, names: Names, packets: mpsc::Sender<TracedPacket>) {
    let mut lost = 0;
    while !packets.is_closed() {
        let each = |traced: &Traced| {
            let mut packet = names.packet(traced);
            packet.skipped += lost;
            lost = match packets.try_send(packet) {
                Ok(()) => 0,
                // Whoever reads is slower than the packets.
                Err(_) => lost + traced.skipped + 1,
            };
        };
        tokio::select! {
            drained = source.drain(each) => {
                if let Err(error) = drained {
                    return tracing::error!(%error, "packets are not read any more");
                }
            }
            () = packets.closed() => {}
        }
    }
}

impl Names {
    fn packet(&self, traced: &Traced) -> TracedPacket {
        let time = std::time::UNIX_EPOCH + self.epoch + Duration::from_nanos(traced.time);
        let name = |names: &BTreeMap<u32, String>, number: u32| {
            let id = number.checked_sub(1)?;
            Some(names.get(&id).cloned().unwrap_or_else(|| format!("id {id}")))
        };
        let interface = self.interfaces.get(&traced.interface).cloned();
        let verdict = Verdict::ALL.get(traced.verdict as usize).map_or("unknown", |v| v.name());
        let hook = Hook::ALL.get(traced.hook as usize).map_or("unknown", |hook| hook.name());
        let kept = |side: usize| {
            let bytes = &traced.bytes[side];
            hex(&bytes[..(traced.kept[side] as usize).min(bytes.len())])
        };
        TracedPacket {
            time: humantime::format_rfc3339_micros(time).to_string(),
            interface: interface.unwrap_or_else(|| format!("index {}", traced.interface)),
            hook: hook.to_owned(),
            verdict: verdict.to_owned(),
            service: name(&self.services, traced.service),
            backend: name(&self.backends, traced.backend),
            length: traced.lengths[0],
            hex: kept(0),
            out_length: traced.lengths[1],
            out_hex: kept(1),
            skipped: traced.skipped,
        }
    }
}
