//! Where a check goes, and whether anything has come back from there.
//!
//! A check that goes the way the packets go has sockets that talk to the backend's address as any others do; what they send
//! bears a priority that the packet programs know (`equipoise_common::probe`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use equipoise_common::probe;
use equipoise_core::health::{Failure, FailureKind};
use socket2::SockRef;

/// The VIP at a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vip {
    /// Itself.
    pub address: IpAddr,
    /// The backend's id.
    pub backend: u32,
}

/// Where a check goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct To<'a> {
    /// The backend's address and port.
    pub(super) address: SocketAddr,
    /// The VIP there, where the check is to go to that.
    vip: Option<Vip>,
    reached: &'a AtomicBool,
}

impl<'a> To<'a> {
    /// Notes in `reached` whether anything has come back.
    pub(super) fn new(address: SocketAddr, vip: Option<Vip>, reached: &'a AtomicBool) -> Self {
        Self { address, vip, reached }
    }

    /// Somebody there has taken a connection, or answered.
    pub(super) fn note_reached(&self) {
        self.reached.store(true, Ordering::Relaxed);
    }

    /// Has what a socket sends go there.
    pub(super) fn direct(&self, socket: &SockRef<'_>) -> Result<(), Failure> {
        let Some(vip) = self.vip else { return Ok(()) };
        let refused = |error: io::Error| {
            let message = format!("sending to VIP {}: {error}", vip.address);
            Failure::new(FailureKind::Io, message)
        };
        socket.set_priority(probe::priority(vip.backend)).map_err(refused)
    }
}
