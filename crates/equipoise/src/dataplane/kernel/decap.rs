//! The programs that decapsulate, in the kernel: loading, attaching, their maps, their counters.
//!
//! They are held by this process and end with it: nothing is pinned, except on kernels before 6.6, where TC has
//! filters instead of links, whose marks say what a process that died has left. What should be in the maps
//! is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData, MapError, PerCpuArray};
use aya::programs::links::FdLink;
use aya::programs::tc::{TcAttachOptions, TcAttachType};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use equipoise_common::decap::{Interface, Place, Verdict, Vip};
use equipoise_common::key::Be16;
use equipoise_common::verdict::Hook;
use equipoise_core::config::AttachMode;

use super::attach::{Cause, errno, is_busy, root, why_not, without_xdp};
use super::counter::by_hook;
use super::load::{load, load_error, verified};
use super::object::has_programs;
use super::pin::{self, Pins, refused};
use super::run::{Input, Output, Runner};
use super::table::{is_missing, typed};
use super::{Attachment, Device, KernelError, TcWay, clsact};

/// The object; empty when it could not be built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/decap.o"));

const XDP: &str = "decap_xdp";
const IN: &str = "decap_in";
const OUT: &str = "decap_out";
/// All programs.
const PROGRAMS: [&str; 3] = [XDP, IN, OUT];

/// How to load.
pub struct Options<'a> {
    /// Names what a process that died may have left on kernels before 6.6.
    pub name: &'a str,
    /// The UDP port of GUE.
    pub port: u16,
    /// From whom encapsulated packets are taken.
    pub from: From,
    /// How TC programs are attached.
    pub tc: TcWay,
}

/// From whom encapsulated packets are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// From anybody.
    Anybody,
    /// From the prefixes in the tables.
    Sources,
}

/// Whether packets are looked at on their way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// They are: those that open connections of VIPs.
    Clamped,
    /// They are not.
    Untouched,
}

/// What is to be in the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Interfaces that programs hang on, by index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Addresses that encapsulated packets come to, by interface.
    pub own: BTreeSet<Place>,
    /// Addresses that inner packets are for.
    pub vips: BTreeMap<Place, Vip>,
    /// Prefixes that outer sources must be in: bits, and what they are of.
    pub sources: BTreeSet<(u32, [u32; 5])>,
}

/// The loaded programs.
pub struct Decap {
    ebpf: Ebpf,
    pins: Pins,
    tc: TcWay,
    attached: BTreeMap<u32, Links>,
    /// What is known to be in the maps.
    applied: Tables,
    interfaces: HashMap<MapData, u32, Interface>,
    own: HashMap<MapData, Place, u32>,
    vips: HashMap<MapData, Place, Vip>,
    sources: LpmTrie<MapData, [u32; 5], u32>,
    verdicts: PerCpuArray<MapData, u64>,
}

/// What hangs on one device, in the order in which it was attached.
struct Links {
    name: String,
    held: Vec<FdLink>,
    marks: Vec<PathBuf>,
}

impl Drop for Links {
    fn drop(&mut self) {
        for mark in self.marks.iter().rev() {
            if let Err(error) = pin::release(mark) {
                tracing::warn!(interface = self.name, %error, "a program could not be taken off");
            }
        }
    }
}

impl Decap {
    /// Loads the programs, with empty maps.
    ///
    /// What a process of that name has left is removed first.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; with the verifier's own log where it was the verifier.
    pub fn load(options: &Options<'_>) -> Result<Self, KernelError> {
        has_programs(OBJECT)?;
        Self::remove_left(options.name)?;
        let port = Be16::new(options.port).0;
        let from_anybody = u8::from(options.from == From::Anybody);
        let mut ebpf = EbpfLoader::new()
            .override_global("PORT", &port, true)
            .override_global("FROM_ANYBODY", &from_anybody, true)
            .load(OBJECT)
            .map_err(|error| load_error(&error))?;
        for name in PROGRAMS {
            load(&mut ebpf, name)?;
        }
        Ok(Self {
            pins: Pins::of_decap(options.name),
            tc: options.tc,
            attached: BTreeMap::new(),
            applied: Tables::default(),
            interfaces: typed(&mut ebpf, "INTERFACES")?,
            own: typed(&mut ebpf, "OWN")?,
            vips: typed(&mut ebpf, "VIPS")?,
            sources: typed(&mut ebpf, "SOURCES")?,
            verdicts: typed(&mut ebpf, "VERDICTS")?,
            ebpf,
        })
    }

    /// Removes the filters that a process of this name has left, which died on a kernel before 6.6; says if there were
    /// any.
    ///
    /// # Errors
    ///
    /// When one cannot be removed.
    pub fn remove_left(name: &str) -> Result<bool, KernelError> {
        let pins = Pins::of_decap(name);
        if !pins.exists() {
            return Ok(false);
        }
        pins.remove().map_err(|error| refused("removing what an earlier process left", &error))?;
        Ok(true)
    }

    /// Makes the maps what `tables` says. What is new is there before what is old goes.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an entry; those before it stay, and the next call goes on from there.
    pub fn apply(&mut self, tables: &Tables) -> Result<(), KernelError> {
        self.add(tables)
            .and_then(|()| self.remove(tables))
            .map_err(|(what, error)| refused(&format!("writing {what}"), &root(&error)))
    }

    fn add(&mut self, tables: &Tables) -> Result<(), (&'static str, MapError)> {
        let Self { applied, .. } = self;
        for (&index, &interface) in &tables.interfaces {
            if applied.interfaces.get(&index) != Some(&interface) {
                self.interfaces.insert(index, interface, 0).map_err(|e| ("interfaces", e))?;
                applied.interfaces.insert(index, interface);
            }
        }
        for &place in tables.own.difference(&applied.own.clone()) {
            self.own.insert(place, 1, 0).map_err(|e| ("own addresses", e))?;
            applied.own.insert(place);
        }
        for (&place, &vip) in &tables.vips {
            if applied.vips.get(&place) != Some(&vip) {
                self.vips.insert(place, vip, 0).map_err(|e| ("VIPs", e))?;
                applied.vips.insert(place, vip);
            }
        }
        for &(bits, of) in tables.sources.difference(&applied.sources.clone()) {
            self.sources.insert(&Key::new(bits, of), 1, 0).map_err(|e| ("sources", e))?;
            applied.sources.insert((bits, of));
        }
        Ok(())
    }

    /// Sources do not change while a process runs.
    fn remove(&mut self, tables: &Tables) -> Result<(), (&'static str, MapError)> {
        let Self { applied, .. } = self;
        let gone = |result: Result<(), MapError>| match result {
            Err(error) if !is_missing(&error) => Err(error),
            _ => Ok(()),
        };
        for place in applied.vips.keys().copied().collect::<Vec<_>>() {
            if !tables.vips.contains_key(&place) {
                gone(self.vips.remove(&place)).map_err(|e| ("VIPs", e))?;
                applied.vips.remove(&place);
            }
        }
        for place in applied.own.difference(&tables.own).copied().collect::<Vec<_>>() {
            gone(self.own.remove(&place)).map_err(|e| ("own addresses", e))?;
            applied.own.remove(&place);
        }
        for index in applied.interfaces.keys().copied().collect::<Vec<_>>() {
            if !tables.interfaces.contains_key(&index) {
                gone(self.interfaces.remove(&index)).map_err(|e| ("interfaces", e))?;
                applied.interfaces.remove(&index);
            }
        }
        Ok(())
    }

    /// Hangs the programs on a device.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; nothing hangs there then.
    pub fn attach(
        &mut self,
        device: &Device<'_>,
        mode: AttachMode,
        egress: Egress,
    ) -> Result<Attachment, KernelError> {
        self.detach(device.index);
        let name = device.name.to_owned();
        let mut links = Links { name, held: Vec::new(), marks: Vec::new() };
        if egress == Egress::Clamped {
            self.tc(device, TcAttachType::Egress, &mut links)?;
        }
        let attachment = self.incoming(device, mode, &mut links)?;
        self.attached.insert(device.index, links);
        Ok(attachment)
    }

    /// Takes the programs off the device with this index.
    pub fn detach(&mut self, index: u32) {
        self.attached.remove(&index);
    }

    fn incoming(
        &mut self,
        device: &Device<'_>,
        mode: AttachMode,
        links: &mut Links,
    ) -> Result<Attachment, KernelError> {
        let reason = match mode {
            AttachMode::Xdp | AttachMode::XdpGeneric => {
                let (flag, mode) = if mode == AttachMode::Xdp {
                    (XdpMode::Driver, "native")
                } else {
                    (XdpMode::Skb, "generic")
                };
                self.xdp(device, flag, links).map_err(|error| why_not(device, &error))?;
                return Ok(Attachment { hook: "xdp", mode, reason: "asked for".to_owned() });
            }
            AttachMode::Tc => "asked for".to_owned(),
            AttachMode::Auto if device.native_xdp => {
                match self.xdp(device, XdpMode::Driver, links) {
                    Ok(()) => {
                        let reason = "the driver has XDP".to_owned();
                        return Ok(Attachment { hook: "xdp", mode: "native", reason });
                    }
                    Err(error) if is_busy(&error) => "it has an XDP program already".to_owned(),
                    Err(error) => format!("the driver refused XDP: {}", root(error.as_ref())),
                }
            }
            AttachMode::Auto => without_xdp(device),
        };
        let mode = self.tc(device, TcAttachType::Ingress, links)?;
        Ok(Attachment { hook: "tc", mode, reason })
    }

    fn xdp(&mut self, device: &Device<'_>, mode: XdpMode, links: &mut Links) -> Result<(), Cause> {
        let program: &mut Xdp =
            self.ebpf.program_mut(XDP).ok_or(ProgramError::NotLoaded)?.try_into()?;
        let id = program.attach_to_if_index(device.index, mode)?;
        links.held.push(FdLink::try_from(program.take_link(id)?)?);
        Ok(())
    }

    fn tc(
        &mut self,
        device: &Device<'_>,
        hook: TcAttachType,
        links: &mut Links,
    ) -> Result<&'static str, KernelError> {
        let name = if hook == TcAttachType::Ingress { IN } else { OUT };
        let attached = (|| -> Result<_, Cause> {
            let program: &mut SchedClassifier =
                self.ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()?;
            if self.tc == TcWay::Newest {
                let options = TcAttachOptions::TcxOrder(LinkOrder::default());
                match program.attach_with_options(device.name, hook, options) {
                    Ok(id) => {
                        links.held.push(FdLink::try_from(program.take_link(id)?)?);
                        return Ok("tcx");
                    }
                    Err(error) => {
                        let error = Cause::from(error);
                        // Kernels before 6.6 do not know this kind of link.
                        if errno(&error) != Some(libc::EINVAL) {
                            return Err(error);
                        }
                    }
                }
            }
            self.pins.prepare()?;
            let marks = clsact::attach(program, &self.pins, (device.name, device.index), hook)?;
            links.marks.extend(marks.into_iter().map(|mark| mark.path));
            Ok("clsact")
        })();
        attached.map_err(|error| {
            refused(&format!("attaching TC to {}", device.name), &root(error.as_ref()))
        })
    }

    /// Packets by hook and verdict.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn verdicts(&self) -> Result<Vec<(Hook, Verdict, u64)>, KernelError> {
        by_hook(&self.verdicts, Verdict::ALL, |hook, verdict| verdict.counter(hook))
    }

    /// Runs the program of a hook on a packet that nobody sends; it is counted as a real one.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the frame or the interface.
    pub fn run(&self, hook: Hook, input: Input<'_>) -> Result<Output, KernelError> {
        let name = match hook {
            Hook::Xdp => XDP,
            Hook::Ingress => IN,
            Hook::Egress => OUT,
        };
        let failed = |error: &dyn std::fmt::Display| refused(&format!("running {name}"), error);
        let program = self.ebpf.program(name).ok_or_else(|| failed(&"no such program"))?;
        let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(|e| failed(&e))?;
        Runner::new(hook, fd).run(input)
    }

    /// Instructions that the verifier has gone through for each program, by its name in the object.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub fn verified(&self) -> Result<BTreeMap<String, u32>, KernelError> {
        verified(&self.ebpf, &PROGRAMS)
    }
}

impl Drop for Decap {
    fn drop(&mut self) {
        self.attached.clear();
        if self.pins.exists()
            && let Err(error) = self.pins.remove()
        {
            tracing::warn!(%error, "marks of filters stay");
        }
    }
}
