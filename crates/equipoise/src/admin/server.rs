//! The listening socket: made with its mode, served until told to end, removed at the end.

use std::fs;
use std::future::ready;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::peer::Peer;
use super::{Access, routes};
use crate::metrics::Exporter;
use crate::serving::{Accepted, Entrance, PATIENCE, Stream, serve};

/// How long answers on their way are waited for at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// The socket, bound and not served yet.
#[derive(Debug)]
pub struct AdminSocket {
    path: PathBuf,
    listener: UnixListener,
}

/// The admin API, being served.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[error("admin socket {}: {source}", path.display())]
pub struct SocketError {
    /// Where.
    path: PathBuf,
    /// Why not.
    source: io::Error,
}

impl AdminSocket {
    /// Binds the socket. One that a dead process has left is replaced; one that somebody answers
    /// on is not.
    ///
    /// # Errors
    ///
    /// When somebody answers there, or it cannot be made.
    pub async fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError { path: path.to_owned(), source };
        if UnixStream::connect(path).await.is_ok() {
            return Err(failed(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process answers there",
            )));
        }
        Self::take_place(path)
    }

    /// Binds the socket in place of whoever answers there.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn take_place(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError { path: path.to_owned(), source };
        // Bound under another name and moved, so that nobody finds it before its mode is right, and everybody finds one.
        let fresh = path.with_extension(format!("sock.{}", std::process::id()));
        remove(&fresh).map_err(failed)?;
        let listener = UnixListener::bind(&fresh).map_err(failed)?;
        let placed = fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&fresh, path));
        if let Err(source) = placed {
            remove(&fresh).map_err(failed)?;
            return Err(failed(source));
        }
        Ok(Self { path: path.to_owned(), listener })
    }

    /// Serves the admin API on it, in a task of its own.
    pub fn serve(self, access: Access, exporter: Exporter) -> Server {
        let (end, ended) = oneshot::channel();
        let router = routes::router(access, exporter);
        let serving = serve(Door(self.listener), router, ended, PATIENCE);
        let task = tokio::spawn(async { serving.await.finish().await });
        Server { path: self.path, end, task }
    }
}

/// The socket as a way in.
struct Door(UnixListener);

impl Entrance for Door {
    type Peer = Peer;

    async fn accept(&mut self) -> io::Result<Accepted<Peer>> {
        let (stream, _) = self.0.accept().await?;
        let by = Peer::User(stream.peer_cred().ok().map(|credentials| credentials.uid()));
        let stream: Stream = Box::new(stream);
        Ok(Accepted { by, ready: Box::pin(ready(Ok(stream))) })
    }
}

impl Server {
    /// Removes the socket: nobody new finds it, those connected keep their connection.
    pub fn unlink(&self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the admin socket stays");
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Is served at another socket, too: that of before is nobody's way in any more.
    pub fn replace(&mut self, other: Self) {
        let before = std::mem::replace(self, other);
        // Those who are connected are answered; it ends with the process.
        drop(before.task);
    }

    /// Lets answers on their way arrive, and ends.
    pub async fn end(self) {
        if self.end.send(()).is_err() {
            return;
        }
        if tokio::time::timeout(LAST_ANSWERS, self.task).await.is_err() {
            tracing::debug!("an admin connection was cut");
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
