//! A tunnel in plain Rust: what a client's stack sends by `tun0` goes on by `eth0` with another packet around it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use equipoise_lab::Netns;
use equipoise_lab::link;

use crate::wire::{Around, How, frame};

/// A running tunnel.
pub(crate) struct Tunnel {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    ending: AtomicBool,
}

struct State {
    around: Around,
    sent: Sent,
}

/// What has been sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) ipip: u64,
    pub(crate) gue: u64,
    /// The longest IP packet.
    pub(crate) longest: usize,
}

impl Tunnel {
    /// Makes `tun0` and sends what comes by it, by `eth0`, to a host with this link address.
    pub(crate) fn start(netns: &Netns, to: [u8; 6], around: Around) -> Self {
        let device = netns.run(device).unwrap();
        netns.ip("link set tun0 up").unwrap();
        let out = Out::open(netns, to).unwrap();
        let state = Mutex::new(State { around, sent: Sent::default() });
        let shared = Arc::new(Shared { state, ending: AtomicBool::new(false) });
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || forward(device, &out, &own));
        Self { shared, thread: Some(thread) }
    }

    /// What is put around packets from now on.
    pub(crate) fn put(&self, around: Around) {
        self.shared.state.lock().unwrap().around = around;
    }

    /// What has been sent so far.
    pub(crate) fn sent(&self) -> Sent {
        self.shared.state.lock().unwrap().sent
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

fn forward(mut device: File, out: &Out, shared: &Shared) {
    let mut buffer = vec![0; 65_536];
    while !shared.ending.load(Ordering::Relaxed) {
        if !is_ready(&device) {
            continue;
        }
        let length = device.read(&mut buffer).unwrap();
        let mut state = shared.state.lock().unwrap();
        let State { around, sent } = &mut *state;
        let packet = around.put(&buffer[..length]);
        match around.how {
            How::Ipip => sent.ipip += 1,
            How::Gue | How::GueWithHeader => sent.gue += 1,
        }
        sent.longest = sent.longest.max(packet.len());
        out.send(&packet).unwrap();
    }
}

/// Waits for a packet, and for no longer than it takes to notice the end.
fn is_ready(device: &File) -> bool {
    let mut wanted = libc::pollfd { fd: device.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, of ours.
    unsafe { libc::poll(&raw mut wanted, 1, 20) == 1 }
}

/// Makes the device in the namespace of this thread.
fn device() -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(*b"tun0") {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
    // SAFETY: the request is an ifreq with a terminated name, as TUNSETIFF wants.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// Frames out of `eth0`.
struct Out {
    socket: OwnedFd,
    address: libc::sockaddr_ll,
    links: [[u8; 6]; 2],
}

impl Out {
    fn open(netns: &Netns, to: [u8; 6]) -> io::Result<Self> {
        let index = link::index(netns, "eth0").unwrap();
        let own = crate::bench::link_address(netns);
        // SAFETY: takes plain numbers; of protocol 0, nothing is delivered to it.
        let socket = netns.run(|| unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) });
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given it to us.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        // SAFETY: all-zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index.cast_signed();
        Ok(Self { socket, address, links: [to, own] })
    }

    fn send(&self, packet: &[u8]) -> io::Result<()> {
        let frame = frame(self.links, &[], packet);
        let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        let (fd, address) = (self.socket.as_raw_fd(), (&raw const self.address).cast());
        // SAFETY: a frame and an address of ours, with their lengths.
        let sent =
            unsafe { libc::sendto(fd, frame.as_ptr().cast(), frame.len(), 0, address, size) };
        if sent < 0 {
            let error = io::Error::last_os_error();
            // As any link that is full.
            if error.raw_os_error() != Some(libc::ENOBUFS) {
                return Err(error);
            }
        }
        Ok(())
    }
}
