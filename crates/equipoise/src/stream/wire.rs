//! What a worker and the control plane say to each other, over a unix socket: a length of 4 bytes in network order, and so much JSON.
//!
//! The control plane of another version may be at the other end, but never says anything but [`ToWorker::Listen`], [`ToWorker::Retire`], [`ToWorker::End`] and
//! [`ToWorker::Stop`] to a worker that it has not started: these, and what a worker says, grow by fields that may be missing alone.

use std::io;
use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::table::Table;

/// The longest message that is read, bytes: a table of all slots that there are is not as long.
const MOST: u32 = 1 << 30;

/// What the control plane says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToWorker {
    /// Whoever says this is told what comes about, and nobody else from here on.
    Listen,
    /// From here on this is how connections go on.
    Table(Box<Table>),
    /// These connections end, with a RST to both ends.
    End {
        /// Which.
        connections: Vec<u64>,
        /// Why, a [`equipoise_common::flow::Reason`] as a number.
        why: u32,
    },
    /// Another one takes up what comes: it ends with its last connection.
    Retire,
    /// It ends now.
    Stop,
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FromWorker {
    /// First of all: what it has moved in connections that have closed. Those that are open follow as opened.
    Hello {
        /// A number that no other worker of this instance is likely to have.
        id: u32,
        /// Its process.
        pid: u32,
        /// By backend.
        totals: Vec<Total>,
        /// What it has refused. Those before it have not told that.
        #[serde(default)]
        refused: Vec<Refused>,
    },
    /// The table is in force.
    Took,
    /// News, in the order in which they have come about.
    News(Vec<News>),
}

/// What has gone through a backend in connections that are over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Total {
    /// The backend, by id.
    pub(super) backend: u32,
    /// The one that holds that id.
    pub(super) holder: u64,
    /// Its service, by id.
    pub(super) service: u32,
    /// The one that holds that id.
    pub(super) service_holder: u64,
    /// Connections.
    pub(super) connections: u64,
    /// What they have moved.
    pub(super) moved: Moved,
}

/// Connections that were taken up and led to no backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refused {
    /// The service, by id.
    pub(super) service: u32,
    /// The one that holds that id.
    pub(super) holder: u64,
    /// Why, as a name: a worker of another version may have others.
    pub(super) why: String,
    /// How many, since the worker began.
    pub(super) count: u64,
}

/// What a connection has moved: bytes of its ends' data, and segments that the stack has received from the client and sent to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moved {
    /// Segments from the client.
    pub(super) packets_in: u64,
    /// Bytes from the client.
    pub(super) bytes_in: u64,
    /// Segments to the client.
    pub(super) packets_out: u64,
    /// Bytes to the client.
    pub(super) bytes_out: u64,
}

impl std::ops::AddAssign for Moved {
    fn add_assign(&mut self, other: Self) {
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
    }
}

/// Something that has come about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum News {
    /// A connection goes to a backend.
    Opened(Opened),
    /// So much has it moved by now.
    Moves {
        /// Which one.
        id: u64,
        /// In all.
        moved: Moved,
        /// Since it has last moved anything, milliseconds.
        idle_ms: u64,
        /// All that has been refused so far, if there is news of that. It comes with number 0, which no connection has: whoever is
        /// of a version that does not count it passes over that, and would not understand a word of its own.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        refused: Vec<Refused>,
    },
    /// It is over.
    Closed(Closed),
    /// Something is in the way, in words for the log.
    Trouble(String),
}

/// A connection that goes to a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Opened {
    /// Its number, within its worker.
    pub(super) id: u64,
    /// The client.
    pub(super) client: SocketAddr,
    /// What it has connected to.
    pub(super) vip: SocketAddr,
    /// Where it goes.
    pub(super) place: SocketAddr,
    /// The backend, by id.
    pub(super) backend: u32,
    /// The one that holds that id.
    pub(super) holder: u64,
    /// What the backend's generation was.
    pub(super) generation: u16,
    /// Its service, by id.
    pub(super) service: u32,
    /// The one that holds that id.
    pub(super) service_holder: u64,
    /// Since it was taken up, milliseconds.
    pub(super) age_ms: u64,
    /// Whether it was told before, to whoever listened then.
    pub(super) again: bool,
}

/// A connection that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Closed {
    /// Which one.
    pub(super) id: u64,
    /// Why, a [`equipoise_common::flow::Reason`] as a number.
    pub(super) why: u32,
    /// Whether its backend had answered.
    pub(super) established: bool,
    /// What it has moved.
    pub(super) moved: Moved,
    /// From its opening to the last that it has moved, milliseconds.
    pub(super) lasted_ms: u64,
    /// What its backend took to answer, nanoseconds; 0 where it has not.
    pub(super) handshake: u64,
}

/// Says something on a socket that waits, and waits for the answer.
pub(super) fn ask(
    mut worker: &std::os::unix::net::UnixStream,
    message: &ToWorker,
) -> io::Result<FromWorker> {
    use std::io::{Read as _, Write as _};
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    worker.write_all(&length.to_be_bytes())?;
    worker.write_all(&text)?;
    let mut length = [0; 4];
    worker.read_exact(&mut length)?;
    let mut text = vec![0; u32::from_be_bytes(length).min(MOST) as usize];
    worker.read_exact(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Reads a message; none at the end.
pub(super) async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<T>> {
    let length = match from.read_u32().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > MOST {
        return Err(io::Error::other(format!("a message of {length} bytes")));
    }
    let mut text = vec![0; length as usize];
    from.read_exact(&mut text).await?;
    Ok(Some(serde_json::from_slice(&text)?))
}

/// Writes a message.
pub(super) async fn write<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    to.write_u32(length).await?;
    to.write_all(&text).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_tell_of_refusals_and_who_does_not_know_them_are_understood() {
        let before = r#"{"hello":{"id":1,"pid":2,"totals":[]}}"#;
        let FromWorker::Hello { refused, .. } = serde_json::from_str(before).unwrap() else {
            panic!("it is a first word")
        };
        assert_eq!(refused, []);
        // What moves is said as ever.
        let moves = News::Moves { id: 7, moved: Moved::default(), idle_ms: 3, refused: Vec::new() };
        let said = serde_json::to_value(&moves).unwrap();
        let known = ["id", "idle_ms", "moved"];
        assert!(said["moves"].as_object().unwrap().keys().eq(known), "{said}");
        assert_eq!(serde_json::from_value::<News>(said).unwrap(), moves);
    }
}
