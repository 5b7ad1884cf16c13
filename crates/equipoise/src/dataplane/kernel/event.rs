//! What the programs tell, out of the kernel's ring buffers: flow events, and packets that somebody looks at.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};

use aya::Pod;
use aya::maps::{Map, MapData, RingBuf};
use equipoise_common::event::Event;
use equipoise_common::trace::Traced;
use tokio::io::unix::AsyncFd;

use super::KernelError;
use super::pin::{Pins, refused};

/// What one data plane tells. Readable, as a file descriptor, while there is anything.
pub struct Ring<T> {
    ring: RingBuf<MapData>,
    of: PhantomData<fn() -> T>,
}

/// Flows that open and close.
pub type Events = Ring<Event>;

/// Packets.
pub type Traces = Ring<Traced>;

impl Events {
    pub(super) fn of(pins: &Pins) -> Result<Self, KernelError> {
        Self::open(pins, "EVENTS")
    }
}

impl Traces {
    pub(super) fn of_packets(pins: &Pins) -> Result<Self, KernelError> {
        Self::open(pins, "TRACED")
    }
}

impl<T: Pod> Ring<T> {
    fn open(pins: &Pins, name: &str) -> Result<Self, KernelError> {
        let failed = |error: &dyn fmt::Display| refused(&format!("reading {name}"), error);
        let map = MapData::from_pin(pins.map(name)).map_err(|error| failed(&error))?;
        let ring = RingBuf::try_from(Map::RingBuf(map)).map_err(|error| failed(&error))?;
        Ok(Self { ring, of: PhantomData })
    }

    /// The next one; none when all have been read.
    pub fn take_next(&mut self) -> Option<T> {
        while let Some(item) = self.ring.next() {
            // One of another layout would be of another build, whose maps are not taken over.
            if item.len() == size_of::<T>() {
                // SAFETY: as many bytes as it has, of which any are a value; they need not be aligned here.
                return Some(unsafe { item.as_ptr().cast::<T>().read_unaligned() });
            }
        }
        None
    }

    /// To be waited for, in a runtime that can wait for files.
    ///
    /// # Errors
    ///
    /// When the runtime refuses.
    pub fn listen(self) -> io::Result<Arrivals<T>> {
        // SAFETY: the ring buffer owns its file descriptor, gives the same one each time, and goes with the
        // registration.
        let ring = unsafe { AsyncFd::register(self) };
        Ok(Arrivals { ring: ring.map_err(io::Error::other)? })
    }
}

impl<T> AsRawFd for Ring<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// So many are taken before anybody else has a turn: some milliseconds.
const AT_ONCE: usize = 8192;

/// What can be waited for.
pub struct Arrivals<T> {
    ring: AsyncFd<Ring<T>>,
}

impl<T: Pod> Arrivals<T> {
    /// Waits until there are some, and gives each of them to `take`; of very many the first ones, since they may come as fast as they
    /// are taken.
    ///
    /// # Errors
    ///
    /// When the runtime refuses.
    pub async fn drain(&mut self, mut take: impl FnMut(&T)) -> io::Result<()> {
        let mut ready = self.ring.readable_mut().await?;
        let ring = ready.get_inner_mut();
        for _ in 0..AT_ONCE {
            let Some(item) = ring.take_next() else {
                ready.clear_ready();
                return Ok(());
            };
            take(&item);
        }
        Ok(())
    }
}

impl<T> fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Arrivals<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrivals").finish_non_exhaustive()
    }
}

/// Sockets and the like that cannot be made are told once for a sweep, not once for a packet.
pub(super) fn warn_once<T>(what: &str, result: io::Result<T>) -> Option<T> {
    result.inspect_err(|error| tracing::warn!(%error, "{what}")).ok()
}
