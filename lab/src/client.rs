//! Asking servers, from inside a namespace: HTTP, TCP echo and UDP echo.
//!
//! Each answer says which backend gave it. The ends that [`crate::serve`] offers are what these know how to ask.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::content::{Bytes, Digest, digest_from, digest_of};
use crate::netns::Netns;
use crate::wait::PAUSE;

/// Bodies up to this length are kept as text.
const KEPT: u64 = 4096;

/// How to connect.
#[derive(Clone, Copy, Debug)]
pub struct Connect {
    /// The source address; the system's choice unless given.
    pub source: Option<IpAddr>,
    /// The source port; the system's choice unless given.
    pub source_port: Option<u16>,
    /// For the connection to open, and for each later wait on it.
    pub timeout: Duration,
}

impl Default for Connect {
    fn default() -> Self {
        let timeout = Duration::from_secs(10) * crate::patience();
        Self { source: None, source_port: None, timeout }
    }
}

impl Connect {
    /// From a source port.
    pub fn from_port(port: u16) -> Self {
        Self { source_port: Some(port), ..Self::default() }
    }

    /// With a time limit for each wait.
    pub fn within(timeout: Duration) -> Self {
        Self { timeout, ..Self::default() }
    }

    /// A TCP connection from the namespace of this thread.
    fn tcp(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let end = Instant::now() + self.timeout;
        loop {
            let socket = self.socket(to, Type::STREAM, Protocol::TCP)?;
            match socket.connect_timeout(&to.into(), self.timeout) {
                // The port's last connection still waits for its last ACK: a CPU that has it is busy, or away.
                Err(error) if self.source_port.is_some() && is_taken(&error, end) => {
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(error),
                Ok(()) => {
                    socket.set_tcp_nodelay(true)?;
                    return Ok(socket.into());
                }
            }
        }
    }

    /// A connected UDP socket, so that only answers from the asked address are taken.
    fn udp(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.socket(to, Type::DGRAM, Protocol::UDP)?;
        socket.connect(&to.into())?;
        Ok(socket.into())
    }

    fn socket(&self, to: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(to), kind, Some(protocol))?;
        if self.source.is_some() || self.source_port.is_some() {
            let any: IpAddr = if to.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            socket.set_reuse_address(true)?;
            let source =
                SocketAddr::from((self.source.unwrap_or(any), self.source_port.unwrap_or(0)));
            socket.bind(&source.into())?;
        }
        socket.set_read_timeout(Some(self.timeout))?;
        socket.set_write_timeout(Some(self.timeout))?;
        Ok(socket)
    }
}

/// Whether a port is not free yet, and there is time left to wait for it.
fn is_taken(error: &io::Error, end: Instant) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable && Instant::now() < end
}

/// An answer to an HTTP request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Which backend answered.
    pub backend: String,
    /// Length of the body.
    pub length: u64,
    /// Digest of the body.
    pub digest: u64,
    /// The body, where it is short text.
    pub text: String,
}

/// One `GET` on a connection of its own.
pub fn http_get(netns: &Netns, to: SocketAddr, path: &str, connect: &Connect) -> Result<Answer> {
    netns.run(|| get_here(to, path, connect))
}

/// The same, from the namespace that this thread is in.
pub(crate) fn get_here(to: SocketAddr, path: &str, connect: &Connect) -> Result<Answer> {
    let mut connection = HttpConnection::new(connect.tcp(to).context("connect")?);
    let answer = connection
        .request(&format!("GET {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n"))?;
    let mut rest = Vec::new();
    connection.reader.read_to_end(&mut rest).context("the end of the connection")?;
    ensure!(rest.is_empty(), "{} bytes after the answer", rest.len());
    Ok(answer)
}

/// Downloads `length` bytes of a seed, checks each, and gives the backend's name.
pub fn download(
    netns: &Netns,
    to: SocketAddr,
    (length, seed): (u64, u64),
    connect: &Connect,
) -> Result<String> {
    HttpConnection::open(netns, to, connect)?.download(length, seed)
}

/// Uploads `length` bytes of a seed, checks what the backend got, and gives its name.
pub fn upload(
    netns: &Netns,
    to: SocketAddr,
    (length, seed): (u64, u64),
    connect: &Connect,
) -> Result<String> {
    HttpConnection::open(netns, to, connect)?.upload(length, seed)
}

/// A connection kept open over several requests.
#[derive(Debug)]
pub struct HttpConnection {
    reader: BufReader<TcpStream>,
}

impl HttpConnection {
    /// Connects from a namespace.
    pub fn open(netns: &Netns, to: SocketAddr, connect: &Connect) -> Result<Self> {
        let stream =
            netns.run(|| connect.tcp(to)).with_context(|| format!("connecting to {to}"))?;
        Ok(Self::new(stream))
    }

    /// One `GET`.
    pub fn ask(&mut self, path: &str) -> Result<Answer> {
        self.request(&format!("GET {path} HTTP/1.1\r\nhost: lab\r\n\r\n"))
    }

    /// Downloads bytes of a seed, checks each, and gives the backend's name.
    pub fn download(&mut self, length: u64, seed: u64) -> Result<String> {
        let answer = self.ask(&format!("/bytes/{length}?seed={seed}"))?;
        ensure!(answer.status == 200, "status {}", answer.status);
        ensure!(answer.length == length, "{} bytes of {length} asked for", answer.length);
        ensure!(
            answer.digest == digest_of(seed, length),
            "the bytes of {} came damaged",
            answer.backend
        );
        Ok(answer.backend)
    }

    /// Uploads bytes of a seed, checks what the backend got, and gives its name.
    pub fn upload(&mut self, length: u64, seed: u64) -> Result<String> {
        let stream = self.reader.get_mut();
        let head = format!("PUT /upload HTTP/1.1\r\nhost: lab\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let sent = Bytes::new(seed).write_to(length, stream).context("sending")?;
        let answer = self.read_answer()?;
        ensure!(
            answer.text == format!("{sent} {length}"),
            "{} got other bytes: {}",
            answer.backend,
            answer.text
        );
        Ok(answer.backend)
    }

    /// This end's address and port.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.reader.get_ref().local_addr()?)
    }

    fn new(stream: TcpStream) -> Self {
        Self { reader: BufReader::new(stream) }
    }

    fn request(&mut self, text: &str) -> Result<Answer> {
        self.reader.get_mut().write_all(text.as_bytes()).context("sending")?;
        self.read_answer()
    }

    fn read_answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        self.reader.read_line(&mut line).context("the answer")?;
        ensure!(!line.is_empty(), "the connection ended before the answer");
        let status = line.split_whitespace().nth(1).and_then(|word| word.parse().ok());
        let status = status.with_context(|| format!("no status line: {line:?}"))?;
        let (mut backend, mut length) = (String::new(), None);
        loop {
            line.clear();
            self.reader.read_line(&mut line).context("the answer's head")?;
            let Some((key, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            match key {
                "x-backend" => value.clone_into(&mut backend),
                "content-length" => length = value.parse().ok(),
                _ => {}
            }
        }
        let length: u64 = length.context("an answer without its length")?;
        if length > KEPT {
            let digest = digest_from(&mut self.reader, length).context("the body")?;
            return Ok(Answer { status, backend, length, digest, text: String::new() });
        }
        let mut body = vec![0; usize::try_from(length)?];
        self.reader.read_exact(&mut body).context("the body")?;
        let mut digest = Digest::default();
        digest.add(&body);
        let text = String::from_utf8(body).unwrap_or_default();
        Ok(Answer { status, backend, length, digest: digest.value(), text })
    }
}

/// A connection to a [`crate::serve::TcpEcho`].
#[derive(Debug)]
pub struct EchoConnection {
    reader: BufReader<TcpStream>,
    backend: String,
}

impl EchoConnection {
    /// Connects from a namespace and reads who is there.
    pub fn open(netns: &Netns, to: SocketAddr, connect: &Connect) -> Result<Self> {
        let stream =
            netns.run(|| connect.tcp(to)).with_context(|| format!("connecting to {to}"))?;
        let mut reader = BufReader::new(stream);
        let mut backend = String::new();
        reader.read_line(&mut backend).context("the greeting")?;
        ensure!(backend.ends_with('\n'), "the connection ended before the greeting");
        backend.pop();
        Ok(Self { reader, backend })
    }

    /// Which backend it leads to.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// This end's address and port.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.reader.get_ref().local_addr()?)
    }

    /// Sends bytes and waits for the same ones back.
    pub fn ask(&mut self, bytes: &[u8]) -> Result<()> {
        self.reader.get_mut().write_all(bytes).context("sending")?;
        let mut answer = vec![0; bytes.len()];
        self.reader.read_exact(&mut answer).context("the echo")?;
        ensure!(answer == bytes, "{} sent other bytes back", self.backend);
        Ok(())
    }
}

/// A UDP socket that asks a [`crate::serve::UdpEcho`], always from the same port.
#[derive(Debug)]
pub struct UdpAsker {
    socket: UdpSocket,
}

impl UdpAsker {
    /// A socket in a namespace, for one address.
    pub fn open(netns: &Netns, to: SocketAddr, connect: &Connect) -> Result<Self> {
        let socket = netns.run(|| connect.udp(to)).with_context(|| format!("a socket for {to}"))?;
        Ok(Self { socket })
    }

    /// Sends a datagram, waits for its echo, and gives the backend's name.
    pub fn ask(&self, payload: &[u8]) -> Result<String> {
        self.socket.send(payload).context("sending")?;
        let mut buffer = vec![0; 65_536];
        let count = self.socket.recv(&mut buffer).context("the echo")?;
        let answer = &buffer[..count];
        let Some(colon) = answer.iter().position(|byte| *byte == b':') else {
            bail!("an answer without a name")
        };
        ensure!(&answer[colon + 1..] == payload, "other bytes came back");
        Ok(String::from_utf8_lossy(&answer[..colon]).into_owned())
    }

    /// This end's address and port.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }
}

/// Asks once by UDP, from a new port, and gives the backend's name.
pub fn udp_ask(netns: &Netns, to: SocketAddr, payload: &[u8], connect: &Connect) -> Result<String> {
    UdpAsker::open(netns, to, connect)?.ask(payload)
}
