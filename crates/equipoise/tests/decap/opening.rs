//! The first packet of a real connection of a VIP, as it is on the link.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use equipoise_lab::client::{Connect, http_get};
use equipoise_lab::link::{Checksums, Gro};
use equipoise_lab::serve::HttpServer;
use equipoise_lab::{Netns, link};

use crate::bench::SEGMENTS;
use crate::host::{DEADLINE, Hosts, Link, Process, TC, vips};

/// All that comes by `eth0`.
fn listen(netns: &Netns) -> std::fs::File {
    let index = link::index(netns, "eth0").unwrap();
    let all = libc::ETH_P_ALL.to_be() >> 16;
    // SAFETY: takes plain numbers.
    let socket = netns.run(|| unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, all) });
    assert!(socket >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the kernel has just given it to us.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all-zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index.cast_signed();
    let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: an address of ours, with its length.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
    assert_eq!(bound, 0, "{}", io::Error::last_os_error());
    let seconds = DEADLINE.as_secs() as libc::time_t;
    let time = libc::timeval { tv_sec: seconds, tv_usec: 0 };
    let size = size_of::<libc::timeval>() as libc::socklen_t;
    let (fd, time) = (socket.as_raw_fd(), (&raw const time).cast());
    // SAFETY: an option of ours, with its length.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, time, size) };
    socket.into()
}

/// The sum of words (RFC 1071).
fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum()
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// Waits for the answer to a connection's first packet, and gives its IP header and its TCP segment.
fn opening(frames: &mut std::fs::File, vip: SocketAddr) -> (Vec<u8>, Vec<u8>) {
    const SYN_ACK: u8 = 0x12;
    let mut buffer = [0; 2000];
    loop {
        let length = frames.read(&mut buffer).unwrap();
        let Some(packet) = buffer[..length].get(14..) else { continue };
        let (header, protocol) = if vip.is_ipv4() { (20, 9) } else { (40, 6) };
        let kind = if vip.is_ipv4() { 4 } else { 6 };
        if packet[0] >> 4 != kind || packet.get(protocol) != Some(&6) {
            continue;
        }
        let (ip, segment) = packet.split_at(header);
        if segment[13] == SYN_ACK && segment[..2] == vip.port().to_be_bytes() {
            return (ip.to_vec(), segment.to_vec());
        }
    }
}

/// The sum of the pseudo-header.
fn pseudo(ip: &[u8], segment: &[u8]) -> u32 {
    let addresses = if ip.len() == 20 { &ip[12..20] } else { &ip[8..40] };
    sum(addresses) + 6 + segment.len() as u32
}

/// The largest segment that is told of, which Linux puts first.
fn told(segment: &[u8]) -> u16 {
    assert_eq!(segment[20..22], [2, 4]);
    u16::from_be_bytes([segment[22], segment[23]])
}

fn first_packets(checksums: Checksums, check: impl Fn(&[u8], &[u8])) {
    let hosts = Hosts::new(Link { checksums, gro: Gro::Off });
    let mut process = Process::with_vips(&hosts, TC);
    let http = HttpServer::start(&hosts.backend, "b1", &vips()).unwrap();
    for (vip, fits) in vips().into_iter().zip(SEGMENTS) {
        let mut frames = listen(&hosts.client);
        http_get(&hosts.client, vip, "/", &Connect::default()).unwrap();
        let (ip, segment) = opening(&mut frames, vip);
        assert_eq!(told(&segment), fits);
        check(&ip, &segment);
    }
    drop(http);
    assert!(process.end()["verdicts"]["mss_lowered"].as_u64() >= Some(2));
}

#[test]
fn the_checksum_is_right_with_the_lower_segment() {
    first_packets(Checksums::Complete, |ip, segment| {
        assert_eq!(folded(pseudo(ip, segment) + sum(segment)), 0xffff);
    });
}

/// A device adds the rest, the segment that is told of included: what stands there is of the pseudo-header alone.
#[test]
fn a_checksum_that_a_device_completes_is_left_to_it() {
    first_packets(Checksums::Partial, |ip, segment| {
        let field = u16::from_be_bytes([segment[16], segment[17]]);
        assert_eq!(field, folded(pseudo(ip, segment)));
    });
}
