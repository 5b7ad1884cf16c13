//! A whole data plane in memory: the maps of [`super::memory`], devices that can be attached to,
//! and flows and counters as a test sets them.
//!
//! With [`crate::host::simulated`] it runs the whole program without a kernel or privileges. Each
//! test has a handle by which it watches and changes the plane while the program has it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use equipoise_common::event::Event;
use equipoise_common::flow::count::Pressure;
use equipoise_common::trace::Wanted;
use equipoise_common::value::{Host, Shortcuts, Traffic};
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_core::config::AttachMode;
use equipoise_core::diff::{Found, Step};
use equipoise_core::id::Named;
use equipoise_core::plan::denies;
use tokio::sync::watch;

use super::kernel::{
    Attachment, Device, Entry, Events, Expiry, Explained, Farewell, FlowRow, KernelError,
    Occupancy, Part, Traces,
};
use super::memory::Memory;
use super::{DataPlane, Explainer, Maps, Moving, StepError};

/// What a simulated data plane holds.
#[derive(Clone, Debug, Default)]
pub struct Plane {
    /// The maps.
    pub memory: Memory,
    /// Names of the devices that programs hang on, by index.
    pub attached: BTreeMap<u32, String>,
    /// Devices that refuse programs, by name.
    pub refusing: BTreeSet<String>,
    /// How often it has been told by which sockets connections are taken up.
    pub listens: u64,
    /// Which devices take redirected frames.
    pub redirects: BTreeMap<u32, bool>,
    /// From which addresses packets are answered, by the device that they came by.
    pub hosts: BTreeMap<u32, Host>,
    /// Whether next hops may be kept.
    pub shortcuts: Shortcuts,
    /// The flow table.
    pub flows: Vec<FlowRow>,
    /// Flows that packets in flight open before the next grace is over.
    pub in_flight: Vec<FlowRow>,
    /// How long backends take to answer a SYN, by id.
    pub handshakes: BTreeMap<u32, Duration>,
    /// What became of flows under pressure.
    pub pressures: Vec<(Pressure, u64)>,
    /// How flows that were ended by hand were said goodbye to.
    pub farewells: Vec<Farewell>,
    /// What the next sweep has to tell.
    pub told: Vec<Event>,
    /// Sweeps over the flow table so far.
    pub sweeps: u64,
    /// The packets counted.
    pub verdicts: Vec<(Hook, Verdict, u64)>,
    /// Whether counters are refused to who reads them.
    pub unreadable: bool,
    /// Flows that its table holds; 0 for as many as a configuration has that says nothing.
    pub max_flows: u32,
    /// Whether flows are being carried over to a table of that size.
    pub is_resizing: bool,
    /// Why it takes no other size.
    pub no_other_size: Option<String>,
    /// Flows for which there is no room in a table of another size.
    pub crowded: u64,
    /// Whether packets go on as they have come.
    pub observes: bool,
    /// Which packets are told of.
    pub traced: Option<Wanted>,
    /// What has become of it; none while it is in use.
    pub end: Option<End>,
}

/// What a configuration has that says nothing of flows.
const MAX_FLOWS: u32 = 1_000_000;

/// What has become of a data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It stays in force.
    Kept,
    /// Everything is gone.
    Removed,
}

/// A data plane in memory.
#[derive(Debug)]
pub struct Simulated {
    plane: watch::Sender<Plane>,
    /// Whether there was something before.
    has_inherited: bool,
}

impl Simulated {
    /// A data plane and the handle by which a test watches and changes it.
    pub fn new(plane: Plane) -> (Self, watch::Sender<Plane>) {
        let (plane, _) = watch::channel(plane);
        (Self { plane: plane.clone(), has_inherited: false }, plane)
    }

    /// The data plane of a process that is gone, as another takes it over.
    pub fn left(plane: &watch::Sender<Plane>) -> Self {
        Self { plane: plane.clone(), has_inherited: true }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Plane) -> T) -> T {
        let mut answer = None;
        self.plane.send_modify(|plane| answer = Some(f(plane)));
        answer.expect("send_modify calls its argument")
    }
}

impl Maps for Simulated {
    fn apply(&mut self, step: &Step) -> Result<(), StepError> {
        self.with(|plane| {
            if *step == Step::Grace {
                plane.flows.append(&mut plane.in_flight);
            }
            plane.memory.apply(step)
        })
    }
}

impl DataPlane for Simulated {
    fn attach(&mut self, device: &Device<'_>, mode: AttachMode) -> Result<Attachment, KernelError> {
        self.with(|plane| {
            if plane.refusing.contains(device.name) {
                return Err(KernelError::Refused(format!("{} refuses", device.name)));
            }
            plane.attached.insert(device.index, device.name.to_owned());
            let (hook, attached) = match mode {
                AttachMode::Auto if device.native_xdp => ("xdp", "native"),
                AttachMode::Xdp => ("xdp", "native"),
                AttachMode::XdpGeneric => ("xdp", "generic"),
                AttachMode::Auto | AttachMode::Tc => ("tc", "tcx"),
            };
            Ok(Attachment { hook, mode: attached, reason: "simulated".to_owned() })
        })
    }

    fn detach(&mut self, index: u32) {
        self.with(|plane| plane.attached.remove(&index));
    }

    fn listen_by(&mut self, _listeners: [BorrowedFd<'_>; 2]) -> Result<(), KernelError> {
        self.with(|plane| plane.listens += 1);
        Ok(())
    }

    fn allow_redirect(&mut self, index: u32, allowed: bool) -> Result<(), KernelError> {
        self.with(|plane| plane.redirects.insert(index, allowed));
        Ok(())
    }

    fn allow_shortcuts(&mut self, shortcuts: Shortcuts) -> Result<(), KernelError> {
        self.with(|plane| plane.shortcuts = shortcuts);
        Ok(())
    }

    fn answer_from(&mut self, index: u32, host: Option<Host>) -> Result<(), KernelError> {
        self.with(|plane| match host {
            Some(host) => plane.hosts.insert(index, host),
            None => plane.hosts.remove(&index),
        });
        Ok(())
    }

    fn verdicts(&self) -> Result<Vec<(Hook, Verdict, u64)>, KernelError> {
        let plane = self.plane.borrow();
        if plane.unreadable {
            return Err(KernelError::Refused("counters are not to be read".to_owned()));
        }
        Ok(plane.verdicts.clone())
    }

    fn service_traffic(&self, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, KernelError> {
        Ok(self
            .with(|plane| ids.iter().map(|&id| (id, *plane.memory.service_traffic(id))).collect()))
    }

    fn backend_traffic(&self, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, KernelError> {
        Ok(self
            .with(|plane| ids.iter().map(|&id| (id, *plane.memory.backend_traffic(id))).collect()))
    }

    fn flows(&self, each: &mut dyn FnMut(FlowRow) -> bool) -> Result<(), KernelError> {
        let flows = self.plane.borrow().flows.clone();
        let _: bool = flows.into_iter().all(each);
        Ok(())
    }

    fn sweep(&mut self, _part: Part) -> Expiry {
        self.with(|plane| {
            plane.sweeps += 1;
            Expiry { events: std::mem::take(&mut plane.told), ..Expiry::default() }
        })
    }

    fn cut_denied(&mut self) -> Expiry {
        let cut = self.with(|plane| {
            let before = plane.flows.len();
            let access = &plane.memory.contents().access;
            plane.flows.retain(|flow| !denies(access, flow.service, flow.client.ip()));
            before - plane.flows.len()
        });
        Expiry { cut: cut as u64, ..Expiry::default() }
    }

    fn end_flows(
        &mut self,
        wanted: &mut dyn FnMut(&FlowRow) -> bool,
        farewell: Farewell,
    ) -> Expiry {
        let cut = self.with(|plane| {
            let before = plane.flows.len();
            plane.flows.retain(|flow| !wanted(flow));
            plane.farewells.push(farewell);
            before - plane.flows.len()
        });
        Expiry { cut: cut as u64, ..Expiry::default() }
    }

    fn occupancy(&self) -> Occupancy {
        let plane = self.plane.borrow();
        let confirmed = plane.flows.iter().filter(|f| matches!(f.state, "established" | "two-way"));
        let live = plane.flows.len() as u64;
        let v6 = plane.flows.iter().filter(|flow| flow.client.is_ipv6()).count() as u64;
        let confirmed = confirmed.count() as u64;
        Occupancy {
            live,
            confirmed,
            memory: 0,
            to_be_carried: if plane.is_resizing { plane.crowded } else { 0 },
            is_carrying: plane.is_resizing,
            by_family: [live - v6, v6],
        }
    }

    fn map_memory(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }

    fn live_flows(&self, backend: u32) -> u64 {
        self.plane.borrow().flows.iter().filter(|flow| flow.backend == backend).count() as u64
    }

    fn open_flows(&self, backend: u32) -> u64 {
        let plane = self.plane.borrow();
        let goes_on = |flow: &&FlowRow| flow.backend == backend && flow.state != "closing";
        plane.flows.iter().filter(goes_on).count() as u64
    }

    fn handshake(&self, backend: u32) -> Option<Duration> {
        self.plane.borrow().handshakes.get(&backend).copied()
    }

    fn named(&self) -> Named {
        let plane = self.plane.borrow();
        Named {
            services: plane.flows.iter().map(|flow| flow.service).collect(),
            backends: plane.flows.iter().map(|flow| flow.backend).collect(),
        }
    }

    fn pressures(&self) -> Result<Vec<(Pressure, u64)>, KernelError> {
        Ok(self.plane.borrow().pressures.clone())
    }

    fn explainer(&self) -> Result<Explainer, KernelError> {
        Ok(Box::new(|entry, input| {
            // As without services. The kernel runs no TC program on less than an IP header.
            if entry != Entry::Xdp && input.frame.len() < 14 + 20 {
                return Err(KernelError::Refused("the frame is too short".to_owned()));
            }
            let verdict = Verdict::NoService;
            Ok(Explained {
                action: "pass",
                verdict,
                frame: input.frame.to_vec(),
                steps: Vec::new(),
            })
        }))
    }

    fn events(&mut self) -> Result<Option<Events>, KernelError> {
        Ok(None)
    }

    fn found(&mut self) -> Result<Option<Found>, KernelError> {
        Ok(self.has_inherited.then(|| self.plane.borrow().memory.found()))
    }

    fn given_up(&self) -> Option<&str> {
        None
    }

    fn conclude(&mut self) -> Result<(), KernelError> {
        Ok(())
    }

    fn abandon(self) -> Result<(), KernelError> {
        if self.has_inherited { self.keep() } else { self.remove() }
    }

    fn reclaim(&mut self) -> Result<Found, KernelError> {
        Ok(self.plane.borrow().memory.found())
    }

    fn observe(&mut self, observes: bool) -> Result<bool, KernelError> {
        self.with(|plane| {
            let changes = plane.observes != observes;
            plane.observes = observes;
            if changes {
                plane.attached.clear();
            }
            Ok(changes)
        })
    }

    fn trace(&mut self, wanted: Option<&Wanted>) -> Result<Option<Traces>, KernelError> {
        self.with(|plane| {
            plane.attached.clear();
            plane.traced = wanted.copied();
        });
        Ok(None)
    }

    fn max_flows(&self) -> u32 {
        let wanted = self.plane.borrow().max_flows;
        if wanted == 0 { MAX_FLOWS } else { wanted }
    }

    fn resize(&mut self, max_flows: u32) -> Result<(), KernelError> {
        self.with(|plane| match &plane.no_other_size {
            Some(reason) => Err(KernelError::Refused(reason.clone())),
            None => {
                (plane.max_flows, plane.is_resizing) = (max_flows, true);
                Ok(())
            }
        })
    }

    fn carry_over(&mut self) -> Result<Moving, KernelError> {
        let plane = self.plane.borrow();
        Ok(match (plane.is_resizing, plane.crowded) {
            (false, _) => Moving::Nothing,
            (true, 0) => Moving::Done,
            (true, _) => Moving::Waiting,
        })
    }

    fn take_new_tables(&mut self) -> Result<(), KernelError> {
        self.with(|plane| {
            plane.attached.clear();
            plane.is_resizing = false;
        });
        Ok(())
    }

    fn keep(self) -> Result<(), KernelError> {
        self.with(|plane| plane.end = Some(End::Kept));
        Ok(())
    }

    fn remove(self) -> Result<(), KernelError> {
        self.with(|plane| {
            plane.attached.clear();
            plane.end = Some(End::Removed);
        });
        Ok(())
    }
}
