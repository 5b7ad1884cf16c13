//! From a process that runs to the one that comes after it: what they say to each other.
//!
//! The next process is started by the one that runs, with one end of a pair of sockets as its standard input. It makes ready
//! (reads its configuration, has its programs verified) and says so; then the one that runs lets go of everything, and sends the lock of the
//! instance over; and the next says how its start has ended. Whichever way that is, there is one process at any time that
//! touches anything. A word is a line of JSON. Knows nothing of what either does.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// What makes a process the next one: a flag of `run` that nobody else gives.
pub const FLAG: &str = "--take-over";

/// How long the next process may take to make ready, on a slow machine with many programs to verify.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How long the one that runs may be busy with something else before it goes on.
const GO_WITHIN: Duration = Duration::from_secs(60);

/// What the next process says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// It has made ready, and has touched nothing.
    Ready,
    /// It runs.
    Running {
        /// Its version.
        version: String,
        /// Flows that it still carries over, from maps of another layout.
        #[serde(default)]
        to_be_carried: u64,
    },
    /// It does not come to run, and why.
    Failed(String),
}

/// The next process, as the one that runs sees it.
#[derive(Debug)]
pub struct Successor {
    child: Child,
    talk: UnixStream,
    words: mpsc::Receiver<Word>,
}

impl Successor {
    /// Starts a binary as this process was started, to come after it; with this file, if any, in place of the configuration that
    /// it was started with.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(binary: &Path, instead: Option<&Path>) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(binary)
            .args(arguments(std::env::args_os().skip(1), instead))
            // Who watches over this process is to watch over that one.
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        let (tell, words) = mpsc::channel(4);
        let reader = ours.try_clone()?;
        std::thread::Builder::new().name("successor".to_owned()).spawn(move || {
            // Nobody listens any more where this ends early.
            let _: Option<()> = listen(&reader, &tell);
        })?;
        Ok(Self { child, talk: ours, words })
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it says next; one that is gone has failed. Cancel-safe.
    pub async fn hear(&mut self) -> Word {
        let gone = || Word::Failed("it has ended; its log says why".to_owned());
        self.words.recv().await.unwrap_or_else(gone)
    }

    /// Everything is its own from here on, the lock too.
    ///
    /// # Errors
    ///
    /// When it cannot be told.
    pub fn go(&self, lock: &File) -> io::Result<()> {
        let fds = [lock.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut message = SendAncillaryBuffer::new(&mut space);
        if !message.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("no room for a file descriptor"));
        }
        sendmsg(&self.talk, &[IoSlice::new(b"g")], &mut message, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Ends it, and waits until it is gone.
    pub async fn end(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "ending the process that was to come next");
        }
    }
}

/// The arguments of the next process.
fn arguments(ours: impl Iterator<Item = OsString>, instead: Option<&Path>) -> Vec<OsString> {
    let ours = ours.filter(|argument| argument != FLAG);
    let mut arguments = match instead {
        None => ours.collect(),
        Some(file) => {
            let mut arguments = without_configuration(ours);
            arguments.extend(["--config".into(), file.into()]);
            arguments
        }
    };
    arguments.push(FLAG.into());
    arguments
}

/// All arguments but those that say what is balanced.
fn without_configuration(ours: impl Iterator<Item = OsString>) -> Vec<OsString> {
    /// `-c`, `-i`, `-p` and `-t` in full.
    const LONG: [&str; 4] = ["--config", "--interface", "--port", "--target"];
    let mut arguments = Vec::new();
    // How many of the next words are values of a flag that is left out.
    let mut values = 0;
    for argument in ours {
        let text = argument.to_string_lossy();
        let Some(flags) = text.strip_prefix('-') else {
            if values > 0 {
                values -= 1;
            } else {
                arguments.push(argument);
            }
            continue;
        };
        values = 0;
        let (name, value) = text.split_once('=').map_or((&*text, None), |(n, v)| (n, Some(v)));
        // Short ones may stand together behind those without a value.
        let others = flags.trim_start_matches('v');
        let has_own_value = if LONG.contains(&name) {
            value.is_some()
        } else if others.starts_with(['c', 'i', 'p', 't']) {
            if others.len() < flags.len() {
                arguments.push(text[..text.len() - others.len()].into());
            }
            others.len() > 1
        } else {
            arguments.push(argument);
            continue;
        };
        let takes_one = name.ends_with("config") || name.ends_with("port");
        let takes_one = takes_one || others.starts_with(['c', 'p']);
        values = if !takes_one { usize::MAX } else { usize::from(!has_own_value) };
    }
    arguments
}

/// Passes on what is said, until nothing is said any more.
fn listen(talk: &UnixStream, tell: &mpsc::Sender<Word>) -> Option<()> {
    talk.set_read_timeout(Some(READY_WITHIN)).ok()?;
    for line in BufReader::new(talk).lines() {
        let word = match line {
            Ok(line) => serde_json::from_str(&line).unwrap_or_else(|error| {
                Word::Failed(format!("it says {line:?}, which is not understood: {error}"))
            }),
            Err(error) => Word::Failed(format!("nothing is heard of it: {error}")),
        };
        tell.blocking_send(word).ok()?;
    }
    Some(())
}

/// The process that runs, as the next one sees it.
#[derive(Debug)]
pub struct Predecessor {
    talk: UnixStream,
}

impl Predecessor {
    /// At the other end of standard input.
    ///
    /// # Errors
    ///
    /// When that is no socket.
    pub fn at_stdin() -> io::Result<Self> {
        let talk = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        talk.peer_addr()?;
        talk.set_read_timeout(Some(GO_WITHIN))?;
        Ok(Self { talk })
    }

    /// Says that this process has made ready; answers with the lock of the instance, once everything is its own.
    ///
    /// # Errors
    ///
    /// When the other says nothing, or is gone.
    pub fn take(&mut self) -> io::Result<File> {
        self.say(&Word::Ready)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let read = recvmsg(
            &self.talk,
            &mut [IoSliceMut::new(&mut byte)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let mut fds = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let lock = fds.next().and_then(|mut fds| fds.next());
        match lock.filter(|_| read.bytes == 1) {
            Some(lock) => Ok(File::from(lock)),
            None => Err(io::Error::other("the process that runs has ended without handing over")),
        }
    }

    /// Says how the start has ended.
    ///
    /// # Errors
    ///
    /// When the other is gone.
    pub fn say(&mut self, word: &Word) -> io::Result<()> {
        let mut line = serde_json::to_string(word)?;
        line.push('\n');
        self.talk.write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn next_process_is_started_as_this_one_was_however_often() {
        let first = ["run", "-c", "a.toml"].map(OsString::from);
        let second = arguments(first.into_iter(), None);
        assert_eq!(second, ["run", "-c", "a.toml", FLAG]);
        assert_eq!(arguments(second.clone().into_iter(), None), second);
    }

    #[test]
    fn next_process_is_started_with_the_file_that_has_come_in_place_of_another() {
        for (line, kept) in [
            ("run", "run"),
            ("run -c a.toml --no-watch", "run --no-watch"),
            ("--config=a.toml --instance port run -v", "--instance port run -v"),
            ("-vca.toml run --on-exit keep", "-v run --on-exit keep"),
            ("-vvc a.toml run --take-over", "-vv run"),
            ("run -i eth0 eth1 -p80 -t 10.0.0.1:80 [::1]:80 --no-watch", "run --no-watch"),
            ("run --interface eth0 --port=80 --target a b -v", "run -v"),
            ("--socket /s run --port 80 --instance c", "--socket /s run --instance c"),
        ] {
            let next = arguments(line.split(' ').map(OsString::from), Some(Path::new("/b.toml")));
            let expected = format!("{kept} --config /b.toml {FLAG}");
            assert_eq!(next, expected.split(' ').collect::<Vec<_>>(), "{line}");
        }
    }

    #[tokio::test]
    async fn lock_goes_over_and_words_come_back() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (tell, words) = mpsc::channel(4);
        let reader = ours.try_clone().unwrap();
        std::thread::spawn(move || listen(&reader, &tell));
        let child = Command::new("true").spawn().unwrap();
        let mut successor = Successor { child, talk: ours, words };
        let mut lock = tempfile::tempfile().unwrap();
        lock.write_all(b"held").unwrap();
        let next = std::thread::spawn(move || {
            let mut predecessor = Predecessor { talk: theirs };
            let file = predecessor.take().unwrap();
            predecessor.say(&Word::Running { version: "2".to_owned(), to_be_carried: 0 }).unwrap();
            file
        });
        assert_eq!(successor.hear().await, Word::Ready);
        successor.go(&lock).unwrap();
        let running = Word::Running { version: "2".to_owned(), to_be_carried: 0 };
        assert_eq!(successor.hear().await, running);
        let mut file = next.join().unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "held", "it is the same file");
        assert!(matches!(successor.hear().await, Word::Failed(_)), "whoever is gone has failed");
    }

    #[test]
    fn one_that_is_left_alone_does_not_take_anything() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        assert!(Predecessor { talk: theirs }.take().is_err());
    }
}
