//! Accepting connections, and the TCP echo server.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use socket2::SockRef;

use crate::content::CHUNK;
use crate::netns::Netns;

/// Small, so that a thousand connections cost little.
const STACK: usize = 256 * 1024;

/// Answers every connection with a line of its name, then with what it is sent.
#[derive(Debug)]
pub struct TcpEcho {
    acceptor: Acceptor,
}

impl TcpEcho {
    /// Listens on all addresses; port 0 takes a free one.
    pub fn start(netns: &Netns, name: &str, addresses: &[SocketAddr]) -> Result<Self> {
        let greeting = format!("{name}\n");
        let acceptor = Acceptor::start(netns, addresses, move |stream| echo(stream, &greeting))?;
        Ok(Self { acceptor })
    }

    /// So, for connections that begin with a PROXY header of version 2; one that does not is ended.
    pub fn start_told(netns: &Netns, name: &str, addresses: &[SocketAddr]) -> Result<Self> {
        let greeting = format!("{name}\n");
        let serve = move |stream: &TcpStream| {
            read_header(stream)?;
            echo(stream, &greeting)
        };
        Ok(Self { acceptor: Acceptor::start(netns, addresses, serve)? })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.acceptor.addresses
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.acceptor.connections()
    }
}

/// Reads a PROXY header: a signature, what it is, and the length of the rest.
fn read_header(stream: &TcpStream) -> io::Result<()> {
    let mut stream = stream;
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    if head[..12] != *b"\r\n\r\n\0\r\nQUIT\n" {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut rest = vec![0; usize::from(u16::from_be_bytes([head[14], head[15]]))];
    stream.read_exact(&mut rest)
}

fn echo(stream: &TcpStream, greeting: &str) -> io::Result<()> {
    let mut stream = stream;
    stream.write_all(greeting.as_bytes())?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count])?;
    }
}

/// Listening sockets with a thread each, and a thread for each of their connections.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) addresses: Vec<SocketAddr>,
    listeners: Vec<TcpListener>,
    threads: Vec<JoinHandle<()>>,
    live: Arc<Live>,
}

impl Acceptor {
    /// Serves each connection by the closure; an error of it ends that connection alone.
    pub(super) fn start(
        netns: &Netns,
        addresses: &[SocketAddr],
        serve: impl Fn(&TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let mut acceptor = Self {
            addresses: Vec::new(),
            listeners: Vec::new(),
            threads: Vec::new(),
            live: Arc::default(),
        };
        let serve = Arc::new(serve);
        for address in addresses {
            let listener = netns.run(|| TcpListener::bind(address));
            let listener = listener.with_context(|| format!("listening on {address}"))?;
            let (socket, live, serve) =
                (listener.try_clone()?, Arc::clone(&acceptor.live), Arc::clone(&serve));
            acceptor.addresses.push(listener.local_addr()?);
            acceptor.listeners.push(listener);
            acceptor.threads.push(thread::spawn(move || accept(&socket, &live, &serve)));
        }
        Ok(acceptor)
    }

    pub(super) fn connections(&self) -> u64 {
        self.live.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        for listener in &self.listeners {
            // On Linux this ends a waiting `accept`; it fails only for a socket that listens no more.
            drop(SockRef::from(listener).shutdown(Shutdown::Both));
        }
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
        self.live.end();
    }
}

/// The connections that are open.
#[derive(Debug, Default)]
struct Live {
    accepted: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<TcpStream>>>,
    closed: Condvar,
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<TcpStream>>> {
        // Only insert and remove happen under the lock.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts every connection and waits until their threads are done with them.
    fn end(&self) {
        let mut open = self.lock();
        for stream in open.values() {
            // One that its peer has cut already is what is wanted.
            drop(stream.shutdown(Shutdown::Both));
        }
        while !open.is_empty() {
            open = self.closed.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Takes a connection out of the list however its thread ends.
struct Leaving {
    live: Arc<Live>,
    number: u64,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.live.lock().remove(&self.number);
        self.live.closed.notify_all();
    }
}

fn accept<F>(listener: &TcpListener, live: &Arc<Live>, serve: &Arc<F>)
where
    F: Fn(&TcpStream) -> io::Result<()> + Send + Sync + 'static,
{
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => Arc::new(stream),
            // The peer gave up while it waited to be accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(_) => return,
        };
        let number = live.accepted.fetch_add(1, Ordering::Relaxed);
        live.lock().insert(number, Arc::clone(&stream));
        let leaving = Leaving { live: Arc::clone(live), number };
        let serve = Arc::clone(serve);
        let spawned = thread::Builder::new().stack_size(STACK).spawn(move || {
            // The other end sees a broken connection and reports it.
            drop(serve(&stream));
            drop(stream);
            drop(leaving);
        });
        if spawned.is_err() {
            return;
        }
    }
}
