//! TC before kernel 6.6: filters on a `clsact` qdisc, which outlive the process by themselves.
//!
//! There are no links to pin. So each filter leaves a mark beside the pinned links, a pin of its
//! program whose name says where the filter hangs; and the qdisc leaves one if it is ours. A
//! qdisc that others use by then stays.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramInfo, SchedClassifier};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use super::attach::{Cause, Link};
use super::pin::Pins;

/// Begins the name of every mark.
pub(super) const MARK: &str = "clsact";

/// Before the filters of others, as TCX is: what is none of ours goes on to them, and what is
/// ours they might end.
const FIRST: u16 = 1;

/// Hangs the program on the device and gives the marks that stand for that, the filter's last. Where a filter of an earlier
/// process hangs there, it gets this program in place of its own, so that no packet meets none.
pub(super) fn attach(
    program: &mut SchedClassifier,
    pins: &Pins,
    device: (&str, u32),
    hook: TcAttachType,
) -> Result<Vec<Link>, Cause> {
    let (name, index) = device;
    let mut marks = Vec::new();
    let own = pins.link(&format!("{MARK}-own"), index);
    if own.exists() && has_qdisc(index)? {
        marks.push(Link { path: own, is_new: false });
    }
    if let Some(path) = replace(program, pins, device, hook)? {
        marks.push(Link { path, is_new: false });
        return Ok(marks);
    }
    if !has_qdisc(index)? {
        qdisc_add_clsact(name)?;
        let path = mark(program, pins, &format!("{MARK}-own"), index)?;
        marks.push(Link { path, is_new: true });
    }
    let options = TcAttachOptions::Netlink(NlOptions { priority: FIRST, ..NlOptions::default() });
    let id = program.attach_with_options(name, hook, options)?;
    let link = program.take_link(id)?;
    let (priority, handle) = (link.priority()?, u32::from(link.handle()?));
    // Dropping the link would take the filter off.
    std::mem::forget(link);
    let what = format!("{MARK}-{}-{priority}-{handle}", side(hook));
    marks.push(Link { path: mark(program, pins, &what, index)?, is_new: true });
    Ok(marks)
}

/// Gives this program to the filter that hangs on that side of the device, and its mark; none where there is none of ours.
fn replace(
    program: &mut SchedClassifier,
    pins: &Pins,
    (name, index): (&str, u32),
    hook: TcAttachType,
) -> Result<Option<PathBuf>, Cause> {
    for path in pins.links_of(index)? {
        let Some(filter) = Filter::of(&path).filter(|filter| filter.hook == hook) else { continue };
        if !filter.is_ours(&path)? {
            // It hung on a device that has gone.
            fs::remove_file(&path)?;
            continue;
        }
        put(program, name, filter)?;
        // Under its name only when it is there: a crash before leaves the mark of the program before, which does as well.
        let what = format!("next-{MARK}-{}-{}-{}", side(hook), filter.priority, filter.handle);
        let next = mark(program, pins, &what, index)?;
        fs::rename(next, &path)?;
        return Ok(Some(path));
    }
    Ok(None)
}

fn put(program: &mut SchedClassifier, device: &str, filter: Filter) -> Result<(), Cause> {
    let id = program.attach_to_link(filter.link(device)?)?;
    // Dropping the link would take the filter off.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Gives a filter of ours another program, such as that of before.
pub(super) fn put_back(program: &mut SchedClassifier, mark: &Path) -> Result<(), Cause> {
    let Some(filter) = Filter::of(mark) else { return Ok(()) };
    match device_name(filter.index) {
        Some(name) => put(program, &name, filter),
        None => Ok(()),
    }
}

/// The side of TC that a mark's filter hangs on; none for what is no mark of a filter.
pub(super) fn hook_of(mark: &Path) -> Option<TcAttachType> {
    Filter::of(mark).map(|filter| filter.hook)
}

/// Where a filter hangs, as the name of its mark says it.
#[derive(Clone, Copy)]
struct Filter {
    hook: TcAttachType,
    priority: u16,
    handle: u32,
    index: u32,
}

impl Filter {
    /// None for what is no mark of a filter.
    fn of(mark: &Path) -> Option<Self> {
        let name = mark.file_name()?.to_str()?;
        let parts: Vec<&str> = name.split('-').collect();
        let [MARK, side, priority, handle, index] = parts[..] else { return None };
        let hook = match side {
            "in" => TcAttachType::Ingress,
            "out" => TcAttachType::Egress,
            _ => return None,
        };
        let (priority, handle) = (priority.parse().ok()?, handle.parse().ok()?);
        Some(Self { hook, priority, handle, index: index.parse().ok()? })
    }

    /// The filter on this device; it is taken off when that is dropped.
    fn link(self, device: &str) -> io::Result<SchedClassifierLink> {
        let Self { hook, priority, handle, .. } = self;
        SchedClassifierLink::attached(device, hook, priority, TcHandle::from(handle), None)
    }

    /// Whether the filter that hangs there runs the program of the mark, and is not one that came after ours had gone with
    /// its device.
    fn is_ours(self, mark: &Path) -> io::Result<bool> {
        let ours = ProgramInfo::from_pin(mark).map_err(io::Error::other)?.id();
        let filters = dump(libc::RTM_GETTFILTER, self.index, parent(self.hook))?;
        Ok(filters.iter().any(|filter| {
            let is_there = handle(filter) == self.handle && priority(filter) == self.priority;
            is_there && program_of(filter) == Some(ours)
        }))
    }
}

fn handle(filter: &[u8]) -> u32 {
    word(filter, HEADER + 8)
}

fn priority(filter: &[u8]) -> u16 {
    (word(filter, HEADER + 16) >> 16) as u16
}

/// The id of the program that a filter runs, out of the kernel's answer about it. Other kinds number their options in their own way.
fn program_of(answer: &[u8]) -> Option<u32> {
    const TCA_OPTIONS: u16 = 2;
    const TCA_BPF_ID: u16 = 11;
    if kind(answer) != Some("bpf") {
        return None;
    }
    let options = attribute(answer.get(HEADER + 20..)?, TCA_OPTIONS)?;
    Some(word(attribute(options, TCA_BPF_ID)?, 0))
}

/// Which kind of filter or of qdisc it is.
fn kind(answer: &[u8]) -> Option<&str> {
    const TCA_KIND: u16 = 1;
    let name = attribute(answer.get(HEADER + 20..)?, TCA_KIND)?;
    std::str::from_utf8(name).ok().map(|name| name.trim_end_matches('\0'))
}

/// A filter that hangs on a device, whoever's it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) kind: String,
    pub(super) priority: u16,
    /// The id of the program that it runs; none where it matches without, or its program is of the kind before eBPF.
    pub(super) program: Option<u32>,
}

/// All filters on a side of a device, in their order; those of one kind and priority without programs count as one.
pub(super) fn filters(index: u32, hook: TcAttachType) -> io::Result<Vec<Found>> {
    let Some(qdisc) = qdisc(index)? else { return Ok(Vec::new()) };
    // The older qdisc has one side, which it lists for either.
    if hook != TcAttachType::Ingress && kind(&qdisc) == Some("ingress") {
        return Ok(Vec::new());
    }
    let answers = dump(libc::RTM_GETTFILTER, index, parent(hook))?;
    // What has no handle stands for all of its priority, which come after it.
    let each = answers.iter().filter(|answer| handle(answer) != 0);
    let mut found: Vec<Found> = each
        .map(|answer| Found {
            kind: kind(answer).unwrap_or_default().to_owned(),
            priority: priority(answer),
            program: program_of(answer),
        })
        .collect();
    found.dedup();
    Ok(found)
}

/// Packets that the filters of a device have dropped, on both sides.
pub(super) fn dropped(index: u32) -> io::Result<u32> {
    const TCA_STATS2: u16 = 7;
    const TCA_STATS_QUEUE: u16 = 3;
    let qdisc = qdisc(index)?.unwrap_or_default();
    let of = |all: &[u8]| {
        let queue = attribute(attribute(all, TCA_STATS2)?, TCA_STATS_QUEUE)?;
        Some(word(queue, 8))
    };
    Ok(qdisc.get(HEADER + 20..).and_then(of).unwrap_or(0))
}

/// What an attribute of this kind holds, among those in a row.
fn attribute(mut all: &[u8], wanted: u16) -> Option<&[u8]> {
    const NESTED: u16 = 1 << 15;
    while all.len() >= 4 {
        let head = word(all, 0);
        let (length, kind) = ((head & 0xffff) as usize, (head >> 16) as u16 & !NESTED);
        if kind == wanted {
            return all.get(4..length);
        }
        all = all.get(length.max(4).next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

/// Takes off what a mark stands for; what is gone is no error.
pub(super) fn release(mark: &Path) -> io::Result<()> {
    if let Some(filter) = Filter::of(mark) {
        let Some(device) =
            device_name(filter.index).filter(|_| filter.is_ours(mark).unwrap_or(true))
        else {
            return Ok(());
        };
        return filter.link(&device).map(drop);
    }
    let name = mark.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.rsplit_once('-') {
        Some(("clsact-own", index)) => remove_unused_qdisc(number(index)?),
        _ => Err(io::Error::other(format!("{name} is no mark of a filter"))),
    }
}

fn side(hook: TcAttachType) -> &'static str {
    match hook {
        TcAttachType::Ingress => "in",
        TcAttachType::Egress | TcAttachType::Custom(_) => "out",
    }
}

fn number(text: &str) -> io::Result<u32> {
    text.parse().map_err(io::Error::other)
}

fn mark(program: &SchedClassifier, pins: &Pins, what: &str, index: u32) -> Result<PathBuf, Cause> {
    const BPF_OBJ_PIN: libc::c_long = 6;
    // The part of `union bpf_attr` that this command reads.
    #[repr(C)]
    struct Pin {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = pins.link(what, index);
    let name = CString::new(path.as_os_str().as_bytes())?;
    let fd = program.fd()?.as_fd().as_raw_fd();
    let pin = Pin { path: name.as_ptr() as u64, fd: fd as u32, flags: 0 };
    // SAFETY: a whole attribute with its size; the path outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_PIN, &raw const pin, size_of::<Pin>()) };
    if result != 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(path)
}

pub(super) fn device_name(index: u32) -> Option<String> {
    let mut name = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: room for the longest name there is.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    if found.is_null() {
        return None;
    }
    let end = name.iter().position(|&byte| byte == 0)?;
    String::from_utf8(name[..end].to_vec()).ok()
}

/// `TC_H_CLSACT` of linux/pkt_sched.h, and its two sides.
const CLSACT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

fn parent(hook: TcAttachType) -> u32 {
    if hook == TcAttachType::Ingress { INGRESS } else { EGRESS }
}

fn has_qdisc(index: u32) -> io::Result<bool> {
    qdisc(index).map(|qdisc| qdisc.is_some())
}

/// The qdisc that filters hang on: `clsact`, or `ingress`, which was before it and stands in the same place.
fn qdisc(index: u32) -> io::Result<Option<Vec<u8>>> {
    let found = dump(libc::RTM_GETQDISC, index, 0)?;
    Ok(found.into_iter().find(|qdisc| word(qdisc, HEADER + 12) == CLSACT))
}

fn remove_unused_qdisc(index: u32) -> io::Result<()> {
    if device_name(index).is_none() {
        return Ok(());
    }
    for side in [INGRESS, EGRESS] {
        if !dump(libc::RTM_GETTFILTER, index, side)?.is_empty() {
            tracing::info!(interface = index, "the clsact qdisc stays: others use it");
            return Ok(());
        }
    }
    const HANDLE: u32 = 0xffff_0000;
    let socket = route_socket()?;
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
    socket.send(&message(libc::RTM_DELQDISC, flags, index, (HANDLE, CLSACT)), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    match code(&answer) {
        0 | libc::ENOENT => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

fn route_socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// What a dump lists for a device, as the kernel's messages; filters that it shares with other devices, too.
fn dump(kind: u16, index: u32, parent: u32) -> io::Result<Vec<Vec<u8>>> {
    /// `TCM_IFINDEX_MAGIC_BLOCK` of linux/rtnetlink.h.
    const SHARED: u32 = u32::MAX;
    let socket = route_socket()?;
    socket.send(&message(kind, libc::NLM_F_REQUEST | libc::NLM_F_DUMP, index, (0, parent)), 0)?;
    let mut found = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while rest.len() >= HEADER {
            let length = word(rest, 0) as usize;
            let kind = word(rest, 4) as u16;
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(found),
                libc::NLMSG_ERROR => return Err(io::Error::from_raw_os_error(code(rest))),
                _ if [index, SHARED].contains(&word(rest, HEADER + 4)) => {
                    found.push(rest.get(..length).unwrap_or_default().to_vec());
                }
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4).max(HEADER)..).unwrap_or_default();
        }
    }
}

const HEADER: usize = 16;

/// `struct nlmsghdr`, then `struct tcmsg`: family, interface, handle, parent, info.
fn message(kind: u16, flags: i32, index: u32, (handle, parent): (u32, u32)) -> Vec<u8> {
    const LENGTH: u32 = HEADER as u32 + 20;
    let head = u32::from(kind) | (flags as u32) << 16;
    let words = [LENGTH, head, 0, 0, 0, index, handle, parent, 0];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// The error of an answer, positive.
fn code(answer: &[u8]) -> i32 {
    (word(answer, HEADER) as i32).wrapping_neg()
}
