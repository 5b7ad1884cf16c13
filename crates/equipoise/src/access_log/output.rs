//! Where lines go: each output with the lines that it has not taken yet.
//!
//! An output that fails keeps its lines and is tried again a second later; so many are kept, and those that come then are lost to it
//! and counted. The other output goes on.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use equipoise_core::config::AccessLog as Wanted;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Counts;
use super::file::LogFile;

/// Lines are gathered up to this, bytes, before they are written, while more flows wait.
const GATHERED: usize = 64 << 10;
/// Lines that are kept while an output fails, bytes.
const KEPT: usize = 1 << 20;
/// A pipe that can be written takes so much at once without waiting for its reader (`PIPE_BUF`).
const PIECE: usize = 4 << 10;
/// How long a reader of standard output may take for that.
const READER: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// How long an output that has failed is left alone.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Debug)]
enum Target {
    /// A file; none while it cannot be opened.
    File(Box<Wanted>, Option<LogFile>),
    /// A descriptor of its own, without the buffer that the process has for it.
    Stdout(Option<File>),
}

/// An output.
#[derive(Debug)]
pub(super) struct Output {
    target: Target,
    lines: Vec<u8>,
    count: u64,
    /// It takes nothing.
    failed: Option<Failed>,
    /// It takes more than it should, since it cannot be put aside.
    overfull: Option<Failed>,
}

#[derive(Debug)]
struct Failed {
    again: Instant,
    reason: String,
}

impl Output {
    /// Those that are wanted.
    pub(super) fn all(wanted: &Wanted) -> Vec<Self> {
        let new =
            |target| Self { target, lines: Vec::new(), count: 0, failed: None, overfull: None };
        let file = wanted.path.is_some().then(|| Target::File(Box::new(wanted.clone()), None));
        let stdout = wanted.stdout.then_some(Target::Stdout(None));
        let mut all: Vec<_> = file.into_iter().chain(stdout).map(new).collect();
        // What cannot be opened is told at once, and not with the first flow.
        all.iter_mut().for_each(Self::open);
        all
    }

    /// Its name in counts and failures.
    pub(super) fn name(&self) -> &'static str {
        match self.target {
            Target::File(..) => "file",
            Target::Stdout(_) => "stdout",
        }
    }

    fn number(&self) -> usize {
        match self.target {
            Target::File(..) => 0,
            Target::Stdout(_) => 1,
        }
    }

    /// What is wrong with it.
    pub(super) fn reason(&self) -> Option<&str> {
        let failed = self.failed.as_ref().or(self.overfull.as_ref());
        failed.map(|failed| failed.reason.as_str())
    }

    /// When to try again.
    pub(super) fn again(&self) -> Option<Instant> {
        self.failed.as_ref().map(|failed| failed.again)
    }

    /// Takes a line, and writes when there is enough of them.
    pub(super) fn take(&mut self, line: &[u8], counts: &Counts) {
        let is_full = match &self.target {
            Target::File(_, Some(file)) => file.is_full_with(self.lines.len() + line.len()),
            Target::File(_, None) | Target::Stdout(_) => false,
        };
        if is_full {
            self.flush(counts);
            self.rotate(line.len());
        } else {
            self.overfull = None;
        }
        if self.lines.len() + line.len() > KEPT {
            counts.dropped[self.number()].fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.lines.extend_from_slice(line);
        self.count += 1;
        if self.lines.len() >= GATHERED {
            self.flush(counts);
        }
    }

    /// Writes what is there, unless it has failed just now.
    pub(super) fn flush(&mut self, counts: &Counts) {
        if self.failed.as_ref().is_some_and(|failed| failed.again > Instant::now()) {
            return;
        }
        self.open();
        let (written, outcome) = match &mut self.target {
            Target::File(_, None) | Target::Stdout(None) => return,
            Target::File(_, Some(file)) => file.append(&self.lines),
            Target::Stdout(Some(out)) => say(out, &self.lines),
        };
        let lines = self.lines.drain(..written).filter(|byte| *byte == b'\n').count() as u64;
        self.count -= lines;
        counts.written[self.number()].fetch_add(lines, Ordering::Relaxed);
        match outcome {
            Ok(()) => self.failed = None,
            Err(error) => self.fail(&format!("cannot be written: {error}")),
        }
        if let Target::File(_, Some(file)) = &self.target {
            counts.size.store(file.size(), Ordering::Relaxed);
        }
    }

    /// Puts the file aside, if so many more bytes do not belong into it. Where that fails it grows: that is better than losing lines.
    fn rotate(&mut self, bytes: usize) {
        let Target::File(wanted, Some(file)) = &mut self.target else { return };
        let is_tried = self.overfull.as_ref().is_some_and(|failed| failed.again > Instant::now());
        if is_tried || self.failed.is_some() || !file.is_full_with(bytes) {
            return;
        }
        self.overfull = file
            .rotate()
            .err()
            .map(|error| Failed::now(wanted, &format!("is full and cannot be put aside: {error}")));
    }

    /// Opens the file anew: it may have been moved.
    pub(super) fn reopen(&mut self, counts: &Counts) {
        self.flush(counts);
        if let Target::File(_, file) = &mut self.target {
            *file = None;
        }
        self.open();
    }

    /// Gives up what it has not written.
    pub(super) fn end(&mut self, counts: &Counts) {
        self.flush(counts);
        let lost = std::mem::take(&mut self.count);
        let dropped: &AtomicU64 = &counts.dropped[self.number()];
        dropped.fetch_add(lost, Ordering::Relaxed);
        self.lines.clear();
    }

    fn open(&mut self) {
        let opened = match &mut self.target {
            Target::File(_, Some(_)) | Target::Stdout(Some(_)) => return,
            Target::Stdout(out @ None) => io::stdout()
                .as_fd()
                .try_clone_to_owned()
                .map(|descriptor| *out = Some(File::from(descriptor))),
            Target::File(wanted, file @ None) => {
                let Some(path) = &wanted.path else { return };
                LogFile::open(path, wanted).map(|opened| *file = Some(opened))
            }
        };
        match opened {
            Ok(()) => self.failed = None,
            Err(error) => self.fail(&format!("cannot be opened: {error}")),
        }
    }

    fn fail(&mut self, why: &str) {
        self.failed = Some(match &self.target {
            Target::File(wanted, _) => Failed::now(wanted, why),
            Target::Stdout(_) => Failed::of("standard output", why),
        });
    }
}

impl Failed {
    fn now(wanted: &Wanted, why: &str) -> Self {
        let path = wanted.path.as_ref().map(|path| path.display().to_string());
        Self::of(&path.unwrap_or_default(), why)
    }

    fn of(what: &str, why: &str) -> Self {
        Self { again: Instant::now() + PAUSE, reason: format!("access log: {what} {why}") }
    }
}

/// Writes to standard output, as long as somebody reads it: a pipe that is full is not waited for. So much has gone through.
fn say(out: &mut File, lines: &[u8]) -> (usize, io::Result<()>) {
    let mut said = 0;
    while said < lines.len() {
        let mut ready = [PollFd::new(out, PollFlags::OUT)];
        match poll(&mut ready, Some(&READER)) {
            Ok(0) => return (said, Err(io::Error::other("nobody reads it"))),
            Ok(_) => {}
            Err(error) => return (said, Err(error.into())),
        }
        let piece = &lines[said..lines.len().min(said + PIECE)];
        match out.write(piece) {
            Ok(0) => return (said, Err(io::ErrorKind::WriteZero.into())),
            Ok(some) => said += some,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (said, Err(error)),
        }
    }
    (said, Ok(()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::os::fd::OwnedFd;

    use super::*;

    fn wanted(path: &std::path::Path) -> Wanted {
        Wanted { path: Some(path.to_owned()), ..Wanted::default() }
    }

    fn read(counts: &AtomicU64) -> u64 {
        counts.load(Ordering::Relaxed)
    }

    /// Has it tried again at once.
    fn patient(output: &mut Output, counts: &Counts) {
        if let Some(failed) = &mut output.failed {
            failed.again = Instant::now();
        }
        output.flush(counts);
    }

    #[test]
    fn what_cannot_be_opened_is_kept_and_written_once_it_can_be() {
        let folder = tempfile::tempdir().unwrap();
        let (counts, blocked) = (Counts::default(), folder.path().join("blocked"));
        fs::write(&blocked, "a file where a folder belongs").unwrap();
        let path = blocked.join("a.log");
        let mut output = Output::all(&wanted(&path)).remove(0);
        assert!(output.reason().unwrap().contains("a.log cannot be opened: "));
        output.take(b"one\n", &counts);
        patient(&mut output, &counts);
        assert_eq!((output.count, read(&counts.written[0])), (1, 0));
        fs::remove_file(&blocked).unwrap();
        patient(&mut output, &counts);
        assert_eq!((output.reason(), read(&counts.written[0])), (None, 1));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
        assert_eq!(read(&counts.size), 4);
    }

    #[test]
    fn full_device_is_told_and_loses_what_does_not_fit_in_memory_alone() {
        let counts = Counts::default();
        let mut output = Output::all(&wanted("/dev/full".as_ref())).remove(0);
        assert_eq!(output.reason(), None);
        let line = [b'x'; 1023].into_iter().chain([b'\n']).collect::<Vec<_>>();
        for _ in 0..KEPT / line.len() + 5 {
            output.take(&line, &counts);
        }
        let reason = output.reason().unwrap();
        assert!(reason.starts_with("access log: /dev/full cannot be written: "), "{reason}");
        assert_eq!((output.count, read(&counts.dropped[0])), ((KEPT / line.len()) as u64, 5));
        output.end(&counts);
        assert_eq!(read(&counts.dropped[0]), (KEPT / line.len()) as u64 + 5);
        assert_eq!(read(&counts.written[0]), 0);
    }

    #[test]
    fn file_that_cannot_be_put_aside_goes_on_and_that_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let counts = Counts::default();
        let path = folder.path().join("a.log");
        // Nothing is renamed over a folder that is in use.
        fs::create_dir_all(folder.path().join("a.log.1/x")).unwrap();
        fs::write(&path, vec![b'\n'; 1 << 20]).unwrap();
        let wanted = Wanted { max_size_mb: 1, max_files: 1, ..wanted(&path) };
        let mut output = Output::all(&wanted).remove(0);
        output.take(b"one\n", &counts);
        output.flush(&counts);
        assert!(output.reason().unwrap().contains("is full and cannot be put aside: "));
        assert_eq!(fs::metadata(&path).unwrap().len(), (1 << 20) + 4);
        fs::remove_dir_all(folder.path().join("a.log.1")).unwrap();
        output.overfull.as_mut().unwrap().again = Instant::now();
        output.take(b"two\n", &counts);
        output.flush(&counts);
        assert_eq!((output.reason(), fs::read_to_string(&path).unwrap().as_str()), (None, "two\n"));
    }

    #[test]
    fn pipe_that_nobody_reads_is_not_waited_for_and_goes_on_where_it_was() {
        let counts = Counts::default();
        let (mut reader, writer) = io::pipe().unwrap();
        let target = Target::Stdout(Some(File::from(OwnedFd::from(writer))));
        let mut output =
            Output { target, lines: Vec::new(), count: 0, failed: None, overfull: None };
        let lines: Vec<String> = (0..20_000).map(|number| format!("line {number}\n")).collect();
        lines.iter().for_each(|line| output.take(line.as_bytes(), &counts));
        output.flush(&counts);
        assert!(
            output
                .reason()
                .unwrap()
                .ends_with("standard output cannot be written: nobody reads it")
        );
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        while output.count > 0 {
            patient(&mut output, &counts);
        }
        drop(output);
        assert_eq!(reading.join().unwrap().unwrap(), lines.concat());
        assert_eq!((read(&counts.written[1]), read(&counts.dropped[1])), (20_000, 0));
    }
}
