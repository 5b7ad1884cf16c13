//! Where what happens is logged, how, and how much of it: by the command line first, and by the configuration once there is one.
//!
//! What is logged is of the whole process, as `tracing` has it, and so is this. The variable `EQUIPOISE_LOG` says all that is worth a line
//! by itself; without it the configuration does, and each `-v` lets one more level through. Systemd's journal gets records with fields of
//! their own, where standard error is it.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Mutex, OnceLock, PoisonError};

use equipoise_core::config::Log;
use equipoise_core::config::log::{Level, LogFormat};
use tracing_subscriber::layer::{Layered, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::terminal::is_coloured;

/// What may be logged, in the syntax of `tracing`'s filters.
pub const VARIABLE: &str = "EQUIPOISE_LOG";
/// What systemd says standard error is.
const JOURNAL: &str = "JOURNAL_STREAM";

type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;
type Output = Box<dyn Layer<Filtered> + Send + Sync>;

/// The log of this process.
struct Running {
    filter: reload::Handle<EnvFilter, Registry>,
    output: reload::Handle<Output, Filtered>,
    verbose: usize,
    /// Whether the variable says what is worth a line.
    is_told: bool,
    follows: Mutex<Log>,
}

static RUNNING: OnceLock<Running> = OnceLock::new();

/// Logs from now on, this and what is worse, and one level more for each time that more was asked for.
pub fn begin(level: Level, verbose: usize) {
    let told = EnvFilter::try_from_env(VARIABLE).ok();
    let is_told = told.is_some();
    let filter = told.unwrap_or_else(|| filter(louder(level, verbose)));
    let log = Log { level, format: None };
    let (output, failed) = output(log.format);
    let (filter, filter_handle) = reload::Layer::new(filter);
    let (output, output_handle) = reload::Layer::new(output);
    if tracing_subscriber::registry().with(filter).with(output).try_init().is_err() {
        // Somebody else in this process logs already.
        return;
    }
    let follows = Mutex::new(log);
    let running =
        Running { filter: filter_handle, output: output_handle, verbose, is_told, follows };
    if RUNNING.set(running).is_ok() {
        warn(failed);
    }
}

/// Logs as a configuration says. Where nothing has begun here, the log is somebody else's, and stays so.
pub fn follow(wanted: &Log) {
    let Some(running) = RUNNING.get() else { return };
    let mut follows = running.follows.lock().unwrap_or_else(PoisonError::into_inner);
    if *follows == *wanted {
        return;
    }
    let before = std::mem::replace(&mut *follows, *wanted);
    // As long as the process logs, both are there.
    if before.level != wanted.level && !running.is_told {
        let _: Result<_, _> = running.filter.reload(filter(louder(wanted.level, running.verbose)));
    }
    if before.format != wanted.format {
        let (output, failed) = output(wanted.format);
        let _: Result<_, _> = running.output.reload(output);
        warn(failed);
    }
    tracing::info!(from = before.level.name(), to = wanted.level.name(), "log");
}

fn warn(failed: Option<io::Error>) {
    if let Some(error) = failed {
        tracing::warn!(%error, "the journal does not answer, and the log goes to standard error");
    }
}

fn louder(level: Level, verbose: usize) -> Level {
    let at = Level::ALL.iter().position(|(_, other)| *other == level).unwrap_or_default();
    Level::ALL[(at + verbose).min(Level::ALL.len() - 1)].1
}

fn filter(level: Level) -> EnvFilter {
    let others = level.min(Level::Warn).name();
    let level = level.name();
    // The netlink crates warn of answers that nobody waited for to the end, which is no matter.
    EnvFilter::new(format!(
        "{others},netlink_proto=error,equipoise={level},equipoise_core={level},hickory_resolver=error,hickory_net=error"
    ))
}

/// What writes in a format; with why it is another, where that is so.
fn output(format: Option<LogFormat>) -> (Output, Option<io::Error>) {
    let automatic = if is_journal() { LogFormat::Journald } else { LogFormat::Text };
    match format.unwrap_or(automatic) {
        LogFormat::Text => (text(), None),
        LogFormat::Json => {
            let json = fmt::layer().json().flatten_event(true).with_target(false);
            (json.with_writer(io::stderr).boxed(), None)
        }
        LogFormat::Journald => match tracing_journald::layer() {
            Ok(journal) => {
                let journal = journal.with_field_prefix(Some("EQUIPOISE".to_owned()));
                (journal.with_syslog_identifier("equipoise".to_owned()).boxed(), None)
            }
            Err(error) => (text(), Some(error)),
        },
    }
}

fn text() -> Output {
    let text = fmt::layer().with_target(false).with_ansi(is_coloured(&io::stderr()));
    text.with_writer(io::stderr).boxed()
}

/// Whether standard error is systemd's journal.
fn is_journal() -> bool {
    let Ok(stream) = std::env::var(JOURNAL) else { return false };
    let file = io::stderr().as_fd().try_clone_to_owned().map(std::fs::File::from);
    let Ok(metadata) = file.and_then(|file| file.metadata()) else { return false };
    use std::os::unix::fs::MetadataExt as _;
    is_stream(&stream, metadata.dev(), metadata.ino())
}

/// Whether systemd means this file.
fn is_stream(told: &str, device: u64, inode: u64) -> bool {
    let Some((of_device, of_inode)) = told.split_once(':') else { return false };
    of_device.parse() == Ok(device) && of_inode.parse() == Ok(inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journal_is_known_by_device_and_inode() {
        assert!(is_stream("8:1234", 8, 1234));
        assert!(!is_stream("8:1234", 8, 12345), "a process of the service has its own file here");
        assert!(!is_stream("9:1234", 8, 1234) && !is_stream("8", 8, 1234));
        assert!(!is_stream("", 0, 0));
    }

    #[test]
    fn each_more_is_a_level_and_others_say_only_what_is_bad() {
        assert_eq!(louder(Level::Warn, 1), Level::Info);
        assert_eq!(louder(Level::Info, 9), Level::Trace);
        let shown = |level| filter(level).to_string();
        assert!(
            shown(Level::Debug).contains("equipoise=debug") && shown(Level::Debug).contains("warn")
        );
        assert!(!shown(Level::Error).contains("warn"), "{}", shown(Level::Error));
    }
}
