//! Bytes from one socket to the other, both ways, until both ends have finished or one is broken.
//!
//! Each way begins with a buffer, and once more has gone through it than most answers are long, the kernel moves what follows through a
//! pipe (`splice`, Linux 2.6.17), without it being copied to this process and back. An end that has finished is told to the other one, which
//! may go on: half-closed connections stay so.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

use equipoise_common::flow::Reason;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What is copied before the kernel moves the rest, bytes.
const COPIED: u64 = 64 * 1024;
/// The buffer for that, bytes.
const BUFFER: usize = 16 * 1024;
/// What is moved at a time: what a pipe holds, bytes.
const PIPE: usize = 64 * 1024;

/// How far a connection has got.
#[derive(Debug)]
pub(super) struct Progress {
    begun: Instant,
    /// Bytes from the client.
    pub(super) bytes_in: AtomicU64,
    /// Bytes to the client.
    pub(super) bytes_out: AtomicU64,
    /// When anything was moved, milliseconds since it began.
    moved: AtomicU64,
    /// Which end has finished first: 0 for none.
    first: AtomicU8,
}

const CLIENT: u8 = 1;
const BACKEND: u8 = 2;

impl Progress {
    /// Of a connection that begins now.
    pub(super) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            begun: Instant::now(),
            bytes_in: zero(),
            bytes_out: zero(),
            moved: zero(),
            first: AtomicU8::new(0),
        }
    }

    /// Milliseconds since it began.
    pub(super) fn age(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// So, until anything was last moved.
    pub(super) fn lasted(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Milliseconds since anything was moved.
    pub(super) fn idle(&self) -> u64 {
        self.age().saturating_sub(self.lasted())
    }

    /// Something has been moved.
    pub(super) fn note(&self, way: &AtomicU64, bytes: u64) {
        way.fetch_add(bytes, Ordering::Relaxed);
        self.moved.store(self.age(), Ordering::Relaxed);
    }
}

/// Which end of a connection is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Client,
    Backend,
}

/// Moves bytes both ways; says why it has ended.
pub(super) async fn relay(client: &TcpStream, backend: &TcpStream, progress: &Progress) -> Reason {
    let up = way((client, End::Client), backend, (progress, &progress.bytes_in));
    let down = way((backend, End::Backend), client, (progress, &progress.bytes_out));
    match tokio::try_join!(up, down) {
        Ok(_) if progress.first.load(Ordering::Relaxed) == BACKEND => Reason::BackendFin,
        Ok(_) => Reason::ClientFin,
        Err(End::Client) => Reason::ClientReset,
        Err(End::Backend) => Reason::BackendReset,
    }
}

/// One way, to its end; fails with the end that is broken.
async fn way(
    (from, end): (&TcpStream, End),
    to: &TcpStream,
    (progress, bytes): (&Progress, &AtomicU64),
) -> Result<(), End> {
    let other = if end == End::Client { End::Backend } else { End::Client };
    let finished = match copied(from, to, (progress, bytes)).await {
        Ok(Copied::All) => Ok(()),
        Ok(Copied::Much) => moved(from, to, (progress, bytes)).await,
        Err(fault) => Err(fault),
    };
    match finished {
        Ok(()) => {
            let mark = if end == End::Client { CLIENT } else { BACKEND };
            let _: Result<u8, u8> =
                progress.first.compare_exchange(0, mark, Ordering::Relaxed, Ordering::Relaxed);
            // The other end may be gone already, which its own way says.
            let _: io::Result<()> = SockRef::from(to).shutdown(std::net::Shutdown::Write);
            Ok(())
        }
        Err(Fault::Read) => Err(end),
        Err(Fault::Write) => Err(other),
    }
}

/// Where it has failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Read,
    Write,
}

/// Whether there is more.
enum Copied {
    All,
    Much,
}

async fn copied(
    from: &TcpStream,
    to: &TcpStream,
    (progress, bytes): (&Progress, &AtomicU64),
) -> Result<Copied, Fault> {
    let mut buffer = vec![0; BUFFER];
    let mut sum = 0;
    while sum < COPIED {
        from.readable().await.map_err(|_| Fault::Read)?;
        let length = match from.try_read(&mut buffer) {
            Ok(0) => return Ok(Copied::All),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(Fault::Read),
        };
        write_all(to, &buffer[..length]).await.map_err(|_| Fault::Write)?;
        progress.note(bytes, length as u64);
        sum += length as u64;
    }
    Ok(Copied::Much)
}

/// Writes all of it.
pub(super) async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What is left, through a pipe.
async fn moved(
    from: &TcpStream,
    to: &TcpStream,
    (progress, bytes): (&Progress, &AtomicU64),
) -> Result<(), Fault> {
    let Ok((end, begin)) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) else {
        // There are no more files: it goes on as it has begun.
        loop {
            if let Copied::All = copied(from, to, (progress, bytes)).await? {
                return Ok(());
            }
        }
    };
    loop {
        let length = through(from, Interest::READABLE, || splice_in(from, &begin)).await;
        let mut left = length.map_err(|_| Fault::Read)?;
        if left == 0 {
            return Ok(());
        }
        while left > 0 {
            let out = through(to, Interest::WRITABLE, || splice_out(&end, to, left)).await;
            let length = out.map_err(|_| Fault::Write)?;
            left -= length;
            progress.note(bytes, length as u64);
        }
    }
}

/// Waits until a socket can be read or written, and that has been done.
async fn through(
    socket: &TcpStream,
    interest: Interest,
    mut act: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    socket.async_io(interest, &mut act).await
}

const HOW: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

fn splice_in(from: &TcpStream, pipe: &OwnedFd) -> io::Result<usize> {
    Ok(splice(from, None, pipe, None, PIPE, HOW)?)
}

fn splice_out(pipe: &OwnedFd, to: &TcpStream, length: usize) -> io::Result<usize> {
    Ok(splice(pipe, None, to, None, length, HOW)?)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Two ends of a connection over loopback.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (one, listener.accept().await.unwrap().0)
    }

    struct Relayed {
        client: TcpStream,
        backend: TcpStream,
        ended: tokio::task::JoinHandle<(Reason, u64, u64)>,
    }

    async fn relayed() -> Relayed {
        let ((client, one), (other, backend)) = (pair().await, pair().await);
        let ended = tokio::spawn(async move {
            let progress = Progress::new();
            let why = relay(&one, &other, &progress).await;
            let [to_backend, to_client] = [&progress.bytes_in, &progress.bytes_out]
                .map(|bytes| bytes.load(Ordering::Relaxed));
            (why, to_backend, to_client)
        });
        Relayed { client, backend, ended }
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|at| (at * 7 + at / 251) as u8).collect()
    }

    #[tokio::test]
    async fn short_and_long_streams_arrive_whole_and_half_closed_ones_go_on() {
        for count in [0, 1, BUFFER, COPIED as usize, 20 * 1024 * 1024 + 3] {
            let Relayed { mut client, mut backend, ended } = relayed().await;
            let sent = bytes(count);
            let wanted = sent.clone();
            let writer = tokio::spawn(async move {
                client.write_all(&sent).await.unwrap();
                client.shutdown().await.unwrap();
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).await.unwrap();
                answer
            });
            let mut got = Vec::new();
            backend.read_to_end(&mut got).await.unwrap();
            assert!(got == wanted, "{count} bytes");
            // The client has finished; the backend has not.
            backend.write_all(&wanted).await.unwrap();
            drop(backend);
            assert!(writer.await.unwrap() == wanted, "{count} bytes");
            let count = count as u64;
            assert_eq!(ended.await.unwrap(), (Reason::ClientFin, count, count));
        }
    }

    #[tokio::test]
    async fn who_ends_it_is_told() {
        let Relayed { mut client, mut backend, ended } = relayed().await;
        backend.write_all(b"bye").await.unwrap();
        backend.shutdown().await.unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"bye");
        drop(client);
        assert_eq!(ended.await.unwrap(), (Reason::BackendFin, 0, 3));
        for (of_client, why) in [(true, Reason::ClientReset), (false, Reason::BackendReset)] {
            let Relayed { client, backend, ended } = relayed().await;
            let (broken, _other) = if of_client { (client, backend) } else { (backend, client) };
            SockRef::from(&broken).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            drop(broken);
            assert_eq!(ended.await.unwrap().0, why);
        }
    }
}
