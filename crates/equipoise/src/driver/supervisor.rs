//! What a supervisor is told: that the instance is ready, takes another configuration, is alive, and ends.
//!
//! The words are those of `sd_notify(3)`. That nobody hears them is no fault of an instance: it is said in the log and carried on.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// Who watches over an instance.
#[derive(Debug, Default)]
pub enum Supervisor {
    /// Nobody, or whoever has an instance as a library.
    #[default]
    None,
    /// Who has started this process, and listens.
    Service(Service),
}

/// Where a supervisor listens, and what it asks for.
#[derive(Debug)]
pub struct Service {
    socket: UnixDatagram,
    address: SocketAddr,
    /// It is to be told at least so often that the loop turns; none where it does not ask for that.
    within: Option<Duration>,
}

impl Supervisor {
    /// As the environment of this process says: `NOTIFY_SOCKET`, and `WATCHDOG_USEC`.
    ///
    /// # Errors
    ///
    /// When no socket can be had, or the place of the supervisor's is none.
    pub fn of_process() -> io::Result<Self> {
        let Some(place) = env::var_os("NOTIFY_SOCKET").filter(|place| !place.is_empty()) else {
            return Ok(Self::None);
        };
        let address = match place.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&place)?,
        };
        let socket = UnixDatagram::unbound()?;
        // One that does not listen is not to stop the loop.
        socket.set_nonblocking(true)?;
        Ok(Self::Service(Service { socket, address, within: sd_notify::watchdog_enabled() }))
    }

    /// From one sign of life to the next.
    pub(super) fn pause(&self) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::Service(service) => service.within.map(|within| within / 2),
        }
    }

    /// Packets flow, by this generation of the configuration.
    pub(super) fn ready(&self, generation: u64) {
        let status = format!("packets flow by generation {generation} of the configuration");
        let pid = std::process::id();
        self.tell(&[NotifyState::Ready, NotifyState::MainPid(pid), NotifyState::Status(&status)]);
    }

    /// Another configuration is being taken.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "the clock cannot be read for the supervisor"),
        }
    }

    /// The loop turns.
    pub(super) fn alive(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    /// It ends; whether packets flow on.
    pub(super) fn stopping(&self, flow_on: bool) {
        let status = if flow_on {
            "packets flow on without this process, until `equipoise stop`"
        } else {
            "everything is removed"
        };
        self.tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// Another process is the instance from now on.
    pub(super) fn handed_over(&self, pid: u32) {
        self.tell(&[NotifyState::MainPid(pid)]);
    }

    fn tell(&self, words: &[NotifyState<'_>]) {
        let Self::Service(Service { socket, address, .. }) = self else { return };
        let text: String = words.iter().map(|word| format!("{word}\n")).collect();
        if let Err(error) = socket.send_to_addr(text.as_bytes(), address) {
            tracing::warn!(%error, "the supervisor does not hear");
        }
    }
}
