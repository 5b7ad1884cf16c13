//! Which hook a device gets, and hanging the programs there.
//!
//! `auto` takes XDP in the driver on hardware and TC everywhere else: packets that were born on
//! the same host (veth, tap, bridges) have checksums that are not computed yet and may stand for
//! many packets, which only TC knows of. TC is there beside native XDP too, for what it cannot send,
//! and at egress for the replies that the stack sends. Every way ends in links that are pinned, so that packets
//! flow on when this process dies.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{TcAttachOptions, TcAttachType};
use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, SkLookup, Xdp, XdpMode, loaded_programs,
};
use aya_obj::programs::xdp::XdpAttachType;
use equipoise_core::config::AttachMode;

use super::listen::{self, TAKE};
use super::pin::{self, Pins, refused};
use super::{Attachment, Device, KernelError, TcWay, clsact, tcx};

/// The programs' names in the object.
pub(super) const XDP: &str = "equipoise_xdp";
pub(super) const XDP_GENERIC: &str = "equipoise_xdpg";
pub(super) const IN: &str = "equipoise_in";
pub(super) const OUT: &str = "equipoise_out";
/// Whatever stopped an attachment.
pub(super) type Cause = Box<dyn std::error::Error>;

/// Where and how programs are attached.
pub(super) struct Place<'a> {
    pub(super) pins: &'a Pins,
    pub(super) tc: TcWay,
}

/// What stands for a program on a device, or on the network namespace.
pub(super) struct Link {
    /// Where it is pinned.
    pub(super) path: PathBuf,
    /// Whether nothing hung there before; else an earlier process's program has given its place.
    pub(super) is_new: bool,
}

/// The links of one device.
pub(super) struct Attached {
    /// In the order in which they were attached.
    pub(super) links: Vec<Link>,
    name: String,
}

impl Attached {
    /// Takes the programs off.
    pub(super) fn detach(self) {
        self.take_off(|_| true);
    }

    /// Takes off what was not there before.
    pub(super) fn take_off_new(&self) {
        self.take_off(|link| link.is_new);
    }

    fn take_off(&self, which: impl Fn(&Link) -> bool) {
        for link in self.links.iter().rev().filter(|link| which(link)) {
            if let Err(error) = pin::release(&link.path) {
                tracing::warn!(interface = self.name, %error, "a program could not be taken off");
            }
        }
    }
}

/// Hangs the programs on `device`.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    place: &Place<'_>,
    device: &Device<'_>,
    mode: AttachMode,
) -> Result<(Attached, Attachment), KernelError> {
    let mut attached = Attached { links: Vec::new(), name: device.name.to_owned() };
    // TC first: it takes up what XDP leaves.
    let result = (|| {
        let (links, mut tc_mode) = tc(ebpf, place, device, TcAttachType::Egress)?;
        attached.links.extend(links);
        if mode != AttachMode::XdpGeneric {
            let (links, mode) = tc(ebpf, place, device, TcAttachType::Ingress)?;
            attached.links.extend(links);
            tc_mode = mode;
        }
        let attachment = incoming(ebpf, place.pins, device, mode, &mut attached)?;
        Ok(attachment.unwrap_or_else(|reason| Attachment { hook: "tc", mode: tc_mode, reason }))
    })();
    match result {
        Ok(mut attachment) => {
            release_others(place.pins, device, &attached);
            for instance in beside(place.pins, device) {
                attachment.reason += &format!("; instance {instance:?} has programs there, too");
            }
            Ok((attached, attachment))
        }
        Err(error) => {
            attached.take_off_new();
            Err(error)
        }
    }
}

/// Takes off what an earlier process has hung on the device and we have not taken over.
fn release_others(pins: &Pins, device: &Device<'_>, attached: &Attached) {
    let all = pins.links_of(device.index).unwrap_or_default();
    let is_other = |path: &&PathBuf| attached.links.iter().all(|link| link.path != **path);
    for path in all.iter().filter(is_other) {
        if let Err(error) = pin::release(path) {
            let (interface, path) = (device.name, path.display());
            tracing::warn!(interface, %path, %error, "what an earlier process has left stays");
        }
    }
}

/// Puts the programs that are pinned in these places into what stands for an attachment, in place of those that hang there. Where there is
/// none for its hook, nothing changes.
pub(super) fn put(place: &dyn Fn(&str) -> PathBuf, link: &Path) -> Result<(), Cause> {
    let what = link.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let hook = clsact::hook_of(link);
    let name = match (hook, what.split('-').next()) {
        (Some(TcAttachType::Ingress), _) | (None, Some("in")) => IN,
        (Some(_), _) | (None, Some("out")) => OUT,
        (None, Some("xdp")) => XDP,
        (None, Some("xdpg")) => XDP_GENERIC,
        (None, Some(pin::OF_NAMESPACE)) => TAKE,
        _ => return Ok(()),
    };
    let program = place(name);
    if !program.exists() {
        return Ok(());
    }
    if hook.is_some() {
        return clsact::put_back(&mut SchedClassifier::from_pin(program)?, link);
    }
    if name == TAKE {
        return listen::replace(&SkLookup::from_pin(program)?, link);
    }
    let standing = FdLink::from(PinnedLink::from_pin(link)?);
    match name {
        XDP | XDP_GENERIC => {
            let mut program = Xdp::from_pin(program, XdpAttachType::Interface)?;
            program.attach_to_link(standing.try_into()?)?;
        }
        _ => {
            let mut program = SchedClassifier::from_pin(program)?;
            program.attach_to_link(standing.try_into()?)?;
        }
    }
    Ok(())
}

/// Whether the device is there that a pin among the links is about.
pub(super) fn has_device(link: &Path) -> bool {
    let name = link.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let index = name.rsplit('-').next().and_then(|index| index.parse().ok());
    index.is_some_and(|index| clsact::device_name(index).is_some())
}

/// How programs of an earlier process hang on a device.
pub(super) fn as_it_hangs(pins: &Pins, device: &Device<'_>) -> Attachment {
    let has = |what| pins.link(what, device.index).exists();
    let filters = || {
        let links = pins.links_of(device.index).unwrap_or_default();
        links.iter().any(|link| clsact::hook_of(link) == Some(TcAttachType::Ingress))
    };
    let (hook, mode) = match () {
        () if has("xdp") => ("xdp", "native"),
        () if has("xdpg") => ("xdp", "generic"),
        () if has("in") => ("tc", "tcx"),
        () if filters() => ("tc", "clsact"),
        () => ("none", "none"),
    };
    let reason = "as before, until all flows have been carried over".to_owned();
    Attachment { hook, mode, reason }
}

/// The link that is pinned there, if its program is where it is to be; one of what has gone is removed.
pub(super) fn standing(path: &Path, is_on: impl Fn(u32) -> bool) -> Option<FdLink> {
    if !path.exists() {
        return None;
    }
    let link = PinnedLink::from_pin(path).map(FdLink::from);
    let found = link.ok().filter(|link| link.info().is_ok_and(|info| is_on(info.program_id())));
    if found.is_none()
        && let Err(error) = pin::release(path)
    {
        tracing::warn!(path = %path.display(), %error, "an old pin stays");
    }
    found
}

/// Hangs the XDP program on the device if it is to have one; else says why TC has it alone.
fn incoming(
    ebpf: &mut Ebpf,
    pins: &Pins,
    device: &Device<'_>,
    mode: AttachMode,
    attached: &mut Attached,
) -> Result<Result<Attachment, String>, KernelError> {
    let reason = match mode {
        AttachMode::Xdp => {
            let link = xdp(ebpf, pins, device, XdpMode::Driver)
                .map_err(|error| why_not(device, &error))?;
            return Ok(Ok(attached.xdp(link, "native", "asked for")));
        }
        AttachMode::XdpGeneric => {
            let link =
                xdp(ebpf, pins, device, XdpMode::Skb).map_err(|error| why_not(device, &error))?;
            return Ok(Ok(attached.xdp(link, "generic", "asked for")));
        }
        AttachMode::Tc => "asked for".to_owned(),
        AttachMode::Auto if device.native_xdp => match xdp(ebpf, pins, device, XdpMode::Driver) {
            Ok(link) => return Ok(Ok(attached.xdp(link, "native", "the driver has XDP"))),
            Err(error) if is_busy(&error) => taken(device),
            Err(error) => format!("the driver refused XDP: {}", root(error.as_ref())),
        },
        AttachMode::Auto => {
            let others = device.xdp_program.filter(|&id| !is_ours(pins, device.index, id));
            without_xdp(&Device { xdp_program: others, ..*device })
        }
    };
    Ok(Err(reason))
}

/// That somebody else has the one place of XDP, and who, where that can be told.
fn taken(device: &Device<'_>) -> String {
    let told = "it has an XDP program already";
    match device.xdp_program.and_then(name_of) {
        Some(name) => format!("{told}, {name}"),
        None => told.to_owned(),
    }
}

/// Other instances whose programs are on the device's way in: of packets for both, who was there first has them.
fn beside(pins: &Pins, device: &Device<'_>) -> BTreeSet<String> {
    let there = tcx::programs(device.index, TcAttachType::Ingress).unwrap_or_default();
    let mut instances: BTreeSet<String> =
        there.into_iter().chain(device.xdp_program).filter_map(pin::instance_of).collect();
    instances.retain(|instance| !pins.is_of(instance));
    instances
}

/// Whether an earlier process of ours has hung this program on the device.
fn is_ours(pins: &Pins, interface: u32, program: u32) -> bool {
    ["xdp", "xdpg"].iter().any(|what| {
        let link = PinnedLink::from_pin(pins.link(what, interface)).map(FdLink::from);
        link.is_ok_and(|link| link.info().is_ok_and(|info| info.program_id() == program))
    })
}

/// Why a device has no XDP of ours where nobody has asked for it.
pub(super) fn without_xdp(device: &Device<'_>) -> String {
    if device.xdp_program.is_some() {
        return taken(device);
    }
    match device.kind {
        Some(kind) => format!("a {kind} device carries packets of this host"),
        None if device.name == "lo" => {
            "the loopback device carries packets of this host".to_owned()
        }
        None => "the driver has no XDP".to_owned(),
    }
}

impl Attached {
    fn xdp(&mut self, link: Link, mode: &'static str, reason: &str) -> Attachment {
        self.links.push(link);
        Attachment { hook: "xdp", mode, reason: reason.to_owned() }
    }
}

fn xdp(ebpf: &mut Ebpf, pins: &Pins, device: &Device<'_>, mode: XdpMode) -> Result<Link, Cause> {
    let ways = [(XDP, "xdp"), (XDP_GENERIC, "xdpg")];
    let [(name, what), (_, other)] =
        if matches!(mode, XdpMode::Skb) { [ways[1], ways[0]] } else { ways };
    let program: &mut Xdp = ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()?;
    let path = pins.link(what, device.index);
    if let Some(link) = standing(&path, |program| device.xdp_program == Some(program)) {
        let id = program.attach_to_link(link.try_into()?)?;
        drop(program.take_link(id)?);
        return Ok(Link { path, is_new: false });
    }
    let other = pins.link(other, device.index);
    if other.exists() {
        // It has the one place of XDP; TC has its packets meanwhile.
        pin::release(&other)?;
    }
    let id = program.attach_to_if_index(device.index, mode)?;
    let link = program.take_link(id)?;
    // Where links are refused aya falls back to netlink, whose attachments cannot be pinned: the
    // conversion fails then, and the attachment goes with the link.
    let link = FdLink::try_from(link)?;
    Ok(pinned(link, path)?)
}

/// Hangs a program on a side of TC; gives what stands for that among the pins, and how it hangs.
fn tc(
    ebpf: &mut Ebpf,
    place: &Place<'_>,
    device: &Device<'_>,
    hook: TcAttachType,
) -> Result<(Vec<Link>, &'static str), KernelError> {
    let name = if hook == TcAttachType::Ingress { IN } else { OUT };
    let attached = (|| -> Result<_, Cause> {
        let program: &mut SchedClassifier =
            ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()?;
        if place.tc == TcWay::Newest {
            match by_link(program, place.pins, device, hook) {
                Ok(link) => return Ok((vec![link], "tcx")),
                // Kernels before 6.6 do not know this kind of link.
                Err(error) if errno(&error) == Some(libc::EINVAL) => {}
                Err(error) => return Err(error),
            }
        }
        let marks = clsact::attach(program, place.pins, (device.name, device.index), hook)?;
        Ok((marks, "clsact"))
    })();
    attached.map_err(|error| {
        refused(&format!("attaching TC to {}", device.name), &root(error.as_ref()))
    })
}

fn by_link(
    program: &mut SchedClassifier,
    pins: &Pins,
    device: &Device<'_>,
    hook: TcAttachType,
) -> Result<Link, Cause> {
    let path = pins.link(if hook == TcAttachType::Ingress { "in" } else { "out" }, device.index);
    // What cannot be told is not there: attaching says why.
    let there = tcx::programs(device.index, hook).unwrap_or_default();
    if let Some(link) = standing(&path, |id| there.contains(&id)) {
        let id = program.attach_to_link(link.try_into()?)?;
        drop(program.take_link(id)?);
        return Ok(Link { path, is_new: false });
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(device.name, hook, options)?;
    let link = FdLink::try_from(program.take_link(id)?)?;
    Ok(pinned(link, path)?)
}

pub(super) fn pinned(link: FdLink, path: PathBuf) -> Result<Link, aya::pin::PinError> {
    // The pin holds the link from here on.
    link.pin(&path).map(|_| Link { path, is_new: true })
}

pub(super) fn why_not(device: &Device<'_>, error: &Cause) -> KernelError {
    let name = device.name;
    KernelError::Refused(match errno(error) {
        Some(libc::EBUSY | libc::EEXIST) => {
            let other = device
                .xdp_program
                .and_then(name_of)
                .unwrap_or_else(|| "whose name cannot be read".to_owned());
            format!(
                "{name} has an XDP program already, {other}; take it off, or set attach = \"tc\" for {name}"
            )
        }
        Some(libc::EOPNOTSUPP) => {
            format!(
                "the driver of {name} has no native XDP; set attach = \"xdp-generic\" or \"tc\" for {name}"
            )
        }
        _ => format!("attaching XDP to {name}: {}", root(error.as_ref())),
    })
}

/// The name of a loaded program, and of whose instance it is if it is one of ours.
fn name_of(id: u32) -> Option<String> {
    let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id)?;
    let name = program.name_as_str()?;
    Some(match pin::instance_of(id) {
        Some(instance) => format!("{name} (id {id}) of instance {instance:?}"),
        None => format!("{name} (id {id})"),
    })
}

pub(super) fn is_busy(error: &Cause) -> bool {
    matches!(errno(error), Some(libc::EBUSY | libc::EEXIST))
}

pub(super) fn errno(error: &Cause) -> Option<i32> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        cause = error.source();
    }
    None
}

/// The innermost cause, which says what the outer ones repeat.
pub(super) fn root(error: &(dyn std::error::Error + 'static)) -> impl Display + use<> {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
