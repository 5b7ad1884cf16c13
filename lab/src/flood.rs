//! Packets as fast as they can be made: bounded floods out of a device, past its host's stack.
//!
//! A [`Flood`] ends by itself, by its number of packets and by its time, whichever comes first. It
//! writes whole frames to a packet socket, without queueing discipline and in one thread; on veth the
//! receiving end's work is done in that thread too, so a flood takes one core. What the device
//! refuses is sent again: the report counts what it took. It receives nothing, and the host's stack
//! knows nothing of it: answers to sources that are not the host's are dropped there.

mod frame;

use std::io::{self, IoSlice};
use std::mem;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

use crate::link;
use crate::netns::Netns;
use frame::Mold;

/// A hardware address.
pub type Mac = [u8; 6];

/// Frames given to the kernel at a time.
const BATCH: u64 = 64;

/// The longest sleep of a flood that is ahead of its rate.
const PAUSE: Duration = Duration::from_micros(500);

/// Packets to send.
#[derive(Clone, Debug)]
pub struct Flood {
    /// The device they leave by.
    pub device: String,
    /// What is sent.
    pub frames: Frames,
    /// Packets in all, at most.
    pub count: u64,
    /// How long, at most.
    pub time: Duration,
    /// Packets per second, at most; as many as it can unless given.
    pub rate: Option<u64>,
}

/// What a flood sends.
#[derive(Clone, Debug)]
pub enum Frames {
    /// New ones, from random sources.
    Random(Random),
    /// These, one after the other and again from the first, as they are.
    Given(Vec<Vec<u8>>),
}

/// Packets from random sources to one address and port; their checksums are right.
#[derive(Clone, Copy, Debug)]
pub struct Random {
    /// What each is.
    pub kind: Kind,
    /// Where the sources lie; their ports are 1024 and up.
    pub from: IpNet,
    /// Where they go, in the family of the sources.
    pub to: SocketAddr,
    /// Whose hardware address the frames bear, as [`hardware_address`] gives it.
    pub next_hop: Mac,
    /// The same seed makes the same packets.
    pub seed: u64,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP packet that opens a connection.
    Syn,
    /// A TCP packet from the middle of a connection that nobody opened.
    Ack,
    /// A UDP datagram with a few bytes.
    Udp,
}

impl Random {
    /// The first frames of such a flood, from a hardware address.
    pub fn frames(&self, own: Mac, count: usize) -> Result<Vec<Vec<u8>>> {
        let mut mold = Mold::new(self, own)?;
        Ok((0..count).map(|_| mold.cast().to_vec()).collect())
    }
}

impl Flood {
    /// Sends all packets.
    pub fn run(self, netns: &Netns) -> Result<Report> {
        self.start(netns)?.wait()
    }

    /// Starts sending on a thread of its own.
    pub fn start(self, netns: &Netns) -> Result<RunningFlood> {
        let supply = Supply::new(&self, netns)?;
        let socket = open(netns, &self.device)
            .with_context(|| format!("a packet socket on {}", self.device))?;
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            sent: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            ending: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let sender = thread::spawn(move || self.send_all(&socket, supply, &own));
        Ok(RunningFlood { shared, sender: Some(sender) })
    }

    fn send_all(&self, socket: &Socket, mut supply: Supply, shared: &Shared) -> Result<Report> {
        let over = || shared.begun.elapsed() >= self.time || shared.ending.load(Ordering::Relaxed);
        loop {
            let Report { sent, elapsed, .. } = shared.report();
            if sent >= self.count || over() {
                return Ok(shared.report());
            }
            let due = self.due(elapsed, sent);
            if due == 0 {
                thread::sleep(PAUSE.min(self.time.saturating_sub(elapsed)));
                continue;
            }
            let batch = supply.next(due.min(BATCH));
            let mut left = &batch[..];
            while !left.is_empty() {
                match send(socket, left) {
                    Ok(taken) => {
                        shared.sent.fetch_add(taken as u64, Ordering::Relaxed);
                        left = &left[taken..];
                    }
                    Err(error) if is_refusal(&error) => {
                        shared.refusals.fetch_add(1, Ordering::Relaxed);
                        if over() {
                            break;
                        }
                        // What has to make room may wait for this core.
                        thread::yield_now();
                    }
                    Err(error) => {
                        let sent = shared.report().sent;
                        let what = format!("sending by {} after {sent} packets", self.device);
                        return Err(error).context(what);
                    }
                }
            }
        }
    }

    /// How many packets may go out now.
    fn due(&self, elapsed: Duration, sent: u64) -> u64 {
        let left = self.count - sent;
        let Some(rate) = self.rate else {
            return left;
        };
        let earned = elapsed.as_nanos().saturating_mul(rate.into());
        let allowed = earned / Duration::from_secs(1).as_nanos();
        u64::try_from(allowed).unwrap_or(u64::MAX).saturating_sub(sent).min(left)
    }
}

/// What a flood did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Packets that the device took.
    pub sent: u64,
    /// How often it, or the socket, had no room; that packet was then sent again.
    pub refusals: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl Report {
    /// Packets per second.
    pub fn per_second(&self) -> f64 {
        self.sent as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// A flood under way; it ends when dropped.
#[derive(Debug)]
pub struct RunningFlood {
    shared: Arc<Shared>,
    sender: Option<JoinHandle<Result<Report>>>,
}

#[derive(Debug)]
struct Shared {
    begun: Instant,
    sent: AtomicU64,
    refusals: AtomicU64,
    ending: AtomicBool,
}

impl Shared {
    fn report(&self) -> Report {
        Report {
            sent: self.sent.load(Ordering::Relaxed),
            refusals: self.refusals.load(Ordering::Relaxed),
            elapsed: self.begun.elapsed(),
        }
    }
}

impl RunningFlood {
    /// How it stands now.
    pub fn report(&self) -> Report {
        self.shared.report()
    }

    /// Whether it is still at it.
    pub fn is_running(&self) -> bool {
        self.sender.as_ref().is_some_and(|sender| !sender.is_finished())
    }

    /// Waits until it has come to its end.
    pub fn wait(mut self) -> Result<Report> {
        let sender = self.sender.take().expect("only this and a drop take it");
        sender.join().expect("a flood gives its errors and does not panic")
    }

    /// Ends it now.
    pub fn stop(self) -> Result<Report> {
        self.shared.ending.store(true, Ordering::Relaxed);
        self.wait()
    }
}

impl Drop for RunningFlood {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            // Nobody is left to be told.
            drop(sender.join());
        }
    }
}

/// The hardware address of a device, as frames bear it.
pub fn hardware_address(netns: &Netns, device: &str) -> Result<Mac> {
    let text = link::mac(netns, device)?;
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let address = bytes.and_then(|bytes| Mac::try_from(bytes).ok());
    address.with_context(|| format!("{device} has an address of another kind: {text}"))
}

/// Where frames come from.
enum Supply {
    /// A mold, and room for a batch of its casts.
    Random(Box<Mold>, Vec<u8>),
    /// Frames, and which of them is next.
    Given(Vec<Vec<u8>>, usize),
}

impl Supply {
    fn new(flood: &Flood, netns: &Netns) -> Result<Self> {
        match &flood.frames {
            Frames::Random(random) => {
                let own = hardware_address(netns, &flood.device)?;
                Ok(Self::Random(Box::new(Mold::new(random, own)?), Vec::new()))
            }
            Frames::Given(frames) => {
                ensure!(!frames.is_empty(), "no frames are given");
                Ok(Self::Given(frames.clone(), 0))
            }
        }
    }

    /// The next frames.
    fn next(&mut self, count: u64) -> Vec<IoSlice<'_>> {
        match self {
            Self::Random(mold, room) => {
                room.clear();
                for _ in 0..count {
                    room.extend_from_slice(mold.cast());
                }
                room.chunks_exact(mold.length()).map(IoSlice::new).collect()
            }
            Self::Given(frames, at) => {
                let length = frames.len();
                let take = |_| {
                    let frame = IoSlice::new(&frames[*at]);
                    *at = (*at + 1) % length;
                    frame
                };
                (0..count).map(take).collect()
            }
        }
    }
}

/// A packet socket that sends out of a device and receives nothing.
fn open(netns: &Netns, device: &str) -> Result<Socket> {
    let index = link::index(netns, device)?;
    // Of protocol 0, nothing is delivered to it.
    let socket = netns.run(|| Socket::new(Domain::PACKET, Type::RAW, None))?;
    socket.set_nonblocking(true)?;
    bypass_queueing(&socket)?;
    socket.bind(&link_address(index)?)?;
    Ok(socket)
}

/// Has frames go straight to the device's driver, which then says at once when it has no room.
fn bypass_queueing(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the option is an int of ours whose size is given.
    let refused = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if refused != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The address of a device, for a packet socket.
fn link_address(index: u32) -> Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: a sockaddr_ll is a socket address, and any bytes are one.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = i32::try_from(index)?;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage has just been filled as a sockaddr_ll, whose length this is.
    Ok(unsafe { SockAddr::new(storage, length) })
}

/// Sends frames in their order, and gives how many were taken, at least one.
fn send(socket: &Socket, frames: &[IoSlice<'_>]) -> io::Result<usize> {
    let message = |frame: &IoSlice<'_>| {
        // SAFETY: all-zero is a valid mmsghdr.
        let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
        // An IoSlice is laid out as an iovec, and sending only reads it.
        message.msg_hdr.msg_iov = (&raw const *frame).cast_mut().cast();
        message.msg_hdr.msg_iovlen = 1;
        message
    };
    let mut messages: Vec<libc::mmsghdr> = frames.iter().map(message).collect();
    let count = libc::c_uint::try_from(messages.len()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open; `count` messages are there, and the frames outlive the call.
    let taken = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    usize::try_from(taken).map_err(|_| io::Error::last_os_error())
}

/// Whether the device (ENOBUFS) or the socket (EAGAIN) had no room, or a signal came between.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(frames: &[&[u8]]) -> Supply {
        Supply::Given(frames.iter().map(|frame| frame.to_vec()).collect(), 0)
    }

    fn flood(rate: Option<u64>) -> Flood {
        Flood {
            device: "eth0".to_owned(),
            frames: Frames::Given(Vec::new()),
            count: 1000,
            time: Duration::from_secs(1),
            rate,
        }
    }

    #[test]
    fn given_frames_go_round() {
        let mut supply = given(&[b"a", b"b", b"c"]);
        let mut take = |count| {
            let batch = supply.next(count);
            batch.iter().flat_map(|frame| frame.to_vec()).collect::<Vec<u8>>()
        };
        assert_eq!(take(2), b"ab");
        assert_eq!(take(5), b"cabca");
        assert_eq!(take(1), b"b");
    }

    #[test]
    fn a_rate_allows_what_its_time_has_earned_and_the_count_bounds_it() {
        assert_eq!(flood(Some(100)).due(Duration::from_millis(50), 3), 2);
        assert_eq!(flood(Some(100)).due(Duration::from_millis(50), 5), 0);
        assert_eq!(flood(Some(100)).due(Duration::from_secs(60), 990), 10);
        assert_eq!(flood(Some(0)).due(Duration::from_secs(60), 0), 0);
        assert_eq!(flood(Some(u64::MAX)).due(Duration::MAX, 1), 999);
        assert_eq!(flood(None).due(Duration::ZERO, 1), 999);
    }
}
