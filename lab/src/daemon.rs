//! A program that runs in a namespace, its log captured, and that never outlives the test.
//!
//! It gets SIGTERM when this process dies, however that happens, and SIGKILL when the handle is dropped. It is in a
//! process group of its own, so that Ctrl-C at the terminal reaches whoever started it and not it.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait::wait_for;

/// A running program.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
    parent: Option<Parent>,
}

impl Daemon {
    /// Starts a command, such as [`Netns::command`](crate::Netns::command) gives.
    pub fn start(mut command: Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        // SAFETY: between fork and exec the closure makes one system call and no allocation.
        unsafe { command.pre_exec(end_with_parent) };
        let (child, parent) = start_from_lasting_thread(command, &name)?;
        let mut daemon =
            Self { name, child, log: Arc::default(), readers: Vec::new(), parent: Some(parent) };
        if let Some(stdout) = daemon.child.stdout.take() {
            daemon.capture(stdout);
        }
        if let Some(stderr) = daemon.child.stderr.take() {
            daemon.capture(stderr);
        }
        Ok(daemon)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far, both streams in the order of arrival.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&lock(&self.log)).into_owned()
    }

    /// Waits until the log holds a text; an error, with the log, when it ends first or in vain.
    pub fn wait_for_log(&mut self, text: &str, deadline: Duration) -> Result<()> {
        self.wait_until_ready(deadline, &format!("{text:?} in its log"), |daemon| {
            daemon.log().contains(text)
        })
    }

    /// Waits for a condition while it runs; an error, with the log, when it ends first or in vain.
    pub fn wait_until_ready(
        &mut self,
        deadline: Duration,
        what: &str,
        mut ready: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let outcome = wait_for(deadline, what, || {
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() {
                self.read_to_end();
            }
            if ready(self) {
                return Some(None);
            }
            ended.map(Some)
        });
        match outcome {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                bail!("{} ended ({status}) before {what}; it said:\n{}", self.name, self.log())
            }
            Err(error) => Err(error.context(format!("{} said:\n{}", self.name, self.log()))),
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal, such as `libc::SIGHUP`; it must still run.
    pub fn signal(&mut self, signal: i32) -> Result<()> {
        // Not yet waited for, so its id cannot have been given to another.
        if let Some(status) = self.child.try_wait()? {
            self.read_to_end();
            bail!("{} has ended ({status}); it said:\n{}", self.name, self.log());
        }
        let pid = i32::try_from(self.child.id())?;
        // SAFETY: the id is that of our own child, which has not been waited for.
        if unsafe { libc::kill(pid, signal) } != 0 {
            return Err(io::Error::last_os_error())
                .context(format!("signal {signal} to {}", self.name));
        }
        Ok(())
    }

    /// Waits for its end.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let status = wait_for(deadline, &what, || self.child.try_wait().transpose())??;
        self.read_to_end();
        Ok(status)
    }

    /// Asks it to end by SIGTERM and waits; past the deadline it is killed, and that is an error.
    pub fn stop(mut self, deadline: Duration) -> Result<Stopped> {
        self.signal(libc::SIGTERM)?;
        let status = self.wait(deadline).with_context(|| format!("its log:\n{}", self.log()))?;
        Ok(Stopped { status, log: self.log() })
    }

    /// Ends it at once by SIGKILL, as a crash would.
    pub fn kill(mut self) -> Result<String> {
        self.child.kill()?;
        self.wait(Duration::from_secs(10))?;
        Ok(self.log())
    }

    /// Waits until all is read that it wrote before its end.
    fn read_to_end(&mut self) {
        for reader in self.readers.drain(..) {
            // A reader that panicked has kept what it read.
            drop(reader.join());
        }
    }

    fn capture(&mut self, mut stream: impl Read + Send + 'static) {
        let log = Arc::clone(&self.log);
        self.readers.push(thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = stream.read(&mut buffer) {
                if count == 0 {
                    return;
                }
                lock(&log).extend_from_slice(&buffer[..count]);
            }
        }));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Either may fail because it has ended already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
        if let Some(Parent { lasting, thread }) = self.parent.take() {
            drop(lasting);
            drop(thread.join());
        }
    }
}

/// How a program ended that was asked to.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// Its exit status.
    pub status: ExitStatus,
    /// All that it wrote.
    pub log: String,
}

/// The thread that a child was started from. It must last as long as the child: the signal at the
/// parent's death comes at the end of the *thread* that made the child.
#[derive(Debug)]
struct Parent {
    /// Dropped to let the thread end.
    lasting: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

fn start_from_lasting_thread(mut command: Command, name: &str) -> Result<(Child, Parent)> {
    let (started, start) = mpsc::channel();
    let (lasting, end) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        let child = command.spawn();
        drop(command);
        if started.send(child).is_ok() {
            // Nothing is ever sent: this ends when the handle drops its side.
            end.recv().ok();
        }
    });
    let child = start.recv()?.with_context(|| format!("{name} cannot be started"))?;
    Ok((child, Parent { lasting, thread }))
}

fn end_with_parent() -> io::Result<()> {
    // SAFETY: this prctl takes a signal number alone.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn lock(log: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    // A writer that panicked left whole bytes: nothing can be half done here.
    log.lock().unwrap_or_else(PoisonError::into_inner)
}
