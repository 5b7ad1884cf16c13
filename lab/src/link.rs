//! Links between namespaces: veth pairs, bridges, and waiting until they carry packets.
//!
//! A pair is made from inside one of its two namespaces, so the host's own never holds a device
//! of ours, and names may repeat from one lab to the next.

use std::ffi::CString;
use std::fs;
use std::io;
use std::mem;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::wait::wait_until;

/// How long a new link may take until it carries packets.
const READY: Duration = Duration::from_secs(10);

/// One end of a pair: a device name in a namespace.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Where it lies.
    pub netns: &'a Netns,
    /// Its name there, at most 15 bytes.
    pub device: &'a str,
    /// Whether it receives by NAPI.
    pub gro: Gro,
}

/// Generic receive offload of a device; on veth, it is what makes it receive by NAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gro {
    /// On: frames redirected by an XDP program to the other end arrive.
    On,
    /// Off, as veth is made: frames redirected by an XDP program to the other end vanish, unless
    /// this end has an XDP program of its own.
    Off,
}

/// Who finishes the checksums of what a host sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// The host, in full, and it segments by itself: what native XDP on veth needs.
    Complete,
    /// Left to the device, with segmentation (the default of veth): packets carry partial sums and are
    /// up to 64 kB long.
    Partial,
}

/// What both ends of a pair have in common.
#[derive(Clone, Copy, Debug)]
pub struct Properties {
    /// The MTU.
    pub mtu: u32,
    /// Transmit and receive queues.
    pub queues: u32,
    /// Who finishes checksums.
    pub checksums: Checksums,
}

/// Joins two namespaces by a veth pair, both ends up.
pub fn veth(a: End<'_>, b: End<'_>, properties: Properties) -> Result<()> {
    let Properties { mtu, queues, checksums } = properties;
    let shape = format!("mtu {mtu} numtxqueues {queues} numrxqueues {queues}");
    a.netns.ip(&format!(
        "link add {} {shape} type veth peer name {} {shape} netns {}",
        a.device,
        b.device,
        b.netns.path().display(),
    ))?;
    for end in [a, b] {
        let gro = match end.gro {
            Gro::On => "on",
            Gro::Off => "off",
        };
        offload(end.netns, end.device, &["gro", gro])?;
        if checksums == Checksums::Complete {
            offload(end.netns, end.device, &["tx", "off"])?;
        }
        end.netns.ip(&format!("link set {} up", end.device))?;
    }
    Ok(())
}

/// Changes offloads of a device, as `ethtool -K` does.
pub fn offload(netns: &Netns, device: &str, settings: &[&str]) -> Result<()> {
    let arguments = [&["-K", device], settings].concat();
    netns.output("ethtool", &arguments).map(drop)
}

/// Makes a bridge that forwards from the first packet on.
pub fn bridge(netns: &Netns, device: &str, mtu: u32) -> Result<()> {
    netns.ip(&format!(
        "link add {device} mtu {mtu} type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
         link set {device} up"
    ))
}

/// Waits until a device has its carrier and none of its IPv6 addresses is tentative any more.
pub fn wait_ready(netns: &Netns, device: &str) -> Result<()> {
    wait_until(READY, &format!("{device} to be up, its addresses usable"), || {
        netns.run(|| running(device).unwrap_or(false) && !tentative(device))
    })
}

/// The hardware address of a device.
pub fn mac(netns: &Netns, device: &str) -> Result<String> {
    let line = netns.output("ip", &["-oneline", "link", "show", device])?;
    let mut words = line.split_whitespace().skip_while(|word| !word.starts_with("link/"));
    words.nth(1).map(str::to_owned).with_context(|| format!("{device} has no hardware address"))
}

/// The kernel's index of a device.
pub fn index(netns: &Netns, device: &str) -> Result<u32> {
    let name = CString::new(device)?;
    // SAFETY: the name is a C string that outlives the call.
    let index = netns.run(|| unsafe { libc::if_nametoindex(name.as_ptr()) });
    if index == 0 {
        anyhow::bail!("there is no device {device}");
    }
    Ok(index)
}

/// Whether a device of this thread's namespace is up with a carrier.
fn running(device: &str) -> io::Result<bool> {
    // An unbound datagram socket is the kernel's door for questions about devices.
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let name = &mut request.ifr_name[..libc::IFNAMSIZ - 1];
    for (place, byte) in name.iter_mut().zip(device.bytes()) {
        *place = byte.cast_signed();
    }
    // SAFETY: the request is an ifreq with a terminated name, as SIOCGIFFLAGS wants.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFFLAGS has just filled the flags.
    let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
    let wanted = libc::IFF_UP | libc::IFF_RUNNING;
    Ok(flags & wanted == wanted)
}

/// Whether an IPv6 address of a device in this thread's namespace still waits for its check.
fn tentative(device: &str) -> bool {
    /// IFA_F_TENTATIVE.
    const TENTATIVE: u32 = 0x40;
    // The file is absent where the kernel has no IPv6.
    let addresses = fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    addresses.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, _, flags, name] = words[..] else {
            return false;
        };
        name == device && u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & TENTATIVE != 0)
    })
}
