//! Flow events out of the kernel's ring buffer.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{Map, MapData, RingBuf};
use equipoise_common::event::Event;
use tokio::io::unix::AsyncFd;

use super::KernelError;
use super::pin::{Pins, refused};

/// The events of one data plane. Readable, as a file descriptor, while there are any.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl Events {
    pub(super) fn of(pins: &Pins) -> Result<Self, KernelError> {
        let failed = |error: &dyn std::fmt::Display| refused("reading flow events", error);
        let map = MapData::from_pin(pins.map("EVENTS")).map_err(|error| failed(&error))?;
        let ring = RingBuf::try_from(Map::RingBuf(map)).map_err(|error| failed(&error))?;
        Ok(Self { ring })
    }

    /// The next event; none when all have been read.
    pub fn take_next(&mut self) -> Option<Event> {
        while let Some(item) = self.ring.next() {
            // An event of another layout would be of another build, whose maps are not taken over.
            if item.len() == size_of::<Event>() {
                // SAFETY: as many bytes as an event has, of which any are a value; they need not be aligned here.
                return Some(unsafe { item.as_ptr().cast::<Event>().read_unaligned() });
            }
        }
        None
    }
}

impl Events {
    /// Events to be waited for, in a runtime that can wait for files.
    ///
    /// # Errors
    ///
    /// When the runtime refuses.
    pub fn listen(self) -> io::Result<Arrivals> {
        // SAFETY: the ring buffer owns its file descriptor, gives the same one each time, and goes with the
        // registration.
        let events = unsafe { AsyncFd::register(self) };
        Ok(Arrivals { events: events.map_err(io::Error::other)? })
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// Events that can be waited for.
#[derive(Debug)]
pub struct Arrivals {
    events: AsyncFd<Events>,
}

impl Arrivals {
    /// Waits until there are events, and gives each of them to `take`.
    ///
    /// # Errors
    ///
    /// When the runtime refuses.
    pub async fn drain(&mut self, mut take: impl FnMut(&Event)) -> io::Result<()> {
        let mut ready = self.events.readable_mut().await?;
        let events = ready.get_inner_mut();
        while let Some(event) = events.take_next() {
            take(&event);
        }
        ready.clear_ready();
        Ok(())
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// Sockets and the like that cannot be made are told once for a sweep, not once for a packet.
pub(super) fn warn_once<T>(what: &str, result: io::Result<T>) -> Option<T> {
    result.inspect_err(|error| tracing::warn!(%error, "{what}")).ok()
}
