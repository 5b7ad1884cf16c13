//! How many segments the stack has received and sent on a connection.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd as _;

use tokio::net::TcpStream;

/// Of the kernel's `struct tcp_info` (`linux/tcp.h`, since 4.2): where these are, bytes.
const SEGMENTS_OUT: usize = 136;
const SEGMENTS_IN: usize = 140;
const LENGTH: usize = 144;

/// Segments received and sent.
pub(super) fn of(socket: &TcpStream) -> io::Result<(u64, u64)> {
    let mut info = MaybeUninit::<[u8; LENGTH]>::zeroed();
    let mut length = LENGTH as libc::socklen_t;
    let (fd, place) = (socket.as_raw_fd(), info.as_mut_ptr().cast());
    // SAFETY: the socket is open, and `info` has room for as many bytes as `length` says.
    let result =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut length) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: bytes, all of which are zero where the kernel has not written them.
    let info = unsafe { info.assume_init() };
    let count = |at: usize| {
        let bytes: [u8; 4] = [info[at], info[at + 1], info[at + 2], info[at + 3]];
        u64::from(u32::from_ne_bytes(bytes))
    };
    Ok((count(SEGMENTS_IN), count(SEGMENTS_OUT)))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn segments_of_a_connection_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut one = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut other, _) = listener.accept().await.unwrap();
        let (received, sent) = super::of(&other).unwrap();
        for _ in 0..10 {
            one.write_all(b"x").await.unwrap();
            other.read_exact(&mut [0]).await.unwrap();
        }
        let (more, _) = super::of(&other).unwrap();
        assert!(more >= received + 10, "{received}, then {more}; {sent} sent");
    }
}
