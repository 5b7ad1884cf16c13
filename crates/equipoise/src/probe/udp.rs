//! The check of type `udp`: a datagram, and what comes back.
//!
//! No answer is no good one: a host that is not there says as little as a port that keeps silent.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use equipoise_core::config::health::Udp;
use equipoise_core::health::{Failure, FailureKind};
use socket2::SockRef;
use tokio::net::UdpSocket;

use super::to::To;
use super::{contains, tcp};

/// The largest datagram.
const MOST: usize = 65_535;

/// Good when the answer contains what is expected.
pub(super) async fn check(to: To<'_>, udp: &Udp) -> Result<(), Failure> {
    let answer = exchange(to, &udp.send.bytes).await?;
    match &udp.expect {
        Some(expect) if !contains(&answer, &expect.bytes) => {
            let message = format!("the answer does not contain {:?}", expect.written);
            Err(Failure::new(FailureKind::UnexpectedAnswer, message))
        }
        _ => Ok(()),
    }
}

/// Sends a datagram and waits for one.
async fn exchange(to: To<'_>, sent: &[u8]) -> Result<Vec<u8>, Failure> {
    let socket = open(to).await?;
    socket.send(sent).await.map_err(|error| tcp::failure("sending", &error))?;
    receive(to, &socket).await
}

/// A socket that hears this address alone, ICMP errors included.
pub(super) async fn open(to: To<'_>) -> Result<UdpSocket, Failure> {
    let any: SocketAddr = match to.address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await.map_err(|error| tcp::failure("binding", &error))?;
    to.direct(&SockRef::from(&socket))?;
    socket.connect(to.address).await.map_err(|error| tcp::failure("connecting", &error))?;
    Ok(socket)
}

/// The next datagram.
pub(super) async fn receive(to: To<'_>, socket: &UdpSocket) -> Result<Vec<u8>, Failure> {
    let mut answer = vec![0; MOST];
    let length =
        socket.recv(&mut answer).await.map_err(|error| tcp::failure("receiving", &error))?;
    to.note_reached();
    answer.truncate(length);
    Ok(answer)
}
