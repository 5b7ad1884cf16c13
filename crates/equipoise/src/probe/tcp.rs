//! Connecting: the check of type `tcp`, and the first step of others.

use std::io;
use std::time::Duration;

use equipoise_core::health::{Failure, FailureKind};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use super::to::To;

/// Good when the connection is accepted; it is closed at once.
pub(super) async fn check(to: To<'_>) -> Result<(), Failure> {
    let stream = opened(to).await?;
    // With a RST: thousands of checks a second would leave as many connections in TIME_WAIT for a minute. Where that
    // cannot be asked for, closing does as well.
    drop(SockRef::from(&stream).set_linger(Some(Duration::ZERO)));
    Ok(())
}

/// A connection.
pub(super) async fn connect(to: To<'_>) -> Result<TcpStream, Failure> {
    let stream = opened(to).await?;
    // A request is one segment; where this cannot be had, it waits for nothing either.
    drop(stream.set_nodelay(true));
    Ok(stream)
}

async fn opened(to: To<'_>) -> Result<TcpStream, Failure> {
    let open = if to.address.is_ipv4() { TcpSocket::new_v4 } else { TcpSocket::new_v6 };
    let socket = open().map_err(|error| failure("opening a socket", &error))?;
    to.direct(&SockRef::from(&socket))?;
    let stream = socket.connect(to.address).await.map_err(|error| failure("connecting", &error))?;
    to.note_reached();
    Ok(stream)
}

/// What an error of the network says.
pub(super) fn failure(what: &str, error: &io::Error) -> Failure {
    use io::ErrorKind;
    let kind = match error.kind() {
        ErrorKind::ConnectionRefused => FailureKind::ConnectionRefused,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            FailureKind::ConnectionReset
        }
        ErrorKind::TimedOut => FailureKind::Timeout,
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => FailureKind::NoRoute,
        // TLS tells its own errors through those of the network, alerts of the other end among them.
        _ if error
            .get_ref()
            .is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) =>
        {
            FailureKind::Tls
        }
        _ => FailureKind::Io,
    };
    Failure::new(kind, format!("{what}: {error}"))
}
