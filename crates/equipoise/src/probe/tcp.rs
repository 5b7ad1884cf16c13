//! Connecting: the check of type `tcp`, and the first step of others.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use equipoise_core::health::{Failure, FailureKind};
use socket2::SockRef;
use tokio::net::TcpStream;

/// Good when the connection is accepted; it is closed at once.
pub(super) async fn check(address: SocketAddr) -> Result<(), Failure> {
    let stream = opened(address).await?;
    // With a RST: thousands of checks a second would leave as many connections in TIME_WAIT for a minute. Where that
    // cannot be asked for, closing does as well.
    drop(SockRef::from(&stream).set_linger(Some(Duration::ZERO)));
    Ok(())
}

/// A connection.
pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = opened(address).await?;
    // A request is one segment; where this cannot be had, it waits for nothing either.
    drop(stream.set_nodelay(true));
    Ok(stream)
}

async fn opened(address: SocketAddr) -> Result<TcpStream, Failure> {
    TcpStream::connect(address).await.map_err(|error| failure("connecting", &error))
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
