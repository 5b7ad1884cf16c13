//! Which hook a device gets, and hanging the programs there.
//!
//! `auto` takes XDP in the driver on hardware and TC everywhere else: packets that were born on
//! the same host (veth, tap, bridges) have checksums that are not computed yet and may stand for
//! many packets, which only TC knows of. TC is there beside native XDP too, for what it cannot send,
//! and at egress for the replies that the stack sends. Every way ends in links that are pinned, so that packets
//! flow on when this process dies.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::tc::{TcAttachOptions, TcAttachType};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, Xdp, XdpMode, loaded_programs};
use equipoise_core::config::AttachMode;

use super::pin::{self, Pins, refused};
use super::{Attachment, Device, KernelError, TcWay, clsact};

/// The programs' names in the object.
pub(super) const XDP: &str = "equipoise_xdp";
pub(super) const XDP_GENERIC: &str = "equipoise_xdpg";
pub(super) const IN: &str = "equipoise_in";
pub(super) const OUT: &str = "equipoise_out";
/// All programs, those that others go on in included.
pub(super) const PROGRAMS: [&str; 18] = [
    XDP,
    XDP_GENERIC,
    IN,
    OUT,
    "slow_xdp",
    "slow_xdpg",
    "slow_in",
    "odd_xdp",
    "odd_xdpg",
    "odd_in",
    "odd_out",
    "answer_xdp",
    "answer_xdpg",
    "answer_in",
    "carry_xdp",
    "carry_xdpg",
    "carry_in",
    "carry_out",
];

/// Whatever stopped an attachment.
pub(super) type Cause = Box<dyn std::error::Error>;

/// Where and how programs are attached.
pub(super) struct Place<'a> {
    pub(super) pins: &'a Pins,
    pub(super) tc: TcWay,
}

/// The links of one device.
pub(super) struct Attached {
    /// Where they are pinned, in the order in which they were attached.
    links: Vec<PathBuf>,
    name: String,
}

impl Attached {
    /// Takes the programs off.
    pub(super) fn detach(self) {
        for link in self.links.iter().rev() {
            if let Err(error) = pin::release(link) {
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
        Ok(attachment) => Ok((attached, attachment)),
        Err(error) => {
            attached.detach();
            Err(error)
        }
    }
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
            Err(error) if is_busy(&error) => "it has an XDP program already".to_owned(),
            Err(error) => format!("the driver refused XDP: {}", root(error.as_ref())),
        },
        AttachMode::Auto => without_xdp(device),
    };
    Ok(Err(reason))
}

/// Why a device has no XDP of ours where nobody has asked for it.
pub(super) fn without_xdp(device: &Device<'_>) -> String {
    if device.xdp_program.is_some() {
        return "it has an XDP program already".to_owned();
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
    fn xdp(&mut self, link: PathBuf, mode: &'static str, reason: &str) -> Attachment {
        self.links.push(link);
        Attachment { hook: "xdp", mode, reason: reason.to_owned() }
    }
}

fn xdp(ebpf: &mut Ebpf, pins: &Pins, device: &Device<'_>, mode: XdpMode) -> Result<PathBuf, Cause> {
    let name = if matches!(mode, XdpMode::Skb) { XDP_GENERIC } else { XDP };
    let program: &mut Xdp = ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()?;
    let id = program.attach_to_if_index(device.index, mode)?;
    let link = program.take_link(id)?;
    // Where links are refused aya falls back to netlink, whose attachments cannot be pinned: the
    // conversion fails then, and the attachment goes with the link.
    let link = FdLink::try_from(link)?;
    Ok(pinned(link, pins.link("xdp", device.index))?)
}

/// Hangs a program on a side of TC; gives what stands for that among the pins, and how it hangs.
fn tc(
    ebpf: &mut Ebpf,
    place: &Place<'_>,
    device: &Device<'_>,
    hook: TcAttachType,
) -> Result<(Vec<PathBuf>, &'static str), KernelError> {
    let name = if hook == TcAttachType::Ingress { IN } else { OUT };
    let attached = (|| -> Result<_, Cause> {
        let program: &mut SchedClassifier =
            ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()?;
        if place.tc == TcWay::Newest {
            match tcx(program, place.pins, device, hook) {
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

fn tcx(
    program: &mut SchedClassifier,
    pins: &Pins,
    device: &Device<'_>,
    hook: TcAttachType,
) -> Result<PathBuf, Cause> {
    let path = pins.link(if hook == TcAttachType::Ingress { "in" } else { "out" }, device.index);
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(device.name, hook, options)?;
    let link = FdLink::try_from(program.take_link(id)?)?;
    Ok(pinned(link, path)?)
}

fn pinned(link: FdLink, path: PathBuf) -> Result<PathBuf, aya::pin::PinError> {
    // A pin of that name is of a device that has gone.
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "an old pin stays"),
    }
    // The pin holds the link from here on.
    link.pin(&path).map(|_| path)
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

/// The name of a loaded program.
fn name_of(id: u32) -> Option<String> {
    let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id)?;
    Some(format!("{} (id {id})", program.name_as_str()?))
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
