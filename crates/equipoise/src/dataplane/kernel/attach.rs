//! Which hook a device gets, and hanging the programs there.
//!
//! `auto` takes XDP in the driver on hardware and TC everywhere else: packets that were born on
//! the same host (veth, tap, bridges) have checksums that are not computed yet and may stand for
//! many packets, which only TC knows of. Every way ends in links that are pinned, so that packets
//! flow on when this process dies.

use std::fmt::Display;
use std::io;

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{TcAttachOptions, TcAttachType};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, Xdp, XdpMode};
use equipoise_core::config::AttachMode;

use super::pin::{Pins, refused};
use super::{Attachment, Device, KernelError};

/// The programs' names in the object.
pub(super) const XDP: &str = "equipoise_xdp";
pub(super) const IN: &str = "equipoise_in";
pub(super) const OUT: &str = "equipoise_out";

/// Whatever stopped an attachment.
type Cause = Box<dyn std::error::Error>;

/// The links of one device.
pub(super) struct Attached {
    links: Vec<PinnedLink>,
    /// XDP, so that TC ingress may have to be added.
    is_xdp: bool,
    has_ingress: bool,
    name: String,
}

impl Attached {
    /// Takes the programs off.
    pub(super) fn detach(self) {
        for link in self.links {
            if let Err(error) = link.unpin() {
                tracing::warn!(interface = self.name, %error, "a link could not be unpinned");
            }
        }
    }
}

/// Hangs the programs on `device`.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    pins: &Pins,
    device: &Device<'_>,
    mode: AttachMode,
) -> Result<(Attached, Attachment), KernelError> {
    let mut attached =
        Attached { links: Vec::new(), is_xdp: false, has_ingress: false, name: device.name.to_owned() };
    let result = incoming(ebpf, pins, device, mode, &mut attached).and_then(|attachment| {
        attached.links.push(tc(ebpf, pins, device, OUT, TcAttachType::Egress)?);
        Ok(attachment)
    });
    match result {
        Ok(attachment) => Ok((attached, attachment)),
        Err(error) => {
            attached.detach();
            Err(error)
        }
    }
}

/// Adds TC ingress to a device with XDP: it delivers replies to clients of this host, which XDP
/// cannot.
pub(super) fn add_ingress(
    ebpf: &mut Ebpf,
    pins: &Pins,
    index: u32,
    attached: &mut Attached,
) -> Result<(), KernelError> {
    if !attached.is_xdp || attached.has_ingress {
        return Ok(());
    }
    let name = attached.name.clone();
    let device = Device { name: &name, index, native_xdp: false, kind: None };
    attached.links.push(tc(ebpf, pins, &device, IN, TcAttachType::Ingress)?);
    attached.has_ingress = true;
    Ok(())
}

fn incoming(
    ebpf: &mut Ebpf,
    pins: &Pins,
    device: &Device<'_>,
    mode: AttachMode,
    attached: &mut Attached,
) -> Result<Attachment, KernelError> {
    let reason = match mode {
        AttachMode::Xdp => {
            let link = xdp(ebpf, pins, device, XdpMode::Driver).map_err(|error| why_not(device, &error))?;
            return Ok(attached.xdp(link, "native", "asked for".to_owned()));
        }
        AttachMode::XdpGeneric => {
            let link = xdp(ebpf, pins, device, XdpMode::Skb).map_err(|error| why_not(device, &error))?;
            return Ok(attached.xdp(link, "generic", "asked for".to_owned()));
        }
        AttachMode::Tc => "asked for".to_owned(),
        AttachMode::Auto if device.native_xdp => match xdp(ebpf, pins, device, XdpMode::Driver) {
            Ok(link) => return Ok(attached.xdp(link, "native", "the driver has XDP".to_owned())),
            Err(error) if is_busy(&error) => "it has an XDP program already".to_owned(),
            Err(error) => format!("the driver refused XDP: {}", root(error.as_ref())),
        },
        AttachMode::Auto => match device.kind {
            Some(kind) => format!("a {kind} device carries packets of this host"),
            None if device.name == "lo" => "the loopback device carries packets of this host".to_owned(),
            None => "the driver has no XDP, or another program uses it".to_owned(),
        },
    };
    attached.links.push(tc(ebpf, pins, device, IN, TcAttachType::Ingress)?);
    attached.has_ingress = true;
    Ok(Attachment { hook: "tc", mode: "tcx", reason })
}

impl Attached {
    fn xdp(&mut self, link: PinnedLink, mode: &'static str, reason: String) -> Attachment {
        self.links.push(link);
        self.is_xdp = true;
        Attachment { hook: "xdp", mode, reason }
    }
}

fn xdp(ebpf: &mut Ebpf, pins: &Pins, device: &Device<'_>, mode: XdpMode) -> Result<PinnedLink, Cause> {
    let program: &mut Xdp = ebpf.program_mut(XDP).ok_or(ProgramError::NotLoaded)?.try_into()?;
    let id = program.attach_to_if_index(device.index, mode)?;
    let link = program.take_link(id)?;
    // Where links are refused aya falls back to netlink, whose attachments cannot be pinned: the
    // conversion fails then, and the attachment goes with the link.
    let link = FdLink::try_from(link)?;
    Ok(pinned(link, &pins.link("xdp", device.index))?)
}

fn tc(
    ebpf: &mut Ebpf,
    pins: &Pins,
    device: &Device<'_>,
    name: &str,
    hook: TcAttachType,
) -> Result<PinnedLink, KernelError> {
    let what = || format!("attaching TC to {}", device.name);
    let program: &mut SchedClassifier = ebpf
        .program_mut(name)
        .ok_or(ProgramError::NotLoaded)
        .and_then(TryInto::try_into)
        .map_err(|error| refused(&what(), &error))?;
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program
        .attach_with_options(device.name, hook, options)
        .map_err(|error| refused(&what(), &root(&error)))?;
    let link = program.take_link(id).map_err(|error| refused(&what(), &error))?;
    let link = FdLink::try_from(link).map_err(|error| refused(&what(), &error))?;
    let path = pins.link(if name == IN { "in" } else { "out" }, device.index);
    pinned(link, &path).map_err(|error| refused(&what(), &error))
}

fn pinned(link: FdLink, path: &std::path::Path) -> Result<PinnedLink, aya::pin::PinError> {
    // A pin of that name is of a device that has gone.
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "an old pin stays"),
    }
    link.pin(path)
}

fn why_not(device: &Device<'_>, error: &Cause) -> KernelError {
    let name = device.name;
    KernelError::Refused(match errno(error) {
        Some(libc::EBUSY | libc::EEXIST) => {
            format!("{name} has an XDP program already; take it off, or set attach = \"tc\" for {name}")
        }
        Some(libc::EOPNOTSUPP) => {
            format!("the driver of {name} has no native XDP; set attach = \"xdp-generic\" or \"tc\" for {name}")
        }
        _ => format!("attaching XDP to {name}: {}", root(error.as_ref())),
    })
}

fn is_busy(error: &Cause) -> bool {
    matches!(errno(error), Some(libc::EBUSY | libc::EEXIST))
}

fn errno(error: &Cause) -> Option<i32> {
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
fn root(error: &(dyn std::error::Error + 'static)) -> impl Display + use<> {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
