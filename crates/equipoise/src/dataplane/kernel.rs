//! The kernel data plane: the packet programs and their maps.
//!
//! This file and its folder alone name `aya`. It loads, attaches, writes what steps say and reads
//! what the programs have counted; what should be where is decided elsewhere.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader};
use equipoise_common::value::{LAYOUT, Traffic};
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_core::config::AttachMode;
use equipoise_core::diff::Step;

use self::attach::{Attached, Place};
use self::pin::{Pins, refused};
use self::table::Tables;
use super::{DataPlane, Maps, StepError};

mod attach;
mod clsact;
mod flow;
mod pin;
mod run;
mod table;

pub use self::run::{Input, Output, Twin};

/// How to load.
pub struct Options<'a> {
    /// Names the pins: `/sys/fs/bpf/equipoise/INSTANCE`.
    pub instance: &'a str,
    /// Flows that each family's table holds.
    pub max_flows: u32,
    /// How TC programs are attached.
    pub tc: TcWay,
}

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcWay {
    /// By TCX links where the kernel has them (6.6), else by filters on a `clsact` qdisc.
    #[default]
    Newest,
    /// By filters on a `clsact` qdisc.
    Clsact,
}

/// What a device is like, as far as attaching depends on it.
pub struct Device<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its index.
    pub index: u32,
    /// Whether its driver has native XDP and it is hardware (or a paravirtual NIC), not a software device.
    pub native_xdp: bool,
    /// The id of the XDP program that hangs on it; none of ours before we attach.
    pub xdp_program: Option<u32>,
    /// The device's kind as the kernel names it (`veth`, `bridge`, ...); none for hardware.
    pub kind: Option<&'a str>,
}

/// How a device was attached, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// `xdp` or `tc`.
    pub hook: &'static str,
    /// `native`, `generic`, `tcx` or `clsact`.
    pub mode: &'static str,
    /// Why this one.
    pub reason: String,
}

/// One flow, as `flows` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRow {
    /// TCP or UDP, by IANA number.
    pub protocol: u32,
    /// The client.
    pub client: SocketAddr,
    /// What it connected to.
    pub vip: SocketAddr,
    /// Where it goes.
    pub backend_address: SocketAddr,
    /// Service id.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
    /// `opening`, `established`, `closing`, `one-way`, `two-way`.
    pub state: &'static str,
    /// Since it was opened.
    pub age: Duration,
    /// Since its last packet in either direction.
    pub idle: Duration,
    /// Packets and IP bytes from the client, packets and IP bytes to it.
    pub traffic: [u64; 4],
}

/// Why the programs could not be loaded or attached.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// One sentence, ready to be shown.
    #[error("{0}")]
    Refused(String),
}

/// The loaded data plane.
pub struct Kernel {
    ebpf: Ebpf,
    pins: Pins,
    tables: Tables,
    attached: BTreeMap<u32, Attached>,
    max_flows: u32,
    tc: TcWay,
}

impl Kernel {
    /// Loads the programs and makes their maps, pinned under the instance's name.
    ///
    /// What an earlier process of that name has left is removed first.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; with the verifier's own log where it was the verifier.
    pub fn load(options: &Options<'_>) -> Result<Self, KernelError> {
        if OBJECT.is_empty() {
            let advice = STUB.unwrap_or("this build has no kernel programs in it");
            return Err(KernelError::Refused(advice.to_owned()));
        }
        let pins = Pins::of(options.instance);
        if pins.exists() {
            tracing::info!(instance = options.instance, "replacing what an earlier process left");
            pins.remove()
                .map_err(|error| refused("removing what an earlier process left", &error))?;
        }
        pins.prepare()?;
        let loaded = open(&pins, options.max_flows, Dry::No).and_then(|mut ebpf| {
            let mut tables = Tables::take(&mut ebpf)?;
            tables.tag(LAYOUT)?;
            Ok((ebpf, tables))
        });
        match loaded {
            Ok((ebpf, tables)) => {
                let Options { max_flows, tc, .. } = *options;
                Ok(Self { ebpf, pins, tables, attached: BTreeMap::new(), max_flows, tc })
            }
            Err(error) => {
                if let Err(left) = pins.remove() {
                    tracing::warn!(error = %left, "pins of a failed start stay");
                }
                Err(error)
            }
        }
    }

    /// Runs the program of a hook on a packet that nobody sends; maps change as for a real one.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the frame or the interface.
    pub fn run(&self, hook: Hook, input: Input<'_>) -> Result<Output, KernelError> {
        run::run(&self.ebpf, hook, input)
    }

    /// Loads the programs once more on the same maps, to explain.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn twin(&self) -> Result<Twin, KernelError> {
        Twin::new(open(&self.pins, self.max_flows, Dry::Yes)?)
    }

    /// Removes what a process that is gone has left pinned under this instance's name; says if
    /// there was anything.
    ///
    /// # Errors
    ///
    /// When a pin cannot be removed.
    pub fn remove_left(instance: &str) -> Result<bool, KernelError> {
        let pins = Pins::of(instance);
        if !pins.exists() {
            return Ok(false);
        }
        pins.remove().map_err(|error| refused("removing pins", &error))?;
        Ok(true)
    }
}

impl DataPlane for Kernel {
    fn attach(&mut self, device: &Device<'_>, mode: AttachMode) -> Result<Attachment, KernelError> {
        // One that is there already has the names of its pins, and the one place of XDP.
        self.detach(device.index);
        let place = Place { pins: &self.pins, tc: self.tc };
        let (attached, attachment) = attach::attach(&mut self.ebpf, &place, device, mode)?;
        self.attached.insert(device.index, attached);
        Ok(attachment)
    }

    fn detach(&mut self, index: u32) {
        if let Some(attached) = self.attached.remove(&index) {
            attached.detach();
        }
    }

    fn allow_redirect(&mut self, index: u32, allowed: bool) -> Result<(), KernelError> {
        self.tables.allow_redirect(index, allowed)
    }

    fn verdicts(&self) -> Result<Vec<(Hook, Verdict, u64)>, KernelError> {
        self.tables.verdicts()
    }

    fn service_traffic(&self, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, KernelError> {
        self.tables.service_traffic(ids)
    }

    fn backend_traffic(&self, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, KernelError> {
        self.tables.backend_traffic(ids)
    }

    fn flows(&self, each: &mut dyn FnMut(FlowRow) -> bool) -> Result<(), KernelError> {
        let limit = entries(self.max_flows);
        if flow::walk(&self.tables.flows_v4, limit, each)? {
            flow::walk(&self.tables.flows_v6, limit, each)?;
        }
        Ok(())
    }

    fn keep(self) -> Result<(), KernelError> {
        Ok(())
    }

    fn remove(self) -> Result<(), KernelError> {
        for attached in self.attached.into_values() {
            attached.detach();
        }
        self.pins.remove().map_err(|error| refused("removing pins", &error))
    }
}

impl Maps for Kernel {
    fn apply(&mut self, step: &Step) -> Result<(), StepError> {
        self.tables.apply(step).map_err(|source| StepError { step: step.to_string(), source })
    }
}

/// The object with the packet programs; empty when it could not be built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/equipoise.o"));

/// What to do about an empty object; the build script has found out.
const STUB: Option<&str> = option_env!("EQUIPOISE_EBPF_STUB");

/// Whether the programs only explain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dry {
    /// They balance.
    No,
    /// They decide alike, change no map and leave their steps.
    Yes,
}

/// Each flow has an entry for either direction; and each CPU keeps free entries of the kernel's LRU
/// to itself, some hundred at a time, which count as used.
fn entries(max_flows: u32) -> u32 {
    const KEPT_BY_CPUS: u32 = 8_192;
    max_flows.saturating_mul(2).saturating_add(KEPT_BY_CPUS)
}

fn open(pins: &Pins, max_flows: u32, dry: Dry) -> Result<Ebpf, KernelError> {
    let dry = u8::from(dry == Dry::Yes);
    let paths: Vec<_> = MAPS.iter().map(|&name| (name, pins.map(name))).collect();
    let mut loader = EbpfLoader::new();
    loader
        .override_global("DRY", &dry, true)
        .map_max_entries("FLOWS_V4", entries(max_flows))
        .map_max_entries("FLOWS_V6", entries(max_flows));
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| load_error(&error))?;
    for name in [attach::XDP, attach::XDP_GENERIC, attach::IN, attach::OUT] {
        let program = ebpf
            .program_mut(name)
            .ok_or_else(|| refused("loading", &format!("no program {name}")))?;
        match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        }
        .map_err(|error| load_error(&error))?;
        if dry == 0 {
            program
                .pin(pins.program(name))
                .map_err(|error| refused(&format!("pinning {name}"), &error))?;
        }
    }
    Ok(ebpf)
}

/// Every map that is pinned, and so shared with the programs that only explain.
const MAPS: &[&str] = &[
    "LAYOUT",
    "SERVICES_V4",
    "SERVICES_V6",
    "POOLS",
    "SLOTS",
    "BACKENDS",
    "REDIRECTS",
    "FLOWS_V4",
    "FLOWS_V6",
    "VERDICTS",
    "SERVICE_TRAFFIC",
    "BACKEND_TRAFFIC",
    "STEPS",
];

fn load_error(error: &(dyn std::error::Error + 'static)) -> KernelError {
    let mut text = format!("the kernel does not take the packet programs: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    KernelError::Refused(text)
}
