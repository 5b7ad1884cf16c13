//! The UDP echo server.

use std::io;
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use socket2::SockRef;

use crate::netns::Netns;

/// The largest payload of a datagram.
const LARGEST: usize = 65_507;

/// Answers every datagram with `NAME:` and what it was sent, from the address it was sent to.
#[derive(Debug)]
pub struct UdpEcho {
    addresses: Vec<SocketAddr>,
    sockets: Vec<UdpSocket>,
    threads: Vec<JoinHandle<()>>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    received: AtomicU64,
    ending: AtomicBool,
}

impl UdpEcho {
    /// Receives on all addresses, which must not be wildcards; port 0 takes a free one.
    pub fn start(netns: &Netns, name: &str, addresses: &[SocketAddr]) -> Result<Self> {
        let mut server = Self {
            addresses: Vec::new(),
            sockets: Vec::new(),
            threads: Vec::new(),
            state: Arc::default(),
        };
        for address in addresses {
            let socket = netns.run(|| UdpSocket::bind(address));
            let socket = socket.with_context(|| format!("receiving on {address}"))?;
            let (own, state, name) =
                (socket.try_clone()?, Arc::clone(&server.state), format!("{name}:"));
            server.addresses.push(socket.local_addr()?);
            server.sockets.push(socket);
            server.threads.push(thread::spawn(move || answer(&own, &state, &name)));
        }
        Ok(server)
    }

    /// Where it receives.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Datagrams received so far.
    pub fn received(&self) -> u64 {
        self.state.received.load(Ordering::Relaxed)
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.state.ending.store(true, Ordering::Relaxed);
        for (socket, address) in self.sockets.iter().zip(&self.addresses) {
            // A datagram to itself wakes whoever receives; where its device is gone, shutting down does, with an
            // answer that the library takes amiss.
            if socket.send_to(&[], address).is_err() {
                drop(SockRef::from(socket).shutdown(Shutdown::Both));
            }
        }
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn answer(socket: &UdpSocket, state: &State, prefix: &str) {
    let mut buffer = vec![0; prefix.len() + LARGEST];
    buffer[..prefix.len()].copy_from_slice(prefix.as_bytes());
    loop {
        let received = socket.recv_from(&mut buffer[prefix.len()..]);
        if state.ending.load(Ordering::Relaxed) {
            return;
        }
        match received {
            Ok((count, peer)) => {
                state.received.fetch_add(1, Ordering::Relaxed);
                let whole = (prefix.len() + count).min(LARGEST);
                // A lost answer is the asker's to notice.
                drop(socket.send_to(&buffer[..whole], peer));
            }
            // An ICMP error about an earlier answer.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) => return,
        }
    }
}
