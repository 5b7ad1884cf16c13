//! The sockets that take up connections: the map that they are in, and the program on this network namespace that leads connections
//! there.
//!
//! Loaded and hung up when there are sockets for the first time. The link is pinned like those of devices, and takes the program of
//! whoever comes next. The map keeps no socket open: the kernel takes out what its owners have closed, and then connections go where
//! they would without us.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use aya::Ebpf;
use aya::maps::SockMap;
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, SkLookup};

use super::attach::{self, Cause, Link};
use super::pin::{self, Pins, refused};
use super::stages::Group;
use super::{Kernel, KernelError, raw, tcx};

/// The program's name in the object.
pub(super) const TAKE: &str = "equipoise_take";

/// The map of the sockets.
const LISTENERS: &str = "LISTENERS";

/// The namespace of the calling thread.
const NAMESPACE: &str = "/proc/thread-self/ns/net";

impl Kernel {
    /// Puts the sockets where connections are led to, and has them led there.
    pub(super) fn take_up(&mut self, listeners: [BorrowedFd<'_>; 2]) -> Result<(), KernelError> {
        self.need(&[Group::Take])?;
        put(&mut self.ebpf, listeners)?;
        if self.taking.is_none() {
            self.taking = Some(hang(&mut self.ebpf, &self.pins)?);
        }
        Ok(())
    }

    /// Has the program that is loaded now lead connections, if one does: that of before, or of a process that has come to nothing,
    /// may have its place.
    pub(super) fn take_up_again(&mut self) -> Result<(), KernelError> {
        if let Some(before) = &self.taking {
            let is_new = before.is_new;
            let now = hang(&mut self.ebpf, &self.pins)?;
            self.taking = Some(Link { is_new: is_new || now.is_new, ..now });
        }
        Ok(())
    }

    /// Gives its place back to the program of before; where there was none, nothing leads connections any more.
    pub(super) fn give_taking_back(&self) -> Result<(), Cause> {
        match &self.taking {
            Some(Link { path, is_new: true }) => Ok(pin::release(path)?),
            Some(Link { path, is_new: false }) => {
                let before = self.pins.before();
                attach::put(&|name| before.program(name), path)
            }
            None => Ok(()),
        }
    }
}

/// Puts sockets into the map, for IPv4 and for IPv6; those that were there are there no more.
fn put(ebpf: &mut Ebpf, listeners: [BorrowedFd<'_>; 2]) -> Result<(), KernelError> {
    let failed = |error: &dyn std::fmt::Display| refused(&format!("filling {LISTENERS}"), error);
    let map = ebpf.map_mut(LISTENERS).ok_or_else(|| failed(&"the object has no such map"))?;
    let mut places = SockMap::try_from(map).map_err(|error| failed(&error))?;
    for (place, socket) in (0..).zip(&listeners) {
        places.set(place, socket, 0).map_err(|error| failed(&attach::root(&error)))?;
    }
    Ok(())
}

/// Hangs the program on this network namespace, in place of that which an earlier process has left there.
fn hang(ebpf: &mut Ebpf, pins: &Pins) -> Result<Link, KernelError> {
    let hung = (|| -> Result<_, Cause> {
        let program: &mut SkLookup =
            ebpf.program_mut(TAKE).ok_or(ProgramError::NotLoaded)?.try_into()?;
        let path = pins.link_of_namespace();
        let namespace = File::open(NAMESPACE)?;
        // What cannot be told is not there: attaching says why.
        let there = tcx::on_namespace(namespace.as_fd()).unwrap_or_default();
        if attach::standing(&path, |id| there.contains(&id)).is_some() {
            replace(program, &path)?;
            return Ok(Link { path, is_new: false });
        }
        let id = program.attach(namespace)?;
        let link = FdLink::from(program.take_link(id)?);
        Ok(attach::pinned(link, path)?)
    })();
    let what = "attaching to the sockets of this network namespace";
    hung.map_err(|error| refused(what, &attach::root(error.as_ref())))
}

/// Puts a program into the link that is pinned there, in place of another.
pub(super) fn replace(program: &SkLookup, link: &Path) -> Result<(), Cause> {
    // By hand, since `aya` gives no other program to this kind of link.
    let link = pin::open(link)?;
    Ok(raw::update_link(link.as_fd(), program.fd()?.as_fd())?)
}
